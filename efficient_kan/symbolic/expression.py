"""Evaluating, rounding and shortening sympy expressions, judged by their values at samples.

Shape legend: ``B`` samples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import Tensor

from efficient_kan.symbolic.constants import short, unit_of

Functions = Mapping[str, Callable[..., Any]]
_LARGE = 120  # operations; beyond, sympy's transformations may take minutes
_SHORT = 25  # beyond, simplify() takes many seconds, of sines and powers of numbers that are not simple
_TERMS = 60  # of an expanded power
_EQUAL = 1e-9

TORCH: dict[str, Callable[..., Any]] = {
    "sqrt": torch.sqrt,
    "exp": torch.exp,
    "log": torch.log,
    "Abs": torch.abs,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "tanh": torch.tanh,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "sign": torch.sign,
    "asin": torch.arcsin,
    "acos": torch.arccos,
    "atan": torch.arctan,
    "atanh": torch.arctanh,
}


class Samples:
    """Inputs at which expressions are judged: symbols and their values ``(B, number of symbols)``."""

    def __init__(self, symbols: Sequence[Any], x: Tensor, functions: Functions) -> None:
        self.symbols, self.x = list(symbols), x
        known = {name: self._on_numbers(function) for name, function in {**TORCH, **functions}.items()}
        self._names: dict[str, Any] = {**known, "pi": math.pi, "E": math.e}

    def values(self, expressions: Sequence[Any]) -> list[Tensor]:
        """The values ``(B,)`` of expressions."""
        function = sympy.lambdify(self.symbols, list(expressions), modules=[self._names], cse=True)
        values = function(*self.x.unbind(1))
        return [torch.as_tensor(v, dtype=self.x.dtype, device=self.x.device).expand(len(self.x)) for v in values]

    def largest(self, expressions: Sequence[Any]) -> list[float]:
        """The largest magnitudes of expressions, over the samples where they are finite."""
        return [float(v.abs().nan_to_num(0.0, 0.0, 0.0).amax()) for v in self.values(expressions)]

    def _on_numbers(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` that takes plain numbers, too."""
        return lambda *values: function(*(torch.as_tensor(v, dtype=self.x.dtype, device=self.x.device) for v in values))


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
