"""A network of symbolic layers: what :meth:`KAN.symbolic` makes, and its formula."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from efficient_kan import _checks
from efficient_kan._computed import copied
from efficient_kan._precision import widest
from efficient_kan.symbolic import refit
from efficient_kan.symbolic.affine import inside, wide_gaps
from efficient_kan.symbolic.arguments import Library, Place, check_edge, check_samples, check_targets, named
from efficient_kan.symbolic.choice import WEIGHT_SIMPLE, Candidate, Ranking, rank
from efficient_kan.symbolic.comparison import Comparison, compare
from efficient_kan.symbolic.curves import curves, of_splines, quantiles
from efficient_kan.symbolic.layer import SymbolicLayer
from efficient_kan.symbolic.library import SPLINE, Function, resolve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from efficient_kan.network import KAN
    from efficient_kan.symbolic.formula import Formulas

_REMEMBERED = 2048  # samples
_POOR = 0.9  # R^2 of an edge


class Edge(NamedTuple):
    """A symbolic edge ``a f(b x + c) + d`` as it is now."""

    layer: int
    o: int
    i: int
    name: str
    a: float
    b: float
    c: float
    d: float


class SymbolicKAN(nn.Module):
    r"""A network whose edges are :math:`a f(b x + c) + d` with functions that have names (KAN paper, section 2.5.1).

    :meth:`KAN.symbolic` makes one of a trained network. The constructor makes one whose edges are all ``0``, to be filled by
    :meth:`fix` or by the state dict of another.

    Args:
        layers_hidden: widths from inputs to outputs, at least two.
        library: names or :class:`Function` objects that edges may become; ``None`` for all of
            :data:`~efficient_kan.symbolic.LIBRARY`.
        device, dtype: of the parameters.

    Attributes:
        layers: ``ModuleList`` of :class:`SymbolicLayer`.
        library: the functions by name.
        fits: of each edge ``(layer, o, i)`` that was fitted, the :class:`Candidate` that it became.
        ranking: the edges and all functions fitted to them, from which :meth:`KAN.symbolic` chose.
        comparison: how the outputs compare with those of the network that this was made of, since the last :meth:`refit`;
            ``None`` if made otherwise.
    """

    layers: nn.ModuleList

    def __init__(
        self,
        layers_hidden: Sequence[int],
        library: Library = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        ok = isinstance(layers_hidden, Sequence) and not isinstance(layers_hidden, str) and len(layers_hidden) >= 2
        _checks.require(ok, "layers_hidden", "a sequence of at least two widths", layers_hidden)
        widths = [_checks.integer(w, f"layers_hidden[{n}]", 1) for n, w in enumerate(layers_hidden)]
        self.library = resolve(library)
        self.layers = nn.ModuleList(
            SymbolicLayer(n_in, n_out, self.library, device=device, dtype=dtype) for n_in, n_out in itertools.pairwise(widths)
        )
        self.fits: dict[Place, Candidate] = {}
        self.ranking: tuple[list[Place], Ranking] | None = None
        self.comparison: Comparison | None = None
        self.samples: Tensor | None = None
        self._network: list[KAN] = []  # in a list, so that it is no part of this module

    @property
    def symbolic_layers(self) -> list[SymbolicLayer]:
        """``layers`` as a typed list."""
        return cast("list[SymbolicLayer]", list(self.layers))

    @property
    def layers_hidden(self) -> list[int]:
        """The widths ``[n_0, ..., n_L]``."""
        return [self.symbolic_layers[0].in_features] + [layer.out_features for layer in self.symbolic_layers]

    def forward(self, x: Tensor) -> Tensor:
        """``(..., n_0) -> (..., n_L)``; not a number where an argument leaves its function's domain."""
        for layer in self.layers:
            x = layer(x)
        return x

    def remember(self, network: KAN, samples: Tensor) -> None:
        """Keep the network that this is made of, and at most 2048 of its samples ``(B, n_0)``."""
        rows = torch.linspace(0, len(samples) - 1, min(len(samples), _REMEMBERED), device=samples.device).round().long()
        self.samples, self._network = samples[rows], [copied(network).requires_grad_(False)]

    def record(self, edges: Sequence[Place], numbers: Sequence[int], ranking: Ranking) -> None:
        """Keep how edges were chosen: ``numbers`` among the functions of the ``ranking``."""
        self.ranking = list(edges), ranking
        self.fits = {edge: ranking.candidate(number, e) for e, (edge, number) in enumerate(zip(edges, numbers, strict=True))}

    def edges(self) -> list[Edge]:
        """The edges that are functions, but for those that are ``0``, with their numbers as they are now."""
        found = []
        for n, layer in enumerate(self.symbolic_layers):
            numbers = layer.affine.detach().flatten(1).T.tolist()
            for name, edges in layer.groups():
                found += [Edge(n, e // layer.in_features, e % layer.in_features, name, *numbers[e]) for e in edges.tolist()]
        return sorted(found)

    def splines(self) -> list[Place]:
        """The edges ``(layer, o, i)`` that are still splines."""
        return [(n, *edge) for n, layer in enumerate(self.symbolic_layers) for edge in layer.edges_called(SPLINE)]

    @torch.no_grad()
    def fix(self, layer: int, o: int, i: int, function: str | Function, affine: Sequence[float] | None = None) -> None:
        """Let an edge become ``a f(b x + c) + d``, in place.

        Args:
            layer, o, i: the edge, from input ``i`` of the layer to its output ``o``.
            function: a name of the library, or any :class:`Function` whose name no other one has, here or in the library.
            affine: ``(a, b, c, d)``; ``None``: those that come closest to the edge as it is now, at the samples.

        Raises:
            ValueError: if there is no such edge or function; if another function has its name; if it has no fit within its
                domain, or ``affine`` brings samples out of it; if there are no samples to fit to, as in a network that was not
                made by :meth:`KAN.symbolic`.
        """
        place = check_edge((layer, o, i), self.layers_hidden, "layer, o, i")
        chosen = named(function, self._functions_beside(place), "function")
        target = self.symbolic_layers[layer]
        if affine is None:
            _checks.require(self.samples is not None, "affine", "(a, b, c, d), since there are no samples to fit to", affine)
            candidate: Candidate | None = self._fitted(place, chosen)
            assert candidate is not None
            chosen, affine = named(candidate.name, {chosen.name: chosen}, "function"), candidate[1:5]
        else:
            candidate = None
        numbers = [_checks.number(value, "affine") for value in affine]
        _checks.require(len(numbers) == 4, "affine", "four numbers (a, b, c, d)", affine)
        if self.samples is not None:
            x = self._inputs_of(layer)[:, i].sort().values
            if not bool(inside(chosen, numbers[1] * x + numbers[2], wide_gaps(x))):
                raise refuse(chosen, place)
        target.assign({(o, i): chosen}, torch.tensor(numbers, dtype=torch.float64).unsqueeze(1))
        if candidate is None:
            self.fits.pop(place, None)
        else:
            self.fits[place] = candidate

    def _functions_beside(self, place: Place) -> dict[str, Function]:
        """The functions of the library and of all edges but one, by name."""
        found = dict(self.library)
        for edge in self.edges():
            if edge[:3] != place:
                found[edge.name] = self.symbolic_layers[edge.layer].library[edge.name]
        return found

    def _fitted(self, place: Place, function: Function) -> Candidate:
        """``function`` fitted to an edge as it is now."""
        layer, o, i = place
        wide = self._wide()
        source = wide.symbolic_layers[layer]
        x = wide._inputs_of(layer)
        points = quantiles(x)
        name = source.names[o][i]
        if name == SPLINE:
            assert source.splines is not None
            edge = torch.tensor([o], device=x.device), torch.tensor([i], device=x.device)
            values = of_splines(source.splines, points, *edge)
        else:
            a, b, c, d = source.affine[:, o, i]
            values = (a * source.library[name].torch(b * points[:, i] + c) + d).unsqueeze(0)
        curve = curves(points, values, torch.tensor([i], device=x.device), source(x).std(0, correction=0)[o : o + 1])
        ranking = rank(curve, [function], WEIGHT_SIMPLE)
        number = ranking.fitted(function, 0)
        if number is None:
            raise refuse(function, place)
        return ranking.candidate(number, 0)

    def _inputs_of(self, layer: int) -> Tensor:
        """The remembered samples as the inputs of a layer."""
        assert self.samples is not None
        x = self.samples.to(self.symbolic_layers[0].affine)
        for before in self.symbolic_layers[:layer]:
            x = before(x)
        return x

    def _wide(self) -> SymbolicKAN:
        """A copy in the widest dtype that there is."""
        place = widest(self.symbolic_layers[0].affine.device)
        wide: SymbolicKAN = copied(self).to(device=place.device, dtype=place.dtype)
        return wide

    @torch.no_grad()
    def refit(self, x: Tensor, y: Tensor, *, steps: int = 200) -> SymbolicKAN:
        """Fit all numbers to targets at once, in place: ``a, b, c`` and biases, and the splines that are left.

        Without splines by Levenberg-Marquardt steps with the exact Jacobian, else by LBFGS, in float64 where there is such.
        Steps that would bring an argument out of its function's domain are not taken. :attr:`comparison` tells how the formula
        then compares with the network at these targets; one ``UserWarning`` says so if it is worse.

        Args:
            x: samples ``(..., n_0)``, at least ten.
            y: targets ``(..., n_L)``.
            steps: at most so many.

        Returns:
            This network.

        Raises:
            ValueError: if samples and targets do not fit this network or are not finite, or if samples leave the domain of an
                edge's function.
        """
        like = self.symbolic_layers[0].affine
        samples = check_samples(x, self.layers_hidden[0], like)
        targets = check_targets(y, samples, self.layers_hidden[-1])
        steps = _checks.integer(steps, "steps", 1)
        wide = self._wide()
        x, y = (values.to(wide.symbolic_layers[0].affine) for values in (samples, targets))
        if (undefined := refit.outside(wide.symbolic_layers, x)) is not None:
            raise refuse(*undefined)
        refit.refit(wide.symbolic_layers, x, y, steps)
        self.load_state_dict(wide.state_dict())
        self.compare(samples, targets)
        self.warn_if_worse(stacklevel=2)
        return self

    @torch.no_grad()
    def compare(self, x: Tensor, y: Tensor | None = None) -> Comparison | None:
        """How the outputs compare with those of the network that this was made of, kept as :attr:`comparison`.

        Args:
            x: samples ``(..., n_0)``, which are taken to the network's dtype and device.
            y: targets ``(..., n_L)``; ``(B,)`` will do for one output.

        Raises:
            ValueError: if samples and targets do not fit each other or this network, or are not finite.
        """
        like = self.symbolic_layers[0].affine
        _checks.floating(x, "x")
        samples = check_samples(x.to(like), self.layers_hidden[0], like, least=1)
        if y is not None:
            _checks.floating(y, "y")
        targets = None if y is None else check_targets(y.to(like), samples, self.layers_hidden[-1])
        if self._network:
            network = self._network[0].to(like.device, like.dtype)
            self.comparison = compare(self(samples), network(samples), targets)
        return self.comparison

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a file that :meth:`load` makes it of again, with the same outputs bit for bit.

        As :meth:`KAN.save`, with the names of functions, the numbers, the splines that are left and the samples that
        :meth:`fix` and :meth:`formula` use; without :attr:`fits`, :attr:`ranking`, :attr:`comparison` and the network that
        this was made of. Raises as :meth:`KAN.save`.
        """
        from efficient_kan.symbolic import files

        files.save(self, path)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], library: Library = None, *, device: torch.device | str | None = None
    ) -> SymbolicKAN:
        """The network that :meth:`save` wrote to ``path``, on ``device`` (torch's default one if ``None``).

        A file names its functions and does not hold them: ``library`` must have all of them.

        Raises:
            ImportError: if safetensors is not installed.
            ValueError: as :meth:`KAN.load`, and if a function is not in the library.
        """
        from efficient_kan.symbolic import files

        return files.load(cls, path, library, device)

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
        """A picture of the network as :meth:`KAN.plot` draws it; edges that are functions are red and have the function's name.

        Edges that are ``0`` are left out. Arguments and errors are those of :meth:`KAN.plot`.
        """
        from efficient_kan.symbolic.picture import draw

        names = {"input_names": input_names, "output_names": output_names}
        return draw(self, x, **names, title=title, max_edges=max_edges, beta=beta, figure=figure)

    def warn_if_worse(self, stacklevel: int) -> None:
        """One ``UserWarning`` if the formula is worse than its network or fits the targets badly; see :attr:`comparison`."""
        if self.comparison is None:
            return
        splines = set(self.splines())
        fits = sorted((fit.r2, place, fit.name) for place, fit in self.fits.items() if place not in splines and fit.name != "0")
        useless = bool(fits) and fits[0][0] < _POOR and self.comparison.useless
        if self.comparison.worse or useless:
            what = "no function of the library fits" if useless else "the worst fits of edges (layer, o, i):"
            poor = ", ".join(f"{place} {name} R^2 = {r2:.5f}" for r2, place, name in fits[:3])
            warnings.warn(f"symbolic: {self.comparison}; {what} {poor}", stacklevel=stacklevel + 1)

    @torch.no_grad()
    def formula(self, names: Iterable[Any] | None = None, *, digits: int | None = None) -> Formulas:
        """A sympy expression for each output.

        Numbers are rounded in the formula as a whole, after constants were moved through the network. A number within half a
        unit of the last digit of a simple one becomes that: an integer, a fraction, a multiple of pi, ``sqrt(2)`` and the like
        (:mod:`efficient_kan.symbolic.constants`). Terms that are smaller than that unit at all samples are dropped.

        Args:
            names: of the inputs, different strings or sympy symbols; ``x_1, x_2, ...`` by default.
            digits: significant digits to round to; ``None``: as few as leave the outputs at the samples within 1e-6 of this
                network's, relative to the largest.

        Returns:
            A list of expressions. Its attributes ``digits``, ``error`` and ``exact`` tell how far rounding went, by how much it
            moved the outputs, and what the expressions were before.

        Raises:
            ImportError: if sympy is not installed.
            ValueError: if edges are still splines, names or digits are out of their ranges, or the sympy form of a function
                cannot be evaluated.
        """
        from efficient_kan.symbolic import formula

        count = self.symbolic_layers[0].in_features
        symbols = formula.symbols_of(names, count)
        digits = None if digits is None else _checks.integer(digits, "digits", 1)
        left = self.splines()
        expected = "functions for all edges: fix() them, or lower r2_threshold"
        _checks.require(not left, "formula", expected, f"splines at (layer, o, i) = {left}")
        from efficient_kan.symbolic.expression import Samples

        real = [type(symbol)(symbol.name, real=True) for symbol in symbols]  # which sympy simplifies further
        exact = formula.expressions(self.symbolic_layers, real)
        samples, reference = None, None
        if self.samples is not None:
            wide = self._wide()
            x = wide._inputs_of(0)
            samples, reference = Samples(real, x, formula.torch_forms(self.symbolic_layers)), wide(x).T
        found = []
        for o, expression in enumerate(exact):
            found.append(formula.simplified(expression, samples, None if reference is None else reference[o], digits))
        if digits is None:
            far = [
                f"{o} ({each.error:.2g})" for o, each in enumerate(found) if each.error is not None and not each.error <= 1e-6
            ]
            if far:
                warnings.warn(
                    f"formula: expressions differ from the network, by so much of its largest value: outputs {', '.join(far)}. "
                    "Their numbers are too large or too small for float64; shift or scale the inputs",
                    stacklevel=3,
                )
        back = dict(zip(real, symbols, strict=True))
        found = [each._replace(expression=each.expression.xreplace(back)) for each in found]
        return formula.Formulas(found, [expression.xreplace(back) for expression in exact])


def refuse(function: Function, place: Place) -> ValueError:
    """The error for a function that an edge cannot become."""
    kind = f"defined on {function.domain}" if function.branch is None else "with poles"
    return ValueError(
        f"edge (layer, o, i) = {place}: expected a function with finite values and arguments in its domain at all samples, "
        f"without a pole between them, got {function.name!r}, {kind}"
    )
