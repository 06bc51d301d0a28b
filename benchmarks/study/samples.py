"""The samples of all seeds of a case, on its device, and the error of networks on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from benchmarks.study.stacked import Stack, error
from benchmarks.tasks import Part, Task

Pair = tuple[Tensor, Tensor]  # x (S, I, B) and targets (S, 1, B), or (S, B) whole numbers


@dataclass(frozen=True)
class Data:
    """Three parts of the samples, one row for each seed. `scale` `(S,)` is the entropy of the classes, or 1."""

    train: Pair
    validation: Pair
    test: Pair
    scale: Tensor

    @classmethod
    def drawn(cls, task: Task, seeds: Sequence[int], dtype: torch.dtype, device: str = "cpu") -> Self:
        """Draw the samples of `seeds`. Raises `benchmarks.tasks.Missing` if the task needs what is not installed."""
        splits = [task.draw(seed) for seed in seeds]
        parts = {
            name: _stacked([getattr(split, name) for split in splits], dtype, device)
            for name in ("train", "validation", "test")
        }
        scale = torch.ones(len(seeds), dtype=torch.float64)
        if task.classes:
            counts = torch.stack([torch.bincount(y, minlength=task.classes) for y in parts["train"][1].cpu()]).double()
            shares = counts / counts.sum(1, keepdim=True)
            scale = -torch.special.xlogy(shares, shares).sum(1)
        return cls(**parts, scale=scale.to(device))

    def repeated(self, times: int) -> Data:
        """Every seed's samples `times` in a row."""
        parts = {
            name: tuple(tensor.repeat_interleave(times, 0) for tensor in getattr(self, name))
            for name in ("train", "validation", "test")
        }
        return Data(**parts, scale=self.scale.repeat_interleave(times))

    def error(self, stack: Stack, features: Tensor, targets: Tensor) -> Tensor:
        """The study's error of every network, `(S, N)`: 1 is what a constant gives. See RULE.md."""
        with torch.no_grad():
            found = error(stack.forward(features), targets).double()
        return found.sqrt() if targets.is_floating_point() else found / self.scale.unsqueeze(1)


def _stacked(parts: Sequence[Part], dtype: torch.dtype, device: str) -> Pair:
    x = torch.stack([torch.from_numpy(part.x.T.copy()) for part in parts]).to(device, dtype)
    y = torch.stack([torch.from_numpy(part.y.T.copy()) for part in parts]).to(device)
    return x, y.to(dtype) if y.is_floating_point() else y
