"""B-splines in registers: the local bases of :mod:`efficient_kan.basis`, for a tile of samples of any shape.

Arguments of the device functions: ``x`` is a float32 tile, ``rows`` a tile of pointers to the first knot of each sample's
feature, ``T`` the number of knots a feature has, ``K`` the order and ``STEPS`` a number with ``2 ** STEPS > T``. With ``FAST``
reciprocals are those of the hardware, off by up to 2 roundings of float32: enough where factors are TF32 or 16 bits wide.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def quotient(a, b, FAST: tl.constexpr):
    """``a / b`` for a ``b`` that is no subnormal number."""
    if FAST:
        one = tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=r,r", [b], dtype=tl.float32, is_pure=True, pack=1)
        result = a * one
    else:
        result = a / b
    return result


@triton.jit
def local_basis(x, rows, T, K: tl.constexpr, STEPS: tl.constexpr, FAST: tl.constexpr):
    """The number of the first basis that can be non-zero (it may not exist), the ``K + 1`` values and the last ratios.

    A binary search counts the knots ``<= x``: none for NaN. Then follows the scheme of ``efficient_kan.basis.local_basis``,
    operation by operation. Samples outside get a synthetic run of knots 0, 1, ... so that no division can go wrong.
    """
    count = tl.zeros_like(x).to(tl.int32)
    for s in tl.static_range(STEPS):
        step = 2 ** (STEPS - 1 - s)
        fits = count + step <= T
        knot = tl.load(rows + count + (step - 1), mask=fits, other=0.0)
        count = tl.where(fits & (knot <= x), count + step, count)
    span = count - 1
    inside = (span >= 0) & (span < T - 1)
    t = ()
    for j in tl.static_range(2 * K):
        at = tl.minimum(tl.maximum(span + (j - K + 1), 0), T - 1)
        t = t + (tl.where(inside, tl.load(rows + at), 1.0 * j),)
    x = tl.where(inside, x, K - 0.5)

    level = (inside.to(tl.float32),)
    ratios = ()
    for p in tl.static_range(1, K + 1):
        ratios = ()
        for r in tl.static_range(p):
            ratios = ratios + (quotient(level[r], t[K + r] - t[K - p + r], FAST),)
        level = ((t[K] - x) * ratios[0],)
        for r in tl.static_range(1, p):
            level = level + ((x - t[K - 1 - p + r]) * ratios[r - 1] + (t[K + r] - x) * ratios[r],)
        level = level + ((x - t[K - 1]) * ratios[p - 1],)
    return span - K, level, ratios


@triton.jit
def slopes_of(ratios, K: tl.constexpr):
    """The derivatives of the ``K + 1`` bases from the last ratios of :func:`local_basis`."""
    slopes = (-K * ratios[0],)
    for r in tl.static_range(1, K):
        slopes = slopes + (K * (ratios[r - 1] - ratios[r]),)
    return slopes + (K * ratios[K - 1],)


@triton.jit
def select(first, local, m, K: tl.constexpr):
    """The entry of ``local`` that belongs to basis ``m``, or zero; shapes broadcast."""
    d = m - first
    value = tl.where(d == 0, local[0], 0.0)
    for r in tl.static_range(1, K + 1):
        value = tl.where(d == r, local[r], value)
    return value


@triton.jit
def spread(first, local, features, AXIS: tl.constexpr, K: tl.constexpr):
    """The entries of ``local`` that belong to ``features``, along the new axis ``AXIS`` of a tile; other axes broadcast."""
    blocks = ()
    for r in tl.static_range(K + 1):
        blocks = blocks + (tl.expand_dims(local[r], AXIS),)
    return select(tl.expand_dims(first, AXIS), blocks, features, K)


@triton.jit
def _sigmoid(x, FAST: tl.constexpr):
    if FAST:
        result = quotient(1.0, 1.0 + tl.exp(-x), FAST)
    else:
        result = tl.sigmoid(x)
    return result


@triton.jit
def silu(x, dtype: tl.constexpr, FAST: tl.constexpr):
    """SiLU of ``x``, rounded to ``dtype``; float32."""
    return (x * _sigmoid(x, FAST)).to(dtype).to(tl.float32)


@triton.jit
def base_activation(x, pointers, ok, dtype: tl.constexpr, SILU: tl.constexpr, FAST: tl.constexpr):
    """The base activation of samples, float32: SiLU of ``x`` rounded to ``dtype``, or what ``pointers`` lead to."""
    if SILU:
        base = silu(x, dtype, FAST)
    else:
        base = tl.load(pointers, mask=ok, other=0.0).to(tl.float32)
    return base


@triton.jit
def silu_slope(x, FAST: tl.constexpr):
    """The derivative of SiLU."""
    share = _sigmoid(x, FAST)
    return share * (1.0 + x * (1.0 - share))


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """``acc + a @ b`` with float32 sums; ``"upcast"`` serves the interpreter, which cannot multiply bfloat16."""
    if PRECISION == "upcast":
        acc = tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    else:
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc
