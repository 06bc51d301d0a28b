"""Shortcuts of a simulation: repetitions that leave the same behind are followed at their end, the others count as a whole.

Both rest on two facts. Going forward, what is alive only grows from one repetition to the next, and each needs as much for a
moment as every other: the last one peaks. Going backward, autograd starts with what came last, and each repetition releases
what its forward kept: the same one peaks again. The tests compare with simulations that follow every repetition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.measure.live import LiveStorages
from efficient_kan.kernels import native


@contextmanager
def last_blocks_only(live: LiveStorages) -> Iterator[None]:
    """Let `efficient_kan` take all blocks of a loop but the last full ones as a single one that does not count for the peak.

    A loop over a hundred million samples in blocks of some thousand would take minutes. Every block leaves the same kind of
    result behind, and the results add up to the same bytes however they are cut; the peak of the loop is in its last full
    block, when all but one are there. The block before it does not count either, because what a loop's variables still hold
    of the block before is the large one.
    """
    whole = native._blocks

    def last(length: int, size: int) -> Iterator[slice]:
        start = (length // size - 2) * size
        if start < 2 * size:
            yield from whole(length, size)
            return
        with live.paused():
            yield slice(0, start)
            yield slice(start, start + size)
        for rest in whole(length - start - size, size):
            yield slice(start + size + rest.start, start + size + rest.stop)

    native._blocks = last
    try:
        yield
    finally:
        native._blocks = whole


def shorten_symbolic(module: nn.Module, live: LiveStorages) -> None:
    """Let the symbolic layers of a pykan network, changed in place, loop over three inputs instead of all of them.

    pykan 0.2.8 computes its symbolic functions one edge at a time: for every input a tensor of each output, stacked, and then a
    stack of these. Fresh networks have the same function, zero, on every edge. What one input leaves behind is taken between
    the starts of the second and the last; the inputs left out are one node of autograd that gives their stacked tensors and
    keeps as much as they would until backward. Layers whose functions differ stay as they are.
    """
    for layer in getattr(module, "symbolic_fun", ()):
        functions = {(function.__code__, function.__closure__) for row in layer.funs for function in row}
        if len(functions) == 1 and layer.in_dim > _ROWS:
            layer.forward = _shortened(layer, live)


_ROWS = 3


def _shortened(layer: Any, live: LiveStorages) -> Callable[..., Any]:
    whole = layer.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        inputs = layer.in_dim
        layer.in_dim = _ROWS
        try:
            with _LeaveOut(inputs - _ROWS, x, layer.affine, live):
                return whole(x, *args, **kwargs)
        finally:
            layer.in_dim = inputs

    return forward


class _LeaveOut(TorchFunctionMode):
    """While a symbolic layer runs over three inputs, put in `count` others before the last."""

    def __init__(self, count: int, x: Tensor, affine: Tensor, live: LiveStorages) -> None:
        super().__init__()
        self._count, self._given, self._live = count, (x, affine), live
        self._stacked = 0
        self._starts: dict[int, int] = {}
        self._others: tuple[Tensor, ...] = ()
        self._shape: tuple[torch.Size, torch.dtype] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._stacked not in self._starts:
            self._starts[self._stacked] = self._live.bytes
            if self._stacked == _ROWS - 1:
                self._put_in()
        if func is torch.stack and self._stacked == _ROWS:
            first, second, last = args[0]
            args = ([first, second, *self._others, last], *args[1:])
        result = func(*args, **(kwargs or {}))
        if func is torch.stack:
            self._stacked += 1
            self._shape = result.shape, result.dtype
        return result

    def _put_in(self) -> None:
        assert self._shape is not None
        left = self._starts[_ROWS - 1] - self._starts[_ROWS - 2]
        self._others = _Others.apply(*self._given, self._count, left, *self._shape, self._live)  # type: ignore[no-untyped-call]


class _Others(torch.autograd.Function):
    """Give `count` stacked tensors; each leaves `left` bytes behind, itself included."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, affine: Tensor, count: int, left: int, shape: torch.Size, dtype: torch.dtype, live: LiveStorages
    ) -> tuple[Tensor, ...]:
        before = live.bytes
        stacked = tuple(torch.empty(shape, dtype=dtype, device=x.device) for _ in range(count))
        kept = count * left - (live.bytes - before)
        if kept:
            ctx.save_for_backward(torch.empty(kept, dtype=torch.uint8, device=x.device))
        return stacked

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, ...]:
        return (None,) * 7
