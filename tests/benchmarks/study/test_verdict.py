"""From runs to the verdict: areas, the choice of a strength, and planted penalties that must be told apart or told equal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import tasks
from benchmarks.schema.cases import Case, Point, Sweep
from benchmarks.study import rule as rules
from benchmarks.study import sweep, verdict
from benchmarks.study.rule import Comparison

RULE = rules.load()
COUNTS = (1, 10, 100)


def runs(
    penalty: str, level: Callable[[int, str, float], float], strengths: tuple[float, ...] = (0.1,)
) -> list[dict[str, Any]]:
    """Flat curves at the error `level(seed, task, strength)` on two tasks of each family, five seeds."""
    names = ("exp_sin", "product", "jv", "lpmv", "wine", "digits")
    lines = []
    for task in names:
        for seed in range(5):
            for strength in strengths:
                error = level(seed, task, strength)
                curves = dict.fromkeys(("before", "validation", "test"), (error,) * len(COUNTS))
                lines.append(
                    {"penalty": penalty, "task": task, "seed": seed, "strength": strength, "status": "ok", "diverged": False}
                    | {"edge_counts": COUNTS, "arm": "efficient_kan", "test_error": error, "norms": {"weight_l1": strength}}
                    | curves
                )  # fmt: skip
    return lines


def noise(seed: int, task: str, salt: int) -> float:
    return float(np.random.default_rng([salt, seed, len(task), ord(task[0])]).normal(0, 0.02))


def choices(*groups: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame([line for group in groups for line in group])
    return verdict.chosen(verdict.with_areas(frame, RULE))


def judged(candidate: Callable[[int, str, float], float], *comparisons: str) -> dict[str, str]:
    """Verdict by family of a candidate against a reference at error 0.2."""
    reference = runs("reference", lambda seed, task, _: 0.2 * math.exp(noise(seed, task, 1)))
    rule = RULE.model_copy(update={"comparison": (Comparison(candidate="candidate", reference="reference"),)})
    frame = verdict.verdicts(choices(reference, runs("candidate", candidate)), rule)
    return dict(zip(frame["family"], frame["verdict"], strict=True))


def test_an_area_is_the_mean_logarithm_along_the_curve() -> None:
    assert verdict.area(COUNTS, (0.1, 0.1, 0.1), RULE) == pytest.approx(math.log(0.1))
    # ln error falls linearly from 0 to ln 0.01 over ln edges.
    assert verdict.area(COUNTS, (1.0, 0.1, 0.01), RULE) == pytest.approx(math.log(0.1))
    assert verdict.area(COUNTS, (5.0, None, math.nan), RULE) == 0, "no worse than the ceiling"
    assert verdict.area(COUNTS, (1e-9,) * 3, RULE) == pytest.approx(math.log(RULE.floor))
    ten_percent = verdict.area(COUNTS, (0.22, 0.11, 0.055), RULE) - verdict.area(COUNTS, (0.2, 0.1, 0.05), RULE)
    assert ten_percent == pytest.approx(math.log(1.1))


def test_fewest_edges_may_be_never() -> None:
    assert verdict.fewest_edges(COUNTS, (0.5, 0.3, 0.1), 0.3) == 10
    assert verdict.fewest_edges(COUNTS, (0.5, None, 0.4), 0.3) == math.inf


def test_the_strength_is_chosen_on_the_validation_set_and_never_a_failed_run() -> None:
    lines = runs("p", lambda seed, task, strength: 0.5, strengths=(0.1, 1.0, 10.0))
    for line in lines:
        line["validation"] = ({0.1: 0.4, 1.0: 0.3, 10.0: 0.01}[line["strength"]],) * len(COUNTS)
        line["test"] = ({0.1: 0.1, 1.0: 0.3, 10.0: 0.01}[line["strength"]],) * len(COUNTS)
        line["diverged"] = line["strength"] == 10.0
    found = choices(lines)
    assert set(found["strength"]) == {1.0}
    assert set(found["strengths"]) == {3}
    assert set(found["failures"]) == {1}
    tied = choices(runs("p", lambda seed, task, strength: 0.5, strengths=(0.1, 1.0)))
    assert set(tied["strength"]) == {0.1}, "of equals the weaker one"


def test_a_penalty_that_always_fails_counts_as_the_ceiling() -> None:
    lines = runs("p", lambda seed, task, strength: 0.5)
    for line in lines:
        line |= {"diverged": True} | dict.fromkeys(("before", "validation", "test"), (None,) * len(COUNTS))
    timed_out = [line | {"status": "timeout", "diverged": None, "test": None} for line in lines]
    finite_once_pruned = [line | {"diverged": True} for line in runs("p", lambda seed, task, strength: 0.5)]
    for group in (lines, timed_out, finite_once_pruned):
        found = choices(group)
        assert set(found["test_area"]) == {0.0}
        assert found["failed"].all()
    assert choices([line | {"status": "unsupported"} for line in lines], runs("q", lambda *_: 0.5))["penalty"].unique() == ["q"]


def test_equal_within_the_margin_is_adequate() -> None:
    found = judged(lambda seed, task, _: 0.2 * math.exp(noise(seed, task, 2)))
    assert found == dict.fromkeys(RULE.families, "adequate")
    better = judged(lambda seed, task, _: 0.1 * math.exp(noise(seed, task, 2)))
    assert better == dict.fromkeys(RULE.families, "adequate (better by 50 %)") or all("better by" in v for v in better.values())
    slightly = judged(lambda seed, task, _: 0.21 * math.exp(noise(seed, task, 2)))
    assert all(text.startswith("adequate (worse by") for text in slightly.values())


def test_much_worse_is_worse_and_noise_is_undecided() -> None:
    worse = judged(lambda seed, task, _: 0.3 * math.exp(noise(seed, task, 2)))
    assert all(text.startswith("worse by") and 45 <= int(text.split()[2]) <= 55 for text in worse.values())
    wild = judged(lambda seed, task, _: 0.2 * math.exp(40 * noise(seed, task, 3)))
    assert set(wild.values()) == {"undecided at 5 seeds"}


def test_a_family_without_rows_says_so() -> None:
    lines = runs("candidate", lambda *_: 0.2) + runs("reference", lambda *_: 0.2)
    kept = [line for line in lines if tasks.get_task(line["task"]).family != "real"]
    rule = RULE.model_copy(update={"comparison": (Comparison(candidate="candidate", reference="reference"),)})
    frame = verdict.verdicts(choices(kept), rule)
    assert dict(zip(frame["family"], frame["verdict"], strict=True))["real"] == "no rows"


def test_the_ends_are_judged_from_the_rows() -> None:
    weak_and_strong = {0.1: 1.01, 10.0: 5.0}
    plain = runs("none", lambda *_: 0.2, strengths=(0.0,))
    swept = runs("weight_l1", lambda seed, task, strength: 0.2 * weak_and_strong[strength], strengths=(0.1, 10.0))
    for line in plain + swept:
        line["norms"] = {"weight_l1": 0.03 if line["strength"] == 10.0 else 1.0}
    frame = verdict.ends(verdict.with_areas(pd.DataFrame(plain + swept), RULE), RULE)
    assert frame["no_effect"].all()
    assert frame["collapse"].all()
    assert frame["strongest_norm"].tolist() == pytest.approx([0.03] * 6)
    narrow = [line for line in plain + swept if line["strength"] != 10.0]
    assert not verdict.ends(verdict.with_areas(pd.DataFrame(narrow), RULE), RULE)["collapse"].any()


def planted() -> pd.DataFrame:
    """Really trained: the paper's penalty, the same with the wrong sign, the same again, and the same from other seeds."""
    lines = []
    for name in ("exp_sin", "feynman_ii_35_18"):
        task = tasks.get_task(name)
        for penalty, sign, shift in (("right", 1, 0), ("wrong_sign", -1, 0), ("duplicate", 1, 0), ("other_seeds", 1, 100)):
            case = Case(
                kind="sparsity",
                arm="efficient_kan",
                point=Point(batch=task.sizes.train, layers=task.layers, grid_size=5),
                sweep=Sweep(
                    task=name, penalty="sample_l1+entropy", strengths=(sign * 3e-3, sign * 1e-2),
                    seeds=tuple(range(shift, shift + 6)), steps=150, refit_steps=20, edge_counts=(1, 3, 6, 12, 25),
                ),
            )  # fmt: skip
            for run in sweep.run(case).runs:
                shared = {"penalty": penalty, "task": name, "status": "ok", "edge_counts": case.sweep.edge_counts}
                lines.append(run.model_dump() | shared | {"arm": "efficient_kan", "seed": run.seed - shift})
    return verdict.chosen(verdict.with_areas(pd.DataFrame(lines), RULE))


def test_planted_penalties_are_told_apart_and_told_equal() -> None:
    choices = planted()

    def compared(candidate: str) -> Any:
        rule = RULE.model_copy(update={"comparison": (Comparison(candidate=candidate, reference="right"),)})
        frame = verdict.verdicts(choices, rule)
        return frame[frame["family"] == "symbolic"].iloc[0]

    wrong = compared("wrong_sign")
    assert wrong["verdict"].startswith("worse by"), wrong.to_dict()
    assert wrong["improvement_high"] < 0.5
    equal = compared("duplicate")
    assert equal["verdict"] == "adequate"
    assert (equal["effect"], equal["effect_low"], equal["effect_high"], equal["improvement"]) == (0, 0, 0, 0.5)
    other = compared("other_seeds")
    assert other["verdict"].startswith(("adequate", "undecided")), other.to_dict()
