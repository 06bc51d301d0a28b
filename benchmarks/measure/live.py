"""Bytes of the tensors alive between operators: a second method for the peak, and the only one without real memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial, reduce
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves


def promoted_copies(func: Any, args: Any) -> int:
    """Return the bytes of the copies in a common dtype that an elementwise operator makes of its operands on a CPU.

    torch's CPU kernels compute in one dtype, so that a bool operand beside a float one is copied while the operator runs. CUDA
    kernels convert each element as they load it and copy nothing. `meta` tensors count as those of a CPU.
    """
    if not _elementwise(func):
        return 0
    operands = [a for a in args if isinstance(a, Tensor) and a.dim()]
    if len({operand.dtype for operand in operands}) < 2 or any(o.device.type not in ("cpu", "meta") for o in operands):
        return 0
    common = reduce(torch.promote_types, (operand.dtype for operand in operands))
    return sum(operand.numel() * common.itemsize for operand in operands if operand.dtype != common)


@cache
def _elementwise(func: Any) -> bool:
    return torch.Tag.pointwise in func.tags and func.overloadpacket is not torch.ops.aten.where


class LiveStorages(TorchDispatchMode):
    """Keeps the sum of the storages that operators have given out and that are still alive.

    Each storage counts once, whatever views there are of it, with its size rounded up to a multiple of `rounding` bytes, and
    until it dies. The sum is taken after every operator, and what one allocates and frees inside is not seen, but for
    `promoted_copies`. `alive` are tensors from before, whose storages count too. `operators` counts operators since the
    last `reset_peak`. Use as a context manager.

    Raises ValueError if `rounding` is below 1.
    """

    def __init__(self, alive: Iterable[Tensor] = (), *, rounding: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if rounding < 1:
            raise ValueError(f"rounding: expected at least 1, got {rounding}")
        self._rounding = rounding
        self._sizes: dict[int, int] = {}
        self._watched: dict[int, weakref.ref[Any]] = {}
        self._paused = False
        self.bytes = 0
        for tensor in alive:
            self._count(tensor)
        self.reset_peak()

    def reset_peak(self) -> None:
        """Start a new measurement: `before` and `peak` become what is alive now."""
        self.before = self.peak = self.bytes
        self.operator = "none"
        self.operators = 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the peak as it is for a while; what is alive afterwards counts all the same."""
        former, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = former

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Look at no operator for a while, which costs pykan's loops more than they take themselves.

        The storages of all new tensors that Python holds at the end count. What a graph alone holds is not found: the block
        must leave none.
        """
        foreign = [one for one in map(Tensor.untyped_storage, _held_by_python()) if one._cdata not in self._sizes]
        with _disable_current_modes():
            yield
        known = {storage._cdata for storage in foreign}
        for tensor in _held_by_python():
            if tensor.untyped_storage()._cdata not in known:
                self._count(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then count what it gave out."""
        result = func(*args, **(kwargs or {}))
        self.operators += 1
        for leaf in (result,) if isinstance(result, Tensor) else tree_leaves(result):  # a walk costs as much as an operator
            if isinstance(leaf, Tensor):
                self._count(leaf)
        self._note(func, promoted_copies(func, args))
        return result

    def _note(self, func: Any, transient: int = 0) -> None:
        if not self._paused and (held := self.bytes + transient) > self.peak:
            self.peak, self.operator = held, str(func)

    def _count(self, tensor: Tensor, least: int = 0) -> None:
        """Count the storage behind `tensor`, as if it had at least `least` bytes."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, max(storage.nbytes(), least)
        size = -(-size // self._rounding) * self._rounding
        if key not in self._sizes:
            self._watched[key] = weakref.ref(storage, partial(self._forget, key))
        self.bytes += size - self._sizes.get(key, 0)
        self._sizes[key] = size

    def _forget(self, key: int, _: object) -> None:
        self.bytes -= self._sizes.pop(key)
        del self._watched[key]


def _held_by_python() -> list[Tensor]:
    """The dense tensors that Python objects refer to."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]
    return [one for one in tensors if one.layout == torch.strided and not one.is_meta]


def tensors_of(module: torch.nn.Module) -> list[Tensor]:
    """Return parameters and buffers."""
    return [*module.parameters(), *module.buffers()]
