"""Training on several ranks of ``torch.distributed``: gradients and losses are means over ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from efficient_kan import _checks, _distributed
from efficient_kan.penalties import SampleL1, SampleStd, WeightL1


class Ranks:
    """The ranks of ``group``, see :meth:`KAN.update_grid`, which train the same network on samples of their own."""

    def __init__(self, group: Any) -> None:
        self.group, self.active = group, _distributed.active(group)
        self._handle = None if isinstance(group, str) else group

    def check(self, network: nn.Module, settings: Mapping[str, Any]) -> None:
        """Raise ValueError, on all ranks, if they differ in the network or in ``settings``; of functions kinds are compared."""
        if self.active:
            state = (tensor for tensor in (*network.parameters(), *network.buffers()))
            place = next(network.parameters()).device  # where the group's backend can send from
            said = tuple(f"{name}={_said(value)}" for name, value in settings.items())
            _distributed.gathered(lambda: (torch.zeros(1, 1, device=place), said), state, self.group)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over ranks, detached."""
        if not self.active:
            return value.detach()
        total = value.detach().clone()
        dist.all_reduce(total, group=self._handle)
        return total / dist.get_world_size(self._handle)

    def totals(self, *values: float, device: torch.device) -> list[float]:
        """The sums over ranks."""
        if not self.active:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total, group=self._handle)
        found: list[float] = total.tolist()
        return found

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace gradients by their means over ranks, by one reduction for each dtype.

        A parameter without gradient counts as one with zeros, as other ranks may have one.
        """
        if not self.active:
            return
        for dtype in dict.fromkeys(parameter.dtype for parameter in parameters):
            group = [parameter for parameter in parameters if parameter.dtype == dtype]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
            flat = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
            for parameter, mean in zip(group, flat.split([p.numel() for p in group]), strict=True):
                parameter.grad = torch.empty_like(parameter).copy_(mean.view(parameter.shape))

    def share(self, network: nn.Module) -> None:
        """Let running statistics and other buffers on the parameters' device have the first rank's values."""
        place = next(network.parameters()).device
        _distributed.broadcast((buffer for buffer in network.buffers() if buffer.device == place), self.group)


def _said(value: Any) -> str:
    """A setting as text that is the same in all processes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_said(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, Real) and not isinstance(value, bool):
        return f"{float(value):.17g}"  # 1, 1.0 and numpy's 1.0 are the same
    if value is None or isinstance(value, (str, bool, WeightL1, SampleL1, SampleStd)):
        return repr(value)
    return type(value).__qualname__


def unwrapped(network: nn.Module, group: Any) -> tuple[nn.Module, Any]:
    """The module inside a ``DistributedDataParallel`` and its group, or ``network`` and ``group``."""
    if dist.is_available() and isinstance(network, nn.parallel.DistributedDataParallel):
        default = isinstance(group, str) and group == "world"
        _checks.require(default, "group", "'world' with a DistributedDataParallel, whose own group counts", group)
        return network.module, network.process_group
    return network, group
