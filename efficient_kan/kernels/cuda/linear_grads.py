"""Device code of the gradients of the layer's product, legend as in :mod:`efficient_kan.kernels.cuda.linear`.

``input_grad`` multiplies ``dy`` by the weights of a block of features and inputs, and only then by the features' slopes, so
that its inner loop is a matrix product alone. ``weight_grad`` rebuilds features beside its product, as the forward does.
The base activation is a feature of another kind and has products of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from efficient_kan.kernels.cuda.basis import base_activation, dot, local_basis, silu_slope, slopes_of, spread
from efficient_kan.kernels.cuda.cardinal import cardinal, cardinal_slope, spacings, uniform


@triton.jit
def _pulled(
    grad_ptr,
    weights,
    weight_ok,
    rows,
    row_ok,
    O,
    BLOCK_B: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_O: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradients of ``WIDTH`` features, ``sum_o dy[b, o] w[o]``, from pointers to each one's first weight."""
    acc = tl.zeros((BLOCK_B, WIDTH), dtype=tl.float32)
    for start in range(0, O, BLOCK_O):
        outs = start + tl.arange(0, BLOCK_O)
        out_ok = outs < O
        grad = tl.load(grad_ptr + rows[:, None] * O + outs[None, :], mask=row_ok[:, None] & out_ok[None, :], other=0.0)
        weight = tl.load(weights[None, :] + outs[:, None], mask=weight_ok[None, :] & out_ok[:, None], other=0.0)
        acc = dot(grad, weight, acc, PRECISION)
    return acc


@triton.jit(do_not_specialize=["B", "M", "T"])
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
    EVEN: tl.constexpr,
    FAST: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile ``(BLOCK_B, BLOCK_I)`` of ``dx`` and, without ``SILU``, of the gradient of the base activation."""
    tiles = tl.cdiv(I, BLOCK_I)
    pid = tl.program_id(0)
    rows = (pid // tiles).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    i0 = (pid % tiles) * BLOCK_I
    cols = i0 + tl.arange(0, BLOCK_I)
    row_ok, col_ok = rows < B, cols < I
    tile_ok = row_ok[:, None] & col_ok[None, :]
    at = rows[:, None] * I + cols[None, :]
    step = tl.cast(I, tl.int64) * O
    knots = knots_ptr + tl.minimum(cols, I - 1).to(tl.int64) * T
    # Slopes of order 1 jump at knots, which have to be met exactly. The second condition never holds: with no branch there the
    # compiler moves slopes before the product, where they take its registers.
    even = uniform(knots_ptr, i0, tl.minimum(i0 + BLOCK_I, I), T, STEPS) if EVEN and K > 1 else T < 0

    of_base = weight_ptr + (M - 1) * step + cols.to(tl.int64) * O
    grad_base = _pulled(grad_ptr, of_base, col_ok, rows, row_ok, O, BLOCK_B, BLOCK_I, BLOCK_O, PRECISION)
    if SILU:
        x = tl.load(x_ptr + at, mask=tile_ok, other=0.0)
        grad_x = grad_base * silu_slope(x, FAST)
    else:
        grad_x = tl.zeros((BLOCK_B, BLOCK_I), dtype=tl.float32)
        tl.store(grad_base_ptr + at, grad_base.to(grad_base_ptr.dtype.element_ty), mask=tile_ok)

    pairs = tl.arange(0, BLOCK_M * BLOCK_I)
    of_pair = i0 + pairs % BLOCK_I
    for m0 in range(0, M - 1, BLOCK_M):
        ms = m0 + pairs // BLOCK_I
        weights = weight_ptr + ms.to(tl.int64) * step + of_pair.to(tl.int64) * O
        ok = (ms < M - 1) & (of_pair < I)
        pulled = _pulled(grad_ptr, weights, ok, rows, row_ok, O, BLOCK_B, BLOCK_M * BLOCK_I, BLOCK_O, PRECISION)
        pulled = tl.reshape(pulled, (BLOCK_B, BLOCK_M, BLOCK_I))
        features = m0 + tl.arange(0, BLOCK_M)
        x = tl.load(x_ptr + at, mask=tile_ok, other=0.0)  # again: held through the product it would take registers
        if even:
            low, inverse = spacings(knots, T)
            v = (x - low[None, :]) * inverse[None, :] - (K + 1) / 2
            slope = cardinal_slope(v[:, None, :] - features.to(tl.float32)[None, :, None], K)
            grad_x += tl.sum(pulled * slope, axis=1) * inverse[None, :]
        else:
            first, _, ratios = local_basis(x, knots[None, :] + tl.zeros_like(x).to(tl.int32), T, K, STEPS, FAST)
            slopes = slopes_of(ratios, K)
            slope = spread(first, slopes, features[None, :, None], 1, K)
            grad_x += tl.sum(pulled * slope, axis=1)
    tl.store(grad_x_ptr + at, grad_x, mask=tile_ok)


@triton.jit
def _feature_products(
    acc,
    pointers,
    rows0,
    share,
    cols,
    features,
    outs,
    sizes,
    K: tl.constexpr,
    STEPS: tl.constexpr,
    UNIFORM: tl.constexpr,
    FAST: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``acc`` and ``sum_b Phi[b, i, m] dy[b, o]`` over ``share`` samples from ``rows0``, ``(features * inputs, outputs)``."""
    x_ptr, knots_ptr, grad_ptr = pointers
    B, I, O, T = sizes
    WIDTH: tl.constexpr = features.shape[0] * cols.shape[0]
    dtype = grad_ptr.dtype.element_ty
    col_ok, out_ok = cols < I, outs < O
    knots = knots_ptr + tl.minimum(cols, I - 1).to(tl.int64) * T
    if UNIFORM:
        low, inverse = spacings(knots, T)
    for start in range(0, share, BLOCK_B):
        rows = rows0 + start + tl.arange(0, BLOCK_B)
        row_ok = rows < B
        tile_ok = col_ok[:, None] & row_ok[None, :]
        x = tl.load(x_ptr + rows[None, :] * I + cols[:, None], mask=tile_ok, other=0.0)
        if UNIFORM:
            v = (x - low[:, None]) * inverse[:, None] - (K + 1) / 2
            phi = cardinal(v[None, :, :] - features.to(tl.float32)[:, None, None], K)
        else:
            first, values, _ = local_basis(x, knots[:, None] + tl.zeros_like(x).to(tl.int32), T, K, STEPS, FAST)
            phi = spread(first, values, features[:, None, None], 0, K)
        phi = tl.reshape(phi, (WIDTH, BLOCK_B)).to(dtype)
        grad = tl.load(grad_ptr + rows[:, None] * O + outs[None, :], mask=row_ok[:, None] & out_ok[None, :], other=0.0)
        acc = dot(phi, grad, acc, PRECISION)
    return acc


@triton.jit
def _base_products(
    acc,
    x_ptr,
    base_ptr,
    grad_ptr,
    rows0,
    share,
    cols,
    outs,
    B,
    I,
    O,
    SILU: tl.constexpr,
    FAST: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The same of the base activation, ``(inputs, outputs)``."""
    dtype = grad_ptr.dtype.element_ty
    col_ok, out_ok = cols < I, outs < O
    for start in range(0, share, BLOCK_B):
        rows = rows0 + start + tl.arange(0, BLOCK_B)
        row_ok = rows < B
        ok = row_ok[:, None] & col_ok[None, :]
        at = rows[:, None] * I + cols[None, :]
        x = tl.load(x_ptr + at, mask=ok, other=0.0)
        base = base_activation(x, base_ptr + at, ok, dtype, SILU, FAST)
        grad = tl.load(grad_ptr + rows[:, None] * O + outs[None, :], mask=row_ok[:, None] & out_ok[None, :], other=0.0)
        acc = dot(tl.trans(base.to(dtype)), grad, acc, PRECISION)
    return acc


@triton.jit(do_not_specialize=["B", "M", "T"])
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
    EVEN: tl.constexpr,
    FAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``dW[m, i, o] = sum_b Phi[b, i, m] dy[b, o]`` for a tile of features, inputs and outputs, over one share of the samples.

    The first programs of a share take the base activation of ``BLOCK_M * BLOCK_I`` inputs each, the others ``BLOCK_M`` bases of
    ``BLOCK_I`` inputs. ``out`` is ``(shares, M, I, O)``: each share has its own slice, and who adds them up decides the order.
    """
    WIDTH: tl.constexpr = BLOCK_M * BLOCK_I
    o_tiles, m_tiles = tl.cdiv(O, BLOCK_O), tl.cdiv(M - 1, BLOCK_M)
    base_tiles = tl.cdiv(I, WIDTH)
    tiles = base_tiles + m_tiles * tl.cdiv(I, BLOCK_I)
    pid = tl.program_id(0)
    outs = (pid % o_tiles) * BLOCK_O + tl.arange(0, BLOCK_O)
    pid = pid // o_tiles
    part = (pid // tiles).to(tl.int64)
    tile = pid % tiles
    rows0 = part * share
    pairs = tl.arange(0, WIDTH)
    acc = tl.zeros((WIDTH, BLOCK_O), dtype=tl.float32)
    if tile < base_tiles:
        i = tile * WIDTH + pairs
        m = M - 1 + tl.zeros_like(pairs)
        end = M
        acc = _base_products(acc, x_ptr, base_ptr, grad_ptr, rows0, share, i, outs, B, I, O, SILU, FAST, BLOCK_B, PRECISION)
    else:
        m0 = (tile - base_tiles) % m_tiles * BLOCK_M
        i0 = (tile - base_tiles) // m_tiles * BLOCK_I
        i = i0 + pairs % BLOCK_I
        m = m0 + pairs // BLOCK_I
        end = M - 1
        cols = i0 + tl.arange(0, BLOCK_I)
        features = m0 + tl.arange(0, BLOCK_M)
        even = uniform(knots_ptr, i0, tl.minimum(i0 + BLOCK_I, I), T, STEPS) if EVEN else False
        pointers, sizes = (x_ptr, knots_ptr, grad_ptr), (B, I, O, T)
        if even:  # in one call, as in the forward, the compiler takes some registers more
            acc = _feature_products(
                acc, pointers, rows0, share, cols, features, outs, sizes, K, STEPS, True, FAST, BLOCK_B, PRECISION
            )
        else:
            acc = _feature_products(
                acc, pointers, rows0, share, cols, features, outs, sizes, K, STEPS, False, FAST, BLOCK_B, PRECISION
            )
    at = (part * M + m[:, None]) * I * O + i.to(tl.int64)[:, None] * O + outs[None, :]
    tl.store(out_ptr + at, acc, mask=((m < end) & (i < I))[:, None] & (outs < O)[None, :])
