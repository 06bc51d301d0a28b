"""Statistics of paired times."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A value with the two ends of its confidence interval."""

    value: float
    low: float
    high: float


def paired_ratio(
    arm: ArrayLike, baseline: ArrayLike, rng: np.random.Generator, *, confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """Return the ratio arm / baseline: exp of the median of paired log-ratios, with a bootstrap interval over pairs.

    `arm` and `baseline` are (n,) positive times; entry i of both was taken in the same pair. Pairing cancels the drift of the
    machine, the logarithm makes a/b and b/a mirror each other. The percentile interval is used: the jackknife
    inside BCa is degenerate for a median. A single pair gives an interval of (0, inf): nothing is known.

    Raises ValueError on empty, unequal or non-positive input.
    """
    a, b = np.asarray(arm, dtype=float), np.asarray(baseline, dtype=float)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise ValueError(f"arm, baseline: expected equal non-empty shapes (n,), got {a.shape} and {b.shape}")
    if not (np.all(a > 0) and np.all(b > 0)):
        raise ValueError("arm, baseline: expected positive times, got a zero, a negative or NaN")
    logs = np.log(a / b)
    value = math.exp(float(np.median(logs)))
    if logs.size == 1:
        return Interval(value, 0.0, math.inf)
    found = stats.bootstrap(
        (logs,), np.median, confidence_level=confidence, n_resamples=resamples, method="percentile", rng=rng
    ).confidence_interval
    return Interval(value, math.exp(float(found.low)), math.exp(float(found.high)))
