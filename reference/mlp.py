"""The arms `mlp[width]` and `mlp[params]`: what a plain network of the same widths, or of the same size, costs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn


def parameter_count(widths: Sequence[int]) -> int:
    """Weights and biases of a fully connected network with these widths, input first."""
    return sum((i + 1) * o for i, o in pairwise(widths))


def matching_widths(inputs: int, outputs: int, hidden_layers: int, target: int) -> list[int]:
    """Return the widths, input first, of the MLP that has `target` parameters to within 1 %.

    Hidden widths are equal except the last, which takes up the remainder. Of all such networks the one with the most equal
    widths is taken; where whole numbers allow none within 1 %, the closest.

    Raises ValueError if `hidden_layers` is below 1.
    """
    if hidden_layers < 1:
        raise ValueError(f"hidden_layers: expected at least 1, got {hidden_layers}")
    candidates: list[tuple[float, int, list[int]]] = []
    width = 1
    while True:
        head = [inputs, *[width] * (hidden_layers - 1)]
        # The count is linear in the last hidden width: fixed + last * slope.
        fixed, slope = parameter_count(head) + outputs, head[-1] + 1 + outputs
        last = max(1, round((target - fixed) / slope))
        widths = [*head, last, outputs]
        error = abs(parameter_count(widths) - target) / target
        candidates.append((max(error, 0.01), abs(last - width), widths))
        if hidden_layers == 1 or fixed > target:
            return min(candidates)[2]
        width += 1


def _mlp(widths: Sequence[int], source: Any) -> nn.Sequential:
    like = source.layers[0].base_weight
    generator = torch.Generator("cpu" if like.is_meta else like.device).manual_seed(0)
    modules: list[nn.Module] = []
    for i, o in pairwise(widths):
        linear = nn.Linear(i, o, device="meta")
        for name, parameter in list(linear.named_parameters()):  # torch's own default scale, from a generator of our own
            drawn = torch.empty(parameter.shape, device=like.device, dtype=like.dtype)
            linear.register_parameter(name, nn.Parameter(drawn.uniform_(-(i**-0.5), i**-0.5, generator=generator)))
        modules += [linear, nn.SiLU()]
    return nn.Sequential(*modules[:-1])


def _widths(source: Any) -> list[int]:
    return [source.layers[0].in_features, *(layer.out_features for layer in source.layers)]


def build_width(source: Any) -> nn.Sequential:
    """Return an MLP with the widths of `source`."""
    return _mlp(_widths(source), source)


def build_params(source: Any) -> nn.Sequential:
    """Return an MLP of equal depth (at least one hidden layer) whose parameter count is closest to that of `source`."""
    widths = _widths(source)
    target = sum(p.numel() for p in source.parameters())
    return _mlp(matching_widths(widths[0], widths[-1], max(1, len(widths) - 2), target), source)
