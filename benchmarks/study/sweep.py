"""One case of the study: all strengths and seeds of one penalty on one task, trained, pruned to every edge count, refitted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks import tasks
from benchmarks.schema.cases import Case, Sweep
from benchmarks.schema.rows import Outcome, SparsityResult, SparsityRun
from benchmarks.study import original, training
from benchmarks.study.agreement import rank_correlation
from benchmarks.study.penalties import NORMS, PAIRS
from benchmarks.study.stacked import Moments, Stack, error, initial
from benchmarks.tasks import Part, Task
from reference.arm import Unsupported

# Values of hidden nodes at samples that a chunk of refits holds: beyond, its tensors leave the caches.
_CHUNK = 100_000


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
    task = tasks.get_task(sweep.task)
    if (point.layers, point.batch) != (task.layers, task.sizes.train) or point.spline_order != 3 or point.device != "cpu":
        raise ValueError(f"point: expected cubic {task.layers} on {task.sizes.train} samples on the CPU, got {point}")
    try:
        data = _Data(task, sweep.seeds, getattr(torch, point.dtype))
    except tasks.Missing as fact:
        raise Unsupported(str(fact)) from None
    start = time.perf_counter()
    stack, agreement = _trained(case, sweep, data)
    middle = time.perf_counter()
    measured = _Yardstick(task, sweep, data, stack, agreement)
    runs = tuple(measured.runs())
    return SparsityResult(
        checkpoints=_checkpoints(sweep.steps)[-len(agreement.found) :],
        runs=runs,
        train_seconds=middle - start,
        refit_seconds=time.perf_counter() - middle,
    )


def _checkpoints(steps: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys((0, steps // 20, steps // 5, steps // 2, steps)))


class _Data:
    """The samples of all seeds: first-layer features and targets of the three parts."""

    def __init__(self, task: Task, seeds: Sequence[int], dtype: torch.dtype) -> None:
        splits = [task.draw(seed) for seed in seeds]
        self.dtype = dtype
        self.train, self.validation, self.test = (
            _stacked([getattr(split, name) for split in splits], dtype) for name in ("train", "validation", "test")
        )
        self.scale = torch.ones(len(seeds), dtype=torch.float64)
        if task.classes:
            counts = torch.stack([torch.bincount(y, minlength=task.classes) for y in self.train[1]]).double()
            shares = counts / counts.sum(1, keepdim=True)
            self.scale = -torch.special.xlogy(shares, shares).sum(1)

    def error(self, stack: Stack, features: Tensor, targets: Tensor) -> Tensor:
        """The study's error of every network, `(S, N)`: 1 is what a constant gives. See RULE.md."""
        with torch.no_grad():
            found = error(stack.forward(features), targets).double()
        return found.sqrt() if targets.is_floating_point() else found / self.scale.unsqueeze(1)


def _stacked(parts: Sequence[Part], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = torch.stack([torch.from_numpy(part.x.T.copy()) for part in parts]).to(dtype)
    y = torch.stack([torch.from_numpy(part.y.T.copy()) for part in parts])
    return x, y.to(dtype) if y.is_floating_point() else y


@dataclass
class _Agreement:
    """Rank correlations of edge norms at the checkpoints: a list of `(S, N, pairs)`."""

    found: list[np.ndarray]

    def look(self, stack: Stack, features: Tensor, moments: Moments) -> None:
        norms = stack.all_norms(features, moments)
        self.found.append(np.stack([rank_correlation(norms[a], norms[b]) for a, b in PAIRS], axis=-1))


def _trained(case: Case, sweep: Sweep, data: _Data) -> tuple[Stack, _Agreement]:
    kans = list(initial(case.point.layers, case.point.grid_size, sweep.seeds, data.dtype))
    x, targets = data.train
    agreement = _Agreement([])
    if case.arm != "efficient_kan":
        stack = original.trained(case, kans, x, targets)
        features = stack.features(x)
        agreement.look(stack, features, Moments(x, features))
        return stack, agreement
    stack = Stack.of([[kan] * len(sweep.strengths) for kan in kans])
    features = stack.features(x)
    moments = Moments(x, features)
    strengths = torch.tensor(sweep.strengths, dtype=data.dtype).expand(len(sweep.seeds), -1)
    looks = {step: lambda: agreement.look(stack, features, moments) for step in _checkpoints(sweep.steps)}
    training.train(
        stack, features, moments, targets, steps=sweep.steps, penalty=sweep.penalty, strengths=strengths, checkpoints=looks
    )
    return stack, agreement


class _Yardstick:
    """What is measured of trained networks, for all penalties alike."""

    def __init__(self, task: Task, sweep: Sweep, data: _Data, stack: Stack, agreement: _Agreement) -> None:
        self.task, self.sweep, self.data, self.stack, self.agreement = task, sweep, data, stack, agreement
        self.parts = {
            name: (stack.features(x), y) for name in ("train", "validation", "test") for x, y in (getattr(data, name),)
        }
        self.moments = Moments(data.train[0], self.parts["train"][0])
        self.norms = stack.all_norms(self.parts["train"][0], self.moments)
        self.scores = torch.cat([score.flatten(2) for score in self.norms["importance"]], dim=2)  # shape: (S, N, E)
        # Networks that diverged sort too: their NaN are the least important.
        order = self.scores.nan_to_num(-1.0).argsort(dim=2, descending=True, stable=True)
        self.rank = order.argsort(dim=2)
        self.trained = {name: data.error(stack, *part) for name, part in self.parts.items()}

    def runs(self) -> Iterator[SparsityRun]:
        """One record a network, seeds first."""
        before, validation, test = self._curves()
        for s, seed in enumerate(self.sweep.seeds):
            for n, strength in enumerate(self.sweep.strengths):
                errors = {f"{name}_error": _number(found[s, n]) for name, found in self.trained.items()}
                failed = any(value is None for value in errors.values())
                scores = [score[s, n] for score in self.norms["importance"]]
                yield SparsityRun(
                    seed=seed,
                    strength=strength,
                    diverged=failed,
                    **errors,
                    before=tuple(map(_number, before[s, n])),
                    validation=tuple(map(_number, validation[s, n])),
                    test=tuple(map(_number, test[s, n])),
                    norms={name: _number(sum(one[s, n].sum() for one in self.norms[name])) for name in NORMS},
                    dead_edges=None if failed else int((self.scores[s, n] <= torch.finfo(self.data.dtype).eps).sum()),
                    entropy=None if failed else _number(_entropy(self.scores[s, n])),
                    relevance_auc=None if failed else self._auc(scores[0].sum(0)),
                    exact_structure=None if failed else self._exact(s, n),
                    agreement=tuple(tuple(_number(one, 3) for one in look[s, n]) for look in self.agreement.found),
                )

    def _curves(self) -> tuple[Tensor, Tensor, Tensor]:
        """Test error before the refit, and validation and test error after it: `(S, N, counts)` each."""
        counts = torch.tensor(self.sweep.edge_counts)
        s, n = self.stack.counts
        which, levels = (grid.flatten() for grid in torch.meshgrid(torch.arange(n), counts, indexing="ij"))
        hidden = sum(self.task.layers[1:-1]) or 1
        size = max(1, _CHUNK // (s * hidden * self.task.sizes.train))
        parts: list[list[Tensor]] = [[], [], []]
        for indices, kept in zip(which.split(size), levels.split(size), strict=True):
            chunk = self.stack.select(indices)
            self._prune(chunk, self.rank[:, indices] < kept[None, :, None])
            parts[0].append(self.data.error(chunk, *self.parts["test"]))
            training.train(chunk, self.parts["train"][0], self.moments, self.parts["train"][1], steps=self.sweep.refit_steps)
            parts[1].append(self.data.error(chunk, *self.parts["validation"]))
            parts[2].append(self.data.error(chunk, *self.parts["test"]))
        before, validation, test = (torch.cat(part, dim=1).view(s, n, len(counts)) for part in parts)
        return before, validation, test

    @staticmethod
    def _prune(stack: Stack, keep: Tensor) -> None:
        sizes = [layer.edge_mask[0, 0].numel() for layer in stack.layers]
        for layer, mask in zip(stack.layers, keep.split(sizes, dim=2), strict=True):
            layer.edge_mask.mul_(mask.view(layer.edge_mask.shape))

    def _exact(self, s: int, n: int) -> bool | None:
        """Whether pruning to the number of edges of the true structure leaves exactly it."""
        truth = self.task.truth
        if truth is None:
            return None
        keep = self.rank[s, n] < tasks.edges_of(truth)
        shapes = [layer.edge_mask.shape[2:] for layer in self.stack.layers]
        masks = [part.view(shape).numpy() for part, shape in zip(keep.split([a.numel() for a in shapes]), shapes, strict=True)]
        return tasks.structure_of(masks) == tasks.canonical(truth)

    def _auc(self, scores: Tensor) -> float | None:
        """Probability that a relevant input has the higher score of a relevant and an irrelevant one."""
        irrelevant = self.task.irrelevant_inputs
        if not irrelevant:
            return None
        relevant = [i for i in range(self.task.inputs) if i not in irrelevant]
        high, low = scores[relevant].unsqueeze(1), scores[list(irrelevant)].unsqueeze(0)
        return _number(((high > low).double() + (high == low).double() / 2).mean())


def _entropy(scores: Tensor) -> Tensor:
    shares = scores.double() / scores.double().sum().clamp(min=torch.finfo(torch.float64).tiny)
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum()
    return entropy


def _number(value: Tensor | float, digits: int = 4) -> float | None:
    """`value` to some significant digits, more of which would only fill the file of rows; None if it is not finite."""
    number = float(value)
    return float(f"{number:.{digits}g}") if np.isfinite(number) else None
