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
    return _usable(center, _DEVIATIONS * deviation, values)


def standard(values: Array, weight: Array | None) -> Affine:
    """The map of ``values`` ``(N, I)`` to mean 0 and deviation 1, weighted; a constant column goes to 0."""
    return _usable(*moments(values, weight), values)


def moments(values: Array, weight: Array | None) -> tuple[Array, Array]:
    """Mean and standard deviation of columns, weighted: ``(I,)`` each."""
    center = np.average(values, axis=0, weights=weight)
    return center, np.sqrt(np.average(np.square(values - center), axis=0, weights=weight))


def _usable(center: Array, scale: Array, values: Array) -> Affine:
    """Without scales that are zero but for rounding."""
    rounding = 10 * np.finfo(np.float64).eps * np.abs(values).max(axis=0)
    return Affine(center, np.where(scale > rounding, scale, 1.0))
