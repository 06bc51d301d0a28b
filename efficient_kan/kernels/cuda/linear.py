"""Device code of the layer's product ``y[b, o] = sum_im Phi[b, i, m] W[m, i, o]``.

Features exist in registers alone: one block ``(samples, inputs)`` of one feature at a time multiplies the block of weights
that belongs to it. Sums are float32.

Shape legend of this package: ``B`` samples, ``I`` inputs, ``O`` outputs, ``M`` features per input, the base activation's
last, ``T`` knots per input, ``K`` the order. ``PRECISION`` is that of products of float32 numbers, ``"ieee"`` or
``"tf32"``; with ``SILU`` the base activation is computed too and its tensors are not touched. ``EVEN`` allows the shorter
way of uniform knots (:mod:`efficient_kan.kernels.cuda.cardinal`), taken where knots are uniform; ``FAST`` allows the
hardware's reciprocals.
"""

from __future__ import annotations

import triton
import triton.language as tl

from efficient_kan.kernels.cuda.basis import base_activation, dot, local_basis, select
from efficient_kan.kernels.cuda.cardinal import cardinal, spacings, uniform
from efficient_kan.kernels.cuda.places import output_tile, store_outputs


@triton.jit
def _products(
    acc,
    pointers,
    part,
    sizes,
    K: tl.constexpr,
    STEPS: tl.constexpr,
    SILU: tl.constexpr,
    UNIFORM: tl.constexpr,
    FAST: tl.constexpr,
    OUTPUTS_FIRST: tl.constexpr,
    BLOCK_I: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``acc`` and the products of a part: samples, outputs, and the inputs from its third member to its last, excluded."""
    rows, outs, first_input, last_input = part
    x_ptr, base_ptr, knots_ptr, weight_ptr = pointers
    B, I, O, M, T = sizes
    row_ok, out_ok = rows < B, outs < O
    dtype = weight_ptr.dtype.element_ty
    step = tl.cast(I, tl.int64) * O
    for start in range(first_input, last_input, BLOCK_I):
        cols = start + tl.arange(0, BLOCK_I)
        col_ok = cols < last_input
        tile_ok = row_ok[:, None] & col_ok[None, :]
        at = rows[:, None] * I + cols[None, :]
        x = tl.load(x_ptr + at, mask=tile_ok, other=0.0)
        knots = knots_ptr + tl.minimum(cols, I - 1).to(tl.int64) * T
        if OUTPUTS_FIRST:
            weights = weight_ptr + outs.to(tl.int64)[None, :] * I + cols[:, None]
        else:
            weights = weight_ptr + cols.to(tl.int64)[:, None] * O + outs[None, :]
        weight_ok = col_ok[:, None] & out_ok[None, :]
        if PRECISION == "ieee" and dtype == tl.float32:
            total = acc
            acc = tl.zeros_like(acc)  # the sum of a block, apart: rounding errors of one long sum would grow with its length
        if UNIFORM:
            low, inverse = spacings(knots, T)
            v = (x - low[None, :]) * inverse[None, :] - (K + 1) / 2
            for _ in range(M - 1):
                phi = cardinal(v, K).to(dtype)
                weight = tl.load(weights, mask=weight_ok, other=0.0)
                acc = dot(phi, weight, acc, PRECISION)
                weights += step
                v -= 1.0  # exact until it is below zero, and soon after it no longer counts
        else:
            first, values, _ = local_basis(x, knots[None, :] + tl.zeros_like(x).to(tl.int32), T, K, STEPS, FAST)
            for m in range(M - 1):
                phi = select(first, values, m, K).to(dtype)
                weight = tl.load(weights, mask=weight_ok, other=0.0)
                acc = dot(phi, weight, acc, PRECISION)
                weights += step
        base = base_activation(x, base_ptr + at, tile_ok, dtype, SILU, FAST)
        weight = tl.load(weights, mask=weight_ok, other=0.0)
        acc = dot(base.to(dtype), weight, acc, PRECISION)
        if PRECISION == "ieee" and dtype == tl.float32:
            acc += total
    return acc


@triton.jit(do_not_specialize=["B", "M", "T"])
def forward(
    x_ptr,
    base_ptr,
    knots_ptr,
    weight_ptr,
    y_ptr,
    B,
    I,
    O,
    M,
    T,
    share,
    K: tl.constexpr,
    STEPS: tl.constexpr,
    SILU: tl.constexpr,
    EVEN: tl.constexpr,
    FAST: tl.constexpr,
    OUTPUTS_FIRST: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_EVEN: tl.constexpr,
    BLOCK_O: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile ``(BLOCK_B, BLOCK_O)`` of ``y`` or, where inputs are shared out, of a part of it: ``y`` is ``(shares, B, O)``.

    Weights lie ``(M, I, O)`` or, with ``OUTPUTS_FIRST``, ``(M, O, I)``. Uniform knots take ``BLOCK_EVEN`` inputs at a time.
    """
    rows, outs, part = output_tile(B, O, BLOCK_B, BLOCK_O)
    start = part * share
    end = tl.minimum(start + share, I)
    acc = tl.zeros((BLOCK_B, BLOCK_O), dtype=tl.float32)
    even = uniform(knots_ptr, start, end, T, STEPS) if EVEN else False
    pointers, sizes = (x_ptr, base_ptr, knots_ptr, weight_ptr), (B, I, O, M, T)
    for way in tl.static_range(2):
        if even == (way == 0):
            acc = _products(
                acc,
                pointers,
                (rows, outs, start, end),
                sizes,
                K,
                STEPS,
                SILU,
                way == 0,
                FAST,
                OUTPUTS_FIRST,
                BLOCK_EVEN if way == 0 else BLOCK_I,
                PRECISION,
            )
    store_outputs(y_ptr, acc, part, rows, outs, B, O)
