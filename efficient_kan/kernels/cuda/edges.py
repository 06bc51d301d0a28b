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

from efficient_kan.kernels.cuda.basis import base_activation, dot, slopes_of, spread
from efficient_kan.kernels.cuda.picks import bases_at, edge_values, picked, store_input_grad
from efficient_kan.kernels.cuda.places import run_of_input


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
    out_ok = (outs < O)[None, :]
    weights = weight_ptr + tl.cast(i, tl.int64) * O + outs[None, :]
    of_base = tl.load(weights + (M - 1) * tl.cast(I, tl.int64) * O, mask=out_ok, other=0.0).to(tl.float32)
    pointers, sizes = (x_ptr, base_ptr, knots_ptr), (B, I, O, M, T)
    total = tl.zeros((BLOCK_B, BLOCK_O), dtype=tl.float32)
    for start in range(0, share, BLOCK_B):
        rows = part * share + start + tl.arange(0, BLOCK_B)
        y, _, _, _ = edge_values(pointers, weights, of_base, rows, i, sizes, out_ok, K, STEPS, SILU, True)
        total += tl.where((rows < B)[:, None], tl.abs(y), 0.0)
    tl.store(out_ptr + (part * I + i) * O + outs, tl.sum(total, axis=0), mask=outs < O)


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
    i, rows = run_of_input(I, BLOCK_B)
    row_ok, at = rows < B, rows * I + i
    step = tl.cast(I, tl.int64) * O
    x = tl.load(x_ptr + at, mask=row_ok, other=0.0)
    base = base_activation(x, base_ptr + at, row_ok, weight_ptr.dtype.element_ty, SILU, False)
    first, values, ratios = bases_at(x, knots_ptr, i, T, K, STEPS)
    slopes = slopes_of(ratios, K)
    of_x = tl.zeros_like(x)
    of_base = tl.zeros_like(x)
    for start in range(0, O, BLOCK_O):
        outs = start + tl.arange(0, BLOCK_O)
        out_ok = (outs < O)[None, :]
        weights = weight_ptr + tl.cast(i, tl.int64) * O + outs[None, :]
        weight = tl.load(weights + (M - 1) * step, mask=out_ok, other=0.0).to(tl.float32)
        scale = tl.load(scale_ptr + tl.cast(i, tl.int64) * O + outs[None, :], mask=out_ok, other=0.0)
        totals = (base[:, None] * weight, tl.zeros((BLOCK_B, BLOCK_O), dtype=tl.float32))
        y, slope = picked(totals, weights, first, (values, slopes), step, M, out_ok, K, False)
        pulled = _sign(y) * scale
        of_base += tl.sum(pulled * weight, axis=1)
        of_x += tl.sum(pulled * slope, axis=1)
    store_input_grad(grad_x_ptr, grad_base_ptr, x, of_x, of_base, at, row_ok, SILU)


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
    out_ok = (outs < O)[None, :]
    dtype = weight_ptr.dtype.element_ty
    step = tl.cast(I, tl.int64) * O
    column = tl.cast(i, tl.int64) * O + outs[None, :]
    weights = weight_ptr + column
    of_base = tl.load(weights + (M - 1) * step, mask=out_ok, other=0.0).to(tl.float32)
    pointers, sizes = (x_ptr, base_ptr, knots_ptr), (B, I, O, M, T)
    acc = tl.zeros((BLOCK_M, BLOCK_O), dtype=tl.float32)
    for start in range(0, share, BLOCK_B):
        rows = part * share + start + tl.arange(0, BLOCK_B)
        y, base, first, values = edge_values(pointers, weights, of_base, rows, i, sizes, out_ok, K, STEPS, SILU, True)
        sign = tl.where((rows < B)[:, None], _sign(y), 0.0).to(dtype)
        phi = spread(first, values, features[None, :], 1, K)
        phi = tl.where(features[None, :] == M - 1, base[:, None], phi).to(dtype)
        acc = dot(tl.trans(phi), sign, acc, PRECISION)
    scale = tl.load(scale_ptr + column, mask=out_ok, other=0.0)
    at = (part * M + features[:, None]) * step + column
    tl.store(out_ptr + at, acc * scale, mask=(features < M)[:, None] & out_ok)
