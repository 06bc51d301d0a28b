"""Device code of the layer's product ``y[b, o] = sum_im Phi[b, i, m] W[m, i, o]`` and its two gradients.

Features exist in registers alone: one block ``(samples, inputs)`` of one feature at a time multiplies the block of weights that
belongs to it. Weights lie feature-major, ``(M, I, O)``, the base activation's last. Sums are float32.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``M`` features per input, ``T`` knots per input, ``K`` the order.
``PRECISION`` is that of products of float32 numbers, ``"ieee"`` or ``"tf32"``; with ``SILU`` the base activation is
computed too and its tensors are not touched.
"""

from __future__ import annotations

import triton
import triton.language as tl

from efficient_kan.kernels.cuda.basis import dot, local_basis, select, silu, silu_slope, slopes_of


@triton.jit
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
    K: tl.constexpr,
    STEPS: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_O: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile ``(BLOCK_B, BLOCK_O)`` of ``y``."""
    tiles = tl.cdiv(O, BLOCK_O)
    pid = tl.program_id(0)
    rows = (pid // tiles).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    outs = (pid % tiles) * BLOCK_O + tl.arange(0, BLOCK_O)
    row_ok, out_ok = rows < B, outs < O
    dtype = weight_ptr.dtype.element_ty
    step = tl.cast(I, tl.int64) * O
    acc = tl.zeros((BLOCK_B, BLOCK_O), dtype=tl.float32)
    for start in range(0, I, BLOCK_I):
        cols = start + tl.arange(0, BLOCK_I)
        col_ok = cols < I
        tile_ok = row_ok[:, None] & col_ok[None, :]
        at = rows[:, None] * I + cols[None, :]
        x = tl.load(x_ptr + at, mask=tile_ok, other=0.0)
        knots = knots_ptr + tl.minimum(cols, I - 1).to(tl.int64) * T
        first, values, _ = local_basis(x, knots[None, :] + tl.zeros_like(x).to(tl.int32), T, K, STEPS)
        weights = weight_ptr + cols.to(tl.int64)[:, None] * O + outs[None, :]
        weight_ok = col_ok[:, None] & out_ok[None, :]
        for m in range(M - 1):
            phi = select(first, values, m, K).to(dtype)
            weight = tl.load(weights, mask=weight_ok, other=0.0)
            acc = dot(phi, weight, acc, PRECISION)
            weights += step
        base = silu(x, dtype) if SILU else tl.load(base_ptr + at, mask=tile_ok, other=0.0)
        weight = tl.load(weights, mask=weight_ok, other=0.0)
        acc = dot(base.to(dtype), weight, acc, PRECISION)
    tl.store(y_ptr + rows[:, None] * O + outs[None, :], acc.to(y_ptr.dtype.element_ty), mask=row_ok[:, None] & out_ok[None, :])


@triton.jit
def _pulled(
    grad_ptr,
    weights,
    rows,
    row_ok,
    cols,
    col_ok,
    O,
    BLOCK_B: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_O: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradient of one feature, ``sum_o dy[b, o] W_m[i, o]``, for a tile of samples and inputs."""
    acc = tl.zeros((BLOCK_B, BLOCK_I), dtype=tl.float32)
    for start in range(0, O, BLOCK_O):
        outs = start + tl.arange(0, BLOCK_O)
        out_ok = outs < O
        grad = tl.load(grad_ptr + rows[:, None] * O + outs[None, :], mask=row_ok[:, None] & out_ok[None, :], other=0.0)
        at = cols.to(tl.int64)[None, :] * O + outs[:, None]
        weight = tl.load(weights + at, mask=col_ok[None, :] & out_ok[:, None], other=0.0)
        acc = dot(grad, weight, acc, PRECISION)
    return acc


@triton.jit
def input_grad(
    x_ptr,
    knots_ptr,
    weight_ptr,
    grad_ptr,
    grad_x_ptr,
    grad_base_ptr,
    B,
    I,
    O,
    M,
    T,
    K: tl.constexpr,
    STEPS: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_O: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile ``(BLOCK_B, BLOCK_I)`` of ``dx`` and, without ``SILU``, of the gradient of the base activation."""
    tiles = tl.cdiv(I, BLOCK_I)
    pid = tl.program_id(0)
    rows = (pid // tiles).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    cols = (pid % tiles) * BLOCK_I + tl.arange(0, BLOCK_I)
    row_ok, col_ok = rows < B, cols < I
    tile_ok = row_ok[:, None] & col_ok[None, :]
    at = rows[:, None] * I + cols[None, :]
    x = tl.load(x_ptr + at, mask=tile_ok, other=0.0)
    knots = knots_ptr + tl.minimum(cols, I - 1).to(tl.int64) * T
    first, _, ratios = local_basis(x, knots[None, :] + tl.zeros_like(x).to(tl.int32), T, K, STEPS)
    slopes = slopes_of(ratios, K)
    step = tl.cast(I, tl.int64) * O
    weights = weight_ptr
    grad_x = tl.zeros((BLOCK_B, BLOCK_I), dtype=tl.float32)
    for m in range(M - 1):
        pulled = _pulled(grad_ptr, weights, rows, row_ok, cols, col_ok, O, BLOCK_B, BLOCK_I, BLOCK_O, PRECISION)
        grad_x += select(first, slopes, m, K) * pulled
        weights += step
    grad_base = _pulled(grad_ptr, weights, rows, row_ok, cols, col_ok, O, BLOCK_B, BLOCK_I, BLOCK_O, PRECISION)
    if SILU:
        grad_x += grad_base * silu_slope(x, weight_ptr.dtype.element_ty)
    else:
        tl.store(grad_base_ptr + at, grad_base.to(grad_base_ptr.dtype.element_ty), mask=tile_ok)
    tl.store(grad_x_ptr + at, grad_x, mask=tile_ok)


@triton.jit
def weight_grad(
    x_ptr,
    base_ptr,
    knots_ptr,
    grad_ptr,
    out_ptr,
    B,
    I,
    O,
    M,
    T,
    share,
    K: tl.constexpr,
    STEPS: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``dW[m, i, o] = sum_b Phi[b, i, m] dy[b, o]`` for a tile of features, inputs and outputs, over one share of the samples.

    ``out`` is ``(shares, M, I, O)``: each share has its own slice, and who adds them up decides the order.
    """
    m_tiles, i_tiles, o_tiles = tl.cdiv(M, BLOCK_M), tl.cdiv(I, BLOCK_I), tl.cdiv(O, BLOCK_O)
    pid = tl.program_id(0)
    outs = (pid % o_tiles) * BLOCK_O + tl.arange(0, BLOCK_O)
    pid = pid // o_tiles
    m0 = (pid % m_tiles) * BLOCK_M
    pid = pid // m_tiles
    i0 = (pid % i_tiles) * BLOCK_I
    part = (pid // i_tiles).to(tl.int64)
    cols = i0 + tl.arange(0, BLOCK_I)
    features = (m0 + tl.arange(0, BLOCK_M))[:, None, None]
    col_ok, out_ok = cols < I, outs < O
    knots = knots_ptr + tl.minimum(cols, I - 1).to(tl.int64) * T
    dtype = grad_ptr.dtype.element_ty
    acc = tl.zeros((BLOCK_M * BLOCK_I, BLOCK_O), dtype=tl.float32)
    for start in range(0, share, BLOCK_B):
        rows = part * share + start + tl.arange(0, BLOCK_B)
        row_ok = rows < B
        tile_ok = col_ok[:, None] & row_ok[None, :]
        at = rows[None, :] * I + cols[:, None]
        x = tl.load(x_ptr + at, mask=tile_ok, other=0.0)
        if SILU:
            base = silu(x, dtype)
        else:
            base = tl.load(base_ptr + at, mask=tile_ok & (m0 + BLOCK_M >= M), other=0.0).to(tl.float32)
        first, values, _ = local_basis(x, knots[:, None] + tl.zeros_like(x).to(tl.int32), T, K, STEPS)
        blocks = ()
        for r in tl.static_range(K + 1):
            blocks = blocks + (values[r][None, :, :],)
        phi = select(first[None, :, :], blocks, features, K)
        phi = tl.where(features == M - 1, base[None, :, :], phi)
        phi = tl.reshape(phi, (BLOCK_M * BLOCK_I, BLOCK_B)).to(dtype)
        grad = tl.load(grad_ptr + rows[:, None] * O + outs[None, :], mask=row_ok[:, None] & out_ok[None, :], other=0.0)
        acc = dot(phi, grad, acc, PRECISION)
    pairs = tl.arange(0, BLOCK_M * BLOCK_I)
    m, i = m0 + pairs // BLOCK_I, i0 + pairs % BLOCK_I
    at = (part * M + m[:, None]) * I * O + i.to(tl.int64)[:, None] * O + outs[None, :]
    tl.store(out_ptr + at, acc, mask=(m < M)[:, None] & (i < I)[:, None] & out_ok[None, :])
