"""The whole rule on planted data: how often a verdict is wrong, with its looks and its stopping."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from benchmarks import tasks
from benchmarks.study import rule as rules
from benchmarks.study.seeds import standings
from benchmarks.study.statistics import over_seeds

RULE = rules.load()
MARGIN = math.log1p(RULE.margin)
MAIN = RULE.comparison[0]
FIRST = RULE.confirmatory.first_seed


def planted(effect: float, generator: np.random.Generator, *, noise: float, spread: float, seeds: int) -> pd.DataFrame:
    """Confirmatory runs with areas: the candidate's differ by `effect` on average over the tasks of a family.

    Three strengths, of which validation must find the middle one; `spread` is that of tasks around the effect, and the same for
    each call's family mean: these tasks have exactly the planted effect.
    """
    lines = []
    for family in RULE.families:
        names = [name for name in RULE.confirmatory.tasks if tasks.get_task(name).family == family]
        shifts = generator.normal(0, spread, len(names))
        shifts -= shifts.mean()
        for name, shift in zip(names, shifts, strict=True):
            base = generator.normal(-2, 0.3)
            for penalty, own in ((MAIN.candidate, effect + shift), (MAIN.reference, 0.0)):
                for rank, strength in enumerate((1e-3, 1e-2, 1e-1)):
                    worse = abs(rank - 1.0)  # so clear that validation is right: intervals are given the choice
                    test = base + own + worse + generator.normal(0, noise, seeds)
                    validation = test + generator.normal(0, noise, seeds)
                    lines += [
                        {"penalty": penalty, "task": name, "family": family, "seed": FIRST + s, "strength": strength,
                         "validation_area": validation[s], "test_area": test[s], "failed": False, "collapsed": False}
                        for s in range(seeds)
                    ]  # fmt: skip
    return pd.DataFrame(lines)


def verdicts(frame: pd.DataFrame) -> dict[str, str]:
    """What the families end with: each is looked at until it is decided or out of looks."""
    return {one.family: one.verdict for one in standings(frame, RULE)}


def test_at_the_margin_a_wrong_word_is_as_rare_as_declared_given_the_choice_of_strengths() -> None:
    """The statistic alone, whose many trials cost little: three families, three looks, effects exactly at the margin."""
    generator, trials, wrong = np.random.default_rng(1), 500, 0
    confidence = 1 - RULE.alpha / (len(RULE.families) * len(RULE.looks))
    families = [
        len([name for name in RULE.confirmatory.tasks if tasks.get_task(name).family == family]) for family in RULE.families
    ]
    for _ in range(trials):
        words = []
        for count in families:
            shifts = generator.normal(0, 0.3, (count, 1))
            seeds = MARGIN + shifts - shifts.mean() + generator.normal(0, 0.2, (count, RULE.looks[-1]))
            intervals = [over_seeds(list(seeds[:, :look])).interval(confidence) for look in RULE.looks]
            ended = next((one for one in intervals if one.low > MARGIN or one.high < MARGIN), None)
            words.append("wrong" if ended else "undecided")
        wrong += "wrong" in words
    # 0.05 of 500 are 25; more than 40 have a probability of 0.002. None at all would say that the intervals are far too wide.
    assert 0 < wrong <= 40, wrong


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, MARGIN, -MARGIN, 0.3])
def test_a_wrong_verdict_is_as_rare_as_declared(effect: float) -> None:
    generator, trials, wrong = np.random.default_rng(5), 30, 0
    for _ in range(trials):
        found = verdicts(planted(effect, generator, noise=0.15, spread=0.3, seeds=20))
        # At the margin itself both neighbours are wrong: that is the hardest place.
        right = {"undecided"} | ({"worse"} if effect > MARGIN else set())
        right |= {"adequate"} if -MARGIN <= effect < MARGIN else set()
        wrong += any(one not in right for one in found.values())
    # Of three families together below 0.05; 30 trials at a rate of 0.05 have more than 5 with a probability of 0.003.
    assert wrong <= 5, (effect, wrong)


@pytest.mark.slow
def test_each_word_is_reached_and_clear_cases_stop_early() -> None:
    generator = np.random.default_rng(6)
    for effect, expected in ((0.5, "worse"), (-0.5, "better"), (-0.02, "adequate")):
        found = standings(planted(effect, generator, noise=0.03, spread=0.2, seeds=20), RULE)
        assert {one.verdict for one in found} == {expected}
        assert {one.seeds for one in found} == {RULE.looks[0]}, "decided at the first look"
    close = standings(planted(MARGIN, generator, noise=0.3, spread=0.2, seeds=20), RULE)
    assert {one.verdict for one in close} == {"undecided"} and {one.seeds for one in close} == {RULE.looks[-1]}


def test_families_are_looked_at_in_turn_until_they_are_decided() -> None:
    generator = np.random.default_rng(7)
    clear = planted(0.5, generator, noise=0.02, spread=0.1, seeds=5)
    close = planted(MARGIN, generator, noise=0.3, spread=0.1, seeds=10)
    mixed = pd.concat([clear[clear["family"] == "symbolic"], close[close["family"] != "symbolic"]])
    found = {one.family: one for one in standings(mixed, RULE)}
    assert (found["symbolic"].verdict, found["symbolic"].next) == ("worse", 0)
    assert (found["special"].verdict, found["special"].seeds, found["special"].next) == ("undecided", 10, 20)
    lacking = mixed[~((mixed["task"] == "kv") & (mixed["seed"] >= FIRST + 7))]
    again = {one.family: one for one in standings(lacking, RULE)}
    assert (again["special"].seeds, again["special"].next) == (7, 10), "a look waits for the slowest task"
    fresh = standings(mixed[mixed["family"] == "symbolic"], RULE)[1]
    assert (fresh.seeds, fresh.verdict, fresh.next) == (0, "", 5)
    assert "no verdict yet at 0 seeds; look at 5 seeds next" in fresh.line


def test_a_family_decided_early_stays_so_whatever_later_seeds_say() -> None:
    generator = np.random.default_rng(8)
    first = planted(0.5, generator, noise=0.02, spread=0.1, seeds=5)
    later = planted(-0.5, generator, noise=0.02, spread=0.1, seeds=20)
    both = pd.concat([first, later[later["seed"] >= FIRST + 5]])
    assert {(one.verdict, one.seeds) for one in standings(both, RULE)} == {("worse", 5)}
