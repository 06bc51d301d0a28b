"""Device code of ``edge_l1``: ``mean_b |phi_oi(x[b, i])|`` and its gradients, with no tensor of one value per sample and edge.

A program handles one input. Of its ``M`` features only ``K + 2`` can be non-zero at a sample, so an edge's value is a short sum
over rows of weights picked per sample; neighbouring outputs share the picks. That costs the same for every grid size. Only the
gradient of the weights multiplies blocks: features, rebuilt in registers, by signs.

A run of samples is as long as a program has threads, or longer. Then the compiler has each thread evaluate the bases of its own
samples and hands them round; of a shorter run it would evaluate every sample in all threads that share it.

Shape legend as in :mod:`efficient_kan.kernels.cuda.linear`; weights ``(M, I, O)``, sums float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from efficient_kan.kernels.cuda.basis import dot, local_basis, select, silu, silu_slope, slopes_of


@triton.jit
def _combine(weights, first, local, step, M, picked_ok, K: tl.constexpr):
    """``sum_r local[r] * W[first + r]`` over the bases that exist, ``(samples, outputs)``.

    ``weights`` points to basis 0 of the outputs, ``(1, outputs)``, and ``step`` leads to the next basis.
    """
    total = tl.zeros((first.shape[0], weights.shape[1]), dtype=tl.float32)
    for r in tl.static_range(K + 1):
        m = (first + r)[:, None]
        row = tl.load(weights + m.to(tl.int64) * step, mask=(m >= 0) & (m < M - 1) & picked_ok, other=0.0)
        total += local[r][:, None] * row.to(tl.float32)
    return total


@triton.jit
def _combine_both(weights, first, values, slopes, step, M, picked_ok, K: tl.constexpr):
    """:func:`_combine` of ``values`` and of ``slopes``, which share their picks."""
    y = tl.zeros((first.shape[0], weights.shape[1]), dtype=tl.float32)
    slope = tl.zeros((first.shape[0], weights.shape[1]), dtype=tl.float32)
    for r in tl.static_range(K + 1):
        m = (first + r)[:, None]
        row = tl.load(weights + m.to(tl.int64) * step, mask=(m >= 0) & (m < M - 1) & picked_ok, other=0.0).to(tl.float32)
        y += values[r][:, None] * row
        slope += slopes[r][:, None] * row
    return y, slope


@triton.jit
def _base(x, pointers, row_ok, dtype: tl.constexpr, SILU: tl.constexpr):
    """The base activation of a run of samples, computed or loaded."""
    if SILU:
        base = silu(x, dtype, False)
    else:
        base = tl.load(pointers, mask=row_ok, other=0.0).to(tl.float32)
    return base


@triton.jit
def _sign(y):
    """-1, 0 or 1; 0 where ``y`` is NaN, as torch.sign has it."""
    return tl.where(y > 0, 1.0, tl.where(y < 0, -1.0, 0.0))


@triton.jit(do_not_specialize=["B", "M", "T"])
def edge_l1(
    x_ptr,
    base_ptr,
    knots_ptr,
    weight_ptr,
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
    BLOCK_B: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Sums of ``|phi|`` of one input and a tile of outputs, over one share of the samples: ``out`` is ``(shares, I, O)``."""
    tiles = tl.cdiv(O, BLOCK_O)
    pid = tl.program_id(0)
    outs = (pid % tiles) * BLOCK_O + tl.arange(0, BLOCK_O)
    pid = pid // tiles
    i = pid % I
    part = (pid // I).to(tl.int64)
    out_ok = outs < O
    step = tl.cast(I, tl.int64) * O
    weights = weight_ptr + tl.cast(i, tl.int64) * O + outs[None, :]
    of_base = tl.load(weights + (M - 1) * step, mask=out_ok[None, :], other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK_B, BLOCK_O), dtype=tl.float32)
    for start in range(0, share, BLOCK_B):
        rows = part * share + start + tl.arange(0, BLOCK_B)
        row_ok = rows < B
        x = tl.load(x_ptr + rows * I + i, mask=row_ok, other=0.0)
        base = _base(x, base_ptr + rows * I + i, row_ok, weight_ptr.dtype.element_ty, SILU)
        knots = knots_ptr + tl.cast(i, tl.int64) * T + tl.zeros_like(x).to(tl.int32)
        first, values, _ = local_basis(x, knots, T, K, STEPS, False)
        y = base[:, None] * of_base + _combine(weights, first, values, step, M, out_ok[None, :], K)
        total += tl.where(row_ok[:, None], tl.abs(y), 0.0)
    tl.store(out_ptr + (part * I + i) * O + outs, tl.sum(total, axis=0), mask=out_ok)


@triton.jit(do_not_specialize=["B", "M", "T"])
def edge_l1_input_grad(
    x_ptr,
    base_ptr,
    knots_ptr,
    weight_ptr,
    scale_ptr,
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
    BLOCK_O: tl.constexpr,
):
    """``sum_o sign(phi) s_oi dphi/dx`` and the same for the base activation, of a run of samples of one input.

    ``scale`` is ``(I, O)`` float32: the gradient of each norm divided by the number of samples.
    """
    pid = tl.program_id(0)
    i = pid % I
    rows = (pid // I).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    row_ok = rows < B
    step = tl.cast(I, tl.int64) * O
    x = tl.load(x_ptr + rows * I + i, mask=row_ok, other=0.0)
    base = _base(x, base_ptr + rows * I + i, row_ok, weight_ptr.dtype.element_ty, SILU)
    knots = knots_ptr + tl.cast(i, tl.int64) * T + tl.zeros_like(x).to(tl.int32)
    first, values, ratios = local_basis(x, knots, T, K, STEPS, False)
    slopes = slopes_of(ratios, K)
    of_x = tl.zeros_like(x)
    of_base = tl.zeros_like(x)
    for start in range(0, O, BLOCK_O):
        outs = start + tl.arange(0, BLOCK_O)
        out_ok = (outs < O)[None, :]
        weights = weight_ptr + tl.cast(i, tl.int64) * O + outs[None, :]
        weight = tl.load(weights + (M - 1) * step, mask=out_ok, other=0.0).to(tl.float32)
        scale = tl.load(scale_ptr + tl.cast(i, tl.int64) * O + outs[None, :], mask=out_ok, other=0.0)
        y, slope = _combine_both(weights, first, values, slopes, step, M, out_ok, K)
        pulled = _sign(y + base[:, None] * weight) * scale
        of_base += tl.sum(pulled * weight, axis=1)
        of_x += tl.sum(pulled * slope, axis=1)
    if SILU:
        of_x += of_base * silu_slope(x, False)
    else:
        tl.store(grad_base_ptr + rows * I + i, of_base.to(grad_base_ptr.dtype.element_ty), mask=row_ok)
    tl.store(grad_x_ptr + rows * I + i, of_x, mask=row_ok)


@triton.jit(do_not_specialize=["B", "M", "T"])
def edge_l1_weight_grad(
    x_ptr,
    base_ptr,
    knots_ptr,
    weight_ptr,
    scale_ptr,
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
    BLOCK_O: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``s_oi sum_b Phi[b, i, m] sign(phi)`` of one input, a tile of features and one of outputs, over a share of the samples.

    ``out`` is ``(shares, M, I, O)``. Signs are exact in every dtype, so the scale comes after the product.
    """
    m_tiles, o_tiles = tl.cdiv(M, BLOCK_M), tl.cdiv(O, BLOCK_O)
    pid = tl.program_id(0)
    outs = (pid % o_tiles) * BLOCK_O + tl.arange(0, BLOCK_O)
    pid = pid // o_tiles
    features = (pid % m_tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    pid = pid // m_tiles
    i = pid % I
    part = (pid // I).to(tl.int64)
    out_ok = outs < O
    dtype = weight_ptr.dtype.element_ty
    step = tl.cast(I, tl.int64) * O
    column = tl.cast(i, tl.int64) * O
    weights = weight_ptr + column + outs[None, :]
    of_base = tl.load(weights + (M - 1) * step, mask=out_ok[None, :], other=0.0).to(tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_O), dtype=tl.float32)
    for start in range(0, share, BLOCK_B):
        rows = part * share + start + tl.arange(0, BLOCK_B)
        row_ok = rows < B
        x = tl.load(x_ptr + rows * I + i, mask=row_ok, other=0.0)
        base = _base(x, base_ptr + rows * I + i, row_ok, weight_ptr.dtype.element_ty, SILU)
        knots = knots_ptr + tl.cast(i, tl.int64) * T + tl.zeros_like(x).to(tl.int32)
        first, values, _ = local_basis(x, knots, T, K, STEPS, False)
        y = base[:, None] * of_base + _combine(weights, first, values, step, M, out_ok[None, :], K)
        sign = tl.where(row_ok[:, None], _sign(y), 0.0).to(dtype)
        columns = ()
        for r in tl.static_range(K + 1):
            columns = columns + (values[r][:, None],)
        phi = select(first[:, None], columns, features[None, :], K)
        phi = tl.where(features[None, :] == M - 1, base[:, None], phi).to(dtype)
        acc = dot(tl.trans(phi), sign, acc, PRECISION)
    scale = tl.load(scale_ptr + column + outs, mask=out_ok, other=0.0)
    at = (part * M + features[:, None]) * step + column + outs[None, :]
    tl.store(out_ptr + at, acc * scale[None, :], mask=(features < M)[:, None] & out_ok[None, :])
