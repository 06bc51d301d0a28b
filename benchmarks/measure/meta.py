"""Live storages of `meta` tensors: operators give shapes and compute nothing, each as a device of some type would allocate.

An operator that has run once on the same shapes, strides and dtypes is not run again: its results are empty tensors of the
sizes it gave then. That holds for operators that neither change nor return a view of what they are given, and gave contiguous
blocks of memory of their own; all others run.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.measure.live import LiveStorages, promoted_copies
from benchmarks.schema.cases import Policy

# Sizes, strides and dtypes of the results, and whether they come as one tensor, by operator and signature; None: not to reuse.
_Made = tuple[type | None, tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...]] | None
_results: dict[Any, _Made] = {}


class MetaStorages(LiveStorages):
    """Live storages of `meta` tensors that stand for tensors on a device of the type `policy`.

    On "cpu" real tensors, such as indices made from Python lists and the optimiser's step counts, count too; on "cuda" they
    stay in the host's memory. Copies in a common dtype are made on a CPU alone, see `promoted_copies`.
    """

    def __init__(self, alive: Iterable[Tensor] = (), *, rounding: int = 1, policy: Policy = "cpu") -> None:
        self._on_host = policy == "cpu"
        super().__init__(alive, rounding=rounding)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator or give what it gave before, then count it."""
        kind = _kind(func)
        if kind == "view":
            return func(*args, **(kwargs or {}))
        if kind == "other":
            result = func(*args, **(kwargs or {}))
        else:
            key = (func, _signature(args), _signature(kwargs) if kwargs else None)
            try:
                made = _results[key]
            except KeyError:
                result = func(*args, **(kwargs or {}))
                _results[key] = _made(result, (args, kwargs))
            else:
                result = func(*args, **(kwargs or {})) if made is None else _again(made)
        if isinstance(result, Tensor):
            self._count(result, _least_bytes(func, args))
        else:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._count(leaf)
        self._note(func, promoted_copies(func, args) if self._on_host else 0)
        return result

    def _count(self, tensor: Tensor, least: int = 0) -> None:
        if self._on_host or tensor.is_meta:
            super()._count(tensor, least)


@cache
def _kind(func: Any) -> str:
    """Return "fresh" for operators that neither write to nor return what they are given, "view" for views, else "other"."""
    schema = func._schema
    if schema.is_mutable:
        return "other"
    if any(value.alias_info is not None for value in (*schema.arguments, *schema.returns)):
        return "view" if func.is_view else "other"
    return "fresh"


def _signature(value: Any) -> Any:
    """Return all that the shape of a result may depend on, hashable; equal numbers of different types stay different."""
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.stride(), value.is_meta
    if isinstance(value, (list, tuple)):
        return tuple([_signature(item) for item in value])
    if isinstance(value, dict):
        return tuple([(name, _signature(item)) for name, item in value.items()])
    return type(value), value


def _made(result: Any, given: Any) -> _Made:
    tensors = [result] if isinstance(result, Tensor) else result
    if not isinstance(tensors, (list, tuple)) or not all(type(leaf) is Tensor and leaf.is_meta for leaf in tensors):
        return None
    storages = [leaf.untyped_storage() for leaf in tensors]
    known = {leaf.untyped_storage()._cdata for leaf in tree_leaves(given) if isinstance(leaf, Tensor)}
    if len({storage._cdata for storage in storages} - known) < len(storages):
        return None
    described = tuple((leaf.shape, leaf.stride(), leaf.dtype) for leaf in tensors)
    again = [leaf.untyped_storage().nbytes() for leaf in _tensors(described)]
    if again != [storage.nbytes() for storage in storages] or any(leaf.storage_offset() for leaf in tensors):
        return None
    return type(result) if tensors is result else None, described


def _tensors(described: Iterable[tuple[torch.Size, tuple[int, ...], torch.dtype]]) -> list[Tensor]:
    return [torch.empty_strided(size, stride, dtype=dtype, device="meta") for size, stride, dtype in described]


def _again(made: tuple[type | None, Any]) -> Any:
    kind, described = made
    tensors = _tensors(described)
    return tensors[0] if kind is None else kind(tensors)


def _least_bytes(func: Any, args: Any) -> int:
    """Return the bytes of the first input for mse_loss, whose scalar keeps the storage of all squared differences."""
    if func is not torch.ops.aten.mse_loss.default or (len(args) > 2 and args[2] == 0):
        return 0
    size: int = args[0].numel() * args[0].element_size()
    return size
