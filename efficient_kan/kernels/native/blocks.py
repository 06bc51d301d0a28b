"""Blocks of samples and inputs, and what their results are put together by.

The functions of `native` expand one block after the other, so that no step holds the features of all samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from efficient_kan import _tracing
from efficient_kan._device import device_type

# Elements of x expanded at a time: large enough for full-speed matrix products, small enough to stay near the caches.
_BLOCK = {"cpu": 2**18, "cuda": 2**23}
MIN_ROWS = 256
# Edges and float64 covariances hold several copies of a block: theirs are smaller, so that no step peaks above a plain one.
EDGE_SHARE = 2
FLOAT64_SHARE = 4
# Float64 tensors of the size of the weights that edge_std holds at a time.
_WEIGHT_COPIES = 4
_UNCHANGED = nullcontext()


def block_elements(kind: str) -> int:
    """Elements of ``x`` in a block on devices of the type ``kind``; types without a size of their own take the CPU's."""
    return _BLOCK.get(kind, _BLOCK["cpu"])


def row_slices(x: Tensor, numbers: int, least: int) -> Iterable[slice | None]:
    """Slices over at ``least`` so many samples, whose ``numbers`` for each element fit a block; None if that is all of them."""
    rows, columns = x.shape
    size = max(least, block_elements(device_type(x)) // (numbers * columns))
    return (None,) if rows <= size else slices(rows, size)


def slices(length: int, size: int) -> Iterator[slice]:
    """Of ``length`` in pieces of ``size``, at least one."""
    return (slice(start, min(start + size, length)) for start in range(0, max(length, 1), size))


def row_blocks(x: Tensor, share: int = 1, outputs: int = 1) -> Iterator[slice]:
    """Slices over samples, of a ``share``-th of a block; a single one for who records operations or fuses them.

    So many that the values of an input's edges to all ``outputs`` fit two blocks, as in :func:`column_blocks`.
    """
    rows, columns = x.shape
    if torch.compiler.is_compiling() or _tracing.recorded():
        return iter((slice(None),))
    block = block_elements(device_type(x))
    return slices(rows, max(MIN_ROWS, min(block // (share * columns), 2 * block // max(1, outputs))))


def column_blocks(features: Tensor, vectors: Tensor) -> Iterator[slice]:
    """Slices over inputs whose edges fit a block, never all inputs at once (unless there is one)."""
    columns, _, rows = features.shape
    if _tracing.recorded():
        return iter((slice(None),))
    budget = 2 * block_elements(device_type(features))
    return slices(columns, max(1, min((columns + 1) // 2, budget // max(1, rows * vectors.shape[1]))))


def covariance_blocks(x: Tensor, weight: Tensor) -> Iterator[slice]:
    """Slices over inputs whose features, covariances and float64 weights fit a block."""
    outputs, columns, width = weight.shape
    if _tracing.recorded():
        return iter((slice(None),))
    rows = min(max(x.shape[0], 1), MIN_ROWS)
    budget = 8 * block_elements(device_type(x))
    return slices(columns, max(1, min(columns, budget // (width * (width + rows + _WEIGHT_COPIES * outputs)))))


def accumulate(total: Tensor | None, part: Tensor) -> Tensor:
    """A running sum in at least float32."""
    part = part.to(torch.promote_types(part.dtype, torch.float32))
    return part if total is None else total + part


def join(parts: list[Tensor]) -> Tensor:
    """One tensor of the parts along its first dimension."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def join_pairs(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """:func:`join` of the first and of the second ones."""
    first, second = zip(*pairs, strict=True)
    return join(list(first)), join(list(second))


def autocast_off(x: Tensor) -> AbstractContextManager[None]:
    """The dtypes here are chosen; autocast must not choose again."""
    return torch.autocast(x.device.type, enabled=False) if autocast(x) else _UNCHANGED


def autocast(x: Tensor) -> bool:
    """Whether autocast is on for the device of ``x``."""
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def part(samples: Tensor | None, rows: slice | None) -> Any:
    """Some ``rows`` of samples, or all."""
    return samples if samples is None or rows is None else samples[rows]


def total(former: Tensor | None, product: Tensor) -> Tensor:
    """:func:`accumulate` where there is something to add to."""
    return product if former is None else accumulate(former, product)


def any_requires_grad(*tensors: Tensor | None) -> bool:
    """Whether gradients of one of them are asked for."""
    return any(t is not None and t.requires_grad for t in tensors)
