"""Many small KANs of one shape at once: what they compute, the norms of their edges, their importance.

A step of one tiny network is all overhead. Here ``S`` seeds with ``N`` networks each share every operation; networks of a seed
see the same samples on the same knots, whose first-layer features are constant in training and expanded once. The tests prove
that each member computes what `efficient_kan.KAN` does, and trains to the same weights.

Shape legend: ``S`` seeds, ``N`` networks a seed, ``B`` samples, ``I`` inputs and ``O`` outputs of a layer, ``M`` features of an
input, see `expansion`. Samples come last in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.study import penalties
from benchmarks.study.expansion import Grid
from benchmarks.study.moments import Moments
from efficient_kan import KAN, KANLinear

_STD_OFFSET = 0.1  # pykan's, of the inputs' deviation in its penalty
_SPREAD_OFFSET = 1e-4  # pykan's, of the outputs' deviation in its importance
_WEIGHTS = ("base_weight", "spline_weight", "spline_scaler", "edge_mask")


@dataclass
class Layer:
    """Weights of one layer of all networks, named as in `KANLinear`."""

    base_weight: Tensor  # shape: (S, N, O, I)
    spline_weight: Tensor  # shape: (S, N, O, I, G+k)
    spline_scaler: Tensor  # shape: (S, N, O, I)
    edge_mask: Tensor  # shape: (S, N, O, I)

    def folded_weight(self) -> Tensor:
        """Coefficients of each edge's features, `(S, N, O, I, M)`."""
        scale = (self.spline_scaler * self.edge_mask).unsqueeze(-1)
        none = torch.zeros_like(scale)
        return torch.cat((none, self.spline_weight * scale, none, (self.base_weight * self.edge_mask).unsqueeze(-1)), dim=-1)


class Stack:
    """`S` x `N` networks. `layers` hold their weights, `grids` the knots of each layer."""

    def __init__(self, layers: Sequence[Layer], grids: Sequence[Grid]) -> None:
        self.layers = list(layers)
        self.grids = tuple(grids)

    @classmethod
    def of(cls, networks: Sequence[Sequence[KAN]]) -> Stack:
        """Stack networks of one shape, first index the seed. Raises ValueError if they are not plain, or their knots differ."""
        first = networks[0][0]
        layers, grids = [], []
        for n in range(len(first.kan_layers)):
            rows = [[kan.kan_layers[n] for kan in row] for row in networks]
            grids.append(_grid_of(rows))
            stacked = {
                name: torch.stack([torch.stack([getattr(layer, name).detach() for layer in row]) for row in rows])
                for name in _WEIGHTS
            }
            layers.append(Layer(**stacked))
        return cls(layers, grids)

    @property
    def counts(self) -> tuple[int, int]:
        """`S` and `N`."""
        s, n = self.layers[0].edge_mask.shape[:2]
        return s, n

    def parameters(self) -> list[Tensor]:
        """The tensors to train."""
        return [tensor for layer in self.layers for tensor in (layer.base_weight, layer.spline_weight, layer.spline_scaler)]

    def select(self, indices: Tensor) -> Stack:
        """A stack of copies of the networks `indices` `(n,)` of each seed."""
        return Stack(
            [Layer(*(tensor.index_select(1, indices) for tensor in vars(one).values())) for one in self.layers], self.grids
        )

    def put(self, indices: Tensor, other: Stack, which: Tensor) -> None:
        """Take over the networks of `other` into the places `indices` `(n,)` where `which` `(S, n)` says so."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            for name, tensor in vars(mine).items():
                chosen = which.view(*which.shape, *(1,) * (tensor.dim() - 2))
                tensor[:, indices] = torch.where(chosen, getattr(theirs, name), tensor[:, indices])

    def network(self, s: int, n: int) -> KAN:
        """The network of seed `s` and number `n` as one of the package."""
        layers = []
        for layer, grid in zip(self.layers, self.grids, strict=True):
            weight = layer.base_weight[s, n]
            outputs, inputs = weight.shape
            span = (grid.low, grid.high)
            own = KANLinear(inputs, outputs, grid.size, grid.order, grid_range=span, device=weight.device, dtype=weight.dtype)
            with torch.no_grad():
                for name in _WEIGHTS:
                    getattr(own, name).copy_(getattr(layer, name)[s, n])
                if grid.knots is not None:
                    own.grid.copy_(grid.knots[s])
            layers.append(own)
        return KAN.from_layers(layers)

    @classmethod
    def joined(cls, stacks: Sequence[Stack]) -> Stack:
        """The networks of several stacks of the same seeds, one after the other."""
        layers = [
            Layer(**{name: torch.cat([getattr(one, name) for one in parts], 1) for name in _WEIGHTS})
            for parts in zip(*(stack.layers for stack in stacks), strict=True)
        ]
        return cls(layers, stacks[0].grids)

    def features(self, x: Tensor) -> Tensor:
        """First-layer features `(S, I, M, B)` of samples `x` `(S, I, B)`."""
        return self.grids[0].expand(x)

    def forward(self, features: Tensor) -> Tensor:
        """Outputs `(S, N, O, B)` at the samples with these first-layer `features`."""
        for n, layer in enumerate(self.layers):
            y = _apply(layer, features, first=n == 0)
            if n + 1 < len(self.layers):
                features = self.grids[n + 1].expand(y)
        return y

    def forward_with_norms(self, features: Tensor, norm: str, moments: Moments) -> tuple[Tensor, list[Tensor]]:
        """Outputs and the edge norms `(S, N, O, I)` of every layer; `moments` are those of the first layer's `features`."""
        norms = []
        x: Tensor | None = None
        own = penalties.own(norm)
        for n, layer in enumerate(self.layers):
            if norm in ("weight_l1", "folded_l1"):
                norms.append(weight_norms(layer, folded=norm == "folded_l1"))
                y = _apply(layer, features, first=n == 0)
            elif own is not None and not own.samples:
                norms.append(own.norms(layer, None))
                y = _apply(layer, features, first=n == 0)
            elif n == 0 and norm == "sample_std":
                norms.append(moments.deviations(layer.folded_weight()) / (moments.spread + _STD_OFFSET))
                y = _apply(layer, features, first=True)
            else:
                edges = edge_values(layer, features, first=n == 0)
                if own is not None:
                    norms.append(own.norms(layer, edges))
                elif norm == "sample_l1":
                    norms.append(_sample_l1(edges))
                else:
                    assert x is not None
                    norms.append(edges.std(-1).movedim(-2, -1) / (x.std(-1).unsqueeze(-2) + _STD_OFFSET))
                y = _apply(layer, features, first=True) if n == 0 else edges.sum(-3)
            if n + 1 < len(self.layers):
                x, features = y, self.grids[n + 1].expand(y)
        return y, norms

    @torch.no_grad()
    def all_norms(self, features: Tensor, moments: Moments) -> dict[str, list[Tensor]]:
        """Every norm of the study, by name, and "importance"; each `(S, N, O, I)` a layer."""
        found: dict[str, list[Tensor]] = {norm: self.forward_with_norms(features, norm, moments)[1] for norm in penalties.NORMS}
        return found | {"importance": self.importance(features, moments)}

    @torch.no_grad()
    def importance(self, features: Tensor, moments: Moments) -> list[Tensor]:
        """`efficient_kan.KAN.importance` of every network: `(S, N, O, I)` a layer."""
        deviations, spreads = [], []
        for n, layer in enumerate(self.layers):
            if n == 0:
                deviations.append(moments.deviations(layer.folded_weight()))
            else:
                deviations.append(edge_values(layer, features, first=False).std(-1).movedim(-2, -1))
            y = _apply(layer, features, first=n == 0)
            spreads.append(y.std(-1))
            features = self.grids[n + 1].expand(y) if n + 1 < len(self.layers) else features
        node = torch.full_like(spreads[-1], 1 / spreads[-1].shape[-1])
        scores: list[Tensor] = []
        for sigma, spread in zip(reversed(deviations), reversed(spreads), strict=True):
            edge = (node / (spread + _SPREAD_OFFSET)).unsqueeze(-1) * sigma
            node = edge.sum(-2)
            scores.insert(0, edge)
        return scores


def _grid_of(rows: Sequence[Sequence[KANLinear]]) -> Grid:
    """The knots of a layer. Raises ValueError unless its networks are plain, and those of a seed share their knots."""
    first = rows[0][0]
    for layer in (layer for row in rows for layer in row):
        if layer.spline_order != first.spline_order or layer.spline_scaler is None or layer.bias is not None:
            raise ValueError("networks: expected splines of one order with a standalone scale and no bias, got others")
    low, high = first.grid_range
    uniform = first.uniform_grid(first.grid.device, first.grid.dtype)
    rounding = 8 * torch.finfo(uniform.dtype).eps * max(abs(low), abs(high), high - low)
    if all((layer.grid - uniform).abs().max() <= rounding for row in rows for layer in row):
        return Grid(first.grid_size, low, high, first.spline_order)
    knots = torch.stack([row[0].grid.detach() for row in rows])  # shape: (S, I, T)
    if any(not torch.equal(layer.grid, own) for row, own in zip(rows, knots, strict=True) for layer in row):
        raise ValueError("networks: expected those of a seed on the same knots, got others")
    return Grid(first.grid_size, low, high, first.spline_order, knots)


def weight_norms(layer: Layer, *, folded: bool) -> Tensor:
    """Norms on the weights, `(S, N, O, I)`."""
    norms = layer.spline_weight.abs().mean(-1)
    if folded:
        norms = norms * layer.spline_scaler.abs() + layer.base_weight.abs()
    masked: Tensor = norms * layer.edge_mask
    return masked


def _sample_l1(edges: Tensor) -> Tensor:
    """Mean absolute values: `(S, N, I, O, B) -> (S, N, O, I)`."""
    sums: Tensor = torch.linalg.vector_norm(edges, ord=1, dim=-1)
    return (sums / edges.shape[-1]).movedim(-2, -1)


def _apply(layer: Layer, features: Tensor, *, first: bool) -> Tensor:
    """Outputs of a layer, `(S, N, O, B)`. Features of the first layer are `(S, I, M, B)`, of others `(S, N, I, M, B)`."""
    weight = layer.folded_weight()
    s, n, o = weight.shape[:3]
    if first:
        y = torch.bmm(weight.reshape(s, n * o, -1), features.flatten(1, 2))
    else:
        y = torch.bmm(weight.reshape(s * n, o, -1), features.flatten(2, 3).flatten(0, 1))
    return y.view(s, n, o, -1)


def edge_values(layer: Layer, features: Tensor, *, first: bool) -> Tensor:
    """Values of every edge at every sample, `(S, N, I, O, B)`."""
    weight = layer.folded_weight()
    s, n, o, i, m = weight.shape
    if first:
        vectors = weight.permute(0, 3, 1, 2, 4).reshape(s, i, n * o, m)
        return (vectors @ features).view(s, i, n, o, -1).transpose(1, 2)
    return weight.transpose(2, 3) @ features


def initial(
    layers: Sequence[int], grid_size: int, seeds: Sequence[int], dtype: torch.dtype, *, order: int = 3, task: int = 0
) -> Iterator[KAN]:
    """The network that every run of a seed starts from, one for each of `seeds`; `task` gives each task weights of its own."""
    for seed in seeds:
        generator = torch.Generator().manual_seed((task << 32) + seed)
        yield KAN(list(layers), grid_size, order, generator=generator, dtype=torch.float64).to(dtype)


def error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Training loss of every network: mean squared error, or the mean log-loss where `targets` are class numbers.

    `outputs` `(S, N, O, B)`; `targets` `(S, 1, B)` floating-point or `(S, B)` integer. Returns `(S, N)`.
    """
    if targets.is_floating_point():
        return (outputs - targets.unsqueeze(1)).square().mean((-2, -1))
    s, n, _, b = outputs.shape
    logs = nn.functional.log_softmax(outputs, dim=2)
    return -logs.gather(2, targets[:, None, None, :].expand(s, n, 1, b)).mean((-2, -1))
