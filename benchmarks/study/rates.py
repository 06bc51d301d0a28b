"""What people want sparsity for, as rates per penalty: the exact structure, the exact formula, dead inputs, few edges."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from benchmarks.study.rule import Rule
from benchmarks.study.statistics import wilson


def rates(choices: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """One line per penalty and measure with the rate, its Wilson interval and the number of networks.

    - `exact structure`, of the tasks whose smallest network is known; a choice that failed is no success;
    - `exact formula` by each fitter, of the networks whose edges were fitted; a choice that failed is no success;
    - `dead inputs`: all irrelevant inputs cut off by pruning to the true size, of the tasks that have such;
    - `error L at the true size`: pruned to as many edges as the smallest network has, or fewer, and refitted it has at most L.
    """
    dead = _column(choices, "dead_inputs")
    with_dead = {task for task, share in zip(choices["task"], dead, strict=True) if not _missing(share)}
    parts = choices.groupby("penalty", sort=False)
    lines = [line for penalty, part in parts for line in _of(str(penalty), part, with_dead, rule)]
    return pd.DataFrame(lines)


def _of(penalty: str, part: pd.DataFrame, with_dead: set[str], rule: Rule) -> Iterator[dict[str, object]]:
    known = part[part["true_size"].notna()]
    right = [bool(exact) and not lost for exact, lost in zip(known["exact_structure"], known["failed"], strict=True)]
    yield from _line(penalty, "exact structure", "", right)
    named = zip(_column(part, "formula"), part["failed"], strict=True)
    formulas = [(found or {}, lost) for found, lost in named]
    for fitter in dict.fromkeys(name for found, _ in formulas for name in found):
        exact = [found[fitter] and not lost for found, lost in formulas if fitter in found]
        yield from _line(penalty, "exact formula", fitter, exact)
    if "dead_inputs" in part:
        own = part[part["task"].isin(with_dead)]
        cut = [share == 1 and not lost for share, lost in zip(own["dead_inputs"], own["failed"], strict=True)]
        yield from _line(penalty, "dead inputs", "", cut)
    for level in rule.levels:
        sizes = zip(known[f"edges_{level:g}"], known["true_size"], strict=True)
        yield from _line(penalty, f"error {level:g} at the true size", "", [edges <= size for edges, size in sizes])


def _column(frame: pd.DataFrame, name: str) -> list[Any]:
    return list(frame[name]) if name in frame else [None] * len(frame)


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _line(penalty: str, measure: str, by: str, successes: list[bool]) -> Iterator[dict[str, object]]:
    if successes:
        found = wilson(sum(successes), len(successes))
        yield {
            "penalty": penalty, "measure": measure, "by": by, "successes": sum(successes), "networks": len(successes),
            "rate": found.value, "rate_low": found.low, "rate_high": found.high,
        }  # fmt: skip
