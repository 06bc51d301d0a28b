"""Shares of peak of the layer's product and its gradients, from the instructions of their loops.

The problem has many samples, ``inputs`` inputs, ``outputs`` outputs and ``features`` features per input. Only products that
the problem asks for count as work: what a tile has more of is lost, and so is what is outside of the products.
"""

from __future__ import annotations

from typing import NamedTuple

from efficient_kan.kernels.cuda.sass import Loop, share
from efficient_kan.kernels.cuda.tiles import Tiles

KERNELS = ("forward", "input_grad", "weight_grad")
LOCAL = ("local_forward", "local_input_grad", "local_weight_grad")
_SAMPLES = 128  # of a span, in the sorted samples of local_weight_grad


class Problem(NamedTuple):
    """Sizes of a layer."""

    inputs: int
    outputs: int
    features: int


def shares(
    kernel: str, code: Loop, tiles: Tiles, problem: Problem, kind: str, peak: float
) -> tuple[float | None, float | None]:
    """The shares on uniform and on arbitrary knots; ``None`` where a kernel has no way of its own for uniform ones.

    Raises:
        ValueError: if the code has not the loops that the kernel's source has.
    """
    find = {"forward": _forward, "input_grad": _input_grad, "weight_grad": _weight_grad}[kernel]
    uniform, arbitrary = find(code, tiles.blocks, problem, kind != "float32")
    flop = 2 * problem.inputs * problem.features * problem.outputs

    def of(instructions: float | None) -> float | None:
        return None if instructions is None else round(share(instructions, tiles.num_warps, flop, peak), 3)

    return of(uniform), of(arbitrary)


def local_share(kernel: str, code: Loop, tiles: Tiles, outputs: int, order: int, peak: float) -> float:
    """The share of a kernel that multiplies only bases that can be non-zero and, but for ``local_weight_grad``, the base
    activation: no other products count. Instructions or loads bound it, whichever take longer."""
    warps, tile = tiles.num_warps, tiles.blocks["BLOCK_B"] * tiles.blocks["BLOCK_O"]
    (loop,) = _expect(code.inner, 1)
    products, instructions = order + 2, 0.0
    if kernel == "local_input_grad":  # the rest is done once for a run of samples
        instructions = code.longest * warps / 4 / (tiles.blocks["BLOCK_B"] * outputs)
    elif kernel == "local_weight_grad":
        products = order + 1
        instructions = loop.longest * warps / 4 / (_SAMPLES * tiles.blocks["BLOCK_O"])
        (loop,) = _expect(loop.inner, 1)
    instructions += loop.longest * warps / 4 / tile
    return round(min(1.0, 2 * products / peak / max(instructions, loop.loads * warps / tile)), 3)


def _forward(code: Loop, blocks: dict[str, int], problem: Problem, even: bool) -> tuple[float | None, float]:
    """Instructions a sample; a loop over inputs each for uniform and arbitrary knots, with one over features inside."""
    found = _expect(code.inner, 1 + even)
    tile = blocks["BLOCK_B"] * blocks["BLOCK_O"]
    per_sample = _over(problem.outputs, blocks["BLOCK_O"]) / blocks["BLOCK_B"]

    def instructions(loop: Loop, block: int) -> float:
        dot = 2 * tile * block
        return _over(problem.inputs, block) * per_sample * loop.instructions(problem.features, dot)

    arbitrary = instructions(found[-1], blocks["BLOCK_I"])
    return instructions(found[0], blocks["BLOCK_EVEN"]) if even else None, arbitrary


def _input_grad(code: Loop, blocks: dict[str, int], problem: Problem, even: bool) -> tuple[float | None, float]:
    """The base activation's loop over outputs, then one over blocks of features with a loop over outputs inside."""
    base, features = _expect(code.inner, 2)
    trips = _over(problem.outputs, blocks["BLOCK_O"])
    dot = 2 * blocks["BLOCK_B"] * blocks["BLOCK_I"] * blocks["BLOCK_O"]
    per_sample = _over(problem.inputs, blocks["BLOCK_I"]) / blocks["BLOCK_B"]
    blocks_of_features = _over(problem.features - 1, blocks["BLOCK_M"])

    def instructions(longest: bool) -> float:
        once = code.longest + trips / max(1, base.flop // dot) * base.instructions(base.flop // dot, dot)
        each = features.instructions(trips, dot * blocks["BLOCK_M"], longest=longest)
        return (once + blocks_of_features * each) * per_sample

    return instructions(False) if even else None, instructions(True)


def _weight_grad(code: Loop, blocks: dict[str, int], problem: Problem, even: bool) -> tuple[float | None, float]:
    """A loop over samples for base activations, the one with exponentials, and one each for uniform and arbitrary knots."""
    found = _expect(code.inner, 2 + even)
    (base,) = _expect([loop for loop in found if loop.exponentials], 1)
    others = sorted((loop for loop in found if not loop.exponentials), key=lambda loop: loop.functions)
    wide = blocks["BLOCK_M"] * blocks["BLOCK_I"]
    dot = 2 * wide * blocks["BLOCK_O"] * blocks["BLOCK_B"]
    tiles = _over(problem.features - 1, blocks["BLOCK_M"]) * _over(problem.inputs, blocks["BLOCK_I"])
    per_sample = _over(problem.outputs, blocks["BLOCK_O"]) / blocks["BLOCK_B"]

    def instructions(loop: Loop) -> float:
        return loop.longest / max(1, loop.flop // dot)

    once = _over(problem.inputs, wide) * instructions(base)
    uniform, arbitrary = ((once + tiles * instructions(loop)) * per_sample for loop in (others[0], others[-1]))
    return uniform if even else None, arbitrary


def _over(length: int, block: int) -> int:
    return -(-length // block)


def _expect(found: list[Loop], count: int) -> list[Loop]:
    if len(found) != count:
        raise ValueError(f"expected {count} loops that multiply, found {len(found)}")
    return found
