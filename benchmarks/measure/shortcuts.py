"""Shortcuts of a simulation: repetitions that leave the same behind are followed at their end, the others count as a whole.

Both rest on two facts. Going forward, what is alive only grows from one repetition to the next, and each needs as much for a
moment as every other: the last one peaks. Going backward, autograd starts with what came last, and each repetition releases
what its forward kept: the same one peaks again. The tests compare with simulations that follow every repetition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.measure.live import LiveStorages
from efficient_kan.kernels.native import blocks


@contextmanager
def last_blocks_only(live: LiveStorages) -> Iterator[None]:
    """Let `efficient_kan` take all blocks of a loop but the last full ones as a single one that does not count for the peak.

    A loop over a hundred million samples in blocks of some thousand would take minutes. Every block leaves the same kind of
    result behind, and the results add up to the same bytes however they are cut; the peak of the loop is in its last full
    block, when all but one are there. The block before it does not count either, because what a loop's variables still hold
    of the block before is the large one.
    """
    whole = blocks.slices

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

    blocks.slices = last
    try:
        yield
    finally:
        blocks.slices = whole


def equal_edges(module: nn.Module) -> tuple[int, ...]:
    """Return the numbers of the symbolic layers of a pykan network that have the same function on every edge."""
    found = []
    for number, layer in enumerate(getattr(module, "symbolic_fun", ())):
        functions = {_text_of(function) for row in layer.funs for function in row}
        if len(functions) == 1:
            found.append(number)
    return tuple(found)


def _text_of(function: Any) -> object:
    """Return what two functions written in the same place have in common; other callables are equal to themselves alone."""
    return (function.__code__, function.__closure__) if hasattr(function, "__code__") else function


def shorten_symbolic(module: nn.Module, numbers: Iterable[int], live: LiveStorages) -> None:
    """Let symbolic layers of a pykan network, changed in place, loop over five inputs and five outputs at most.

    `numbers` are those of layers with equal edges, see `equal_edges`: fresh networks have the function zero everywhere.

    pykan 0.2.8 computes its symbolic functions one edge at a time: for every input a tensor of each output, which are stacked,
    and then a stack of these. In both loops the passes left out are one node of autograd, before the last three: it gives their
    results and keeps as much until backward as the second pass was seen to leave behind. Three, because autograd's buffers for
    sums are complete with the third gradient that arrives.
    """
    for number in numbers:
        layer = cast("Any", module).symbolic_fun[number]
        layer.forward = _shortened(layer, live)


_BEFORE, _AFTER = 2, 3  # passes followed before and after those left out


def _shortened(layer: Any, live: LiveStorages) -> Callable[..., Any]:
    whole = layer.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes = layer.in_dim, layer.out_dim
        layer.in_dim, layer.out_dim = (min(size, _BEFORE + _AFTER) for size in sizes)
        given = (x, layer.affine)
        try:
            with _LeaveOut(_Loop(sizes[0] - layer.in_dim, given, live), _Loop(sizes[1] - layer.out_dim, given, live)):
                return whole(x, *args, **kwargs)
        finally:
            layer.in_dim, layer.out_dim = sizes

    return forward


class _Loop:
    """A loop of which `count` passes are left out; `given` is what each of them computes with."""

    def __init__(self, count: int, given: tuple[Tensor, Tensor], live: LiveStorages) -> None:
        self._count, self.given, self._live = count, given, live
        self.restart()

    def restart(self) -> None:
        """Begin the whole loop again."""
        self._bytes: list[int] = []
        self._others: tuple[Tensor, ...] = ()

    def begin(self, like: tuple[torch.Size, torch.dtype] | None) -> None:
        """Begin a pass; `like` is what the one before gave."""
        self._bytes.append(self._live.bytes)
        if len(self._bytes) == _BEFORE + 1 and self._count and like is not None:
            left = self._bytes[-1] - self._bytes[-2]
            self._others = _Others.apply(*self.given, self._count, left, *like, self._live)  # type: ignore[no-untyped-call]

    def all(self, results: list[Tensor]) -> list[Tensor]:
        """Return the results of all passes, from those of the passes followed."""
        return [*results[:_BEFORE], *self._others, *results[_BEFORE:]]


class _LeaveOut(TorchFunctionMode):
    """Tells from the functions that a symbolic layer calls where its passes begin and end, and puts in those left out."""

    def __init__(self, inputs: _Loop, outputs: _Loop) -> None:
        super().__init__()
        self._inputs, self._outputs = inputs, outputs
        self._between = True  # before the first output of an input
        self._last: tuple[torch.Size, torch.dtype] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # The first thing computed for an edge is the third of its four affine numbers.
        if func is Tensor.__getitem__ and args[0] is self._inputs.given[1] and args[1][2] == 2:
            if self._between:
                self._outputs.restart()
                self._inputs.begin(self._last)
                self._between = False
            self._outputs.begin(self._last)
        if func is torch.stack:
            self._between = args[0][0].dim() == 2
            args = ((self._outputs if self._between else self._inputs).all(args[0]), *args[1:])
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._last = result.shape, result.dtype
        return result


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
