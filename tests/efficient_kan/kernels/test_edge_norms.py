"""The compiled norms of edges against the dense definition: all edges' values, by plain autograd.

`B` samples, `I` inputs, `O` outputs, `G` grid intervals, `k` spline order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.measure.memory import AllocationTrace
from efficient_kan import KAN, KANLinear, SampleL1, SampleStd
from efficient_kan.basis import bspline_basis
from efficient_kan.kernels import LayerInputs, cpu, native

CHUNK = 4096

NORMS = ["edge_l1", "edge_std"]


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def knots_of(kind: str, I: int, G: int, k: int) -> Tensor:
    steps = torch.full((I, G + 2 * k), 2 / G, dtype=torch.float64)
    if kind != "uniform":
        steps = torch.rand(steps.shape, generator=source(7), dtype=torch.float64) + 0.05
    if kind == "repeated":
        steps[:, k] = 0.0  # the grid's first interval
        steps[:, k + G // 2] = 0.0
    inner = steps.cumsum(1)
    return torch.cat((torch.zeros(I, 1, dtype=torch.float64), inner), 1) - inner[:, k - 1 : k] - 1


def make(B: int, I: int, O: int, G: int, k: int, kind: str = "adapted", *, silu: bool = True, seed: int = 0) -> LayerInputs:
    """Samples on both sides of the grid, at knots, and inside; one edge in ten is zero."""
    knots = knots_of(kind, I, G, k)
    x = torch.randn(B, I, dtype=torch.float64, generator=source(seed)) * 1.2
    x[: B // 10] = knots[:, torch.randint(0, knots.shape[1], (B // 10,), generator=source(seed + 1))].T
    x[B // 10 : B // 5] *= 10
    weight = torch.randn(O, I, G + k + 1, dtype=torch.float64, generator=source(seed + 2))
    weight *= (torch.rand(O, I, 1, generator=source(seed + 3)) > 0.1).double()
    base = None if silu else torch.randn(B, I, dtype=torch.float64, generator=source(seed + 4))
    return LayerInputs(x, base, knots, weight, k)


def leaves(inputs: LayerInputs) -> tuple[LayerInputs, list[Tensor]]:
    x, base, knots, weight, k = inputs
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    base = None if base is None else base.detach().requires_grad_()
    return LayerInputs(x, base, knots, weight, k), [t for t in (x, base, weight) if t is not None]


def dense(name: str, inputs: LayerInputs) -> Tensor:
    """From the values of all edges ``(B, O, I)``. The deviation of zero edges is set to zero, without a gradient."""
    x, base, knots, weight, k = inputs
    base = torch.nn.functional.silu(x) if base is None else base
    phi = torch.einsum("big,oig->boi", bspline_basis(x, knots, k), weight[..., :-1]) + weight[..., -1] * base.unsqueeze(1)
    if name == "edge_l1":
        return phi.abs().mean(0)
    alive = (phi != phi[:1]).any(0)
    return torch.where(alive, torch.where(alive, phi, x.unsqueeze(1)).std(0), 0.0)


def evaluate(norm: Callable[[LayerInputs], Tensor], inputs: LayerInputs) -> dict[str, Tensor]:
    """The norms and their gradients, weighted at random."""
    inputs, wanted = leaves(inputs)
    norms = norm(inputs)
    factors = torch.randn(norms.shape, dtype=torch.float64, generator=source(9)).to(norms.dtype)
    grads = torch.autograd.grad((norms * factors).sum(), wanted)
    return {
        "norms": norms.detach(),
        **dict(zip(("x", "base", "weight") if len(grads) == 3 else ("x", "weight"), grads, strict=True)),
    }


def errors(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    assert list(ours) == list(expected)
    return {
        name: ((ours[name].double() - value).abs().max() / value.abs().max().clamp(min=1e-300)).item()
        for name, value in expected.items()
    }


def check(name: str, inputs: LayerInputs, tolerance: float = 1e-12) -> None:
    found = errors(evaluate(getattr(cpu, name), inputs), evaluate(lambda given: dense(name, given), inputs))
    assert max(found.values()) <= tolerance, found


@pytest.mark.parametrize("kind", ["uniform", "adapted", "repeated"])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", NORMS)
def test_equals_the_dense_definition(name: str, k: int, kind: str) -> None:
    check(name, make(300, 5, 37, 5, k, kind, silu=k % 2 == 0))


SHAPES = [(2, 1, 1, 1), (2, 3, 70, 4), (1000, 1, 3, 2), (700, 19, 1, 8), (40, 17, 16, 150), (600, 2, 33, 40)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_equals_the_dense_definition_in_awkward_shapes(name: str, shape: tuple[int, int, int, int]) -> None:
    check(name, make(*shape, 3))


@pytest.mark.parametrize("penalty", [SampleL1(), SampleStd()], ids=["l1", "std"])
def test_one_input_and_an_order_that_native_computes(penalty: Any) -> None:
    """native's gradient of the weights is a view whose distance along the axis of one input means nothing."""
    found = []
    for kernel in ("cpu", "native"):
        layer = KANLinear(
            1, 4, 4, spline_order=6, kernel=kernel, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        x = torch.rand(10, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        penalty.edge_norms(layer, x).square().sum().backward()
        found.append([parameter.grad for parameter in layer.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_one_sample_has_absolute_values() -> None:
    check("edge_l1", make(1, 4, 5, 3, 3))


@pytest.mark.parametrize("name", NORMS)
def test_samples_beyond_one_chunk(name: str) -> None:
    check(name, make(2 * CHUNK + 77, 2, 3, 4, 3))


@pytest.mark.parametrize("name", NORMS)
def test_strided_inputs(name: str) -> None:
    x, _, knots, weight, k = make(90, 6, 7, 4, 3)
    strided = LayerInputs(
        x.T.contiguous().T, None, knots.T.contiguous().T, weight.permute(2, 1, 0).contiguous().permute(2, 1, 0), k
    )
    assert not strided.x.is_contiguous() and not strided.weight.is_contiguous()
    for ours, expected in zip(
        evaluate(getattr(cpu, name), strided).values(), evaluate(getattr(cpu, name), make(90, 6, 7, 4, 3)).values(), strict=True
    ):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("O", [1, 2, 16, 37])
@pytest.mark.parametrize("name", NORMS)
def test_outputs_last_weights(name: str, O: int, silu: bool) -> None:
    inputs = make(90, 19, O, 4, 3, silu=silu)
    across = inputs._replace(weight=inputs.weight.permute(1, 2, 0).contiguous().permute(2, 0, 1))
    assert O == 1 or not across.weight.is_contiguous()
    ours, expected = (evaluate(getattr(cpu, name), given) for given in (across, inputs))
    assert max(errors(ours, expected).values()) <= 1e-14


@pytest.mark.parametrize("name", NORMS)
def test_zero_edges_and_constant_edges(name: str) -> None:
    """A spline of equal coefficients is constant inside the grid: its deviation is exactly zero, and so is the gradient."""
    x, _, knots, weight, k = make(200, 3, 5, 6, 3, "uniform")
    x = x.clamp(-0.99, 0.99)
    weight[:, 0] = 0.0
    weight[:, 1, :-1] = 0.1
    weight[:, 1, -1] = 0.0
    inputs, (of_x, of_weight) = leaves(LayerInputs(x, None, knots, weight, k))
    norms = getattr(cpu, name)(inputs)
    assert not norms[:, 0].any()
    norms.sum().backward()
    assert of_x.grad is not None and of_weight.grad is not None
    assert not of_weight.grad[:, 0].any() and not of_x.grad[:, 0].any()
    if name == "edge_std":
        assert not norms[:, 1].any() and not of_weight.grad[:, 1].any()
    assert of_weight.grad.isfinite().all()


@pytest.mark.parametrize("spread", [1e-3, 1e-6])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_small_deviations_keep_their_digits(spread: float, offset: float) -> None:
    """Samples close together on splines far from zero. The truth subtracts the first value of each edge beforehand."""
    _, _, knots, weight, k = make(400, 2, 6, 5, 3, "uniform")
    x = 0.3 + spread * torch.rand(400, 2, generator=source(5), dtype=torch.float64)
    weight[..., -1] = 0.0
    ours = cpu.edge_std(LayerInputs(x, None, knots, weight + offset * (torch.arange(9) < 8).double(), k))
    bases = bspline_basis(x, knots, k)
    exact = torch.einsum("big,oig->boi", bases - bases[:1], weight[..., :-1]).std(0)
    error = ((ours - exact).abs() / exact.clamp(min=1e-300))[exact > 0].max().item()
    assert error <= 1e-15 * (1 + offset) / spread


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", NORMS)
def test_float32_is_no_worse_than_native(name: str, k: int) -> None:
    """Errors against float64 with the same float32 numbers; twice native's, or a few units of rounding."""
    single = LayerInputs(*(None if t is None else t.float() for t in make(2000, 6, 40, 8, k, silu=False)[:4]), k)  # type: ignore[arg-type]
    double = LayerInputs(*(None if t is None else t.double() for t in single[:4]), k)  # type: ignore[arg-type]
    truth = evaluate(lambda given: dense(name, given), double)
    ours = errors(evaluate(getattr(cpu, name), single), truth)
    theirs = errors(evaluate(getattr(native, name), single), truth)
    unit = torch.finfo(torch.float32).eps
    assert all(ours[n] <= max(2 * theirs[n], 4 * unit) for n in ours), (ours, theirs)


@pytest.mark.parametrize("name", NORMS)
def test_nan_samples_spoil_their_input_alone_as_in_native(name: str) -> None:
    inputs = make(50, 3, 4, 5, 3)
    inputs.x[7, 1] = float("nan")
    ours, expected = (evaluate(getattr(kernel, name), inputs) for kernel in (cpu, native))
    assert expected["norms"][:, 1].isnan().all()
    assert torch.equal(ours["norms"].isnan(), expected["norms"].isnan())
    for tensor in ("x", "weight"):
        assert ours[tensor][:, ::2].isfinite().all()


@pytest.mark.parametrize("name", NORMS)
def test_permuting_samples_changes_rounding_alone(name: str) -> None:
    inputs = make(500, 3, 20, 6, 3)
    order = torch.randperm(500, generator=source(3))
    permuted = evaluate(getattr(cpu, name), inputs._replace(x=inputs.x[order]))
    expected = evaluate(getattr(cpu, name), inputs)
    expected["x"] = expected["x"][order]
    assert max(errors(permuted, expected).values()) <= 1e-13


@pytest.mark.parametrize("name", NORMS)
def test_the_same_bits_on_any_number_of_threads(name: str) -> None:
    inputs = make(300, 23, 9, 5, 3)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            results.append(evaluate(getattr(cpu, name), inputs))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(other[n], value) for n, value in results[0].items())


@pytest.mark.parametrize("name", NORMS)
def test_parameters_are_tensors_like_others(name: str) -> None:
    inputs, norm = make(30, 3, 4, 4, 3), getattr(cpu, name)
    as_parameters = inputs._replace(x=torch.nn.Parameter(inputs.x), weight=torch.nn.Parameter(inputs.weight))
    assert torch.equal(norm(as_parameters), norm(inputs))


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_second_derivatives_equal_the_dense_definition(name: str, silu: bool) -> None:
    given, results = make(30, 3, 4, 4, 3, silu=silu), []
    given.weight.add_(0.3)  # no zero edges: plain autograd has no second derivative there
    for norm in (getattr(cpu, name), lambda inputs: dense(name, inputs)):
        inputs, wanted = leaves(given)
        first = torch.autograd.grad(norm(inputs).square().sum(), wanted, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), wanted))  # type: ignore[arg-type]
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())


@pytest.mark.parametrize("name", NORMS)
def test_only_what_needs_a_gradient_gets_one(name: str) -> None:
    x, _, knots, weight, k = make(30, 3, 4, 4, 3)
    both, (of_x, of_weight) = leaves(LayerInputs(x, None, knots, weight, k))
    getattr(cpu, name)(both).sum().backward()
    for chosen in ("x", "weight"):
        inputs = LayerInputs(x, None, knots, weight, k)
        leaf = getattr(inputs, chosen).clone().requires_grad_()
        getattr(cpu, name)(inputs._replace(**{chosen: leaf})).sum().backward()
        assert torch.equal(leaf.grad, of_x.grad if chosen == "x" else of_weight.grad)  # type: ignore[arg-type]
    assert not getattr(cpu, name)(LayerInputs(x, None, knots, weight, k)).requires_grad


def of_inputs(x: Tensor) -> LayerInputs:
    return LayerInputs(x, None, knots_of("uniform", x.shape[1], 2, 1), torch.zeros(1, x.shape[1], 4, dtype=x.dtype), 1)


@pytest.mark.parametrize("kernel", [cpu, native], ids=["cpu", "native"])
@pytest.mark.parametrize("shape", [(2, 1), (3, 40), (300, 19), (2 * CHUNK + 77, 3)], ids=str)
def test_deviations_of_inputs(kernel: Any, shape: tuple[int, int]) -> None:
    """With a mean of a million, which leaves ten digits of a sample's own."""
    x = torch.randn(shape, dtype=torch.float64, generator=source()) + 1e6 * (torch.arange(shape[1]) % 2)
    factors, found = torch.randn(shape[1], dtype=torch.float64, generator=source(1)), []
    others = torch.randn(shape, dtype=torch.float64, generator=source(2))
    for std in (lambda x: kernel.input_std(of_inputs(x)), lambda x: (x - x.mean(0)).std(0)):
        leaf = x.T.contiguous().T.requires_grad_()
        first = torch.autograd.grad((std(leaf) * factors).sum(), leaf, create_graph=True)[0]
        second = torch.autograd.grad((first * others).sum(), leaf)[0]
        found.append((std(leaf), torch.autograd.grad((std(leaf) * factors).sum(), leaf)[0], first, second))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())
    with torch.no_grad():
        torch.testing.assert_close(kernel.input_std(of_inputs(x)), found[1][0], rtol=1e-9, atol=0)


@pytest.mark.parametrize("kernel", [cpu, native], ids=["cpu", "native"])
def test_equal_inputs_have_no_deviation_and_no_gradient(kernel: Any) -> None:
    x = torch.randn(2 * CHUNK + 77, 3, generator=source())
    x[:, 1] = 0.1
    x.requires_grad_()
    deviations = kernel.input_std(of_inputs(x))
    deviations.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert (deviations == 0).tolist() == [False, True, False] and not x.grad[:, 1].any() and x.grad[:, ::2].any()


@pytest.mark.parametrize("samples", [0, 1])
def test_too_few_samples_have_no_deviation(samples: int) -> None:
    x = torch.ones(samples, 3, requires_grad=True)
    found = cpu.input_std(of_inputs(x))
    assert found.shape == (3,) and found.isnan().all()
    assert torch.autograd.grad(found.sum(), x)[0].shape == x.shape


def test_deviations_of_inputs_are_the_same_bits_on_any_number_of_threads() -> None:
    inputs, threads, found = of_inputs(torch.randn(300, 70, generator=source())), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            found.append(cpu.input_std(inputs))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(other, found[0]) for other in found)


def test_deviations_of_inputs_in_float32_are_rounded_once() -> None:
    x = torch.randn(5000, 20, generator=source()) + 100
    exact = x.double().std(0)
    assert ((cpu.input_std(of_inputs(x)).double() - exact).abs() / exact).max() <= torch.finfo(torch.float32).eps / 2


@pytest.mark.parametrize("penalty", [SampleL1(), SampleStd()], ids=str)
def test_a_step_holds_a_few_times_the_weights_beyond_a_plain_one(penalty: Any) -> None:
    B, I, O = 4096, 64, 64
    peaks = []
    for chosen in (None, penalty):
        kan = KAN([I, O], kernel="cpu", generator=source())
        x = torch.rand(B, I, generator=source(1))
        with AllocationTrace() as trace, trace.window("step"):
            y, extra = (kan(x), 0.0) if chosen is None else kan.forward_with_penalty(x, chosen)
            (y.square().mean() + extra).backward()
        peaks.append(trace.peak("step").peak)
    weights = 4 * I * O * 9
    assert peaks[1] - peaks[0] <= 4 * weights + 3 * 4 * B * I, [peak / weights for peak in peaks]
    assert peaks[1] - peaks[0] < 4 * B * I * O / 8


@pytest.mark.parametrize("penalty", [SampleL1(), SampleStd()], ids=str)
def test_fake_tensors_have_the_shapes_of_real_ones(penalty: Any) -> None:
    with FakeTensorMode():
        layer = KANLinear(3, 5, kernel="cpu")
        x = torch.empty(20, 3, requires_grad=True)
        norms = penalty.edge_norms(layer, x)
        norms.sum().backward()
        assert norms.shape == (5, 3) and x.grad is not None and x.grad.shape == (20, 3)
        assert layer.spline_weight.grad is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("penalty", [SampleL1(), SampleStd()], ids=str)
def test_compiled_networks_give_the_same(penalty: Any) -> None:
    torch._dynamo.reset()
    kan = KAN([3, 4, 2], kernel="cpu", dtype=torch.float64, generator=source())
    x = torch.rand(20, 3, generator=source(1), dtype=torch.float64)
    y, loss = torch.compile(kan.forward_with_penalty, backend="aot_eager")(x, penalty)
    for ours, expected in zip((y, loss), kan.forward_with_penalty(x, penalty), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["native", "cpu"])
@pytest.mark.parametrize("width", [3, 80])  # in one pass, and by layers
@pytest.mark.parametrize("tiny", [1e-30, 1e-36, 3e-38, 1e-38, 1e-39, 1e-45])
def test_deviations_next_to_nothing_have_finite_gradients(name: str, width: int, tiny: float) -> None:
    """Of edges whose weights are near the smallest numbers of float32, and of SiLU far below zero."""
    kan = KAN([2, width, 1], kernel=name, generator=source())
    with torch.no_grad():
        for weight in (kan.kan_layers[0].spline_weight, kan.kan_layers[0].base_weight):
            weight[0, 0] *= tiny
    x = torch.rand(64, 2, generator=source(1))
    x[:, 1] = math.log(tiny) + 0.1 * torch.randn(64, generator=source(2))
    kan.forward_with_penalty(x, SampleStd())[1].backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in kan.parameters() if parameter.grad is not None)


def test_deviations_of_sixteen_bits_have_finite_gradients() -> None:
    for seed in range(4):
        kan = KAN([30, 50, 1], generator=source(seed)).half()
        x = torch.rand(200, 30, generator=source(seed)).half()
        kan.forward_with_penalty(x, SampleStd())[1].backward()
        assert all(bool(parameter.grad.isfinite().all()) for parameter in kan.parameters() if parameter.grad is not None)
