"""Symbolic networks as modules: fixing by hand, refitting, states, exports, derivatives."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sympy
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from efficient_kan import KAN
from efficient_kan.symbolic import LIBRARY, Function, SymbolicKAN
from efficient_kan.symbolic.constants import short
from tests.efficient_kan.symbolic.planted import planted, uniform

X = uniform(200, (-1.0, 1.0), (-1.0, 1.0))
Y = torch.exp(torch.sin(math.pi * X[:, :1]) + X[:, 1:] ** 2)


@pytest.fixture(scope="module")
def kan() -> KAN:
    edges = {(0, 0, 0): lambda t: torch.sin(math.pi * t), (0, 0, 1): torch.square, (1, 0, 0): torch.exp}
    return planted([2, 1, 1], edges, X)


@pytest.fixture
def by_hand() -> SymbolicKAN:
    network = SymbolicKAN([2, 2, 1], dtype=torch.float64)
    network.fix(0, 0, 0, "sin", (1.0, math.pi, 0.0, 0.25))
    network.fix(0, 0, 1, "x^2", (0.5, 1.0, 0.0, 0.0))
    network.fix(0, 1, 1, "tanh", (2.0, 1.0, 0.5, 0.0))
    network.fix(1, 0, 0, "exp", (1.0, 0.5, 0.0, 0.0))
    network.fix(1, 0, 1, "gaussian", (1.0, 1.0, 0.0, 0.0))
    return network


def expected(x: Tensor) -> Tensor:
    inner = torch.sin(math.pi * x[..., 0]) + 0.25 + 0.5 * x[..., 1] ** 2
    other = 2 * torch.tanh(x[..., 1] + 0.5)
    return (torch.exp(inner / 2) + torch.exp(-(other**2))).unsqueeze(-1)


def test_a_network_built_by_hand_computes_its_functions(by_hand: SymbolicKAN) -> None:
    torch.testing.assert_close(by_hand(X), expected(X), rtol=1e-14, atol=1e-14)
    stack = X.view(4, 50, 2)
    torch.testing.assert_close(by_hand(stack), expected(stack), rtol=1e-14, atol=1e-14)
    assert by_hand(X[:0]).shape == (0, 1)
    (formula,) = by_hand.formula(["x", "y"])
    value = float(formula.subs({"x": 0.3, "y": -0.7}))
    assert value == pytest.approx(float(expected(torch.tensor([0.3, -0.7], dtype=torch.float64))), abs=1e-12)


def test_all_numbers_have_exact_gradients(by_hand: SymbolicKAN) -> None:
    x = X[:5].clone().requires_grad_()
    parameters = dict(by_hand.named_parameters())

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(by_hand, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters.values()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own decompositions
def test_forward_mode_and_transforms(by_hand: SymbolicKAN) -> None:
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(by_hand(forward_ad.make_dual(X, torch.ones_like(X)))).tangent
    jacobian = torch.func.vmap(torch.func.jacrev(by_hand))(X)
    torch.testing.assert_close(tangent, jacobian.sum(-1), rtol=1e-12, atol=1e-12)


def test_meta_tensors_and_export(by_hand: SymbolicKAN) -> None:
    assert copy.deepcopy(by_hand).to("meta")(X.to("meta")).shape == (200, 1)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(by_hand, (X,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(X[:7]), by_hand(X[:7]), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's exporter about itself
def test_onnx_runs_it(by_hand: SymbolicKAN, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network = by_hand.float().eval()
    path = tmp_path / "formula.onnx"
    batch = torch.export.Dim("batch", min=2)
    torch.onnx.export(network, (X.float(),), dynamo=True, dynamic_shapes=({0: batch},), verbose=False).save(str(path))
    session = onnxruntime.InferenceSession(str(path))
    (found,) = session.run(None, {session.get_inputs()[0].name: X[:9].float().numpy()})
    torch.testing.assert_close(torch.as_tensor(found), network(X[:9].float()), rtol=1e-5, atol=1e-6)


def test_the_state_dict_carries_functions_and_numbers(by_hand: SymbolicKAN) -> None:
    file = io.BytesIO()
    torch.save(by_hand.state_dict(), file)
    file.seek(0)
    other = SymbolicKAN([2, 2, 1], dtype=torch.float64)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(X), by_hand(X))
    assert other.edges() == by_hand.edges()
    assert all(isinstance(value, Tensor) for value in by_hand.state_dict().values())


def test_a_state_with_an_unknown_function_is_refused_by_name(by_hand: SymbolicKAN) -> None:
    by_hand.fix(1, 0, 0, Function("mine", torch.sin, sympy.sin), (1.0, 1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="mine"):
        SymbolicKAN([2, 2, 1], dtype=torch.float64).load_state_dict(by_hand.state_dict())
    with pytest.raises(ValueError, match="2 x 2 edges"):
        SymbolicKAN([2, 2, 1], dtype=torch.float64).load_state_dict(SymbolicKAN([3, 2, 1], dtype=torch.float64).state_dict())


def test_splines_stay_until_they_are_fixed(kan: KAN) -> None:
    before = copy.deepcopy(kan.state_dict())
    network = kan.symbolic(X, functions={(0, 0, 0): "sin"}, automatic=False)
    assert network.splines() == [(0, 0, 1), (1, 0, 0)]
    torch.testing.assert_close(network(X), kan(X), rtol=1e-5, atol=1e-5)
    other = SymbolicKAN([2, 1, 1], dtype=torch.float64)
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(X), network(X), rtol=1e-13, atol=1e-13)  # by other kernels
    with pytest.raises(ValueError, match=r"formula: .*\(0, 0, 1\), \(1, 0, 0\)"):
        network.formula()
    network.refit(X, Y, steps=30)
    assert network.comparison is not None
    assert network.comparison.formula_rmse < network.comparison.network_rmse
    network.fix(0, 0, 1, "x^2")
    network.fix(1, 0, 0, "exp")
    assert network.splines() == []
    assert [str(f) for f in network.refit(X, Y).formula(["x", "y"])] == ["exp(y**2 + sin(pi*x))"]
    assert all(torch.equal(before[name], value) for name, value in kan.state_dict().items())


def test_a_low_r2_keeps_the_spline(kan: KAN) -> None:
    network = kan.symbolic(X, library=["x", "x^2"], r2_threshold=0.999)
    assert network.splines() == [(0, 0, 0), (1, 0, 0)]


def test_functions_outside_their_domain_are_refused(kan: KAN) -> None:
    network = kan.symbolic(X)
    with pytest.raises(ValueError, match=r"\(0, 0, 0\): .*domain.*'log', defined on \(0.0, inf\)"):
        network.fix(0, 0, 0, "log", (1.0, 1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="without a pole between them, got '1/x'"):
        network.fix(0, 0, 0, "1/x", (1.0, 1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="'arcsin'"):
        network.fix(0, 0, 0, "arcsin", (1.0, 1.1, 0.0, 0.0))
    network.fix(0, 0, 0, "log")
    assert bool(network(X).isfinite().all())


def test_a_refit_stays_within_domains() -> None:
    x = uniform(200, (0.0, 1.0))
    network = SymbolicKAN([1, 1], dtype=torch.float64)
    network.fix(0, 0, 0, "log", (1.0, 1.0, 0.5, 0.0))
    network.refit(x, torch.log(x.clamp(min=0.2)))  # pulls the argument towards zero
    assert bool(network(x).isfinite().all())
    network.fix(0, 0, 0, "sqrt", (1.0, 1.0, 0.5, 0.0))
    network.refit(x, 3 * torch.sqrt(x))
    assert float((network(x) - 3 * torch.sqrt(x)).detach().abs().max()) < 1e-4


@pytest.mark.parametrize("function", ["log", "1/x"])
def test_a_refit_to_samples_outside_a_domain_is_refused(function: str) -> None:
    network = SymbolicKAN([2, 2, 1], dtype=torch.float64)
    network.fix(0, 1, 1, "x", (1.0, 1.0, 0.0, 0.0))
    network.fix(1, 0, 1, function, (1.0, 1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=rf"edge \(layer, o, i\) = \(1, 0, 1\): expected .* its domain .*, got '{function}'"):
        network.refit(X, Y)


def test_own_functions() -> None:
    x = X[:, :1]
    bessel = Function("J0", torch.special.bessel_j0, sympy.Function("J0"))  # without a derivative in torch
    error = Function("erf", torch.erf, sympy.erf)
    for function, inner, text in ((bessel, 5.0, "J0(5*x)"), (error, 2.0, "erf(2*x)")):

        def curve(t: Tensor, function: Function = function, inner: float = inner) -> Tensor:
            return function.torch(inner * t)

        network = planted([1, 1], {(0, 0, 0): curve}, x).symbolic(x, curve(x), library=[*LIBRARY, function])
        (formula,) = network.formula(["x"])
        assert str(formula) == text or str(formula) == text.replace("(", "(-"), formula


@pytest.mark.parametrize(
    ("function", "form"),
    [
        (lambda t: torch.sinc(t / math.pi), sympy.sinc),
        (torch.erf, sympy.erf),
        (torch.relu, lambda t: sympy.Max(t, 0)),
        (
            lambda t: torch.where((t > 0) | (t < -0.5), t, t**2),
            lambda t: sympy.Piecewise((t, (t > 0) | (t < -0.5)), (t**2, True)),
        ),
        (lambda t: t * torch.erf(t), lambda t: t * sympy.erf(t)),
        (lambda t: t * torch.special.bessel_j0(t), lambda t: t * sympy.besselj(0, t)),  # which torch has by no name of sympy
    ],
    ids=["sinc", "erf", "max", "piecewise", "product", "bessel"],
)
def test_own_functions_of_any_form(kan: KAN, function: Callable[[Tensor], Tensor], form: Callable[[object], object]) -> None:
    network = kan.symbolic(X)
    own = Function("own", function, form)
    network.fix(0, 0, 0, own, (1.0, 1.3, 0.1, 0.0))
    assert copy.deepcopy(network).symbolic_layers[0].library["own"] is own
    (formula,) = found = network.formula(["x", "y"])
    assert found.error[0] <= 1e-6
    for x in X[:5]:
        value = float(formula.subs({"x": float(x[0]), "y": float(x[1])}))
        assert value == pytest.approx(float(network(x).detach()), rel=1e-5)


@pytest.mark.parametrize("form", [sympy.Function("J0"), sympy.DiracDelta], ids=["undefined", "not of mpmath"])
def test_a_form_that_cannot_be_evaluated_is_named(kan: KAN, form: Callable[[object], object]) -> None:
    network = kan.symbolic(X)
    network.fix(0, 0, 0, Function("own", lambda t: t, lambda t: t + form(t)), (1.0, 1.3, 0.1, 0.0))
    with pytest.raises(ValueError, match=r"sympy: expected a form .*, got \w+\(1\.3"):
        network.formula(["x", "y"])


def test_names_of_inputs_may_be_those_of_functions_and_constants(kan: KAN) -> None:
    network = kan.symbolic(X, Y)
    for names in (["exp", "pi"], ["sin", "E"]):
        found = network.formula(names)
        x, y = map(sympy.Symbol, names)
        assert found == [sympy.exp(y**2 + sympy.sin(sympy.pi * x))]
        assert found.error[0] <= 1e-12


def test_names_of_inputs_may_be_any_sequence(kan: KAN) -> None:
    network = kan.symbolic(X, Y)
    names = ["a", "b"]
    assert network.formula(np.array(names)) == network.formula(tuple(names)) == network.formula(names)
    assert network.formula(pd.Index(names)) == network.formula(names)


def test_functions_of_one_name_are_refused(kan: KAN) -> None:
    network = kan.symbolic(X, Y, library=["x", "x^2", "sin", "exp"])
    before = network(X)
    for name in ("sin", "x"):  # of another edge, and of the library alone
        with pytest.raises(ValueError, match=f"function: expected a name that no other .* has, got '{name}'"):
            network.fix(0, 0, 1, Function(name, torch.cos, sympy.cos), (1.0, 2.0, 0.0, 0.0))
    assert torch.equal(network(X), before)
    mine, other = (Function("mine", torch.cos, sympy.cos, complexity) for complexity in (1.0, 2.0))
    with pytest.raises(ValueError, match=r"functions: expected a name that no other .* has, got 'mine'"):
        kan.symbolic(X, functions={(0, 0, 0): mine, (0, 0, 1): other})
    with pytest.raises(ValueError, match=r"functions: expected a name that no other .* has, got 'sin'"):
        kan.symbolic(X, functions={(0, 0, 0): Function("sin", torch.cos, sympy.cos)})
    network.fix(0, 0, 0, mine, (1.0, 2.0, 0.0, 0.0))
    network.fix(0, 0, 0, other, (1.0, 2.0, 0.0, 0.0))  # in place of the only one
    copy.deepcopy(network).fix(0, 0, 1, other, (1.0, 2.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"a name that no other .* has, got 'mine'"):
        network.fix(1, 0, 0, mine, (1.0, 2.0, 0.0, 0.0))


def test_a_function_chosen_by_hand_is_for_its_edge_alone() -> None:
    edges = {(0, 0, 0): lambda t: torch.sin(3 * t), (0, 0, 1): lambda t: torch.sin(2 * t)}
    y = torch.sin(3 * X[:, :1]) + torch.sin(2 * X[:, 1:]) + 0.01 * uniform(200, (-1.0, 1.0))
    options: dict[str, Any] = {"library": ["x", "x^2"], "functions": {(0, 0, 0): "sin"}}
    for targets in (None, y):
        with pytest.warns(UserWarning, match="symbolic: "):
            network = planted([2, 1], edges, X).symbolic(X, targets, **options)
        names = {edge[:3]: edge.name for edge in network.edges()}
        assert names[0, 0, 0] == "sin" and names[0, 0, 1] in ("x", "x^2")


def test_fixing_an_edge_takes_the_fit_of_its_former_function_away(kan: KAN) -> None:
    network = kan.symbolic(X)
    before = network.fits[0, 0, 1]
    network.fix(0, 0, 1, "x^4")
    assert network.fits[0, 0, 1].name == "x^4"
    with pytest.raises(ValueError, match="log"):
        network.fix(0, 0, 1, "log", (1.0, 1.0, 0.0, 0.0))
    assert network.fits[0, 0, 1].name == "x^4"
    network.fix(0, 0, 1, "x^2", before[1:5])
    assert (0, 0, 1) not in network.fits


def test_targets_of_one_output_may_be_a_row_wherever_they_are_taken(kan: KAN) -> None:
    network = kan.symbolic(X, Y[:, 0])
    expected = network.comparison
    found = network.compare(X, Y[:, 0])
    assert found == expected == network.compare(X.view(4, 50, 2), Y.view(4, 50, 1))
    assert found is not None and found.formula_rmse is not None and found.formula_rmse < 0.01
    assert network.compare(X.float(), Y.float()) == pytest.approx(expected, rel=1e-3, abs=1e-5)
    with pytest.raises(ValueError, match="y: expected 5 targets of 1 outputs"):
        network.compare(X[:5], Y)


def test_float32_networks_give_float32_formulas(kan: KAN) -> None:
    network = copy.deepcopy(kan).float().symbolic(X.float(), Y.float())
    assert network(X.float()).dtype == torch.float32
    assert [str(f) for f in network.formula(["x", "y"])] == ["exp(y**2 + sin(pi*x))"]


def test_suggestions_are_ranked(kan: KAN) -> None:
    best, *others = kan.suggest(X, 0, 0, 0)
    assert (best.name, best.complexity) == ("sin", 2)
    assert (abs(best.a), best.b) == (pytest.approx(1, abs=1e-5), pytest.approx(math.pi, abs=1e-5))
    assert best.r2 > 1 - 1e-9
    assert best.held_out < 1e-4
    scores = [c.score for c in others]
    assert scores == sorted(scores)
    assert best.score <= scores[0] + 0.01  # of equals, the one of the smaller shift is first
    assert {c.name for c in (best, *others)} == {f.name for f in LIBRARY.values()}
    assert "sin(3.14159 * x" in str(best)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: k.suggest(X, 2, 0, 0), "edge, layer: expected at most 1"),
        (lambda k: k.suggest(X, 0, 1, 0), "edge, o: expected at most 0"),
        (lambda k: k.suggest(X, 0, 0, 2), "edge, i: expected at most 1"),
        (lambda k: k.suggest(X[:5], 0, 0, 0), "x: expected at least 10 samples, got 5"),
        (lambda k: k.suggest(X[:, :1], 0, 0, 0), r"x: expected shape \(..., 2\)"),
        (lambda k: k.suggest(X.float(), 0, 0, 0), "x: expected dtype torch.float64"),
        (lambda k: k.symbolic(X * math.nan), "x: expected finite values"),
        (lambda k: k.symbolic(X, Y[:7]), "y: expected 200 targets of 1 outputs"),
        (lambda k: k.symbolic(X, library=["sine"]), "library: .*got 'sine'"),
        (lambda k: k.symbolic(X, library="sin"), "library: expected a sequence"),
        (lambda k: k.symbolic(X, library=[]), "library: expected at least one function"),
        (lambda k: k.symbolic(X, weight_simple=2.0), "weight_simple"),
        (lambda k: k.symbolic(X, functions={(0, 0): "sin"}), r"functions: expected an edge \(layer, o, i\)"),
        (lambda k: k.symbolic(X, functions={(0, 0, 0): "sine"}), "functions: expected a Function or a name"),
        (lambda k: k.symbolic(X, steps=0), "steps"),
        (lambda k: SymbolicKAN([2]), "layers_hidden"),
        (lambda k: SymbolicKAN([2, 1]).fix(0, 0, 0, "sin"), "affine: .*no samples"),
        (lambda k: SymbolicKAN([2, 1]).formula(["x"]), "names: expected 2 names"),
        (lambda k: SymbolicKAN([2, 1]).formula(["x", "x"]), "names: expected different names"),
        (lambda k: SymbolicKAN([2, 1]).formula([sympy.Symbol("x", real=True), sympy.Symbol("x")]), "names: expected different"),
        (lambda k: SymbolicKAN([2, 1]).formula({"x", "y"}), "names: expected 2 names"),
        (lambda k: SymbolicKAN([2, 1]).formula(5), "names: expected 2 names"),
        (lambda k: SymbolicKAN([2, 1]).formula(digits=0), "digits"),
        (lambda k: Function("f", torch.sin, sympy.sin, domain=(1.0, 0.0)), "domain"),
        (lambda k: Function("", torch.sin, sympy.sin), "name"),
        (lambda k: Function("f", torch.sin, None), "sympy"),
        (lambda k: Function("spline", torch.sin, sympy.sin), "name: expected a name other than"),
        (lambda k: Function("0", torch.sin, sympy.sin), "name: expected a name other than"),
    ],
)
def test_bad_arguments_are_named(kan: KAN, call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(kan)  # type: ignore[operator]


@pytest.mark.parametrize("offset", [100.0, -100.0])
def test_an_exponential_far_from_zero_stays_in_the_range_of_float32(offset: float) -> None:
    """``e^(x - 100)`` is of usual size near 100; ``e^-100 e^x`` is 0 times infinity in float32."""
    x = offset + torch.rand(500, 1, generator=torch.Generator().manual_seed(0)) * 4 - 2
    kan = planted([1, 1], {(0, 0, 0): lambda t: torch.exp(t - offset)}, x.double()).float()
    made = kan.symbolic(x, library=["x", "exp"])
    assert made.edges()[0].name == "exp"
    torch.testing.assert_close(made(x), kan(x), rtol=2e-3, atol=1e-3)
    (formula,) = made.formula()
    at = float(formula.subs(dict.fromkeys(formula.free_symbols, offset + 0.5)))
    assert at == pytest.approx(math.exp(0.5), rel=2e-3)


def test_a_state_brings_its_activation_or_is_refused() -> None:
    x = uniform(100, (-1.0, 1.0), (-1.0, 1.0))
    tanh, silu = (
        KAN([2, 3, 1], base_activation=activation, dtype=torch.float64).symbolic(x, automatic=False)
        for activation in (nn.Tanh, nn.SiLU)
    )
    with pytest.raises(ValueError, match=r"base_activation: expected SiLU, or a network that has it already, got 'Tanh'"):
        silu.load_state_dict(tanh.state_dict())
    tanh.load_state_dict(silu.state_dict())
    assert torch.equal(tanh(x), silu(x))


def test_a_network_on_meta_takes_the_tensors_of_a_state(by_hand: SymbolicKAN) -> None:
    with torch.device("meta"):
        again = SymbolicKAN(by_hand.layers_hidden, dtype=torch.float64)
    again.load_state_dict(by_hand.state_dict(), assign=True)
    x = uniform(50, (-1.0, 1.0), (-1.0, 1.0))
    assert torch.equal(again(x), by_hand(x))


def test_a_formula_that_float64_cannot_hold_is_warned_of() -> None:
    """sympy takes ``e^-1000`` out of an exponential: 0 times infinity, of which no term is left."""
    x = uniform(500, (1995.0, 2005.0))
    kan = planted([1, 1], {(0, 0, 0): lambda t: torch.exp(0.5 * (t - 2000))}, x, grid_size=60)
    made = kan.symbolic(x, library=["x", "exp"])
    torch.testing.assert_close(made(x), kan(x), rtol=1e-4, atol=1e-5)
    with pytest.warns(UserWarning, match=r"^formula: expressions differ from the network, .* outputs 0 \((1|nan)\)"):
        made.formula()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_powers_in_small_units_keep_their_form(dtype: torch.dtype) -> None:
    x = uniform(500, (0.0, 1e-5))
    made = (
        planted([1, 1], {(0, 0, 0): lambda t: (t / 1e-5 + 0.7) ** 4}, x).to(dtype).symbolic(x.to(dtype), library=["x", "x^4"])
    )
    (edge,) = made.edges()
    assert (edge.b, edge.a) == (1.0, pytest.approx(1e20, rel=2e-2)) and edge.c == pytest.approx(7e-6, rel=1e-2)


@pytest.mark.parametrize("digits", [4, 5, 6, 8])
def test_few_numbers_lie_near_a_simple_one_by_chance(digits: int) -> None:
    drawn = torch.rand(2000, generator=torch.Generator().manual_seed(digits), dtype=torch.float64) * 4.7 + 0.3
    simple = [value for value in drawn.tolist() if not short(value, digits, 0.0).is_Float]
    assert len(simple) <= 0.015 * len(drawn)
    assert short(math.sqrt(2) / 2, digits + 1, 0.0) == sympy.sqrt(2) / 2
    assert short(math.pi / 4, digits, 0.0) == sympy.pi / 4


def test_classes_are_no_targets_of_logits(kan: KAN) -> None:
    classifier = KAN([2, 3], kernel="native", dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"^y: expected 3 floating-point targets a sample, got torch.int64; without y logits"):
        classifier.symbolic(X, torch.zeros(len(X), dtype=torch.long))
