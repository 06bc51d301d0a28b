"""From runs to the verdict: areas, the choice of a strength, and planted penalties that must be told apart or told equal."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import tasks
from benchmarks.schema.cases import Case, Point, Sweep
from benchmarks.study import curves, rates, sweep, verdict
from benchmarks.study import rule as rules
from benchmarks.study.rule import Comparison

RULE = rules.load()
COUNTS = (3, 10, 100)
NAMES = ("exp_sin", "product", "jv", "lpmv", "wine", "digits")
MARGIN = math.log1p(RULE.margin)


def runs(
    penalty: str, level: Callable[[int, str, float], float], strengths: tuple[float, ...] = (0.1,), seeds: int = 5
) -> list[dict[str, Any]]:
    """Flat curves at the error `level(seed, task, strength)` on two tasks of each family, five seeds."""
    lines = []
    for task, seed, strength in product(NAMES, range(seeds), strengths):
        error = level(seed, task, strength)
        curves = dict.fromkeys(("before", "validation", "test"), (error,) * len(COUNTS))
        lines.append(
            {"penalty": penalty, "task": task, "seed": seed, "strength": strength, "status": "ok", "diverged": False}
            | {"edge_counts": COUNTS, "arm": "efficient_kan", "train_error": error, "test_error": error}
            | {"norms": {"weight_l1": strength}, "exact_structure": None}
            | curves
        )  # fmt: skip
    return lines


def noise(seed: int, task: str, salt: int) -> float:
    return float(np.random.default_rng([salt, seed, len(task), ord(task[0])]).normal(0, 0.01))


def choices(*groups: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame([line for group in groups for line in group])
    return verdict.chosen(verdict.with_areas(frame, RULE), RULE)


def judged(candidate: Callable[[int, str, float], float], **options: Any) -> pd.DataFrame:
    """The verdicts on a candidate against a reference at error 0.2, by family."""
    reference = runs("reference", lambda seed, task, _: 0.2 * math.exp(noise(seed, task, 1)))
    rule = RULE.model_copy(update={"comparison": (Comparison(candidate="candidate", reference="reference"),)})
    return verdict.verdicts(choices(reference, runs("candidate", candidate)), rule, **options).set_index("family")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (MARGIN + 1e-9, 9.0, "worse"), (MARGIN, 9.0, "undecided"), (-9.0, -MARGIN - 1e-9, "better"),
        (-9.0, -MARGIN, "adequate"),
        (-0.01, 0.01, "adequate"), (0.01, MARGIN - 1e-9, "adequate"), (0.01, MARGIN, "undecided"), (-9.0, 9.0, "undecided"),
        (-math.inf, math.inf, "undecided"), (-0.2, -0.05, "adequate"), (0.0, 0.0, "adequate"),
    ],
)  # fmt: skip
def test_four_words_that_cannot_overlap(low: float, high: float, expected: str) -> None:
    assert verdict.word(low, high, MARGIN) == expected
    met = [low > MARGIN, high < -MARGIN, -MARGIN <= high < MARGIN]
    assert sum(met) == (expected != "undecided")


def test_an_area_is_the_mean_logarithm_along_the_curve_from_its_start() -> None:
    assert curves.area(COUNTS, (0.1, 0.1, 0.1), RULE) == pytest.approx(math.log(0.1))
    # ln error falls linearly from 0 to ln 0.01 over ln edges.
    straight = (1.0, 0.1, 0.01)
    assert curves.area((1, 10, 100), straight, RULE) == pytest.approx(math.log(0.1))
    assert curves.area((1, 10, 100), straight, RULE, start=10) == pytest.approx(math.log(0.1) * 1.5)
    middle = curves.area((1, 10, 100), straight, RULE, start=30)
    assert middle == pytest.approx((math.log(1 / 30) + math.log(0.01)) / 2), "interpolated at the start"
    assert curves.area((1, 10, 100), straight, RULE, start=500) == pytest.approx(math.log(0.01)), "by its last point"
    assert curves.area(COUNTS, straight, RULE, start=1) == curves.area(COUNTS, straight, RULE, start=3)
    assert curves.area(COUNTS, (5.0, None, math.nan), RULE) == 0, "no worse than the ceiling"
    assert curves.area(COUNTS, (1e-9,) * 3, RULE) == pytest.approx(math.log(RULE.floor))
    ten_percent = curves.area(COUNTS, (0.22, 0.11, 0.055), RULE) - curves.area(COUNTS, (0.2, 0.1, 0.05), RULE)
    assert ten_percent == pytest.approx(math.log(1.1))
    assert curves.start_of(tasks.get_task("distance"), RULE) == 4
    assert curves.start_of(tasks.get_task("wine"), RULE) == curves.start_of(None, RULE) == RULE.least_edges


def test_fewest_edges_may_be_never() -> None:
    assert curves.fewest_edges(COUNTS, (0.5, 0.3, 0.1), 0.3) == 10
    assert curves.fewest_edges(COUNTS, (0.5, None, 0.4), 0.3) == math.inf


def test_one_strength_is_chosen_for_all_seeds_and_never_one_that_collapsed() -> None:
    best = {0: 1.0, 1: 1.0, 2: 10.0, 3: 1.0, 4: 10.0}

    def validation(seed: int, strength: float) -> float:
        return {100.0: 1e-3, 0.1: 0.4}.get(strength, 0.2 if strength == best[seed] else 0.3)

    lines = runs("p", lambda seed, task, strength: 0.5, strengths=(0.1, 1.0, 10.0, 100.0))
    for line in lines:
        line["validation"] = (validation(line["seed"], line["strength"]),) * len(COUNTS)
        # Of the strength that is the best by far one network of one seed had collapsed before it was pruned and refitted.
        line["train_error"] = 0.99 if (line["strength"], line["seed"]) == (100.0, 3) else 0.2
    found = choices(lines)
    assert set(found["strength"]) == {1.0} and len(found) == len(NAMES) * 5
    own = found[found["task"] == "jv"].set_index("seed")["own_strength"].to_dict()
    assert own == {0: 100.0, 1: 100.0, 2: 100.0, 3: 1.0, 4: 100.0}
    assert not found["no_choice"].any() and set(found["strengths"]) == {4}
    without = choices([line for line in lines if line["strength"] < 100])
    assert without[without["task"] == "jv"].set_index("seed")["own_strength"].to_dict() == best
    tied = choices(runs("p", lambda seed, task, strength: 0.5, strengths=(0.1, 1.0)))
    assert set(tied["strength"]) == {0.1}, "of equals the weaker one"
    partial = [line for line in lines if (line["strength"], line["seed"]) != (1.0, 2)]
    assert set(choices(partial)["strength"]) == {10.0}, "a strength that lacks a seed is no choice"


def test_a_diverged_run_counts_at_the_ceiling_in_the_choice() -> None:
    lines = runs("p", lambda seed, task, strength: 0.5 if strength == 0.1 else 0.45, strengths=(0.1, 1.0))
    for line in lines:
        line["diverged"] = (line["strength"], line["seed"]) == (1.0, 0)
    found = choices(lines)
    assert set(found["strength"]) == {0.1}
    assert found.groupby("seed")["failures"].first().to_dict() == {0: 1, 1: 0, 2: 0, 3: 0, 4: 0}


def test_a_penalty_without_a_choice_counts_at_the_ceiling() -> None:
    lines = runs("p", lambda seed, task, strength: 0.5)
    collapsed = [line | {"train_error": 1.0} for line in lines]
    for line in lines:
        line |= {"diverged": True} | dict.fromkeys(("before", "validation", "test"), (None,) * len(COUNTS))
    timed_out = [line | {"status": "timeout", "diverged": None, "test": None} for line in lines]
    finite_once_pruned = [line | {"diverged": True} for line in runs("p", lambda seed, task, strength: 0.5)]
    for group in (lines, timed_out, finite_once_pruned, collapsed):
        found = choices(group)
        assert set(found["test_area"]) == {0.0}
        assert found["failed"].all()
    assert choices(collapsed)["no_choice"].all()
    assert not choices([line | {"penalty": "none"} for line in collapsed])["no_choice"].any(), (
        "training without one has no other"
    )
    assert choices([line | {"status": "unsupported"} for line in lines], runs("q", lambda *_: 0.5))["penalty"].unique() == ["q"]


def test_all_four_verdicts_are_reached_and_a_sure_effect_within_the_margin_is_adequate() -> None:
    levels = {"worse": 0.3, "adequate": 0.2, "better": 0.1}
    for expected, level in levels.items():
        found = judged(lambda seed, task, _, level=level: level * math.exp(noise(seed, task, 2)))  # type: ignore[misc]
        assert set(found["verdict"]) == {expected}, found
        assert np.exp(found["effect"]).tolist() == pytest.approx([level / 0.2] * 3, rel=0.03)
    slightly = judged(lambda seed, task, _: 0.209 * math.exp(noise(seed, task, 2)))
    assert set(slightly["verdict"]) == {"adequate"}
    assert (slightly["effect_low"] > 0).all(), "surely above no effect, surely within the margin"
    wild = judged(lambda seed, task, _: 0.2 * math.exp((-0.8, 0.8, -0.5, 0.5, 0.0)[seed]))
    assert set(wild["verdict"]) == {"undecided"}


def test_tasks_that_disagree_are_decided_for_these_and_not_for_tasks_like_these() -> None:
    ratio = {"exp_sin": 1.2, "product": 2.4, "jv": 1.2, "lpmv": 2.4, "wine": 1.2, "digits": 2.4}
    found = judged(lambda seed, task, _: 0.2 * ratio[task] * math.exp(noise(seed, task, 2)))
    assert set(found["verdict"]) == {"worse"}
    assert set(found["verdict_tasks"]) == {"undecided"}
    ends = np.exp(found[["without_one_low", "without_one_high"]].to_numpy())
    assert ends == pytest.approx(np.array([[1.2, 2.4]] * 3), rel=0.05)


def test_tasks_like_these_are_never_decided_where_these_are_not() -> None:
    wild = (-0.4, 0.4, -0.3, 0.3, 0.0)  # means of tasks that agree to rounding, from seeds that do not
    found = judged(lambda seed, task, _: 0.2 * math.exp(wild[seed]))
    assert set(found["verdict"]) == set(found["verdict_tasks"]) == {"undecided"}
    assert (found["tasks_high"] - found["tasks_low"] >= found["effect_high"] - found["effect_low"]).all()


def test_confirmatory_intervals_are_wider_for_the_first_comparison_alone() -> None:
    def level(seed: int, task: str, _: float) -> float:
        return 0.2 * math.exp(noise(seed, task, 2))

    plain, corrected = judged(level), judged(level, confirmatory=RULE.families)
    assert (corrected["effect_low"] < plain["effect_low"]).all() and (corrected["tasks_high"] > plain["tasks_high"]).all()
    assert set(corrected["confidence"]) == {1 - 0.05 / 9} and set(corrected["tasks_confidence"]) == {1 - 0.05 / 3}
    two = tuple(Comparison(candidate="candidate", reference=name) for name in ("reference", "none"))
    rule = RULE.model_copy(update={"comparison": two})
    sides = [runs(name, lambda *_: 0.2) for name in ("candidate", "reference", "none")]
    found = verdict.verdicts(choices(*sides), rule, confirmatory=rule.families)
    assert found["confirmatory"].tolist() == [True] * 3 + [False] * 3


def test_a_family_without_rows_says_so() -> None:
    lines = runs("candidate", lambda *_: 0.2) + runs("reference", lambda *_: 0.2)
    kept = [line for line in lines if tasks.get_task(line["task"]).family != "real"]
    rule = RULE.model_copy(update={"comparison": (Comparison(candidate="candidate", reference="reference"),)})
    frame = verdict.verdicts(choices(kept), rule)
    assert dict(zip(frame["family"], frame["verdict"], strict=True))["real"] == "no rows"


def test_a_comparison_that_lacks_tasks_has_no_verdict_though_it_has_numbers() -> None:
    far = runs("candidate", lambda seed, task, _: 0.4 * math.exp(noise(seed, task, 2)))
    some = [line for line in far if line["task"] not in ("product", "wine", "digits")]
    reference = runs("reference", lambda seed, task, _: 0.2 * math.exp(noise(seed, task, 1)))
    plain = [line | {"penalty": "none"} for line in reference]
    rule = RULE.model_copy(update={"comparison": (Comparison(candidate="candidate", reference="reference"),)})
    found = verdict.verdicts(choices(reference, some), rule).set_index("family")
    assert list(found["verdict"]) == list(found["verdict_tasks"]) == ["1 of 2 tasks", "worse", verdict.NO_ROWS]
    assert found.loc["symbolic", "effect_low"] > MARGIN
    assert [word in verdict.WORDS for word in found["verdict"]] == [False, True, False]
    helps = verdict.against_none(choices(plain, some), ["none", "candidate"], rule).set_index("family")
    assert helps["verdict"].to_dict() == {"symbolic": "1 of 2 tasks", "special": "harms by 101 %"}


def test_the_short_refit_is_judged_from_the_same_networks() -> None:
    lines = runs("candidate", lambda *_: 0.2) + runs("reference", lambda *_: 0.2)
    for line in lines:
        line["short_test"] = ((0.4 if line["penalty"] == "candidate" else 0.2),) * len(COUNTS)
    rule = RULE.model_copy(update={"comparison": (Comparison(candidate="candidate", reference="reference"),)})
    found = [verdict.verdicts(choices(lines), rule, column=column)["effect"] for column in ("test_area", "short_area")]
    assert found[0].tolist() == [0.0] * 3
    assert found[1].tolist() == pytest.approx([math.log(2)] * 3)
    former = [{k: v for k, v in line.items() if k != "short_test"} for line in lines]
    assert verdict.verdicts(choices(former), rule, column="short_area")["effect"].tolist() == [0.0] * 3


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
                    seeds=tuple(range(shift, shift + 6)), steps=150, refit_steps=20, edge_counts=(3, 6, 12, 25),
                ),
            )  # fmt: skip
            for run in sweep.run(case).runs:
                shared = {"penalty": penalty, "task": name, "status": "ok", "edge_counts": case.sweep.edge_counts}
                lines.append(run.model_dump() | shared | {"arm": "efficient_kan", "seed": run.seed - shift})
    return verdict.chosen(verdict.with_areas(pd.DataFrame(lines), RULE), RULE)


@pytest.mark.end_to_end
def test_planted_penalties_are_told_apart_and_told_equal() -> None:
    choices = planted()

    def compared(candidate: str) -> Any:
        rule = RULE.model_copy(update={"comparison": (Comparison(candidate=candidate, reference="right"),)})
        frame = verdict.verdicts(choices, rule)
        return frame[frame["family"] == "symbolic"].iloc[0]

    wrong = compared("wrong_sign")
    assert wrong["verdict"] == "worse", wrong.to_dict()
    equal = compared("duplicate")
    assert equal["verdict"] == "adequate"
    assert (equal["effect"], equal["effect_low"], equal["effect_high"]) == (0, 0, 0)
    other = compared("other_seeds")
    assert other["verdict"] in ("adequate", "undecided"), other.to_dict()


def test_networks_that_failed_are_no_success_in_any_rate_but_of_formulas() -> None:
    lines = runs("some", lambda *_: 0.2, seeds=4) + runs("none of them", lambda *_: 0.2, seeds=4)
    for line in lines:
        failed = line["penalty"] != "some" or line["seed"] > 0
        found: dict[str, Any] = {"exact_structure": True, "dead_inputs": 1.0, "formula": {"own": True}}
        line |= {"status": "timeout", **dict.fromkeys(found)} if failed else found
    made = rates.rates(choices(lines), RULE).set_index(["penalty", "measure", "by"])
    known = made.loc[("some", "exact structure", ""), "networks"]
    assert known and known % 4 == 0
    for measure in ("exact structure", "dead inputs"):
        some, none = (made.loc[(penalty, measure, "")] for penalty in ("some", "none of them"))
        assert some["networks"] == none["networks"] == 4 * some["successes"], measure
        assert none["successes"] == 0
    collapsed = runs("collapsed", lambda *_: 0.2, seeds=2)
    for line in collapsed:
        line |= {"train_error": 2.0, "formula": {"own": True}}
    line = rates.rates(choices(collapsed), RULE).set_index(["measure", "by"]).loc[("exact formula", "own")]
    assert (line["successes"], line["networks"]) == (0, 2 * len(NAMES))
    formulas = made.loc[("some", "exact formula", "own")]
    assert formulas["successes"] == formulas["networks"] == len(NAMES)
