"""What timing on a GPU adds, on fakes of torch.cuda and pynvml: there is no GPU here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.measure import case as measured_case
from benchmarks.measure import gpu, graphs, memory, peaks, speed, workload
from benchmarks.schema import environment, nvml
from benchmarks.schema.cases import Case, Point
from benchmarks.schema.rows import GpuReading, MemorySeries, SpeedSeries
from efficient_kan.kernels.cuda import check
from reference.arm import get_arm

POINT = Point(batch=6, layers=(3, 2), grid_size=3)
UUID = "5d8c0c5b-1d1c-4c9f-8c5c-0123456789ab"


class Library(ModuleType):
    """`pynvml` with one GPU, whose answers are what a test says; a question that is not among them is not supported."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        """What the library raises."""

    def __init__(self, **answers: Any) -> None:
        super().__init__("pynvml")
        self.open = 0
        self.answers = {"DeviceGetCount": 1, "DeviceGetName": b"NVIDIA H100", "SystemGetDriverVersion": "580.1", **answers}

    def nvmlInit(self) -> None:  # noqa: N802  # the library's name
        if "Init" in self.answers:
            raise self.NVMLError(self.answers["Init"])
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != f"GPU-{UUID}":
            raise self.NVMLError("not found")
        return "handle"

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        assert index == 0
        return "handle"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(total=80 * 2**30)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def answer(*arguments: Any) -> Any:
            assert self.open, "asked before nvmlInit or after nvmlShutdown"
            key = (name.removeprefix("nvml"), *arguments[1:])
            found = self.answers.get(key, self.answers.get(key[0]))
            if found is None:
                raise self.NVMLError("not supported")
            return found() if callable(found) else found

        return answer


FULL = {
    ("DeviceGetClockInfo", 1): 1980,
    ("DeviceGetClockInfo", 2): 2619,
    ("DeviceGetTemperature", 0): 41,
    "DeviceGetPowerUsage": 350_500,
    "DeviceGetCurrentClocksEventReasons": 0x4 | 0x20 | 0x4000,
}


def library(monkeypatch: pytest.MonkeyPatch, answers: dict[Any, Any]) -> Library:
    fake = Library()
    fake.answers |= answers
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_a_reading_has_clocks_temperature_power_and_reasons_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = library(monkeypatch, FULL)
    with nvml.Gpu(f"GPU-{UUID}") as one:
        assert one.read() == GpuReading(
            sm_mhz=1980,
            memory_mhz=2619,
            temperature_c=41,
            power_w=350.5,
            throttle=("power cap", "thermal limit (software)", "0x4000"),
        )
    assert fake.open == 0
    assert one.read() is None


def test_what_a_gpu_or_an_older_library_does_not_tell_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, {("DeviceGetClockInfo", 1): 300, "DeviceGetCurrentClocksThrottleReasons": 0})
    with nvml.Gpu(f"GPU-{UUID}") as one:
        reading = one.read()
    assert reading == GpuReading(sm_mhz=300, memory_mhz=None, temperature_c=None, power_w=None, throttle=())


@pytest.mark.parametrize("lack", ["package", "driver", "device"])
def test_without_nvml_nothing_is_known(lack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = library(monkeypatch, FULL | ({"Init": "no driver"} if lack == "driver" else {}))
    if lack == "package":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    with nvml.Gpu("GPU-other" if lack == "device" else f"GPU-{UUID}") as one:
        assert one.read() is None
    assert fake.open == 0
    if lack != "device":
        assert (nvml.describe(), nvml.readings()) == (None, [])


def test_an_environment_describes_the_gpu_by_nvml_and_spawns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = library(monkeypatch, FULL)
    spawned: list[Any] = []
    run = environment.subprocess.run
    monkeypatch.setattr(
        environment.subprocess, "run", lambda command, **options: spawned.append(command) or run(command, **options)
    )
    monkeypatch.setattr(environment, "libraries", lambda: {"devices": ["NVIDIA H100"]})
    monkeypatch.setattr(environment, "machine", lambda: "this machine")
    found = environment.capture("run", "command")
    assert found.gpu == "NVIDIA H100, 580.1, 81920 MiB"
    assert found.details["gpu_state"][0]["sm_mhz"] == 1980
    assert not [command for command in spawned if "nvidia" in str(command)]
    assert fake.open == 0


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[..., torch.device]:
    """`device(l2, free)` is a GPU with such a cache and so much free memory."""

    def of(l2_bytes: int, free_bytes: int = 2**40) -> torch.device:
        properties = SimpleNamespace(L2_cache_size=l2_bytes, uuid=UUID)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free_bytes, free_bytes))
        return torch.device("cuda")

    return of


@pytest.mark.parametrize("l2_bytes", [0, 59, 60, 61, 1000, 4096])
def test_copies_of_the_inputs_together_exceed_twice_the_cache(l2_bytes: int, device: Any, monkeypatch: Any) -> None:
    library(monkeypatch, FULL)
    data = workload.data(POINT, 0)
    one = data.x.nbytes + data.target.nbytes
    assert one == 120
    watch = gpu.Watch(device(l2_bytes))
    inputs = watch.inputs(data)
    assert (len(inputs) - 1) * one <= 2 * l2_bytes < len(inputs) * one
    assert len({other.x.data_ptr() for other in inputs}) == len({other.target.data_ptr() for other in inputs}) == len(inputs)
    for other in inputs:
        assert torch.equal(other.x, data.x) and torch.equal(other.target, data.target)
        assert other.x.is_contiguous() and other.x.data_ptr() % 16 == 0
    with watch:
        pass
    timing = watch.timing()
    assert (timing.l2, timing.l2_bytes, timing.input_copies) == ("rotated inputs", l2_bytes, len(inputs))
    assert timing.before is not None and timing.before.sm_mhz == 1980


def test_without_the_memory_the_row_says_warm_l2(device: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    watch = gpu.Watch(device(1000, free_bytes=8 * 17 * 120 - 1))
    data = workload.data(POINT, 0)
    assert watch.inputs(data) == (data,)
    with watch:
        pass
    timing = watch.timing()
    assert (timing.l2, timing.input_copies, timing.before, timing.after) == ("warm L2", 1, None, None)


@pytest.mark.parametrize("mode", ["inference", "forward", "forward_backward", "step"])
def test_calls_take_all_inputs_in_turn(mode: Any) -> None:
    arm = get_arm("cox_de_boor")
    module = arm.build(workload.network(POINT, 0))
    seen: list[int] = []
    module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].data_ptr()))
    inputs = gpu.copies(workload.data(POINT, 0), 3)
    call = workload.call(arm, module, inputs, mode)
    for _ in range(7):
        call()
    pointers = [data.x.data_ptr() for data in inputs]
    assert seen == (pointers * 3)[:7]


class Clock:
    """A GPU's clock: the first calls take as long as `first` says (ns), all others `usual`."""

    def __init__(self, first: list[int], usual: int) -> None:
        self.first, self.usual, self.calls = first, usual, 0

    def __call__(self, call: speed.Call, loops: int) -> speed.Sample:
        total = 0
        for _ in range(loops):
            call()
            total += self.first[self.calls] if self.calls < len(self.first) else self.usual
            self.calls += 1
        return speed.Sample(total + 10, total)


@pytest.mark.parametrize(
    ("first", "usual", "warmup"),
    [
        ([3_000_000_000], 20_000, 3),  # compiles
        ([3_000_000_000, 300_000_000], 20_000, 3),  # and once more
        ([20_000], 20_000, 3),
        ([2_000_000_000], 30_000_000, 5),  # a long call
    ],
)
def test_a_gpu_works_for_100_ms_before_it_is_timed(first: list[int], usual: int, warmup: int) -> None:
    clock = Clock(first, usual)
    side = speed._Side(lambda: None, clock, warmup, 5.0)
    assert (clock.calls - len(first)) * usual >= 100_000_000
    assert (clock.calls - len(first)) * usual < 400_000_000  # and not for long
    assert side.loops == max(1, -(-5_000_000 // (usual + 10)))


def test_a_call_of_seconds_is_not_repeated_for_the_clocks() -> None:
    clock = Clock([], 3_000_000_000)
    speed._Side(lambda: None, clock, 5, 5.0)
    assert clock.calls == 2


class Device:
    """The parts of torch.cuda that capturing takes: one current stream, graphs that note calls and repeat their number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.default = self.current = SimpleNamespace(name="default")
        self.capturing: Any = None
        self.ended_badly = 0
        device = self

        class Graph:
            def __init__(self) -> None:
                self.calls, self.replays = 0, 0

            def capture_begin(self) -> None:
                assert device.current is not device.default, "a capture on the default stream is an error"
                device.capturing = self

            def capture_end(self) -> None:
                device.capturing = None
                if self.calls < 0:
                    device.ended_badly += 1
                    raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

            def replay(self) -> None:
                self.replays += 1

        class Stream:
            def wait_stream(self, other: Any) -> None:
                assert other is device.default

        def set_stream(stream: Any) -> None:
            self.current = stream

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "set_stream", set_stream)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing is not None)
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)

    def synchronize(self) -> None:
        if self.capturing is not None:
            self.capturing.calls = -1
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCUDA kernel errors might be ...")

    def launch(self) -> None:
        """A call that only queues work."""
        if self.capturing is not None:
            self.capturing.calls += 1

    def wait(self) -> None:
        """A call that looks at a result, as `.item()` does."""
        self.launch()
        self.synchronize()


def clock_of(call: speed.Call, loops: int) -> speed.Sample:
    """A replay takes 0.1 ms."""
    for _ in range(loops):
        call()
    return speed.Sample(100_000 * loops + 10, 100_000 * loops)


SERIES = SpeedSeries(
    mode="step",
    arm_loops=1,
    baseline_loops=2,
    arm_ns=(10_000,),
    baseline_ns=(30_000,),
    arm_first=(True,),
    arm_device_ns=(9_000,),
)


def test_both_sides_are_replayed_beside_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    found = graphs.replayed(SERIES, device.launch, device.launch, clock_of, copies=4, min_sample_ms=1.0)
    assert (found.arm_ns, found.arm_device_ns) == (SERIES.arm_ns, SERIES.arm_device_ns)
    assert found.arm_graph_loops == found.baseline_graph_loops == 4 * 10  # ten replays last a millisecond
    assert found.arm_graph_ns == found.baseline_graph_ns == (1_000_000,) * 4
    assert (found.graph_rotates, found.graph_failure) == (True, "")
    assert SpeedSeries.model_validate_json(found.model_dump_json()) == found


def test_a_call_that_waits_for_the_device_has_no_replay_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    found = graphs.replayed(SERIES, device.wait, device.launch, clock_of, copies=1, min_sample_ms=1.0)
    assert found.graph_failure == "arm: RuntimeError: CUDA error: operation not permitted when stream is capturing"
    assert (found.arm_graph_ns, found.arm_graph_loops) == ((), 0)
    assert len(found.baseline_graph_ns) == 4
    # Nothing is left behind: the capture has ended, the stream is the one from before, and the next capture works.
    assert (device.ended_badly, device.capturing, device.current) == (1, None, device.default)
    assert graphs.replayed(SERIES, device.launch, device.launch, clock_of, copies=1, min_sample_ms=1.0).graph_failure == ""
    neither = graphs.replayed(SERIES, device.wait, device.wait, clock_of, copies=1, min_sample_ms=1.0)
    assert neither.graph_failure.count("RuntimeError") == 2 and neither.graph_rotates is None


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), ValueError("no"), AssertionError("no")])
def test_whatever_a_capture_raises_is_a_fact(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)

    def fails() -> None:
        if device.capturing is not None:
            device.capturing.calls = -1
            raise error

    found = graphs.replayed(SERIES, device.launch, fails, clock_of, copies=1, min_sample_ms=1.0)
    assert found.graph_failure == f"baseline: {type(error).__name__}: {error}"
    assert device.current is device.default


def test_a_replay_that_fails_is_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    times = iter([1, 1, 1])

    def clock(call: speed.Call, loops: int) -> speed.Sample:
        if next(times, None) is None:
            raise RuntimeError("launch failed")
        return clock_of(call, loops)

    found = graphs.replayed(SERIES, device.launch, device.launch, clock, copies=1, min_sample_ms=0.0)
    assert found.graph_failure == "baseline: RuntimeError: launch failed; arm: RuntimeError: launch failed"
    assert found.arm_graph_ns == found.baseline_graph_ns == ()


@pytest.mark.parametrize(
    ("copies", "arm_ns", "calls"), [(7, 10_000, 7), (1000, 10_000, 64), (64, 50_000_000, 10), (3, 5_000_000_000, 1)]
)
def test_a_graph_holds_all_copies_unless_capturing_takes_too_long(
    copies: int, arm_ns: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(monkeypatch)
    series = SERIES.model_copy(update={"arm_ns": (arm_ns,)})
    found = graphs.replayed(series, device.launch, device.launch, clock_of, copies=copies, min_sample_ms=0.0)
    assert (found.arm_graph_loops, found.graph_rotates) == (calls, calls == copies)


def test_a_first_use_of_our_kernels_inside_a_capture_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    monkeypatch.setattr(check, "_verdicts", {})
    monkeypatch.setattr(check, "mismatch", lambda *_: None)
    verdicts = []

    def uses() -> None:
        verdicts.append(check._failure(torch.device("cuda"), 3, torch.float32, "ieee"))
        device.launch()

    graphs._capture(_begun(device), uses, 1)
    assert verdicts == ["no check while a CUDA graph is being captured"] and check._verdicts == {}
    uses()
    assert verdicts[-1] is None


def _begun(device: Device) -> Any:
    device.current = SimpleNamespace(name="other")
    return torch.cuda.CUDAGraph()


def test_the_optimiser_of_a_step_may_be_captured_until_the_last_replay() -> None:
    arm = get_arm("cox_de_boor")
    step = workload.call(arm, arm.build(workload.network(POINT, 0)), workload.data(POINT, 0), "step")
    step()
    assert isinstance(step, workload.TrainingStep)
    with graphs._capturable(step):
        assert all(group["capturable"] for group in step.optimiser.param_groups)
    assert not any(group["capturable"] for group in step.optimiser.param_groups)
    assert {state["step"].item() for state in step.optimiser.state.values()} == {1.0}
    step()
    with graphs._capturable(lambda: None):
        pass


def test_older_rows_keep_their_text_and_half_a_replay_is_refused() -> None:
    assert not {"graph", "rotates"} & set("_".join(SERIES.model_dump()).split("_"))
    with pytest.raises(ValueError, match="arm_graph_loops: expected the calls in each of 2 samples, got 0"):
        SpeedSeries(**SERIES.model_dump() | {"arm_graph_ns": (1, 2)})


def test_a_case_on_a_gpu_says_how_it_was_timed(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Device(monkeypatch)
    library(monkeypatch, FULL)
    device(1000)
    monkeypatch.setattr(workload, "on_gpu", lambda point: True)

    def clock(call: speed.Call, loops: int) -> speed.Sample:
        for _ in range(min(loops, 2)):
            call()
        return speed.Sample(40_000_000 * loops, 40_000_000 * loops)

    monkeypatch.setattr(speed, "clock", lambda _: clock)
    case = Case(
        kind="speed", arm="mlp[width]", baseline="gemm_bound", point=POINT, modes=("inference", "forward_backward"), blocks=1
    )
    outcome = measured_case.measure_case(case)
    assert outcome.gpu is not None
    assert (outcome.gpu.l2, outcome.gpu.input_copies) == ("rotated inputs", 17)
    assert outcome.gpu.before is not None and outcome.gpu.before == outcome.gpu.after
    for series in outcome.speed:
        assert series.arm_device_ns and series.graph_failure == "" and series.arm_graph_ns and series.baseline_graph_ns
    assert cuda.current is cuda.default


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An allocator that holds what a test says, and cuBLAS's workspace of 32 MiB until that is cleared."""
    state = SimpleNamespace(tensors=1000, workspace=32 * 2**20, peak=5000)

    def clear() -> None:
        state.workspace = 0

    nothing = contextlib.nullcontext
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, nothing)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: state.tensors + state.workspace)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: state.peak + state.workspace)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 64 * 2**20)
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", clear, raising=False)
    return state


def test_the_workspace_of_cublas_is_found_and_given_back(allocator: SimpleNamespace) -> None:
    assert memory.release_cublas_workspace() == 32 * 2**20
    assert memory.release_cublas_workspace() == 0


@pytest.mark.parametrize("workspace", [0, 8 * 2**20])
def test_activations_are_without_the_workspace_of_cublas(
    workspace: int, allocator: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(kind="memory", arm="mlp[width]", point=POINT, modes=("inference",))
    arm = get_arm(case.arm)
    live = peaks._Live(arm, case, "inference", workload.source(arm, POINT, 0))
    known = sum(live.parts("inference").values())
    allocator.tensors, allocator.peak, allocator.workspace = known, known + 777, workspace
    count, (series,) = peaks._cuda_memory(arm, case)
    assert count == 8
    assert (series.workspace_bytes, series.activation_bytes) == (workspace, 777)
    assert series.peak_bytes == known + 777 + workspace
    assert MemorySeries.model_validate_json(series.model_dump_json()) == series
