"""Affine maps of columns: inputs into the grid, targets to mean 0 and deviation 1. Computed in float64.

Shape legend: ``N`` samples, ``I`` columns.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from efficient_kan import _checks

Scaling = Literal["range", "standard"]
Array = NDArray[np.float64]
# Deviations from the mean that reach the end of the grid.
_DEVIATIONS = 3.0


class Affine(NamedTuple):
    """``(values - center) / scale``, column by column."""

    center: Array  # shape: (I,)
    scale: Array  # shape: (I,)

    def apply(self, values: Array) -> Array:
        """``values`` ``(N, I)`` on the new scale."""
        return (values - self.center) / self.scale

    def undo(self, values: Array) -> Array:
        """``values`` ``(N, I)`` on the old scale."""
        return values * self.scale + self.center


def into_grid(values: Array, weight: Array | None, scaling: Any) -> Affine:
    """The map of inputs ``(N, I)`` into the grid's range [-1, 1]; a constant column goes to 0.

    - ``"range"``: the smallest value goes to -1, the largest to 1;
    - ``"standard"``: the mean goes to 0, three standard deviations (weighted) to 1; some values may lie outside;
    - ``None``: as they are.
    """
    _checks.require(scaling is None or scaling in get_args(Scaling), "scaling", f"one of {(*get_args(Scaling), None)}", scaling)
    if scaling is None:
        return Affine(np.zeros(values.shape[1]), np.ones(values.shape[1]))
    if scaling == "range":
        low, high = values.min(axis=0), values.max(axis=0)
        return _usable(low / 2 + high / 2, high / 2 - low / 2, values)
    center, deviation = moments(values, weight)
    wide = deviation.max() > np.finfo(np.float64).max / _DEVIATIONS
    _checks.require(not wide, "X", "columns of which three standard deviations are finite", deviation)
    return _usable(center, _DEVIATIONS * deviation, values)


def standard(values: Array, weight: Array | None) -> Affine:
    """The map of ``values`` ``(N, I)`` to mean 0 and deviation 1, weighted; a constant column goes to 0."""
    return _usable(*moments(values, weight), values)


def moments(values: Array, weight: Array | None) -> tuple[Array, Array]:
    """Mean and standard deviation of columns, weighted: ``(I,)`` each. Squares are those of values in [-1, 1]."""
    exponent = _exponent(np.abs(values).max(axis=0))
    parts = np.ldexp(values, -exponent)
    center = np.average(parts, axis=0, weights=weight)
    deviation = np.sqrt(np.average(np.square(parts - center), axis=0, weights=weight))
    return np.ldexp(center, exponent), np.ldexp(deviation, exponent)


def relative(weight: Array) -> Array:
    """Weights ``(N,)`` times a power of two, by which the largest is in [0.5, 1)."""
    scaled: Array = np.ldexp(weight, -_exponent(weight.max()))
    return scaled


def _exponent(largest: Any) -> Any:
    """The exponents of the powers of two next above ``largest``, by which products are exact."""
    return np.frexp(largest)[1]


def _usable(center: Array, scale: Array, values: Array) -> Affine:
    """Without scales that are zero but for rounding: these become 1, or more where 1 would let rounding show.

    The range decides, too: the mean of a constant column may be rounded, and then its deviation is not zero.
    """
    low, high, eps = values.min(axis=0) / 2, values.max(axis=0) / 2, np.finfo(np.float64).eps
    largest = np.abs(values).max(axis=0)
    varies = np.minimum(scale, high - low) > 10 * eps * largest
    return Affine(np.where(varies, center, low + high), np.where(varies, scale, np.maximum(1.0, np.sqrt(eps) * largest)))
