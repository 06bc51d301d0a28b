"""Special functions of two variables, as in table 1 of the KAN paper (arXiv 2404.19756), with irrelevant inputs added.

Ranges are this project's choice: the paper's text does not give them.
"""

from __future__ import annotations

import math

from scipy import special

from benchmarks.tasks.base import Array, Formula, Sizes

_SIZES = Sizes(train=320, validation=200, test=1000)


def _lpmv(degree: Array, x: Array) -> Array:
    values: Array = special.lpmv(0, degree, x)
    return values


def _sn(u: Array, m: Array) -> Array:
    values: Array = special.ellipj(u, m)[0]
    return values


def _harmonic(polar: Array, azimuth: Array) -> Array:
    """Real part of the spherical harmonic of degree 2 and order 1."""
    values: Array = special.sph_harm_y(2, 1, polar, azimuth).real
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

MORE = (
    Formula(
        name="ellipeinc",
        family="special",
        text="incomplete elliptic integral E(phi, m), phi in [0, 1.5], m in [0, 0.95], two irrelevant inputs",
        formula=special.ellipeinc,
        ranges=((0.0, 1.5), (0.0, 0.95)),
        irrelevant=2,
        hidden=(5,),
        sizes=_SIZES,
        seed=211,
    ),
    Formula(
        name="ellipj",
        family="special",
        text="Jacobi elliptic function sn(u, m), u in [0, 5], m in [0, 0.95], two irrelevant inputs",
        formula=_sn,
        ranges=((0.0, 5.0), (0.0, 0.95)),
        irrelevant=2,
        hidden=(5,),
        sizes=_SIZES,
        seed=212,
    ),
    Formula(
        name="kv",
        family="special",
        text="Bessel function K_v(x), v in [0, 2], x in [0.5, 4], two irrelevant inputs",
        formula=special.kv,
        ranges=((0.0, 2.0), (0.5, 4.0)),
        irrelevant=2,
        hidden=(5,),
        sizes=_SIZES,
        seed=213,
    ),
    Formula(
        name="iv",
        family="special",
        text="Bessel function I_v(x), v in [0, 3], x in [0, 4], two irrelevant inputs",
        formula=special.iv,
        ranges=((0.0, 3.0), (0.0, 4.0)),
        irrelevant=2,
        hidden=(5,),
        sizes=_SIZES,
        seed=214,
    ),
    Formula(
        name="yv",
        family="special",
        text="Bessel function Y_v(x), v in [0, 2], x in [1, 9], two irrelevant inputs",
        formula=special.yv,
        ranges=((0.0, 2.0), (1.0, 9.0)),
        irrelevant=2,
        hidden=(5,),
        sizes=_SIZES,
        seed=215,
    ),
    Formula(
        name="sph21",
        family="special",
        text="real part of the spherical harmonic Y_2^1, polar angle in [0, pi], azimuth in [0, 2 pi], two irrelevant inputs",
        formula=_harmonic,
        ranges=((0.0, math.pi), (0.0, 2 * math.pi)),
        irrelevant=2,
        hidden=(5,),
        sizes=_SIZES,
        seed=216,
    ),
)
