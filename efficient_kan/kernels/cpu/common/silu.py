"""SiLU in compiled code, in a form that vectorises: to a few units in the last place, with torch's infinities and NaN."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from efficient_kan.kernels.cpu.codegen.jit import inlined


class Exponential(NamedTuple):
    """``exp(x) = 2**n exp(r)`` with ``n`` the whole number next to ``x / log(2)``."""

    range: tuple[float, float]  # beyond it the result is 0 or infinite
    series: tuple[float, ...]  # Taylor's, of exp(r) for |r| <= log(2) / 2
    high: float  # log(2) in two parts, the first so short that n times it is exact for every n that occurs
    low: float
    rounding: float  # a number of this size has no binary places behind the point: adding it rounds


def _series(degree: int) -> tuple[float, ...]:
    return tuple(1 / math.factorial(n) for n in range(degree + 1))


# What the series leave out is 5e-9 in float32 and 4e-18 in float64.
_SINGLE = Exponential((-104.0, 90.0), _series(7), 0.693359375, -2.1219444005469058e-4, 1.5 * 2.0**23)
_DOUBLE = Exponential((-746.0, 711.0), _series(13), 0.6931471803691238, 1.9082149292705877e-10, 1.5 * 2.0**52)


def exponential(itemsize: int) -> Exponential:
    """The numbers for float32 or float64."""
    return _SINGLE if itemsize == 4 else _DOUBLE


@intrinsic  # type: ignore[untyped-decorator]
def _scaled(_: Any, value: Any, rounded: Any) -> Any:
    """``value * 2**n``, where the last bits of ``rounded``, the rounding number and ``n``, are those of ``n``.

    By integers, in two steps, since ``2**n`` itself may be out of range; conversions and signed shifts have no vectors of
    64-bit numbers on many processors.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, rounded = args
        single = signature.args[0] == types.float32
        integer, shift, bias = (ir.IntType(32), 23, 127) if single else (ir.IntType(64), 52, 1023)
        real, low = value.type, integer(2 ** (shift - 1) - 1)
        bits = builder.and_(builder.bitcast(rounded, integer), low)
        n = builder.add(bits, integer(4 * bias))  # the rounding number ends in zeros: negative n have wrapped
        n = builder.and_(n, low)
        half = builder.lshr(n, integer(1))
        parts = [builder.sub(half, integer(2 * bias)), builder.sub(builder.sub(n, half), integer(2 * bias))]
        for part in parts:
            power = builder.shl(builder.add(part, integer(bias)), integer(shift))
            value = builder.fmul(value, builder.bitcast(power, real))
        return value

    return value(value, rounded), generate


@inlined
def _exp32(x: Any) -> Any:
    real, of = type(x), _SINGLE
    x = min(max(x, real(of.range[0])), real(of.range[1]))
    rounded = x * real(1 / math.log(2)) + real(of.rounding)
    n = rounded - real(of.rounding)
    r = x - n * real(of.high) - n * real(of.low)
    series = real(of.series[7])
    for power in range(6, -1, -1):
        series = series * r + real(of.series[power])
    return _scaled(series, rounded)


@inlined
def _exp64(x: Any) -> Any:
    of = _DOUBLE
    x = min(max(x, of.range[0]), of.range[1])
    rounded = x * (1 / math.log(2)) + of.rounding
    n = rounded - of.rounding
    r = x - n * of.high - n * of.low
    series = of.series[13]
    for power in range(12, -1, -1):
        series = series * r + of.series[power]
    return _scaled(series, rounded)


def sigmoid(x: Any) -> Any:
    """``1 / (1 + exp(-x))`` in compiled code."""
    raise NotImplementedError


def _sigmoid32(x: Any) -> Any:
    return np.float32(1) / (np.float32(1) + _exp32(-x))


def _sigmoid64(x: Any) -> Any:
    return 1.0 / (1.0 + _exp64(-x))


@overload(sigmoid, jit_options={"forceinline": True})  # type: ignore[untyped-decorator]
def _sigmoid(x: Any) -> Any:
    return _sigmoid32 if x == types.float32 else _sigmoid64
