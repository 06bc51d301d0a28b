"""The kind of device a tensor is on, or stands for: ``meta`` tensors have none of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor

_simulated: ContextVar[str] = ContextVar("simulated device", default="meta")


def device_type(tensor: Tensor) -> str:
    """``tensor.device.type``, or inside :func:`meta_stands_for` what a ``meta`` tensor stands for."""
    found = tensor.device.type
    return _simulated.get() if found == "meta" else found


@contextmanager
def meta_stands_for(kind: str) -> Iterator[None]:
    """Let ``meta`` tensors be treated as those of the device type ``kind``: what a simulation of that device follows."""
    token = _simulated.set(kind)
    try:
        yield
    finally:
        _simulated.reset(token)


def autocast_off(x: Tensor) -> AbstractContextManager[None]:
    """No autocast on the device of ``x``, where dtypes are chosen already."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
