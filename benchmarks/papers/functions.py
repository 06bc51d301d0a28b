"""The functions that the papers' networks are trained on, by name. Numpy and scipy alone.

Ranges are this project's choice wherever the papers' texts give none, which is so for the special functions and the Feynman
rows: figures can be compared in order and size, not to the digit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
Range = tuple[float, float]


@dataclass(frozen=True)
class Function:
    """`formula` takes its variables one by one, each `(B,)`, drawn uniformly from `ranges`, and returns `(B,)`."""

    name: str
    formula: Callable[..., Array]
    ranges: tuple[Range, ...]

    def draw(self, samples: int, generator: np.random.Generator) -> tuple[Array, Array]:
        """Inputs `(B, I)` moved to [-1, 1] by the ends of their ranges, and targets `(B, 1)`."""
        x = generator.uniform(-1, 1, (samples, len(self.ranges)))
        low, high = np.array(self.ranges).T
        values = self.formula(*(low + (x + 1) / 2 * (high - low)).T)
        return x, np.asarray(values, dtype=float)[:, None]


_FUNCTIONS: dict[str, Function] = {}


def register(*functions: Function) -> None:
    """Add functions, from this package or from a plugin. Raises ValueError if a name is taken."""
    for function in functions:
        if function.name in _FUNCTIONS:
            raise ValueError(f"function: expected a new name, got {function.name!r}, which exists")
        _FUNCTIONS[function.name] = function


def get_function(name: str) -> Function:
    """Return the function called `name`. Raises ValueError, listing the choices, if there is none."""
    if name not in _FUNCTIONS:
        raise ValueError(f"function: expected one of {', '.join(_FUNCTIONS)}, got {name!r}")
    return _FUNCTIONS[name]


def _harmonic(order: int, degree: int) -> Callable[[Array, Array], Array]:
    """Real part of the spherical harmonic that old scipy calls `sph_harm(order, degree, azimuth, polar)`."""
    return lambda azimuth, polar: np.asarray(special.sph_harm_y(degree, order, polar, azimuth).real)


def _legendre(order: int) -> Callable[[Array, Array], Array]:
    return lambda degree, x: np.asarray(special.lpmv(order, degree, x))


_UNIT: Range = (-1.0, 1.0)
_SPHERE = ((0.0, 2 * np.pi), (0.0, np.pi))
_ELLIPTIC = ((0.0, 1.5), (0.0, 0.95))

register(
    Function("ellipj", lambda u, m: np.asarray(special.ellipj(u, m)[0]), ((0.0, 5.0), (0.0, 0.95))),
    Function("ellipkinc", special.ellipkinc, _ELLIPTIC),
    Function("ellipeinc", special.ellipeinc, _ELLIPTIC),
    Function("jv", special.jv, ((0.0, 3.0), (0.0, 10.0))),
    Function("yv", special.yv, ((0.0, 2.0), (1.0, 9.0))),
    Function("kv", special.kv, ((0.0, 2.0), (0.5, 4.0))),
    Function("iv", special.iv, ((0.0, 3.0), (0.0, 4.0))),
    *(Function(f"lpmv{m}", _legendre(m), ((float(m), m + 4.0), (-0.95, 0.95))) for m in range(3)),
    *(Function(f"sph{m}{n}", _harmonic(m, n), _SPHERE) for m, n in ((0, 1), (1, 1), (0, 2), (1, 2), (2, 2))),
)

# Figures 2.3 and 3.1, and the set of section 4.1.
register(
    Function("bessel", lambda x: np.asarray(special.j0(20 * x)), (_UNIT,)),
    Function("exp_sin", lambda x, y: np.asarray(np.exp(np.sin(np.pi * x) + y**2)), (_UNIT,) * 2),
    Function("product", lambda x, y: x * y, (_UNIT,) * 2),
    Function("hundred", lambda *x: np.asarray(np.exp(np.mean(np.sin(np.pi * np.stack(x) / 2) ** 2, axis=0))), (_UNIT,) * 100),
    Function(
        "four",
        lambda a, b, c, d: np.asarray(np.exp((np.sin(np.pi * (a**2 + b**2)) + np.sin(np.pi * (c**2 + d**2))) / 2)),
        (_UNIT,) * 4,
    ),
    Function("quotient", lambda x, y: x / y, ((0.2, 1.0), (0.5, 2.0))),
    Function("tanh", lambda x, y, z: np.asarray(np.tanh(5 * (x**4 + y**4 + z**4 - 1))), (_UNIT,) * 3),
    Function("distance", lambda a, b, c, d: np.asarray(np.sqrt((a - b) ** 2 + (c - d) ** 2)), (_UNIT,) * 4),
)

_POSITIVE: Range = (0.5, 2.0)
_SIGNED: Range = (-1.0, 1.0)
_ANGLE: Range = (-np.pi, np.pi)


def _gaussian(theta: Array, sigma: Array) -> Array:
    return np.asarray(np.exp(-(theta**2) / (2 * sigma**2)) / np.sqrt(2 * np.pi * sigma**2))


def _gravity(a: Array, b: Array, c: Array, d: Array, e: Array, f: Array) -> Array:
    return np.asarray(a / ((b - 1) ** 2 + (c - d) ** 2 + (e - f) ** 2))


# Dimensionless forms of table 2, named as in its first column.
register(
    Function("I.6.2", _gaussian, (_SIGNED, _POSITIVE)),
    Function("I.6.2b", lambda t, t1, s: _gaussian(t - t1, s), (_SIGNED, _SIGNED, _POSITIVE)),
    Function("I.9.18", _gravity, (_UNIT, (2.0, 4.0), _UNIT, _UNIT, _UNIT, _UNIT)),
    Function("I.12.11", lambda a, t: np.asarray(1 + a * np.sin(t)), (_UNIT, _ANGLE)),
    Function("I.13.12", lambda a, b: a * (1 / b - 1), (_UNIT, _POSITIVE)),
    Function("I.15.3x", lambda a, b: np.asarray((1 - a) / np.sqrt(1 - b**2)), (_UNIT, (-0.9, 0.9))),
    Function("I.16.6", lambda a, b: (a + b) / (1 + a * b), ((-0.9, 0.9),) * 2),
    Function("I.18.4", lambda a, b: (1 + a * b) / (1 + a), (_POSITIVE, _UNIT)),
    Function("I.26.2", lambda n, t: np.asarray(np.arcsin(n * np.sin(t))), ((0.0, 0.95), (-np.pi / 2, np.pi / 2))),
    Function("I.27.6", lambda a, b: 1 / (1 + a * b), (_POSITIVE,) * 2),
    Function("I.29.16", lambda a, s, t: np.asarray(np.sqrt(1 + a**2 - 2 * a * np.cos(s - t))), (_POSITIVE, _ANGLE, _ANGLE)),
    Function("I.30.3", lambda n, t: np.asarray(np.sin(n * t / 2) ** 2 / np.sin(t / 2) ** 2), ((1.0, 4.0), (0.2, 3.0))),
    Function("I.30.5", lambda a, n: np.asarray(np.arcsin(a / n)), (_UNIT, (1.1, 3.0))),
    Function("I.37.4", lambda a, d: np.asarray(1 + a + 2 * np.sqrt(a) * np.cos(d)), (_POSITIVE, _ANGLE)),
    Function("I.40.1", lambda n, a: np.asarray(n * np.exp(-a)), (_POSITIVE, _UNIT)),
    Function("I.44.4", lambda n, a: np.asarray(n * np.log(a)), (_POSITIVE, _POSITIVE)),
    Function("I.50.26", lambda a, b: np.asarray(np.cos(a) + b * np.cos(a) ** 2), (_ANGLE, _UNIT)),
    Function("II.2.42", lambda a, b: (a - 1) * b, (_POSITIVE, _UNIT)),
    Function("II.6.15a", lambda a, b, c: np.asarray(c * np.sqrt(a**2 + b**2) / (4 * np.pi)), (_UNIT, _UNIT, _POSITIVE)),
    Function("II.11.7", lambda n, a, t: np.asarray(n * (1 + a * np.cos(t))), (_POSITIVE, _UNIT, _ANGLE)),
    Function("II.11.27", lambda n, a: n * a / (1 - n * a / 3), ((0.0, 1.0), (0.0, 2.0))),
    Function("II.35.18", lambda n, a: np.asarray(n / (np.exp(a) + np.exp(-a))), (_POSITIVE, (-2.0, 2.0))),
    Function("II.36.38", lambda a, alpha, b: a + alpha * b, (_UNIT,) * 3),
    Function("II.38.3", lambda a, b: a / b, (_UNIT, _POSITIVE)),
)
