"""The Triton kernels in triton's interpreter, on CPU tensors; test_cuda.py runs this file with TRITON_INTERPRET=1.

The truth is native in float64 on the same numbers. The kernels may err three times as much as native does in the same dtype,
where native's error counts as some units of rounding at least, since it may be exact by chance: the rule of the harness's gate.
The interpreter rounds to bfloat16 by cutting off, which alone doubles an error.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from efficient_kan import KANLinear, SampleL1, kernels
from efficient_kan.basis import local_basis
from efficient_kan.kernels import LayerInputs, cuda, native
from efficient_kan.kernels.cuda import check, launch, ops

FACTOR = 3.0
UNITS = {torch.float32: 4.0, torch.float16: 0.5, torch.bfloat16: 1.0}
LEAVES = ("x", "base", "weight")


def knots_of(kind: str, I: int, G: int, k: int) -> Tensor:
    uniform = torch.linspace(-1 - 2 * k / G, 1 + 2 * k / G, G + 2 * k + 1).repeat(I, 1)
    if kind == "uniform":
        return uniform
    generator = torch.Generator().manual_seed(1)
    adapted = (uniform + torch.rand(uniform.shape, generator=generator) / G).sort(dim=1).values
    if kind == "repeated":
        for i in range(I):  # runs of 2, 3, ... equal knots, at the ends too
            start = 3 * i % (G + k)
            adapted[i, start : start + 2 + i % (k + 1)] = adapted[i, start]
        adapted = adapted.cummax(dim=1).values
    return adapted


def make(
    B: int, I: int, O: int, k: int, kind: str = "uniform", dtype: torch.dtype = torch.float32, G: int = 4, silu: bool = False
) -> LayerInputs:
    """With ``silu`` the base activation is left to the kernel."""
    generator = torch.Generator().manual_seed(k)
    knots = knots_of(kind, I, G, k)
    x = 1.5 * torch.randn(B, I, generator=generator)
    if B > 8:  # on knots, at both ends, outside
        x[:6] = torch.stack((knots[:, 0], knots[:, -1], knots[:, k], knots[:, -k - 1], knots[:, k + 1], knots[:, 0] - 1))
        x[6], x[7] = knots[:, -1] + 1, torch.nextafter(knots[:, -1], torch.tensor(-9.0))
    weight = torch.randn(O, I, G + k + 1, generator=generator).to(dtype)
    return LayerInputs(x, None if silu else torch.nn.functional.silu(x.to(dtype)), knots, weight, k)


def results(kernel: object, inputs: LayerInputs) -> dict[str, Tensor]:
    """Outputs and gradients of the layer and of ``edge_l1``."""
    names = [name for name in LEAVES if getattr(inputs, name) is not None]
    leaves = {name: getattr(inputs, name).detach().clone().requires_grad_() for name in names}
    generator = torch.Generator().manual_seed(7)
    found: dict[str, Tensor] = {}
    for name in ("spline_linear", "edge_l1"):
        y = getattr(kernel, name)(inputs._replace(**leaves))
        grad = torch.randn(y.shape, generator=generator).to(inputs.weight.dtype).to(y.dtype)
        found[name] = y.detach()
        for leaf, part in zip(names, torch.autograd.grad(y, list(leaves.values()), grad), strict=True):
            found[f"{name} with respect to {leaf}"] = part
    return found


def double(inputs: LayerInputs) -> LayerInputs:
    x, base, knots, weight, k = inputs
    return LayerInputs(x.double(), None if base is None else base.double(), knots.double(), weight.double(), k)


def excess(got: dict[str, Tensor], baseline: dict[str, Tensor], truth: dict[str, Tensor], unit: float) -> dict[str, str]:
    """Which results err more than the rule allows."""
    limits = {name: FACTOR * max(check.error(name, baseline[name], truth[name]), unit) for name in truth}
    errors = {name: check.error(name, got[name], truth[name]) for name in truth}
    return {name: f"{errors[name]:.2e} > {limits[name]:.2e}" for name in truth if not errors[name] <= limits[name]}


def far_off(inputs: LayerInputs) -> dict[str, str]:
    """Which results of the kernels err more than native in the same dtype allows."""
    got, baseline, truth = results(cuda, inputs), results(native, inputs), results(native, double(inputs))
    dtype = inputs.weight.dtype

    assert all(got[name].dtype == baseline[name].dtype for name in truth)
    return excess(got, baseline, truth, UNITS[dtype] * torch.finfo(dtype).eps)


KINDS = ("uniform", "adapted", "repeated")


@pytest.mark.parametrize(
    ("k", "kind"),
    [pytest.param(k, kind, marks=[pytest.mark.slow] * (KINDS[k % 3] != kind)) for k in (1, 2, 3, 4, 5) for kind in KINDS],
)
def test_every_order_on_all_kinds_of_knots(k: int, kind: str) -> None:
    assert far_off(make(70, 5, 3, k, kind, silu=kind == "adapted")) == {}


@pytest.mark.parametrize(
    ("B", "I", "O"),
    [(1, 1, 1), (67, 1, 35), (3, 19, 2), (300, 2, 70), (1100, 1, 2)],
    ids=["ones", "one input", "few samples", "wide", "shares"],
)
def test_sizes_off_the_tiles(B: int, I: int, O: int) -> None:
    assert far_off(make(B, I, O, 3, "adapted")) == {}


def test_many_knots() -> None:
    assert far_off(make(66, 2, 3, 3, "adapted", G=41)) == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("k", [2, 3])
def test_low_precision_errs_like_the_same_precision_elsewhere(k: int, dtype: torch.dtype) -> None:
    assert far_off(make(70, 5, 3, k, "adapted", dtype, silu=k == 3)) == {}


def test_sums_over_samples_are_split_and_the_split_covers_them_once() -> None:
    assert launch.weight_grad_shares(300, torch.Size((8, 2, 70)))[0] > 1
    assert launch.edge_l1_weight_grad_shares(1100, torch.Size((8, 1, 2)))[0] > 1
    for samples in (0, 1, 31, 32, 33, 4095, 4096, 100_000):
        count, length = launch.shares(samples, 8, 2**10, 32)
        assert count >= 1
        assert length % 32 == 0
        assert (count - 1) * length < max(samples, 1) <= count * length


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy's, in the interpreter
def test_samples_that_are_no_numbers() -> None:
    inputs = make(12, 3, 4, 3)
    inputs.x[9, 1], inputs.x[10, 2], inputs.x[11, 0] = torch.nan, torch.inf, -torch.inf
    base = torch.nan_to_num(inputs.base)
    base[9, 1] = torch.nan
    inputs = inputs._replace(base=base)
    got, expected = results(cuda, inputs), results(native, inputs)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], equal_nan=True, rtol=1e-5, atol=1e-5)
    got, expected = results(cuda, inputs._replace(base=None)), results(native, inputs._replace(base=None))
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], equal_nan=True, rtol=1e-5, atol=1e-5)
    finite = results(cuda, inputs._replace(base=torch.zeros_like(base)))
    assert all(part.isfinite().all() for part in finite.values()), "a NaN in x alone reaches no basis"


def test_a_single_basis_of_weight_one_comes_out_as_it_is() -> None:
    k, G, I = 3, 4, 2
    inputs = make(40, I, I * (G + k), k, "repeated")
    weight = torch.zeros(I * (G + k), I, G + k + 1)
    for i in range(I):
        weight[range(i * (G + k), (i + 1) * (G + k)), i, range(G + k)] = 1.0
    y = cuda.spline_linear(inputs._replace(weight=weight)).view(-1, I, G + k)
    local = local_basis(inputs.x.T.contiguous(), inputs.knots, k)
    dense = torch.zeros(I, G + k + 1, 40).scatter(1, local.which, local.values)[:, :-1]
    torch.testing.assert_close(y, dense.permute(2, 0, 1), rtol=1e-6, atol=1e-7)


def test_no_samples() -> None:
    inputs = make(0, 3, 4, 2)
    weight = inputs.weight.requires_grad_()
    y = cuda.spline_linear(inputs)
    assert y.shape == (0, 4)
    (grad,) = torch.autograd.grad(y.sum(), weight)
    torch.testing.assert_close(grad, torch.zeros_like(weight))


def test_only_the_gradients_asked_for() -> None:
    inputs = make(9, 2, 3, 2, silu=True)
    weight = inputs.weight.requires_grad_()
    for name in ("spline_linear", "edge_l1"):
        y = getattr(cuda, name)(inputs)
        expected = torch.autograd.grad(getattr(native, name)(inputs).sum(), weight)[0]
        torch.testing.assert_close(torch.autograd.grad(y.sum(), weight)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("silu", [False, True], ids=["base", "silu"])
@pytest.mark.parametrize("name", ["spline_linear", "edge_l1"])
def test_second_derivatives_are_natives(name: str, silu: bool) -> None:
    inputs = make(12, 2, 3, 3, "adapted", silu=silu)
    names = [leaf for leaf in LEAVES if getattr(inputs, leaf) is not None]

    def second(kernel: object) -> tuple[Tensor, ...]:
        leaves = [getattr(inputs, leaf).detach().clone().requires_grad_() for leaf in names]
        y = getattr(kernel, name)(inputs._replace(**dict(zip(names, leaves, strict=True))))
        (first,) = torch.autograd.grad(y.square().sum(), leaves[0], create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaves)

    for got, expected in zip(second(cuda), second(native), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_operators_keep_torchs_rules() -> None:
    x, base, knots, weight, k = cuda._prepared(make(9, 2, 3, 2))
    leaves = (x.requires_grad_(), base.requires_grad_(), knots, weight.requires_grad_(), k)
    opcheck(ops.linear, leaves)
    opcheck(ops.edge_l1, leaves)
    plain = [part.detach() for part in leaves[:4]]
    grad, scale = torch.ones(9, 3), torch.ones(2, 3)
    for operator, extra in (
        (ops.linear_input_grad, (*plain, grad)),
        (ops.linear_weight_grad, (*plain[:3], grad)),
        (ops.edge_l1_input_grad, (*plain, scale)),
        (ops.edge_l1_weight_grad, (*plain, scale)),
    ):
        opcheck(operator, (*extra, k), test_utils=("test_schema", "test_faketensor"))


def test_what_is_left_to_native() -> None:
    inputs = make(9, 2, 3, 2)
    assert cuda.takes(inputs)
    assert "float64" in (cuda.refusal(double(inputs)) or "")
    assert "order 6" in (cuda.refusal(make(9, 2, 3, 6)) or "")
    assert "meta" in (cuda.refusal(inputs._replace(x=inputs.x.to("meta"))) or "")
    assert not torch.func.vmap(lambda x: torch.full((), cuda.takes(inputs._replace(x=x))))(inputs.x.unsqueeze(0)).any()
    torch.testing.assert_close(cuda.edge_std(inputs), native.edge_std(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "autocast"])
def test_a_layer_and_its_penalty_under_the_name_and_compiled(dtype: torch.dtype) -> None:
    layers = {}
    for name in ("cuda", "native"):
        layers[name] = KANLinear(3, 4, kernel=name, bias=True, generator=torch.Generator().manual_seed(0))
    x = torch.randn(11, 3, generator=torch.Generator().manual_seed(1))
    wide = 3e-2 if dtype == torch.bfloat16 else 1e-5

    def step(layer: KANLinear, compiled: bool) -> list[Tensor]:
        def run(x: Tensor) -> Tensor:
            y, penalty = layer.forward_with_penalty(x, SampleL1())
            return y.float().square().sum() + penalty

        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        run = torch.compile(run, backend="aot_eager", fullgraph=True) if compiled else run
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = run(leaf)
        loss.backward()
        return [loss.detach(), leaf.grad, *(parameter.grad for parameter in layer.parameters())]

    with torch.profiler.profile() as profile:
        got = step(layers["cuda"], False)
    called = {event.name for event in profile.events()}
    assert {f"efficient_kan::cuda_{name}" for name in ("linear", "linear_weight_grad", "edge_l1")} <= called
    expected = step(layers["native"], False)
    torch.testing.assert_close(got, expected, rtol=wide, atol=wide)
    torch.testing.assert_close(step(layers["cuda"], True), got, rtol=0, atol=0)


def test_the_first_call_may_be_a_compiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_found", {})
    layer, x = KANLinear(3, 4, kernel="cuda"), torch.randn(5, 3)
    y = torch.compile(layer, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(y, layer(x), rtol=0, atol=0)


def test_the_first_use_check_passes_what_is_right_and_names_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SIZES", (20, 2, 3, 4))
    assert check.mismatch(torch.device("cpu"), 2, torch.float32) is None
    right = launch.input_grad
    monkeypatch.setattr(launch, "input_grad", lambda *args: tuple(1.001 * part for part in right(*args)))
    assert "gradient of y with respect to x" in (check.mismatch(torch.device("cpu"), 2, torch.float32) or "")
