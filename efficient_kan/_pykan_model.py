"""The ``kan.MultKAN`` that :func:`efficient_kan.pykan.to_pykan` hands over: pykan's class with what its own methods miss.

pykan 0.2.8 returns models from ``prune``, ``prune_node``, ``prune_input`` and ``refine`` that save checkpoints even where the
model did not, so that they look for a history file that nothing has written; it makes them in torch's default dtype; it forgets
the flags that say what is trained; it copies through files in the working directory; and where an input of a layer is constant,
its grid update collapses that input's knots and fails or loses the spline.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from kan import MultKAN
from torch import Tensor

from efficient_kan import _checks
from efficient_kan.knots import interior_of

_OPTIONS = (
    "base_fun_name",
    "grid_eps",
    "grid_range",
    "affine_trainable",
    "sp_trainable",
    "sb_trainable",
    "symbolic_enabled",
    "save_act",
)


class Model(MultKAN):  # type: ignore[misc]  # pykan has no annotations
    """A ``kan.MultKAN`` that stays in its dtype, and writes files only if ``auto_save`` says so or it is asked to."""

    def prune(self, *args: Any, **options: Any) -> Any:
        with _default_dtype(self):
            return super().prune(*args, **options)

    def prune_node(
        self, threshold: float = 1e-2, mode: str = "auto", active_neurons_id: Any = None, log_history: bool = True
    ) -> Any:
        if mode == "auto" and active_neurons_id is None:
            self._score()
            best = [float(scores.detach().max()) for scores in self.node_scores[1:-1]]
            enough = all(score > threshold for score in best)
            _checks.require(
                enough, "threshold", f"one that leaves nodes in each layer, whose best scores are {best}", threshold
            )
        with _default_dtype(self):
            return self._adopt(super().prune_node(threshold, mode, active_neurons_id, log_history))

    def prune_edge(self, *args: Any, **options: Any) -> None:
        with _default_dtype(self):
            if self.edge_scores is None:
                self._score()
            super().prune_edge(*args, **options)
            for layer in self.act_fun:
                layer.mask.data = layer.mask.data.to(layer.coef.dtype)

    def prune_input(self, *args: Any, **options: Any) -> Any:
        with _default_dtype(self):
            return self._adopt(super().prune_input(*args, **options))

    def refine(self, new_grid: int) -> Any:
        with _default_dtype(self):
            return self._adopt(super().refine(new_grid))

    def copy(self) -> Any:
        """pykan's, by way of a folder of its own."""
        with tempfile.TemporaryDirectory() as folder:
            self.saveckpt(f"{folder}/model")
            return self._trained_alike(type(self).loadckpt(f"{folder}/model"))

    @staticmethod
    def loadckpt(path: str = "model") -> Any:
        """pykan's, in the dtype that was saved. (``kan.KAN.loadckpt`` makes a float32 model of pykan's own class.)"""
        state = torch.load(f"{path}_state", map_location="cpu", weights_only=True)
        with _default_dtype(state["act_fun.0.coef"]):
            model = MultKAN.loadckpt(path)
        model.__class__ = Model
        return model

    def rewind(self, model_id: str) -> Any:
        self._check_history()
        super().rewind(model_id)
        return self._trained_alike(self.loadckpt(f"{self.ckpt_path}/{model_id}"))

    def checkout(self, model_id: str) -> Any:
        self._check_history()
        return self._trained_alike(self.loadckpt(f"{self.ckpt_path}/{model_id}"))

    def history(self, k: Any = "all") -> None:
        self._check_history()
        super().history(k)

    def update_grid_from_samples(self, x: Tensor) -> None:
        """pykan's, except that inputs of a layer that are constant over the samples keep their knots and splines."""
        for n, layer in enumerate(self.act_fun):
            self.get_act(x)
            inputs = self.acts[n].detach()
            grid, coefficients = layer.grid.data.clone(), layer.coef.data.clone()
            interior = interior_of(grid, layer.k)
            spread = inputs.amax(0) - inputs.amin(0)
            constant = ~(spread > 16 * torch.finfo(x.dtype).eps * inputs.abs().amax(0)) | ~(spread > 0)
            # Samples that span the present knots stand for the constant ones, so that pykan's solver has a full rank.
            weight = torch.linspace(0, 1, len(inputs), dtype=inputs.dtype, device=inputs.device).unsqueeze(1)
            layer.update_grid_from_samples(torch.where(constant, torch.lerp(interior[:, 0], interior[:, -1], weight), inputs))
            layer.grid.data = torch.where(constant.unsqueeze(1), grid, layer.grid.data)
            layer.coef.data = torch.where(constant.view(-1, 1, 1), coefficients, layer.coef.data)

    def _score(self) -> None:
        if self.acts is None:
            self.get_act()
        self.attribute(plot=False)

    def _adopt(self, model: Any) -> Any:
        """What pykan made of this model, with its class, options and flags."""
        model.__class__ = type(self)
        model.auto_save = self.auto_save
        model._modules.pop("base_fun_name", None)  # prune_input passes the function where its name belongs
        for name in _OPTIONS:
            setattr(model, name, getattr(self, name))
        for layer, source in zip(model.act_fun, self.act_fun, strict=True):
            layer.grid_eps = source.grid_eps
        return self._trained_alike(model)

    def _trained_alike(self, model: Any) -> Any:
        """A model of this one's parameters, with their flags that say what is trained."""
        flags = {name: parameter.requires_grad for name, parameter in self.named_parameters()}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])
        return model

    def _check_history(self) -> None:
        expected = "a model that saves its history: kan.to_pykan(ckpt_path='./model')"
        found = Path(self.ckpt_path, "history.txt").exists()
        _checks.require(self.auto_save or found, "ckpt_path", expected, "one that saves none (auto_save=False)")


@contextmanager
def _default_dtype(like: Any) -> Iterator[None]:
    """pykan builds its tensors in torch's default dtype: that of this model's weights for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype((like if isinstance(like, Tensor) else like.act_fun[0].coef).dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
