"""Numbers of one pruning curve: errors against the edges that are left. Imports no torch and no pandas."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmarks import tasks
from benchmarks.study.rule import Rule


def area(counts: Sequence[int], errors: Sequence[float | None], rule: Rule, start: int = 1) -> float:
    """Mean of ln(error) over ln(edges) from `start` edges on, by the trapezoidal rule, interpolated at `start`.

    Errors are clipped as declared, a missing one is at the ceiling. A curve that ends before `start` counts by its last point.
    """
    values = np.array([rule.ceiling if error is None else error for error in errors], dtype=float)
    logs = np.log(np.clip(np.nan_to_num(values, nan=rule.ceiling), rule.floor, rule.ceiling))
    places = np.log(np.asarray(counts, dtype=float))
    first = min(max(math.log(start), places[0]), places[-1])
    beyond = places > first
    if not beyond.any():
        return float(logs[-1])
    logs = np.concatenate([[np.interp(first, places, logs)], logs[beyond]])
    places = np.concatenate([[first], places[beyond]])
    return float(np.trapezoid(logs, places) / (places[-1] - places[0]))


def fewest_edges(counts: Sequence[int], errors: Sequence[float | None], level: float) -> float:
    """The fewest edges whose error is at most `level`; infinity if no count reaches it."""
    reached = [count for count, error in zip(counts, errors, strict=True) if error is not None and error <= level]
    return float(min(reached, default=math.inf))


def true_size(task: tasks.Task) -> int | None:
    """Edges of the smallest network that computes the target; None if that is not known."""
    return tasks.edges_of(task.truth) if task.truth is not None else None


def start_of(task: tasks.Task | None, rule: Rule) -> int:
    """Where the area of a task begins; `task` is None for one of a plugin that is not loaded."""
    known = true_size(task) if task is not None else None
    return known or rule.least_edges
