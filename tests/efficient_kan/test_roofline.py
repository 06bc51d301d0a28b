"""The formulas of the roofline against operations and bytes counted one by one in naive loops."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from efficient_kan.kernels.cuda import roofline

TABLE = Path(__file__).parents[2] / "reports" / "kernels" / "roofline.md"


@dataclass
class Meter:
    """Counts operations, by whether they belong to a matrix product, and the sizes of the distinct numbers touched."""

    matrix: int = 0
    scalar: int = 0
    sizes: dict[tuple[object, ...], int] = field(default_factory=dict)

    def touch(self, size: int, *number: object) -> Number:
        self.sizes[number] = size
        return Number(self)

    def fused(self, *_: Number) -> Number:
        """A step ``total + a * b`` of a matrix product."""
        self.matrix += 2
        return Number(self)


class Number:
    """Only counts what is done to it."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def _count(self, _: Number | int = 0) -> Number:
        self.meter.scalar += 1
        return Number(self.meter)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _count
    __neg__ = exp = _count


def naive(kernel: str, B: int, I: int, O: int, G: int, k: int, size: int) -> Meter:
    """One kernel in loops, all numbers at every place."""
    meter = Meter()
    M, T = G + k + 1, G + 2 * k + 1
    zero = Number(meter)

    def weight(m: int, i: int, o: int) -> Number:
        return meter.touch(size, "weight", m, i, o)

    def grad(b: int, o: int) -> Number:
        return meter.touch(size, "grad of y", b, o)

    def edge(i: int, o: int, local: list[Number]) -> Number:
        total = zero
        for r, value in enumerate(local):
            total = total + value * weight(r, i, o)
        return total

    for i, j in itertools.product(range(I), range(T)):
        meter.touch(4, "knot", i, j)
    for m, i, o in itertools.product(range(M), range(I), range(O)):
        if kernel != "weight_grad":
            weight(m, i, o)  # somewhere in the batch every basis is met
    for b, i in itertools.product(range(B), range(I)):
        x = meter.touch(4, "x", b, i)
        t = [Number(meter) for _ in range(2 * k)]
        level, ratios = [Number(meter)], []
        for p in range(1, k + 1):
            ratios = [level[r] / (t[k + r] - t[k - p + r]) for r in range(p)]
            inner = [(x - t[k - 1 - p + r]) * ratios[r - 1] + (t[k + r] - x) * ratios[r] for r in range(1, p)]
            level = [(t[k] - x) * ratios[0], *inner, (x - t[k - 1]) * ratios[p - 1]]
        share = 1 / (1 + (-x).exp())
        base = x * share
        if kernel.endswith("input_grad"):
            slopes = [-k * ratios[0], *(k * (ratios[r - 1] - ratios[r]) for r in range(1, k)), k * ratios[k - 1]]
            base_slope = share * (1 + x * (1 - share))
            of_x, of_base = zero, zero
        for o in range(O):
            if kernel == "forward":
                meter.touch(size, "y", b, o)
                for m in range(M):
                    meter.fused(base, weight(m, i, o))
            elif kernel == "input_grad":
                for m in range(M):
                    meter.fused(grad(b, o), weight(m, i, o))
            elif kernel == "weight_grad":
                for m in range(M):
                    meter.fused(grad(b, o), meter.touch(4, "grad of weight", m, i, o))
            elif kernel == "edge_l1":
                norm = meter.touch(4, "norm", i, o)
                norm = norm + (edge(i, o, level) + base * weight(M - 1, i, o))
            else:
                scale = meter.touch(4, "scale", i, o)
                value = edge(i, o, level) + base * weight(M - 1, i, o)
                if kernel == "edge_l1_input_grad":
                    pulled = value * scale
                    of_base = of_base + pulled * weight(M - 1, i, o)
                    of_x = of_x + pulled * edge(i, o, slopes)
                for m in range(M if kernel == "edge_l1_weight_grad" else 0):
                    meter.fused(value, meter.touch(4, "grad of weight", m, i, o))
        if kernel == "input_grad":
            for _ in range(M - 1):
                of_x = of_x + base_slope * zero
        if kernel.endswith("input_grad"):
            meter.touch(4, "grad of x", b, i)
            of_x = of_x + of_base * base_slope
    if kernel == "edge_l1_weight_grad":
        for _ in range(M * I * O):
            zero * zero
    return meter


@pytest.mark.parametrize("kernel", roofline.KERNELS)
@pytest.mark.parametrize("shape", [(3, 2, 4, 5, 3), (2, 3, 1, 1, 1), (1, 1, 2, 4, 5)], ids=str)
def test_counts(kernel: str, shape: tuple[int, int, int, int, int]) -> None:
    for precision, size in (("float32", 4), ("bfloat16", 2)):
        found = naive(kernel, *shape, size)
        counted = roofline.Work(sum(found.sizes.values()), found.matrix, found.scalar)
        assert roofline.work(kernel, *shape, precision) == counted


def test_the_bound_is_the_slowest_part() -> None:
    chip = roofline.Chip("unit", bandwidth=1.0, float32=2.0, tf32=4.0, half=8.0, source="none")
    need = roofline.Work(moved=10**12, matrix=6 * 10**12, scalar=10**12)
    assert need.seconds(chip, "float32") == pytest.approx(3.5)
    assert need.seconds(chip, "tf32") == pytest.approx(1.5)
    assert need.seconds(chip, "bfloat16") == pytest.approx(1.0)


def test_the_committed_table_is_what_the_formulas_give() -> None:
    assert TABLE.read_text(encoding="utf-8") == roofline.table()
