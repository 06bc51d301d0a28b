"""Small networks in one pass: equality with layers one by one on native, and what goes by layers instead."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from efficient_kan import KAN, KANConv2d, KANLinear, SampleL1, SampleStd, WeightL1, kernels

pytest.importorskip("numba")


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
}


@pytest.mark.parametrize("batch", [0, 1, 128, 300])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_outputs_and_gradients_equal_native(make: Callable[[], KAN], batch: int) -> None:
    kan = make()
    x = samples(batch, kan.kan_layers[0].in_features)
    assert is_whole(kan(x))
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
    assert_equal(results(kan, x), results(on_native(kan), x))
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


def test_the_choice_depends_on_shapes_and_can_be_turned_off() -> None:
    small, wide, fine = network([2, 5, 1]), network([2, 200, 1]), network([2, 5, 1], 60)
    x = samples(10, 2)
    assert [is_whole(kan(x)) for kan in (small, wide, fine)] == [True, False, False]
    assert not is_whole(small(samples(100_000, 2)))
    assert not is_whole(network([2, 5, 1], kernel="native")(x))
    assert kernels.explain(small, 10).startswith("cpu: the whole network in one pass (in one pass: up to ")
    assert [kernels.algorithm(kan, 10) for kan in (small, wide, fine)] == ["by_sample", "by_span", "by_span"]
    assert kernels.algorithm(on_native(small), 10) == "native"
    assert kernels.algorithm(small.kan_layers[0], 10) == "by_span"
    assert ["\nlayers[1]: cpu" in kernels.explain(kan, 10) for kan in (small, wide, fine)] == [
        False,
        True,
        True,
    ]
    assert kernels.explain(on_native(small), 10).splitlines() == [f"layers[{n}]: native (by name)" for n in (0, 1)]
    with kernels.set_whole_networks(False):
        assert not is_whole(small(x))
        assert kernels.explain(small, 10).startswith("layers[0]: cpu")
        assert kernels.algorithm(small, 10) == "by_span"
    assert is_whole(small(x))
    with pytest.raises(ValueError, match="enabled"):
        kernels.set_whole_networks(1)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_the_word_says_what_computes() -> None:
    kan, x = network([2, 5, 1]), samples(10, 2)
    handle = kan.kan_layers[0].register_forward_hook(lambda *_: None)
    assert kernels.algorithm(kan, 10) == "by_span" and not is_whole(kan(x))
    handle.remove()
    assert kernels.algorithm(kan, 10) == "by_sample" and is_whole(kan(x))
    weight = kan.kan_layers[0].spline_weight
    weight.data = weight.data.transpose(1, 2).contiguous().transpose(1, 2)
    assert kernels.algorithm(kan, 10) == "by_span" and not is_whole(kan(x))
    kan = KAN([2, 5, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert kernels.algorithm(kan, 10) == "native" and not is_whole(kan(x.float()))
    assert kernels.algorithm(torch.compile(kan), 10) == kernels.algorithm(kan, 10) == "by_sample"  # type: ignore[arg-type]
    assert kernels.explain(torch.compile(kan), 10) == kernels.explain(kan, 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layer: expected a KANLinear or KAN, got KANConv2d"):
        kernels.algorithm(KANConv2d(1, 4, 3), 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("penalty", [None, SampleL1(), SampleStd()])
def test_saved_tensors_may_come_back_in_another_layout(whole: bool, penalty: Any) -> None:
    kan, x = network([3, 5, 2]), samples(20, 3).requires_grad_()

    def gradients() -> list[Tensor]:
        y, value = (kan(x), 0.0) if penalty is None else kan.forward_with_penalty(x, penalty)
        return list(torch.autograd.grad(y.square().sum() + value, [x, *kan.parameters()]))

    with kernels.set_whole_networks(whole):
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
    with kernels.set_whole_networks(whole):
        found, expected = kan(x), kan(x.clone())
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, x, of_y, retain_graph=True)[0], torch.autograd.grad(found, x, of_y.clone())[0]
        )


class OfOthers(SampleL1):
    """A penalty that the compiled pass does not know."""

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture(params=[1, 2, 16])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def most_samples(kan: KAN, penalty: Any = None) -> int:
    """The largest power of two of samples that are computed in one pass."""
    fits = [kernels.algorithm(kan, 2**n, penalty) == "by_sample" for n in range(1, 25)]
    assert fits == sorted(fits, reverse=True)
    return int(2 ** sum(fits))


def test_the_choice_weighs_calls_against_operations_and_threads(threads: int) -> None:
    """[1, 1]: a vector of outputs takes k + 2 operations of a sample, of which layers do half, and 5 for the input's bases."""
    extra = 5 * (1 - 0.5 / threads) + 5 * (1 - 1 / threads)
    assert most_samples(network([1, 1])) == 2 ** math.floor(math.log2(90_000 / extra))
    penalties = None, SampleL1(), WeightL1(), SampleStd()
    most = [most_samples(network([4, 8, 1]), penalty) for penalty in penalties]
    assert most == sorted(most) and most[0] < most[-1]
    assert most_samples(network([4, 8, 1]), OfOthers()) == 1
    assert kernels.explain(network([4, 8, 1]), 10, OfOthers()).startswith("cpu: layer by layer (in one pass: without a penalty")


def test_explain_says_what_was_weighed(threads: int) -> None:
    text = kernels.explain(network([1, 1]), 100)
    extra, of_layers = round(100 * (5 * (1 - 0.5 / threads) + 5 * (1 - 1 / threads))), f"{threads} thread{'s' * (threads > 1)}"
    assert f"up to 90,000 operations on vectors more than layers on {of_layers} do: {extra:,} here" in text
    assert "up to 400,000 operations" in kernels.explain(network([1, 1]), 100, SampleStd())


@pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16}, {"base_activation": nn.Tanh}], ids=str)
def test_the_word_for_other_dtypes_and_activations_is_not_that_of_one_pass(options: dict[str, Any]) -> None:
    kan = network([4, 8, 1], **options)
    x = samples(10, 4).to(kan.kan_layers[0].spline_weight.dtype)
    assert is_whole(kan(x)) is (kernels.algorithm(kan, 10) == "by_sample")


@pytest.mark.parametrize("widths", [[4, 8, 1], [4, 300, 1]], ids=str)
def test_penalties_that_have_no_hash_are_computed_by_layers(widths: list[int]) -> None:
    kan, x = network(widths), samples(10, widths[0])
    found, expected = (kan.forward_with_penalty(x, penalty) for penalty in (OfOthers(), SampleL1()))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_penalised_pass_is_chosen_by_its_penalty() -> None:
    kan, x = network([4, 8, 1]), samples(2 * most_samples(network([4, 8, 1])), 4)
    assert not is_whole(kan(x))
    assert is_whole(kan.forward_with_penalty(x, SampleStd())[0])


@pytest.mark.parametrize(("value", "expected"), [("0", "by_span"), ("1", "by_sample"), ("no", "expected 0 or 1")])
def test_the_environment_pins_the_choice(value: str, expected: str) -> None:
    script = "from efficient_kan import KAN, kernels; print(kernels.algorithm(KAN([2, 5, 1]), 10))"
    environment = os.environ | {"EFFICIENT_KAN_WHOLE_NETWORKS": value}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert expected in found.stdout + found.stderr


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
