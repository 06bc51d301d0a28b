"""Which part of a result a program computes, and where that lies in memory; legend as in :mod:`.linear`.

Outputs vary fastest from program to program, shares of a sum slowest.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def output_tile(B, O, BLOCK_B: tl.constexpr, BLOCK_O: tl.constexpr):
    """The samples and outputs of a tile of ``y``, and the number of its share of the inputs."""
    o_tiles, b_tiles = tl.cdiv(O, BLOCK_O), tl.cdiv(B, BLOCK_B)
    pid = tl.program_id(0)
    outs = (pid % o_tiles) * BLOCK_O + tl.arange(0, BLOCK_O)
    pid = pid // o_tiles
    rows = (pid % b_tiles).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    return rows, outs, pid // b_tiles


@triton.jit
def store_outputs(y_ptr, acc, part, rows, outs, B, O):
    """Write a tile of ``y``, ``(shares, B, O)``."""
    at = (part * tl.cast(B, tl.int64) + rows)[:, None] * O + outs[None, :]
    tl.store(y_ptr + at, acc.to(y_ptr.dtype.element_ty), mask=(rows < B)[:, None] & (outs < O)[None, :])


@triton.jit
def run_of_input(I, BLOCK_B: tl.constexpr):
    """An input and a run of samples of it."""
    pid = tl.program_id(0)
    return pid % I, (pid // I).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
