"""The functions that edges may become: a torch form, a sympy form, a complexity and a domain each.

Names and complexities are those of pykan 0.2.8's ``SYMBOLIC_LIB``, with ``cosh`` added, which pykan has commented out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efficient_kan import _checks
from efficient_kan.symbolic import canonical

SPLINE = "spline"  # how edges without a function are called


@dataclass(frozen=True)
class Function:
    """A function of one variable that an edge ``a f(b x + c) + d`` may become.

    Args:
        name: how it is called; ``"spline"`` and ``"0"`` are taken.
        torch: the function on tensors, elementwise and differentiable.
        sympy: the function on sympy expressions, such as ``sympy.sin``: made of functions that torch or mpmath has, or one call
            of any other, of the bare variable.
        complexity: what it costs when functions are ranked, as in pykan: 1 for ``x`` to 5.
        domain: the interval of arguments ``(low, high)``.
        closed: whether the ends of the domain belong to it.
        branch: for a function with poles inside its domain: a number for each argument, the same for two of them only if no
            pole lies between. The function is not fitted to samples on both sides of a pole, except across a wide gap.
        canonical: a rule of :mod:`efficient_kan.symbolic.canonical`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    name: str
    torch: Callable[[Tensor], Tensor]
    sympy: Callable[[Any], Any]
    complexity: float = 3.0
    domain: tuple[float, float] = (-math.inf, math.inf)
    closed: bool = True
    branch: Callable[[Tensor], Tensor] | None = None
    canonical: canonical.Rule | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Function:
        """Itself: nothing in it changes, and a copy of a network has the same functions."""
        return self

    def __post_init__(self) -> None:
        _checks.require(isinstance(self.name, str) and self.name != "", "name", "the name of a function", self.name)
        reserved = self.name == SPLINE or (self.name == "0" and self.torch is not torch.zeros_like)
        _checks.require(not reserved, "name", "a name other than 'spline' and '0', which are reserved", self.name)
        for name in ("torch", "sympy"):
            _checks.require(callable(getattr(self, name)), name, "a function", getattr(self, name))
        for name in ("branch", "canonical"):
            value = getattr(self, name)
            _checks.require(value is None or callable(value), name, "a function or None", value)
        _checks.number(self.complexity, "complexity", 0.0)
        _checks.flag(self.closed, "closed")
        ends = isinstance(self.domain, tuple) and len(self.domain) == 2 and self.domain[0] < self.domain[1]
        _checks.require(ends, "domain", "(low, high) with low < high, infinite where it has no end", self.domain)

    def contains(self, t: Tensor) -> Tensor:
        """Whether arguments lie in the domain."""
        low, high = self.domain
        return (t >= low) & (t <= high) if self.closed else (t > low) & (t < high)

    def __reduce__(self) -> tuple[Any, ...]:
        if LIBRARY.get(self.name) is self:  # its functions may be lambdas, which do not pickle
            return _named, (self.name,)
        return super().__reduce__()  # type: ignore[return-value]


def resolve(library: Iterable[str | Function] | Mapping[str, Function] | None) -> dict[str, Function]:
    """The functions meant by ``library``: names, functions, or both; ``None`` for all of :data:`LIBRARY` but aliases.

    Raises:
        ValueError: if a name is unknown, two functions have the same name, or there is none.
    """
    if library is None:
        return {name: function for name, function in LIBRARY.items() if name == function.name}
    expected = f"a sequence of Function objects and names among {list(LIBRARY)}"
    _checks.require(isinstance(library, Iterable) and not isinstance(library, str), "library", expected, library)
    found: dict[str, Function] = {}
    for entry in library.values() if isinstance(library, Mapping) else library:
        known = isinstance(entry, Function) or (isinstance(entry, str) and entry in LIBRARY)
        _checks.require(known, "library", expected, entry)
        function = LIBRARY[entry] if isinstance(entry, str) else entry
        unique = found.get(function.name, function) is function
        _checks.require(unique, "library", "one function of each name", function.name)
        found[function.name] = function
    _checks.require(len(found) > 0, "library", "at least one function", "none")
    return found


def _named(name: str) -> Function:
    return LIBRARY[name]


def _sympy(name: str) -> Callable[[Any], Any]:
    """The function of sympy of this name, imported when it is called."""

    def function(t: Any) -> Any:
        import sympy

        return getattr(sympy, name)(t)

    return function


def _tangent_branch(t: Tensor) -> Tensor:
    return (t / math.pi + 0.5).floor()


def _power(n: int, complexity: float) -> Function:
    return Function(f"x^{n}", lambda t: t**n, lambda t: t**n, complexity, canonical=canonical.power(n))


def _reciprocal(n: int, complexity: float) -> Function:
    name = "1/x" if n == 1 else f"1/x^{n}"
    inverse = canonical.power(-n)
    return Function(name, lambda t: 1 / t**n, lambda t: 1 / t**n, complexity, branch=torch.sign, canonical=inverse)


_root = _sympy("sqrt")
_POSITIVE = (0.0, math.inf)
_UNIT = (-1.0, 1.0)

_FUNCTIONS = (
    Function("x", lambda t: t, lambda t: t, 1, canonical=canonical.linear),
    _power(2, 2),
    _power(3, 3),
    _power(4, 3),
    _power(5, 3),
    _reciprocal(1, 2),
    _reciprocal(2, 2),
    _reciprocal(3, 3),
    _reciprocal(4, 4),
    _reciprocal(5, 5),
    Function("sqrt", torch.sqrt, _root, 2, _POSITIVE, canonical=canonical.half_power(0.5)),
    Function("x^1.5", lambda t: t * t.sqrt(), lambda t: _root(t) ** 3, 4, _POSITIVE, True, None, canonical.half_power(1.5)),
    Function(
        "1/sqrt(x)", lambda t: 1 / t.sqrt(), lambda t: 1 / _root(t), 2, _POSITIVE, False, None, canonical.half_power(-0.5)
    ),
    Function("exp", torch.exp, _sympy("exp"), 2, canonical=canonical.exponential),
    Function("log", torch.log, _sympy("log"), 2, _POSITIVE, closed=False, canonical=canonical.logarithm),
    Function("abs", torch.abs, _sympy("Abs"), 3, canonical=canonical.absolute),
    Function("sin", torch.sin, _sympy("sin"), 2, canonical=canonical.sine),
    Function("cos", torch.cos, _sympy("cos"), 2, canonical=canonical.cosine),
    Function("tan", torch.tan, _sympy("tan"), 3, branch=_tangent_branch, canonical=canonical.tangent),
    Function("tanh", torch.tanh, _sympy("tanh"), 3, canonical=canonical.odd),
    Function("sgn", torch.sign, _sympy("sign"), 3, canonical=canonical.sign),
    Function("arcsin", torch.arcsin, _sympy("asin"), 4, _UNIT, canonical=canonical.odd),
    Function("arccos", torch.arccos, _sympy("acos"), 4, _UNIT, canonical=canonical.arc_cosine),
    Function("arctan", torch.arctan, _sympy("atan"), 4, canonical=canonical.odd),
    Function("arctanh", torch.arctanh, _sympy("atanh"), 4, _UNIT, closed=False, canonical=canonical.odd),
    Function("0", torch.zeros_like, lambda t: t * 0, 0),
    Function("gaussian", lambda t: torch.exp(-(t**2)), lambda t: _sympy("exp")(-(t**2)), 3, canonical=canonical.even),
    Function("cosh", torch.cosh, _sympy("cosh"), 5, canonical=canonical.even),
)

LIBRARY: dict[str, Function] = {function.name: function for function in _FUNCTIONS}
LIBRARY["x^0.5"] = LIBRARY["sqrt"]
LIBRARY["1/x^0.5"] = LIBRARY["1/sqrt(x)"]
ZERO = LIBRARY["0"]
