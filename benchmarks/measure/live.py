"""Bytes of the tensors alive between operators: a second method for the peak, and the only one for fake tensors."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveStorages(TorchDispatchMode):
    """Keeps the sum of the storages that operators have given out and that are still alive.

    Each storage counts once, whatever views there are of it, with its size rounded up to a multiple of `rounding` bytes, and
    until it dies. The sum is taken after every operator, so that what one allocates and frees inside is not seen. `alive` are
    tensors from before, whose storages count too. Use as a context manager; real and fake tensors both work.

    Raises ValueError if `rounding` is below 1.
    """

    def __init__(self, alive: Iterable[Tensor] = (), *, rounding: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if rounding < 1:
            raise ValueError(f"rounding: expected at least 1, got {rounding}")
        self._rounding = rounding
        self._sizes: dict[int, int] = {}
        self._paused = False
        self.bytes = 0
        for tensor in alive:
            self._count(tensor)
        self.reset_peak()

    def reset_peak(self) -> None:
        """Start a new measurement: `before` and `peak` become what is alive now."""
        self.before = self.peak = self.bytes
        self.operator = "none"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the peak as it is for a while; what is alive afterwards counts all the same."""
        former, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = former

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then count what it gave out."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf, self.least_bytes(func, args))
        if self.bytes > self.peak and not self._paused:
            self.peak, self.operator = self.bytes, str(func)
        return result

    def least_bytes(self, func: Any, args: Any) -> int:
        """Return a lower limit for the size of the storage that `func` gives out: 0, as real storages know their size."""
        return 0

    def _count(self, tensor: Tensor, least: int = 0) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, max(storage.nbytes(), least)
        size = -(-size // self._rounding) * self._rounding
        if key not in self._sizes:
            weakref.finalize(storage, self._forget, key).atexit = False
        self.bytes += size - self._sizes.get(key, 0)
        self._sizes[key] = size

    def _forget(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key)


def tensors_of(module: torch.nn.Module) -> list[Tensor]:
    """Return parameters and buffers."""
    return [*module.parameters(), *module.buffers()]
