"""The clock of kernels: on a CPU, and on a simulated GPU that counts what is asked of it."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from efficient_kan.kernels.cuda import problems, timing

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Simulated:
    """A GPU on which every call takes a microsecond, and a replay as many as it holds, with no launches between."""

    def __init__(self, capturable: bool = True) -> None:
        self.now, self.calls, self.captures = 0, 0, 0
        self.capturable, self.recording = capturable, False

    def call(self) -> None:
        self.calls += 1
        if self.recording:
            if not self.capturable:
                raise RuntimeError("operation not permitted when stream is capturing")
            self.held += 1
        else:
            self.now += 1000

    @contextlib.contextmanager
    def graph(self, graph: object) -> Iterator[None]:
        self.recording, self.held = True, 0
        self.captures += 1
        try:
            yield
        finally:
            self.recording = False

    def replay(self) -> None:
        self.now += 500 * self.held


@pytest.fixture(params=[True, False], ids=["capturable", "not_capturable"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Simulated:
    device = Simulated(request.param)

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = device.now

        def elapsed_time(self, other: Event) -> float:
            return (other.at - self.at) / 1e6  # milliseconds

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes = {
        "Event": Event,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(replay=device.replay),
        "graph": device.graph,
        "synchronize": lambda: None,
        "get_device_properties": lambda which: SimpleNamespace(L2_cache_size=1000),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(timing, "WARM_S", 0.001)
    monkeypatch.setattr(timing, "_LONGEST_S", 0.01)
    return device


def test_device_time_is_that_of_replays_or_else_of_events(gpu: Simulated) -> None:
    found = timing.measure([gpu.call] * 7, GPU)
    assert gpu.captures == 1
    if gpu.capturable:
        assert found.clock == timing.REPLAY and found.note == ""
        assert set(found.device_ns) == {500}  # of each of the seven calls in the graph
    else:
        assert found.clock == timing.EVENTS and found.note.startswith("no graph: operation not permitted")
        assert set(found.device_ns) == {1000}
    assert found.seconds == found.device_ns[0] * 1e-9
    assert len(found.device_ns) >= 3 and all(one > 0 for one in found.wall_ns)
    assert set(timing.busy(gpu.call)) == {1000}


def test_inputs_are_as_many_as_do_not_fit_the_cache(gpu: Simulated) -> None:
    tensors = [torch.zeros(40), torch.zeros(10)]  # 200 bytes; the cache has 1000
    assert timing.copies(tensors, GPU) == 10 and timing.copies(tensors, CPU) == 1
    assert timing.rotates(tensors, 6, GPU) and not timing.rotates(tensors, 5, GPU) and not timing.rotates(tensors, 6, CPU)
    assert timing.copies([torch.zeros(1)], GPU) == timing._MOST_COPIES
    assert timing.copies([torch.zeros(4000)], GPU) == 1


def test_on_a_cpu_every_call_is_timed() -> None:
    called: list[int] = []
    found = timing.measure([lambda: called.append(1), lambda: called.append(2)], CPU)
    assert found.clock == timing.CPU and found.device_ns == found.wall_ns and len(found.wall_ns) == timing._CPU_SAMPLES
    assert called == [1] + [1, 2] * timing._CPU_SAMPLES


@pytest.mark.parametrize("kind", problems.KINDS)
@pytest.mark.parametrize("uniform", [True, False])
def test_natives_products_are_the_derivatives(kind: str, uniform: bool) -> None:
    with problems.products(kind):
        problem = problems.made((12, 5, 4, 9, 3), kind, CPU, uniform=uniform).double()
        x, weight = (tensor.clone().requires_grad_() for tensor in (problem.inputs.x, problem.inputs.weight))
        from efficient_kan.kernels import native

        y = native.spline_linear(problem.inputs._replace(x=x, weight=weight))
        expected = [y.detach(), *torch.autograd.grad(y, [x, weight], problem.grad)]
        found: list[Tensor] = [problem.native(kernel) for kernel in problems.KERNELS]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    steps = problem.inputs.knots.diff(dim=1)
    assert (float(steps.max() - steps.min()) < 1e-5) == uniform and float(steps.min()) >= 0


def test_bare_products_have_the_operations_of_the_layers() -> None:
    bare = problems.bare((12, 5, 4, 9, 3), "half", CPU)
    shapes = [tuple(bare.product(kernel).shape) for kernel in problems.KERNELS]
    assert shapes == [(12, 4), (12, 45), (4, 45)] and bare.weight.dtype == torch.bfloat16


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kinds_are_those_of_the_kernels() -> None:
    from efficient_kan.kernels.cuda import model, tiles

    assert tuple(problems.KERNELS) == tuple(model.KERNELS) and tuple(problems.KINDS) == model.KINDS
    for kind, (dtype, _) in problems.KINDS.items():
        with problems.products(kind):
            assert tiles.kind(dtype) == kind
