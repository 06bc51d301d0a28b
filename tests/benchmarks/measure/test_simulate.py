"""Live storages, simulated peaks against the allocator, and the frontier search."""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import warnings
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from benchmarks.measure import memory, shortcuts, simulate, workload
from benchmarks.measure import peaks as measured
from benchmarks.measure.frontier import largest_batch
from benchmarks.measure.live import LiveStorages
from benchmarks.measure.meta import MetaStorages
from benchmarks.run.worker import Job, measure
from benchmarks.schema.cases import Case, Mode, Penalty, Point, Policy
from efficient_kan import KAN, kernels
from efficient_kan._device import device_type, meta_stands_for
from efficient_kan.kernels import native
from efficient_kan.kernels.native import blocks
from reference.arm import get_arm

ARMS = ("efficient_kan", "pykan[speed]", "cox_de_boor", "gemm_bound", "mlp[width]", "mlp[params]")
POINTS = (
    Point(batch=256, layers=(16, 16, 16), grid_size=5),
    Point(batch=64, layers=(3, 5), grid_size=2, spline_order=1),
    Point(batch=1000, layers=(7, 40, 2), grid_size=20, spline_order=2),
)
LARGER = (Point(batch=20_000, layers=(32, 64), grid_size=5), Point(batch=512, layers=(128, 128, 10), grid_size=50))


Call = tuple[Mode, Penalty]
MODES: tuple[Call, ...] = (("inference", "none"), ("forward_backward", "none"), ("step", "none"))


@pytest.fixture(autouse=True)
def _collect_only_what_is_new() -> Iterator[None]:
    """Spare the collections around every trace a walk over all of torch."""
    gc.freeze()
    yield
    gc.unfreeze()


def allocator_peaks(arm: str, point: Point, calls: Sequence[Call]) -> dict[Call, memory.Peak]:
    cases = [Case(kind="memory", arm=arm, point=point, modes=(mode,), penalty=penalty) for mode, penalty in calls]
    for case in cases:
        # Compiles where nothing is cached yet, which leaves cycles behind that hold tensors.
        measured._Live(get_arm(arm), case, case.modes[0], workload.network(case.point, case.seed))
    with memory.AllocationTrace() as trace:
        for case, (mode, penalty) in zip(cases, calls, strict=True):
            alive = measured._Live(get_arm(arm), case, mode, workload.network(case.point, case.seed))
            with trace.window(f"{mode} {penalty}"):
                alive.call()
            del alive
            gc.collect()
    return {call: trace.peak(" ".join(call)) for call in calls}


def assert_alike(arm: str, point: Point, calls: Sequence[Call]) -> None:
    simulation = simulate.Simulation(get_arm(arm), point)
    for call, truth in allocator_peaks(arm, point, calls).items():
        found = simulation.peak(point.batch, *call)
        assert found.peak == pytest.approx(truth.peak, rel=0.02, abs=1024), call
        assert found.before == pytest.approx(truth.before, rel=0.02, abs=1024), call


@pytest.mark.parametrize("point", POINTS, ids=lambda p: p.label)
@pytest.mark.parametrize("arm", ARMS)
def test_simulated_peaks_are_those_of_the_allocator(arm: str, point: Point) -> None:
    assert_alike(arm, point, MODES)


@pytest.mark.parametrize("arm", ["efficient_kan", "pykan[speed]", "cox_de_boor"])
def test_simulated_peaks_of_penalised_steps_are_those_of_the_allocator(arm: str) -> None:
    assert_alike(arm, POINTS[0], [("step", penalty) for penalty in ("weight_l1", "sample_l1", "sample_std")])


@pytest.mark.parametrize("arm", ["pykan[default]", "pykan[nosave]"])
def test_simulated_peaks_of_the_symbolic_branch_are_those_of_the_allocator(arm: str) -> None:
    assert_alike(arm, Point(batch=300, layers=(4, 5, 2), grid_size=5), MODES)
    assert_alike(arm, Point(batch=200, layers=(7, 9, 1), grid_size=5), MODES[2:])


@pytest.mark.slow
@pytest.mark.parametrize("point", LARGER, ids=lambda p: p.label)
@pytest.mark.parametrize("arm", ARMS)
def test_simulated_peaks_of_large_points_are_those_of_the_allocator(arm: str, point: Point) -> None:
    assert_alike(arm, point, MODES)


@pytest.mark.parametrize("policy", ["cpu", "cuda"])
@pytest.mark.parametrize(("mode", "penalty"), [("inference", "none"), ("step", "none"), ("step", "sample_std")])
def test_leaving_blocks_out_changes_nothing(
    mode: Mode, penalty: Penalty, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(blocks._BLOCK, "cuda", 2**17)
    arm, point = get_arm("efficient_kan[native]"), Point(batch=1, layers=(16, 8, 16), grid_size=5)
    simulation = simulate.Simulation(arm, point, policy=policy)
    short = simulation.peak(60_007, mode, penalty)
    monkeypatch.setattr(shortcuts, "last_blocks_only", lambda live: contextlib.nullcontext())
    assert simulation.peak(60_007, mode, penalty) == short


@pytest.mark.parametrize("layers", [(9, 2, 6), (8, 1, 7)])
@pytest.mark.parametrize("arm", ["pykan[default]", "pykan[nosave]"])
def test_leaving_edges_out_changes_nothing(arm: str, layers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Call] = [("inference", "none"), ("step", "none"), ("step", "sample_std")]
    simulation = simulate.Simulation(get_arm(arm), Point(batch=1, layers=layers, grid_size=5), policy="cuda")

    def peaks() -> list[memory.Peak]:
        return [simulation.peak(batch, *call, rounding=size) for call in calls for batch, size in ((7, 512), (500, 1))]

    short = peaks()
    monkeypatch.setattr(shortcuts, "shorten_symbolic", lambda module, numbers, live: None)
    assert peaks() == short


def test_layers_with_different_symbolic_functions_are_followed_edge_by_edge() -> None:
    module = get_arm("pykan[nosave]").build(KAN([7, 6, 2]))
    assert shortcuts.equal_edges(module) == (0, 1)
    module.symbolic_fun[0].funs[1][2] = torch.sin  # type: ignore[union-attr, index]
    assert shortcuts.equal_edges(module) == (1,)


def test_tensors_in_plain_attributes_and_a_remembered_device_are_followed() -> None:
    class Layer(torch.nn.Module):  # as those of pykan 0.0.5
        def __init__(self) -> None:
            super().__init__()
            self.order, self.device = torch.arange(3), "cpu"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, self.order] * torch.ones(3, device=self.device)

    layer = Layer()
    copied = simulate._meta_copy(layer)
    assert copied(torch.empty(2, 3, device="meta")).is_meta
    assert (layer.device, layer.order.device.type) == ("cpu", "cpu")


def test_results_are_reused_for_equal_shapes_alone() -> None:
    x = torch.empty(30, 4, device="meta")
    with MetaStorages() as live:
        kept = [x * 2, x * 2, x.double() * 2, x[:20] * 2, x.t() * 2, torch.stack([x, x]), *x.clone().unbind(1)]
    assert [tuple(t.shape) for t in kept[:6]] == [(30, 4), (30, 4), (30, 4), (20, 4), (4, 30), (2, 30, 4)]
    assert [t.dtype for t in kept[:3]] == [torch.float32, torch.float32, torch.float64]
    assert kept[4].stride() == (1, 4)
    assert live.bytes == 480 + 480 + 960 + 320 + 480 + 960 + 480


def test_adam_holds_temporaries_of_all_parameters_at_once_on_a_gpu_alone() -> None:
    arm, point = get_arm("mlp[width]"), Point(batch=1, layers=(64,) * 5, grid_size=5)
    size = sum(p.numel() for p in arm.build(workload.network(point, 0)).parameters()) * 4
    each, at_once = (simulate.simulated_peak(arm, point, "step", policy=policy) for policy in ("cpu", "cuda"))
    # Before: parameters, two states and, where they count, step counts; the rest is gradients and the square roots of a state.
    assert 3 * size <= at_once.before < each.before < 3 * size + 1024
    assert 2 * size <= at_once.peak - at_once.before < 2 * size + 1024
    assert size + size / 4 < each.peak - each.before < 1.6 * size


def test_foreach_temporaries_of_the_simulation_are_those_of_the_allocator() -> None:
    arm, point = get_arm("mlp[width]"), Point(batch=1, layers=(64,) * 5, grid_size=5)
    with memory.AllocationTrace() as trace:
        data, module = workload.data(point, 0), arm.build(workload.network(point, 0))
        call = workload.call(arm, module, data, "step", foreach=True)
        call()
        module.zero_grad()
        with trace.window("call"):
            call()
        del data, module, call
    found = simulate.simulated_peak(arm, point, "step", policy="cuda")
    assert found.peak == pytest.approx(trace.peak("call").peak, rel=0.02)


def test_blocks_are_those_of_a_gpu_where_one_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    arm, point = get_arm("efficient_kan[native]"), Point(batch=2**18, layers=(64, 64), grid_size=5)
    on_cpu, on_gpu = (simulate.simulated_peak(arm, point, "inference", policy=policy).peak for policy in ("cpu", "cuda"))
    monkeypatch.setitem(blocks._BLOCK, "cpu", blocks._BLOCK["cuda"])
    monkeypatch.setattr(native, "_DENSE_KNOTS", 0)  # a GPU looks for the bases that are not zero
    assert simulate.simulated_peak(arm, point, "inference").peak == on_gpu > 5 * on_cpu


@pytest.mark.parametrize(("mode", "penalty"), [("inference", "none"), ("step", "none"), ("step", "sample_std")])
def test_on_a_gpu_this_package_is_followed_without_compiled_code(
    mode: Mode, penalty: Penalty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_warned", set())
    with warnings.catch_warnings(action="error"):  # about a kernel that cannot be had here
        peaks = [
            simulate.simulated_peak(get_arm(arm), POINTS[0], mode, penalty, policy="cuda")
            for arm in ("efficient_kan", "efficient_kan[native]")
        ]
    assert peaks[0] == peaks[1]


def test_meta_tensors_stand_for_a_device_inside_the_context_alone() -> None:
    x = torch.empty(3, device="meta")
    with meta_stands_for("cuda"):
        assert (device_type(x), device_type(torch.empty(3))) == ("cuda", "cpu")
    assert device_type(x) == "meta"
    assert blocks.block_elements("meta") == blocks.block_elements("cpu")


@pytest.mark.parametrize("arm", ["inkan", "torchcurves"])
def test_an_arm_that_looks_at_values_is_unsupported(arm: str) -> None:
    pytest.importorskip(arm)
    outcome = measure(Job(case=Case(kind="simulated", arm=arm, point=POINTS[0], modes=("step",))))
    assert outcome.status == "unsupported"
    assert "needs values" in outcome.reason


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


PUBLISHED = Point(batch=36_864, layers=(784, 256, 256, 256, 256, 10), grid_size=5)


@pytest.mark.parametrize(
    ("arm", "least", "most"),
    [("efficient_kan", 0.4, 4), ("cox_de_boor", 12, 13), ("pykan[nosave]", 215, 225)],
)
def test_a_case_that_cannot_fit_anywhere_is_simulated_all_the_same(arm: str, least: float, most: float) -> None:
    case = Case(kind="simulated", arm=arm, point=PUBLISHED, modes=("step",), policy="cuda", rounding_bytes=512)
    outcome = measure(Job(case=case))
    assert outcome.status == "ok", outcome.reason
    (series,) = outcome.simulated
    assert least * 2**30 < series.peak_bytes < most * 2**30
    if arm == "efficient_kan":  # the figure is the same from run to run
        assert measure(Job(case=case)).simulated == outcome.simulated


@pytest.mark.parametrize("budget", [0, 2**26], ids=["lean", "default"])
def test_the_published_case_takes_less_than_600_mb_of_activations_on_a_cpu(budget: int) -> None:
    with kernels.set_feature_budget(budget):
        peak = simulate.simulated_peak(get_arm("efficient_kan"), PUBLISHED, "step", policy="cpu")
    assert peak.peak - peak.before < 600e6  # gradients included


def test_the_frontier_of_an_arm_is_where_its_own_simulation_says() -> None:
    point = Point(batch=1, layers=(16, 16), grid_size=5)
    case = Case(kind="frontier", arm="efficient_kan", point=point, modes=("step",), capacities_gib=(1, 2), rounding_bytes=512)
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


def test_a_search_uses_what_is_known_and_proves_its_end() -> None:
    asked: dict[int, int] = {}
    rng = random.Random(1)
    jagged = {batch: 1000 * batch + rng.randint(0, 3000) for batch in range(1, 402)}  # falls here and there
    for capacity in (50_000, 120_000, 300_000):
        found = largest_batch(jagged.__getitem__, capacity, limit=400, asked=asked)
        assert found.peak_bytes == jagged[found.batch] <= capacity < jagged[found.batch + 1] == found.next_peak_bytes
    before = len(asked)
    assert largest_batch(jagged.__getitem__, 120_000, limit=400, asked=asked).batch == max(
        batch for batch in asked if jagged[batch] <= 120_000
    )
    assert len(asked) <= before + 2


@pytest.mark.parametrize(("capacity", "limit"), [(0, 10), (10, 0)])
def test_an_impossible_search_is_refused(capacity: int, limit: int) -> None:
    with pytest.raises(ValueError, match="capacity_bytes, limit: expected at least 1"):
        largest_batch(lambda batch: batch, capacity, limit)


def test_rounding_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="rounding: expected at least 1, got 0"):
        LiveStorages(rounding=0)
