"""Which of the layer's three products ``auto`` leaves to native on a GPU: those that native does sooner, by a model of
both.

Nothing in the model was measured. Rates are those of an H100's datasheet, for every GPU. Ours takes the time of its
products and, as if nothing overlapped, that of its instructions: the shares of peak in ``reports/kernels/resources.md``, on
arbitrary knots, are taken apart into both. Tiles that are not full, and a last round of programs that is not, count in
full. What goes by local support takes the clocks that :mod:`.support` counts. Native takes the time of its matrix product at
peak and of the bytes that its other operations move, as :mod:`.native_work` counts them, at twice the bandwidth, since many of
them hit the cache, or two microseconds a launch if that is longer. All but the last lean towards native.

:func:`use` puts measured times in the place of the model's; so does a file that the environment variable
EFFICIENT_KAN_GPU_TABLE names, see :mod:`.measure`, once it is needed.
"""

from __future__ import annotations

import csv
import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from efficient_kan.kernels import LayerInputs
from efficient_kan.kernels.cuda import native_work, shares, support, tiles
from efficient_kan.kernels.cuda.roofline import CHIPS, work

FORWARD, INPUT_GRAD, WEIGHT_GRAD = 1, 2, 4
KERNELS = {"forward": FORWARD, "input_grad": INPUT_GRAD, "weight_grad": WEIGHT_GRAD}
KINDS = ("float32", "tf32", "half")
_CHIP = next(chip for chip in CHIPS if chip.name == "H100")
_RATES = {"float32": _CHIP.float32, "tf32": _CHIP.tf32, "half": _CHIP.half}
_PRECISIONS = {"float32": "float32", "tf32": "tf32", "half": "bfloat16"}
# Shares of peak on arbitrary knots at order 3, with 64 and with 256 outputs.
_SHARES = {
    **{(kernel, "float32"): shares for kernel, shares in support.DENSE.items()},
    ("forward", "tf32"): (0.258, 0.921),
    ("forward", "half"): (0.139, 0.512),
    ("input_grad", "tf32"): (0.208, 0.624),
    ("input_grad", "half"): (0.112, 0.37),
    ("weight_grad", "tf32"): (0.217, 0.707),
    ("weight_grad", "half"): (0.115, 0.411),
}
_LOCAL_SAMPLES = 128  # of a run
TABLE = "EFFICIENT_KAN_GPU_TABLE"
_LAUNCH = 2e-6  # seconds, an assumption
_NEAR = 2.0  # a measured point counts for sizes that are off by this factor at most, each


class Sizes(NamedTuple):
    """A product: samples, inputs, outputs, features per input, order."""

    B: int
    I: int
    O: int
    M: int
    order: int


class Times(NamedTuple):
    """Seconds of our kernel and of native, and where they come from: ``"model"`` or ``"measured"``."""

    ours: float
    native: float
    source: str


@dataclass(frozen=True)
class _Point:
    sizes: Sizes
    ours: float
    native: float


_measured: dict[tuple[str, str], list[_Point]] = {}


def by_native(inputs: LayerInputs) -> int:
    """The flags of the kernels that native stands in for at these inputs; none while torch.compile traces."""
    if torch.compiler.is_compiling():
        return 0
    sizes = sizes_of(inputs)
    kind = tiles.kind(inputs.weight.dtype)
    found = {name: times(name, sizes, kind) for name in KERNELS}
    return sum(KERNELS[name] for name, each in found.items() if each.native < each.ours)


def sizes_of(inputs: LayerInputs) -> Sizes:
    """The sizes of the product of these inputs."""
    (B, I), (O, _, M) = inputs.x.shape, inputs.weight.shape
    return Sizes(B, I, O, M, inputs.spline_order)


def times(kernel: str, sizes: Sizes, kind: str) -> Times:
    """Of one kernel at these sizes; measured ones where a measured point is near.

    Raises:
        KeyError: if there is no such kernel or kind.
        ValueError: if EFFICIENT_KAN_GPU_TABLE names no such table.
    """
    _use_named()
    distance = {point: _distance(point.sizes, sizes) for point in _measured.get((kernel, kind), ())}
    near = min(distance, key=lambda point: distance[point], default=None)
    if near is not None and distance[near] <= math.log(_NEAR):
        return Times(near.ours, near.native, "measured")
    return Times(_ours(kernel, sizes, kind), _native(kernel, sizes, kind), "model")


def use(table: Path | None, device: str | None = None) -> None:
    """Let measured times decide where there are such, from a CSV file; ``None`` forgets all.

    A row has the columns ``kernel, kind, B, I, O, M, order, ours, native``, times in seconds. Rows that name another GPU than
    ``device`` in a column of this name are left out.

    Raises:
        ValueError: if a column lacks, or a cell is none of its values, or the file cannot be read.
    """
    found: dict[tuple[str, str], list[_Point]] = {}
    if table is not None:
        try:
            with table.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"table: expected a CSV file, got {table}: {error}") from error
        for row in rows:
            key, point = _parsed(row, table)
            if device is None or row.get("device") in (None, "", device):
                found.setdefault(key, []).append(point)
    _measured.clear()
    _measured.update(found)


def _parsed(row: dict[str, str], table: Path) -> tuple[tuple[str, str], _Point]:
    try:
        key = row["kernel"], row["kind"]
        sizes = Sizes(*(int(row[name]) for name in Sizes._fields))
        point = _Point(sizes, float(row["ours"]), float(row["native"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"table: expected the columns of a measured kernel in {table}, got {row}") from error
    if key[0] not in KERNELS or key[1] not in KINDS or not min(*sizes, point.ours, point.native) > 0:
        raise ValueError(f"table: expected a kernel of {tuple(KERNELS)}, a kind of {KINDS} and numbers > 0, got {row}")
    return key, point


@cache
def _use_named() -> None:
    """Read the table that the environment names, once in a process."""
    named = os.environ.get(TABLE)
    if named:
        use(Path(named), torch.cuda.get_device_name() if torch.cuda.is_available() else None)


def explained(sizes: Sizes, kind: str) -> str:
    """One line a kernel: which it is, and how much of native's time ours takes."""
    lines = []
    for name in KERNELS:
        each = times(name, sizes, kind)
        chosen = "native" if each.native < each.ours else "cuda"
        source = "measured" if each.source == "measured" else "by a model, not measured"
        if chosen == "cuda" and support.pays(name, sizes.O, sizes.M, sizes.order, kind):
            chosen += " by local support"
        lines.append(f"{name} in {kind}: {chosen} (cuda takes {each.ours / each.native:.2g} of native's time, {source})")
    return "\n".join(lines)


def _distance(one: Sizes, other: Sizes) -> float:
    if one.order != other.order:
        return math.inf
    return max(abs(math.log(max(a, 1) / max(b, 1))) for a, b in zip(one, other, strict=True))


def _ours(kernel: str, sizes: Sizes, kind: str) -> float:
    B, I, O, M, order = sizes
    need = work(kernel, B, I, O, M - order - 1, order, _PRECISIONS[kind]).moved / (_CHIP.bandwidth * 1e12)
    if support.pays(kernel, O, M, order, kind):
        _, clocks = support.clocks(kernel, O, M, order)
        runs = -(-max(B, 1) // _LOCAL_SAMPLES) * _LOCAL_SAMPLES
        return max(need, runs * I * clocks / (support.MULTIPROCESSORS * support.CLOCK))
    t = tiles.of_kernel(kernel, O, order, kind, wide=True)
    full = {name: -(-length // t.blocks[block]) for name, length, block in _tiled(kernel, sizes) if block in t.blocks}
    padded = 2.0 * max(B, 1) * I * M * O
    for name, length, block in _tiled(kernel, sizes):
        if block in t.blocks:
            padded *= full[name] * t.blocks[block] / length
    programs = math.prod(full.values())
    if kernel == "weight_grad":
        programs *= shares.of_weight_grad(B, torch.Size((M, I, O)))[0]
    elif kernel == "forward":
        programs *= shares.of_inputs(I, programs, B * O)[0]
    idle = -(-programs // support.MULTIPROCESSORS) * support.MULTIPROCESSORS / programs
    share = _SHARES[kernel, kind][O > 64]
    products = padded / (_RATES[kind] * 1e12)
    # Instructions and products of float32 numbers are the same ones; others have their own unit.
    each = 1 / share if kind == "float32" else 1 + max(1.0, order / 3) / share
    return max(need, products * each * idle)


def _tiled(kernel: str, sizes: Sizes) -> tuple[tuple[str, int, str], ...]:
    """The axes that programs share out, with the name of the tile's length."""
    B, I, O, M, _ = sizes
    return {
        "forward": (("B", max(B, 1), "BLOCK_B"), ("O", O, "BLOCK_O")),
        "input_grad": (("B", max(B, 1), "BLOCK_B"), ("I", I, "BLOCK_I")),
        "weight_grad": (("M", M - 1, "BLOCK_M"), ("I", I, "BLOCK_I"), ("O", O, "BLOCK_O")),
    }[kernel]


def _native(kernel: str, sizes: Sizes, kind: str) -> float:
    B, I, O, M, order = sizes
    product = 2 * B * I * M * O / (_RATES[kind] * 1e12)
    beside = native_work.work(kernel, M - order - 1, order)
    moving = B * I * beside.bytes / (2 * _CHIP.bandwidth * 1e12)
    return product + max(moving, beside.launches * _LAUNCH)
