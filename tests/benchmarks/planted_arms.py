"""Arms that go wrong in known ways, for the tests of the harness (used as a plugin)."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import Any

import torch
from torch import Tensor, nn

from reference import ours
from reference.arm import Arm, register


class _Wrong(nn.Module):
    """The right network but for one part in a million."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.inner = ours.build(source)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y * (1 + 1e-6)


def wrong_gradients(module: nn.Module) -> dict[str, Tensor]:
    assert isinstance(module, _Wrong)
    return ours.gradients(module.inner)


def half_detached(module: nn.Module, x: Tensor, penalty: str) -> tuple[Tensor, Tensor]:
    """The right value, from which no gradient reaches the network."""
    y, value = ours.penalised(module, x, penalty)
    return y, value.detach() + 0 * y.sum()


def hang(source: Any) -> nn.Module:
    while True:
        time.sleep(1)


def die(source: Any) -> nn.Module:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def segfault(source: Any) -> nn.Module:
    ctypes.string_at(0)
    raise AssertionError


def slowed(source: Any) -> nn.Module:
    """The right network with a tenth more work of the same kind."""
    return _Slowed(ours.build(source))


class _Slowed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        start = time.perf_counter_ns()
        y: Tensor = self.inner(x)
        end = time.perf_counter_ns() + (time.perf_counter_ns() - start) // 10
        while time.perf_counter_ns() < end:
            pass
        return y


def fail(source: Any) -> nn.Module:
    raise LookupError("planted")


def greedy(source: Any) -> nn.Module:
    torch.ones(2**30)
    return ours.build(source)


def _arm(name: str, builder: Any, gradients: Any = None, penalised: Any = None) -> Arm:
    return Arm(
        name=name,
        division="closed" if gradients else "different_maths",
        summary="planted",
        builder=builder,
        gradients=gradients,
        penalised=penalised,
        sources=(),
    )


register(_arm("wrong", _Wrong, wrong_gradients))
register(_arm("detached_penalty", ours.build, ours.gradients, half_detached))
register(_arm("hang", hang))
register(_arm("die", die))
register(_arm("fail", fail))
register(_arm("segfault", segfault))
register(_arm("crash_on_import", "tests.benchmarks.crash_on_import:build"))
register(_arm("slow_to_import", "tests.benchmarks.slow_to_import:build"))
register(_arm("slowed", slowed))
register(_arm("greedy", greedy))
