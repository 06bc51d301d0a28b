"""One case of the study: all strengths and seeds of one penalty on one task, trained, pruned to every edge count, refitted."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

import torch

from benchmarks import tasks
from benchmarks.schema.cases import Case, Sweep
from benchmarks.schema.rows import Outcome, SparsityResult
from benchmarks.study import lbfgs, original, training
from benchmarks.study.samples import Data
from benchmarks.study.stacked import Stack, initial
from benchmarks.study.training import Samples
from benchmarks.study.yardstick import Agreement, Yardstick
from benchmarks.tasks import Task
from reference.arm import Unsupported


def measure(case: Case) -> Outcome:
    """Return what `run` gives."""
    return Outcome(status="ok", sparsity=run(case))


def run(case: Case) -> SparsityResult:
    """Train, prune and refit as `case.sweep` says.

    Raises `Unsupported` if the task or the arm needs what is not there, ValueError if the case does not fit the study.
    """
    sweep, point = case.sweep, case.point
    if sweep is None:
        raise ValueError("sweep: expected what to train, got none")
    task = _task(case, sweep)
    try:
        data = Data.drawn(task, sweep.seeds, getattr(torch, point.dtype), point.device)
    except tasks.Missing as fact:
        raise Unsupported(str(fact)) from None
    with _deterministic(point.device):
        start = time.perf_counter()
        stack, data, agreement = _trained(case, sweep, task, data)
        middle = time.perf_counter()
        pairs = [(seed, strength) for seed in sweep.seeds for strength in sweep.strengths]
        networks = stack.counts[1]
        labels = [pairs[s * networks : (s + 1) * networks] for s in range(stack.counts[0])]
        runs = tuple(Yardstick(task, sweep, data, stack, agreement, labels).runs())
    return SparsityResult(
        checkpoints=_checkpoints(sweep.steps)[-len(agreement.found) :],
        runs=runs,
        train_seconds=middle - start,
        refit_seconds=time.perf_counter() - middle,
    )


def _task(case: Case, sweep: Sweep) -> Task:
    """The task with as many training samples as the case says. Raises ValueError if the case does not fit it."""
    task, point = tasks.get_task(sweep.task), case.point
    if (point.layers[0], point.layers[-1]) != (task.inputs, task.outputs):
        raise ValueError(f"point: expected {task.inputs} inputs and {task.outputs} outputs of {task.name}, got {point.layers}")
    if sweep.edge_counts[-1] != (edges := sum(i * o for i, o in zip(point.layers, point.layers[1:], strict=False))):
        raise ValueError(f"edge_counts: expected all {edges} edges last, got {sweep.edge_counts[-1]}")
    if sweep.minibatch > point.batch:
        raise ValueError(f"minibatch: expected at most the {point.batch} samples, got {sweep.minibatch}")
    return task if point.batch == task.sizes.train else task.with_training(point.batch)


def _checkpoints(steps: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys((0, steps // 20, steps // 5, steps // 2, steps)))


def _deterministic(device: str) -> AbstractContextManager[None]:
    """On a GPU: kernels that give the same bits each time where torch has them. On a CPU all are."""
    return _DeterministicKernels() if torch.device(device).type == "cuda" else nullcontext()


class _DeterministicKernels(AbstractContextManager[None]):
    """Has torch choose deterministic kernels where it can, and multiply float32 numbers in float32."""

    def __enter__(self) -> None:
        self._before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        self._matmul = torch.get_float32_matmul_precision()
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_float32_matmul_precision("highest")

    def __exit__(self, *_: object) -> None:
        torch.use_deterministic_algorithms(self._before[0], warn_only=self._before[1])
        torch.set_float32_matmul_precision(self._matmul)


def _trained(case: Case, sweep: Sweep, task: Task, data: Data) -> tuple[Stack, Data, Agreement]:
    """The trained networks and their data; L-BFGS has one row for each seed and strength, whose knots are its own."""
    point, agreement = case.point, Agreement()
    first = initial(
        point.layers, point.grid_size, sweep.seeds, getattr(torch, point.dtype), order=point.spline_order, task=task.seed
    )
    kans = [kan.to(point.device) for kan in first]
    if case.arm != "efficient_kan" or sweep.optimiser == "lbfgs":
        if case.arm != "efficient_kan":
            stack = original.trained(case, kans, *data.train)
        else:
            stack = lbfgs.trained(kans, *data.train, sweep.penalty, sweep.strengths, sweep.steps)
        data = data.repeated(stack.counts[0] // len(kans))
        samples = Samples.of(stack, *data.train)
        agreement.look(stack, samples.features, samples.moments)
        return stack, data, agreement
    stack = Stack.of([[kan] * len(sweep.strengths) for kan in kans])
    samples = Samples.of(stack, *data.train)
    strengths = torch.tensor(sweep.strengths, dtype=samples.x.dtype, device=samples.x.device).expand(len(sweep.seeds), -1)
    looks = {step: lambda: agreement.look(stack, samples.features, samples.moments) for step in _checkpoints(sweep.steps)}
    training.train(
        stack, samples, steps=sweep.steps, penalty=sweep.penalty, strengths=strengths, start=sweep.learning_rate,
        minibatch=sweep.minibatch, checkpoints=looks,
    )  # fmt: skip
    return stack, data, agreement
