"""Samples and results that are the same on all ranks of ``torch.distributed``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from efficient_kan import _checks

GROUP_HELP = (
    "group: expected ranks that hold the same network, got different ones; "
    "pass group=None where every rank has a network of its own"
)
_ALONE = "pass group=None where one rank alone calls; how long the others are waited for is the timeout= of the process group"
# Bytes of a tensor that a fingerprint looks at together; each takes 24 for a moment.
_PIECE = 2**22


def active(group: Any) -> bool:
    """Whether there are other ranks to agree with: ``group`` is ``None`` (no), ``"world"`` or a process group.

    Raises:
        ValueError: if ``group`` is something else, or a process group that this rank is not in.
    """
    if group is None:
        return False
    available = dist.is_available()
    known = (isinstance(group, str) and group == "world") or (available and isinstance(group, dist.ProcessGroup))
    outside = available and group is dist.GroupMember.NON_GROUP_MEMBER
    _checks.require(known or outside, "group", "'world', a torch.distributed.ProcessGroup or None", group)
    _checks.require(not outside, "group", "one with this rank in it (None: this rank alone)", "a group of other ranks")
    return available and dist.is_initialized() and dist.get_world_size(_group(group)) > 1


def gathered(prepare: Callable[[], tuple[Tensor, tuple[Any, ...]]], state: Iterable[Tensor], group: Any) -> Tensor:
    """The samples ``(B, I)`` of all ranks of the ``group``, in the order of ranks; ``B`` may differ between them, or be 0.

    Args:
        prepare: returns this rank's samples and the settings that all ranks must share, or raises ``ValueError``.
        state: tensors that must be equal on all ranks.
        group: see :func:`active`.

    Raises:
        ValueError: on every rank, if ``prepare`` raises on one, or ranks differ in settings, state, features or dtype; on those
            that call, if others do not within the group's time limit.
    """
    if not active(group):
        return prepare()[0]
    problem: ValueError | None = None
    x, settings = torch.empty(0, 0), ()
    try:
        x, settings = prepare()
    except ValueError as error:  # the other ranks wait for this one
        problem = error
    what = None if problem is None else str(problem)
    prints = tuple(_fingerprint(tensor) for tensor in state) if problem is None else ()
    mine = (what, settings, (str(x.dtype), x.shape[-1], prints), x.shape[0])
    everyone: list[Any] = [None] * dist.get_world_size(_group(group))
    try:
        dist.all_gather_object(everyone, mine, group=_group(group))
    except RuntimeError as error:  # another rank never called, or is gone
        raise ValueError(f"group: expected a call on every rank, got no answer from some ({error}); {_ALONE}") from error
    if problem is not None:
        raise problem
    for rank, (found, *_) in enumerate(everyone):
        if found is not None:
            raise ValueError(f"{found} (on rank {rank} of the group)")
    given = [found for _, found, *_ in everyone]
    if len(set(given)) != 1:
        differ = [n for n, values in enumerate(zip(*given, strict=False)) if len(set(values)) != 1]
        listed = "; ".join(f"rank {rank}: {', '.join(str(found[n]) for n in differ)}" for rank, found in enumerate(given))
        raise ValueError(f"group: expected the same arguments on all ranks, got different ones ({listed[:200]})")
    if len({found for _, _, found, _ in everyone}) != 1:
        raise ValueError(GROUP_HELP)
    counts = [count for *_, count in everyone]
    padded = x.new_zeros(max(counts), x.shape[1])
    padded[: x.shape[0]] = x
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=_group(group))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def broadcast(tensors: Iterable[Tensor], group: Any) -> None:
    """Let ``tensors`` have the values of the group's first rank; nothing to do without other ranks."""
    if not active(group):
        return
    process_group = _group(group)
    source = 0 if process_group is None else dist.get_global_rank(process_group, 0)
    for tensor in tensors:
        sent = tensor.detach().contiguous()  # the tensor's own memory, or a copy
        dist.broadcast(sent, source, group=process_group)
        if not tensor.is_contiguous():
            # Of what is expanded, memory is there once.
            once = tuple(slice(0, 1) if step == 0 else slice(None) for step in tensor.stride())
            tensor[once].copy_(sent[once])


def _group(group: Any) -> Any:
    return None if isinstance(group, str) else group


def _fingerprint(tensor: Tensor) -> tuple[Any, ...]:
    """Shape, dtype and a sum of the bits, which is the same in whatever order a device adds."""
    total = 0
    for n, piece in enumerate(tensor.detach().contiguous().view(-1).view(torch.uint8).split(_PIECE)):
        place = torch.arange(n + 1, n + 1 + piece.numel(), device=piece.device) % 8191 + 1
        total += int((piece.to(torch.int64) * place).sum())
    return (*tensor.shape, str(tensor.dtype), total)
