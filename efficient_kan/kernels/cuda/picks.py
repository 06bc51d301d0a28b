"""Edges at a run of samples of one input, from the few features that can be non-zero there; legend as in :mod:`.linear`.

Weights are ``(M, I, O)``; sums are float32. :mod:`.local` and :mod:`.edges` are made of these.
"""

from __future__ import annotations

import triton
import triton.language as tl

from efficient_kan.kernels.cuda.basis import base_activation, local_basis, silu_slope


@triton.jit
def bases_at(x, knots_ptr, i, T, K: tl.constexpr, STEPS: tl.constexpr):
    """:func:`local_basis` of samples of input ``i``."""
    return local_basis(x, knots_ptr + tl.cast(i, tl.int64) * T + tl.zeros_like(x).to(tl.int32), T, K, STEPS, False)


@triton.jit
def picked(totals, weights, first, factors, step, M, out_ok, K: tl.constexpr, MASKED: tl.constexpr):
    """``totals[n] + sum_r factors[n][r] * W[first + r]`` over the bases that exist, ``(samples, outputs)`` for each ``n``.

    ``weights`` points to basis 0 of the outputs, ``(1, outputs)``, and ``step`` leads to the next basis. Where a basis does not
    exist, the load is masked, ``MASKED``, or the factor is zero: whichever takes the caller fewer registers.
    """
    for r in tl.static_range(K + 1):
        m = (first + r)[:, None]
        exists = (m >= 0) & (m < M - 1)
        ok = exists & out_ok if MASKED else out_ok
        m = m if MASKED else tl.where(exists, m, 0)
        row = tl.load(weights + m.to(tl.int64) * step, mask=ok, other=0.0).to(tl.float32)
        sums = ()
        for n in tl.static_range(len(totals)):
            factor = factors[n][r][:, None]
            sums = sums + (totals[n] + (factor if MASKED else tl.where(exists, factor, 0.0)) * row,)
        totals = sums
    return totals


@triton.jit
def edge_values(
    pointers,
    weights,
    of_base,
    rows,
    i,
    sizes,
    out_ok,
    K: tl.constexpr,
    STEPS: tl.constexpr,
    SILU: tl.constexpr,
    MASKED: tl.constexpr,
):
    """``phi`` of the samples ``rows``, ``(samples, outputs)``, and of what it is a sum: base activations and local bases.

    ``pointers`` are those of samples, base activations and knots; ``of_base`` are the base activation's weights.
    """
    x_ptr, base_ptr, knots_ptr = pointers
    B, I, O, M, T = sizes
    row_ok, at = rows < B, rows * I + i
    x = tl.load(x_ptr + at, mask=row_ok, other=0.0)
    base = base_activation(x, base_ptr + at, row_ok, weights.dtype.element_ty, SILU, False)
    first, values, _ = bases_at(x, knots_ptr, i, T, K, STEPS)
    y = picked((base[:, None] * of_base,), weights, first, (values,), tl.cast(I, tl.int64) * O, M, out_ok, K, MASKED)
    return y[0], base, first, values


@triton.jit
def store_input_grad(grad_x_ptr, grad_base_ptr, x, of_x, of_base, at, row_ok, SILU: tl.constexpr):
    """Write the gradients of samples, that of the base activation only where it was given; else it is a part of theirs."""
    if SILU:
        of_x += of_base * silu_slope(x, False)
    else:
        tl.store(grad_base_ptr + at, of_base.to(grad_base_ptr.dtype.element_ty), mask=row_ok)
    tl.store(grad_x_ptr + at, of_x, mask=row_ok)
