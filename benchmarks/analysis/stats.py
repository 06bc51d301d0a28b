"""Statistics of paired times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A value with the two ends of its confidence interval."""

    value: float
    low: float
    high: float


def paired_ratio(
    processes: Sequence[tuple[ArrayLike, ArrayLike]],
    rng: np.random.Generator,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Return the ratio arm / baseline over one or more processes, with its confidence interval.

    Each process gives `(arm, baseline)`: (n,) positive times, of which entry i of both was taken in the same pair. Pairing
    cancels the drift of the machine, the logarithm makes a/b and b/a mirror each other. The value is exp of the mean over
    processes of the median of paired log-ratios.

    The interval is, at each end, the wider of two: the percentile bootstrap over pairs within each process (the jackknife
    inside BCa is degenerate for a median), and with two processes or more Student's t over the processes' medians. The
    first alone is too narrow, as where memory happens to lie shifts all pairs of a process alike; the second alone would rest
    on a handful of numbers that may agree by chance. With a single pair in any process the first knows nothing: (0, inf).

    Raises ValueError on empty, unequal or non-positive input.
    """
    if not processes:
        raise ValueError("processes: expected at least one, got none")
    logs = [_log_ratios(arm, baseline) for arm, baseline in processes]
    medians = np.array([np.median(one) for one in logs])
    value = float(medians.mean())
    if any(one.size == 1 for one in logs):
        return Interval(math.exp(value), 0.0, math.inf)
    found = stats.bootstrap(
        logs,
        _mean_of_medians,
        confidence_level=confidence,
        n_resamples=resamples,
        method="percentile",
        rng=rng,
        vectorized=True,
    ).confidence_interval
    low, high = min(float(found.low), value), max(float(found.high), value)
    if medians.size > 1:
        reach = float(stats.t.ppf((1 + confidence) / 2, medians.size - 1) * medians.std(ddof=1) / math.sqrt(medians.size))
        low, high = min(low, value - reach), max(high, value + reach)
    return Interval(math.exp(value), math.exp(low), math.exp(high))


def _log_ratios(arm: ArrayLike, baseline: ArrayLike) -> NDArray[np.float64]:
    a, b = np.asarray(arm, dtype=float), np.asarray(baseline, dtype=float)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise ValueError(f"arm, baseline: expected equal non-empty shapes (n,), got {a.shape} and {b.shape}")
    if not (np.all(a > 0) and np.all(b > 0)):
        raise ValueError("arm, baseline: expected positive times, got a zero, a negative or NaN")
    return np.asarray(np.log(a / b), dtype=np.float64)


def _mean_of_medians(*samples: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    return np.asarray(np.mean([np.median(sample, axis=axis) for sample in samples], axis=0), dtype=np.float64)
