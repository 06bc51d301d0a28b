"""Samples and results that are the same on all ranks of ``torch.distributed``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

GROUP_HELP = (
    "group: expected ranks that hold the same network, got different ones; "
    "pass group=None where every rank has a network of its own"
)


def active(group: Any) -> bool:
    """Whether there are other ranks to agree with: ``group`` is ``None`` (no), ``"world"`` or a process group."""
    if group is None or not dist.is_available() or not dist.is_initialized():
        return False
    return dist.get_world_size(_group(group)) > 1


def gathered(x: Tensor, state: Iterable[Tensor], group: Any, problem: str | None) -> Tensor:
    """The samples ``x`` ``(B, I)`` of all ranks, in the order of ranks; ``B`` may differ between them.

    Args:
        x: this rank's samples.
        state: tensors that must be equal on all ranks.
        group: see :func:`active`.
        problem: why this rank cannot take part, or ``None``.

    Raises:
        ValueError: on every rank, if one has a problem or ranks differ in state, features or dtype.
    """
    mine = (problem, str(x.dtype), x.shape[-1], tuple(_fingerprint(tensor) for tensor in state), x.shape[0])
    everyone: list[Any] = [None] * dist.get_world_size(_group(group))
    dist.all_gather_object(everyone, mine, group=_group(group))
    for rank, (what, *_) in enumerate(everyone):
        if what is not None:
            raise ValueError(problem or f"{what} (on rank {rank})")
    if len({found[1:4] for found in everyone}) != 1:
        raise ValueError(GROUP_HELP)
    counts = [found[4] for found in everyone]
    padded = x.new_zeros(max(counts), x.shape[1])
    padded[: x.shape[0]] = x
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=_group(group))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def broadcast(tensors: Iterable[Tensor], group: Any) -> None:
    """Let ``tensors`` have the values of the group's first rank."""
    process_group = _group(group)
    source = 0 if process_group is None else dist.get_global_rank(process_group, 0)
    for tensor in tensors:
        dist.broadcast(tensor, source, group=process_group)


def _group(group: Any) -> Any:
    return None if isinstance(group, str) else group


def _fingerprint(tensor: Tensor) -> tuple[Any, ...]:
    """Shape, dtype and a sum of the bits, which is the same in whatever order a device adds."""
    bits = tensor.detach().contiguous().view(torch.uint8).to(torch.int64)
    place = torch.arange(bits.numel(), device=bits.device).view(bits.shape) % 8191 + 1
    return (*tensor.shape, str(tensor.dtype), int((bits * place).sum()))
