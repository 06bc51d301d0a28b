"""From the rows of the study to its verdict, by the declared rule. Everything here is arithmetic on a sparsity frame.

A *run* is one trained network; the *choices* of a penalty on a task are its runs at the one strength that validation chose.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import tasks
from benchmarks.study import statistics
from benchmarks.study.curves import area, fewest_edges, start_of, true_size
from benchmarks.study.penalties import norm_of
from benchmarks.study.rule import Rule
from benchmarks.study.statistics import Estimate

UNIT = ["task", "seed"]
NO_ROWS, UNDECIDED = "no rows", "undecided"
WORDS = ("worse", "better", "adequate", UNDECIDED)  # what a comparison with all of its tasks ends in
SAME_CURVE, OTHER_CURVE = "the same curve", "not the same curve"


def with_areas(frame: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Add to a sparsity frame: family, areas, `true_size`, `failed`, `collapsed`, and `edges_<level>` for each level.

    `short_area` is that of the test errors after the first round of the refit. Cases that could not be run at all (a package is
    missing) have no runs and are left out; failed ones have the area of the ceiling.
    """
    frame = frame[frame["status"] != "unsupported"]
    failed = (frame["status"] != "ok") | frame["diverged"].fillna(True).astype(bool)
    known = {task.name: task for task in tasks.all_tasks()}
    starts = {name: start_of(known.get(name), rule) for name in set(frame["task"])}
    short = [one or whole for one, whole in zip(_column(frame, "short_test"), frame["test"], strict=True)]
    curves: dict[str, Any] = {
        "validation_area": frame["validation"], "test_area": frame["test"], "before_area": frame["before"], "short_area": short,
    }  # fmt: skip
    made: dict[str, Any] = {
        name: [
            area(counts, [None] * len(counts) if lost else errors, rule, starts[task])
            for counts, errors, lost, task in zip(frame["edge_counts"], curve, failed, frame["task"], strict=True)
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
    trained = pd.to_numeric(pd.Series(_column(frame, "train_error"), frame.index), errors="coerce")
    families = [known[name].family if name in known else "unknown" for name in frame["task"]]
    collapsed = ~failed & (trained > rule.collapsed) & (frame["penalty"] != "none")
    sizes = {name: true_size(known[name]) if name in known else None for name in set(frame["task"])}
    made |= {"true_size": [sizes[name] or math.nan for name in frame["task"]]}
    return frame.assign(**made, failed=failed, collapsed=collapsed, family=families)


def _column(frame: pd.DataFrame, name: str) -> list[Any]:
    return list(frame[name]) if name in frame else [None] * len(frame)


def chosen(runs: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """The runs of each penalty and task at its one strength: that of the smallest mean validation area over all seeds.

    A strength at which a network collapsed, or that lacks a seed, is no choice; of equals the weaker one is taken. Where a
    penalty has no strength left, its weakest counts at the ceiling and as failed. Added are `strengths` and `failures` of the
    penalty, task and seed, `no_choice`, and `own_strength`, which the seed's own validation would have chosen.
    """
    if runs.empty:
        return runs
    of_task = ["penalty", "task"]
    seeds = runs.groupby(of_task)["seed"].nunique().rename("wanted")
    by_strength = runs.groupby([*of_task, "strength"], sort=True).agg(
        seeds=("seed", "nunique"), area=("validation_area", "mean"), collapsed=("collapsed", "any")
    )
    by_strength = by_strength.reset_index().join(seeds, on=of_task)
    by_strength["no_choice"] = (by_strength["seeds"] != by_strength["wanted"]) | by_strength["collapsed"]
    by_strength["area"] = by_strength["area"].mask(by_strength["no_choice"], math.inf)
    ranked = by_strength.sort_values(["no_choice", "area", "strength"], kind="stable")
    best = ranked.drop_duplicates(of_task)[[*of_task, "strength", "no_choice"]]

    ranked = runs.assign(order=runs["validation_area"].mask(runs["collapsed"] | runs["failed"], math.inf))
    ranked = ranked.sort_values(["seed", "order", "strength"], kind="stable").drop_duplicates([*of_task, "seed"])
    own = ranked.set_index([*of_task, "seed"])["strength"].rename("own_strength")
    counted = runs.groupby([*of_task, "seed"]).agg(strengths=("strength", "size"), failures=("failed", "sum"))

    order = runs.groupby(of_task, sort=False).ngroup()
    taken = runs.assign(order=order).merge(best, on=[*of_task, "strength"]).sort_values("order", kind="stable")
    taken = taken.drop(columns="order").join(counted, on=[*of_task, "seed"]).join(own, on=[*of_task, "seed"])
    for name in taken.columns.intersection(["validation_area", "test_area", "before_area", "short_area"]):
        taken[name] = taken[name].mask(taken["no_choice"], math.log(rule.ceiling))
    return taken.assign(failed=taken["failed"] | taken["no_choice"]).reset_index(drop=True)


def paired(choices: pd.DataFrame, candidate: str, reference: str, column: str = "test_area") -> pd.DataFrame:
    """Differences candidate − reference at every task and seed that both have: task, seed, family, `d` and both values."""
    sides = [choices.loc[choices["penalty"] == name, [*UNIT, "family", column]] for name in (candidate, reference)]
    both = sides[0].merge(sides[1].drop(columns="family"), on=UNIT, suffixes=("_candidate", "_reference"))
    both = both.sort_values(UNIT, kind="stable")
    return both.assign(d=both[f"{column}_candidate"] - both[f"{column}_reference"])


def word(low: float, high: float, margin: float) -> str:
    """The verdict of an interval [low, high] of ln(ratio): the first that applies, see RULE.md."""
    if low > margin:
        return "worse"
    if high < -margin:
        return "better"
    return "adequate" if high < margin else UNDECIDED


@dataclass(frozen=True)
class Compared:
    """One comparison in one family: the estimate with tasks fixed and with tasks a sample of others like them.

    `trained` is how many tasks either penalty has; where that is more than `tasks`, which both have, there is no verdict.
    """

    family: str
    candidate: str
    reference: str
    tasks: int
    trained: int
    seeds: int
    these: Estimate
    like_these: Estimate
    without_one: tuple[float, float]

    @property
    def lacking(self) -> str:
        """Of how many tasks there are networks of both, in the place of a verdict; empty if of all."""
        return f"{self.tasks} of {self.trained} tasks" if self.tasks < self.trained else ""

    def line(self, seeds_confidence: float, tasks_confidence: float) -> dict[str, object]:
        """As a line of a table."""
        these, others = self.these.interval(seeds_confidence), self.like_these.interval(tasks_confidence)
        line: dict[str, object] = {name: getattr(self, name) for name in ("family", "candidate", "reference", "tasks", "seeds")}
        line |= {"effect": these.value, "effect_low": these.low, "effect_high": these.high}
        line |= {"tasks_low": others.low, "tasks_high": others.high}
        line |= dict(zip(("without_one_low", "without_one_high"), self.without_one, strict=True))
        return line | {"confidence": seeds_confidence, "tasks_confidence": tasks_confidence}


def compare(choices: pd.DataFrame, family: str, candidate: str, reference: str, column: str = "test_area") -> Compared | None:
    """Compare two penalties in a family; None without a task and seed that both have."""
    own = choices[choices["family"] == family]
    pairs = paired(own, candidate, reference, column)
    if pairs.empty:
        return None
    differences = [part["d"].to_numpy() for _, part in pairs.groupby("task", sort=True)]
    these, like_these = statistics.over_seeds(differences), statistics.over_tasks(differences)
    if these.error > like_these.error:  # a few task means may lie closer together than their own seeds allow
        like_these = replace(like_these, error=these.error)
    return Compared(
        family=family,
        candidate=candidate,
        reference=reference,
        tasks=len(differences),
        trained=own.loc[own["penalty"].isin([candidate, reference]), "task"].nunique(),
        seeds=min(len(one) for one in differences),
        these=these,
        like_these=like_these,
        without_one=statistics.without_one(differences),
    )


def verdicts(
    choices: pd.DataFrame, rule: Rule, *, confirmatory: Collection[str] = (), column: str = "test_area"
) -> pd.DataFrame:
    """One line per family and comparison: effect with intervals, p-values of the same statistics, and both verdicts of RULE.md.

    A comparison that lacks tasks of its family says of how many it has networks, in the place of both. In families
    that are `confirmatory` the intervals of the first comparison have the confidence that the rule corrects.
    """
    margin, lines = math.log1p(rule.margin), []
    for rank, (comparison, family) in enumerate((c, f) for c in rule.comparison for f in rule.families):
        corrected = family in confirmatory and rank < len(rule.families)
        found = compare(choices, family, comparison.candidate, comparison.reference, column)
        if found is None:
            lines.append({"family": family, **comparison.model_dump(), "verdict": NO_ROWS, "verdict_tasks": NO_ROWS})
            continue
        line = found.line(
            rule.seeds_confidence if corrected else rule.exploratory_confidence,
            rule.tasks_confidence if corrected else rule.exploratory_confidence,
        )
        for ending, estimate in (("", found.these), ("_tasks", found.like_these)):
            line |= {f"p_worse{ending}": estimate.p_above(margin), f"p_adequate{ending}": estimate.p_below(margin)}
        line |= {"verdict": found.lacking or word(_number(line["effect_low"]), _number(line["effect_high"]), margin)}
        wider = word(_number(line["tasks_low"]), _number(line["tasks_high"]), margin)
        # What is not decided for these tasks is not for others like them, whose interval may have a lower confidence.
        line |= {"verdict_tasks": found.lacking or (UNDECIDED if line["verdict"] == UNDECIDED else wider)}
        lines.append(line | {"confirmatory": corrected})
    return pd.DataFrame(lines)


def _number(value: object) -> float:
    assert isinstance(value, float)
    return value


def against_none(choices: pd.DataFrame, penalties: Sequence[str], rule: Rule) -> pd.DataFrame:
    """One line per family and penalty: whether it helps against none on these tasks, by the same arithmetic with margin 0."""
    lines = []
    for name, family in ((name, family) for name in penalties if name != "none" for family in rule.families):
        found = compare(choices, family, name, "none")
        if found is None:
            continue
        confidence = rule.exploratory_confidence
        line = found.line(confidence, confidence)
        change = 100 * abs(math.expm1(found.these.value))
        judged = word(_number(line["effect_low"]), _number(line["effect_high"]), 0.0)
        texts = {"better": f"helps by {change:.0f} %", "worse": f"harms by {change:.0f} %"}
        p_values = {"p_worse": found.these.p_above(0.0), "p_better": found.these.p_below(0.0)}
        told = found.lacking or texts.get(judged, f"undecided at {found.seeds} seeds")
        lines.append(line | p_values | {"verdict": told})
    return pd.DataFrame(lines)


def ends(runs: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Whether the strengths of each penalty reach from no effect to collapse: one line per penalty and task.

    `weakest_change` is |ln(test error / that without penalty)| at the weakest strength, nothing pruned; `strongest_norm` the
    penalty's own L1 term at the strongest, over that without penalty. Medians over seeds.
    """
    plain = runs[runs["penalty"] == "none"].set_index(UNIT)
    lines = []
    for (penalty, task), part in runs[runs["penalty"] != "none"].groupby(["penalty", "task"], sort=False):
        weak, strong = (
            part[part["strength"] == end].set_index(UNIT) for end in (part["strength"].min(), part["strength"].max())
        )
        both = weak.index.intersection(plain.index)
        change = np.log(weak.loc[both, "test_error"].astype(float) / plain.loc[both, "test_error"].astype(float)).abs().median()
        share = shares(strong.loc[both], plain.loc[both], norm_of(str(penalty))).median()
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


def shares(part: pd.DataFrame, plain: pd.DataFrame, norm: str) -> pd.Series:
    """The penalty's own L1 term of each run over that of the run without penalty in the same line of `plain`."""
    sums = [[(norms or {}).get(norm) for norms in side["norms"]] for side in (part, plain)]
    return pd.Series(sums[0], dtype=float) / pd.Series(sums[1], dtype=float)


def cross_check(own: pd.DataFrame, original: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """pykan's runs beside ours at the same task, seed and strength: one line per task with the difference of areas.

    The difference of a seed is the mean over its strengths, whose runs have initial weights and data in common. An interval
    within the declared tolerance says that the curves are the same, one beyond it that they are not, any other nothing. One
    seed has no interval: it shows only a difference that is itself beyond the tolerance.
    """
    tolerance, lines = math.log1p(rule.cross_check.tolerance), []
    keys = [*UNIT, "strength"]
    both = original.merge(own, on=[*keys, "penalty"], suffixes=("_pykan", "_ours"))
    for task, part in both.groupby("task", sort=True):
        d = part["test_area_pykan"] - part["test_area_ours"]
        found = statistics.over_seeds([d.groupby(part["seed"]).mean().to_numpy()]).interval(rule.exploratory_confidence)
        lone = part["seed"].nunique() < 2
        low, high = (found.value, found.value) if lone else (found.low, found.high)
        beyond, within = low > tolerance or high < -tolerance, low > -tolerance and high < tolerance and not lone
        lines.append(
            {
                "task": task,
                "arm": part["arm_pykan"].iloc[0],
                "runs": len(part),
                "difference": found.value,
                "difference_low": math.nan if lone else found.low,
                "difference_high": math.nan if lone else found.high,
                "largest": float(d.abs().max()),
                "verdict": OTHER_CURVE if beyond else SAME_CURVE if within else UNDECIDED,
                "seeds": part["seed"].nunique(),
                "strengths": part["strength"].nunique(),
            }
        )
    return pd.DataFrame(lines)
