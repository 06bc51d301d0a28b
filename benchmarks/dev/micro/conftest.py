"""Device, threads and clock of a session, and what every benchmark records about itself."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
import torch

from benchmarks.dev.micro.setting import Layer, Size, build, clock_of, failure
from benchmarks.schema.cases import Penalty
from benchmarks.schema.environment import git_commit

Timed = Callable[..., Any]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of these benchmarks."""
    parser.addoption("--device", default="cpu", help="device of torch: cpu (default), cuda or cuda:N")
    parser.addoption("--threads", type=int, default=1, help="threads of torch on the CPU (default: 1)")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a device that is not there and fix the threads."""
    device, threads = config.getoption("--device"), config.getoption("--threads")
    gpus = range(torch.cuda.device_count())
    if device not in ("cpu", *(["cuda"] if gpus else []), *(f"cuda:{index}" for index in gpus)):
        raise pytest.UsageError(f"--device: expected cpu, or cuda or cuda:N that this torch finds, got {device}")
    if threads < 1:
        raise pytest.UsageError(f"--threads: expected at least 1, got {threads}")
    torch.set_num_threads(threads)
    if device != "cpu":
        torch.backends.cuda.matmul.allow_tf32 = False  # the gate compares float32 with float32


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give every benchmark the clock of the device."""
    clock = clock_of(config.getoption("--device"))
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=clock))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add the GPU, which pytest-benchmark does not look for."""
    device = config.getoption("--device")
    machine_info["gpu"] = None if device == "cpu" else torch.cuda.get_device_name(device)


@pytest.fixture(scope="session")
def origin() -> dict[str, Any]:
    """Versions and commit."""
    commit, dirty = git_commit()
    return {"versions": {name: version(name) for name in ("torch", "numpy")}, "commit": commit, "dirty": dirty}


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """The device asked for."""
    return str(request.config.getoption("--device"))


@pytest.fixture
def timed(benchmark: Any, device: str, origin: dict[str, Any]) -> Timed:
    """`timed(call, group, size, sizes in bytes)` measures `call()` and records what it was."""

    def measure(call: Callable[[], Any], group: str, size: Size, size_bytes: dict[str, int]) -> Any:
        benchmark.group = f"{group} {size}"
        benchmark.extra_info |= size._asdict() | size_bytes | origin
        benchmark.extra_info |= {"dtype": "float32", "device": device, "threads": torch.get_num_threads()}
        return benchmark(call)

    return measure


@pytest.fixture
def layer(device: str) -> Callable[..., Layer]:
    """`layer(arm, size)` builds the layer of an arm; skips what is not installed, fails on a red gate."""

    def make(arm: str, size: Size, penalty: Penalty = "none") -> Layer:
        try:
            built = build(arm, size, device)
        except ModuleNotFoundError as error:
            pytest.skip(f"not installed: {error.name}")
        if (reason := failure(arm, size, device, penalty)) is not None:
            pytest.fail(reason)
        return built

    return make
