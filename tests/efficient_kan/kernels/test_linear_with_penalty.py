"""A layer's outputs and mean absolute values of edges from one pass, against those that `native` computes separately.

`B` samples, `I` inputs, `O` outputs, `G` grid intervals, `k` spline order.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.measure.memory import AllocationTrace
from efficient_kan import KANLinear, SampleL1, kernels

SHAPES = [
    (1, 1, 1, 1),
    (300, 5, 37, 5),
    (1100, 19, 16, 8),
    (40, 17, 16, 150),
    (600, 2, 33, 40),
    (5000, 1, 3, 2),
    (2, 7, 70, 500),
]


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(I: int, O: int, G: int, k: int, kernel: str = "cpu", **options: Any) -> KANLinear:
    """On knots at random, with scales, one edge in ten masked and one in ten with weights of zero."""
    made = KANLinear(I, O, G, k, kernel=kernel, dtype=torch.float64, generator=source(1), **options)
    steps = 0.05 + torch.rand(made.grid.shape, dtype=torch.float64, generator=source(2))
    made.grid.copy_(4 * steps.cumsum(1) / steps.sum(1, keepdim=True) - 2)
    draws = torch.rand(O, I, dtype=torch.float64, generator=source(3))
    made.edge_mask[draws < 0.1] = 0.0
    with torch.no_grad():
        made.spline_weight[draws > 0.9] = 0.0
        made.base_weight[draws > 0.9] = 0.0
    return made


def samples(B: int, I: int) -> Tensor:
    """Some of them beyond all knots."""
    return 1.5 * torch.randn(B, I, dtype=torch.float64, generator=source(4))


def step(made: KANLinear, x: Tensor, penalty: SampleL1, of_y: float = 1.0) -> list[Tensor]:
    """Outputs, penalty, and the gradients of the samples and all parameters."""
    leaf = x.clone().requires_grad_()
    y, loss = made.forward_with_penalty(leaf, penalty)
    factors = torch.randn(y.shape, dtype=y.dtype, generator=source(5))
    grads = torch.autograd.grad(of_y * (y * factors).sum() + loss, [leaf, *made.parameters()])
    return [y.detach(), loss.detach(), *grads]


def assert_near(ours: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(1.0, other.abs().max().item()))


@pytest.mark.parametrize("options", [{}, {"enable_standalone_scale_spline": False}, {"base_activation": nn.Tanh}], ids=str)
@pytest.mark.parametrize("k", [1, 3, 5])
def test_equals_native(k: int, options: dict[str, Any]) -> None:
    ours, expected = (step(layer(5, 21, 6, k, kernel, **options), samples(700, 5), SampleL1()) for kernel in ("cpu", "native"))
    assert_near(ours, expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_native_in_awkward_shapes(shape: tuple[int, int, int, int]) -> None:
    B, *sizes = shape
    ours, expected = (
        step(layer(*sizes, 3, kernel), samples(B, sizes[0]), SampleL1(0.7, 0.3, True)) for kernel in ("cpu", "native")
    )
    assert_near(ours, expected)


@pytest.mark.parametrize("activation", [None, nn.Tanh])
def test_either_result_alone_has_its_gradients(activation: type[nn.Module] | None) -> None:
    options = {} if activation is None else {"base_activation": activation}
    x, penalty = samples(300, 4), SampleL1()
    made = layer(4, 9, 5, 3, **options)
    both, of_penalty = step(made, x, penalty), step(made, x, penalty, of_y=0.0)
    leaf = x.clone().requires_grad_()
    y, _ = made.forward_with_penalty(leaf, penalty)
    factors = torch.randn(y.shape, dtype=y.dtype, generator=source(5))
    of_outputs = torch.autograd.grad((y * factors).sum(), [leaf, *made.parameters()])
    _, loss = made.forward_with_penalty(leaf, penalty)
    alone = torch.autograd.grad(loss, [leaf, *made.parameters()])
    assert_near(list(alone), of_penalty[2:])
    assert_near([a + b for a, b in zip(of_outputs, alone, strict=True)], both[2:])


def test_only_what_needs_a_gradient_gets_one() -> None:
    made, x = layer(4, 9, 5, 3), samples(300, 4)
    expected = step(made, x, SampleL1())
    names = ["x", *(name for name, _ in made.named_parameters())]
    for number, wanted in enumerate(names):
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(name == wanted)
        leaf = x.clone().requires_grad_(wanted == "x")
        y, loss = made.forward_with_penalty(leaf, SampleL1())
        factors = torch.randn(y.shape, dtype=y.dtype, generator=source(5))
        leaves = [leaf, *made.parameters()]
        (grad,) = torch.autograd.grad((y * factors).sum() + loss, [leaves[number]])
        assert torch.equal(grad, expected[2 + number]), wanted
    with torch.no_grad():
        assert not any(found.requires_grad for found in made.forward_with_penalty(x, SampleL1()))


def test_second_derivatives_equal_native() -> None:
    results = []
    for kernel in ("cpu", "native"):
        made, leaf = layer(3, 4, 4, 3, kernel), samples(30, 3).requires_grad_()
        y, loss = made.forward_with_penalty(leaf, SampleL1())
        first = torch.autograd.grad(y.square().sum() + loss, [leaf, *made.parameters()], create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), [leaf, *made.parameters()]))  # type: ignore[arg-type]
    assert_near(list(results[0]), list(results[1]), 1e-10)


def test_nan_spoils_what_it_spoils_in_native() -> None:
    x = samples(50, 3)
    x[7, 1] = float("nan")
    ours, made = layer(3, 4, 5, 3), layer(3, 4, 5, 3, "native")
    y, loss = ours.forward_with_penalty(x, SampleL1())
    norms, expected = (SampleL1().edge_norms(each, x).isnan() for each in (ours, made))
    assert torch.equal(y.isnan(), made(x).isnan()) and torch.equal(norms, expected) and loss.isnan()


def test_what_it_does_not_take_is_computed_separately() -> None:
    made, x = layer(3, 4, 5, 3), samples(50, 3)

    def taken(name: str, x: Tensor) -> bool:
        tensors = made.tensors()
        assert tensors is not None
        return kernels.linear_with_penalty(name, x, None, tensors, 3, SampleL1()) is not None

    assert taken("auto", x) and not taken("native", x) and not taken("cpu", x[:0])
    with torch.autocast("cpu", torch.bfloat16):
        assert taken("cpu", x) and not taken("cpu", x.float())  # autocast leaves float64 alone
    with pytest.raises(ValueError, match="x: expected at least 1 sample for this penalty, got 0"):
        made.forward_with_penalty(x[:0], SampleL1())


def test_a_layer_derived_from_ours_is_asked_for_its_own_inputs() -> None:
    class Doubled(KANLinear):
        def layer_inputs(self, x: Tensor) -> kernels.LayerInputs:
            found = super().layer_inputs(x)
            return found._replace(weight=2 * found.weight)

    made = Doubled(4, 9, kernel="cpu", dtype=torch.float64, generator=source())
    x = samples(100, 4)
    _, found = made.forward_with_penalty(x, SampleL1())
    torch.testing.assert_close(found, SampleL1().layer_loss(made, made.layer_inputs(x)), rtol=1e-13, atol=0)


@pytest.mark.parametrize("shape", [(2000, 3, 20), (3000, 40, 8)], ids=str)
def test_threads_change_rounding_alone(shape: tuple[int, int, int]) -> None:
    B, I, O = shape
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(step(layer(I, O, 5, 3), samples(B, I), SampleL1()))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert_near(other, results[0], 1e-13)


def test_sums_in_float32_are_as_good_as_their_rounding() -> None:
    made, x = layer(8, 40, 8, 3).float(), samples(6000, 8).float()
    y, loss = made.forward_with_penalty(x, SampleL1())
    expected_y, expected_loss = made.double().forward_with_penalty(x.double(), SampleL1())
    assert (y - expected_y).abs().max() <= 2e-6 * expected_y.abs().max()
    assert (loss - expected_loss).abs() <= 1e-6 * expected_loss


def test_a_penalty_that_others_derive_is_asked_for_its_own_loss() -> None:
    class Doubled(SampleL1):
        def layer_loss(self, layer: KANLinear, inputs: kernels.LayerInputs) -> Tensor:
            return 2 * super().layer_loss(layer, inputs)

    made, x = layer(4, 9, 5, 3), samples(100, 4)
    _, once = made.forward_with_penalty(x, SampleL1())
    _, twice = made.forward_with_penalty(x, Doubled())
    torch.testing.assert_close(twice, 2 * once, rtol=1e-13, atol=0)


def test_a_step_holds_little_more_than_a_plain_one() -> None:
    """Sums of a part of the samples, norms and what they are made of, and scratch memory: less than half the weights."""
    peaks, (B, I, O) = [], (512, 128, 128)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for penalised in (False, True):
        made, x = KANLinear(I, O, kernel="cpu", generator=source()), torch.rand(B, I, generator=source(1))
        with AllocationTrace() as trace, trace.window("step"):
            y, extra = made.forward_with_penalty(x, SampleL1()) if penalised else (made(x), 0.0)
            (y.square().mean() + extra).backward()
        peaks.append(trace.peak("step").peak)
    torch.set_num_threads(threads)
    weights = 4 * I * O * 9
    assert peaks[1] - peaks[0] < weights / 2 + 2**18, peaks
