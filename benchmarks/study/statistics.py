"""Statistics over tasks and seeds (Agarwal et al., *Deep RL at the edge of the statistical precipice*, NeurIPS 2021).

Values are given as one array of seeds for each task; tasks may have different numbers of seeds. Every random draw comes from a
generator that the caller gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.analysis.stats import Interval

Array = NDArray[np.float64]


def interquartile_mean(values: ArrayLike) -> Array:
    """Mean of the middle half along the last axis; a value on a quartile counts with the part of it that lies inside.

    So no value is lost to rounding when their number is no multiple of four: `scipy.stats.trim_mean` would cut fewer.
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=-1)
    n = ordered.shape[-1]
    if n == 0:
        raise ValueError("values: expected at least one along the last axis, got none")
    edges = np.arange(n + 1) / n
    weight = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    result: Array = (ordered * weight).sum(-1) / weight.sum()
    return result


def bootstrap_interval(
    tasks: Sequence[ArrayLike], rng: np.random.Generator, *, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """Interquartile mean over all tasks and seeds, with a percentile interval: seeds are drawn again within each task."""
    values = _checked(tasks)
    drawn = [task[rng.integers(0, task.size, (resamples, task.size))] for task in values]
    found = interquartile_mean(np.concatenate(drawn, axis=1))
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    value = float(interquartile_mean(np.concatenate(values)))
    return Interval(value, min(float(low), value), max(float(high), value))


def sign_flip_p(differences: Sequence[ArrayLike], rng: np.random.Generator, *, resamples: int = 10_000) -> float:
    """One-sided p-value for differences above zero: how often flipped signs give as large a mean.

    The mean, because flipping the outer quarters leaves an interquartile mean as it is: few differences, however clear, could
    never have a small p-value. The identity counts as one of the flips, so that the value is never zero. Where all differences
    are zero it is one.
    """
    values = np.concatenate(_checked(differences))
    # Rounding of equal sums must not turn a tie into a win.
    seen = float(values.mean()) - 1e-12 * float(np.abs(values).max(initial=0.0))
    signs = rng.choice((-1.0, 1.0), (resamples, values.size))
    return float((1 + (signs @ values / values.size >= seen).sum()) / (1 + resamples))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values, in the order given (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    corrected = [0.0] * len(order)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def probability_of_improvement(
    candidate: Sequence[ArrayLike],
    reference: Sequence[ArrayLike],
    rng: np.random.Generator,
    *,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> Interval:
    """Mean over tasks of the chance that a run of `candidate` has a smaller value than one of `reference`; a tie is half.

    The interval is a percentile bootstrap over seeds within each task and side.
    """
    sides = [(_checked([a])[0], _checked([b])[0]) for a, b in zip(candidate, reference, strict=True)]
    value = math.fsum(float(_wins(a, b)) for a, b in sides) / len(sides)
    drawn = np.zeros(resamples)
    for a, b in sides:
        again = (side[rng.integers(0, side.size, (resamples, side.size))] for side in (a, b))
        drawn += _wins(*again)
    low, high = np.quantile(drawn / len(sides), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, min(float(low), value), max(float(high), value))


def _wins(a: Array, b: Array) -> Array:
    a, b = a[..., :, None], b[..., None, :]
    result: Array = ((a < b) + (a == b) / 2).mean((-2, -1))
    return result


def _checked(tasks: Sequence[ArrayLike]) -> list[Array]:
    values = [np.asarray(task, dtype=float) for task in tasks]
    if not values or any(task.ndim != 1 or task.size == 0 or not np.isfinite(task).all() for task in values):
        shapes = ", ".join(str(task.shape) for task in values) or "none"
        raise ValueError(f"tasks: expected one or more arrays (seeds,) of finite values, got {shapes}")
    return values
