"""What looks on while a layer computes: a tracer, an exporter, a transform of torch.func, forward-mode differentiation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

# torch 2.6 cannot tell an export from a compilation.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
_PROXY = torch._C._TorchDispatchModeKey.PROXY


def recorded() -> bool:
    """Whether TorchScript, ``make_fx`` or ``torch.export`` (and by them the exporters to ONNX) record the operators.

    What they record is run on any number of samples, and where this package may be absent.
    """
    if torch.compiler.is_compiling():
        return bool(_is_exporting())
    if torch._C._get_tracing_state() is not None:
        return True
    return torch._C._get_dispatch_mode(_PROXY) is not None


def plain_operations_only() -> bool:
    """Whether to compute by torch's own operators and derivatives: where they are recorded or differentiated forwards."""
    return forward_ad._current_level >= 0 or recorded()


def observed() -> bool:
    """Whether something looks on that does not see into compiled code: any of these, torch.compile or torch.func."""
    # Every layer asks at every call: the parts of plain_operations_only() without its calls.
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or (torch._C._len_torch_dispatch_stack() > 0 and torch._C._get_dispatch_mode(_PROXY) is not None)
    )


def transformed(grad: Tensor) -> bool:
    """Whether a gradient stands for several (``is_grads_batched``, torch.func), or something looks on."""
    return bool(torch._C._functorch.is_legacy_batchedtensor(grad)) or observed()
