r"""The formula of a symbolic network in sympy.

A node is a sum of numbers times expressions. Numbers are moved through the network before any is rounded, so that what is
rounded is the formula's own: :math:`b (\sum_i a_i f_i + \text{bias}) + c` becomes
:math:`\sum_i (b a_i) f_i + (b\,\text{bias} + c)`, and canonical forms (:mod:`efficient_kan.symbolic.canonical`) take scales and
constants out of the next function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from efficient_kan import _checks
from efficient_kan.symbolic import canonical

if TYPE_CHECKING:
    from efficient_kan.symbolic.expression import Samples
    from efficient_kan.symbolic.layer import SymbolicLayer
    from efficient_kan.symbolic.library import Function

_AGREEMENT = 5e-7
_DIGITS = range(3, 16)
_WITHOUT_SAMPLES = 15  # digits


class Formulas(list[Any]):
    """A sympy expression for each output.

    Attributes:
        exact: the expressions before rounding and simplification.
        digits: of each output, how many significant digits its numbers were rounded to.
        error: of each output, the largest difference from the network at its samples, divided by the output's largest
            magnitude; ``None`` for a network that has no samples.
    """

    def __init__(self, rounded: Sequence[Rounded], exact: Sequence[Any]) -> None:
        super().__init__(each.expression for each in rounded)
        self.exact = list(exact)
        self.digits = [each.digits for each in rounded]
        self.error = [each.error for each in rounded]


class Rounded(NamedTuple):
    """An expression after rounding and simplification."""

    expression: Any
    digits: int
    error: float | None


class _Sum(NamedTuple):
    """``constant`` + sum of numbers times expressions."""

    terms: dict[Any, float]
    constant: float

    def expression(self) -> Any:
        import sympy

        parts = [part if number == 1 else sympy.Float(number) * part for part, number in self.terms.items()]
        return sympy.Add(*parts, *([sympy.Float(self.constant)] if self.constant else []))


def expressions(layers: Sequence[SymbolicLayer], symbols: Sequence[Any]) -> list[Any]:
    """The outputs of layers without splines, with numbers as they are."""
    nodes = [_Sum({symbol: 1.0}, 0.0) for symbol in symbols]
    for layer in layers:
        numbers = layer.affine.detach().double().tolist()
        bias = layer.bias.detach().double().tolist()
        made = []
        for o in range(layer.out_features):
            terms: dict[Any, float] = {}
            constant = bias[o]
            for i, node in enumerate(nodes):
                function = layer.function(o, i)
                assert function is not None
                edge = _edge(function, [numbers[k][o][i] for k in range(4)], node)
                constant += edge.constant
                for part, number in edge.terms.items():
                    terms[part] = terms.get(part, 0.0) + number
            made.append(_Sum({part: number for part, number in terms.items() if number != 0}, constant))
        nodes = made
    return [node.expression() for node in nodes]


def _edge(function: Function, numbers: Sequence[float], node: _Sum) -> _Sum:
    """``a f(b node + c) + d``."""
    a, b, c, d = numbers
    shift = b * node.constant + c
    if function.name == "0" or a == 0:
        return _Sum({}, d)
    if b == 0 or not node.terms:
        return _Sum({}, a * float(function.torch(torch.tensor(shift, dtype=torch.float64))) + d)
    scale = max(node.terms.values(), key=abs)
    affine = torch.tensor([a, b * scale, shift, d], dtype=torch.float64)
    a, b, c, d = canonical.apply(function.canonical, affine).tolist()
    argument = _Sum({part: b * (number / scale) for part, number in node.terms.items()}, c)
    if function.name == "x":
        return _Sum({part: a * number for part, number in argument.terms.items()}, a * c + d)
    return _Sum({function.sympy(argument.expression()): a}, d)


def simplified(exact: Any, samples: Samples | None, reference: Tensor | None, digits: int | None) -> Rounded:
    """``exact`` rounded and in a short form.

    Args:
        exact: an expression with its numbers as they are.
        samples: where values count.
        reference: ``(B,)``, the network's values there.
        digits: significant digits; ``None``: as few as keep the values within 5e-7 of the largest.
    """
    from efficient_kan.symbolic.expression import expanded, length, rounded, shortened, sizes_of_terms

    forms = [(form, sizes_of_terms(form, samples)) for form in dict.fromkeys((exact, expanded(exact)))]
    for number in _DIGITS if digits is None and samples is not None else (digits or _WITHOUT_SAMPLES,):
        found = [rounded(form, number, sizes) for form, sizes in forms]
        errors = [_error(each, samples, reference) for each in found]
        close = [each for each, error in zip(found, errors, strict=True) if error is None or error <= _AGREEMENT]
        if digits is not None or close:
            break
    best = min((shortened(each, samples) for each in close or found), key=length)
    return Rounded(best, number, _error(best, samples, reference))


def _error(expression: Any, samples: Samples | None, reference: Tensor | None) -> float | None:
    if samples is None or reference is None:
        return None
    (values,) = samples.values([expression])
    size = reference.abs().amax()
    return float((values - reference).abs().amax() / torch.where(size > 0, size, 1.0))


def torch_forms(layers: Sequence[SymbolicLayer]) -> dict[Any, Callable[[Tensor], Tensor]]:
    """The torch forms of functions of sympy that a function of an edge consists of, by their classes."""
    import sympy

    t = sympy.Dummy(real=True)
    functions = {name: layer.library[name] for layer in layers for name, _ in layer.groups()}
    forms = [(function.sympy(t), function.torch) for function in functions.values()]
    return {form.func: function for form, function in forms if isinstance(form, sympy.Function) and form.args == (t,)}


def symbols_of(names: Iterable[Any] | None, count: int) -> list[Any]:
    """Symbols of the inputs: ``x_1, x_2, ...``, or of these names."""
    try:
        import sympy
    except ImportError as error:
        raise ImportError("formula() needs sympy: python -m pip install 'efficient-kan-bench[symbolic]'") from error

    if names is None:
        return [sympy.Symbol(f"x_{n + 1}") for n in range(count)]
    ordered = isinstance(names, Iterable) and not isinstance(names, (str, Mapping, Set))
    given = list(names) if ordered else []  # of a list, an array, an index of pandas
    _checks.require(len(given) == count, "names", f"{count} names or symbols", names)
    for name in given:
        _checks.require(isinstance(name, (str, sympy.Symbol)) and str(name) != "", "names", "names or sympy symbols", name)
    _checks.require(len({str(name) for name in given}) == count, "names", "different names", names)
    return [sympy.Symbol(str(name)) if isinstance(name, str) else name for name in given]
