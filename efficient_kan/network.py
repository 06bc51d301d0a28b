"""A network of KAN layers."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from efficient_kan import _calls, _checks, _computed, _tracing, adaptation, kernels, pruning
from efficient_kan.adaptation import Fit
from efficient_kan.linear import KANLinear

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from efficient_kan.penalties import Penalty
    from efficient_kan.shrinking import Shrunk
    from efficient_kan.symbolic import Candidate, SymbolicKAN
    from efficient_kan.symbolic.arguments import Edges, Library


class KAN(nn.Module):
    """A Kolmogorov-Arnold network: :class:`KANLinear` layers one after another.

    State dicts of the widely used efficient-kan (keys ``layers.N.base_weight`` and so on) load with ``strict=True`` and
    give the same outputs; without biases and pruned edges, state dicts of this class load there. Positional arguments have the
    order of that package, too.

    Args:
        layers_hidden: widths ``[n_0, ..., n_L]`` from inputs to outputs, at least two.
        grid_size, spline_order, scale_noise, scale_base, scale_spline: of every layer, see :class:`KANLinear`.
        base_activation, grid_eps, grid_range, enable_standalone_scale_spline: likewise.
        bias, kernel, generator, device, dtype: likewise.

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
        base_activation: Callable[[], nn.Module] = nn.SiLU,
        grid_eps: float = 0.02,
        grid_range: tuple[float, float] | list[float] = (-1, 1),
        *,
        enable_standalone_scale_spline: bool = True,
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
    def grid_size(self) -> int:
        """The number of grid intervals of all layers. Raises ValueError where layers differ."""
        return self._common("grid_size")

    @property
    def spline_order(self) -> int:
        """The B-spline order of all layers. Raises ValueError where layers differ."""
        return self._common("spline_order")

    def _common(self, name: str) -> int:
        values: list[int] = [getattr(layer, name) for layer in self.kan_layers]
        _checks.require(len(set(values)) == 1, name, "the same in all layers (read it of each of .layers)", values)
        return values[0]

    @property
    def kan_layers(self) -> list[KANLinear]:
        """``layers`` as a typed list."""
        return cast("list[KANLinear]", list(self._modules["layers"]._modules.values()))  # type: ignore[union-attr]

    def forward(self, x: Tensor, update_grid: bool = False) -> Tensor:
        """``(..., n_0) -> (..., n_L)``.

        Args:
            x: samples, see :meth:`KANLinear.forward`.
            update_grid: call :meth:`update_grid` with these samples first.
        """
        if update_grid is True:
            self.update_grid(x)
            update_grid = False
        if update_grid is False and not _tracing.observed() and isinstance(x, Tensor):
            layers = self.kan_layers
            plain = [_calls.is_forward_alone(layer, KANLinear) for layer in layers]
            found = kernels.network(layers, x) if all(plain) else None
            if found is not None:
                return found[0]
            for layer, alone in zip(layers, plain, strict=True):  # a call takes as long as some operations of a small layer
                x = layer.forward(x) if alone else layer(x)
            return x
        for layer in self.kan_layers:
            # A trace would make a tensor of what is passed on, and torch.fx a symbol, which cannot be asked.
            x = layer(x) if update_grid is False else layer(x, update_grid)
        return x

    def forward_with_penalty(self, x: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
        """Outputs and the penalty summed over layers, from one pass; exact gradients through the whole network.

        A layer with hooks, or with a ``forward`` of its own, is called first, and its penalty computed after it.

        Args:
            x: samples ``(..., n_0)``; leading dimensions count as samples alike.
            penalty: :class:`WeightL1`, :class:`SampleL1` or :class:`SampleStd`.

        Returns:
            ``(y, penalty)``: ``(..., n_L)`` and a scalar.

        ``DistributedDataParallel`` averages gradients of what its own ``forward`` returns; ``ddp.module.forward_with_penalty``
        skips that, and ranks drift apart. Wrap a module whose ``forward`` is this method; a penalty of samples is then the mean
        over ranks of each one's::

            class WithPenalty(nn.Module):
                def __init__(self, kan, penalty):
                    super().__init__()
                    self.kan, self.penalty = kan, penalty

                def forward(self, x):
                    return self.kan.forward_with_penalty(x, self.penalty)

            ddp = DistributedDataParallel(WithPenalty(kan, SampleL1()))
            y, penalty = ddp(x)
        """
        layers = self.kan_layers
        if isinstance(x, Tensor) and not _tracing.observed() and all(_calls.is_forward_alone(n, KANLinear) for n in layers):
            found = kernels.network(layers, x, penalty) if penalty is not None else None
            if found is not None:
                return cast("tuple[Tensor, Tensor]", found)
        losses = []
        for layer in layers:
            x, loss = _calls.with_penalty(layer, x, penalty)
            losses.append(loss)
        return x, torch.stack(losses).sum()

    def regularization_loss(self, regularize_activation: float = 1.0, regularize_entropy: float = 1.0) -> Tensor:
        """L1 and entropy on the weights as in efficient-kan, a scalar; unlike there, dead edges never make it NaN."""
        losses = [layer.regularization_loss(regularize_activation, regularize_entropy) for layer in self.kan_layers]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def update_grid(
        self,
        x: Tensor,
        margin: float = 0.0,
        *,
        fit: Fit = "function",
        max_change: float = 0.01,
        group: Any = "world",
    ) -> None:
        """Adapt all grids to the samples ``x`` ``(..., n_0)`` and keep the function, in place, in one pass.

        Each layer sees the outputs of the layers already updated, as in pykan. If something is wrong with a layer, none is
        changed. What happened to the function is said in one ``UserWarning``, unless it stayed the same to rounding.

        With ``fit="function"`` the splines are kept on the whole of their grid, and a grid that fits its samples stays:
        see :func:`efficient_kan.grid_update.adapted`. So repeated calls with other batches of the same data move little. A
        layer's grid stays, too, if there are fewer than ``12 (G + k)`` samples: call with more than a minibatch, or every few
        steps with the last batches together. Call early in training, when the function may still change; later it is
        held to ``max_change``, and :meth:`refine` adds knots without changing it.

        With ``fit="samples"`` knots are the samples' quantiles over their range, and coefficients are fitted at the samples
        alone, as in pykan 0.2.8. That wants many more samples than coefficients, and destroys a trained network with few.

        Args:
            x: samples; leading dimensions count as samples alike.
            margin: by how much the samples' range is widened on each side, in the units of a layer's inputs.
            fit: ``"function"`` or ``"samples"``.
            max_change: with ``fit="function"``, the largest change of a layer's outputs, relative to their deviation, that
                moving knots may make; ``float("inf")`` lets all knots move that samples ask for. Whatever it is, knots
                move where more than 20 % of an input's samples lie outside its grid.
            group: of ``torch.distributed``, where that is initialised: the samples of all its ranks are used, and all get the
                same grids, so every rank must call this, with the same network. Those that call wait for the others as long as
                the group's ``timeout`` allows, by default 10 minutes with nccl and 30 with gloo. ``None``: this rank alone.

        Raises:
            ValueError: if there is no sample, one is not finite, or coefficients are computed (``torch.nn.utils.parametrize``,
                ``prune``) in a way that cannot give the new ones, or sharded (``fully_shard``, ``DTensor``).
        """
        adaptation.update(self.kan_layers, x, margin=margin, fit=fit, max_change=max_change, group=group, name="layers[{}]")

    @torch.no_grad()
    def refine(self, grid_size: int, x: Tensor, *, fit: Fit = "function", group: Any = "world") -> KAN:
        """A copy of this network with ``grid_size`` intervals per layer that computes the same function.

        New knots are added to the old ones, which leaves the function the same to rounding, on the whole line. For fewer
        intervals than before the splines are the closest ones over the grid, and a ``UserWarning`` says by how much the outputs
        at ``x`` ``(..., n_0)`` moved. With ``fit="samples"`` knots are spread, and coefficients fitted at the samples, as in
        pykan 0.2.8.
        ``group`` as in :meth:`update_grid`.
        """
        layers = self.kan_layers
        refined = adaptation.refine(layers, x, grid_size, fit=fit, group=group, name="layers[{}]")
        return cast("KAN", _computed.copied(self, {id(old): new for old, new in zip(layers, refined, strict=True)}))

    def importance(self, x: Tensor, *, group: Any = "world") -> list[Tensor]:
        """Attribution scores of all edges at the samples ``x``, see :func:`efficient_kan.pruning.importance`.

        ``group`` as in :meth:`update_grid`: where one rank alone calls this, it must be ``None``.
        """
        return pruning.importance(self, x, group)

    def prune(self, x: Tensor, threshold: float = 3e-2, *, group: Any = "world") -> KAN:
        """A copy whose edges with importance at or below ``threshold`` are masked out; earlier masks stay.

        What a removed edge passed on, its mean over the samples ``x``, goes into the layer's bias, created if the layer has
        none: a constant input has no importance, but what it adds stays (:func:`efficient_kan.pruning.prune`). One
        ``UserWarning`` gives nodes left without edges (:func:`efficient_kan.pruning.dangling_nodes` lists them) and by how much
        the outputs change at the samples, if by more than rounding. ``group`` as in :meth:`update_grid`: all ranks get the same
        masks.

        Raises:
            ValueError: if the threshold is negative, there are less than two samples, or samples, parameters, activations or
                scores are not finite; the message names the layer.
        """
        pruned, moved = pruning.prune(self, x, threshold, group)
        pruning.warn_of(pruned, moved, stacklevel=2)
        return pruned

    def shrink(self, *, inputs: bool = True) -> Shrunk[KAN]:
        """A smaller copy that computes the same outputs: without the nodes that masks have cut off, inputs among them.

        Removed are nodes that no path of unmasked edges leads to from an input, and nodes from which none leads to an output.
        The former are constant: what they passed on goes into biases, which are created where there is none. All outputs
        stay; one that depends on no input is its bias. If none does, a node of each row stays, too, without edges.

        Args:
            inputs: whether inputs are removed, too. If not, the copy takes the same ``x``.

        Returns:
            ``(network, nodes)``: the copy, and for each row of nodes, from the inputs to the outputs, the numbers of those that
            are left. ``network(x[..., nodes[0]])`` is ``self(x)`` to rounding.

        Raises:
            ValueError: if parameters are not finite, or computed in a way that cannot give the ones that are left; if the base
                activation has parameters for each input, or there are no values, as on ``meta``.

        A ``UserWarning`` says by how much the function changed, if by more than rounding: hooks or a subclass's own ``forward``
        may depend on what is removed. ::

            small, nodes = kan.prune(x).shrink()
            y = small(x[:, nodes[0]])
        """
        from efficient_kan.shrinking import shrink

        return shrink(self, inputs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a file that :meth:`load` makes it of again, with the same outputs bit for bit.

        The file is of safetensors and holds no code: architecture (of each layer its arguments, grid, mask, base activation by
        name), parameters, which of them are frozen, and the mode. It does not hold hooks, gradients or an optimiser's state.
        The same network gives the same bytes, and ``path`` always holds a whole file. Needs the extra ``files``; the format
        is described in :mod:`efficient_kan.files`.

        Raises:
            ImportError: if safetensors is not installed.
            ValueError: if a file cannot hold the network as it is: a subclass, layers of one, a base activation that is not
                torch's own, computed parameters, parameters that layers share, further modules; or if ``path`` is no name of a
                file in an existing folder.
        """
        from efficient_kan.files import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str | None = None) -> KAN:
        """The network that :meth:`save` wrote to ``path``, on ``device`` (torch's default one if ``None``).

        Raises:
            ImportError: if safetensors is not installed.
            ValueError: if the file is another one than :meth:`save` writes, is damaged, or of a format that only a later
                version of this package knows.
        """
        from efficient_kan.files import load

        return load(cls, path, device)

    def plot(
        self,
        x: Tensor,
        *,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        title: str | None = None,
        max_edges: int = 64,
        beta: float = 3.0,
        figure: Any = None,
    ) -> Figure:
        """A picture of the network as in the KAN paper: inputs below, outputs above, a curve for every edge.

        A curve spans the values of its input at the samples; each panel has a vertical scale of its own. Edges are drawn the
        darker the more important they are (:meth:`importance`, at this rank's samples): with strength ``tanh(beta * score /
        largest score of the layer)``. Masked edges are left out. A layer of more than ``max_edges`` edges shows the strongest
        ones that lead to nodes which are shown, and a line of the picture says what is left out. Needs the extra ``plot``.

        Args:
            x: samples ``(..., n_0)``, at least two.
            input_names, output_names: ``x[0]``, ``x[1]``, ... and ``y[0]``, ... if ``None``.
            title: above the picture.
            max_edges: of a layer, >= 1.
            beta: how fast unimportant edges fade, >= 0.
            figure: a figure of matplotlib to draw into; a new one if ``None``. No other state of matplotlib is changed.

        Returns:
            The figure, which notebooks show; ``figure.savefig("kan.png")`` writes it.

        Raises:
            ImportError: if matplotlib is not installed.
            ValueError: if an argument is out of its range, or as :meth:`importance`.
        """
        from efficient_kan.plot import plot

        names = {"input_names": input_names, "output_names": output_names}
        return plot(self, x, **names, title=title, max_edges=max_edges, beta=beta, figure=figure)

    def plot_edges(self, layer: int, x: Tensor | None = None, **options: Any) -> Figure:
        """The edges of ``layers[layer]`` as a grid of panels, see :func:`efficient_kan.plot.plot_edges`.

        ``x`` are samples ``(..., n_0)`` of the network's inputs; without them curves are drawn over the layer's grid.
        """
        from efficient_kan.plot import plot_edges_of

        return plot_edges_of(self, layer, x, **options)

    def suggest(
        self, x: Tensor, layer: int, o: int, i: int, *, library: Library = None, weight_simple: float = 0.8
    ) -> list[Candidate]:
        """Functions that an edge may become, best first, each fitted as ``a f(b x + c) + d`` to the edge at the samples.

        Args:
            x: samples ``(..., n_0)``, at least ten.
            layer, o, i: the edge, from input ``i`` of the layer to its output ``o``.
            library, weight_simple: see :meth:`symbolic`.

        Returns:
            :class:`~efficient_kan.symbolic.Candidate` objects: name, ``a, b, c, d``, R^2, error at points held out, complexity
            and score.

        Raises:
            ValueError: if there is no such edge, or samples or options are out of their ranges.
        """
        from efficient_kan.symbolic.build import suggest

        return suggest(self, x, (layer, o, i), library, weight_simple)

    def symbolic(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        library: Library = None,
        functions: Edges | None = None,
        automatic: bool = True,
        weight_simple: float = 0.8,
        r2_threshold: float = 0.0,
        steps: int = 200,
    ) -> SymbolicKAN:
        r"""A network of functions with names in place of splines: edges :math:`a f(b x + c) + d` (KAN paper, section 2.5.1).

        All functions of the library are fitted to all edges at the samples, and each edge becomes the one with the best score,
        which weighs complexity against fit (:mod:`efficient_kan.symbolic.choice`). Fits whose arguments leave the function's
        domain, or have a pole between samples, do not count. Pruned edges become 0; this network is not changed. Prune first:
        an edge without importance gets a function, too.

        With targets the numbers are then refitted to these, and functions exchanged where another one gives a better formula.

        A ``UserWarning`` with the figures says if the formula is worse than its network: if its error at the targets is larger
        by a tenth, or, without targets, if it deviates from the network by more than 1 % of the outputs' deviation.

        Args:
            x: samples ``(..., n_0)``, at least ten.
            y: targets ``(..., n_L)``.
            library: names and :class:`~efficient_kan.symbolic.Function` objects; ``None`` for all of
                :data:`~efficient_kan.symbolic.LIBRARY`.
            functions: functions of edges ``(layer, o, i)`` chosen by hand.
            automatic: whether other edges become functions; if not, they stay splines.
            weight_simple: weight of complexity against fit, in [0, 1].
            r2_threshold: edges whose function of the best score fits with a lower R^2 stay splines, as in pykan.
            steps: of the refit, see :meth:`SymbolicKAN.refit`.

        Raises:
            ValueError: if an argument is out of its range; if a function chosen by hand has no fit within its domain.
        """
        from efficient_kan.symbolic.build import symbolic

        made = symbolic(self, x, y, library, functions, automatic, weight_simple, r2_threshold, steps)
        made.warn_if_worse(stacklevel=2)
        return made

    @classmethod
    def from_pykan(cls, model: Any) -> KAN:
        """What a ``kan.MultKAN`` of pykan 0.2.8 computes, as a KAN, see :func:`efficient_kan.pykan.from_pykan`."""
        from efficient_kan.pykan import from_pykan

        return from_pykan(model)

    def to_pykan(self, ckpt_path: str | None = None) -> Any:
        """A ``kan.MultKAN`` that computes what this network computes, see :func:`efficient_kan.pykan.to_pykan`."""
        from efficient_kan.pykan import to_pykan

        return to_pykan(self, ckpt_path)
