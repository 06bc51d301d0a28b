"""Where float64 arithmetic can be done: some devices, MPS among them, have none."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Place(NamedTuple):
    """A device and the widest dtype to compute with there."""

    device: torch.device
    dtype: torch.dtype

    def take(self, tensor: Tensor) -> Tensor:
        """``tensor`` moved here; differentiable."""
        return tensor.to(device=self.device, dtype=self.dtype)


def widest(device: torch.device) -> Place:
    """float64 on ``device``, else float64 on the CPU, else float32 on ``device``.

    Asked anew each time, which costs a microsecond: what a device refuses can depend on modes of torch.
    """
    for place in (Place(device, torch.float64), Place(torch.device("cpu"), torch.float64)):
        if _computes(place):
            return place
    return Place(device, torch.float32)


def _computes(place: Place) -> bool:
    try:
        torch.empty((), device=place.device, dtype=place.dtype)
    except (TypeError, RuntimeError, NotImplementedError):
        return False
    return True
