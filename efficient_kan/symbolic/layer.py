r"""A layer whose edges are functions with names, or splines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from efficient_kan import _checks
from efficient_kan._computed import copied
from efficient_kan.linear import KANLinear
from efficient_kan.symbolic.library import SPLINE, ZERO, Function


class SymbolicLayer(nn.Module):
    r"""A KAN layer of symbolic edges, :math:`y_o = \sum_i \phi_{oi}(x_i) + \text{bias}_o`.

    .. math::
        \phi_{oi}(x) = a_{oi} f_{oi}(b_{oi} x + c_{oi}) + d_{oi}

    for the function :math:`f_{oi}` of each edge; edges called ``"spline"`` are those of a :class:`KANLinear`.

    Attributes:
        affine: parameter ``(4, out_features, in_features)``: ``a, b, c, d``. Of an edge ``"0"`` only ``d`` has an effect.
        bias: parameter ``(out_features,)``.
        splines: the layer of the remaining splines, its mask zero at the symbolic edges; ``None`` if there are none.
        names: the name of each edge's function, ``names[o][i]``.
    """

    affine: nn.Parameter
    bias: nn.Parameter
    splines: KANLinear | None
    _order: Tensor  # numbers o * in_features + i of the symbolic edges, function by function
    _places: Tensor  # shape: (out_features * most edges of an output,), where their values are; 0: none
    _zeros: Tensor  # shape: (out_features, in_features), whether an edge is "0"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        library: Mapping[str, Function],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.library = {**library, ZERO.name: ZERO}
        edges = (4, out_features, in_features)
        self.affine = nn.Parameter(torch.zeros(edges, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype))
        self.splines = None
        self.names = [[ZERO.name] * in_features for _ in range(out_features)]
        self._regroup()

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features) -> (..., out_features)``; not a number where an argument is outside a function's domain."""
        flat = x.reshape(-1, self.in_features)
        y = self.bias + self.affine[3].masked_fill(~self._zeros, 0.0).sum(1)
        y = y.expand(flat.shape[0], -1)
        if self._groups:
            numbers = self.affine.flatten(1)
            columns = [torch.zeros_like(flat[:, :1])]
            for name, edges in self.groups():
                a, b, c, d = numbers.index_select(1, edges).unbind(0)
                t = b * flat.index_select(1, edges % self.in_features) + c
                columns.append(a * self.library[name].torch(t) + d)
            terms = torch.cat(columns, 1).index_select(1, self._places)
            y = y + terms.view(flat.shape[0], self.out_features, self._most).sum(2)
        if self.splines is not None:
            y = y + self.splines(flat)
        return y.reshape(*x.shape[:-1], self.out_features)

    def terms(self, x: Tensor, evaluate: Callable[[Function, Tensor], tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, ...]]:
        """Of each function its edges ``(n,)``, arguments, values and derivatives ``(B, n)`` at ``x`` ``(B, in_features)``."""
        numbers = self.affine.detach().flatten(1)
        found: dict[str, tuple[Tensor, ...]] = {}
        for name, edges in self.groups():
            _, b, c, _ = numbers[:, edges]
            t = b * x[:, edges % self.in_features] + c
            found[name] = (edges, t, *evaluate(self.library[name], t))
        return found

    def function(self, o: int, i: int) -> Function | None:
        """The function of an edge; ``None`` for a spline."""
        name = self.names[o][i]
        return None if name == SPLINE else self.library[name]

    @torch.no_grad()
    def assign(self, functions: Mapping[tuple[int, int], Function | None], affine: Tensor) -> None:
        """Let edges ``(o, i)`` become functions with numbers ``(4, number of edges)``; ``None``: the spline that is there."""
        for n, ((o, i), function) in enumerate(functions.items()):
            if function is not None:
                self.library[function.name] = function
            self.names[o][i] = SPLINE if function is None else function.name
            self.affine[:, o, i] = 0.0 if function is None else affine[:, n].to(self.affine)
        self._regroup()

    def take(self, names: Sequence[Sequence[str]]) -> None:
        """Let the edges have functions of these names, ``names[o][i]``, which are in the library."""
        self.names = [list(row) for row in names]
        self._regroup()

    def edges_called(self, name: str) -> list[tuple[int, int]]:
        """The edges ``(o, i)`` whose function has this name."""
        return [(o, i) for o, row in enumerate(self.names) for i, other in enumerate(row) if other == name]

    def _regroup(self) -> None:
        """Make the index tensors of the names."""
        device = self.affine.device
        flat = [name for row in self.names for name in row]
        self._groups = [name for name in dict.fromkeys(flat) if name not in (ZERO.name, SPLINE)]
        members = [[n for n, other in enumerate(flat) if other == name] for name in self._groups]
        column = {edge: 1 + n for n, edge in enumerate(edge for edges in members for edge in edges)}
        I = self.in_features
        rows = [[column[e] for e in range(o * I, (o + 1) * I) if e in column] for o in range(self.out_features)]
        self._most = max(map(len, rows), default=0)
        places = [place for row in rows for place in row + [0] * (self._most - len(row))]
        self._counts = [len(edges) for edges in members]
        zeros = [[name == ZERO.name for name in row] for row in self.names]
        order = [edge for edges in members for edge in edges]
        self.register_buffer("_order", torch.tensor(order, dtype=torch.long).to(device), persistent=False)
        self.register_buffer("_places", torch.tensor(places, dtype=torch.long).to(device), persistent=False)
        self.register_buffer("_zeros", torch.tensor(zeros, dtype=torch.bool).to(device), persistent=False)
        if self.splines is not None:
            kept = torch.tensor([[name == SPLINE for name in row] for row in self.names])
            if bool(kept.any()):
                with torch.no_grad():
                    self.splines.edge_mask.mul_(kept.to(self.splines.edge_mask))
            else:
                self.splines = None

    def groups(self) -> list[tuple[str, Tensor]]:
        """Each function's name with its edges, numbers ``o * in_features + i``."""
        return list(zip(self._groups, self._order.split(self._counts), strict=True)) if self._groups else []

    def get_extra_state(self) -> Tensor:
        """The functions' names and the splines' activation, as a tensor of JSON bytes: files of tensors alone hold it, too."""
        activation = None if self.splines is None else type(self.splines.base_activation).__name__
        text = json.dumps({"names": self.names, "base_activation": activation})
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Nothing: names are needed before the tensors of splines, and are taken by ``_load_from_state_dict``."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        extra = state_dict.get(prefix + "_extra_state")
        if extra is not None:
            state = json.loads(bytes(extra.tolist()).decode())
            self._take_names(state["names"], prefix)
            self._take_splines(state_dict, prefix + "splines.", state["base_activation"])
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._regroup()  # where the numbers are now: some were assigned

    def _take_names(self, names: list[list[str]], prefix: str) -> None:
        shape = f"names of {self.out_features} x {self.in_features} edges"
        ok = len(names) == self.out_features and all(len(row) == self.in_features for row in names)
        _checks.require(ok, f"{prefix}_extra_state", shape, names)
        unknown = {name for row in names for name in row} - {*self.library, SPLINE}
        _checks.require(not unknown, f"{prefix}_extra_state", f"functions of the library {list(self.library)}", sorted(unknown))
        self.names = names

    def _take_splines(self, state_dict: dict[str, Any], prefix: str, activation: str | None) -> None:
        """Make the layer that a state's splines are loaded into, if there is none of their shape and activation."""
        if activation is None:
            self.splines = None
            return
        grid, weight = state_dict[prefix + "grid"], state_dict[prefix + "spline_weight"]
        order = grid.shape[1] - weight.shape[2] - 1
        size = weight.shape[2] - order
        old = self.splines
        has = None if old is None else old.base_activation
        kept = has if type(has).__name__ == activation else None
        known = kept is not None or activation == nn.SiLU.__name__
        _checks.require(known, f"{prefix}base_activation", "SiLU, or a network that has it already", activation)
        if old is not None and kept is not None and (old.grid_size, old.spline_order) == (size, order):
            return
        self.splines = KANLinear(
            self.in_features,
            self.out_features,
            size,
            order,
            enable_standalone_scale_spline=prefix + "spline_scaler" in state_dict,
            base_activation=nn.SiLU if kept is None else copied(kept).to,
            bias=False,
            device=self.affine.device,
            dtype=self.affine.dtype,
        )

    def extra_repr(self) -> str:
        counts = {name: len(edges) for name, edges in self.groups()}
        return f"{self.in_features}, {self.out_features}, functions={counts}"
