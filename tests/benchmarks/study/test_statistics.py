"""The study's statistics against scipy, closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.study.statistics import bootstrap_interval, holm, interquartile_mean, probability_of_improvement, sign_flip_p


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("count", [4, 8, 20])
def test_the_interquartile_mean_is_scipys_trimmed_mean_where_quarters_are_whole(count: int) -> None:
    values = rng().normal(size=(3, count))
    np.testing.assert_allclose(interquartile_mean(values), stats.trim_mean(values, 0.25, axis=1), rtol=1e-12)


def test_the_interquartile_mean_counts_parts_of_values_elsewhere() -> None:
    # A quarter of five is one and a quarter: three quarters of the second and fourth remain.
    assert interquartile_mean([100.0, 1.0, 2.0, 4.0, -50.0]) == pytest.approx((0.75 * 1 + 2 + 0.75 * 4) / 2.5)
    assert interquartile_mean([7.0]) == 7
    with pytest.raises(ValueError, match="values: expected at least one"):
        interquartile_mean([])


def test_the_interval_covers_about_as_often_as_it_says() -> None:
    generator, hits, trials = rng(1), 0, 200
    for _ in range(trials):
        tasks = [generator.normal(shift, 1, 10) for shift in (0.0, 0.0, 0.0, 0.0)]
        found = bootstrap_interval(tasks, generator, resamples=400)
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / trials <= 0.99


def test_the_interval_is_reproducible_and_draws_within_tasks() -> None:
    tasks = [[1.0] * 5, [9.0] * 5]
    found = bootstrap_interval(tasks, rng(3))
    ends = (found.low, found.value, found.high)
    assert ends == pytest.approx((5, 5, 5)), "a bootstrap over the pooled values would spread"
    noisy = [rng(4).normal(size=5), rng(5).normal(size=7)]
    assert bootstrap_interval(noisy, rng(3)) == bootstrap_interval(noisy, rng(3))
    with pytest.raises(ValueError, match="tasks: expected one or more arrays"):
        bootstrap_interval([[1.0, float("nan")]], rng())


def test_the_sign_flip_is_scipys_permutation_test() -> None:
    values = rng(6).normal(0.4, 1, 12)
    exact = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf
    ).pvalue
    assert sign_flip_p([values[:5], values[5:]], rng(7), resamples=20_000) == pytest.approx(exact, abs=0.01)


def test_the_sign_flip_keeps_its_level_and_never_gives_zero() -> None:
    generator = rng(8)
    below = [sign_flip_p([generator.normal(size=10)], generator, resamples=200) < 0.05 for _ in range(400)]
    assert np.mean(below) < 0.09
    assert sign_flip_p([[0.0] * 8], rng()) == 1
    assert 0 < sign_flip_p([[5.0, 6.0, 7.0, 8.0] * 5], rng()) < 0.001
    fifteen = sign_flip_p([[1.0, 1.1, 0.9, 1.2, 0.8]] * 3, rng())
    assert fifteen < 0.05 / 12, "three tasks of five seeds must be able to survive Holm's correction over twelve"


def test_holm_corrects_in_steps_and_keeps_the_order() -> None:
    # The example of Holm (1979) with four hypotheses, by hand.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_probability_of_improvement_is_mann_whitneys() -> None:
    a, b = rng(9).integers(0, 6, 7).astype(float), rng(10).integers(1, 7, 9).astype(float)
    expected = stats.mannwhitneyu(b, a).statistic / (len(a) * len(b))
    found = probability_of_improvement([a, a], [b, b], rng())
    assert found.value == pytest.approx(expected)
    assert found.low <= expected <= found.high
    assert probability_of_improvement([a], [a], rng()).value == 0.5
