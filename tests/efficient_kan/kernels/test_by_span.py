"""The contract that every kernel keeps, against `native` in float64, and what belongs to the choice of one."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from efficient_kan import KAN, KANLinear, SampleL1, SampleStd, kernels
from efficient_kan.basis import bspline_basis, bspline_basis_derivative
from efficient_kan.kernels import LayerInputs, Parameters, cpu, native
from efficient_kan.kernels.cpu import dispatch
from efficient_kan.kernels.cpu.codegen import openmp
from efficient_kan.kernels.cpu.codegen.jit import Entry, at
from tests.efficient_kan.test_basis import random_knots

FAST = ("cpu",)
ORDERS = (1, 2, 3, 4, 5)
DTYPES = (torch.float64, torch.float32)

every_kernel = pytest.mark.parametrize("kernel", FAST)
orders = pytest.mark.parametrize("order", ORDERS, ids="k{}".format)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def divide_finely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in panels of 16 samples and groups of 3 inputs."""

    def finely(batch: int, features: int, outputs: int, size: int, inputs: int) -> tuple[int, int, int]:
        return min(16, max(1, batch)), min(3, inputs), dispatch.tile_of(outputs, size)

    monkeypatch.setattr(dispatch, "divide", finely)
    dispatch.plan.cache_clear()


@pytest.fixture(params=["usual", "fine"])
def division(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The usual division of work, and one with many panels and groups."""
    if request.param == "fine":
        divide_finely(monkeypatch)
    yield
    dispatch.plan.cache_clear()


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_inputs(
    shape: tuple[int, int, int], grid_size: int, order: int, dtype: torch.dtype, *, kind: str = "random", base: bool = False
) -> LayerInputs:
    """Samples over the knots and beyond, some of them on knots."""
    samples, inputs, outputs = shape
    rows = [random_knots(kind, grid_size, order, seed)[seed % 3] for seed in range(inputs)]
    knots = torch.stack(rows).to(dtype)
    x = torch.rand(samples, inputs, generator=source(1), dtype=torch.float64) * 3.4 - 1.2
    on_knots = torch.rand(samples, inputs, generator=source(2)) < 0.2
    which = torch.randint(knots.shape[1], (samples, inputs), generator=source(3))
    x = torch.where(on_knots, knots.T.gather(0, which).double(), x).to(dtype)
    weight = torch.randn(outputs, inputs, grid_size + order + 1, generator=source(4), dtype=torch.float64).to(dtype)
    own = torch.randn(samples, inputs, generator=source(5), dtype=torch.float64).to(dtype) if base else None
    return LayerInputs(x, own, knots, weight, order)


def outputs_and_gradients(
    kernel: Any, inputs: LayerInputs, needs: tuple[str, ...] = ("x", "base", "weight")
) -> dict[str, Tensor]:
    tensors = {n: getattr(inputs, n) for n in needs if getattr(inputs, n) is not None}
    leaves = {n: t.detach().clone().requires_grad_() for n, t in tensors.items()}
    y = kernel.spline_linear(inputs._replace(**leaves))
    cotangent = torch.randn(y.shape, generator=source(6), dtype=torch.float64).to(y.dtype)
    grads = torch.autograd.grad(y, list(leaves.values()), cotangent)
    return {"y": y.detach(), **dict(zip(leaves, grads, strict=True))}


def in_float64(inputs: LayerInputs) -> LayerInputs:
    return LayerInputs(*(t.double() if isinstance(t, Tensor) else t for t in inputs))  # type: ignore[arg-type]


def assert_close(
    ours: dict[str, Tensor], exact: dict[str, Tensor], dtype: torch.dtype, terms: dict[str, float] | None = None
) -> None:
    """Errors relative to the largest number of a tensor, 1e-12 in float64; float32 rounds 4e6 times more coarsely.

    ``terms`` gives the size of what cancels in a sum, where there are too few numbers for the largest to stand for it.
    """
    limit = 1e-12 if dtype == torch.float64 else 5e-6
    assert list(ours) == list(exact)
    for name, value in exact.items():
        assert ours[name].dtype == dtype and ours[name].shape == value.shape, name
        if value.numel():
            size = max(float(value.abs().max()), (terms or {}).get(name, 0.0), 1e-30)
            error = (ours[name].double() - value).abs().max() / size
            assert error <= limit, f"{name}: {error:.1e}"


@every_kernel
@dtypes
@orders
@pytest.mark.parametrize("grid_size", [1, 5, 40, 100])
@pytest.mark.parametrize("kind", ["random", "repeated"])
def test_outputs_and_gradients_are_those_of_native(
    kernel: str, kind: str, grid_size: int, order: int, dtype: torch.dtype, division: None
) -> None:
    inputs = make_inputs((70, 5, 7), grid_size, order, dtype, kind=kind)
    chosen = kernels.resolve(kernel, inputs)
    assert chosen is not native
    exact = outputs_and_gradients(native, in_float64(inputs))
    assert_close(outputs_and_gradients(chosen, inputs), exact, dtype)


@every_kernel
@dtypes
@pytest.mark.parametrize("base", [False, True], ids=["silu", "own-base"])
@pytest.mark.parametrize("grid_size", [5, 40])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (0, 3, 2), (3, 1, 70), (700, 37, 1), (2100, 1, 40), (1100, 70, 17), (65, 33, 64)], ids=str
)
def test_awkward_shapes(
    kernel: str, shape: tuple[int, int, int], grid_size: int, base: bool, dtype: torch.dtype, division: None
) -> None:
    inputs = make_inputs(shape, grid_size, 3, dtype, base=base)
    exact = outputs_and_gradients(native, in_float64(inputs))
    terms: dict[str, float] = {}
    if inputs.x.numel() == 1:
        # One sample may lie where all slopes are nearly zero: its gradient is judged by the slopes on the whole grid.
        first, last = float(inputs.knots[0, 0]), float(inputs.knots[0, -1])
        everywhere = torch.linspace(first, last, 100, dtype=torch.float64).unsqueeze(1)
        slopes = bspline_basis_derivative(everywhere, inputs.knots.double(), 3).abs()
        terms["x"] = float(torch.einsum("big,oig->bi", slopes, inputs.weight.abs().double()[..., :-1]).max())
    assert_close(outputs_and_gradients(kernels.resolve(kernel, inputs), inputs), exact, dtype, terms)


@every_kernel
@orders
@pytest.mark.parametrize("grid_size", [4, 50])
def test_bases_and_slopes_one_by_one_equal_the_basis(kernel: str, grid_size: int, order: int) -> None:
    """A weight that picks one feature gives that basis; so each basis is seen alone, not in a sum."""
    inputs = make_inputs((90, 1, 1), grid_size, order, torch.float64, kind="repeated")
    features = inputs.weight.shape[2]
    x = inputs.x.clone().requires_grad_()
    weight = torch.eye(features, dtype=torch.float64).unsqueeze(1)
    y = kernels.resolve(kernel, inputs).spline_linear(inputs._replace(x=x, weight=weight))
    expected = bspline_basis(inputs.x, inputs.knots, order)[:, 0]
    torch.testing.assert_close(y[:, :-1], expected, rtol=0, atol=2e-15)
    slopes = bspline_basis_derivative(inputs.x, inputs.knots, order)[:, 0]
    for n in range(features - 1):
        (ours,) = torch.autograd.grad(y[:, n].sum(), x, retain_graph=True)
        torch.testing.assert_close(ours[:, 0], slopes[:, n], rtol=0, atol=1e-13 * max(1.0, float(slopes.abs().max())))


@every_kernel
@pytest.mark.parametrize("needs", [("x",), ("weight",), ("base",), ("base", "weight")], ids="-".join)
@pytest.mark.parametrize("grid_size", [5, 40])
def test_gradients_of_some_leaves_alone(kernel: str, grid_size: int, needs: tuple[str, ...], division: None) -> None:
    inputs = make_inputs((40, 3, 4), grid_size, 3, torch.float64, base=True)
    exact = outputs_and_gradients(native, inputs, needs)
    assert_close(outputs_and_gradients(kernels.resolve(kernel, inputs), inputs, needs), exact, torch.float64)


@every_kernel
@dtypes
@pytest.mark.parametrize("grid_size", [5, 40, 100])
def test_nan_and_infinities_are_those_of_native(kernel: str, grid_size: int, dtype: torch.dtype, division: None) -> None:
    inputs = make_inputs((40, 3, 4), grid_size, 3, dtype)
    inputs.x[0, 0], inputs.x[1, 1], inputs.x[2, 2], inputs.x[3, 0] = math.nan, math.inf, -math.inf, 1e30
    ours, exact = (
        outputs_and_gradients(kernels.resolve(kernel, inputs), inputs, ("x",)),
        outputs_and_gradients(native, inputs, ("x",)),
    )
    for name, value in exact.items():
        assert torch.equal(ours[name].isnan(), value.isnan()), name
        rest = value.isfinite()
        assert torch.equal(ours[name].isfinite(), rest), name
        torch.testing.assert_close(ours[name][rest], value[rest], rtol=1e-4, atol=1e-4)


@every_kernel
def test_silu_is_as_accurate_as_torchs(kernel: str) -> None:
    x = torch.cat((torch.linspace(-85, 100, 20_001), torch.linspace(-1e-3, 1e-3, 101))).unsqueeze(1)
    inputs = LayerInputs(x, None, torch.linspace(500, 600, 12).unsqueeze(0), torch.ones(1, 1, 9), 3)
    y = kernels.resolve(kernel, inputs).spline_linear(inputs)
    exact = nn.functional.silu(x.double())
    unit = torch.finfo(torch.float32).eps
    assert ((y - exact).abs() / exact.abs().clamp(min=1e-37)).max() <= 4 * unit


@every_kernel
@pytest.mark.parametrize("grid_size", [3, 40])
def test_higher_derivatives(kernel: str, grid_size: int, division: None) -> None:
    inputs = make_inputs((4, 2, 3), grid_size, 3, torch.float64)
    inputs = inputs._replace(x=((inputs.knots[:, 3:7] + inputs.knots[:, 4:8]) / 2).T.contiguous())
    chosen = kernels.resolve(kernel, inputs)

    def call(x: Tensor, weight: Tensor) -> Tensor:
        return chosen.spline_linear(inputs._replace(x=x, weight=weight))

    leaves = (inputs.x.requires_grad_(), inputs.weight.requires_grad_())
    assert torch.autograd.gradgradcheck(call, leaves)


@every_kernel
@pytest.mark.parametrize("grid_size", [5, 40])
def test_batched_gradients_equal_a_loop(kernel: str, grid_size: int) -> None:
    layer = KANLinear(3, 4, grid_size, kernel=kernel, dtype=torch.float64, generator=source())
    x = torch.rand(6, 3, generator=source(1), dtype=torch.float64, requires_grad=True)
    y, cotangents = layer(x), torch.randn(5, 6, 4, generator=source(2), dtype=torch.float64)
    leaves = (x, *layer.parameters())
    batched = torch.autograd.grad(y, leaves, cotangents, is_grads_batched=True, retain_graph=True)
    for n, cotangent in enumerate(cotangents):
        for ours, expected in zip(batched, torch.autograd.grad(y, leaves, cotangent, retain_graph=True), strict=True):
            torch.testing.assert_close(ours[n], expected, rtol=1e-12, atol=1e-12)


@every_kernel
@pytest.mark.parametrize("scaler", [True, False])
@pytest.mark.parametrize("grid_size", [5, 70])
@dtypes
def test_folded_weights_and_their_gradients(kernel: str, scaler: bool, grid_size: int, dtype: torch.dtype) -> None:
    layer = KANLinear(5, 3, grid_size, dtype=dtype, enable_standalone_scale_spline=scaler, generator=source())
    layer.edge_mask[1, 2] = 0
    arguments = (layer.spline_weight, layer.spline_scaler, layer.edge_mask, layer.base_weight)
    results = []
    for name in (kernel, "native"):
        folded = kernels.fold(name, *arguments)
        cotangent = torch.randn(folded.shape, generator=source(1), dtype=torch.float64).to(dtype)
        results.append((folded, *torch.autograd.grad(folded, list(layer.parameters()), cotangent)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


@dtypes
@pytest.mark.parametrize("base", [False, True], ids=["silu", "own-base"])
@pytest.mark.parametrize("shape", [(2500, 3, 64), (70, 2, 100), (1, 2, 80)], ids=str)
def test_samples_in_the_order_of_their_spans(shape: tuple[int, int, int], base: bool, dtype: torch.dtype) -> None:
    """Fine grids, with folded weights: panels of many samples, of a few, of one; more outputs than a tile has."""
    inputs = make_inputs(shape, 1400, 3, dtype, base=base)
    exact = outputs_and_gradients(native, in_float64(inputs))
    chosen = kernels.resolve("cpu", inputs)
    assert_close(outputs_and_gradients(chosen, inputs), exact, dtype, {"y": 10.0, "x": 1e3})
    inputs.x[0, 0] = math.nan
    y, expected = chosen.spline_linear(inputs), native.spline_linear(in_float64(inputs))
    assert torch.equal(y.isnan(), expected.isnan())
    torch.testing.assert_close(y[1:].double(), expected[1:], rtol=1e-4, atol=1e-4)


def fine_layer(outputs: int, grid_size: int, order: int, dtype: torch.dtype, samples: int, **options: Any) -> KANLinear:
    """A layer that multiplies with its own parameters, on random knots, with a mask that is not ones."""
    layer = KANLinear(4, outputs, grid_size, order, kernel="cpu", dtype=dtype, generator=source(), **options)
    rows = [random_knots("random", grid_size, order, seed)[0] for seed in range(4)]
    layer.grid.copy_(torch.stack(rows))
    layer.edge_mask.copy_(torch.rand(outputs, 4, generator=source(2)).round(decimals=1))
    x = torch.zeros(samples, 4, dtype=dtype)
    parameters = Parameters(layer.spline_weight, layer.spline_scaler, layer.edge_mask, layer.base_weight)
    assert cpu.takes_unfolded(x, None, layer.grid, parameters, order)
    return layer


def layer_results(layer: KANLinear, x: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    names = ["x", *(name for name, _ in layer.named_parameters())]
    return {"y": y.detach(), **dict(zip(names, torch.autograd.grad(y, [x, *layer.parameters()], cotangent), strict=True))}


@dtypes
@pytest.mark.parametrize("threads_used", [1, 2, 3])
@pytest.mark.parametrize(
    ("samples", "outputs", "grid_size", "order", "options"),
    [
        (5000, 64, 90, 3, {}),
        (2500, 70, 600, 3, {"base_activation": nn.Tanh}),
        (4500, 3, 600, 1, {"enable_standalone_scale_spline": False}),
        (33, 130, 1000, 5, {}),
        (0, 20, 400, 1, {}),
    ],
    ids=["narrow", "two-tiles", "few-outputs", "few-samples", "none"],
)
def test_layers_that_multiply_with_their_own_parameters(
    samples: int, outputs: int, grid_size: int, order: int, options: dict[str, Any], threads_used: int, dtype: torch.dtype
) -> None:
    """Panels, tiles and threads; parameters that are missing."""
    layer = fine_layer(outputs, grid_size, order, dtype, samples, **options)
    low, high = float(layer.grid.min()), float(layer.grid.max())
    x = (low + (high - low) * torch.rand(samples, 4, generator=source(3))).to(dtype)
    cotangent = torch.randn(samples, outputs, generator=source(4)).to(dtype)
    exact = copy.deepcopy(layer).double()
    exact.kernel = "native"
    expected = layer_results(exact, x.double(), cotangent.double())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads_used)
        assert_close(layer_results(layer, x, cotangent), expected, dtype, {"x": 1e3, "y": 10.0})
        with torch.no_grad():
            assert_close({"y": layer(x)}, {"y": expected["y"]}, dtype, {"y": 10.0})
    finally:
        torch.set_num_threads(before)


def test_no_outputs_give_a_gradient_of_zero() -> None:
    inputs = make_inputs((300, 4, 0), 100, 3, torch.float32)
    x = inputs.x.clone().requires_grad_()
    cpu.spline_linear(inputs._replace(x=x, weight=inputs.weight.requires_grad_())).sum().backward()
    assert x.grad is not None and not x.grad.any()


def test_frozen_parameters_and_samples_have_no_gradient() -> None:
    layer = fine_layer(20, 100, 3, torch.float64, 300)
    x = torch.randn(300, 4, dtype=torch.float64, generator=source(1))
    layer(x).sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in layer.named_parameters() if parameter.grad is not None}
    layer.zero_grad()
    layer.spline_weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.spline_weight.grad is None
    for name in ("spline_scaler", "base_weight"):
        assert torch.equal(layer.get_parameter(name).grad, expected[name])  # type: ignore[arg-type]
    layer.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    layer(leaf).sum().backward()
    assert leaf.grad is not None and torch.isfinite(leaf.grad).all()


def test_higher_and_batched_gradients_of_a_layer_with_a_fine_grid() -> None:
    layer = fine_layer(5, 100, 3, torch.float64, 300)
    reference = copy.deepcopy(layer)
    reference.kernel = "native"
    found = []
    for each in (layer, reference):
        x = torch.randn(300, 4, dtype=torch.float64, generator=source(1)).requires_grad_()
        leaves = [x, *each.parameters()]
        first = torch.autograd.grad(each(x).square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum((g.square().sum() for g in first), torch.zeros(())), leaves)
        batched = torch.autograd.grad(
            each(x), leaves, torch.eye(5, dtype=x.dtype)[:, None].expand(5, 300, 5), is_grads_batched=True
        )
        found.append([*first, *second, *batched])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10 * float(expected.detach().abs().max()))


def test_a_layer_with_a_fine_grid_keeps_no_folded_weight() -> None:
    layer = fine_layer(20, 100, 3, torch.float32, 300)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
        layer(torch.rand(300, 4))
    large = [t for t in kept if t.numel() >= layer.spline_weight.numel()]
    assert [t.data_ptr() for t in large] == [layer.spline_weight.data_ptr()]


@every_kernel
@pytest.mark.parametrize("grid_size", [5, 40])
def test_strided_samples(kernel: str, grid_size: int) -> None:
    layer = KANLinear(3, 4, grid_size, kernel=kernel, dtype=torch.float64, generator=source())
    wide = torch.randn(3, 20, 2, generator=source(1), dtype=torch.float64)
    assert torch.equal(layer(wide[..., 0].T), layer(wide[..., 0].T.contiguous()))


class Doubled(nn.SiLU):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_hooks_and_subclasses_of_silu_are_called() -> None:
    x = torch.randn(8, 2, generator=source(1))
    layer = KANLinear(2, 3, generator=source())
    doubled = KANLinear(2, 3, base_activation=Doubled, generator=source())
    with torch.no_grad():
        for each in (layer, doubled):
            each.spline_weight.zero_()
    plain = layer(x)
    torch.testing.assert_close(doubled(x), 2 * plain)
    handle = layer.base_activation.register_forward_hook(lambda module, args, result: 2 * result)
    torch.testing.assert_close(layer(x), 2 * plain)
    handle.remove()
    torch.testing.assert_close(layer(x), plain)


@dtypes
@pytest.mark.parametrize("base", [False, True], ids=["silu", "own-base"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 37, 3), (3, 20, 150), (9, 5, 70)], ids=str)
def test_few_samples_read_the_weights_of_their_bases_alone(
    shape: tuple[int, int, int], base: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same bits as where all are read; what others are does not matter."""
    (samples, inputs, outputs), grid_size = shape, 400
    given = make_inputs(shape, grid_size, 3, dtype, base=base)
    assert dispatch.plan(samples, inputs, outputs, grid_size + 4, 3, given.x.element_size(), 1).forward.named
    found = outputs_and_gradients(cpu, given)
    used = bspline_basis(given.x, given.knots, 3).ne(0).any(0)
    others = torch.cat((~used, torch.zeros(inputs, 1, dtype=torch.bool)), 1)
    # A sample on a knot, or outside, has bases that are zero.
    near = torch.nn.functional.max_pool1d(used.double(), 9, 1, 4).bool() | (given.x <= given.knots[:, 3]).any(0).unsqueeze(1)
    others[:, :-1] &= ~near & ~(given.x >= given.knots[:, -4]).any(0).unsqueeze(1)
    changed = given._replace(weight=torch.where(others, torch.nan, given.weight))
    for name, value in outputs_and_gradients(cpu, changed).items():
        assert torch.equal(value, found[name]), name
    monkeypatch.setattr(dispatch, "_NAMED", 2**30)
    dispatch.plan.cache_clear()
    for name, value in outputs_and_gradients(cpu, given).items():
        assert torch.equal(value, found[name]), name
    dispatch.plan.cache_clear()


@pytest.mark.parametrize("grid_size", [5, 40])
def test_threads_change_nothing_but_rounding(grid_size: int) -> None:
    inputs = make_inputs((3000, 40, 20), grid_size, 3, torch.float32)
    chosen = kernels.resolve("cpu", inputs)
    exact = outputs_and_gradients(native, in_float64(inputs))
    try:
        for count in (2, 3):
            torch.set_num_threads(count)
            results = [outputs_and_gradients(chosen, inputs) for _ in range(2)]
            for name in exact:
                assert torch.equal(*(result[name] for result in results)), name
            assert_close(results[0], exact, torch.float32)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("order", [3, *(pytest.param(order, marks=pytest.mark.slow) for order in (1, 5))])
def test_after_warming_up_nothing_is_left_to_compile(order: int) -> None:
    code = f"""
        import torch
        from efficient_kan import KANLinear, SampleL1, SampleStd, kernels
        from efficient_kan.kernels.cpu.codegen.jit import Entry
        kernels.warm_up({order}, penalties=False)
        made, initialise = [], Entry.__init__
        Entry.__init__ = lambda *arguments, **options: (made.append(arguments), initialise(*arguments, **options))[1]
        torch.set_num_threads(2)
        for grid_size in (1, 80):
            for batch in (1, 1000):
                for outputs in (16, 100):
                    layer = KANLinear(3, outputs, grid_size, {order}, kernel="cpu")
                    layer(torch.rand(batch, 3, requires_grad=True)).sum().backward()
        assert not made
        kernels.warm_up({order})
        assert made
        made.clear()
        for grid_size in (5, 80):
            layer = KANLinear(3, 20, grid_size, {order}, kernel="cpu")
            for penalty in (SampleL1(), SampleStd()):
                y, value = layer.forward_with_penalty(torch.rand(100, 3, requires_grad=True), penalty)
                (y.sum() + value).backward()
        assert not made
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_threads_do_not_share_scratch_memory() -> None:
    """Each must hold its own until it is done: memory released too early is what the other thread is given next.

    The variable makes glibc allocate for all threads from one place; elsewhere it does nothing.
    """
    code = """
        import torch
        from efficient_kan import KANLinear, kernels
        from efficient_kan.kernels import LayerInputs, native
        torch.set_num_threads(2)
        source = torch.Generator().manual_seed(0)
        shapes = (128, 64, 70, 512), (64, 64, 20, 2048), (64, 300, 5, 600), (16, 64, 1400, 1000)
        for inputs, outputs, grid_size, samples in shapes:
            layer = KANLinear(inputs, outputs, grid_size, generator=source)
            x = (2 * torch.rand(samples, inputs, generator=source) - 1).requires_grad_()
            arguments = (layer.spline_weight, layer.spline_scaler, layer.edge_mask, layer.base_weight)
            leaves = (x, *layer.parameters())
            expected = None
            for name in ("native", *["cpu"] * 20):
                weight = kernels.fold(name, *arguments, samples=samples)
                given = LayerInputs(x, None, layer.grid, weight, 3)
                y = kernels.resolve(name, given).spline_linear(given)
                found = (weight, y, *torch.autograd.grad(y.square().mean(), leaves))
                expected = expected or found
                for ours, exact in zip(found, expected):
                    assert (ours - exact).abs().max() <= 1e-4 * exact.abs().max()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, env=os.environ | {"MALLOC_ARENA_MAX": "1"})


def test_a_forked_child_computes_the_same() -> None:
    code = """
        import os, signal, sys, torch
        from efficient_kan import KANLinear
        torch.set_num_threads(2)
        layer = KANLinear(20, 16, 40, kernel="cpu", generator=torch.Generator().manual_seed(0))
        x = torch.rand(1500, 20, generator=torch.Generator().manual_seed(1))
        # Threads of torch itself do not survive a fork, so its products must not use them in the child: the sparse kernel alone
        # computes, in the parent and in the child on two threads of Python.
        from efficient_kan.kernels.cpu.codegen import openmp as threads
        threads._lost_openmp = True
        expected = layer(x).detach()
        assert threads._pool is not None
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            assert threads._pool is None
            same = torch.equal(layer(x), expected)
            assert threads._pool is not None
            os._exit(0 if same else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, timeout=120).returncode == 0


@pytest.mark.parametrize("used_by", ["kernel", "torch", "nobody"])
def test_a_child_forked_after_use_of_torchs_threads_computes_the_same(used_by: str) -> None:
    code = f"""
        import os, signal, sys, torch
        torch.set_num_threads(1)
        from efficient_kan import KANLinear
        from efficient_kan.kernels.cpu.codegen import openmp as threads
        # Sparse and small: nothing for torch's own threads, which would not return in the child.
        layer = KANLinear(20, 16, 40, kernel="cpu", generator=torch.Generator().manual_seed(0))
        x = torch.rand(1500, 20, generator=torch.Generator().manual_seed(1))
        expected = layer(x).detach()
        used_by, found = "{used_by}", threads._openmp() is not None
        torch.set_num_threads(2)
        if used_by == "kernel":
            assert torch.equal(layer(x), expected)
        if used_by == "torch":
            torch.ones(10**6).exp()
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            same = torch.equal(layer(x), expected)
            on_openmp = found and used_by == "nobody"
            assert on_openmp == (threads._pool is None), (threads._pool, threads._lost_openmp)
            os._exit(0 if same else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, timeout=120).returncode == 0


def test_a_forked_child_does_not_wait_for_threads_that_others_started_and_ended() -> None:
    """Python counts threads that it did not start among its own, also when they have ended."""
    code = """
        import _thread, os, signal, sys, threading, time, torch
        from efficient_kan import KANLinear
        from efficient_kan.kernels.cpu.codegen import openmp as threads
        torch.set_num_threads(2)
        layer, x = KANLinear(20, 16, 40, kernel="cpu"), torch.rand(1500, 20)
        expected = layer(x)
        for _ in range(8):
            _thread.start_new_thread(lambda: (threading.current_thread(), time.sleep(0.1)), ())
        time.sleep(0.5)
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            os._exit(0 if torch.equal(layer(x), expected) and threads._lost_openmp else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, timeout=120).returncode == 0


class Stopped(BaseException):
    """What a handler of signals may raise."""


def stop(*_: object) -> None:
    raise Stopped


def test_memory_is_not_given_back_while_other_threads_write_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither when the caller is interrupted, nor when there are no more threads to start."""
    monkeypatch.setattr(openmp, "_lost_openmp", True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    done: list[int] = []

    def part(place: int, start: int, stop: int) -> None:
        if start:
            time.sleep(0.3)
            done.append(start)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(Stopped):
        openmp.run(part, 3, 0)  # type: ignore[arg-type]
    signal.signal(signal.SIGALRM, before)
    assert sorted(done) == [1, 2]

    done.clear()
    monkeypatch.setattr(openmp, "_pool", None)
    start, started = threading.Thread.start, []

    def one(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) > 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", one)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        openmp.run(part, 3, 0)  # type: ignore[arg-type]
    time.sleep(0.5)
    assert not done and openmp._pool is None


@pytest.mark.skipif("USE_OPENMP=ON" not in torch.__config__.show() or sys.platform != "linux", reason="needs GNU's OpenMP")
def test_finds_the_openmp_of_torch() -> None:
    assert openmp._openmp() is not None


def test_a_team_smaller_than_asked_for_does_all_parts() -> None:
    code = """
        from array import array
        import torch
        from efficient_kan.kernels.cpu.codegen import openmp as threads
        from efficient_kan.kernels.cpu.codegen.jit import Entry, at
        def count(job_at, start, stop):
            out = at(at(job_at, 0)[0], 0)
            for n in range(start, stop):
                out[n] += 1
        torch.set_num_threads(3)
        counts = torch.zeros(100, dtype=torch.int64)
        job = array("q", [counts.data_ptr()])
        threads.run(Entry(count), 100, job.buffer_info()[0])
        assert counts.eq(1).all(), counts
    """
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.run(command, check=False, timeout=120, env=environment).returncode == 0


def test_parts_cover_the_range_once_on_threads_of_torch() -> None:
    def count(job_at: int, start: int, stop: int) -> None:
        numbers = at(job_at, 0)
        out, factor = at(numbers[0], 0), numbers[1]
        for n in range(start, stop):
            out[n] += factor

    entry, number = Entry(count), torch.get_num_threads()
    try:
        for parts in (2, 3, 7):  # more than there are cores too
            torch.set_num_threads(parts)
            counts = torch.zeros(1001, dtype=torch.int64)
            job = array("q", [counts.data_ptr(), 5])
            openmp.run(entry, 1001, job.buffer_info()[0])
            assert counts.eq(5).all()
    finally:
        torch.set_num_threads(number)


@pytest.mark.parametrize("grid_size", [5, 40])
def test_fake_and_meta_tensors_have_the_shapes(grid_size: int) -> None:
    layer = KANLinear(3, 4, grid_size, kernel="cpu", generator=source())
    x = torch.rand(7, 3, generator=source(1))
    mode = FakeTensorMode()
    fake = copy.deepcopy(layer, {id(t): mode.from_tensor(t) for t in (*layer.parameters(), *layer.buffers())})
    on_meta = copy.deepcopy(layer).to("meta")
    for module, z in ((fake, mode.from_tensor(x)), (on_meta, x.to("meta"))):
        leaf = z.detach().requires_grad_()
        y = module(leaf)
        y.sum().backward()
        assert y.shape == (7, 4) and y.device.type == leaf.device.type
        assert leaf.grad is not None and leaf.grad.shape == x.shape


def test_layers_with_a_kernel_can_be_copied_and_pickled() -> None:
    kan, x = KAN([2, 3, 1], kernel="cpu", generator=source()), torch.rand(5, 2, generator=source(1))
    for other in (copy.deepcopy(kan), pickle.loads(pickle.dumps(kan))):
        assert torch.equal(other(x), kan(x))


def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_found", {"cpu": None, "cuda": None})
    monkeypatch.setattr(kernels, "_reasons", {"cpu": "numba cannot be imported: gone", "cuda": "no"})
    monkeypatch.setattr(kernels, "_warned", set())


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_a_missing_kernel_is_replaced_with_one_warning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = KANLinear(2, 3, kernel=name, generator=source())
    x = torch.rand(4, 2, generator=source(1))
    expected = layer(x)
    missing(monkeypatch)
    with pytest.warns(RuntimeWarning, match="'cpu' is unavailable.*numba cannot be imported: gone") as caught:
        y = layer(x)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)
    torch.testing.assert_close(y, expected)
    assert kernels.report().kernels["cpu"] == "numba cannot be imported: gone"
    assert kernels.report().auto["cpu"] == "native"


def test_the_report_names_every_kernel() -> None:
    report = kernels.report()
    assert set(report.kernels) == {"native", "cpu", "cuda"}
    assert report.kernels["cpu"] == "available" and report.auto["cpu"] == "cpu"
    assert "kernel cpu: available" in str(report) and "auto on cpu: cpu" in str(report)


@pytest.mark.parametrize(
    "change",
    [{"dtype": torch.bfloat16}, {"spline_order": 6}],
    ids=["16-bit", "order-6"],
)
def test_what_a_kernel_does_not_take_goes_to_native(change: dict[str, Any]) -> None:
    layer = KANLinear(2, 3, kernel="cpu", generator=source(), **change)
    x = torch.rand(4, 2, generator=source(1), dtype=change.get("dtype"))
    inputs = layer.layer_inputs(x)
    assert kernels.resolve("cpu", inputs) is native and layer(x).shape == (4, 3)


def test_a_traced_graph_holds_the_computation() -> None:
    """Compiled code is invisible to a tracer, which would record garbage without a word."""
    from torch.fx.experimental.proxy_tensor import make_fx

    layer, x = KANLinear(2, 3, generator=source()), torch.rand(4, 2, generator=source(1))
    other = torch.rand(4, 2, generator=source(2))
    traced = make_fx(lambda z: layer(z))(x)
    torch.testing.assert_close(traced(other), layer(other))


def test_a_budget_holds_inside_its_block_and_must_be_a_size() -> None:
    former = kernels.feature_budget()
    with kernels.set_feature_budget(5):
        assert kernels.feature_budget() == 5
    assert kernels.feature_budget() == former
    with pytest.raises(ValueError, match="size: expected"):
        kernels.set_feature_budget(-1)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_cache_folder_does_no_harm(tmp_path: Any) -> None:
    tmp_path.chmod(0o500)
    code = "import torch; from efficient_kan import KANLinear; KANLinear(1, 1, kernel='cpu')(torch.zeros(1, 1))"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "none")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_tables_of_knots_follow_what_is_written_to_them() -> None:
    layer = KANLinear(3, 4, kernel="cpu", generator=source())
    reference = copy.deepcopy(layer)
    reference.kernel = "native"
    x = torch.rand(50, 3, generator=source(1))
    layer(x)
    moved = layer.grid + 0.05 * torch.rand(layer.grid.shape, generator=source(2))
    for write in (layer.grid.copy_, layer.grid.data.copy_):  # the second leaves the tensor's version as it is
        write(moved)
        reference.grid.copy_(moved)
        torch.testing.assert_close(layer(x), reference(x))
        moved = moved * 1.1


@dtypes
def test_samples_that_do_not_fill_vectors_or_tiles(dtype: torch.dtype) -> None:
    for samples, inputs in ((1, 1), (15, 17), (16, 16), (17, 15), (257, 33), (512, 2), (1024, 40)):
        for own in (False, True):
            given = make_inputs((samples, inputs, 600), 7, 3, dtype, base=own)
            exact = outputs_and_gradients(native, in_float64(given))
            assert_close(outputs_and_gradients(kernels.resolve("cpu", given), given), exact, dtype, {"y": 10.0, "x": 1.0})


@pytest.mark.parametrize("grid_size", [2, 5, 40])
def test_sums_over_many_samples_round_no_more_than_dense_ones(grid_size: int) -> None:
    inputs = make_inputs((30_000, 4, 8), grid_size, 3, torch.float32)
    exact = outputs_and_gradients(native, in_float64(inputs), ("weight",))["weight"]
    errors = []
    for kernel in (cpu, native):
        found = outputs_and_gradients(kernel, inputs, ("weight",))["weight"]
        errors.append(float((found.double() - exact).square().mean().sqrt()))
    assert errors[0] <= 2 * errors[1]


def test_gradients_of_weights_round_no_more_where_those_of_outputs_are_equal() -> None:
    """As those of a sum are: what is left out of a long sum then always has one sign."""
    inputs = make_inputs((8192, 1, 4), 5, 3, torch.float32)
    middle = inputs.knots[0, 5:7].mean()
    for x in (inputs.x, middle.expand(8192, 1).contiguous()):
        weight = inputs.weight.clone().requires_grad_()
        given = inputs._replace(x=x, weight=weight)
        (found,) = torch.autograd.grad(cpu.spline_linear(given).sum(), weight)
        exact = in_float64(given)._replace(weight=weight.detach().double().requires_grad_())
        (right,) = torch.autograd.grad(native.spline_linear(exact).sum(), exact.weight)
        assert (found - right).abs().max() <= 1e-6 * right.abs().max()


@pytest.mark.parametrize(("grid_size", "outputs"), [(5, 300), (40, 3)])
def test_a_call_with_fake_tensors_leaves_a_layer_as_it_is(grid_size: int, outputs: int, division: None) -> None:
    x = torch.rand(300, 4, generator=source(1))
    for used_before in (False, True):
        layer = KANLinear(4, outputs, grid_size, kernel="cpu", generator=source())
        expected = copy.deepcopy(layer)(x)
        if used_before:
            layer(x)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            for given in (mode.from_tensor(x), x):
                assert layer(given).shape == (300, outputs)
                y, loss = layer.forward_with_penalty(given, SampleL1())
                (y.sum() + loss).backward()
                layer.zero_grad()
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("penalty", [None, SampleL1(), SampleStd()], ids=["plain", "l1", "std"])
@pytest.mark.parametrize("samples", [2, 60])
def test_memory_to_work_in_may_hold_anything(samples: int, penalty: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read that was not written."""

    def spoiled(tensor: Tensor, *shape: Any, **options: Any) -> Tensor:
        made = new_empty(tensor, *shape, **options)
        return made.fill_(math.nan) if made.is_floating_point() else made

    new_empty = Tensor.new_empty
    options: dict[str, Any] = {"dtype": torch.float64, "scale_noise": 2.0}
    kan = KAN([5, 19, 3], 300, generator=source(), **options)
    twin = copy.deepcopy(kan)
    for layer in twin.kan_layers:
        layer.kernel = "native"
    x = 2.4 * torch.rand(samples, 5, generator=source(1), dtype=torch.float64) - 1.2
    x[-1] = x[0]
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "new_empty", spoiled)
        found = results(kan, x, penalty)
    for ours, theirs in zip(found, results(twin, x, penalty), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


def results(kan: KAN, x: Tensor, penalty: Any) -> list[Tensor]:
    """Outputs without a graph and with one, and gradients."""
    with torch.no_grad():
        found: list[Tensor] = [kan(x)]
    x = x.clone().requires_grad_()
    y, value = (kan(x), 0.0) if penalty is None else kan.forward_with_penalty(x, penalty)
    grads = torch.autograd.grad(y.square().sum() + value, [x, *kan.parameters()])
    return [*found, y.detach(), *grads, *torch.autograd.grad(kan(x).square().sum(), [x])]


@pytest.mark.parametrize("call", ["layer", "edge_l1", "edge_std", "input_std", "fold"])
def test_gradients_that_have_no_memory_are_zeros(call: str) -> None:
    layer = KANLinear(3, 2, kernel="cpu", dtype=torch.float64)
    x = torch.rand(20, 3, dtype=torch.float64, requires_grad=True)
    leaves = [x, *layer.parameters()]
    weight = kernels.fold("cpu", layer.spline_weight, layer.spline_scaler, layer.edge_mask, layer.base_weight)
    inputs = kernels.LayerInputs(x, torch.nn.functional.silu(x), layer.grid, weight, 3)
    y = {
        "layer": lambda: layer(x),
        "edge_l1": lambda: cpu.edge_l1(inputs),
        "edge_std": lambda: cpu.edge_std(inputs),
        "input_std": lambda: cpu.input_std(inputs),
        "fold": lambda: weight,
    }[call]()
    with deterministic():  # fills memory that is not written with NaN
        found = torch.autograd.grad(y, leaves, torch._efficientzerotensor(y.shape, dtype=y.dtype), allow_unused=True)
    given = [gradient for gradient in found if gradient is not None]
    assert given and not any(gradient.any() for gradient in given)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
