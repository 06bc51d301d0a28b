"""Formulas of twelve distinct structures, drawn from ranges where each has one smallest network.

Sums of functions, products of positive variables (sums of logarithms), products of signed ones (differences of squares), ridges
and nested sums. No two have the same structure, and none that of a task in `symbolic`, so a verdict over them is not one over
repetitions of a single network. `feeds` says which function stands on each edge, up to an affine change of its argument and
value.
"""

from __future__ import annotations

import numpy as np

from benchmarks.tasks.base import Array, Expression, Formula, Sizes

_UNIT, _POSITIVE, _SQUARED = (-1.0, 1.0), (0.5, 2.0), (0.2, 1.0)
_SIZES = Sizes(train=320, validation=200, test=1000)


def _node(function: str, *inputs: int) -> Expression:
    """A node that all of `inputs` reach by the same function."""
    return tuple((function, i) for i in inputs)


def _signed_product(a: int, b: int) -> Expression:
    """The two feeds of x_a x_b = ((x_a + x_b)^2 - (x_a - x_b)^2) / 4."""
    return ("x^2", _node("x", a, b)), ("x^2", _node("x", a, b))


def _distance(x: Array, y: Array, z: Array) -> Array:
    return np.asarray(np.sqrt(x**2 + y**2 + z**2))


def _power_law(a: Array, b: Array, c: Array, d: Array) -> Array:
    return a * b * c / d


def _product_and_wave(a: Array, b: Array, x: Array) -> Array:
    return np.asarray(a * b + np.sin(np.pi * x))


def _two_ridges(x: Array, y: Array, z: Array) -> Array:
    return np.asarray(np.sin(np.pi * (x + y)) + np.exp(x - z))


def _two_pairs(x: Array, y: Array, z: Array, w: Array) -> Array:
    return np.asarray(np.exp(-2 * (x**2 + y**2)) + np.sqrt(z**2 + w**2))


def _triangle(x: Array, y: Array, z: Array) -> Array:
    return np.asarray(np.sin(2 * (x - y)) + np.sin(2 * (y - z)) + np.exp(z + x))


def _signed_product_and_wave(x: Array, y: Array, z: Array) -> Array:
    return np.asarray(x * y + np.sin(np.pi * z) / 2)


def _nested(a: Array, b: Array, x: Array) -> Array:
    return np.asarray(np.log(a * b + 4 * x**2))


def _three_pairs(a: Array, b: Array, c: Array, d: Array, e: Array, f: Array) -> Array:
    return np.asarray((a - b) ** 2 + np.sin(np.pi * (c + d)) + np.exp(e - f))


def _two_products(x: Array, y: Array, z: Array, w: Array) -> Array:
    return x * y + z * w


def _norm_of_eight(*x: Array) -> Array:
    return np.asarray(np.sqrt(np.mean(np.stack(x) ** 2, axis=0)))


def _three_waves(a: Array, b: Array, c: Array, d: Array, e: Array, f: Array) -> Array:
    return np.asarray(np.exp((np.sin(2 * (a + b)) + np.sin(2 * (c + d)) + np.sin(2 * (e + f))) / 2))


def _task(name: str, text: str, seed: int, **fields: object) -> Formula:
    shared: dict[str, object] = {"family": "symbolic", "irrelevant": 2, "hidden": (5,), "sizes": _SIZES}
    return Formula(name=name, text=text, seed=seed, **(shared | fields))  # type: ignore[arg-type]


TASKS = (
    _task(
        "distance",
        "sqrt(x^2 + y^2 + z^2), each in [0.2, 1], two irrelevant inputs",
        111,
        formula=_distance,
        ranges=(_SQUARED,) * 3,
        feeds=((("sqrt", _node("x^2", 0, 1, 2)),),),
    ),
    _task(
        "power_law",
        "a b c / d, each in [0.5, 2], two irrelevant inputs",
        112,
        formula=_power_law,
        ranges=(_POSITIVE,) * 4,
        feeds=((("exp", _node("log", 0, 1, 2, 3)),),),
    ),
    _task(
        "product_and_wave",
        "a b + sin(pi x), a and b in [0.5, 2], two irrelevant inputs",
        113,
        formula=_product_and_wave,
        ranges=(_POSITIVE, _POSITIVE, _UNIT),
        feeds=tuple((("exp", _node("log", 0, 1)), one) for one in (("x", _node("sin", 2)), ("sin", _node("x", 2)))),
    ),
    _task(
        "two_ridges",
        "sin(pi (x + y)) + exp(x - z), two irrelevant inputs",
        114,
        formula=_two_ridges,
        ranges=(_UNIT,) * 3,
        feeds=((("sin", _node("x", 0, 1)), ("exp", _node("x", 0, 2))),),
    ),
    _task(
        "two_pairs",
        "exp(-2 (x^2 + y^2)) + sqrt(z^2 + w^2), z and w in [0.2, 1], two irrelevant inputs",
        115,
        formula=_two_pairs,
        ranges=(_UNIT, _UNIT, _SQUARED, _SQUARED),
        feeds=((("exp", _node("x^2", 0, 1)), ("sqrt", _node("x^2", 2, 3))),),
    ),
    _task(
        "triangle",
        "sin(2 (x - y)) + sin(2 (y - z)) + exp(z + x), two irrelevant inputs",
        116,
        formula=_triangle,
        ranges=(_UNIT,) * 3,
        feeds=((("sin", _node("x", 0, 1)), ("sin", _node("x", 1, 2)), ("exp", _node("x", 0, 2))),),
    ),
    _task(
        "signed_product_and_wave",
        "x y + sin(pi z) / 2, two irrelevant inputs",
        117,
        formula=_signed_product_and_wave,
        ranges=(_UNIT,) * 3,
        feeds=tuple((*_signed_product(0, 1), one) for one in (("x", _node("sin", 2)), ("sin", _node("x", 2)))),
    ),
    _task(
        "nested",
        "log(a b + 4 x^2), a and b in [0.5, 2], two irrelevant inputs",
        118,
        formula=_nested,
        ranges=(_POSITIVE, _POSITIVE, _UNIT),
        hidden=(4, 2),
        feeds=tuple((("log", (("exp", _node("log", 0, 1)), one)),) for one in (("x", _node("x^2", 2)), ("x^2", _node("x", 2)))),
    ),
    _task(
        "three_pairs",
        "(a - b)^2 + sin(pi (c + d)) + exp(e - f), two irrelevant inputs",
        119,
        formula=_three_pairs,
        ranges=(_UNIT,) * 6,
        feeds=((("x^2", _node("x", 0, 1)), ("sin", _node("x", 2, 3)), ("exp", _node("x", 4, 5))),),
    ),
    _task(
        "two_products",
        "x y + z w, two irrelevant inputs",
        120,
        formula=_two_products,
        ranges=(_UNIT,) * 4,
        hidden=(6,),
        feeds=((*_signed_product(0, 1), *_signed_product(2, 3)),),
    ),
    _task(
        "norm_of_eight",
        "square root of the mean of x_i^2 over 8 inputs in [0.2, 1], two irrelevant inputs",
        121,
        formula=_norm_of_eight,
        ranges=(_SQUARED,) * 8,
        feeds=((("sqrt", _node("x^2", *range(8))),),),
    ),
    _task(
        "three_waves",
        "exp((sin(2 (a + b)) + sin(2 (c + d)) + sin(2 (e + f))) / 2), two irrelevant inputs",
        122,
        formula=_three_waves,
        ranges=(_UNIT,) * 6,
        hidden=(5, 2),
        feeds=((("exp", tuple(("sin", _node("x", a, a + 1)) for a in (0, 2, 4))),),),
    ),
)
