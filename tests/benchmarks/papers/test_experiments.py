"""Experiments as declared: shapes, functions, rules of statuses on planted results, and one from outside."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks import papers
from benchmarks.papers import experiment as registry
from benchmarks.papers import functions, judging, published, scaling, special
from benchmarks.papers.experiment import EFFORTS, Result, Run
from benchmarks.papers.measuring import case_of, run_of

PLACE = {"device": "cpu", "threads": 1}
PLANTED = Path(__file__).with_name("planted_experiment.py")
PRESET = """
about = "for tests"
[centre]
batch = 8
width = 4
depth = 1
grid = 3
[[papers]]
experiments = ["line"]
effort = "tiny"
timeout_s = 60
"""


@pytest.mark.parametrize("name", papers.names())
@pytest.mark.parametrize("effort", EFFORTS)
def test_runs_are_distinct_cases_that_give_the_run_back(name: str, effort: papers.Effort) -> None:
    experiment = papers.get_experiment(name)
    runs = list(experiment.runs(effort))
    cases = [case_of(name, effort, run, PLACE, 60) for run in runs]
    assert runs and len({case.cell for case in cases}) == len(cases)
    for run, case in zip(runs, cases, strict=True):
        assert run_of(case) == run
        assert 0 < experiment.seconds(run) < 1e6


@pytest.mark.parametrize("name", papers.names())
def test_without_a_value_nothing_is_claimed(name: str) -> None:
    experiment = papers.get_experiment(name)
    lines = list(experiment.judge([Result(run, "timeout", None) for run in experiment.runs("reduced")]))
    assert lines and {line.status for line in lines} == {"not measured"}
    assert all("timeout" in line.because for line in lines)


@pytest.mark.parametrize("row", [*published.rows("special"), *published.rows("feynman"), *published.rows("scaling")])
def test_functions_are_finite_and_fit_their_shapes(row: str) -> None:
    if row == "theorem":
        return
    function = functions.get_function(row)
    x, y = function.draw(2000, np.random.default_rng(0))
    assert np.isfinite(y).all() and y.std() > 0 and np.abs(x).max() <= 1
    for (_, name, quantity), one in published.table().items():
        if name == row and quantity.endswith("shape"):
            assert one.value.startswith(f"{x.shape[1]}-") and one.value.endswith("-1")


def test_special_functions_are_those_of_their_definitions() -> None:
    def value(name: str, *x: float) -> float:
        return float(functions.get_function(name).formula(*map(np.array, x)))

    assert value("ellipj", 1.3, 0.0) == pytest.approx(math.sin(1.3))
    assert value("ellipkinc", 0.7, 0.0) == value("ellipeinc", 0.7, 0.0) == pytest.approx(0.7)
    assert value("jv", 0.5, 2.0) == pytest.approx(math.sqrt(2 / (math.pi * 2)) * math.sin(2))
    assert value("yv", 0.5, 2.0) == pytest.approx(-math.sqrt(2 / (math.pi * 2)) * math.cos(2))
    assert value("kv", 0.5, 2.0) == pytest.approx(math.sqrt(math.pi / 4) * math.exp(-2))
    assert value("iv", 0.5, 2.0) == pytest.approx(math.sqrt(2 / (math.pi * 2)) * math.sinh(2))
    assert value("lpmv0", 2.0, 0.3) == pytest.approx((3 * 0.09 - 1) / 2)
    assert value("lpmv1", 1.0, 0.6) == pytest.approx(-0.8)
    assert value("lpmv2", 2.0, 0.6) == pytest.approx(3 * 0.64)
    assert value("sph01", 1.0, 0.4) == pytest.approx(math.sqrt(3 / (4 * math.pi)) * math.cos(0.4))
    assert value("sph11", 1.0, 0.4) == pytest.approx(-math.sqrt(3 / (8 * math.pi)) * math.sin(0.4) * math.cos(1.0))


def results(errors: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Result]:
    """Results with planted errors, by row and model, one a seed."""
    return [
        Result(Run(row, model, "efficient_kan", (2, 1), 10, told={}, seed=seed), "ok", {"error": error})
        for row, by_model in errors.items()
        for model, values in by_model.items()
        for seed, error in enumerate(values)
    ]


def test_special_functions_are_judged_by_the_lowest_over_seeds_and_mlps() -> None:
    planted = {
        "jv": {"KAN": [5e-3, 2e-3], "MLP a": [4e-3, 3e-3], "MLP b": [1.0, 1.0]},  # lower, near the paper's 1.64e-3
        "yv": {"KAN": [1e-3, 1e-3], "MLP a": [2e-3, 2e-3]},  # lower, far above the paper's 1.49e-5
        "kv": {"KAN": [1e-4, 1e-4], "MLP a": [2e-4, 2e-4], "MLP b": [5e-5, 1.0]},  # above the best MLP
    }
    lines = {line.row: line for line in special.judge(results(planted))}
    assert {row: line.status for row, line in lines.items()} == {
        "jv": "reproduced", "yv": "ordering only", "kv": "not", "all": "not"
    }  # fmt: skip
    assert lines["all"].ours == "2 of 3" and "MLP b" in lines["kv"].because


def curve(power: float, stuck: bool = False, name: str = "efficient_kan", model: str = scaling.ALL, seed: int = 0) -> Result:
    """A refinement whose errors fall with that power of the grid."""
    grids = (3, 5, 10, 20)
    stages = [
        {"grid": g, "test": 0.3 * g**power, "median": 0.1 * g ** (power - 1), "train": 0.1, "parameters": g} for g in grids
    ]
    run = Run("exp_sin", model, name, (2, 1, 1), 1000, told={}, seed=seed)
    return Result(run, "ok", {"error": stages[-1]["test"], "stuck": stuck, "stages": stages})


@pytest.mark.parametrize(
    ("powers", "stuck", "status"),
    [
        ((-3.0, -2.9, -2.8), 0, "reproduced"),
        ((-3.1, -3.0, -2.99), 1, "reproduced"),  # of the two that found the function
        ((-3.0, -2.9, -2.8), 1, "ordering only"),  # two starts this far apart leave an interval that reaches above -2.5
        ((-4.5, -3.0, -1.5), 0, "not"),  # an interval so wide shows nothing, though its middle is the paper's slope
        ((-3.0, -2.9, -2.8), 2, "ordering only"),
        ((-3.0, -2.9, -2.8), 3, "not"),
        ((-1.7, -1.6, -1.8), 0, "ordering only"),
        ((-0.5, -1.7, 0.0), 0, "not"),
    ],
)
def test_slopes_are_those_of_starts_that_found_the_function(powers: Sequence[float], stuck: int, status: str) -> None:
    planted = [curve(power, seed < stuck, seed=seed) for seed, power in enumerate(powers)]
    line, median = scaling.judge(planted)
    assert line.status == status and median.quantity == "slope of the median"
    left = powers[stuck:]
    if left:
        assert line.values["ours"] == pytest.approx(np.mean(left)) and median.values["ours"] == pytest.approx(np.mean(left) - 1)
        assert f"{len(left)} of 3 starts" in line.because


def test_starts_that_failed_count_among_the_starts() -> None:
    planted = [curve(power, seed=seed) for seed, power in enumerate((-3.0, -2.9))]
    lost = [Result(dataclasses.replace(planted[0].run, seed=2 + n), "error", None) for n in range(2)]
    line, _ = scaling.judge([*planted, *lost])
    assert line.status != "reproduced" and "2 of 4 starts found the function; 2 of them failed (error)" in line.because


def test_a_stage_that_diverged_ends_no_report() -> None:
    broken = curve(-3.0, seed=0)
    assert broken.part is not None
    broken.part["stages"][-1]["test"] = None
    line, _ = scaling.judge([broken, curve(-3.0, seed=1), curve(-2.9, seed=2)])
    assert line.values["ours"] < -2.5


def test_intervals() -> None:
    mean, low, high = judging.mean_interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx((2, 2 - 4.302652729911275 / math.sqrt(3), 2 + 4.302652729911275 / math.sqrt(3)))
    assert judging.mean_interval([1.0]) == (1, -math.inf, math.inf)
    assert judging.rate_interval(0, 5) == pytest.approx((0, 0.43448246478317476))
    assert judging.rate_interval(5, 5) == pytest.approx((1 - 0.43448246478317476, 1))


def test_what_cannot_be_registered() -> None:
    one = special.EXPERIMENT
    with pytest.raises(ValueError, match="experiment: expected a new name, got 'special', which exists"):
        papers.register(one)
    with pytest.raises(ValueError, match="expected at least 1 seed for effort 'full', got none in 'mine'"):
        papers.register(dataclasses.replace(one, name="mine", seeds={"tiny": 1, "reduced": 1}))
    with pytest.raises(ValueError, match=r"experiment: expected one of special, .*, got 'nosuch'"):
        papers.get_experiment("nosuch")
    with pytest.raises(ValueError, match="function: expected a new name, got 'jv', which exists"):
        functions.register(functions.get_function("jv"))


@pytest.mark.end_to_end
def test_an_experiment_from_a_file_of_its_own_runs_end_to_end(
    monkeypatch: pytest.MonkeyPatch, said: Callable[..., str], tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "_EXPERIMENTS", dict(registry._EXPERIMENTS))
    monkeypatch.delitem(sys.modules, "benchmark_plugin_planted_experiment", raising=False)
    preset, out = tmp_path / "mine.toml", tmp_path / "out"
    preset.write_text(PRESET)
    assert said("run", "--preset", preset, "--plugin", PLANTED, "--out", out) == "4 ok\n"
    said("report", "--out", out, "--plugin", PLANTED)
    page = (out / "README.md").read_text(encoding="utf-8").partition("## The KAN papers reproduced")[2]
    assert page.count("| reproduced |") == 4 and "Planted paper, table 9" in page
    assert (out / "tables" / "papers.csv").read_text(encoding="utf-8").count("\n") == 5
    assert re.search(r"\| seeds +\| status", (out / "tables" / "papers.md").read_text(encoding="utf-8"))


def test_feynman_rows_are_judged_by_the_order_of_pruned_shape_and_mlp() -> None:
    planted = {
        "I.6.2": {"human": [1e-4], "pruned": [5e-5], "MLP a": [2e-4]},  # below, as in the paper
        "I.12.11": {"human": [1.0], "pruned": [1e-3], "MLP a": [1e-2]},  # below, where the paper's is above
        "I.26.2": {"human": [1.0], "pruned": [1e-3], "MLP a": [1e-2]},  # of which the paper's MLP is in doubt
        "I.27.6": {"human": [1.0], "pruned": [1e-2], "MLP a": [2e-2]},  # below as in the paper, far larger
    }
    lines = {line.row: line for line in papers.get_experiment("feynman").judge(results(planted))}
    assert {row: lines[row].status for row in planted} == {
        "I.6.2": "reproduced", "I.12.11": "not", "I.26.2": "not measured", "I.27.6": "ordering only"
    }  # fmt: skip
    ours = [5e-5 / 2e-4, 0.1, 0.5]
    assert lines["all"].values["ours"] == pytest.approx(np.exp(np.mean(np.log(ours))))


@pytest.mark.parametrize(("scatter", "status"), [(1.05, "reproduced"), (500.0, "ordering only")])
def test_the_mean_of_feynman_rows_is_reproduced_by_a_narrow_interval_alone(scatter: float, status: str) -> None:
    papers_own = {
        row: (published.value("feynman", row, "pruned"), published.value("feynman", row, "MLP"))
        for row in published.rows("feynman")
    }
    known = {row: pruned / mlp for row, (pruned, mlp) in papers_own.items() if pruned is not None and mlp is not None}
    mean = float(np.exp(np.mean(np.log(list(known.values())))))
    planted = {
        row: {"human": [1.0], "pruned": [mean * scatter ** (1 if place % 2 else -1)], "MLP a": [1.0]}
        for place, row in enumerate(known)
    }
    *_, of_all = papers.get_experiment("feynman").judge(results(planted))
    assert (of_all.row, of_all.status) == ("all", status)


def part(model: str, **values: object) -> Result:
    """A result of that model."""
    return Result(Run("row", model, "efficient_kan", (2, 1), 10, told={}), "ok", values)


@pytest.mark.parametrize(
    ("forgotten", "learnt", "of_a_kan", "of_an_mlp"),
    [(0.05, 0.01, "reproduced", "not"), (0.3, 0.01, "ordering only", "ordering only"), (2.0, 0.01, "not", "reproduced"),
     (2.0, 0.9, "not", "not")],
)  # fmt: skip
def test_what_is_kept_is_judged_against_what_was_learnt(forgotten: float, learnt: float, of_a_kan: str, of_an_mlp: str) -> None:
    planted = [
        part(model, forgotten=forgotten, learnt=learnt) for model in ("KAN [1,1], coefficients trained", "MLP [1,32,32,1]")
    ]
    lines = papers.get_experiment("continual").judge(planted)
    assert [line.status for line in lines] == [of_a_kan, of_an_mlp]


def test_rates_of_formulas_count_errors_below_the_limit() -> None:
    shapes = ("2-1-1", "2-1-1", "2-3-1")
    planted = [
        Result(
            Run("exp_sin", "symbolic", "efficient_kan", (2, 5, 1), 10, told={}, seed=seed),
            "ok",
            {"shape": shape, "formula_error": error, "error": 1e-3},
        )
        for seed, (shape, error) in enumerate(zip(shapes, (1e-9, 0.5, None), strict=True))
    ]
    structure, formula = papers.get_experiment("interpretability").judge(planted)
    assert (structure.ours, structure.status) == ("2 of 3", "reproduced")
    assert (formula.ours, formula.status) == ("1 of 3", "ordering only")
    failed = [Result(dataclasses.replace(one.run, seed=3 + n), "timeout", None) for n, one in enumerate(planted)]
    skipped = Result(dataclasses.replace(planted[0].run, seed=6), "skipped_by_frontier", None)
    lost = Result(dataclasses.replace(planted[0].run, seed=7), "killed", None, lost=True)
    structure, formula = papers.get_experiment("interpretability").judge([*planted, *failed, skipped, lost])
    assert (structure.ours, structure.status) == ("2 of 6", "ordering only")
    assert formula.ours == "1 of 6" and formula.because.endswith("; 3 of them failed (timeout)")


@pytest.mark.end_to_end
def test_pykan_names_edges_by_the_functions_that_it_is_told() -> None:
    from benchmarks.papers.runs import interpretability

    told = {"steps": 2, "refit_steps": 2, "function": "product", "strength": 1e-2, "entropy": 2.0, "threshold": 3e-2}
    run = Run("product", "planted", "pykan[speed]", (2, 2, 1), 200, 3, {**told, "library": "x,x^2"})
    part = interpretability.train(run)
    assert part["formula_error"] < 1e-6  # x y is the difference of two squares of sums
    assert set(part["formula"].split()) == {"x", "x^2"}


def test_the_equation_of_poisson_is_that_of_its_solution() -> None:
    import torch

    from benchmarks.papers.runs import poisson

    class Solution(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return poisson.solution(x)

    interior, boundary = poisson.points(50, 40, seed=0)
    assert boundary.shape == (40, 2) and bool((boundary.abs().amax(1) == 1).all()) and float(interior.abs().max()) < 1
    torch.testing.assert_close(poisson.laplacian(Solution(), interior), poisson.source(interior), rtol=1e-10, atol=1e-10)


def test_frozen_parameters_stay_and_only_coefficients_keep_other_peaks() -> None:
    from benchmarks.papers.runs import continual

    run = Run("five Gaussians", "KAN", "efficient_kan", (1, 1), 100, 30, {"steps": 3, "trained": "coefficients"})
    found = continual.train(run)
    assert found["parameters"] == 33 and found["forgotten"] < 0.1
    scaled = continual.train(dataclasses.replace(run, told={"steps": 3, "trained": "coefficients, scale"}))
    assert scaled["parameters"] == 34 and scaled["forgotten"] > 0.5 > scaled["learnt"]
    with pytest.raises(ValueError, match=r"trained: expected coefficients, .*, got 'nothing'"):
        continual.train(dataclasses.replace(run, told={"steps": 1, "trained": "nothing"}))


def test_a_refined_network_gets_better_and_stages_add_up() -> None:
    from benchmarks.papers.runs import regression
    from benchmarks.papers.runs import scaling as refined

    told = {"grids": "3,8", "steps": 4, "starts": 2, "start_steps": 2, "scale_base": 0.5, "update": "samples"}
    run = Run("product", "KAN", "efficient_kan", (2, 3, 1), 200, 3, told)
    found = regression.train(run)
    best = min(found["stages"], key=lambda stage: stage["validation"])
    assert found["error"] == best["test"] < 0.33 * 0.2  # a fifth of the product's deviation
    assert [stage["grid"] for stage in found["stages"]] == [3, 8] and found == found | {"grid": best["grid"]}
    curve_ = refined.train(dataclasses.replace(run, told={**told, "update": "none"}))["stages"]
    assert [stage["parameters"] for stage in curve_] == [9 * (g + 3 + 2) for g in (3, 8)]
    with pytest.raises(ValueError, match="update: expected none, function or samples, got 'often'"):
        refined.train(dataclasses.replace(run, told={**told, "update": "often"}))


def test_the_threshold_is_where_the_error_turns_up() -> None:
    run = next(run for run in scaling.runs("reduced") if run.row == "interpolation threshold")
    expected = run.samples / 15  # edges

    def turning(at: int, rises: float) -> Result:
        tests = [0.1 if grid == at else 0.1 * rises if grid > at else 0.2 for grid in (3, 5, 10, 20, 50)]
        stages = [{"grid": grid, "test": test} for grid, test in zip((3, 5, 10, 20, 50), tests, strict=True)]
        return Result(run, "ok", {"stages": stages, "error": 0.1, "stuck": False})

    assert 10 < expected < 20
    for at, rises, status in ((10, 3, "reproduced"), (3, 3, "ordering only"), (10, 1.5, "not"), (50, 1, "not")):
        (line,) = scaling.judge([turning(at, rises)])
        assert (line.status, line.ours) == (status, f"{at}"), at
    lost = [Result(dataclasses.replace(run, seed=1 + n), "timeout", None) for n in range(2)]
    (line,) = scaling.judge([turning(10, 3), *lost])
    assert line.status == "not" and "in 1 of 3 curves" in line.because and line.because.endswith("2 of them failed (timeout)")
