"""Many small KANs of one shape at once: what they compute, the norms of their edges, their importance.

A step of one tiny network is all overhead. Here ``S`` seeds with ``N`` networks each share every operation; networks of a seed
see the same samples, whose first-layer features are constant in training and expanded once. The tests prove that each member
computes what `efficient_kan.KAN` does, and trains to the same weights.

Shape legend: ``S`` seeds, ``N`` networks a seed, ``B`` samples, ``I`` inputs and ``O`` outputs of a layer, ``G`` intervals,
``M = G + 6`` features of an input: its ``G + 3`` cubic B-splines between two rows that count for nothing, and its SiLU. Samples
come last in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.study.penalties import NORMS, Norm
from efficient_kan import KAN

ORDER = 3
PADDED = ORDER + 3  # features of an input beyond its intervals
_RANKS = torch.arange(1 - ORDER, 2).unsqueeze(-1)  # the rows of the bases that are non-zero in interval 0
_STD_OFFSET = 0.1  # pykan's, of the inputs' deviation in its penalty
_SPREAD_OFFSET = 1e-4  # pykan's, of the outputs' deviation in its importance


@dataclass
class Layer:
    """Weights of one layer of all networks, named as in `KANLinear`."""

    base_weight: Tensor  # shape: (S, N, O, I)
    spline_weight: Tensor  # shape: (S, N, O, I, G+3)
    spline_scaler: Tensor  # shape: (S, N, O, I)
    edge_mask: Tensor  # shape: (S, N, O, I)

    def folded_weight(self) -> Tensor:
        """Coefficients of each edge's features, `(S, N, O, I, M)`."""
        scale = (self.spline_scaler * self.edge_mask).unsqueeze(-1)
        none = torch.zeros_like(scale)
        return torch.cat((none, self.spline_weight * scale, none, (self.base_weight * self.edge_mask).unsqueeze(-1)), dim=-1)


@dataclass(frozen=True)
class Grid:
    """The uniform knots that all inputs of all networks share."""

    size: int
    low: float = -1.0
    high: float = 1.0

    @property
    def step(self) -> float:
        """Distance of two knots."""
        return (self.high - self.low) / self.size


class Stack:
    """`S` x `N` networks. `layers` hold their weights, `grid` their knots."""

    def __init__(self, layers: Sequence[Layer], grid: Grid) -> None:
        self.layers = list(layers)
        self.grid = grid

    @classmethod
    def of(cls, networks: Sequence[Sequence[KAN]]) -> Stack:
        """Stack networks of one shape, first index the seed. Raises ValueError if they are not plain cubic ones."""
        first = networks[0][0]
        for kan in (kan for row in networks for kan in row):
            for layer in kan.kan_layers:
                if layer.spline_order != ORDER or layer.spline_scaler is None or layer.bias is not None:
                    raise ValueError("networks: expected cubic splines with a standalone scale and no bias, got others")
        layers = []
        for n in range(len(first.kan_layers)):
            rows = [[kan.kan_layers[n] for kan in row] for row in networks]
            stacked = {
                name: torch.stack([torch.stack([getattr(layer, name).detach() for layer in row]) for row in rows])
                for name in ("base_weight", "spline_weight", "spline_scaler", "edge_mask")
            }
            layers.append(Layer(**stacked))
        head = first.kan_layers[0]
        return cls(layers, Grid(head.grid_size, *head.grid_range))

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
            [Layer(*(tensor.index_select(1, indices) for tensor in vars(one).values())) for one in self.layers], self.grid
        )

    def features(self, x: Tensor) -> Tensor:
        """First-layer features `(S, I, M, B)` of samples `x` `(S, I, B)`."""
        expanded: Tensor = _expand(x, self.grid)
        return expanded

    def forward(self, features: Tensor) -> Tensor:
        """Outputs `(S, N, O, B)` at the samples with these first-layer `features`."""
        for n, layer in enumerate(self.layers):
            y = _apply(layer, features, first=n == 0)
            if n + 1 < len(self.layers):
                features = _expand(y, self.grid)
        return y

    def forward_with_norms(self, features: Tensor, norm: Norm, moments: Moments) -> tuple[Tensor, list[Tensor]]:
        """Outputs and the edge norms `(S, N, O, I)` of every layer; `moments` are those of the first layer's `features`."""
        norms = []
        x: Tensor | None = None
        for n, layer in enumerate(self.layers):
            if norm in ("weight_l1", "folded_l1"):
                norms.append(weight_norms(layer, folded=norm == "folded_l1"))
                y = _apply(layer, features, first=n == 0)
            elif n == 0 and norm == "sample_std":
                norms.append(moments.deviations(layer.folded_weight()) / (moments.spread + _STD_OFFSET))
                y = _apply(layer, features, first=True)
            else:
                edges = _edges(layer, features, first=n == 0)
                if norm == "sample_l1":
                    norms.append(_sample_l1(edges))
                else:
                    assert x is not None
                    norms.append(edges.std(-1).movedim(-2, -1) / (x.std(-1).unsqueeze(-2) + _STD_OFFSET))
                y = _apply(layer, features, first=True) if n == 0 else edges.sum(-3)
            if n + 1 < len(self.layers):
                x, features = y, _expand(y, self.grid)
        return y, norms

    @torch.no_grad()
    def all_norms(self, features: Tensor, moments: Moments) -> dict[str, list[Tensor]]:
        """Every norm of the study, by name, and "importance"; each `(S, N, O, I)` a layer."""
        found: dict[str, list[Tensor]] = {norm: self.forward_with_norms(features, norm, moments)[1] for norm in NORMS}
        return found | {"importance": self.importance(features, moments)}

    @torch.no_grad()
    def importance(self, features: Tensor, moments: Moments) -> list[Tensor]:
        """`efficient_kan.KAN.importance` of every network: `(S, N, O, I)` a layer."""
        deviations, spreads = [], []
        for n, layer in enumerate(self.layers):
            if n == 0:
                deviations.append(moments.deviations(layer.folded_weight()))
            else:
                deviations.append(_edges(layer, features, first=False).std(-1).movedim(-2, -1))
            y = _apply(layer, features, first=n == 0)
            spreads.append(y.std(-1))
            features = _expand(y, self.grid) if n + 1 < len(self.layers) else features
        node = torch.full_like(spreads[-1], 1 / spreads[-1].shape[-1])
        scores: list[Tensor] = []
        for sigma, spread in zip(reversed(deviations), reversed(spreads), strict=True):
            edge = (node / (spread + _SPREAD_OFFSET)).unsqueeze(-1) * sigma
            node = edge.sum(-2)
            scores.insert(0, edge)
        return scores


class Moments:
    """Covariance of the constant first-layer features, so that a deviation costs no pass over the samples.

    In float64, and with the mean coefficient of a spline taken out: the bases sum to one on the grid, where all first-layer
    samples are, so it adds nothing to a variance and would cancel only to rounding.
    """

    def __init__(self, x: Tensor, features: Tensor) -> None:
        centred = features.double() - features.double().mean(-1, keepdim=True)
        self.covariance = centred @ centred.mT / (features.shape[-1] - 1)  # shape: (S, I, M, M)
        self.spread = x.std(-1)[:, None, None, :]  # shape: (S, 1, 1, I)

    def deviations(self, weight: Tensor) -> Tensor:
        """Deviation of every edge with folded weights `(S, N, O, I, M)`: `(S, N, O, I)`."""
        s, n, o, i, m = weight.shape
        vectors = weight.double().permute(0, 3, 1, 2, 4).reshape(s, i, n * o, m)
        splines = vectors[..., 1:-2]
        vectors = torch.cat((vectors[..., :1], splines - splines.mean(-1, keepdim=True), vectors[..., -2:]), dim=-1)
        variance = ((vectors @ self.covariance) * vectors).sum(-1).clamp(min=0)
        found = torch.where(variance > 0, torch.where(variance > 0, variance, 1.0).sqrt(), 0.0)
        return found.view(s, i, n, o).permute(0, 2, 3, 1).to(weight.dtype)


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


def _edges(layer: Layer, features: Tensor, *, first: bool) -> Tensor:
    """Values of every edge at every sample, `(S, N, I, O, B)`."""
    weight = layer.folded_weight()
    s, n, o, i, m = weight.shape
    if first:
        vectors = weight.permute(0, 3, 1, 2, 4).reshape(s, i, n * o, m)
        return (vectors @ features).view(s, i, n, o, -1).transpose(1, 2)
    return weight.transpose(2, 3) @ features


class _Expand(torch.autograd.Function):
    """Features of every value: `(..., B) -> (..., M, B)`.

    On uniform knots the four cubic bases that can be non-zero are fixed polynomials of the place within the interval. They are
    written to their rows; those of bases that do not exist go to the first or the last but one, which all weights leave out.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid) -> Tensor:
        place = torch.add(ORDER - grid.low / grid.step, x, alpha=1 / grid.step).clamp_(-1, grid.size + 2 * ORDER)
        cell = place.floor()
        t = place.sub_(cell)
        which = _RANKS + cell.nan_to_num_(-1.0).long().unsqueeze(-2)
        which.clamp_(0, grid.size + ORDER + 1)
        rest, square = 1 - t, t * t
        values = x.new_empty((*x.shape[:-1], ORDER + 1, x.shape[-1]))
        first, second, third, last = values.unbind(-2)
        torch.mul(rest, rest, out=first).mul_(rest).div_(6)
        torch.mul(square, t, out=last).div_(6)
        torch.mul(square, t / 2 - 1, out=second).add_(2 / 3)
        torch.sub(1 - first, second, out=third).sub_(last)
        features = x.new_zeros((*x.shape[:-1], grid.size + PADDED, x.shape[-1])).scatter_(-2, which, values)
        gate = torch.sigmoid(x)
        torch.mul(x, gate, out=features[..., -1, :])
        if ctx.needs_input_grad[0]:
            torch.mul(rest, rest, out=first).mul_(-0.5 / grid.step)
            torch.mul(square, 0.5 / grid.step, out=last)
            torch.mul(t, (1.5 * t).sub_(2), out=second).div_(grid.step)
            torch.add(first, second, out=third).add_(last).neg_()
            ctx.save_for_backward(which, values, x.mul(1 - gate).add_(1).mul_(gate))
        return features

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        which, slopes, of_silu = ctx.saved_tensors
        return grad.gather(-2, which).mul_(slopes).sum(-2).addcmul_(grad[..., -1, :], of_silu), None


def _expand(x: Tensor, grid: Grid) -> Tensor:
    features: Tensor = _Expand.apply(x, grid)  # type: ignore[no-untyped-call]
    return features


def initial(layers: Sequence[int], grid_size: int, seeds: Sequence[int], dtype: torch.dtype) -> Iterator[KAN]:
    """The network that every run of a seed starts from, one for each of `seeds`."""
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        yield KAN(list(layers), grid_size, ORDER, generator=generator, dtype=torch.float64).to(dtype)


def error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Training loss of every network: mean squared error, or the mean log-loss where `targets` are class numbers.

    `outputs` `(S, N, O, B)`; `targets` `(S, 1, B)` floating-point or `(S, B)` integer. Returns `(S, N)`.
    """
    if targets.is_floating_point():
        return (outputs - targets.unsqueeze(1)).square().mean((-2, -1))
    s, n, _, b = outputs.shape
    logs = nn.functional.log_softmax(outputs, dim=2)
    return -logs.gather(2, targets[:, None, None, :].expand(s, n, 1, b)).mean((-2, -1))
