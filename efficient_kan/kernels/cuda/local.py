"""Device code of the layer's product and its gradients by local support: only the ``K + 1`` bases that can be non-zero at a
sample are multiplied, so that the cost does not depend on the grid size.

Numbers are float32; TF32 and 16-bit ones take fewer clocks in the dense products of :mod:`efficient_kan.kernels.cuda.linear`,
see :mod:`efficient_kan.kernels.cuda.support`. ``forward`` and ``input_grad`` gather rows of weights per sample. A run of
samples shares the rows of one input, which a multiprocessor's cache holds. ``weight_grad`` has the samples of each input
sorted: those of one span share their bases.

Shape legend as in :mod:`efficient_kan.kernels.cuda.linear`; weights ``(M, I, O)``, sums float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from efficient_kan.kernels.cuda.basis import slopes_of
from efficient_kan.kernels.cuda.picks import bases_at, edge_values, picked, store_input_grad
from efficient_kan.kernels.cuda.places import output_tile, run_of_input, store_outputs


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
    BLOCK_B: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """One tile ``(BLOCK_B, BLOCK_O)`` of ``y`` or, where inputs are shared out, of a part: ``y`` is ``(shares, B, O)``.

    Each edge's products are summed up before they are added: rounding errors of one long sum would grow with its length.
    """
    rows, outs, part = output_tile(B, O, BLOCK_B, BLOCK_O)
    out_ok = (outs < O)[None, :]
    acc = tl.zeros((BLOCK_B, BLOCK_O), dtype=tl.float32)
    for i in range(part * share, tl.minimum((part + 1) * share, I)):
        weights = weight_ptr + tl.cast(i, tl.int64) * O + outs[None, :]
        of_base = tl.load(weights + (M - 1) * tl.cast(I, tl.int64) * O, mask=out_ok, other=0.0)
        pointers, sizes = (x_ptr, base_ptr, knots_ptr), (B, I, O, M, T)
        edge, _, _, _ = edge_values(pointers, weights, of_base, rows, i, sizes, out_ok, K, STEPS, SILU, False)
        acc += edge
    store_outputs(y_ptr, acc, part, rows, outs, B, O)


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
    BLOCK_B: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``dx`` of a run of samples of one input and, without ``SILU``, the gradient of its base activation."""
    i, rows = run_of_input(I, BLOCK_B)
    row_ok, at = rows < B, rows * I + i
    step = tl.cast(I, tl.int64) * O
    x = tl.load(x_ptr + at, mask=row_ok, other=0.0)
    first, _, ratios = bases_at(x, knots_ptr, i, T, K, STEPS)
    slopes = slopes_of(ratios, K)
    of_x = tl.zeros((BLOCK_B, BLOCK_O), dtype=tl.float32)
    of_base = tl.zeros((BLOCK_B, BLOCK_O), dtype=tl.float32)
    for start in range(0, O, BLOCK_O):
        outs = start + tl.arange(0, BLOCK_O)
        out_ok = (outs < O)[None, :]
        weights = weight_ptr + tl.cast(i, tl.int64) * O + outs[None, :]
        grad = tl.load(grad_ptr + rows[:, None] * O + outs[None, :], mask=row_ok[:, None] & out_ok, other=0.0)
        of_base += grad * tl.load(weights + (M - 1) * step, mask=out_ok, other=0.0)
        slope = picked((tl.zeros((BLOCK_B, BLOCK_O), dtype=tl.float32),), weights, first, (slopes,), step, M, out_ok, K, False)
        of_x += grad * slope[0]
    of_x, of_base = tl.sum(of_x, axis=1), tl.sum(of_base, axis=1)
    store_input_grad(grad_x_ptr, grad_base_ptr, x, of_x, of_base, at, row_ok, SILU)


@triton.jit
def _inverse_spans(t, K: tl.constexpr):
    """The inverse widths of what ``local_basis`` divides by in a span with samples, level by level; ones in others."""
    inverse = ()
    for p in tl.static_range(1, K + 1):
        for r in tl.static_range(p):
            width = t[K + r] - t[K - p + r]
            inverse = inverse + (1.0 / tl.where(width > 0, width, 1.0),)
    return inverse


@triton.jit
def _values_in_span(x, t, inverse, K: tl.constexpr):
    """The ``K + 1`` bases at samples of one span: the scheme of ``local_basis`` with that span's knots and inverse widths."""
    level = (tl.full(x.shape, 1.0, tl.float32),)
    for p in tl.static_range(1, K + 1):
        ratios = ()
        for r in tl.static_range(p):
            ratios = ratios + (level[r] * inverse[p * (p - 1) // 2 + r],)
        level = ((t[K] - x) * ratios[0],)
        for r in tl.static_range(1, p):
            level = level + ((x - t[K - 1 - p + r]) * ratios[r - 1] + (t[K + r] - x) * ratios[r],)
        level = level + ((x - t[K - 1]) * ratios[p - 1],)
    return level


@triton.jit(do_not_specialize=["M", "T", "inputs", "first", "run"])
def weight_grad(
    sorted_ptr,
    rows_ptr,
    ends_ptr,
    knots_ptr,
    grad_ptr,
    out_ptr,
    I,
    O,
    M,
    T,
    inputs,
    first,
    share,
    run,
    K: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``dW[m, i, o]`` of a ``run`` of bases of one input and a tile of outputs, over one share of the samples.

    Samples come sorted, ``(shares, inputs, share)`` of the ``inputs`` inputs from ``first`` on, with their numbers in ``rows``;
    ``ends[..., j]`` tells how many of them are below knot ``j``. One span after the other adds to its ``K + 1`` bases, of which
    the first is complete then. ``out`` is ``(shares, M, I, O)``; its last feature, the base activation, is not written.
    """
    o_tiles, runs = tl.cdiv(O, BLOCK_O), tl.cdiv(M - 1, run)
    pid = tl.program_id(0)
    outs = (pid % o_tiles) * BLOCK_O + tl.arange(0, BLOCK_O)
    pid = pid // o_tiles
    m0 = (pid % runs) * run
    pid = pid // runs
    i = first + pid % inputs
    part = (pid // inputs).to(tl.int64)
    line = part * inputs + pid % inputs
    out_ok = outs < O
    knots = knots_ptr + tl.cast(i, tl.int64) * T
    sums = ()
    for _ in tl.static_range(K + 1):
        sums = sums + (tl.zeros((BLOCK_B, BLOCK_O), dtype=tl.float32),)
    for span in range(m0, tl.minimum(m0 + run, M - 1) + K):
        t = ()
        for j in tl.static_range(2 * K):
            t = t + (tl.load(knots + tl.minimum(tl.maximum(span + (j - K + 1), 0), T - 1)),)
        inverse = _inverse_spans(t, K)
        end = tl.load(ends_ptr + line * T + span + 1)
        for start in range(tl.load(ends_ptr + line * T + span), end, BLOCK_B):
            places = start + tl.arange(0, BLOCK_B)
            ok = places < end
            x = tl.load(sorted_ptr + line * share + places, mask=ok, other=0.0)
            rows = part * share + tl.load(rows_ptr + line * share + places, mask=ok, other=0)
            values = _values_in_span(x, t, inverse, K)
            grad = tl.load(grad_ptr + rows[:, None] * O + outs[None, :], mask=ok[:, None] & out_ok[None, :], other=0.0)
            added = ()
            for r in tl.static_range(K + 1):
                added = added + (sums[r] + values[r][:, None] * grad,)
            sums = added
        m = span - K
        if m >= m0:
            at = ((part * M + m) * I + i) * O + outs
            tl.store(out_ptr + at, tl.sum(sums[0], axis=0), mask=out_ok)
        moved = ()
        for r in tl.static_range(1, K + 1):
            moved = moved + (sums[r],)
        sums = moved + (tl.zeros((BLOCK_B, BLOCK_O), dtype=tl.float32),)
