"""Formulas planted in networks come back."""

from __future__ import annotations

import math

import pytest
import sympy
import torch

from efficient_kan.symbolic import LIBRARY, Function
from tests.efficient_kan.symbolic.planted import Curve, planted, uniform

Edges = dict[tuple[int, int, int], Curve]
LETTERS = "xyz"
UNIT = (-1.0, 1.0)
POSITIVE = (0.5, 2.0)

# id: widths, edges, formula, ranges of the inputs
FORMULAS: dict[str, tuple[list[int], Edges, str, list[tuple[float, float]]]] = {
    "exp of sum": (
        [2, 1, 1],
        {(0, 0, 0): lambda t: torch.sin(math.pi * t), (0, 0, 1): torch.square, (1, 0, 0): torch.exp},
        "exp(sin(pi*x) + y**2)",
        [UNIT, UNIT],
    ),
    "product through squares": (
        [2, 2, 1],
        {
            (0, 0, 0): lambda t: t,
            (0, 0, 1): lambda t: t,
            (0, 1, 0): lambda t: t,
            (0, 1, 1): lambda t: -t,
            (1, 0, 0): lambda t: t**2 / 4,
            (1, 0, 1): lambda t: -(t**2) / 4,
        },
        "x*y",
        [UNIT, UNIT],
    ),
    "product through logarithms": (
        [3, 1, 1],
        {(0, 0, 0): torch.log, (0, 0, 1): lambda t: -t.log(), (0, 0, 2): lambda t: 2 * t.log(), (1, 0, 0): torch.exp},
        "x*z**2/y",
        [POSITIVE, POSITIVE, POSITIVE],
    ),
    "norm": (
        [2, 1, 1],
        {(0, 0, 0): torch.square, (0, 0, 1): torch.square, (1, 0, 0): lambda t: t.clamp(min=0).sqrt()},
        "sqrt(x**2 + y**2)",
        [UNIT, (0.2, 1.0)],
    ),
    "pole outside the samples": (
        [1, 1, 1],
        {(0, 0, 0): torch.square, (1, 0, 0): lambda t: 1 / (1 + t)},
        "1/(1 + x**2)",
        [UNIT],
    ),
    "logarithm with a dead input": ([2, 1], {(0, 0, 0): torch.log}, "log(x)", [(0.1, 2.0), UNIT]),
    "constant edge": (
        [2, 1],
        {(0, 0, 0): lambda t: torch.full_like(t, 1.5), (0, 0, 1): lambda t: 2 * t},
        "3/2 + 2*y",
        [UNIT, UNIT],
    ),
    "saturating": (
        [2, 1],
        {(0, 0, 0): lambda t: torch.tanh(3 * t), (0, 0, 1): lambda t: -torch.arctan(2 * t)},
        "tanh(3*x) - atan(2*y)",
        [UNIT, UNIT],
    ),
    "arcsine and cosine": (
        [2, 1],
        {(0, 0, 0): lambda t: torch.arcsin(0.9 * t), (0, 0, 1): lambda t: torch.cos(2 * t)},
        "asin(0.9*x) + cos(2*y)",
        [UNIT, UNIT],
    ),
    "nested": (
        [1, 1, 1],
        {(0, 0, 0): lambda t: torch.exp(t / 2), (1, 0, 0): lambda t: torch.sin(2 * t)},
        "sin(2*exp(x/2))",
        [UNIT],
    ),
    "normal density": (
        [2, 1, 1],
        {
            (0, 0, 0): lambda t: t,
            (0, 0, 1): lambda t: -t,
            (1, 0, 0): lambda t: torch.exp(-(t**2) / 2) / math.sqrt(2 * math.pi),
        },
        "exp(-(x - y)**2/2)/sqrt(2*pi)",
        [UNIT, UNIT],
    ),
    "sum of velocities": (
        [2, 1, 1],
        {(0, 0, 0): torch.arctanh, (0, 0, 1): torch.arctanh, (1, 0, 0): torch.tanh},
        "(x + y)/(1 + x*y)",
        [(-0.8, 0.8), (-0.8, 0.8)],
    ),
    "powers": (
        [3, 1],
        {(0, 0, 0): lambda t: (t + 1) ** 3, (0, 0, 1): lambda t: t**4, (0, 0, 2): lambda t: (t - 0.5) ** 5},
        "(x + 1)**3 + y**4 + (z - 1/2)**5",
        [UNIT, UNIT, UNIT],
    ),
    "reciprocals and roots": (
        [3, 1],
        {(0, 0, 0): lambda t: 1 / t**2, (0, 0, 1): torch.rsqrt, (0, 0, 2): lambda t: t**1.5},
        "1/x**2 + 1/sqrt(y) + z**(3/2)",
        [POSITIVE, POSITIVE, POSITIVE],
    ),
    "layers of lines": (
        [2, 2, 1],
        {(0, 0, 0): lambda t: 2 * t, (0, 1, 1): lambda t: 3 * t, (1, 0, 0): lambda t: t / 2, (1, 0, 1): lambda t: t + 1},
        "x + 3*y + 1",
        [UNIT, UNIT],
    ),
    "corner": ([1, 1], {(0, 0, 0): lambda t: (t - 0.25).abs()}, "Abs(x - 1/4)", [UNIT]),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_planted_formula_comes_back(name: str) -> None:
    widths, edges, text, ranges = FORMULAS[name]
    x = uniform(200, *ranges)
    symbols = [sympy.Symbol(letter) for letter in LETTERS[: len(ranges)]]
    truth = sympy.sympify(text)
    y = torch.as_tensor(sympy.lambdify(symbols, truth, "numpy")(*x.numpy().T)).unsqueeze(1)
    kan = planted(widths, edges, x)
    symbolic = kan.symbolic(x, y)
    (formula,) = found = symbolic.formula(symbols)
    assert sympy.simplify(formula - truth) == 0, found
    values = torch.as_tensor(sympy.lambdify(symbols, formula, "numpy")(*x.numpy().T)).unsqueeze(1)
    assert float((values - symbolic(x).detach()).abs().max()) <= 1e-6
    assert found.error[0] <= 1e-6
    assert symbolic.comparison is not None
    assert symbolic.comparison.formula_rmse <= 1e-9


@pytest.mark.parametrize("of_targets", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("of_inputs", [1e-6, 1e3, 1e6])
def test_formulas_do_not_depend_on_the_units_of_inputs_and_targets(of_inputs: float, of_targets: float) -> None:
    x = uniform(200, UNIT, UNIT)
    y = of_targets * (x[:, :1].exp() + x[:, 1:] ** 2)
    edges: Edges = {
        (0, 0, 0): lambda t: of_targets * torch.exp(t / of_inputs),
        (0, 0, 1): lambda t: of_targets * (t / of_inputs) ** 2,
    }
    made = planted([2, 1], edges, of_inputs * x, grid_size=10).symbolic(of_inputs * x, y)
    assert [edge.name for edge in made.edges()] == ["exp", "x^2"]
    torch.testing.assert_close(made(of_inputs * x), y, rtol=1e-13, atol=1e-13 * of_targets)
    assert made.formula().error[0] <= 1e-14


def test_curves_alone_give_constants_as_exact_as_the_splines() -> None:
    widths, edges, _, ranges = FORMULAS["exp of sum"]
    x = uniform(200, *ranges)
    symbolic = planted(widths, edges, x).symbolic(x)
    sine = symbolic.edges()[0]
    assert (sine.name, sine.a, sine.b) == ("sin", pytest.approx(1, abs=1e-5), pytest.approx(math.pi, abs=1e-5))
    assert [str(e) for e in symbolic.formula(["x", "y"])] == ["exp(y**2 + sin(pi*x))"]


def test_a_network_of_pruned_edges_is_a_constant() -> None:
    x = uniform(50, UNIT, UNIT)
    assert planted([2, 3, 1], {}, x, bias=2.5).symbolic(x).formula() == [sympy.Rational(5, 2)]


def test_constants_of_a_chain_cut_by_pruning_are_kept() -> None:
    x = uniform(200, UNIT, UNIT)
    kan = planted([2, 2, 1], {(0, 0, 0): torch.sin, (1, 0, 0): lambda t: 2 * t, (1, 0, 1): torch.exp}, x)
    assert kan.symbolic(x, kan(x).detach()).formula(["x", "y"], digits=4) == [2 * sympy.sin(sympy.Symbol("x")) + 1]


def test_a_pole_between_clouds_of_samples_is_found() -> None:
    x = torch.cat((uniform(100, (-2.0, -0.5)), uniform(100, (0.5, 2.0))))
    kan = planted([1, 1], {(0, 0, 0): torch.reciprocal}, x, grid_size=200)
    assert kan.symbolic(x, 1 / x).formula(["x"]) == [1 / sympy.Symbol("x")]


def test_a_pole_among_samples_ends_in_a_sentence() -> None:
    x = uniform(200, UNIT)
    kan = planted([1, 1], {(0, 0, 0): torch.reciprocal}, x)
    with pytest.warns(UserWarning, match=r"no function of the library fits \(0, 0, 0\)"):
        kan.symbolic(x, 1 / x)


def test_a_formula_that_is_worse_than_its_network_says_by_how_much() -> None:
    x = uniform(200, UNIT)
    kan = planted([1, 1], {(0, 0, 0): lambda t: torch.sin(6 * t)}, x)
    sentence = r"error is 0\.\d+, the network's .*e-0\d.*\(0, 0, 0\) \S+ R\^2 = 0\."
    with pytest.warns(UserWarning, match=sentence):
        made = kan.symbolic(x, torch.sin(6 * x), library=["x", "x^3"])
    assert made.comparison is not None
    assert made.comparison.worse
    with pytest.warns(UserWarning, match=r"deviates from the network by 0\.\d+ "):
        kan.symbolic(x, library=["x"])


@pytest.mark.filterwarnings("ignore:symbolic")  # of the edges whose functions are similar there
def test_every_function_of_the_library_is_found_among_all() -> None:
    x = uniform(150, (0.2, 1.0))
    functions = [function for function in LIBRARY.values() if function.name not in ("0", "sgn", "abs")]  # these bend nowhere

    def curve(function: Function) -> Curve:
        return lambda t: 1.5 * function.torch(0.7 * t + 0.2) - 0.5

    edges = {(0, o, 0): curve(function) for o, function in enumerate(functions)}
    made = planted([1, len(functions)], edges, x, grid_size=60).symbolic(x)
    found = {function.name: made.fits[0, o, 0].name for o, function in enumerate(functions)}
    same = {"cos": "sin", "arccos": "arcsin"}  # but for a shift
    assert {name: other for name, other in found.items() if other not in (name, same.get(name))} == {}
    assert min(fit.r2 for fit in made.fits.values()) > 1 - 1e-9
