"""Special functions of two variables, as in table 1 of the KAN paper (arXiv 2404.19756), with irrelevant inputs added.

Ranges are this project's choice: the paper's text does not give them.
"""

from __future__ import annotations

from scipy import special

from benchmarks.tasks.base import Array, Formula, Sizes

_SIZES = Sizes(train=320, validation=200, test=1000)


def _lpmv(degree: Array, x: Array) -> Array:
    values: Array = special.lpmv(0, degree, x)
    return values


TASKS = (
    Formula(
        name="ellipkinc",
        family="special",
        text="incomplete elliptic integral F(phi, m), phi in [0, 1.5], m in [0, 0.95], two irrelevant inputs",
        formula=special.ellipkinc,
        ranges=((0.0, 1.5), (0.0, 0.95)),
        irrelevant=2,
        hidden=(5,),
        sizes=_SIZES,
        seed=201,
    ),
    Formula(
        name="jv",
        family="special",
        text="Bessel function J_v(x), v in [0, 3], x in [0, 10], two irrelevant inputs",
        formula=special.jv,
        ranges=((0.0, 3.0), (0.0, 10.0)),
        irrelevant=2,
        hidden=(5,),
        sizes=_SIZES,
        seed=202,
    ),
    Formula(
        name="lpmv",
        family="special",
        text="Legendre function P_v(x), v in [0, 4], x in [-0.95, 0.95], two irrelevant inputs",
        formula=_lpmv,
        ranges=((0.0, 4.0), (-0.95, 0.95)),
        irrelevant=2,
        hidden=(5,),
        sizes=_SIZES,
        seed=203,
    ),
)
