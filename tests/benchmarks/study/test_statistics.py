"""The study's statistics against scipy, closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.study.statistics import Estimate, over_seeds, over_tasks, wilson, without_one


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_one_task_has_students_interval_and_the_p_values_of_its_test() -> None:
    values = rng(1).normal(0.3, 1, 12)
    found = over_seeds([values])
    expected = stats.ttest_1samp(values, 0.2)
    ends = expected.confidence_interval(0.9)
    interval = found.interval(0.9)
    assert (interval.low, interval.high) == pytest.approx((ends.low, ends.high))
    assert interval.value == pytest.approx(values.mean())
    assert found.p_above(0.2) == pytest.approx(stats.ttest_1samp(values, 0.2, alternative="greater").pvalue)
    assert found.p_below(0.2) == pytest.approx(stats.ttest_1samp(values, 0.2, alternative="less").pvalue)


def test_two_tasks_of_other_sizes_are_welchs() -> None:
    a, b = rng(2).normal(1, 1, 5), rng(3).normal(0, 3, 9)
    found = over_seeds([a, -b])  # half of a difference
    expected = stats.ttest_ind(a, b, equal_var=False)
    assert found.freedom == pytest.approx(expected.df)
    assert found.value / found.error == pytest.approx(expected.statistic)


def test_over_tasks_is_students_of_their_means() -> None:
    tasks = [rng(n).normal(n, 1, 4 + n) for n in range(5)]
    means = [task.mean() for task in tasks]
    ends = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    interval = over_tasks(tasks).interval(0.95)
    assert (interval.value, interval.low, interval.high) == pytest.approx((np.mean(means), ends.low, ends.high))


@pytest.mark.parametrize("estimate", [over_seeds, over_tasks])
def test_interval_and_test_never_disagree(estimate: object) -> None:
    for seed in range(200):
        generator = rng(seed)
        tasks = [generator.normal(generator.normal(), 1, 4) for _ in range(3)]
        found = estimate(tasks)  # type: ignore[operator]
        interval = found.interval(0.95)
        for bound in (-0.5, 0.0, 0.5):
            assert (interval.low > bound) == (found.p_above(bound) < 0.025)
            assert (interval.high < bound) == (found.p_below(bound) < 0.025)


def test_what_cannot_be_told_has_no_bounds_and_what_is_sure_has_no_width() -> None:
    single = over_seeds([[1.0], [2.0, 3.0]])
    assert (single.interval(0.95).low, single.interval(0.95).high) == (-math.inf, math.inf)
    assert single.p_above(-1e9) == 1
    assert over_tasks([[1.0, 2.0]]).interval(0.5).high == math.inf
    equal = over_seeds([[0.5] * 4, [0.5] * 3])
    assert (equal.interval(0.99).low, equal.interval(0.99).high) == (0.5, 0.5)
    assert (equal.p_above(0.4), equal.p_above(0.5), equal.p_below(0.6)) == (0, 1, 0)
    for bad in ([], [[]], [[1.0, math.nan]], [[[1.0]]]):
        with pytest.raises(ValueError, match="tasks: expected one or more arrays"):
            over_seeds(bad)


def test_every_task_counts_alike_whatever_its_seeds() -> None:
    assert over_seeds([[0.0, 0.2] * 50, [1.0, 1.2]]).value == pytest.approx(0.6)
    assert without_one([[0.0], [1.0], [5.0]]) == (0.5, 3.0)
    assert without_one([[2.0, 4.0]]) == (3.0, 3.0)


def test_a_rate_has_wilsons_interval() -> None:
    found = wilson(3, 10)
    z = stats.norm.ppf(0.975)
    centre, width = (0.3 + z**2 / 20) / (1 + z**2 / 10), z / (1 + z**2 / 10) * math.sqrt(0.3 * 0.7 / 10 + z**2 / 400)
    assert (found.value, found.low, found.high) == pytest.approx((0.3, centre - width, centre + width))
    assert wilson(0, 5).low == 0 and wilson(5, 5).high == 1
    for bad in ((1, 0), (6, 5), (-1, 5)):
        with pytest.raises(ValueError, match="successes: expected 0 to total"):
            wilson(*bad)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["normal", "skewed", "unequal"])
@pytest.mark.parametrize(("seeds", "confidence"), [(5, 0.95), (20, 0.95), (5, 0.9944)])
def test_intervals_over_seeds_cover_as_often_as_they_say(shape: str, seeds: int, confidence: float) -> None:
    generator, trials, hits = rng(7), 3000, 0
    for _ in range(trials):
        scale = np.geomspace(0.2, 3, 12) if shape == "unequal" else np.ones(12)
        drawn = generator.exponential(1, (12, seeds)) - 1 if shape == "skewed" else generator.normal(size=(12, seeds))
        truth = generator.normal(size=12)
        interval = over_seeds(list(truth[:, None] + scale[:, None] * drawn)).interval(confidence)
        hits += interval.low <= truth.mean() <= interval.high
    error = math.sqrt(confidence * (1 - confidence) / trials)
    assert hits / trials > confidence - 4 * error - 0.01


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, 12])
def test_intervals_over_tasks_cover_what_all_tasks_would_give(count: int) -> None:
    generator, trials, hits = rng(8), 3000, 0
    for _ in range(trials):
        means = generator.normal(0.1, 0.4, count)
        interval = over_tasks(list(means[:, None] + generator.normal(size=(count, 6)))).interval(0.95)
        hits += interval.low <= 0.1 <= interval.high
    assert abs(hits / trials - 0.95) < 0.015


def test_an_estimate_is_plain_data() -> None:
    assert Estimate(1.0, 2.0, 3.0) == Estimate(1.0, 2.0, 3.0)
