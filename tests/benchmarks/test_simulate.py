"""Live storages, simulated peaks against the allocator, and the frontier search."""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
from collections.abc import Callable

import pytest
import torch

from benchmarks.cases import Case, Mode, Penalty, Point
from benchmarks.measure import case as measured
from benchmarks.measure import memory, simulate
from benchmarks.measure.frontier import largest_batch
from benchmarks.measure.live import LiveStorages
from benchmarks.worker import Job, measure
from reference.arm import get_arm

ARMS = ("efficient_kan", "pykan[speed]", "cox_de_boor", "gemm_bound", "mlp[width]", "mlp[params]")
POINTS = (
    Point(batch=256, layers=(16, 16, 16), grid_size=5),
    Point(batch=64, layers=(3, 5), grid_size=2, spline_order=1),
    Point(batch=1000, layers=(7, 40, 2), grid_size=20, spline_order=2),
)
LARGER = (Point(batch=20_000, layers=(32, 64), grid_size=5), Point(batch=512, layers=(128, 128, 10), grid_size=50))


def allocator_peak(arm: str, point: Point, mode: Mode, penalty: Penalty) -> memory.Peak:
    case = Case(kind="memory", arm=arm, point=point, modes=(mode,), penalty=penalty)
    with memory.AllocationTrace() as trace:
        alive = measured._Live(get_arm(arm), case, mode)
        with trace.window("call"):
            alive.call()
        del alive
        gc.collect()
    return trace.peak("call")


def assert_alike(arm: str, point: Point, mode: Mode, penalty: Penalty = "none") -> None:
    found = simulate.simulated_peak(get_arm(arm), point, mode, penalty)
    truth = allocator_peak(arm, point, mode, penalty)
    assert found.peak == pytest.approx(truth.peak, rel=0.02, abs=1024)
    assert found.before == pytest.approx(truth.before, rel=0.02, abs=1024)


@pytest.mark.parametrize("point", POINTS, ids=lambda p: p.label)
@pytest.mark.parametrize("arm", ARMS)
def test_simulated_peaks_are_those_of_the_allocator(arm: str, point: Point) -> None:
    for mode in ("inference", "forward_backward", "step"):
        assert_alike(arm, point, mode)


@pytest.mark.parametrize("arm", ["efficient_kan", "pykan[speed]", "cox_de_boor"])
def test_simulated_peaks_of_penalised_steps_are_those_of_the_allocator(arm: str) -> None:
    for penalty in ("weight_l1", "sample_l1", "sample_std"):
        assert_alike(arm, POINTS[0], "step", penalty)


@pytest.mark.parametrize("arm", ["pykan[default]", "pykan[nosave]"])
def test_simulated_peaks_of_the_symbolic_branch_are_those_of_the_allocator(arm: str) -> None:
    assert_alike(arm, Point(batch=300, layers=(4, 5, 2), grid_size=5), "step")


@pytest.mark.slow
@pytest.mark.parametrize("point", LARGER, ids=lambda p: p.label)
@pytest.mark.parametrize("arm", ARMS)
def test_simulated_peaks_of_large_points_are_those_of_the_allocator(arm: str, point: Point) -> None:
    for mode in ("inference", "forward_backward", "step"):
        assert_alike(arm, point, mode)


@pytest.mark.parametrize(("mode", "penalty"), [("inference", "none"), ("step", "none"), ("step", "sample_std")])
def test_leaving_blocks_out_changes_nothing(mode: Mode, penalty: Penalty, monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = simulate.Simulation(get_arm("efficient_kan"), Point(batch=1, layers=(16, 8, 16), grid_size=5))
    short = simulation.peak(60_007, mode, penalty)
    monkeypatch.setattr(simulate, "_last_blocks_only", lambda live: contextlib.nullcontext())
    assert simulation.peak(60_007, mode, penalty) == short


def test_rounding_counts_every_storage_in_multiples() -> None:
    arm, point = get_arm("mlp[width]"), Point(batch=3, layers=(3, 5), grid_size=2)
    rounded = simulate.simulated_peak(arm, point, "inference", rounding=512)
    # Weight, bias, inputs, targets before; the output during the call.
    assert rounded == memory.Peak(4 * 512, 5 * 512)


def test_known_storages_are_counted_to_the_byte_and_freed_ones_are_not() -> None:
    before = torch.empty(100, dtype=torch.float64)
    with LiveStorages([before, before[:50]]) as live:
        a = torch.empty(300, dtype=torch.float32)
        b = a[10:].view(29, 10).t()  # views are no storage of their own
        b.add_(1)  # nor is what is changed in place
        del a
        c = torch.empty(1000, dtype=torch.int64)
        del c
        d = torch.empty(5, dtype=torch.float64)
    assert (live.before, live.peak, live.bytes) == (800, 800 + 1200 + 8000, 800 + 1200 + 40)
    assert live.operator == "aten.empty.memory_format"
    del b, d
    assert live.bytes == 800


def test_a_planted_leak_is_seen_by_both_methods() -> None:
    kept: list[torch.Tensor] = []

    def leaking() -> None:
        kept.append(torch.zeros(1000))

    with LiveStorages() as live:
        for _ in range(3):
            leaking()
        live.reset_peak()
        leaking()
    assert (live.before, live.peak) == (12_000, 16_000)
    kept.clear()
    with memory.AllocationTrace() as trace:
        leaking()
        with trace.window("call"):
            leaking()
        kept.clear()
    assert trace.peak("call") == memory.Peak(4000, 8000)


def test_a_case_that_cannot_fit_anywhere_is_simulated_all_the_same() -> None:
    point = Point(batch=36_864, layers=(784, 256, 256, 256, 256, 10), grid_size=5)
    outcome = measure(Job(case=Case(kind="simulated", arm="cox_de_boor", point=point, modes=("step",))))
    assert outcome.status == "ok", outcome.reason
    (series,) = outcome.simulated
    assert 8 * 2**30 < series.peak_bytes < 20 * 2**30


def test_the_frontier_of_an_arm_is_where_its_own_simulation_says() -> None:
    point = Point(batch=1, layers=(16, 16), grid_size=5)
    case = Case(kind="frontier", arm="efficient_kan", point=point, modes=("step",), capacities_gib=(1,), rounding_bytes=512)
    outcome = measure(Job(case=case))
    assert outcome.status == "ok", outcome.reason
    simulation = simulate.Simulation(get_arm("efficient_kan"), point)
    for found in outcome.frontier:
        assert found.peak_bytes is not None
        assert found.next_peak_bytes is not None
        assert found.peak_bytes <= found.capacity_gib * 2**30 < found.next_peak_bytes
        assert simulation.peak(found.batch, "step", rounding=512).peak == found.peak_bytes


def peaks() -> list[Callable[[int], int]]:
    rng = random.Random(0)
    found: list[Callable[[int], int]] = []
    for _ in range(60):
        fixed, slope, kink, step = rng.randint(0, 1000), rng.randint(1, 50), rng.randint(1, 99), rng.randint(1, 9)
        found.append(lambda b, f=fixed, s=slope, k=kink, j=step: f + s * b + 7 * min(b, k) + 512 * (j * b // 300))
    return found


def test_the_largest_batch_is_that_of_brute_force() -> None:
    for peak, capacity in itertools.product(peaks(), (1, 900, 5000, 60_000)):
        fits = [batch for batch in range(1, 3001) if peak(batch) <= capacity]
        found = largest_batch(peak, capacity, limit=3000)
        assert found.batch == max(fits, default=0)
        assert found.peak_bytes == (peak(found.batch) if fits else None)
        assert found.next_peak_bytes == (None if found.batch == 3000 else peak(found.batch + 1))


def test_the_search_asks_seldom_where_peaks_are_affine() -> None:
    asked = []

    def peak(batch: int) -> int:
        asked.append(batch)
        return 12_345 + 678 * batch

    assert largest_batch(peak, 10**12).batch == (10**12 - 12_345) // 678
    assert len(asked) < 12


@pytest.mark.parametrize(("capacity", "limit"), [(0, 10), (10, 0)])
def test_an_impossible_search_is_refused(capacity: int, limit: int) -> None:
    with pytest.raises(ValueError, match="capacity_bytes, limit: expected at least 1"):
        largest_batch(lambda batch: batch, capacity, limit)


def test_rounding_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="rounding: expected at least 1, got 0"):
        LiveStorages(rounding=0)
