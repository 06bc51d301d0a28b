"""What the rules of statuses share: errors of several seeds, intervals, words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import stats

from benchmarks.papers.experiment import Line, Result

_Z = 1.959963984540054


def of(results: Iterable[Result], *, row: str | None = None, model: str | None = None) -> list[Result]:
    """The results of that row and model."""
    return [one for one in results if row in (None, one.run.row) and model in (None, one.run.model)]


def models(results: Iterable[Result]) -> list[str]:
    """Their models, in order."""
    return list(dict.fromkeys(one.run.model for one in results))


def rows(results: Iterable[Result]) -> list[str]:
    """Their rows, in order."""
    return list(dict.fromkeys(one.run.row for one in results))


def values(results: Iterable[Result], name: str = "error") -> list[float]:
    """The finite numbers called `name` of those that ended well."""
    found = (one.part.get(name) for one in results if one.part is not None)
    return [float(one) for one in found if one is not None and math.isfinite(one)]


def lowest(results: Iterable[Result], name: str = "error") -> float:
    """The smallest over models and seeds, as the papers report it; infinite if there is none."""
    return min(values(results, name), default=math.inf)


def median(results: Iterable[Result], name: str = "error") -> float:
    """The median over seeds, infinite if there is none."""
    found = values(results, name)
    return float(np.median(found)) if found else math.inf


def mean_interval(numbers: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of Student's t; one number has an interval without ends."""
    if not numbers:
        return math.nan, math.nan, math.nan
    mean = float(np.mean(numbers))
    if len(numbers) < 2:
        return mean, -math.inf, math.inf
    reach = float(stats.t.ppf(0.975, len(numbers) - 1) * np.std(numbers, ddof=1) / math.sqrt(len(numbers)))
    return mean, mean - reach, mean + reach


def tried(results: Iterable[Result]) -> list[Result]:
    """Those that were run, failures among them, which count in every rate; what is not supported, skipped or lost does not."""
    return [one for one in results if one.status not in ("unsupported", "skipped_by_frontier") and not one.lost]


def failures(results: Iterable[Result]) -> str:
    """'; 2 of them failed (error, timeout)', for the reason of a rate; empty if none did."""
    lost = [one.status for one in tried(results) if one.part is None]
    return f"; {len(lost)} of them failed ({', '.join(sorted(set(lost)))})" if lost else ""


def rate_interval(successes: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate."""
    share, n = successes / count, count
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    reach = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def unmeasured(row: str, quantity: str, paper: str, results: Sequence[Result]) -> Line:
    """The line of what has no value, with the statuses of its cases as the reason."""
    statuses = sorted({one.status for one in results if one.part is None}) or ["no case"]
    return Line(row, quantity, paper, "–", "not measured", f"no value: {', '.join(statuses)}")


def short(value: float) -> str:
    """A number in two digits."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.2g}" if 1e-2 <= abs(value) < 1e4 or value == 0 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
