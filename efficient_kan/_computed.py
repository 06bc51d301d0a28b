"""Writing parameters that a module computes: by ``torch.nn.utils.parametrize``, or by a hook before each forward.

Such a parameter is written through what it is computed from, where that can be done exactly, and refused otherwise.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from efficient_kan import _checks, _sharding

_BY_HOOK = "a hook computes it, of torch.nn.utils.prune or the old weight_norm"


def assign(layer: nn.Module, name: str, value: Tensor, *, label: str | None = None) -> None:
    """Let ``layer``'s parameter ``name``, ``label`` in messages, have this ``value``, of any shape if it is not computed.

    Raises:
        ValueError: if the parameter is computed and cannot take the value; it may hold another one then.
    """
    label = label or name
    parameter = layer._parameters.get(name)
    if parameter is not None:
        if parameter.shape == value.shape:
            parameter.copy_(_sharding.distributed_like(value, parameter))
        else:
            # Contiguous, as torch.optim.LBFGS needs its gradient to be.
            layer._parameters[name] = nn.Parameter(value.contiguous(), requires_grad=parameter.requires_grad)
        return
    if not parametrize.is_parametrized(layer, name):
        _assign_pruned(layer, name, value, label)
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of right inverses that differ in dtype or shape: checked below
            setattr(layer, name, value)
        result = getattr(layer, name)
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        raise _refusal(name, f"its parametrization has no inverse: {error}", label) from error
    expected = f"a parametrization that can give shape {tuple(value.shape)}"
    _checks.require(result.shape == value.shape, label, expected, tuple(result.shape))
    if _checks.has_values(result):
        rounding = 64 * torch.finfo(value.dtype).eps * value.abs().max()
        if not bool((result - value).abs().max() <= rounding):
            raise _refusal(name, "its parametrization gives only some values", label)


def assign_all(layer: nn.Module, values: dict[str, Tensor]) -> None:
    """:func:`assign` for several parameters: all of them, or an error and none."""
    computed = any(name not in layer._parameters for name in values)
    snapshot = Snapshot([layer]) if computed else None
    try:
        for name, value in values.items():
            assign(layer, name, value)
    except ValueError:
        if snapshot is not None:
            snapshot.restore()
        raise


def _assign_pruned(layer: nn.Module, name: str, value: Tensor, label: str) -> None:
    """Write what a hook of ``torch.nn.utils.prune`` multiplies with its mask."""
    original, mask = layer._parameters.get(f"{name}_orig"), layer._buffers.get(f"{name}_mask")
    if original is None or mask is None or original.shape != value.shape:
        raise _refusal(name, _BY_HOOK, label)
    if _checks.has_values(value) and not torch.equal(value * mask, value):
        raise _refusal(name, "torch.nn.utils.prune keeps some of its values at zero", label)
    original.copy_(value)
    setattr(layer, name, original * mask)


def copied(module: Any, replacing: dict[int, Any] | None = None) -> Any:
    """A deep copy, with other objects for those of the ids in ``replacing``.

    Also of modules whose hooks leave computed tensors behind, which torch refuses to copy: these are detached.
    """
    computed = (v for part in module.modules() for v in vars(part).values() if isinstance(v, Tensor) and v.grad_fn is not None)
    detached = {id(tensor): tensor.detach().clone() for tensor in computed}
    return copy.deepcopy(module, detached | (replacing or {}))


def _refusal(name: str, reason: str, label: str) -> ValueError:
    return ValueError(
        f"{label}: expected a parameter that can be written, got a computed one ({reason}); make it permanent first: "
        f"torch.nn.utils.parametrize.remove_parametrizations(layer, {name!r}), torch.nn.utils.prune.remove(layer, {name!r}) or "
        f"torch.nn.utils.remove_weight_norm(layer, {name!r})"
    )


class Snapshot:
    """The tensors of some modules, to go back to."""

    def __init__(self, modules: list[Any]) -> None:
        self._slots: list[tuple[dict[str, Tensor | None], str, Tensor, Tensor]] = []
        for module in modules:
            for part in module.modules():
                for store in (part._parameters, part._buffers):
                    self._slots += [(store, name, t, t.detach().clone()) for name, t in store.items() if t is not None]

    @torch.no_grad()
    def restore(self) -> None:
        """Let every tensor be the object it was, with the values it had."""
        for store, name, tensor, values in self._slots:
            if tensor.shape == values.shape and tensor.dtype == values.dtype:
                tensor.copy_(values)
            else:
                tensor.set_(values)  # type: ignore[call-overload]  # a right inverse changes tensors in place
            store[name] = tensor
