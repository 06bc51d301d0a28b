"""What is measured of trained networks, for all penalties alike: they are pruned to every edge count and refitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import tasks
from benchmarks.schema.cases import Sweep
from benchmarks.schema.rows import SparsityRun
from benchmarks.study import formulas, rule, training
from benchmarks.study.agreement import rank_correlation
from benchmarks.study.curves import area, start_of, true_size
from benchmarks.study.moments import Moments
from benchmarks.study.penalties import NORMS, PAIRS
from benchmarks.study.samples import Data
from benchmarks.study.stacked import Stack
from benchmarks.study.training import Samples
from benchmarks.tasks import Task

# Values of hidden nodes at samples that a chunk of refits holds: beyond, its tensors leave the caches of a CPU.
_CHUNK = {"cpu": 100_000, "cuda": 20_000_000}


@dataclass
class Agreement:
    """Rank correlations of edge norms at the checkpoints: a list of `(S, N, pairs)`."""

    found: list[np.ndarray] = field(default_factory=list)

    def look(self, stack: Stack, features: Tensor, moments: Moments) -> None:
        """Add those of this moment."""
        norms = stack.all_norms(features, moments)
        self.found.append(np.stack([rank_correlation(norms[a], norms[b]) for a, b in PAIRS], axis=-1))


class Yardstick:
    """Measures the networks of `stack`; `labels` are the seed and strength of each, `labels[s][n]`."""

    def __init__(
        self,
        task: Task,
        sweep: Sweep,
        data: Data,
        stack: Stack,
        agreement: Agreement,
        labels: Sequence[Sequence[tuple[int, float]]],
    ) -> None:
        self.task, self.sweep, self.data, self.stack = task, sweep, data, stack
        self.agreement, self.labels = agreement, labels
        self.samples = Samples.of(stack, *data.train)
        self.parts = {name: (stack.features(x), y) for name in ("validation", "test") for x, y in (getattr(data, name),)}
        self.parts["train"] = (self.samples.features, self.samples.targets)
        self.norms = stack.all_norms(self.samples.features, self.samples.moments)
        self.scores = torch.cat([score.flatten(2) for score in self.norms["importance"]], dim=2)  # shape: (S, N, E)
        # Networks that diverged sort too: their NaN are the least important.
        order = self.scores.nan_to_num(-1.0).argsort(dim=2, descending=True, stable=True)
        self.rank = order.argsort(dim=2)
        self.trained = {name: data.error(stack, *part) for name, part in self.parts.items()}
        self.size = true_size(task)
        self.smallest: list[Stack] = []  # pruned to the true size and refitted, in the order of the networks

    def runs(self) -> Iterator[SparsityRun]:
        """One record a network, seeds first."""
        curves = self._curves()
        exact = self._formulas(curves["validation"])
        for s, n in np.ndindex(*self.stack.counts):
            seed, strength = self.labels[s][n]
            errors: dict[str, Any] = {f"{name}_error": number(found[s, n]) for name, found in self.trained.items()}
            failed = any(value is None for value in errors.values())
            scores = [score[s, n] for score in self.norms["importance"]]
            structure = None if failed else self._exact(s, n)
            yield SparsityRun(
                seed=seed,
                strength=strength,
                diverged=failed,
                **errors,
                before=tuple(map(number, curves["before"][s, n])),
                validation=tuple(map(number, curves["validation"][s, n])),
                test=tuple(map(number, curves["test"][s, n])),
                **self._refits(curves, s, n),
                norms={name: number(sum(one[s, n].sum() for one in self.norms[name])) for name in NORMS},
                dead_edges=None if failed else int((self.scores[s, n] <= torch.finfo(self.scores.dtype).eps).sum()),
                entropy=None if failed else number(_entropy(self.scores[s, n])),
                relevance_auc=None if failed else self._auc(scores[0].sum(0)),
                exact_structure=structure,
                dead_inputs=None if failed else self._dead_inputs(s, n),
                formula=exact.get((s, n), {}),
                agreement=tuple(tuple(number(one, 3) for one in look[s, n]) for look in self.agreement.found),
            )

    def _refits(self, curves: dict[str, Tensor], s: int, n: int) -> dict[str, Any]:
        """How the refit went, where it could have more rounds than one."""
        if self.sweep.refit_rounds == 1:
            return {}
        return {
            "short_validation": tuple(map(number, curves["short_validation"][s, n])),
            "short_test": tuple(map(number, curves["short_test"][s, n])),
            "rounds": tuple(map(int, curves["rounds"][s, n])),
            "converged": tuple(map(int, curves["converged"][s, n])),
        }

    def _curves(self) -> dict[str, Tensor]:
        """Test error before the refit; validation and test error after its first round and after all: `(S, N, counts)` each."""
        counts = torch.tensor(self.sweep.edge_counts)
        s, n = self.stack.counts
        which, levels = (grid.flatten() for grid in torch.meshgrid(torch.arange(n), counts, indexing="ij"))
        hidden = sum(layer.edge_mask.shape[2] for layer in self.stack.layers[:-1]) or 1
        place = self.stack.layers[0].edge_mask.device
        size = max(1, _CHUNK.get(place.type, _CHUNK["cpu"]) // (s * hidden * self.samples.x.shape[-1]))
        parts: dict[str, list[Tensor]] = {}
        for indices, kept in zip(which.to(place).split(size), levels.to(place).split(size), strict=True):
            chunk = self.stack.select(indices)
            self._prune(chunk, self.rank[:, indices] < kept[None, :, None])
            found = {"before": self._error(chunk, "test")}
            sweep = self.sweep
            refit = training.refit(
                chunk, self.samples, steps=sweep.refit_steps, rounds=sweep.refit_rounds, tolerance=sweep.refit_tolerance,
                judge=lambda stack: self._error(stack, "validation"),
            )  # fmt: skip
            for name in ("validation", "test"):
                found[f"short_{name}"] = self._error(refit.short, name)
                found[name] = self._error(refit.full, name)
            found |= {"rounds": refit.rounds, "converged": refit.converged}
            if self.sweep.formulas and self.size is not None:
                smallest = (kept == self.size).nonzero().flatten()
                self.smallest += [refit.full.select(smallest)] if smallest.numel() else []
            for name, tensor in found.items():
                parts.setdefault(name, []).append(tensor)
        return {name: torch.cat(part, dim=1).view(s, n, len(counts)) for name, part in parts.items()}

    def _error(self, stack: Stack, part: str) -> Tensor:
        return self.data.error(stack, *self.parts[part])

    @staticmethod
    def _prune(stack: Stack, keep: Tensor) -> None:
        sizes = [layer.edge_mask[0, 0].numel() for layer in stack.layers]
        for layer, mask in zip(stack.layers, keep.split(sizes, dim=2), strict=True):
            layer.edge_mask.mul_(mask.view(layer.edge_mask.shape))

    def _formulas(self, validation: Tensor) -> dict[tuple[int, int], dict[str, bool]]:
        """Which fitters find the formula, of the networks at the strength with the case's smallest mean validation area."""
        if not self.smallest or not self.task.expressions:
            return {}
        numbers, start = rule.load(), start_of(self.task, rule.load())
        sums: dict[float, list[float]] = {}
        for s, n in np.ndindex(*self.stack.counts):
            curve = [number(value) for value in validation[s, n]]
            sums.setdefault(self.labels[s][n][1], []).append(area(self.sweep.edge_counts, curve, numbers, start))
        chosen = min(sums, key=lambda strength: (np.mean(sums[strength]), strength))
        stack, found = Stack.joined(self.smallest), {}
        for s, n in np.ndindex(*self.stack.counts):
            if self.labels[s][n][1] == chosen:
                alone = stack.select(torch.tensor([n], device=validation.device))
                # Of another structure than the true one no formula is right.
                found[s, n] = (
                    formulas.found(self.task, alone, self.samples.features, self.samples.x, s)
                    if self._exact(s, n)
                    else dict.fromkeys(formulas.fitters(), False)
                )
        return found

    def _kept(self, s: int, n: int) -> list[np.ndarray] | None:
        """The edge masks after pruning to the true size; None if that is not known."""
        if self.size is None:
            return None
        keep = (self.rank[s, n] < self.size).cpu()
        shapes = [layer.edge_mask.shape[2:] for layer in self.stack.layers]
        return [part.view(shape).numpy() for part, shape in zip(keep.split([a.numel() for a in shapes]), shapes, strict=True)]

    def _exact(self, s: int, n: int) -> bool | None:
        """Whether pruning to the number of edges of the true structure leaves exactly it."""
        masks, truth = self._kept(s, n), self.task.truth
        return None if masks is None or truth is None else tasks.structure_of(masks) == tasks.canonical(truth)

    def _dead_inputs(self, s: int, n: int) -> float | None:
        """The share of the irrelevant inputs that no edge leads from any more after pruning to the true size."""
        masks, irrelevant = self._kept(s, n), list(self.task.irrelevant_inputs)
        if masks is None or not irrelevant:
            return None
        fed = np.atleast_1d(masks[0].any(0))
        return number(1 - fed[irrelevant].mean())

    def _auc(self, scores: Tensor) -> float | None:
        """Probability that a relevant input has the higher score of a relevant and an irrelevant one."""
        irrelevant = self.task.irrelevant_inputs
        if not irrelevant:
            return None
        relevant = [i for i in range(self.task.inputs) if i not in irrelevant]
        high, low = scores[relevant].unsqueeze(1), scores[list(irrelevant)].unsqueeze(0)
        return number(((high > low).double() + (high == low).double() / 2).mean())


def _entropy(scores: Tensor) -> Tensor:
    shares = scores.double() / scores.double().sum().clamp(min=torch.finfo(torch.float64).tiny)
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum()
    return entropy


def number(value: Tensor | float, digits: int = 4) -> float | None:
    """`value` to some significant digits, more of which would only fill the file of rows; None if it is not finite."""
    plain = float(value)
    return float(f"{plain:.{digits}g}") if np.isfinite(plain) else None
