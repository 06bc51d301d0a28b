"""Sizes, clock and seeded layers that the benchmarks share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.measure import gate, workload
from benchmarks.schema.cases import Penalty, Point
from efficient_kan import KAN
from reference.arm import Arm, get_arm

SEED = 0


class Size(NamedTuple):
    """One layer: `B` samples, `I` inputs, `O` outputs, `G` intervals, order `k`."""

    B: int
    I: int
    O: int
    G: int
    k: int

    def __str__(self) -> str:
        return f"B{self.B}-I{self.I}-O{self.O}-G{self.G}-k{self.k}"

    def point(self, device: str) -> Point:
        """Return the point of this layer in float32."""
        shape = {"batch": self.B, "layers": (self.I, self.O), "grid_size": self.G, "spline_order": self.k}
        return Point.model_validate(shape | {"device": device})


SIZES = (Size(64, 8, 8, 5, 3), Size(1024, 32, 32, 5, 3), Size(1024, 32, 32, 50, 3), Size(4096, 64, 16, 5, 2))


def clock_of(device: str) -> Callable[[], float]:
    """Return a clock in seconds that waits first until the device has done all that was asked of it."""
    if device == "cpu":
        return time.perf_counter

    def synchronised_perf_counter() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised_perf_counter


@dataclass(frozen=True)
class Layer:
    """The layer of `arm`, weights, inputs (B, I) and cotangent (B, O) equal to those of every other arm."""

    arm: Arm
    module: nn.Module
    source: KAN
    data: workload.Data

    def tensors(self) -> dict[str, int]:
        """Bytes of inputs, outputs and parameters, which no implementation can do without."""
        return {
            "input_bytes": bytes_of([self.data.x]),
            "output_bytes": bytes_of([self.data.target]),
            "parameter_bytes": bytes_of(self.source.parameters()),
        }


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Sum of the elements' bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def build(arm: str, size: Size, device: str) -> Layer:
    """Return the layer of the arm called `arm`. Raises ModuleNotFoundError if it needs what is not installed."""
    chosen, point = get_arm(arm), size.point(device)
    chosen.load()
    source = workload.network(point, SEED)
    return Layer(chosen, chosen.build(source), source, workload.data(point, SEED))


@cache
def failure(arm: str, size: Size, device: str, penalty: Penalty) -> str | None:
    """Return why the arm does not pass the equivalence gate, None if it does: no time is taken on a red gate."""
    layer = build(arm, size, device)
    if not layer.arm.exact:
        return None
    verdict = gate.check(layer.arm, layer.module, layer.source, layer.data, penalty)
    if verdict.passed:
        return None
    worst = verdict.worst
    return f"{arm}: {worst.tensor} is off by {worst.error}, limit {worst.limit:.3g} ({verdict.rule})"
