"""From the rows of the study to its verdict, by the declared rule. Everything here is arithmetic on a sparsity frame.

A *run* is one trained network; a *choice* is the run with the smallest validation area of its penalty, task and seed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks import tasks
from benchmarks.analysis.stats import Interval
from benchmarks.study import statistics
from benchmarks.study.penalties import parse
from benchmarks.study.rule import Rule

UNIT = ["task", "seed"]


def area(counts: Sequence[int], errors: Sequence[float | None], rule: Rule) -> float:
    """Mean of ln(error) over ln(edges), by the trapezoidal rule; errors clipped as declared, a missing one at the ceiling."""
    values = np.array([rule.ceiling if error is None else error for error in errors], dtype=float)
    logs = np.log(np.clip(np.nan_to_num(values, nan=rule.ceiling), rule.floor, rule.ceiling))
    places = np.log(np.asarray(counts, dtype=float))
    if len(places) < 2:
        return float(logs[0])
    return float(np.trapezoid(logs, places) / (places[-1] - places[0]))


def fewest_edges(counts: Sequence[int], errors: Sequence[float | None], level: float) -> float:
    """The fewest edges whose error is at most `level`; infinity if no count reaches it."""
    reached = [count for count, error in zip(counts, errors, strict=True) if error is not None and error <= level]
    return float(min(reached, default=math.inf))


def with_areas(frame: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Add to a sparsity frame: family, `validation_area`, `test_area`, `failed`, and `edges_<level>` for each level.

    Cases that could not be run at all (a package is missing) have no runs and are left out; failed ones have the area of the
    ceiling.
    """
    frame = frame[frame["status"] != "unsupported"]
    failed = (frame["status"] != "ok") | frame["diverged"].fillna(True).astype(bool)
    curves = {"validation_area": "validation", "test_area": "test", "before_area": "before"}
    made = {
        name: [
            area(counts, [None] * len(counts) if lost else errors, rule)
            for counts, errors, lost in zip(frame["edge_counts"], frame[curve], failed, strict=True)
        ]
        for name, curve in curves.items()
    }
    made |= {
        f"edges_{level:g}": [
            math.inf if lost else fewest_edges(counts, errors, level)
            for counts, errors, lost in zip(frame["edge_counts"], frame["test"], failed, strict=True)
        ]
        for level in rule.levels
    }
    families = [tasks.get_task(name).family if name in _known() else "unknown" for name in frame["task"]]
    return frame.assign(**made, failed=failed, family=families)


def _known() -> set[str]:
    return {task.name for task in tasks.all_tasks()}


def chosen(runs: pd.DataFrame) -> pd.DataFrame:
    """The choice of each penalty, task and seed; of equal areas the weaker strength. `strengths` and `failures` are counted."""
    keys = ["penalty", *UNIT]
    ranked = runs.assign(order=runs["validation_area"].where(~runs["failed"], math.inf))
    best = ranked.sort_values([*keys, "order", "strength"], kind="stable").drop_duplicates(keys)
    counted = runs.groupby(keys).agg(strengths=("strength", "size"), failures=("failed", "sum")).reset_index()
    return best.drop(columns="order").merge(counted, on=keys, validate="one_to_one")


def paired(choices: pd.DataFrame, candidate: str, reference: str, column: str = "test_area") -> pd.DataFrame:
    """Differences candidate − reference at every task and seed that both have: task, seed, family, `d` and both values."""
    sides = [choices.loc[choices["penalty"] == name, [*UNIT, "family", column]] for name in (candidate, reference)]
    both = sides[0].merge(sides[1].drop(columns="family"), on=UNIT, suffixes=("_candidate", "_reference"))
    both = both.sort_values(UNIT, kind="stable")
    return both.assign(d=both[f"{column}_candidate"] - both[f"{column}_reference"])


@dataclass(frozen=True)
class _Compared:
    """One comparison in one family before correction."""

    family: str
    candidate: str
    reference: str
    tasks: int
    seeds: int
    effect: Interval
    improvement: Interval
    p_worse: float
    p_within: float


def verdicts(choices: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """One line per family and comparison: effect with interval, corrected p-values and the verdict of RULE.md."""
    found = []
    for comparison in rule.comparison:
        for family in rule.families:
            found.append(_compare(choices, family, comparison.candidate, comparison.reference, math.log1p(rule.margin), rule))
    present = [one for one in found if isinstance(one, _Compared)]
    worse, within = (statistics.holm([getattr(one, name) for one in present]) for name in ("p_worse", "p_within"))
    lines = []
    for one, p_worse, p_within in zip(present, worse, within, strict=True):
        lines.append(_line(one) | {"p_worse": p_worse, "p_within": p_within, "verdict": _judge(one, p_worse, p_within, rule)})
    for family, candidate, reference in (one for one in found if not isinstance(one, _Compared)):
        lines.append({"family": family, "candidate": candidate, "reference": reference, "verdict": "no rows"})
    return pd.DataFrame(lines)


def against_none(choices: pd.DataFrame, penalties: Sequence[str], rule: Rule) -> pd.DataFrame:
    """One line per family and penalty: whether it helps against no penalty, by the same arithmetic with margin 0."""
    found = [
        _compare(choices, family, name, "none", 0.0, rule) for name in penalties if name != "none" for family in rule.families
    ]
    present = [one for one in found if isinstance(one, _Compared)]
    worse, better = (statistics.holm([getattr(one, name) for one in present]) for name in ("p_worse", "p_within"))
    lines = []
    for one, p_worse, p_better in zip(present, worse, better, strict=True):
        change = 100 * abs(math.expm1(one.effect.value))
        if one.effect.high < 0 and p_better < rule.alpha:
            verdict = f"helps by {change:.0f} %"
        elif one.effect.low > 0 and p_worse < rule.alpha:
            verdict = f"harms by {change:.0f} %"
        else:
            verdict = f"undecided at {one.seeds} seeds"
        lines.append(_line(one) | {"p_worse": p_worse, "p_better": p_better, "verdict": verdict})
    return pd.DataFrame(lines)


def _compare(
    choices: pd.DataFrame, family: str, candidate: str, reference: str, margin: float, rule: Rule
) -> _Compared | tuple[str, str, str]:
    pairs = paired(choices[choices["family"] == family], candidate, reference)
    if pairs.empty:
        return family, candidate, reference
    groups = [part for _, part in pairs.groupby("task", sort=True)]
    differences = [part["d"].to_numpy() for part in groups]
    # Seeded by what is compared: the numbers are the same beside whatever other comparisons are made.
    seeds = [rule.seed, zlib.crc32(f"{family}/{candidate}/{reference}/{margin:g}".encode())]
    rng = np.random.default_rng(seeds)
    return _Compared(
        family=family,
        candidate=candidate,
        reference=reference,
        tasks=len(groups),
        seeds=int(pairs.groupby("task").size().min()),
        effect=statistics.bootstrap_interval(differences, rng, confidence=rule.confidence, resamples=rule.resamples),
        improvement=statistics.probability_of_improvement(
            [part["test_area_candidate"].to_numpy() for part in groups],
            [part["test_area_reference"].to_numpy() for part in groups],
            rng,
            confidence=rule.confidence,
        ),
        p_worse=statistics.sign_flip_p(differences, rng, resamples=rule.resamples),
        p_within=statistics.sign_flip_p([margin - d for d in differences], rng, resamples=rule.resamples),
    )


def _line(one: _Compared) -> dict[str, object]:
    line: dict[str, object] = {name: getattr(one, name) for name in ("family", "candidate", "reference", "tasks", "seeds")}
    line |= {"effect": one.effect.value, "effect_low": one.effect.low, "effect_high": one.effect.high}
    return line | {
        "improvement": one.improvement.value,
        "improvement_low": one.improvement.low,
        "improvement_high": one.improvement.high,
    }


def _judge(one: _Compared, p_worse: float, p_within: float, rule: Rule) -> str:
    effect, percent = one.effect, 100 * abs(math.expm1(one.effect.value))
    if effect.high < math.log1p(rule.margin) and p_within < rule.alpha:
        if effect.high < 0:
            return f"adequate (better by {percent:.0f} %)"
        return f"adequate (worse by {percent:.0f} %, within the margin)" if effect.low > 0 else "adequate"
    if effect.low > 0 and p_worse < rule.alpha:
        return f"worse by {percent:.0f} %"
    return f"undecided at {one.seeds} seeds"


def ends(runs: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Whether the strengths of each penalty reach from no effect to collapse: one line per penalty and task.

    `weakest_change` is |ln(test error / that without penalty)| at the weakest strength, nothing pruned; `strongest_norm` the
    penalty's own L1 term at the strongest, over that without penalty. Medians over seeds.
    """
    plain = runs[runs["penalty"] == "none"].set_index(UNIT)
    lines = []
    for (penalty, task), part in runs[runs["penalty"] != "none"].groupby(["penalty", "task"], sort=False):
        norm, _ = parse(str(penalty))
        weak, strong = (
            part[part["strength"] == end].set_index(UNIT) for end in (part["strength"].min(), part["strength"].max())
        )
        both = weak.index.intersection(plain.index)
        change = np.log(weak.loc[both, "test_error"].astype(float) / plain.loc[both, "test_error"].astype(float)).abs().median()
        sums = [[(norms or {}).get(norm) for norms in side["norms"]] for side in (strong.loc[both], plain.loc[both])]
        share = (pd.Series(sums[0], dtype=float) / pd.Series(sums[1], dtype=float)).median()
        lines.append(
            {
                "penalty": penalty,
                "task": task,
                "weakest": part["strength"].min(),
                "weakest_change": change,
                "no_effect": bool(change <= rule.no_effect),
                "strongest": part["strength"].max(),
                "strongest_norm": share,
                "strongest_error": float(strong["test_error"].astype(float).median()),
                "collapse": bool(share <= rule.collapse),
            }
        )
    return pd.DataFrame(lines)


def cross_check(own: pd.DataFrame, original: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """pykan's runs beside ours at the same task, seed and strength: one line per task with the difference of areas."""
    lines = []
    keys = [*UNIT, "strength"]
    both = original.merge(own, on=[*keys, "penalty"], suffixes=("_pykan", "_ours"))
    for task, part in both.groupby("task", sort=True):
        d = (part["test_area_pykan"] - part["test_area_ours"]).to_numpy()
        rng = np.random.default_rng([rule.seed, zlib.crc32(f"cross-check/{task}".encode())])
        found = statistics.bootstrap_interval([d], rng, confidence=rule.confidence, resamples=rule.resamples)
        equal = max(abs(found.low), abs(found.high)) < math.log1p(rule.cross_check.tolerance)
        lines.append(
            {
                "task": task,
                "arm": part["arm_pykan"].iloc[0],
                "runs": len(part),
                "difference": found.value,
                "difference_low": found.low,
                "difference_high": found.high,
                "largest": float(np.abs(d).max()),
                "verdict": "the same curve" if equal else "not the same curve",
            }
        )
    return pd.DataFrame(lines)
