"""Devices without float64, stood for by a mode that refuses it."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from efficient_kan import KAN, KANConv2d, KANLinear, SampleL1, SampleStd, WeightL1
from efficient_kan._precision import widest
from efficient_kan.kernels import resolve
from efficient_kan.plot import edge_curves


class WithoutFloat64(TorchDispatchMode):
    """Raises ``TypeError``, as MPS does, where an operation returns float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(tensor, Tensor) and tensor.dtype == torch.float64 for tensor in tree_leaves(result)):
            raise TypeError(f"{func}: this device has no float64")
        return result


def samples(count: int = 400) -> Tensor:
    return 4 * torch.rand(count, 3, generator=torch.Generator().manual_seed(1)) - 2


def network() -> KAN:
    """Rough splines on knots that moved."""
    kan = KAN([3, 5, 2], kernel="native", generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for n, layer in enumerate(kan.kan_layers):
            layer.spline_weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(n))
            layer.grid.mul_(1.5)
    return kan


def _tensors(kan: KAN) -> list[Tensor]:
    """Its numbers and what it computes."""
    return [
        kan(samples()).detach(),
        *(tensor.detach() for layer in kan.kan_layers for tensor in (layer.grid, layer.spline_weight)),
    ]


def _penalty(penalty: Any) -> list[Tensor]:
    kan, x = network(), samples().requires_grad_()
    y, loss = kan.forward_with_penalty(x, penalty)
    (y.square().mean() + loss).backward()
    assert x.grad is not None
    return [y.detach(), loss.detach(), x.grad, *(p.grad for p in kan.parameters() if p.grad is not None)]


def _construct() -> list[Tensor]:
    return _tensors(KAN([3, 5, 2], 8, 4, kernel="native", generator=torch.Generator().manual_seed(0)))


def _update(**options: Any) -> list[Tensor]:
    kan = network()
    kan.update_grid(samples(), **options)
    return _tensors(kan)


def _basis() -> list[Tensor]:
    layer, y = network().kan_layers[0], torch.rand(400, 3, 5, generator=torch.Generator().manual_seed(2))
    return [layer.b_splines(samples()), layer.curve2coeff(samples(), y)]


def _shrunk() -> list[Tensor]:
    kan = network()
    kan.kan_layers[0].edge_mask[1] = 0
    kan.kan_layers[1].edge_mask[:, 2] = 0
    return _tensors(kan.shrink().network)


def _convolved() -> list[Tensor]:
    conv = KANConv2d(2, 4, 3, padding=1, groups=2, kernel="native", generator=torch.Generator().manual_seed(0))
    x = samples().reshape(-1)[:1152].view(4, 2, 12, 12)
    conv.update_grid(x)
    y, loss = conv.forward_with_penalty(x, SampleStd())
    return [y.detach(), loss.detach(), *conv.refine(7, x).state_dict().values()]


def _drawn() -> list[Tensor]:
    kan, x = network(), samples()
    curves = edge_curves(kan.kan_layers[0], x.amin(0), x.amax(0), [(0, 0), (2, 1)], torch.ones(5, 3))
    kan.plot(x)
    kan.plot_edges(1, x)
    return [torch.tensor(curve.values, dtype=torch.float32) for curve in curves]


CASES: dict[str, Callable[[], list[Tensor]]] = {
    "construct": _construct,
    "update_grid": _update,
    "update_grid-moves": lambda: _update(max_change=float("inf")),
    "update_grid-samples": lambda: _update(fit="samples"),
    "refine": lambda: _tensors(network().refine(13, samples())),
    "refine-smaller": lambda: _tensors(network().refine(3, samples())),
    "refine-samples": lambda: _tensors(network().refine(7, samples(), fit="samples")),
    "importance": lambda: network().importance(samples()),
    "prune": lambda: _tensors(network().prune(samples(), 0.1)),
    "basis": _basis,
    "shrink": _shrunk,
    "convolution": _convolved,
    "plot": _drawn,
    "SampleL1": lambda: _penalty(SampleL1()),
    "SampleStd": lambda: _penalty(SampleStd()),
    "WeightL1": lambda: _penalty(WeightL1()),
}


@pytest.mark.parametrize("case", CASES)
def test_without_float64_all_works_and_agrees_to_rounding(case: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of changed functions: the same in both runs
        expected = CASES[case]()
        with WithoutFloat64():
            assert widest(torch.device("cpu")).dtype == torch.float32
            found = CASES[case]()
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_deviations_without_float64_are_as_good_as_float32_can_be() -> None:
    """A spread far below the mean: sums are centred before they are squared."""
    kan = KAN([3, 4], kernel="native", generator=torch.Generator().manual_seed(0))
    layer = kan.kan_layers[0]
    x = 0.5 + 1e-2 * samples(2000)
    with torch.no_grad(), WithoutFloat64():
        inputs = layer.layer_inputs(x)
        found = resolve("native", inputs).edge_std(inputs)
    with torch.no_grad():
        exact = layer.double().layer_inputs(x.double())
        expected = resolve("native", exact).edge_std(exact)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-7)


def test_the_mode_refuses_float64() -> None:
    with WithoutFloat64(), pytest.raises(TypeError, match="this device has no float64"):
        torch.zeros(2, dtype=torch.float64)


@pytest.mark.parametrize("kernel", ["auto", "native"])
@pytest.mark.parametrize("penalty", [SampleL1(), SampleStd(), WeightL1()], ids=repr)
def test_penalties_in_float16_are_within_its_range_where_their_values_are(kernel: Any, penalty: Any) -> None:
    """Sums of norms, of values of edges and gradients over the samples leave it, and the entropy alone is a small number."""
    layer = KANLinear(256, 257, kernel=kernel, generator=torch.Generator().manual_seed(0))
    x = torch.rand(1024, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        layer.spline_weight.fill_(1.0)
        layer.base_weight.normal_(0, 3, generator=torch.Generator().manual_seed(2))
    twin = copy.deepcopy(layer).half()
    for weights in ({"l1": 0.0, "entropy": 1.0}, {"l1": 1e-5, "entropy": 0.0}):
        of = dataclasses.replace(penalty, **weights)
        wide, narrow = (of.layer_loss(each, each.layer_inputs(x.to(each.base_weight.dtype))) for each in (layer, twin))
        assert narrow.dtype == torch.float16
        torch.testing.assert_close(narrow.float(), wide, rtol=5e-3, atol=1e-3)
    of = dataclasses.replace(penalty, l1=1.0, entropy=0.0)
    pairs = [
        torch.autograd.grad(of.layer_loss(each, each.layer_inputs(x.to(each.base_weight.dtype))) * 1e-2, each.spline_weight)[0]
        for each in (layer, twin)
    ]
    torch.testing.assert_close(pairs[1].float(), pairs[0], rtol=2e-2, atol=2e-6)


def test_norms_of_many_samples_in_float16_do_not_overflow() -> None:
    layer = KANLinear(1, 2, kernel="native", dtype=torch.float16)
    with torch.no_grad():
        layer.base_weight.fill_(2.0)
    x = torch.ones(100_000, 1, dtype=torch.float16)
    narrow, wide = (SampleL1().edge_norms(each, x.to(each.base_weight.dtype)) for each in (layer, copy.deepcopy(layer).float()))
    torch.testing.assert_close(narrow.float(), wide, rtol=2e-3, atol=0)


@pytest.mark.parametrize("kernel", ["auto", "native"])
def test_masks_follow_the_dtype_of_parameters(kernel: Any) -> None:
    """Who casts parameters alone, as FSDP does, leaves buffers as they were."""
    kan = KAN([3, 4, 2], kernel=kernel, generator=torch.Generator().manual_seed(0))
    kan.kan_layers[0].edge_mask[0, 0] = 0
    cast = {name: p.detach().bfloat16() for name, p in kan.named_parameters()}
    x = samples(50).bfloat16()
    y: Any = torch.func.functional_call(kan, cast, (x,))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, copy.deepcopy(kan).bfloat16()(x), rtol=2e-2, atol=2e-2)
