"""Formulas whose smallest network is known: those of the KAN paper (arXiv 2404.19756, sections 3.1 and 3.3).

Ranges of the dimensionless Feynman rows are this project's choice; the paper's text does not give them. The structures are
those of the construction: a product of positive variables is one sum of logarithms, any other is a difference of squares.
"""

from __future__ import annotations

import numpy as np

from benchmarks.tasks.base import Array, Formula, Sizes

_UNIT = (-1.0, 1.0)
_SIZES = Sizes(train=320, validation=200, test=1000)


def _exp_sin(x: Array, y: Array) -> Array:
    return np.asarray(np.exp(np.sin(np.pi * x) + y**2))


def _product(x: Array, y: Array) -> Array:
    return x * y


def _four(a: Array, b: Array, c: Array, d: Array) -> Array:
    return np.asarray(np.exp((np.sin(np.pi * (a**2 + b**2)) + np.sin(np.pi * (c**2 + d**2))) / 2))


def _hundred(*x: Array) -> Array:
    return np.asarray(np.exp(np.mean(np.sin(np.pi * np.stack(x) / 2) ** 2, axis=0)))


def _i_27_6(a: Array, b: Array) -> Array:
    return 1 / (1 + a * b)


def _ii_35_18(n: Array, a: Array) -> Array:
    return np.asarray(n / (np.exp(a) + np.exp(-a)))


TASKS = (
    Formula(
        name="exp_sin",
        family="symbolic",
        text="exp(sin(pi x) + y^2), two irrelevant inputs",
        formula=_exp_sin,
        ranges=(_UNIT, _UNIT),
        irrelevant=2,
        feeds=((("exp", (("sin", 0), ("x^2", 1))),),),
        hidden=(5,),
        sizes=_SIZES,
        seed=101,
    ),
    Formula(
        name="product",
        family="symbolic",
        text="x y, two irrelevant inputs",
        formula=_product,
        ranges=(_UNIT, _UNIT),
        irrelevant=2,
        feeds=((("x^2", (("x", 0), ("x", 1))), ("x^2", (("x", 0), ("x", 1)))),),
        hidden=(5,),
        sizes=_SIZES,
        seed=102,
    ),
    Formula(
        name="four",
        family="symbolic",
        text="exp((sin(pi (a^2 + b^2)) + sin(pi (c^2 + d^2))) / 2)",
        formula=_four,
        ranges=(_UNIT,) * 4,
        feeds=((("exp", (("sin", (("x^2", 0), ("x^2", 1))), ("sin", (("x^2", 2), ("x^2", 3))))),),),
        hidden=(4, 2),
        sizes=_SIZES,
        seed=103,
    ),
    Formula(
        name="hundred",
        family="symbolic",
        text="exp(mean of sin^2(pi x_i / 2) over 100 inputs)",
        formula=_hundred,
        ranges=(_UNIT,) * 100,
        structure=(tuple(range(100)),),
        hidden=(2,),
        sizes=Sizes(train=500, validation=200, test=500),
        seed=104,
    ),
    Formula(
        name="feynman_i_27_6",
        family="symbolic",
        text="1 / (1 + a b), a and b in [0.2, 3], two irrelevant inputs",
        formula=_i_27_6,
        ranges=((0.2, 3.0), (0.2, 3.0)),
        irrelevant=2,
        structure=((0, 1),),
        hidden=(5,),
        sizes=_SIZES,
        seed=105,
    ),
    Formula(
        name="feynman_ii_35_18",
        family="symbolic",
        text="n / (exp(a) + exp(-a)), n in [0.2, 1], a in [-2, 2], two irrelevant inputs",
        formula=_ii_35_18,
        ranges=((0.2, 1.0), (-2.0, 2.0)),
        irrelevant=2,
        structure=((0, 1),),
        hidden=(5,),
        sizes=_SIZES,
        seed=106,
    ),
)
