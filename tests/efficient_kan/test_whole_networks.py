"""Small networks in one pass: equality with layers one by one on native, and what goes by layers instead."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from efficient_kan import KAN, KANConv2d, KANLinear, SampleL1, SampleStd, WeightL1, kernels


def source() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def samples(batch: int, inputs: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (2.6 * torch.rand(batch, inputs, generator=source(), dtype=torch.float64) - 1.3).to(dtype)


def network(widths: list[int], grid_size: int = 5, order: int = 3, **options: Any) -> KAN:
    options = {"dtype": torch.float64, "generator": source(), "scale_noise": 2.0, **options}
    return KAN(widths, grid_size, order, **options)


def is_whole(y: Tensor) -> bool:
    return type(y.grad_fn).__name__ == "_NetworkBackward"


def on_native(kan: KAN) -> KAN:
    twin = copy.deepcopy(kan)
    for layer in twin.kan_layers:
        layer.kernel = "native"
    return twin


def results(kan: KAN, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = kan(x)
    leaves = {"x": x, **dict(kan.named_parameters())}
    grads = torch.autograd.grad(y.sin().sum(), list(leaves.values()))
    return {"y": y, **dict(zip(leaves, grads, strict=True))}


def assert_equal(ours: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    for name, value in expected.items():
        assert torch.equal(ours[name].isnan(), value.isnan()), name
        assert ours[name].shape == value.shape
        if value.numel():
            error = (ours[name] - value).nan_to_num().abs().max()
            assert error <= tolerance * value.nan_to_num().abs().max(), f"{name}: {error:.1e}"


def pruned(kan: KAN) -> KAN:
    for layer in kan.kan_layers:
        layer.edge_mask.copy_((torch.rand(layer.edge_mask.shape, generator=source()) < 0.5).double())
    return kan


def adapted(kan: KAN) -> KAN:
    """Knots of unequal distance, some of them equal."""
    for layer in kan.kan_layers:
        t = torch.rand(layer.grid.shape, generator=source(), dtype=torch.float64).sort(dim=1).values * 3 - 1.5
        t[0, 4:6] = t[0, 3]
        layer.grid.copy_(t)
    return kan


def mixed() -> KAN:
    layers = [
        KANLinear(3, 4, 5, 3, bias=True),
        KANLinear(4, 6, 2, 1),
        KANLinear(6, 2, 9, 5, enable_standalone_scale_spline=False),
    ]
    return KAN.from_layers(layers).double()


NETWORKS: dict[str, Callable[[], KAN]] = {
    "tutorial": lambda: network([2, 5, 1]),
    "one-layer": lambda: network([3, 2], order=2, bias=True),
    "order-1": lambda: network([4, 8, 8, 1], 3, 1),
    "order-5": lambda: network([3, 16, 5], 10, 5),
    "one-interval": lambda: network([1, 1], 1, 4),
    "without-scaler": lambda: network([2, 3, 2], enable_standalone_scale_spline=False),
    "pruned": lambda: pruned(network([3, 7, 2], bias=True)),
    "adapted": lambda: adapted(network([3, 7, 2])),
    "mixed": mixed,
    "fine-grid": lambda: network([3, 20, 2], 200, bias=True),
}


@pytest.mark.parametrize("batch", [0, 1, 128, 300])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_outputs_and_gradients_equal_native(make: Callable[[], KAN], batch: int) -> None:
    kan = make()
    x = samples(batch, kan.kan_layers[0].in_features)
    assert is_whole(kan(x)) is (batch > 0)
    assert_equal(results(kan, x), results(on_native(kan), x))
    with torch.no_grad():
        assert_equal({"y": kan(x)}, {"y": on_native(kan)(x)})


def test_error_of_float32_is_that_of_native() -> None:
    kan = network([4, 8, 8, 1]).float()
    x = samples(256, 4, torch.float32)
    exact = results(on_native(kan).double(), x.double())
    ours, theirs = results(kan, x), results(on_native(kan), x)
    for name, truth in exact.items():
        mine, allowed = ((found[name] - truth).abs().max() for found in (ours, theirs))
        assert mine <= 3 * allowed + 1e-7 * truth.abs().max(), name


def test_what_is_not_finite_stays_in_its_sample() -> None:
    kan = network([3, 5, 2])
    x = samples(200, 3)
    x[7, 0], x[40, 1], x[150, 2] = torch.nan, torch.inf, -torch.inf
    ours, native = results(kan, x), results(on_native(kan), x)
    assert_equal({"y": ours["y"]}, {"y": native["y"]})
    for name, expected in native.items():  # native's products with zeros spread it to all coefficients of an edge
        found, wanted = (t.isnan().any(-1) if t.dim() == 3 else t.isnan() for t in (ours[name], expected))
        assert torch.equal(found, wanted), name
    good = torch.ones(200, dtype=torch.bool)
    good[[7, 40, 150]] = False
    assert kan(x)[good].isfinite().all()


def test_inputs_may_lie_anyhow() -> None:
    kan = network([3, 5, 2])
    x = samples(50, 3)
    expected = kan(x)
    for other in (x.T.contiguous().T, torch.stack((x, x), dim=2)[..., 0], x.view(5, 10, 3)):
        assert torch.equal(kan(other).view(50, 2), expected)
    assert torch.equal(kan(x[:1].expand(50, 3)), kan(x[:1]).expand(50, 2))


def test_frozen_parameters_get_no_gradient() -> None:
    kan = network([3, 5, 2])
    kan.kan_layers[0].requires_grad_(False)
    x, twin = samples(50, 3), on_native(kan)
    for each in (kan, twin):
        each(x).sin().sum().backward()
    for (name, ours), theirs in zip(kan.named_parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == name.startswith("layers.0"), name
        assert ours.grad is None or torch.allclose(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_higher_derivatives_equal_native() -> None:
    kan, x = network([2, 4, 1]), samples(9, 2).requires_grad_()
    found = []
    for each in (kan, on_native(kan)):
        (first,) = torch.autograd.grad(each(x).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [x, *each.parameters()]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    rows = torch.autograd.functional.jacobian(kan, x.detach(), vectorize=True)
    torch.testing.assert_close(rows, torch.autograd.functional.jacobian(kan, x.detach()), rtol=1e-11, atol=1e-11)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode_and_transforms_go_by_layers() -> None:
    kan, x = network([2, 4, 1]), samples(9, 2)
    y, tangent = torch.func.jvp(kan, (x,), (torch.ones_like(x),))
    gradient = torch.func.grad(lambda x: kan(x).sum())(x)
    torch.testing.assert_close(gradient.sum(1, keepdim=True), tangent, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(kan(x), y, rtol=1e-12, atol=1e-12)


class Twice(KANLinear):
    def forward(self, x: Tensor, update_grid: bool = False) -> Tensor:
        return 2 * super().forward(x, update_grid)


def test_hooks_subclasses_and_own_activations_go_by_layers() -> None:
    kan, x = network([2, 4, 1]), samples(9, 2)
    expected = kan(x)
    seen: list[tuple[int, ...]] = []
    handle = kan.kan_layers[1].register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    torch.testing.assert_close(kan(x), expected, rtol=1e-12, atol=1e-12)
    assert seen == [(9, 4)]
    handle.remove()
    assert is_whole(kan(x))
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append((len(list(module.children())),)))
    kan(x)
    handle.remove()
    assert len(seen) > 3
    kan.kan_layers[1].__class__ = Twice
    torch.testing.assert_close(kan(x), 2 * expected, rtol=1e-12, atol=1e-12)
    other = network([2, 4, 1], base_activation=nn.Tanh)
    assert not is_whole(other(x))


def test_computed_parameters_are_read_anew() -> None:
    kan, x = network([2, 4, 1]), samples(9, 2)
    nn.utils.parametrizations.weight_norm(kan.kan_layers[0], "base_weight")
    assert_equal({"y": kan(x)}, {"y": on_native(kan)(x)})
    weight = kan.kan_layers[1].spline_weight
    weight.data = 2 * weight.data.transpose(1, 2).contiguous().transpose(1, 2)
    assert not weight.is_contiguous()
    assert_equal({"y": kan(x)}, {"y": on_native(kan)(x)})


def with_hooks(kan: KAN) -> KAN:
    """The same network, computed layer by layer."""
    again = copy.deepcopy(kan)
    for layer in again.kan_layers:
        layer.register_forward_hook(lambda *_: None)
    return again


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch", [3, 300, 3000])
@pytest.mark.parametrize("name", ["tutorial", "mixed", "pruned"])
def test_the_same_bits_as_layer_by_layer(name: str, batch: int, threads: int) -> None:
    before, kan = torch.get_num_threads(), NETWORKS[name]()
    for layer in kan.kan_layers:
        layer.bias = None  # whose gradient torch sums up in another order
    x = samples(batch, kan.kan_layers[0].in_features)
    torch.set_num_threads(threads)
    try:
        assert is_whole(kan(x)) and not is_whole(with_hooks(kan)(x))
        whole, by_layers = results(kan, x), results(with_hooks(kan), x)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(whole[name], by_layers[name]) for name in whole)


def test_networks_that_would_keep_much_for_longer_go_by_layers() -> None:
    """At most a mebibyte of outputs between layers, or an eighth of the parameters."""
    narrow, wide = network([2, 64, 1]), network([2, 2048, 1024])
    for kan, most in ((narrow, 2**20 // (64 * 8)), (wide, (2 + 1024) * 2048 * 9 // 8 // 2048)):
        inputs = kan.kan_layers[0].in_features
        assert is_whole(kan(samples(most, inputs))) and not is_whole(kan(samples(most + 1, inputs)))
    assert is_whole(network([3, 2])(samples(100_000, 3)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_what_is_not_plain_goes_by_layers_and_has_its_word() -> None:
    kan, x = network([2, 5, 1]), samples(10, 2)
    assert kernels.algorithm(kan, 10) == "by_span" and is_whole(kan(x))
    assert kernels.explain(kan, 10).startswith("layers[0]: cpu") and "\nlayers[1]: cpu" in kernels.explain(kan, 10)
    assert kernels.explain(on_native(kan), 10).splitlines() == [f"layers[{n}]: native (by name)" for n in (0, 1)]
    assert kernels.algorithm(on_native(kan), 10) == "native" and not is_whole(on_native(kan)(x))
    weight = kan.kan_layers[0].spline_weight
    weight.data = weight.data.transpose(1, 2).contiguous().transpose(1, 2)
    assert not is_whole(kan(x))
    kan = KAN([2, 5, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert kernels.algorithm(kan, 10) == "native" and not is_whole(kan(x.float()))
    assert kernels.algorithm(torch.compile(kan), 10) == kernels.algorithm(kan, 10) == "by_span"  # type: ignore[arg-type]
    assert kernels.explain(torch.compile(kan), 10) == kernels.explain(kan, 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layer: expected a KANLinear or KAN, got KANConv2d"):
        kernels.algorithm(KANConv2d(1, 4, 3), 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("penalty", [None, SampleL1(), SampleStd()])
def test_saved_tensors_may_come_back_in_another_layout(whole: bool, penalty: Any) -> None:
    kan, x = network([3, 5, 2]), samples(20, 3).requires_grad_()
    kan = kan if whole else with_hooks(kan)

    def gradients() -> list[Tensor]:
        y, value = (kan(x), 0.0) if penalty is None else kan.forward_with_penalty(x, penalty)
        return list(torch.autograd.grad(y.square().sum() + value, [x, *kan.parameters()]))

    expected = gradients()
    # Arrays in Fortran's order: other strides, the same numbers.
    pack, unpack = (lambda t: np.asfortranarray(t.detach().numpy())), torch.from_numpy
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        found = gradients()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("whole", [True, False])
def test_views_of_negative_numbers_are_read_as_such(whole: bool) -> None:
    kan, x = network([2, 4, 1]), torch._neg_view(samples(10, 2)).requires_grad_()
    of_y = torch._neg_view(torch.ones(10, 1, dtype=torch.float64))
    kan = kan if whole else with_hooks(kan)
    found, expected = kan(x), kan(x.clone())
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, x, of_y, retain_graph=True)[0], torch.autograd.grad(found, x, of_y.clone())[0]
    )


class OfOthers(SampleL1):
    """A penalty that the compiled pass does not know."""

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("widths", [[4, 8, 1], [4, 300, 1]], ids=str)
def test_penalties_that_have_no_hash_are_computed_by_layers(widths: list[int]) -> None:
    kan, x = network(widths), samples(10, widths[0])
    found, expected = (kan.forward_with_penalty(x, penalty) for penalty in (OfOthers(), SampleL1()))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_wrong_inputs_are_refused_as_by_layers() -> None:
    kan = network([2, 5, 1])
    for wrong in (samples(4, 3), samples(4, 2, torch.float32), samples(4, 2).to("meta"), samples(4, 2).to_sparse()):
        with pytest.raises(ValueError, match=r"^x: expected"):
            kan(wrong)


def test_writing_to_saved_tensors_is_refused() -> None:
    kan, x = network([2, 5, 1]), samples(4, 2)
    y = kan(x)
    with torch.no_grad():
        kan.kan_layers[0].base_weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("penalty", [None, SampleL1(), SampleStd(), WeightL1()], ids=str)
def test_real_samples_give_fake_results_under_a_mode_of_fake_tensors(penalty: Any) -> None:
    kan, x = KAN([4, 3, 2], generator=source()), torch.rand(30, 4)
    before = kan(x)
    with FakeTensorMode(allow_non_fake_inputs=True):
        y, loss = (kan(x), 0.0) if penalty is None else kan.forward_with_penalty(x, penalty)
        (y.sum() + loss).backward()
        assert isinstance(y, FakeTensor) and y.shape == (30, 2)
    kan.zero_grad()
    assert torch.equal(kan(x), before)


@pytest.mark.parametrize("penalty", [None, SampleL1(), SampleStd(), WeightL1()], ids=str)
@pytest.mark.parametrize("trained", ["last layer", "bias", "first layer"])
def test_some_parameters_alone_are_trained(trained: str, penalty: Any) -> None:
    """Layers below need no pass back at all: it would be a larger one than there is memory for."""
    kan = network([64, 2, 2], bias=True)
    kan.requires_grad_(False)
    last = kan.kan_layers[0 if trained == "first layer" else 1]
    wanted = [last.bias] if trained == "bias" else list(last.parameters())
    for parameter in wanted:
        assert parameter is not None
        parameter.requires_grad_()
    x, native = samples(100, 64), on_native(kan)
    found = []
    for each in (kan, native):
        for _ in range(20):
            each.zero_grad()
            y, loss = (each(x), 0.0) if penalty is None else each.forward_with_penalty(x, penalty)
            (y.sin().sum() + loss).backward()
        assert is_whole(y) is (each is kan)
        found.append({name: parameter.grad for name, parameter in each.named_parameters()})
    for name, gradient in found[0].items():
        assert (gradient is None) is (found[1][name] is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, found[1][name], rtol=1e-10, atol=1e-12)


def test_what_needs_no_gradient_gets_none() -> None:
    """Memory that nothing was written to would be one, and NaN now and then."""
    kan, found = network([3, 5, 2], bias=True), []
    frozen = kan.kan_layers[0].bias
    assert frozen is not None
    frozen.requires_grad_(False)
    y = kan(samples(20, 3))
    y.grad_fn.register_hook(lambda inputs, _: found.extend(inputs))  # type: ignore[union-attr]
    y.sum().backward()
    assert sum(gradient is not None for gradient in found) == 7


@pytest.mark.parametrize("penalty", [SampleL1(), SampleStd()], ids=str)
def test_constant_hidden_units_have_no_deviation(penalty: Any) -> None:
    kan = network([4, 6, 50], bias=True)
    first = kan.kan_layers[0]
    with torch.no_grad():
        first.edge_mask[2] = 0.0
        assert first.bias is not None
        first.bias.fill_(0.1)
    _, loss = kan.forward_with_penalty(samples(64, 4), penalty)
    of_weight = torch.autograd.grad(loss, kan.kan_layers[1].spline_weight)[0][:, 2]
    assert of_weight.any() == isinstance(penalty, SampleL1)


def test_what_was_kept_for_the_pass_back_is_released_by_it() -> None:
    kan, x = network([8, 64, 8], 20), samples(50, 8)
    y, loss = kan.forward_with_penalty(x, SampleStd())
    assert len(y.grad_fn.saved_tensors) > 10  # type: ignore[union-attr]
    (y.sum() + loss).backward()
    with pytest.raises(RuntimeError, match="have already been freed"):
        _ = loss.grad_fn.saved_tensors  # type: ignore[union-attr]
    assert not any(isinstance(value, Tensor) for value in vars(y.grad_fn).values())


@pytest.mark.parametrize("of_loss", [torch._neg_view(torch.tensor(1.0, dtype=torch.float64)), torch._efficientzerotensor(())])
def test_gradients_of_a_penalty_may_be_views_or_have_no_memory(of_loss: Tensor) -> None:
    kan, of_loss = network([3, 4, 2], bias=True), of_loss.double()
    for penalty in (SampleL1(), SampleStd(), WeightL1()):
        y, loss = kan.forward_with_penalty(samples(20, 3), penalty)
        found, expected = (
            torch.autograd.grad([y, loss], list(kan.parameters()), [torch.zeros_like(y), weight], retain_graph=True)
            for weight in (of_loss, of_loss.clone() + 0.0)
        )
        torch.testing.assert_close(found, expected)
    found = torch.autograd.grad(
        kan(samples(20, 3)), list(kan.parameters()), torch._efficientzerotensor((20, 2), dtype=torch.float64)
    )
    assert not any(gradient.any() for gradient in found)


def test_several_threads_may_begin_at_the_same_time() -> None:
    code = """
        import threading, torch
        from efficient_kan import KAN, SampleStd
        torch.set_num_threads(1)
        kan = KAN([3, 4, 4, 2], generator=torch.Generator().manual_seed(0))
        x, results, gate = torch.rand(50, 3), [], threading.Barrier(4)
        def step():
            gate.wait()
            y, loss = kan.forward_with_penalty(x, SampleStd())
            results.append(torch.autograd.grad(y.sum() + loss, list(kan.parameters())))
        threads = [threading.Thread(target=step) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(results) == 4
        assert all(torch.equal(a, b) for other in results for a, b in zip(other, results[0], strict=True))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)


@pytest.mark.parametrize("penalty", [SampleL1(), SampleStd(), WeightL1()], ids=str)
def test_a_base_activation_alone_is_trained(penalty: Any) -> None:
    found = []
    for kernel in ("cpu", "native"):
        kan = network([3, 4], base_activation=nn.PReLU, kernel=kernel, bias=True)
        kan.requires_grad_(False)
        activation = kan.kan_layers[0].base_activation.requires_grad_()
        activation.to(torch.float64)
        y, loss = kan.kan_layers[0].forward_with_penalty(samples(20, 3), penalty)
        assert kernel == "native" or is_whole(y)
        found.append(torch.autograd.grad(y.sin().sum() + loss, activation.weight)[0])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("penalty", [None, SampleL1(), SampleStd()], ids=str)
def test_saved_tensors_may_come_back_rounded(penalty: Any) -> None:
    """Hooks that keep 24 bits of each number, in units of the largest: nothing else than numbers may lie among them."""
    kan, x = network([3, 5, 2], dtype=torch.float32), samples(200, 3, torch.float32)

    def gradients() -> list[Tensor]:
        y, loss = (kan(x), 0.0) if penalty is None else kan.forward_with_penalty(x, penalty)
        return list(torch.autograd.grad(y.square().mean() + loss, list(kan.parameters())))

    def pack(tensor: Tensor) -> tuple[Tensor, Tensor]:
        unit = tensor.abs().max().clamp(min=1e-30) / 2**23
        return (tensor / unit).round().int(), unit

    expected = gradients()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed[0] * packed[1]):
        found = gradients()
    for ours, exact in zip(found, expected, strict=True):
        assert (ours - exact).norm() <= 0.01 * exact.norm()
