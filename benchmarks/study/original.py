"""pykan 0.2.8 itself, trained with its own penalty from the study's initial weights: the cross-check with the original."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.schema.cases import Case
from benchmarks.study import training
from benchmarks.study.penalties import CHECKED
from benchmarks.study.stacked import Stack
from efficient_kan import KAN
from reference.arm import Unsupported, get_arm


def trained(case: Case, kans: Sequence[KAN], x: Tensor, targets: Tensor) -> Stack:
    """Train the arm's own network, forward and penalty, one run after another, and return the weights as a stack.

    `kans` are the initial networks of the seeds, `x` `(S, I, B)` and `targets` `(S, O, B)` their samples. Raises `Unsupported`
    unless the arm is one of pykan 0.2.8 and the penalty its default.
    """
    sweep, arm = case.sweep, get_arm(case.arm)
    assert sweep is not None
    plain = sweep.optimiser == "adam" and not sweep.minibatch
    if "kan" not in arm.requires or sweep.penalty != CHECKED or not targets.is_floating_point() or not plain:
        raise Unsupported(
            f"{arm.name} is trained for the cross-check alone: pykan 0.2.8 with {CHECKED} on a regression, by Adam on all"
            " samples"
        )
    networks = []
    for s, kan in enumerate(kans):
        row = []
        for strength in sweep.strengths:
            module: Any = arm.build(copy.deepcopy(kan))
            parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
            optimiser = torch.optim.Adam(parameters, lr=sweep.learning_rate)
            inputs, expected = x[s].T.contiguous(), targets[s].T.contiguous()
            for step in range(sweep.steps):
                for group in optimiser.param_groups:
                    group["lr"] = training.learning_rate(step, sweep.steps, sweep.learning_rate)
                optimiser.zero_grad(set_to_none=True)
                outputs, penalty = arm.penalised_forward(module, inputs, "sample_std")
                (nn.functional.mse_loss(outputs, expected) + strength * penalty).backward()
                optimiser.step()
            row.append(KAN.from_pykan(module))
        networks.append(row)
    return Stack.of(networks)
