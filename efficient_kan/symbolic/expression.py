"""Evaluating, rounding and shortening sympy expressions, judged by their values at samples.

Shape legend: ``B`` samples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import sympy
import torch
from mpmath.libmp import NoConvergence
from sympy.core.function import AppliedUndef
from sympy.functions.elementary.piecewise import ExprCondPair
from torch import Tensor

from efficient_kan import _checks
from efficient_kan.symbolic.constants import short, unit_of

_LARGE = 120  # operations; beyond, sympy's transformations may take minutes
_SHORT = 25  # beyond, simplify() takes many seconds, of sines and powers of numbers that are not simple
_TERMS = 60  # of an expanded power
_EQUAL = 1e-9


def _piecewise(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    result: Any = math.nan
    for value, condition in reversed(pairs):
        result = torch.where(condition, value, result)
    return result  # type: ignore[no-any-return]


def _all_of(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """``function`` of any number of arguments."""
    return lambda *values: reduce(function, values)


# The torch forms of sympy's operations and functions.
TORCH: dict[Any, Callable[..., Any]] = {
    sympy.Add: _all_of(torch.add),
    sympy.Mul: _all_of(torch.mul),
    sympy.Pow: torch.pow,
    sympy.exp: torch.exp,
    sympy.log: torch.log,
    sympy.Abs: torch.abs,
    sympy.sign: torch.sign,
    sympy.sin: torch.sin,
    sympy.cos: torch.cos,
    sympy.tan: torch.tan,
    sympy.tanh: torch.tanh,
    sympy.sinh: torch.sinh,
    sympy.cosh: torch.cosh,
    sympy.asin: torch.arcsin,
    sympy.acos: torch.arccos,
    sympy.atan: torch.arctan,
    sympy.asinh: torch.arcsinh,
    sympy.acosh: torch.arccosh,
    sympy.atanh: torch.arctanh,
    sympy.erf: torch.erf,
    sympy.erfc: torch.erfc,
    sympy.floor: torch.floor,
    sympy.ceiling: torch.ceil,
    sympy.Max: _all_of(torch.maximum),
    sympy.Min: _all_of(torch.minimum),
    sympy.Piecewise: _piecewise,
    ExprCondPair: lambda value, condition: (value, condition),
    sympy.StrictLessThan: torch.lt,
    sympy.LessThan: torch.le,
    sympy.StrictGreaterThan: torch.gt,
    sympy.GreaterThan: torch.ge,
    sympy.Equality: torch.eq,
    sympy.Unequality: torch.ne,
    sympy.And: _all_of(torch.logical_and),
    sympy.Or: _all_of(torch.logical_or),
    sympy.Not: torch.logical_not,
}


class Samples:
    """Inputs at which expressions are judged.

    Args:
        symbols: of the inputs.
        x: their values ``(B, number of symbols)``.
        functions: torch forms of functions of sympy that :data:`TORCH` lacks, such as a user's own.
    """

    def __init__(self, symbols: Sequence[Any], x: Tensor, functions: Mapping[Any, Callable[..., Any]]) -> None:
        self.x, self._inputs = x, dict(zip(symbols, x.unbind(1), strict=True))
        self._functions = {**functions, **TORCH}

    def values(self, expressions: Sequence[Any]) -> list[Tensor]:
        """The values ``(B,)`` of expressions.

        Raises:
            ValueError: if neither torch nor mpmath has a function in them.
        """
        known = dict(self._inputs)
        return [self._value(expression, known).expand(len(self.x)) for expression in expressions]

    def largest(self, expressions: Sequence[Any]) -> list[float]:
        """The largest magnitudes of expressions, over the samples where they are finite."""
        return [float(v.abs().nan_to_num(0.0, 0.0, 0.0).amax()) for v in self.values(expressions)]

    def _value(self, expression: Any, known: dict[Any, Any]) -> Any:
        """The value of an expression, ``(B,)`` or of no dimension; ``known`` are those of its parts so far."""
        if expression not in known:
            if expression.is_number:
                known[expression] = torch.tensor(_number(expression), dtype=self.x.dtype, device=self.x.device)
            elif expression in (sympy.true, sympy.false):
                known[expression] = torch.tensor(bool(expression), device=self.x.device)
            else:
                parts = [self._value(part, known) for part in expression.args]
                function = self._functions.get(expression.func)
                known[expression] = _by_mpmath(expression, parts) if function is None else function(*parts)
        return known[expression]


def _number(expression: Any) -> float:
    try:
        return float(expression)
    except TypeError:  # of a complex one
        return math.nan


def _by_mpmath(expression: Any, parts: Sequence[Tensor]) -> Tensor:
    """A function that torch lacks, at each value of its arguments; not a number where it is not real."""
    expected = "a form made of functions that torch or mpmath has, or one call of another"
    known = expression.is_Function and not isinstance(expression, AppliedUndef)
    _checks.require(known, "sympy", expected, expression)
    arguments = [part if part.is_number else sympy.Dummy() for part in expression.args]
    function = sympy.lambdify(arguments, expression.func(*arguments), "mpmath")
    rows = torch.stack(torch.broadcast_tensors(*parts), -1)
    try:
        return rows.new_tensor([_real(function, row) for row in rows.tolist()])
    except NameError:  # of a function that mpmath lacks
        raise ValueError(f"sympy: expected {expected}, got {expression}") from None


def _real(function: Callable[..., Any], arguments: Sequence[float]) -> float:
    try:
        return float(function(*arguments)) if all(map(math.isfinite, arguments)) else math.nan
    except (TypeError, ValueError, ArithmeticError, NoConvergence):  # of complex values and poles
        return math.nan


def sizes_of_terms(expression: Any, samples: Samples | None) -> dict[Any, float]:
    """The largest magnitude at the samples of each term of each sum in an expression; without samples, its factor's."""
    terms = list({t: None for part in sympy.preorder_traversal(expression) if part.is_Add for t in part.args})
    sizes = [abs(float(t.as_coeff_Mul()[0])) for t in terms] if samples is None else samples.largest(terms)
    return dict(zip(terms, sizes, strict=True))


def rounded(expression: Any, digits: int, sizes: Mapping[Any, float]) -> Any:
    """``expression`` with its numbers shortened to so many significant digits (:mod:`efficient_kan.symbolic.constants`).

    Terms of a sum that are below half a unit of the last digit of its largest term, at all samples, are dropped, and its
    constant is rounded to that unit; ``sizes`` are of :func:`sizes_of_terms`.
    """
    if expression.is_number:
        return short(float(expression), digits, 0.0) if expression.has(sympy.Float) else expression
    if not expression.args:
        return expression
    if not expression.is_Add:
        return expression.func(*(rounded(part, digits, sizes) for part in expression.args))
    unit = unit_of(max(sizes.get(term, 0.0) for term in expression.args), digits)
    terms = []
    for term in expression.args:
        if term.is_number:
            terms.append(short(float(term), digits, unit) if term.has(sympy.Float) else term)
        elif sizes.get(term, math.inf) > unit:
            terms.append(rounded(term, digits, sizes))
    return sympy.Add(*terms)


def expanded(expression: Any) -> Any:
    """``expression`` with products and powers of sums multiplied out, unless that would be long."""
    if sympy.count_ops(expression) > _LARGE:
        return expression
    for part in sympy.preorder_traversal(expression):
        if part.is_Pow and part.base.is_Add and part.exp.is_Integer and part.exp > 1:
            n, e = len(part.base.args), int(part.exp)
            if math.comb(n + e - 1, e) > _TERMS:
                return expression
    return sympy.expand(expression, power_base=False, power_exp=False, log=False, func=False)


def shortened(expression: Any, samples: Samples | None) -> Any:
    """The shortest among some forms of an expression that have equal values at the samples."""
    best = expression
    for transform, most in _TRANSFORMS:
        if sympy.count_ops(best) > most:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sympy about its own use of old names
            form = transform(best)
        if length(form) < length(best) and _equal(form, best, samples):
            best = form
    return best


def length(expression: Any) -> int:
    """Operations, two more for each function but powers, and three for each number that is not simple."""
    parts = list(sympy.preorder_traversal(expression))
    functions, numbers = sum(bool(part.is_Function) for part in parts), sum(bool(part.is_Float) for part in parts)
    return int(sympy.count_ops(expression)) + 2 * functions + 3 * numbers


def _equal(form: Any, expression: Any, samples: Samples | None) -> bool:
    if form.has(sympy.I, sympy.nan, sympy.zoo, sympy.Piecewise, sympy.re, sympy.im, sympy.arg):
        return False
    if samples is None:
        return True
    before, after = samples.values([expression, form])
    size = float(before.abs().nan_to_num(0.0, 0.0, 0.0).amax())
    return torch.allclose(before, after, rtol=_EQUAL, atol=_EQUAL * size, equal_nan=True)


# With the operations of an expression beyond which each is not tried.
_TRANSFORMS: tuple[tuple[Callable[[Any], Any], int], ...] = (
    (sympy.powsimp, _LARGE),
    (sympy.expand_trig, _LARGE),
    (lambda expression: sympy.logcombine(expression, force=True), _LARGE),
    (sympy.factor_terms, _LARGE),
    (sympy.cancel, _LARGE),
    (sympy.simplify, _SHORT),
)
