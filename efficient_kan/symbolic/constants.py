"""Short forms of the numbers in a formula: simple multiples of well-known constants, or so many digits.

A number becomes a simple one, such as ``2``, ``1/3``, ``pi/2`` or ``sqrt(2)``, only where that lies within half a unit of the
last digit that is kept: it then says no more than the rounded number, and is shorter. With fewer digits fewer numbers count as
simple, so that one of them rarely lies near any given number by chance.
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
_INTEGER = 10000


def unit_of(size: float, digits: int) -> float:
    """Half a unit of the last of so many significant digits of a number of this size."""
    return 0.0 if size == 0 else 0.5 * 10.0 ** (math.floor(math.log10(size)) - digits + 1)


def short(value: float, digits: int, unit: float) -> Any:
    """A sympy number for ``value``.

    Args:
        value: the number.
        digits: significant digits to keep.
        unit: the least change that matters, where that is more than half a unit of the last digit.
    """
    import sympy

    if abs(value) <= unit:
        return sympy.Integer(0)
    if not math.isfinite(value):
        return sympy.Float(value)
    tolerance = max(unit, unit_of(abs(value), digits))
    simple = _simple(value, digits, tolerance)
    if simple is not None:
        return simple
    places = math.floor(math.log10(abs(value))) - math.floor(math.log10(2 * tolerance) + 1e-9)
    decimal = float(f"{value:.{max(0, places)}e}")
    if decimal * 4 == round(decimal * 4) and abs(decimal) <= _NUMERATOR:
        return sympy.Rational(round(decimal * 4), 4)
    return sympy.Float(decimal)


def _simple(value: float, digits: int, tolerance: float) -> Any:
    import sympy

    for name, constant in _ALWAYS + (_PRECISE if digits >= _PRECISE_DIGITS else ()):
        ratio = value / constant
        if abs(ratio) > _NUMERATOR:
            fraction = Fraction(round(ratio)) if name == "1" and abs(ratio) <= _INTEGER else Fraction(0)
        else:
            fraction = Fraction(ratio).limit_denominator(_denominator(digits, name))
        if fraction != 0 and abs(fraction.numerator) <= _INTEGER and abs(float(fraction) * constant - value) <= tolerance:
            return sympy.Rational(fraction.numerator, fraction.denominator) * sympy.sympify(name)
    return None


def _denominator(digits: int, name: str) -> int:
    """The largest denominator of simple fractions; of other constants also few digits tell halves and quarters.

    The multiples of so many constants lie close together, so it takes two more digits to tell those of one.
    """
    few = name in ("1", "pi")
    largest = min(_DENOMINATOR, int(10 ** (digits / 2 - (1.5 if few else 2.5))))
    return max(largest, 1 if name == "1" else 4)
