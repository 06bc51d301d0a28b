"""Statistics over tasks and seeds: the mean over tasks of means over seeds, its intervals and tests; curves and rates.

Values are given as one array of seeds for each task; tasks may have different numbers of seeds. Every random draw comes from a
generator that the caller gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from benchmarks.analysis.stats import Interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """An estimate of a mean with its standard error and the degrees of freedom of Student's t.

    An `error` of NaN says that it cannot be told, as from a single seed; then every interval is unbounded.
    """

    value: float
    error: float
    freedom: float

    def interval(self, confidence: float) -> Interval:
        """Student's interval."""
        if math.isnan(self.error):
            return Interval(self.value, -math.inf, math.inf)
        width = self.error * float(stats.t.ppf((1 + confidence) / 2, self.freedom)) if self.error > 0 else 0.0
        return Interval(self.value, self.value - width, self.value + width)

    def p_above(self, bound: float) -> float:
        """One-sided p-value for a mean above `bound`: of the same statistic as the interval."""
        if math.isnan(self.error):
            return 1.0
        if self.error == 0:
            return 0.0 if self.value > bound else 1.0
        return float(stats.t.sf((self.value - bound) / self.error, self.freedom))

    def p_below(self, bound: float) -> float:
        """One-sided p-value for a mean below `bound`."""
        return Estimate(-self.value, self.error, self.freedom).p_above(-bound)


def over_seeds(tasks: Sequence[ArrayLike]) -> Estimate:
    """Mean over tasks of the mean over seeds, tasks fixed and seeds random: degrees of freedom by Welch and Satterthwaite."""
    values = _checked(tasks)
    parts = np.array([task.var(ddof=1) / task.size if task.size > 1 else math.nan for task in values]) / len(values) ** 2
    degrees = np.array([max(task.size - 1, 1) for task in values])
    total = float(parts.sum())
    freedom = total**2 / float((parts**2 / degrees).sum()) if total > 0 else math.inf
    return Estimate(_mean(values), math.sqrt(total) if not math.isnan(total) else math.nan, freedom)


def over_tasks(tasks: Sequence[ArrayLike]) -> Estimate:
    """The same mean with tasks a sample of others like them: the spread of their means holds that of seeds too."""
    values = _checked(tasks)
    means = np.array([task.mean() for task in values])
    error = float(means.std(ddof=1)) / math.sqrt(means.size) if means.size > 1 else math.nan
    return Estimate(_mean(values), error, max(means.size - 1, 1))


def without_one(tasks: Sequence[ArrayLike]) -> tuple[float, float]:
    """The smallest and the largest mean when each task is left out in turn; of a single task its mean."""
    means = [float(task.mean()) for task in _checked(tasks)]
    if len(means) == 1:
        return means[0], means[0]
    left = [(math.fsum(means) - mean) / (len(means) - 1) for mean in means]
    return min(left), max(left)


def wilson(successes: int, total: int, confidence: float = 0.95) -> Interval:
    """A rate with Wilson's score interval. Raises ValueError unless 0 <= successes <= total and there is one."""
    if not 0 <= successes <= total or total < 1:
        raise ValueError(f"successes: expected 0 to total, and a total of at least 1, got {successes} of {total}")
    found = stats.binomtest(successes, total).proportion_ci(confidence, method="wilson")
    rate = successes / total
    return Interval(rate, min(float(found.low), rate), max(float(found.high), rate))


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


def _mean(values: Sequence[Array]) -> float:
    return math.fsum(float(task.mean()) for task in values) / len(values)


def _checked(tasks: Sequence[ArrayLike]) -> list[Array]:
    values = [np.asarray(task, dtype=float) for task in tasks]
    if not values or any(task.ndim != 1 or task.size == 0 or not np.isfinite(task).all() for task in values):
        shapes = ", ".join(str(task.shape) for task in values) or "none"
        raise ValueError(f"tasks: expected one or more arrays (seeds,) of finite values, got {shapes}")
    return values
