"""The arms `pykan[...]`: pykan 0.2.8 with the weights of a given network, its side effects contained.

Contained are: reseeding of the global generators of torch, numpy and `random`, checkpoints in ./model (they go to a temporary
folder that lives as long as the network), the width list changed in place, and text on standard output. What is timed is
untouched.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import random
import sys
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from efficient_kan import KAN
from reference import penalties


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Undo what pykan does to global random states, keep it from printing, and the collector away.

    pykan makes three functions for every edge, and a collector that walks over them again and again takes ten times as long as
    all the rest of building a network of a million edges.
    """
    states, collects = (torch.get_rng_state(), np.random.get_state(), random.getstate()), gc.isenabled()
    gc.disable()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if collects:
            gc.enable()
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _build(source: KAN, *, symbolic: bool, save_act: bool, auto_save: bool) -> nn.Module:
    importlib.import_module("kan.KANLayer")
    # The constructor fits random splines by least squares, which at 1024 x 1024 edges takes longer than all that is measured;
    # the weights of the source replace them at once.
    with contained(), mock.patch.object(sys.modules["kan.KANLayer"], "curve2coef", _unfitted):
        model: Any = source.to_pykan()
    model.symbolic_enabled, model.save_act, model.auto_save = symbolic, save_act, auto_save
    if auto_save:
        folder = tempfile.TemporaryDirectory(prefix="pykan-")
        weakref.finalize(model, folder.cleanup)
        model.ckpt_path = folder.name
        with contained():
            _first_checkpoint(model, Path(folder.name))
    module: nn.Module = model
    return module


def _unfitted(_: Tensor, y: Tensor, grid: Tensor, k: int) -> Tensor:
    """Return zeros in the shape of the coefficients: (samples, I), (samples, I, O), (I, G + 2k + 1) -> (I, O, G + k)."""
    return y.new_zeros(y.shape[1], y.shape[2], grid.shape[1] - k - 1)


def _first_checkpoint(model: Any, folder: Path) -> None:
    """Write what the constructor writes with auto_save=True, so that later automatic saves find their history."""
    (folder / "history.txt").write_text(f"### Round {model.round} ###\ninit => 0.0\n", encoding="utf-8")
    model.saveckpt(path=str(folder / "0.0"))


def build_default(source: KAN) -> nn.Module:
    """Return pykan as its constructor leaves it: symbolic branch on, activations saved, automatic checkpoints on."""
    return _build(source, symbolic=True, save_act=True, auto_save=True)


def build_nosave(source: KAN) -> nn.Module:
    """Return pykan that saves neither activations nor checkpoints; the symbolic branch stays on."""
    return _build(source, symbolic=True, save_act=False, auto_save=False)


def build_speed(source: KAN) -> nn.Module:
    """Return pykan after `.speed()`: no symbolic branch, nothing saved."""
    return _build(source, symbolic=False, save_act=False, auto_save=False)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return gradients in the layout of `efficient_kan` (output-major; pykan is input-major); frozen parameters have none."""
    model: Any = module
    found: dict[str, Tensor] = {}
    for i, (layer, bias) in enumerate(zip(model.act_fun, model.node_bias, strict=True)):
        grads = {"base_weight": layer.scale_base.grad, "spline_weight": layer.coef.grad, "spline_scaler": layer.scale_sp.grad}
        found |= {f"layers.{i}.{name}": grad.transpose(0, 1) for name, grad in grads.items() if grad is not None}
        if bias.grad is not None:
            found[f"layers.{i}.bias"] = bias.grad
    return found


def penalised(module: nn.Module, x: Tensor, penalty: str) -> tuple[Tensor, Tensor]:
    """Return outputs and the penalty.

    `sample_std` is pykan's own `reg` with its own defaults, the activations saved for this forward as `fit` does. pykan 0.2.8
    has no mean |phi| and detaches the activations it stores, so `sample_l1` uses the (B, O, I) tensor that each layer returns
    during the forward; the layers' affines are 1 and 0 here, and no symbolic function is active.
    """
    model: Any = module
    if penalty == "sample_std":
        saved, model.save_act = model.save_act, True
        try:
            y = model(x)
        finally:
            model.save_act = saved
        return y, model.reg("edge_forward_spline_n", 1.0, 2.0, 0.0, 0.0)
    if penalty == "weight_l1":
        norms = [penalties.weight_norms(layer.coef, layer.mask).T for layer in model.act_fun]
        return model(x), torch.stack([penalties.l1_and_entropy(n) for n in norms]).sum()
    edges: list[Tensor] = []  # shape of each: (B, O, I)
    hooks = [layer.register_forward_hook(lambda _, __, results: edges.append(results[2])) for layer in model.act_fun]
    try:
        y = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return y, torch.stack([penalties.l1_and_entropy(penalties.sample_norms(e)) for e in edges]).sum()
