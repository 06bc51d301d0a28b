"""The Triton kernels in triton's interpreter, on CPU tensors; test_cuda.py runs this file with TRITON_INTERPRET=1.

The truth is native in float64 on the same numbers. The kernels may err three times as much as native does in the same dtype,
where native's error counts as some units of rounding at least, since it may be exact by chance: the rule of the harness's gate.
The interpreter rounds to bfloat16 by cutting off, which alone doubles an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from efficient_kan import KANLinear, SampleL1, kernels
from efficient_kan.basis import bspline_basis, local_basis
from efficient_kan.kernels import LayerInputs, cuda, native
from efficient_kan.kernels.cuda import check, launch, linear, linear_grads, model, ops, products, shares, support, tiles

FACTOR = 3.0
UNITS = {torch.float32: 4.0, torch.float16: 0.5, torch.bfloat16: 1.0}
TF32 = 2.0**-11
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


FUNCTIONS = ("spline_linear", "edge_l1")
PRODUCT = FUNCTIONS[:1]


def results(kernel: object, inputs: LayerInputs, functions: tuple[str, ...] = FUNCTIONS) -> dict[str, Tensor]:
    """Outputs and gradients of the layer and of ``edge_l1``."""
    names = [name for name in LEAVES if getattr(inputs, name) is not None]
    leaves = {name: getattr(inputs, name).detach().clone().requires_grad_() for name in names}
    generator = torch.Generator().manual_seed(7)
    found: dict[str, Tensor] = {}
    for name in functions:
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


def far_off(inputs: LayerInputs, tf32: bool = False, functions: tuple[str, ...] = FUNCTIONS) -> dict[str, str]:
    """Which results of the kernels err more than native in the same dtype allows."""
    baseline, truth = results(native, inputs, functions), results(native, double(inputs), functions)
    with float32_products("high" if tf32 else "highest"):
        got = results(cuda, inputs, functions)
    dtype = inputs.weight.dtype

    assert all(got[name].dtype == baseline[name].dtype for name in truth)
    return excess(got, baseline, truth, TF32 if tf32 else UNITS[dtype] * torch.finfo(dtype).eps)


@contextmanager
def setting(read: Callable[[], Any], write: Callable[[Any], None], value: Any) -> Iterator[None]:
    """With another value of a setting of torch."""
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


def float32_products(precision: str) -> AbstractContextManager[None]:
    """The interpreter multiplies the same in each, but the kernels take other ways."""
    return setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, precision)


KINDS = ("uniform", "adapted", "repeated")


def inputs_of(kind: str) -> int:
    """Enough inputs for runs of knots of every length where they repeat; the interpreter takes time for each."""
    return 5 if kind == "repeated" else 2


@pytest.mark.parametrize(
    ("k", "kind"),
    [pytest.param(k, kind, marks=[pytest.mark.slow] * (KINDS[k % 3] != kind)) for k in (1, 2, 3, 4, 5) for kind in KINDS],
)
def test_every_order_on_all_kinds_of_knots(k: int, kind: str) -> None:
    assert far_off(make(70, inputs_of(kind), 3, k, kind, silu=kind == "adapted")) == {}


@pytest.mark.parametrize(
    ("B", "I", "O"),
    [
        (1, 1, 1),
        (67, 1, 35),
        (3, 2, 2),
        pytest.param(3, 19, 2, marks=pytest.mark.slow),
        pytest.param(300, 2, 70, marks=pytest.mark.slow),
        pytest.param(1100, 1, 2, marks=pytest.mark.slow),
    ],
    ids=["ones", "one input", "few samples", "more inputs", "wide", "shares"],
)
def test_sizes_off_the_tiles(B: int, I: int, O: int) -> None:
    assert far_off(make(B, I, O, 3, "adapted")) == {}


def test_inputs_off_the_tiles_of_products() -> None:
    assert far_off(make(3, 19, 2, 3, "adapted"), functions=PRODUCT) == {}


@pytest.mark.parametrize("margin", [0.0, math.inf], ids=["local", "dense"])
def test_many_knots(margin: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "_MARGIN", margin)
    functions = FUNCTIONS if margin else PRODUCT  # edge_l1 has one way
    assert far_off(make(66, 2, 3, 3, "adapted", G=41), functions=functions) == {}


@pytest.fixture
def always_local(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has all products of float32 numbers go by local support; the list names the kernels that were launched."""
    launched: list[str] = []
    right = launch.start

    def watched(kernel: Any, *args: Any, **meta: Any) -> None:
        launched.append(f"{kernel.fn.__module__.rsplit('.', 1)[-1]}.{kernel.fn.__name__}")
        right(kernel, *args, **meta)

    monkeypatch.setattr(launch, "start", watched)
    monkeypatch.setattr(support, "_MARGIN", 0.0)
    return launched


@pytest.mark.parametrize(
    ("k", "kind"),
    [pytest.param(k, kind, marks=[pytest.mark.slow] * (KINDS[(k + 1) % 3] != kind)) for k in (1, 2, 3, 4, 5) for kind in KINDS],
)
def test_local_support_on_all_kinds_of_knots(k: int, kind: str, always_local: list[str]) -> None:
    assert far_off(make(70, inputs_of(kind), 3, k, kind, G=9, silu=kind == "adapted"), functions=PRODUCT) == {}
    # The gradient of base weights is dense.
    assert always_local == ["local.forward", "local.input_grad", "linear_grads.weight_grad", "local.weight_grad"]


@pytest.mark.parametrize(
    ("B", "I", "O"),
    [
        (1, 1, 1),
        (33, 5, 2),
        (67, 1, 70),
        pytest.param(33, 19, 2, marks=pytest.mark.slow),
        pytest.param(5, 150, 3, marks=pytest.mark.slow),
        pytest.param(300, 7, 300, marks=pytest.mark.slow),
    ],
    ids=["ones", "inputs", "wide", "more inputs", "many inputs", "wider"],
)
def test_local_support_at_sizes_off_the_tiles(
    B: int, I: int, O: int, always_local: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_SORTED", 192)  # inputs are sorted in blocks
    inputs = make(B, I, O, 2, "adapted", G=6)
    if B * I * O == 1:  # one number, whose terms cancel 50 times: its error is judged by them, and again where none cancel
        exact = double(inputs)
        features = torch.cat((bspline_basis(exact.x, exact.knots, 2), torch.nn.functional.silu(exact.x)[..., None]), dim=-1)
        terms = (features[0, 0] * exact.weight[0, 0]).abs().sum()
        off = results(cuda, inputs, PRODUCT)["spline_linear"].double() - results(native, exact, PRODUCT)["spline_linear"]
        assert float(off.abs().max() / terms) <= torch.finfo(torch.float32).eps
        always_local.clear()
        x = inputs.x.abs()
        inputs = inputs._replace(x=x, base=torch.nn.functional.silu(x), weight=inputs.weight.abs())
    assert far_off(inputs, functions=PRODUCT) == {}
    assert always_local.count("local.weight_grad") == max(1, math.ceil(I / max(1, 192 // (32 * math.ceil(B / 32)))))


def test_local_support_with_sums_over_samples_that_are_split(always_local: list[str]) -> None:
    inputs = make(300, 2, 3, 2, "repeated", G=6)
    assert shares.of_weight_grad(300, torch.Size((9, 2, 3)))[0] > 1
    assert far_off(inputs, functions=PRODUCT) == {}
    assert "local.weight_grad" in always_local


def test_samples_that_crowd_in_one_span_or_outside(always_local: list[str]) -> None:
    inputs = make(200, 3, 4, 3, "adapted", G=9)
    inputs.x[:, 0] = 0.1 + 1e-3 * torch.rand(200, generator=torch.Generator().manual_seed(0))
    inputs.x[:, 1] = 50.0
    inputs.x[::2, 2] = inputs.knots[2, 5]
    inputs = inputs._replace(base=torch.nn.functional.silu(inputs.x))
    assert far_off(inputs, functions=PRODUCT) == {}


def test_many_intervals_go_by_local_support_in_float32_alone(always_local: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for outputs in (16, 64, 256, 1000):
        for order in (1, 2, 3, 4, 5):
            assert not any(support.pays(name, outputs, 5 + order + 1, order, "float32") for name in model.KERNELS)
            assert all(support.pays(name, outputs, 200 + order + 1, order, "float32") for name in model.KERNELS)
            assert not any(
                support.pays(name, outputs, 1000, order, kind) for name in model.KERNELS for kind in ("tf32", "half")
            )
    monkeypatch.setattr(kernels, "_BY_DEVICE", {"cpu": "cuda"})
    monkeypatch.setattr(kernels, "_found", {"cpu": None, "cuda": cuda})
    layer = KANLinear(64, 64, 64)
    lines = kernels.explain(layer, 4096).splitlines()
    assert [line.split(" (")[0] for line in lines] == [f"{name} in float32: cuda by local support" for name in model.KERNELS]
    with float32_products("high"):
        assert "local" not in kernels.explain(layer, 4096)


ROUGH = ("bfloat16", "float16", "tf32")


@pytest.mark.parametrize(
    ("k", "kind", "precision"),
    [
        pytest.param(k, kind, precision, marks=[pytest.mark.slow] * ((k + a) % 3 != b or k == 4))
        for k in (1, 2, 3, 4, 5)
        for a, kind in enumerate(KINDS)
        for b, precision in enumerate(ROUGH)
    ],
)
def test_low_precision_errs_like_the_same_precision_elsewhere(k: int, kind: str, precision: str) -> None:
    dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
    functions = FUNCTIONS if kind == "adapted" else PRODUCT
    assert far_off(make(70, inputs_of(kind), 3, k, kind, dtype, silu=kind == "adapted"), precision == "tf32", functions) == {}


@pytest.mark.parametrize("kind", ["uniform", "adapted"])
@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("tf32", marks=pytest.mark.slow)])
def test_the_widest_tiles(precision: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "FEW_PROGRAMS", 1)  # else for many samples only
    dtype = torch.float32 if precision == "tf32" else torch.bfloat16
    assert far_off(make(130, 35, 257, 3, kind, dtype, silu=True), precision == "tf32", PRODUCT) == {}


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_a_sum_over_inputs_is_split_and_the_split_covers_them_once(precision: str) -> None:
    assert shares.of_inputs(150, 1, 10)[0] == 2
    assert far_off(make(5, 150, 3, 2, "uniform"), precision == "tf32", PRODUCT) == {}
    for inputs in (1, 63, 64, 65, 128, 1000, 4096):
        for programs in (1, 5, 64, 65, 1000):
            count, length = shares.of_inputs(inputs, programs, 2**10)
            assert count >= 1
            assert (count - 1) * length < inputs <= count * length
            assert count == 1 or count * programs <= 128


def knots_off_by(share: float, j: int, I: int = 5, G: int = 4, k: int = 3) -> Tensor:
    """Uniform ones but for knot ``j`` of the last input, which is off by a share of the spacing."""
    knots = knots_of("uniform", I, G, k).clone()
    knots[-1, j] += share * (knots[0, 1] - knots[0, 0])
    return knots


@pytest.mark.parametrize("share", [2.0**-15, 2.0**-13, 0.4])
@pytest.mark.parametrize("j", [pytest.param(0, marks=pytest.mark.slow), 5, pytest.param(-1, marks=pytest.mark.slow)])
def test_knots_that_are_not_quite_uniform(share: float, j: int) -> None:
    inputs = make(70, 5, 3, 3)._replace(knots=knots_off_by(share, j))
    assert far_off(inputs, True, PRODUCT) == {}


@pytest.mark.filterwarnings("ignore:(invalid value|divide by zero) encountered:RuntimeWarning")  # numpy's, in the interpreter
@pytest.mark.parametrize("step", [0.0, 1e-30, 1e30])
def test_equal_tiny_and_huge_spacings(step: float) -> None:
    inputs = make(70, 5, 3, 3)
    knots = (step * torch.arange(11.0) - 5 * step).repeat(5, 1)
    inputs = inputs._replace(knots=knots, x=inputs.x * abs(step) if step else inputs.x)
    with float32_products("high"):
        got = cuda.spline_linear(inputs)
    expected = native.spline_linear(inputs)
    assert float((got - expected).abs().max()) <= 4 * TF32 * float(expected.abs().max())


@pytest.mark.filterwarnings("ignore:update_grid")
def test_knots_are_looked_at_anew_in_every_call() -> None:
    layer = KANLinear(3, 4, kernel="cuda", generator=torch.Generator().manual_seed(0))
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))

    def err() -> float:
        with float32_products("high"), torch.no_grad():
            got = layer(x)
        inputs = layer.layer_inputs(x)
        truth = native.spline_linear(double(inputs).with_base())
        return float(((got - truth).abs().max() / truth.abs().max()).detach())

    assert err() < TF32
    layer.grid.data[:, 5] += 0.1  # leaves no trace in the tensor's version
    assert err() < TF32
    other = KANLinear(3, 4, kernel="cuda", generator=torch.Generator().manual_seed(0))
    other.grid.data[1] *= 1.5
    layer.load_state_dict(other.state_dict())
    assert err() < TF32
    layer.update_grid(x, fit="samples")
    assert err() < TF32


class _Written(TorchDispatchMode):
    """The bytes of what operators write anew or into tensors given to them."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not operator.is_view and "empty" not in operator._schema.name:
            self.bytes += result.numel() * result.element_size()
        return result


@pytest.mark.parametrize("scaled", [True, False], ids=["scaler", "no scaler"])
@pytest.mark.parametrize("precision", ["highest", "high", "autocast"])
def test_a_weight_is_folded_once_and_not_copied_again(precision: str, scaled: bool) -> None:
    layer = KANLinear(
        6, 7, 40, kernel="cuda", enable_standalone_scale_spline=scaled, generator=torch.Generator().manual_seed(0)
    )
    layer.edge_mask[2, 3] = 0.0
    x = torch.randn(6, 6)
    whole = 4 * 7 * 6 * 44
    cast = precision == "autocast"
    with float32_products("high" if cast else precision), torch.autocast("cpu", torch.bfloat16, enabled=cast):
        with _Written() as written:
            weight = layer.layer_inputs(x).weight
        assert written.bytes < 1.1 * whole
        if cast:
            weight = weight.to(torch.bfloat16)
        layout = cuda._layout(weight.dtype)
        prepared = cuda._prepared(layer.layer_inputs(x)._replace(weight=weight), layout)[3]
    assert prepared.data_ptr() == weight.data_ptr(), "no copy"
    assert (prepared.mT if precision == "high" else prepared).is_contiguous()
    torch.testing.assert_close(layer.layer_inputs(x).weight, layer.folded_weight(), rtol=0, atol=0)


def test_gradients_of_a_folded_weight() -> None:
    layer = KANLinear(3, 4, kernel="cuda", generator=torch.Generator().manual_seed(0))
    layer.edge_mask[2, 1] = 0.0
    parameters = [layer.spline_weight, layer.spline_scaler, layer.base_weight]
    x = torch.randn(6, 3)
    found = []
    for weight in (layer.layer_inputs(x).weight, layer.folded_weight()):
        direction = torch.sin(torch.arange(weight.numel())).view(weight.shape)
        first = torch.autograd.grad((weight * direction).sum(), parameters, create_graph=True)
        found.append((*first, *torch.autograd.grad((first[0] * first[0]).sum() + first[1].sum(), parameters[:2])))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected)
    (plain,) = torch.autograd.grad((layer.layer_inputs(x).weight.square()).sum(), parameters[:1])
    assert plain.stride() == layer.spline_weight.stride()
    for n, part in enumerate(torch.autograd.grad(layer.layer_inputs(x).weight.square().sum(), parameters)):
        expected = torch.autograd.grad(layer.folded_weight().square().sum(), parameters)[n]
        torch.testing.assert_close(part, expected)


def test_no_base_is_made_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    bases = []
    for name in ("forward", "input_grad", "weight_grad"):
        right = getattr(products, name)
        monkeypatch.setattr(products, name, lambda x, base, *rest, right=right: (bases.append(base), right(x, base, *rest))[1])
    layer = KANLinear(3, 4, kernel="cuda", generator=torch.Generator().manual_seed(0))
    x = torch.randn(11, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert bases == [None] * 3


def test_a_ragged_last_batch_takes_one_of_few_binaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tiles and dtypes, which are compiled for; sizes are not, see test_cuda.py."""
    for kind, dtype in (("highest", torch.float32), ("high", torch.float32), ("highest", torch.bfloat16)):
        binaries: dict[int, set[object]] = {}

        def launched(kernel: object, grid: int, t: tiles.Tiles, *args: object, **meta: object) -> None:
            tensors = [argument.dtype for argument in args if isinstance(argument, Tensor)]
            sizes = [
                argument % 16 for name, argument in zip(kernel.arg_names, args, strict=False) if name in ("I", "O", "share")
            ]
            binaries[kernel].add(str((t, tensors, sizes, meta)))  # noqa: B023 - used before the next round

        monkeypatch.setattr(launch, "start", launched)
        for kernel in (linear.forward, linear_grads.input_grad, linear_grads.weight_grad):
            binaries[kernel] = set()
        knots, weight = knots_of("uniform", 256, 5, 3), torch.empty(9, 256, 256, dtype=dtype)
        with float32_products(kind):
            for samples in (*range(1, 300, 37), *range(300, 20000, 997)):
                x, grad = torch.empty(samples, 256), torch.empty(samples, 256, dtype=dtype)
                products.forward(x, None, knots, weight, 3)
                products.input_grad(x, None, knots, weight, grad, 3)
                products.weight_grad(x, None, knots, grad, 3)
        forward, *others = (len(found) for found in binaries.values())
        assert others == [1, 1]
        assert forward <= 3  # a shorter tile for few samples, and parts of sums


def test_sums_over_samples_are_split_and_the_split_covers_them_once() -> None:
    assert shares.of_weight_grad(300, torch.Size((8, 2, 70)))[0] > 1
    assert shares.of_edge_l1_weight_grad(1100, torch.Size((8, 1, 2)))[0] > 1
    for samples in (0, 1, 31, 32, 33, 4095, 4096, 100_000):
        count, length = shares.of_samples(samples, 8, 2**10, 32)
        assert count >= 1
        assert length % 32 == 0
        assert (count - 1) * length < max(samples, 1) <= count * length


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy's, in the interpreter
@pytest.mark.parametrize("margin", [0.0, math.inf], ids=["local", "dense"])
def test_samples_that_are_no_numbers(margin: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "_MARGIN", margin)
    inputs = make(12, 3, 4, 3)
    inputs.x[9, 1], inputs.x[10, 2], inputs.x[11, 0] = torch.nan, torch.inf, -torch.inf
    base = torch.nan_to_num(inputs.base)
    base[9, 1] = torch.nan
    inputs = inputs._replace(base=base)
    functions = FUNCTIONS if margin else PRODUCT  # edge_l1 has one way
    for given in (inputs, inputs._replace(base=None)):
        got, expected = results(cuda, given, functions), results(native, given, functions)
        for name in expected:
            torch.testing.assert_close(got[name], expected[name], equal_nan=True, rtol=1e-5, atol=1e-5)
    finite = results(cuda, inputs._replace(base=torch.zeros_like(base)), functions)
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
    opcheck(ops.linear, (*leaves, 0))
    opcheck(ops.edge_l1, leaves)
    plain = [part.detach() for part in leaves[:4]]
    grad, scale = torch.ones(9, 3), torch.ones(2, 3)
    for operator, extra, choice in (
        (ops.linear_input_grad, (*plain, grad), (0,)),
        (ops.linear_weight_grad, (*plain[:3], grad), (0,)),
        (ops.edge_l1_input_grad, (*plain, scale), ()),
        (ops.edge_l1_weight_grad, (*plain, scale), ()),
    ):
        opcheck(operator, (*extra, k, *choice), test_utils=("test_schema", "test_faketensor"))


def test_native_stands_in_for_the_kernels_that_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make(9, 2, 3, 2)
    for name, flag in model.KERNELS.items():
        with monkeypatch.context() as patch:
            patch.setattr(products, name, lambda *_: pytest.fail("this is native's"))
            leaves = [part.requires_grad_() for part in (inputs.x.clone(), inputs.weight.clone())]
            got = cuda.layer_product(inputs._replace(x=leaves[0], weight=leaves[1]), flag)
            got = [got.detach(), *torch.autograd.grad(got.sum(), leaves)]
        expected = native.spline_linear(inputs._replace(x=leaves[0], weight=leaves[1]))
        for one, other in zip(got, (expected, *torch.autograd.grad(expected.sum(), leaves)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_auto_asks_the_model_and_measured_times_take_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_BY_DEVICE", {"cpu": "cuda"})
    monkeypatch.setattr(kernels, "_found", {"cpu": None, "cuda": cuda})
    layer, x = KANLinear(3, 4), torch.zeros(9, 3)
    assert kernels.explain(layer, 9).count(": cuda (") == 3
    assert kernels.algorithm(layer, 9) == kernels.algorithm(KANLinear(3, 4, kernel="cuda"), 9) == "cuda"
    table = tmp_path / "kernels.csv"
    head = "kernel,kind,B,I,O,M,order,ours,native\n"
    table.write_text(head + "forward,float32,9,3,4,9,3,2e-5,1e-5\nweight_grad,float32,90,3,4,9,3,2e-5,1e-5\n", encoding="utf-8")
    try:
        model.use(table)
        assert model.by_native(layer.layer_inputs(x)) == model.FORWARD
        assert "forward in float32: native (cuda takes 2 of native's time, measured)" in kernels.explain(layer, 9)
        assert kernels.algorithm(layer, 9) == "cuda+native"
        with monkeypatch.context() as failed:
            key = torch.device("cpu"), 3, torch.float32, tiles.precision(torch.float32)
            failed.setitem(check._verdicts, key, "off by 1")
            for each in (layer, KANLinear(3, 4, kernel="cuda")):
                assert kernels.explain(each, 9) == "native (cuda failed its check at first use: off by 1)"
                assert kernels.algorithm(each, 9) == "native"
        monkeypatch.setattr(products, "forward", lambda *_: pytest.fail("this is native's"))
        layer(x)
        for bad in ("forward,float32,9,3,4,9,3,2e-5,0\n", "forward,int8,9,3,4,9,3,1,1\n", "forward,tf32,9,3\n"):
            table.write_text(head + bad, encoding="utf-8")
            with pytest.raises(ValueError, match="table"):
                model.use(table)
    finally:
        model.use(None)
    assert model.by_native(layer.layer_inputs(x)) == 0


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
    compiled = step(layers["cuda"], True)
    of_scaler = 2 + [name for name, _ in layers["cuda"].named_parameters()].index("spline_scaler")
    # Parameters are folded by torch's operators there, which sum the gradient of the scaler in another order.
    torch.testing.assert_close(compiled.pop(of_scaler), got.pop(of_scaler), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(compiled, got, rtol=0, atol=0)


def test_the_first_call_may_be_a_compiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_found", {})
    layer, x = KANLinear(3, 4, kernel="cuda"), torch.randn(5, 3)
    y = torch.compile(layer, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(y, layer(x), rtol=0, atol=0)


def test_the_first_use_check_passes_what_is_right_and_names_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    small = check.Problem(20, 2, 3, 4, uniform=False, silu=False, edges=True)
    monkeypatch.setattr(check, "PROBLEMS", (small, small._replace(uniform=True, silu=True, edges=False)))
    for dtype in (torch.float32, torch.float16):
        assert check.mismatch(torch.device("cpu"), 2, dtype) is None
    right = products.input_grad
    monkeypatch.setattr(products, "input_grad", lambda *args: tuple(1.001 * part for part in right(*args)))
    assert "gradient of y with respect to x" in (check.mismatch(torch.device("cpu"), 2, torch.float32) or "")


MODES: dict[str, Any] = {
    "in an operator": torch._C._AutoDispatchBelowAutograd,
    "inference": torch.inference_mode,
    "float64 by default": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "deterministic": lambda: setting(torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True),
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_the_first_use_check_passes_wherever_the_first_use_is(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an operator autograd sees nothing, so that a truth by autograd lacked what goes through SiLU."""
    small = check.Problem(20, 2, 3, 4, uniform=False, silu=False, edges=True)
    monkeypatch.setattr(check, "PROBLEMS", (small, small._replace(uniform=True, silu=True)))
    with mode():
        assert check.mismatch(torch.device("cpu"), 2, torch.float32) is None


@pytest.mark.parametrize("silu", [False, True])
def test_what_native_stands_in_for_lies_in_memory_as_the_fakes_say(silu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile reads results by the strides of the fakes."""
    monkeypatch.setattr(check, "failure", lambda *_: "planted")
    problem = check.Problem(20, 3, 5, 4, uniform=True, silu=silu, edges=True)
    (x, base, knots, weight, order), grad = check.made(problem, 2, torch.float32, torch.device("cpu"))
    weight = weight.permute(2, 1, 0).contiguous()
    arguments = x, base, knots, weight, grad, order, model.INPUT_GRAD
    opcheck(ops.linear_input_grad, arguments, test_utils="test_faketensor")
    scale = torch.full(weight.shape[1:], 0.1)
    opcheck(ops.edge_l1_input_grad, (x, base, knots, weight, scale, order), test_utils="test_faketensor")
    for found in (ops.linear_input_grad(*arguments), ops.edge_l1_input_grad(x, base, knots, weight, scale, order)):
        assert all(part.is_contiguous() for part in found)


def test_the_first_use_check_meets_every_way_that_the_kernels_have() -> None:
    ways = []
    for samples, I, O, *_ in check.PROBLEMS:
        t = tiles.of_kernel("forward", O, 3, "half", wide=True)
        programs = math.ceil(samples / t.blocks["BLOCK_B"]) * math.ceil(O / t.blocks["BLOCK_O"])
        ways.append((t.blocks["BLOCK_B"] == 128 and 2 * programs > 128, shares.of_inputs(I, programs, samples * O)[0] > 1))
    assert {wide for wide, _ in ways} == {split for _, split in ways} == {False, True}
    for name in ("uniform", "silu", "edges"):
        assert {getattr(problem, name) for problem in check.PROBLEMS} == {False, True}
    assert {all(size % 16 == 0 for size in problem[:3]) for problem in check.PROBLEMS} == {False, True}
    for name in model.KERNELS:
        local = {support.pays(name, problem.outputs, problem.intervals + 4, 3, "float32") for problem in check.PROBLEMS}
        assert local == {False, True}


@pytest.mark.filterwarnings("ignore:efficient_kan's Triton kernels fail:UserWarning")
def test_the_first_use_check_remembers_what_it_says_of_the_kernels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def mismatch(error: Exception | None) -> None:
        def found(*_: object) -> None:
            calls.append(1)
            if error is not None:
                raise error

        monkeypatch.setattr(check, "mismatch", found)

    def failure() -> str | None:
        return check.failure(torch.device("cuda", 0), 3, torch.float32)

    monkeypatch.setattr(check, "_verdicts", {})
    capturing = [True]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    mismatch(None)
    assert "captured" in (failure() or "")
    assert calls == []
    capturing[0] = False
    mismatch(torch.OutOfMemoryError("full"))
    assert "full" in (failure() or "")
    mismatch(None)
    assert failure() is None
    capturing[0] = True
    assert failure() is None, "the verdict is known"
    assert len(calls) == 2
    monkeypatch.setattr(check, "_verdicts", {})
    capturing[0] = False
    mismatch(RuntimeError("ptxas"))
    assert failure() == failure() == "RuntimeError: ptxas"
    assert len(calls) == 3
