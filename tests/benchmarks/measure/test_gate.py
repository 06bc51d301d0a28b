"""The gate where pykan does not set its limits, or where a batch is too large for it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.measure import gate, workload
from benchmarks.run.worker import Job, measure
from benchmarks.schema.cases import Case, Point
from efficient_kan import KAN
from efficient_kan.knots import extend, interior_of
from reference import ours
from reference.arm import Arm, get_arm

POINT = Point(batch=64, layers=(3, 4, 2), grid_size=10)


@pytest.fixture
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "yardstick_is_installed", lambda: False)


def verdict_of(arm: Arm, *, adapted: bool = False) -> gate.Gate:
    source, data = workload.network(POINT, 3), workload.data(POINT, 4)
    if adapted:
        workload.follow(source, data.x)
    return gate.check(arm, arm.build(source), source, data)


def test_only_the_right_version_of_pykan_sets_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gate.yardstick_is_installed()

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.5")
    assert not gate.yardstick_is_installed()
    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert not gate.yardstick_is_installed()


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize("adapted", [False, True], ids=["uniform", "adapted"])
def test_an_arm_without_a_yardstick_is_checked_in_float64(adapted: bool) -> None:
    verdict = verdict_of(get_arm("efficient_kan"), adapted=adapted)
    assert verdict.passed, verdict.worst
    limits = {e.tensor: e.limit for e in verdict.errors}
    assert {limit for tensor, limit in limits.items() if "float32" in tensor} == {1e-2}
    assert {limit for tensor, limit in limits.items() if "float32" not in tensor} == {1e-12}
    assert limits.keys() >= {"output", "output (float32)", "layers.1.spline_weight.grad", "input.grad (float32)"}


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize(("dtype", "factor"), [(torch.float64, 1 + 1e-9), (torch.float32, 1.05)], ids=["float64", "float32"])
def test_an_arm_that_is_wrong_in_either_dtype_fails_without_a_yardstick(dtype: torch.dtype, factor: float) -> None:
    right = get_arm("efficient_kan")

    def slightly_off(source: KAN) -> torch.nn.Module:
        module = right.build(source)
        if source.kan_layers[0].base_weight.dtype == dtype:
            with torch.no_grad():
                module.layers[0].spline_weight.mul_(factor)
        return module

    verdict = verdict_of(dataclasses.replace(right, builder=slightly_off))
    assert not verdict.passed
    wrong = {e.tensor for e in verdict.errors if e.error is not None and e.error > e.limit}
    assert ("output" in wrong) == (dtype == torch.float64)
    assert ("output (float32)" in wrong) == (dtype == torch.float32)


@pytest.mark.parametrize("name", ["cox_de_boor", "efficient_kan", "efficient_kan[native]"])
def test_rounding_by_chance_refuses_no_exact_arm_on_a_fine_grid(name: str) -> None:
    point, arm = Point(batch=256, layers=(16, 16, 16), grid_size=20), get_arm(name)
    for seed in range(12):
        source, data = workload.network(point, seed), workload.data(point, seed)
        verdict = gate.check(arm, arm.build(source), source, data)
        assert verdict.passed, (seed, verdict.worst)


def test_an_arm_whose_every_tensor_is_a_little_off_fails_by_the_mean() -> None:
    arm = dataclasses.replace(
        get_arm("efficient_kan"), builder=_SlightlyTooLarge, gradients=lambda module: ours.gradients(module.inner)
    )
    verdict = verdict_of(arm)
    limits = {e.tensor: e for e in verdict.errors}
    assert not verdict.passed and limits[gate.MEAN].limit == 3
    assert all(e.error is not None and e.error <= e.limit for e in verdict.errors if e.tensor != gate.MEAN)


@pytest.mark.parametrize("wrong", [1e-4, math.nan])
def test_an_arm_with_one_gradient_off_fails_by_that(wrong: float) -> None:
    right = get_arm("efficient_kan")

    def gradients(module: nn.Module) -> dict[str, Tensor]:
        found = dict(right.parameter_gradients(module))
        found["layers.1.base_weight"] = found["layers.1.base_weight"] * (1 + wrong)
        return found

    verdict = verdict_of(dataclasses.replace(right, gradients=gradients))
    wrong_ones = {e.tensor for e in verdict.errors if e.error is None or e.error > e.limit}
    assert not verdict.passed and "layers.1.base_weight.grad" in wrong_ones <= {"layers.1.base_weight.grad", gate.MEAN}


def test_knots_of_the_float64_twin_follow_their_rule() -> None:
    source = workload.network(POINT, 3)
    grid = source.kan_layers[0].grid
    exact = (-1 + 0.2 * (torch.arange(17, dtype=torch.float64) - 3)).expand_as(grid)
    twin = gate._float64_twin(source).kan_layers[0].grid
    assert not torch.allclose(grid.double(), exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(twin, exact, rtol=0, atol=1e-15)

    workload.follow(source, workload.data(POINT, 4).x)
    adapted, twin = source.kan_layers[0].grid.double(), gate._float64_twin(source).kan_layers[0].grid
    assert torch.equal(interior_of(twin, 3), interior_of(adapted, 3))
    assert torch.equal(twin, extend(interior_of(adapted, 3), 3))

    source.kan_layers[0].grid[:, 0] -= 0.01
    bent = source.kan_layers[0].grid.double()
    assert torch.equal(gate._float64_twin(source).kan_layers[0].grid, bent)


def test_a_point_too_large_for_pykan_is_checked_on_a_part_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    point = Point(batch=100, layers=(4, 6, 3), grid_size=3)
    arm, source, data = get_arm("efficient_kan"), workload.network(point, 0), workload.data(point, 0)
    assert gate.check(arm, arm.build(source), source, data).rows == 100
    monkeypatch.setattr(gate, "EDGE_VALUES", 24 * 10)
    found = gate.check(arm, arm.build(source), source, data)
    assert (found.rows, found.passed) == (10, True)
    assert {"output in the whole batch", "input.grad in the whole batch"} < {error.tensor for error in found.errors}
    monkeypatch.undo()
    monkeypatch.setattr(gate, "FEATURE_VALUES", 6 * 6 * 5)
    assert gate.check(arm, arm.build(source), source, data).rows == 5


class _SlightlyTooLarge(nn.Module):
    """Outputs, and so all gradients, off by 3e-6."""

    def __init__(self, source: KAN) -> None:
        super().__init__()
        self.inner = ours.build(source)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y * (1 + 3e-6)


class _WrongWhenLarge(nn.Module):
    """The right network for up to 50 samples, and one part in a thousand off for more."""

    def __init__(self, source: KAN) -> None:
        super().__init__()
        self.inner = ours.build(source)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y if len(x) <= 50 else 1.001 * y


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_an_arm_does_with_the_whole_batch_is_checked_too(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    arm = dataclasses.replace(
        get_arm("efficient_kan"), builder=_WrongWhenLarge, gradients=lambda module: ours.gradients(module.inner)
    )
    monkeypatch.setattr(gate, "EDGE_VALUES", 24 * 10)
    for batch, passes in ((40, True), (100, False)):
        point = Point(batch=batch, layers=(4, 6, 3), grid_size=3, dtype=dtype)
        source, data = workload.network(point, 0), workload.data(point, 0)
        found = gate.check(arm, arm.build(source), source, data)
        assert (found.rows, found.passed) == (10, passes)
        assert passes or found.worst.tensor.endswith("in the whole batch")
        yardstick = gate.check(get_arm("pykan[speed]"), get_arm("pykan[speed]").build(source), source, data)
        assert yardstick.passed


def test_oracle_and_yardstick_are_computed_once_for_all_arms_of_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[str] = []
    evaluate = gate.evaluate

    def counted(arm: Arm, *rest: Any) -> Any:
        evaluated.append(arm.name)
        return evaluate(arm, *rest)

    monkeypatch.setattr(gate, "evaluate", counted)
    point = Point(batch=16, layers=(3, 2), grid_size=3)
    case = Case(kind="speed", arm="efficient_kan[native]", baseline="efficient_kan", point=point, modes=("step",), blocks=1)
    outcome = measure(Job(case=case))
    assert outcome.status == "ok", outcome.reason
    assert sorted(evaluated) == ["cox_de_boor", "efficient_kan", "efficient_kan[native]", "pykan[speed]"]


def test_the_errors_of_the_yardstick_are_shared_by_the_cases_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARKS_SHARED", str(tmp_path / "shared"))
    arm, point = get_arm("efficient_kan"), Point(batch=16, layers=(3, 2), grid_size=3)

    def verdict(seed: int) -> gate.Gate:
        source = workload.network(point, seed)
        return gate.check(arm, arm.build(source), source, workload.data(point, seed))

    first = verdict(0)
    (kept,) = (tmp_path / "shared").iterdir()
    written = kept.stat().st_mtime_ns
    assert verdict(0) == first
    assert kept.stat().st_mtime_ns == written
    assert verdict(1) != first
    assert len(list((tmp_path / "shared").iterdir())) == 2


def test_a_pass_holds_for_the_run_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARKS_VERDICTS", str(tmp_path))
    evaluated: list[str] = []
    evaluate = gate.evaluate

    def counted(arm: Arm, *rest: Any) -> Any:
        evaluated.append(arm.name)
        return evaluate(arm, *rest)

    monkeypatch.setattr(gate, "evaluate", counted)

    def verdict(name: str, seed: int = 0, batch: int = 16) -> gate.Gate:
        arm, point = get_arm(name), Point(batch=batch, layers=(3, 2), grid_size=3, dtype="float64")
        source = workload.network(point, seed)
        return gate.check(arm, arm.build(source), source, workload.data(point, seed))

    first = verdict("efficient_kan")
    assert (first.passed, first.shared) == (True, False)
    evaluated.clear()
    assert verdict("efficient_kan") == first.model_copy(update={"shared": True})
    assert evaluated == []
    # Another arm, network or batch is looked at itself.
    assert not any(verdict(*other).shared for other in [("cox_de_boor",), ("efficient_kan", 1), ("efficient_kan", 0, 17)])


def test_a_failure_is_looked_at_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARKS_VERDICTS", str(tmp_path))
    point = Point(batch=16, layers=(3, 2), grid_size=3, dtype="float64")
    arm, source, data = get_arm("efficient_kan"), workload.network(point, 0), workload.data(point, 0)
    wrong = arm.build(workload.network(point, 1))
    for _ in range(2):
        found = gate.check(arm, wrong, source, data)
        assert (found.passed, found.shared) == (False, False)
    assert gate.check(arm, arm.build(source), source, data).passed
