"""B-splines on uniform knots: there every basis is one function, the cardinal B-spline, moved by whole spacings.

With ``v`` the distance of a sample from the middle of a basis in units of the spacing, a basis of order ``k`` is

    N(v) = sum_j (-1)^j a_j^k,   a_j = max(0, c_j ((k + 1) / 2 - j - |v|)),   c_j^k = binomial(k + 1, j) / k!,

a sum over ``j < (k + 1) / 2`` (Schoenberg 1946). That takes no search, no division and no choice, and is zero where a
sample is outside or no number. Its error is some roundings of float32 and what the knots are off uniform ones,
:data:`TOLERANCE` at most: beside the rounding of factors to TF32 or 16 bits it does not show. Products of float32 numbers
do not use it.

Whether knots are uniform is seen on the device, from the knots that a program uses, at every launch: nothing is remembered
that could be out of date, and the host waits for nothing.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

TOLERANCE = tl.constexpr(2.0**-14)  # of the spacing
_CELLS = tl.constexpr(1024)  # knots looked at in one step


@triton.constexpr_function
def _scale(K, j):
    return (math.comb(K + 1, j) / math.factorial(K)) ** (1 / K)


@triton.constexpr_function
def _reach(K, j):
    return (K + 1) / 2 - j


@triton.constexpr_function
def _terms(K):
    return (K + 2) // 2


@triton.jit
def uniform(knots_ptr, first, last, T, STEPS: tl.constexpr):
    """Whether the knots of each of the inputs ``first`` to ``last``, the latter excluded, are uniform and increasing."""
    WIDTH: tl.constexpr = 2**STEPS
    ROWS: tl.constexpr = _CELLS // WIDTH if WIDTH < _CELLS else 1
    j = tl.arange(0, WIDTH)
    off = tl.zeros((ROWS, WIDTH), dtype=tl.int32)
    for start in range(first, last, ROWS):
        rows = start + tl.arange(0, ROWS)
        row_ok = (rows < last)[:, None]
        row = knots_ptr + rows.to(tl.int64)[:, None] * T
        low = tl.load(row, mask=row_ok, other=0.0)
        spacing = (tl.load(row + (T - 1), mask=row_ok, other=0.0) - low) / (T - 1)
        ok = row_ok & (j < T)[None, :]
        knot = tl.load(row + j[None, :], mask=ok, other=0.0)
        fits = (tl.abs(knot - low - j[None, :] * spacing) <= spacing * TOLERANCE) & (spacing > 0)
        off = tl.where(ok & (fits == 0), 1, off)
    return tl.max(off) == 0


@triton.jit
def spacings(knots, T):
    """The first knot and the inverse spacing of inputs from pointers to their first knots."""
    low = tl.load(knots)
    return low, (T - 1) / (tl.load(knots + (T - 1)) - low)


@triton.jit
def _alternating(d, K: tl.constexpr, SLOPE: tl.constexpr):
    """``sum_j (-1)^j a_j^K`` at distances ``d >= 0``, or with ``SLOPE`` its derivative."""
    total = tl.zeros_like(d)
    for j in tl.static_range(_terms(K)):
        a = tl.maximum(_scale(K, j) * _reach(K, j) - _scale(K, j) * d, 0.0)
        power = (K * _scale(K, j)) * a if SLOPE else a
        for _ in tl.static_range(K - 2 if SLOPE else K - 1):
            power = power * a
        if j == 0 and not SLOPE:
            total = power
        else:
            total = total + power if (j % 2 == 1) == SLOPE else total - power
    return total


@triton.jit
def cardinal(v, K: tl.constexpr):
    """The basis at distances ``v``."""
    return _alternating(tl.abs(v), K, False)


@triton.jit
def cardinal_slope(v, K: tl.constexpr):
    """The derivative of the basis with respect to ``v``, for orders above 1."""
    slope = _alternating(tl.abs(v), K, True)
    return tl.where(v < 0, -slope, slope)
