"""The tiles of the kernels: compile-time constants that depend on shapes, dtypes, order and the generation of the GPU alone.

Never on timing, so that results repeat.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

# All that a thread can have. Without it the assembler spills a few registers to fit one more program on a multiprocessor.
REGISTERS = 255
# The largest tiles are for Hopper: Ampere's products hold more in registers, Blackwell's memory for sums is too small for them.
_WIDE = 9


class Tiles(NamedTuple):
    """Compile-time constants of one kernel."""

    blocks: dict[str, int]
    num_warps: int
    num_stages: int

    def along(self, length: int, block: str) -> int:
        """How many of its blocks it takes to cover ``length``."""
        return -(-length // self.blocks[block])


def of_kernel(kernel: str, outputs: int, order: int, kind: str, *, wide: bool) -> Tiles:
    """The tiles of a kernel; each choice is one more binary, so there are few (see ``resources.py`` for what they use).

    ``kind`` is one of :func:`kind`. ``"float32"`` products, IEEE ones, keep a row of both factors in registers: theirs have to
    be shorter. ``wide`` allows the largest tiles; for most of them orders above 3 need too many registers.
    """
    exact, half = kind == "float32", kind == "half"
    widest = wide and order <= 3 and not exact
    width = max(32, min(256, triton.next_power_of_2(outputs)))
    match kernel:
        case "forward":
            # Expanding costs the same for a wide tile of outputs as for a narrow one.
            outs = min(width, 128 if exact else 256)
            even = 32 if half else 16
            blocks = {"BLOCK_B": 128 if widest and outs == 256 else 64, "BLOCK_I": 16, "BLOCK_EVEN": even, "BLOCK_O": outs}
            return Tiles(blocks, 8 if outs > 64 else 4, 3)
        case "input_grad":
            if exact:
                return Tiles({"BLOCK_B": 64 if order <= 3 else 32, "BLOCK_I": 16, "BLOCK_M": 8, "BLOCK_O": 16}, 8, 2)
            # As many bytes of a row for both kinds.
            widest = widest and (half or order != 2)  # by two registers
            outs = min(width, (128 if half and order != 2 else 64) if widest else (64 if half else 32))
            return Tiles(
                {"BLOCK_B": 128 if widest else 64, "BLOCK_I": 16, "BLOCK_M": 8, "BLOCK_O": outs}, 8, 2 if widest else 3
            )
        case "weight_grad":
            if exact:
                outs = min(width, (64 if wide else 32) * (2 if order <= 3 else 1))
                return Tiles({"BLOCK_M": 8, "BLOCK_I": 16, "BLOCK_O": outs, "BLOCK_B": 16}, 8, 2)
            outs, samples = (width, 32) if wide else (min(width, 64), 16)
            return Tiles({"BLOCK_M": 8, "BLOCK_I": 16, "BLOCK_O": outs, "BLOCK_B": samples}, 8, 2)
        case "local_forward":
            # As many samples as threads, so that each evaluates bases of its own; so for the gradients of samples.
            outs = 64 if outputs > 32 and order < 3 else 32
            return Tiles({"BLOCK_B": 128, "BLOCK_O": outs}, 4, 2)
        case "local_input_grad":
            return Tiles({"BLOCK_B": 128, "BLOCK_O": 16 if order < 5 else 8}, 4, 2)
        case "local_weight_grad":
            return Tiles({"BLOCK_B": 16, "BLOCK_O": 256 if outputs > 64 else 64}, 8 if outputs > 64 else 4, 2)
        case "edge_l1":
            return Tiles({"BLOCK_B": 128, "BLOCK_O": 32 if order < 5 else 16}, 4, 2)
        case "edge_l1_input_grad":
            return Tiles({"BLOCK_B": 128, "BLOCK_O": 16}, 4, 2)
        case "edge_l1_weight_grad":
            return Tiles({"BLOCK_M": 16, "BLOCK_O": 16, "BLOCK_B": 128}, 4, 2)
    raise KeyError(kernel)


def for_launch(kernel: str, x: Tensor, outputs: int, order: int, dtype: torch.dtype) -> Tiles:
    """The tiles on the device of ``x``, with factors in ``dtype`` multiplied as at this moment."""
    return of_kernel(kernel, outputs, order, kind(dtype), wide=_wide(x.device))


@cache
def _wide(device: torch.device) -> bool:
    """Whether the largest tiles fit; the interpreter takes them, so that tests do."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] == _WIDE


def kind(dtype: torch.dtype) -> str:
    """How products of numbers of ``dtype`` are computed at this moment: ``"float32"``, ``"tf32"`` or ``"half"``."""
    if dtype != torch.float32:
        return "half"
    return "tf32" if precision(dtype) == "tf32" else "float32"


def precision(dtype: torch.dtype) -> str:
    """How float32 numbers are multiplied: as torch's own matrix products would at this moment."""
    if dtype == torch.bfloat16 and triton.knobs.runtime.interpret:
        return "upcast"
    if dtype != torch.float32:
        return "ieee"
    matmul = torch.backends.cuda.matmul
    modern = getattr(matmul, "fp32_precision", None)  # reading allow_tf32 is an error once this one was set
    return "tf32" if (matmul.allow_tf32 if modern is None else modern == "tf32") else "ieee"


def steps(knots: int) -> int:
    """Steps of a binary search that can count up to ``knots`` knots."""
    return knots.bit_length()
