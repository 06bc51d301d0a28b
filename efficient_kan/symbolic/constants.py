"""Short forms of the numbers in a formula: simple multiples of well-known constants, or so many digits.

A number becomes a simple one, such as ``2``, ``1/3``, ``pi/2`` or ``sqrt(2)``, only where that lies within half a unit of the last
digit that is kept: it then says no more than the rounded number, and is shorter. With fewer digits fewer numbers count as simple, so
that one of them lies near any given number by chance once in a hundred times at most.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

_ALWAYS = (("1", 1.0), ("pi", math.pi))
_PRECISE = (
    ("sqrt(2)", math.sqrt(2)),
    ("sqrt(3)", math.sqrt(3)),
    ("sqrt(pi)", math.sqrt(math.pi)),
    ("sqrt(2*pi)", math.sqrt(2 * math.pi)),
    ("1/pi", 1 / math.pi),
    ("1/sqrt(pi)", 1 / math.sqrt(math.pi)),
    ("1/sqrt(2*pi)", 1 / math.sqrt(2 * math.pi)),
    ("E", math.e),
    ("exp(-1)", math.exp(-1)),
    ("log(2)", math.log(2)),
)
_PRECISE_DIGITS = 5
_DENOMINATOR = 12
_NUMERATOR = 100


def short(value: float, digits: int, unit: float) -> Any:
    """A sympy number for ``value``.

    Args:
        value: the number.
        digits: significant digits to keep.
        unit: the least change that matters, in absolute terms, where that is more than half a unit of the last digit.
    """
    import sympy

    tolerance = max(unit, 0.5 * 10.0**-digits * abs(value))
    if abs(value) <= unit:
        return sympy.Integer(0)
    simple = _simple(value, digits, tolerance)
    if simple is not None:
        return simple
    places = max(1, min(digits, 1 + math.floor(math.log10(abs(value))) - math.floor(math.log10(2 * tolerance))))
    return sympy.Float(float(f"{value:.{places - 1}e}"))


def _simple(value: float, digits: int, tolerance: float) -> Any:
    import sympy

    largest = min(_DENOMINATOR, int(10 ** (digits / 2 - 1)))
    for name, constant in _ALWAYS + (_PRECISE if digits >= _PRECISE_DIGITS else ()):
        ratio = value / constant
        if not abs(ratio) <= 10 * _NUMERATOR:
            continue
        fraction = Fraction(ratio).limit_denominator(max(1, largest))
        small = abs(fraction.numerator) <= (_NUMERATOR if fraction.denominator > 1 or name != "1" else 10 * _NUMERATOR)
        if fraction != 0 and small and abs(float(fraction) * constant - value) <= tolerance:
            return sympy.Rational(fraction.numerator, fraction.denominator) * sympy.sympify(name)
    return None
