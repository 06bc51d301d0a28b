"""The natural logarithm in compiled code, in a form that vectorises: to a few units in the last place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.codegen.jit import inlined

_BITS, _REAL = ir.IntType(64), ir.DoubleType()
_TINY = float(np.finfo(np.float64).tiny)
_ROOT = int(np.float64(math.sqrt(0.5)).view(np.int64))
_PLACES = 52  # binary ones of a number's fraction
# log(2) in two parts, the first so short that an exponent times it is exact.
_HIGH, _LOW = 0.6931471803691238, 1.9082149292705877e-10
_TERMS = 12  # of the series of artanh: what it leaves out is 6e-19


@intrinsic  # type: ignore[untyped-decorator]
def _split(_: Any, x: Any) -> Any:
    """``(m, e)`` with ``x = m 2**e`` and ``sqrt(1/2) <= m < sqrt(2)``, for normal positive ``x``.

    By unsigned shifts and an addition: signed ones and conversions have no vectors of 64-bit numbers on many processors.
    """
    pair = types.UniTuple(types.float64, 2)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], _BITS)
        shifted = builder.lshr(builder.add(bits, _BITS((1024 << _PLACES) - _ROOT)), _BITS(_PLACES))  # 1024 + e
        number = builder.bitcast(builder.or_(shifted, _BITS((1023 + _PLACES) << _PLACES)), _REAL)
        exponent = builder.fsub(number, ir.Constant(_REAL, 2.0**_PLACES + 1024.0))
        scaled = builder.sub(builder.add(bits, _BITS(1024 << _PLACES)), builder.shl(shifted, _BITS(_PLACES)))
        return context.make_tuple(builder, pair, [builder.bitcast(scaled, _REAL), exponent])

    return pair(types.float64), generate


@inlined
def logarithm(x: float) -> float:
    """``log(x)`` in float64; 0 where x is not above 0, and below the smallest normal number that of it."""
    m, e = _split(max(x, _TINY) if x > 0.0 else 1.0)
    s = (m - 1.0) / (m + 1.0)
    z, series = s * s, 0.0
    for n in range(_TERMS, 0, -1):
        series = (series + 1.0 / (2 * n + 1)) * z
    found: float = e * _HIGH + (2.0 * s * (1.0 + series) + e * _LOW)
    return found
