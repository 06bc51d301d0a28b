"""A network of KAN layers."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from efficient_kan import _checks, pruning
from efficient_kan.linear import KANLinear

if TYPE_CHECKING:
    from efficient_kan.penalties import Penalty


class KAN(nn.Module):
    """A Kolmogorov-Arnold network: :class:`KANLinear` layers one after another.

    State dicts of the widely used efficient-kan (keys ``layers.N.base_weight`` and so on) load with ``strict=True`` and
    give the same outputs.

    Args:
        layers_hidden: widths ``[n_0, ..., n_L]`` from inputs to outputs, at least two.
        grid_size, spline_order, scale_noise, scale_base, scale_spline, enable_standalone_scale_spline, base_activation,
        grid_eps, grid_range, bias, kernel, generator, device, dtype: of every layer, see :class:`KANLinear`.

    Raises:
        ValueError: if an argument is out of its range.

    Attributes:
        layers: the layers, ``ModuleList`` of :class:`KANLinear`.
    """

    layers: nn.ModuleList

    def __init__(
        self,
        layers_hidden: Sequence[int],
        grid_size: int = 5,
        spline_order: int = 3,
        scale_noise: float = 0.1,
        scale_base: float = 1.0,
        scale_spline: float = 1.0,
        enable_standalone_scale_spline: bool = True,
        base_activation: Callable[[], nn.Module] = nn.SiLU,
        grid_eps: float = 0.02,
        grid_range: tuple[float, float] | list[float] = (-1, 1),
        *,
        bias: bool = False,
        kernel: str = "auto",
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        ok = isinstance(layers_hidden, Sequence) and not isinstance(layers_hidden, str) and len(layers_hidden) >= 2
        _checks.require(ok, "layers_hidden", "a sequence of at least two widths", layers_hidden)
        widths = [_checks.integer(w, f"layers_hidden[{n}]", 1) for n, w in enumerate(layers_hidden)]
        self.layers = nn.ModuleList(
            KANLinear(
                n_in,
                n_out,
                grid_size,
                spline_order,
                scale_noise,
                scale_base,
                scale_spline,
                enable_standalone_scale_spline,
                base_activation,
                grid_eps,
                grid_range,
                bias=bias,
                kernel=kernel,
                generator=generator,
                device=device,
                dtype=dtype,
            )
            for n_in, n_out in itertools.pairwise(widths)
        )

    @classmethod
    def from_layers(cls, layers: Sequence[KANLinear]) -> KAN:
        """A network of existing layers, which may differ in grid and order.

        Raises:
            ValueError: if there is none, one is not a :class:`KANLinear`, or widths, dtypes or devices do not meet.
        """
        ok = isinstance(layers, Sequence) and not isinstance(layers, str) and len(layers) >= 1
        _checks.require(ok, "layers", "a sequence of at least one KANLinear", layers)
        for n, layer in enumerate(layers):
            _checks.require(isinstance(layer, KANLinear), f"layers[{n}]", "a KANLinear", type(layer))
            width = layer.in_features if n == 0 else layers[n - 1].out_features
            _checks.require(layer.in_features == width, f"layers[{n}]", f"in_features {width}", layer.in_features)
            place, first = (f"{w.dtype} on {w.device}" for w in (layer.base_weight, layers[0].base_weight))
            _checks.require(place == first, f"layers[{n}]", f"{first}, as layers[0]", place)
        kan = cls.__new__(cls)
        nn.Module.__init__(kan)
        kan.layers = nn.ModuleList(layers)
        return kan

    @property
    def layers_hidden(self) -> list[int]:
        """The widths ``[n_0, ..., n_L]``."""
        return [self.kan_layers[0].in_features] + [layer.out_features for layer in self.kan_layers]

    @property
    def kan_layers(self) -> list[KANLinear]:
        """``layers`` as a typed list."""
        return cast("list[KANLinear]", list(self.layers))

    def forward(self, x: Tensor, update_grid: bool = False) -> Tensor:
        """``(..., n_0) -> (..., n_L)``.

        Args:
            x: samples, see :meth:`KANLinear.forward`.
            update_grid: adapt each layer's grid to what reaches it before applying it, see :meth:`update_grid`.
        """
        for layer in self.layers:
            # A trace would make a tensor of what is passed on, and torch.fx a symbol, which cannot be asked.
            x = layer(x) if update_grid is False else layer(x, update_grid)
        return x

    def forward_with_penalty(self, x: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
        """Outputs and the penalty summed over layers, from one pass; exact gradients through the whole network.

        Args:
            x: samples ``(..., n_0)``; leading dimensions count as samples alike.
            penalty: :class:`WeightL1`, :class:`SampleL1` or :class:`SampleStd`.

        Returns:
            ``(y, penalty)``: ``(..., n_L)`` and a scalar.
        """
        losses = []
        for layer in self.kan_layers:
            x, loss = layer.forward_with_penalty(x, penalty)
            losses.append(loss)
        return x, torch.stack(losses).sum()

    def regularization_loss(self, regularize_activation: float = 1.0, regularize_entropy: float = 1.0) -> Tensor:
        """L1 and entropy on the weights as in efficient-kan, a scalar; unlike there, dead edges never make it NaN."""
        losses = [layer.regularization_loss(regularize_activation, regularize_entropy) for layer in self.kan_layers]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def update_grid(self, x: Tensor) -> None:
        """Adapt all grids to the samples ``x`` ``(..., n_0)`` and keep the function, in place, in one pass.

        Each layer sees the outputs of the layers already updated, as in pykan. See :meth:`KANLinear.update_grid`.
        """
        for layer in self.kan_layers:
            layer.update_grid(x)
            x = layer(x)

    @torch.no_grad()
    def refine(self, grid_size: int, x: Tensor) -> KAN:
        """A new network with ``grid_size`` intervals per layer that computes the same function.

        Each layer's splines are refitted, in least squares, at the samples that reach it for inputs ``x`` ``(..., n_0)``.
        """
        refined = []
        for layer in self.kan_layers:
            refined.append(layer.refine(grid_size, x))
            x = layer(x)
        return type(self).from_layers(refined)

    def importance(self, x: Tensor) -> list[Tensor]:
        """Attribution scores of all edges at the samples ``x``, see :func:`efficient_kan.pruning.importance`."""
        return pruning.importance(self, x)

    def prune(self, x: Tensor, threshold: float = 3e-2) -> KAN:
        """A copy whose edges with importance at or below ``threshold`` are masked out; earlier masks stay.

        Nodes left without edges are reported in a ``UserWarning``; :func:`efficient_kan.pruning.dangling_nodes` lists them.
        """
        threshold = _checks.number(threshold, "threshold", 0.0)
        scores = self.importance(x)
        pruned = copy.deepcopy(self)
        for layer, score in zip(pruned.kan_layers, scores, strict=True):
            layer.edge_mask.mul_(score > threshold)
        if _checks.has_values(scores[0]) and (dangling := pruning.dangling_nodes(pruned)):
            shown = "; ".join(str(node) for node in dangling[:10])
            warnings.warn(f"prune: {shown}{' ...' if len(dangling) > 10 else ''}", stacklevel=2)
        return pruned

    @classmethod
    def from_pykan(cls, model: Any) -> KAN:
        """What a ``kan.MultKAN`` of pykan 0.2.8 computes, as a KAN, see :func:`efficient_kan.pykan.from_pykan`."""
        from efficient_kan.pykan import from_pykan

        return from_pykan(model)

    def to_pykan(self) -> Any:
        """A ``kan.MultKAN`` that computes what this network computes, see :func:`efficient_kan.pykan.to_pykan`."""
        from efficient_kan.pykan import to_pykan

        return to_pykan(self)
