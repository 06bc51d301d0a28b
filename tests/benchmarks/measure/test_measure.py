"""The measuring parts, in this process: gate, paired times, allocation trace."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.analysis.stats import Interval, paired_ratio
from benchmarks.measure import memory, speed
from benchmarks.measure import peaks as measured_case
from benchmarks.run import worker
from benchmarks.run.plugins import load_plugin
from benchmarks.run.worker import Job, measure
from benchmarks.schema.cases import Case, Point
from efficient_kan import KAN
from reference import arm as arms

PLANTED = Path(__file__).parents[1].joinpath("planted_arms.py")
TINY = Point(batch=16, layers=(3, 2), grid_size=3, dtype="float64")


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "ARMS", dict(arms.ARMS))
    load_plugin(PLANTED, again=True)


def speed_case(arm: str, **changes: object) -> Case:
    settings = {"kind": "speed", "arm": arm, "baseline": "efficient_kan", "point": TINY, "modes": ("step",), "blocks": 2}
    return Case.model_validate(settings | changes)


def test_a_right_arm_passes_and_is_timed() -> None:
    outcome = measure(Job(case=speed_case("cox_de_boor", modes=("inference", "forward", "forward_backward", "step"))))
    assert outcome.status == "ok", outcome.reason
    assert outcome.gate is not None
    assert outcome.gate.passed
    assert [series.mode for series in outcome.speed] == ["inference", "forward", "forward_backward", "step"]
    assert all(len(series.arm_ns) == 4 for series in outcome.speed)


@pytest.mark.parametrize(
    ("arm", "layers", "algorithm"),
    [
        ("efficient_kan", (2, 5, 1), "by_span"),
        ("efficient_kan", (300, 300), "by_span"),
        ("efficient_kan[native]", (2, 5, 1), "native"),
        ("cox_de_boor", (2, 5, 1), ""),
    ],
)
def test_a_row_says_which_algorithm_was_timed(arm: str, layers: tuple[int, ...], algorithm: str) -> None:
    point = TINY.model_copy(update={"layers": layers, "batch": 64, "dtype": "float32"})
    outcome = measure(Job(case=speed_case(arm, point=point)))
    assert (outcome.status, outcome.algorithm) == ("ok", algorithm)
    assert ("algorithm" in outcome.model_dump()) == bool(algorithm)


def test_the_algorithm_is_that_of_the_precision_which_is_timed() -> None:
    point = TINY.model_copy(update={"layers": (2, 5, 1), "batch": 64, "dtype": "float32", "matmul": "bf16"})
    outcome = measure(Job(case=speed_case("efficient_kan", point=point)))
    assert (outcome.status, outcome.algorithm) == ("ok", "native")


def test_a_planted_wrong_arm_fails_the_gate_and_is_not_timed() -> None:
    outcome = measure(Job(case=speed_case("wrong")))
    assert outcome.status == "gate_failed"
    assert outcome.reason.startswith("wrong: ")
    assert outcome.speed == ()
    assert outcome.gate is not None
    assert outcome.gate.worst.error == pytest.approx(1e-6, rel=1e-2)


def test_a_wrong_baseline_fails_the_gate_too() -> None:
    outcome = measure(Job(case=speed_case("gemm_bound", baseline="wrong")))
    assert (outcome.status, outcome.speed) == ("gate_failed", ())


@pytest.mark.parametrize("batch", [16, 4096])
def test_a_penalty_without_gradients_fails_the_gate(batch: int) -> None:
    point = Point(batch=batch, layers=(3, 2), grid_size=3)
    case = speed_case("detached_penalty", kind="penalty_cost", baseline="detached_penalty", penalty="sample_l1", point=point)
    outcome = measure(Job(case=case))
    assert outcome.status == "gate_failed", outcome.reason
    assert outcome.gate is not None
    wrong = {e.tensor: e.error for e in outcome.gate.errors if e.error is not None and e.error > e.limit}
    assert "penalty" not in wrong
    # Plain and penalised gradients have comparable sizes at any batch size, so what is missing is not a matter of rounding.
    assert wrong["layers.0.base_weight.grad"] > 1e-2


def test_the_arm_that_sets_the_limits_in_float32_is_checked_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    point = Point(batch=16, layers=(3, 2), grid_size=3)
    right = measure(Job(case=speed_case("pykan[speed]", point=point)))
    assert right.status == "ok", right.reason
    assert right.gate is not None
    assert {e.limit for e in right.gate.errors if "float32" not in e.tensor} == {1e-12}
    assert {"output", "input.grad", "layers.0.spline_weight.grad"} <= {e.tensor for e in right.gate.errors}

    yardstick = arms.ARMS["pykan[speed]"]

    def slightly_off(source: KAN) -> torch.nn.Module:
        module = yardstick.build(source)
        with torch.no_grad():
            next(p for name, p in module.named_parameters() if name.endswith("coef")).mul_(1 + 1e-4)
        return module

    monkeypatch.setitem(arms.ARMS, "pykan[speed]", dataclasses.replace(yardstick, builder=slightly_off))
    outcome = measure(Job(case=speed_case("pykan[speed]", point=point)))
    assert (outcome.status, outcome.speed) == ("gate_failed", ())


@pytest.mark.parametrize(("device", "chosen"), [("cuda", []), ("cuda:1", [1])])
def test_a_gpu_is_chosen_where_one_is_named(device: str, chosen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda.set_device refuses "cuda" without a number, which is the current device."""
    asked: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", asked.append, raising=False)
    worker._set_up(Job(case=speed_case("efficient_kan", point=TINY.model_copy(update={"device": device}))))
    assert asked == chosen


def test_no_memory_is_oom_and_an_exception_is_an_error() -> None:
    impossible = Point(batch=2**40, layers=(2**10, 1), grid_size=1, dtype="float64")
    assert measure(Job(case=speed_case("gemm_bound", point=impossible))).status == "oom"
    outcome = measure(Job(case=speed_case("fail", baseline="gemm_bound")))
    assert outcome.status == "error"
    assert "LookupError: planted" in outcome.reason
    assert "planted_arms.py" in outcome.reason


def test_a_penalty_without_edges_is_unsupported() -> None:
    case = speed_case("mlp[width]", kind="penalty_cost", baseline="mlp[width]", penalty="sample_l1")
    assert measure(Job(case=case)).status == "unsupported"


def test_an_unavailable_device_is_unsupported() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    point = TINY.model_copy(update={"device": "cuda"})
    assert measure(Job(case=speed_case("efficient_kan", point=point))).status == "unsupported"


def _busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_an_arm_against_itself_covers_one_and_a_slowdown_is_found() -> None:
    """Both in one of five tries: while another program has the processor, neither can be expected."""
    rng = np.random.default_rng(0)

    def ratio(arm_s: float, baseline_s: float, confidence: float) -> Interval:
        series = speed.measure(
            lambda: _busy(arm_s),
            lambda: _busy(baseline_s),
            speed.cpu_clock,
            mode="step",
            blocks=10,
            warmup=2,
            min_sample_ms=1.0,
        )
        arm, baseline = np.array(series.arm_ns) / series.arm_loops, np.array(series.baseline_ns) / series.baseline_loops
        return paired_ratio([(arm, baseline)], rng, confidence=confidence)

    seen = []
    for _ in range(5):
        same, slower = ratio(4e-4, 4e-4, 0.999), ratio(8e-4, 4e-4, 0.95)
        seen.append((same, slower))
        if same.low <= 1 <= same.high and 1.3 < slower.low < slower.value < 3:
            return
    raise AssertionError(seen)


def test_blocks_alternate_abba_and_baab() -> None:
    order: list[str] = []
    series = speed.measure(
        lambda: order.append("A"),
        lambda: order.append("B"),
        speed.cpu_clock,
        mode="step",
        blocks=2,
        warmup=1,
        min_sample_ms=0.0,
    )
    assert (series.arm_loops, series.baseline_loops) == (1, 1)
    # Each sample is preceded by one untimed call of its side.
    assert "".join(order) == "AB" + "AABBBBAA" + "BBAAAABB"
    assert series.arm_first == (True, False, False, True)


def test_pair_statistics_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        drift = rng.lognormal(0, 0.5, 24)
        pairs = 1.1 * drift * rng.lognormal(0, 0.02, 24), drift * rng.lognormal(0, 0.02, 24)
        found = paired_ratio([pairs], rng, resamples=400)
        hits += found.low <= 1.1 <= found.high
    assert hits >= 88


def test_the_interval_covers_what_differs_between_processes() -> None:
    """Where memory happens to lie shifts all pairs of one process: pooled pairs would be sure of a wrong ratio."""
    rng = np.random.default_rng(1)
    hits = pooled = 0
    for _ in range(60):
        shifts = rng.lognormal(0, 0.02, 3)
        processes = [(s * rng.lognormal(0, 0.005, 10), rng.lognormal(0, 0.005, 10)) for s in shifts]
        found = paired_ratio(processes, rng, resamples=300)
        hits += found.low <= 1 <= found.high
        together = paired_ratio([tuple(np.concatenate(side) for side in zip(*processes, strict=True))], rng, resamples=300)
        pooled += together.low <= 1 <= together.high
    assert hits >= 54
    assert pooled < hits


def test_a_slow_call_stops_at_its_budget_after_one_block() -> None:
    settings = {"mode": "step", "blocks": 50, "warmup": 2, "min_sample_ms": 0.0}
    series = speed.measure(lambda: _busy(0.03), lambda: _busy(0.03), speed.cpu_clock, **settings, budget_s=0.01)
    assert len(series.arm_ns) == 2


def test_device_times_go_beside_wall_times() -> None:
    def clock(call: speed.Call, loops: int) -> speed.Sample:
        return speed.Sample(2000 * loops, 1500 * loops)

    series = speed.measure(lambda: None, lambda: None, clock, mode="step", blocks=1, warmup=1, min_sample_ms=0.01)
    assert (series.arm_loops, series.arm_ns, series.arm_device_ns) == (5, (10_000, 10_000), (7500, 7500))


def test_known_allocations_are_measured_to_the_byte() -> None:
    with memory.AllocationTrace() as trace:
        kept = torch.empty(1000, dtype=torch.float64)
        with trace.window("known"):
            a = torch.empty(300, dtype=torch.float32)
            b = torch.empty(50, 7, dtype=torch.float64)
            del a
            c = torch.empty(10, dtype=torch.int64)
            del b, c
        with trace.window("empty"):
            pass
        del kept
    assert trace.peak("known") == memory.Peak(before=8000, peak=8000 + 1200 + 2800)
    assert trace.peak("empty") == memory.Peak(before=8000, peak=8000)


def test_an_mlp_needs_no_room_for_the_kan_it_stands_beside() -> None:
    point = Point(batch=8, layers=(16, 16), grid_size=10**8)  # 95 GiB of weights
    (series,) = measure(Job(case=Case(kind="memory", arm="mlp[width]", point=point, modes=("step",)))).memory
    assert series.parameter_bytes == 4 * 17 * 16


def test_memory_parts_add_up_and_repeat_exactly() -> None:
    case = Case(kind="memory", arm="efficient_kan", point=TINY, modes=("inference", "step"))
    first, second = (measure(Job(case=case)) for _ in range(2))
    assert first.status == "ok", first.reason
    for a, b in zip(first.memory, second.memory, strict=True):
        parts = a.parameter_bytes + a.gradient_bytes + a.optimiser_bytes + a.input_bytes + a.activation_bytes
        assert parts == a.peak_bytes == b.peak_bytes
        assert a.input_bytes == 8 * 16 * (3 + 2)
        assert a.rss_before_bytes is not None
        assert a.live_peak_operator is not None and a.live_peak_bytes is not None
        # The number that Adam divides by becomes a tensor inside the operator, where tracking does not see its eight bytes.
        unseen = 8 if a.live_peak_operator == "aten.div.Tensor" else 0
        assert a.live_peak_bytes + unseen == a.peak_bytes
        assert len(a.sampled_rss) > 5
        assert max(size for _, size in a.sampled_rss) == a.sampled_rss_peak_bytes
    inference, step = first.memory
    trained = 2 * 3 * (3 + 3 + 2)  # base weights, scalers and G + k coefficients of six edges
    assert (inference.gradient_bytes, step.gradient_bytes) == (0, 8 * trained)
    assert step.optimiser_bytes == 2 * 8 * trained + 4 * 3  # Adam: two moments, and a float32 step count per tensor
    assert step.activation_bytes > 0


def test_a_call_of_very_many_operators_has_its_peak_by_live_storages(monkeypatch: pytest.MonkeyPatch) -> None:
    point = Point(batch=64, layers=(4, 3, 2), grid_size=5)
    case = Case(kind="memory", arm="pykan[nosave]", point=point, modes=("inference", "step"))
    recorded = measure(Job(case=case)).memory
    monkeypatch.setattr(measured_case, "_RECORDED_OPERATORS", 0)
    monkeypatch.delattr(memory, "AllocationTrace")
    for exact, seen in zip(recorded, measure(Job(case=case)).memory, strict=True):
        assert (exact.method, seen.method) == ("profiler allocation events", "live storages")
        assert seen.peak_bytes == exact.live_peak_bytes == pytest.approx(exact.peak_bytes, rel=0.01)
        assert seen.live_peak_bytes is None  # no second method stands beside it
        for part in ("parameter_bytes", "gradient_bytes", "optimiser_bytes", "input_bytes"):
            assert getattr(seen, part) == getattr(exact, part)
        assert seen.rss_before_bytes
