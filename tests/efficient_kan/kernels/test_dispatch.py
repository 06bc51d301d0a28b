"""What compiled code takes, and the plan of a layer and a batch."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from efficient_kan import KAN, KANLinear, SampleL1, kernels
from efficient_kan.kernels import cpu
from efficient_kan.kernels.cpu import dispatch


def test_plans_divide_any_shape_into_parts_that_exist() -> None:
    shapes = itertools.product((0, 1, 17, 512, 16384), (1, 3, 1000), (0, 1, 2048), (3, 9, 1030), (4, 8), (1, 2, 7))
    for batch, inputs, outputs, features, size, threads in shapes:
        plan = dispatch.plan(batch, inputs, outputs, features, 1, size, threads)
        for sizes in (plan.forward, plan.backward, plan.penalty):
            assert 1 <= sizes.panel <= max(batch, 1)
            assert 1 <= sizes.group <= inputs
            assert 1 <= sizes.input_parts <= inputs
            assert 1 <= sizes.sample_parts * sizes.input_parts <= threads
            assert not sizes.named or batch <= sizes.panel  # rows are those of one panel
        assert plan.penalty.sample_parts == 1 and not plan.penalty.named
        assert plan.operations >= 0 and plan.bytes >= 0


def test_penalties_are_divided_alike_on_any_number_of_threads() -> None:
    plans = [dispatch.plan(5000, 40, 30, 9, 3, 4, threads).penalty for threads in (1, 2, 3, 4)]
    assert len({plan._replace(input_parts=1) for plan in plans}) == 1


def test_the_explanation_names_the_algorithm_its_operations_and_its_bytes() -> None:
    layer = KANLinear(64, 32, 5, kernel="cpu", generator=torch.Generator().manual_seed(0))
    text = kernels.explain(layer, 1000)
    assert text.startswith("cpu (by name)\nproduct by_span")
    expected = 2 * 64 * 32 * (1000 * 5 + 3 * 16)
    assert f"{expected / 1e9:.3g} GFLOP" in text and "MB" in text and "panels of" in text


def test_few_samples_on_a_fine_grid_read_few_weights() -> None:
    layer = KANLinear(64, 32, 1000, kernel="cpu", generator=torch.Generator().manual_seed(0))
    few, many = kernels.explain(layer, 1), kernels.explain(layer, 1000)
    assert "weights of the samples' bases alone" in few and "alone" not in many
    assert f"{4 * (64 * 32 * (4 + 2) + 64 + 32) / 1e6:.3g} MB" in few


def test_weights_are_prefetched_where_they_are_many_which_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    def results() -> list[torch.Tensor]:
        source = torch.Generator().manual_seed(0)
        layer = KANLinear(70, 150, 5, kernel="cpu", generator=source)
        x = torch.rand(40, 70, generator=source, requires_grad=True)
        y = layer(x)
        return [y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]

    def explained(outputs: int) -> str:
        return kernels.explain(KANLinear(70, outputs, 5, kernel="cpu"), 40)

    assert "prefetched" in explained(150) and "prefetched" not in explained(15)
    prefetched = results()
    monkeypatch.setattr(dispatch, "_NEAR_BYTES", 2**40)
    dispatch.plan.cache_clear()
    assert "prefetched" not in explained(150)
    for one, other in zip(prefetched, results(), strict=True):
        assert torch.equal(one, other)
    dispatch.plan.cache_clear()


def test_networks_on_other_devices_are_not_for_compiled_code() -> None:
    """With `kernel="cpu"` on a GPU, native computes the outputs and the penalty."""
    known = KANLinear(3, 2, kernel="cpu").tensors()
    assert known is not None
    with FakeTensorMode():
        tensors = [None if one is None else torch.empty(one.shape, device="cuda") for one in known]
        x = torch.empty(8, 3, device="cuda")
    assert cpu.network(x, [tensors], [3], SampleL1()) is None


def test_parameters_on_another_device_are_refused_by_torch() -> None:
    """As after `load_state_dict(..., assign=True)` of a state without them into a model that was built on `meta`."""
    for name in ("spline_scaler", "base_weight", "edge_mask"):
        layer = KANLinear(3, 2, kernel="cpu")
        value = getattr(layer, name).detach().to("meta")
        setattr(layer, name, nn.Parameter(value) if name in dict(layer.named_parameters()) else value)
        with pytest.raises((RuntimeError, ValueError), match=r"device|meta"):
            layer(torch.zeros(4, 3))


def test_parameters_that_broadcast_are_computed_by_native() -> None:
    layer, x = KANLinear(3, 2, kernel="cpu", dtype=torch.float64), torch.rand(7, 3, dtype=torch.float64)
    column = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    found = torch.func.functional_call(layer, {"spline_scaler": column}, (x,))
    expected = torch.func.functional_call(layer, {"spline_scaler": column.expand(2, 3).contiguous()}, (x,))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("make", [lambda: KANLinear(8, 3, dtype=torch.float64), lambda: KAN([8, 4, 3], dtype=torch.float64)])
@pytest.mark.parametrize("penalty", [None, SampleL1()], ids=["plain", "l1"])
def test_knots_that_broadcast_are_computed_by_native_and_others_refused(make: Any, penalty: Any) -> None:
    module, x = make(), 2 * torch.rand(50, 8, dtype=torch.float64) - 1
    first, name = (module, "grid") if isinstance(module, KANLinear) else (module.kan_layers[0], "layers.0.grid")

    def computed(kernel: str, grid: torch.Tensor) -> list[torch.Tensor]:
        for layer in [module] if isinstance(module, KANLinear) else module.kan_layers:
            layer.kernel = kernel
        arguments = (x,) if penalty is None else (x, penalty)
        with patched(module, name, grid):
            found = module(x) if penalty is None else module.forward_with_penalty(*arguments)
        return [found] if penalty is None else list(found)

    one = [first.grid[:1].clone()]
    if penalty is None:
        torch.testing.assert_close(computed("cpu", *one), computed("native", *one))
    for grid in (
        *(one if penalty else ()),
        first.grid[:4].clone(),
        torch.cat([first.grid, first.grid]),
        first.grid[:, :-1].clone(),
    ):
        with pytest.raises((RuntimeError, ValueError)):
            computed("native", grid)
        with pytest.raises((RuntimeError, ValueError)):
            computed("cpu", grid)


@contextmanager
def patched(module: nn.Module, name: str, value: torch.Tensor) -> Iterator[None]:
    """With another buffer, as `torch.func.functional_call` gives it, whatever setters would say."""
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    before = owner._buffers[last]
    owner._buffers[last] = value
    try:
        yield
    finally:
        owner._buffers[last] = before


@pytest.mark.parametrize("kernel", ["cpu", "native"])
def test_layers_on_a_cpu_do_not_mind_the_default_device(kernel: str) -> None:
    generator = torch.Generator().manual_seed(0)
    kan = KAN([7, 11, 13], 6, kernel=kernel, generator=generator)
    twin, x = copy.deepcopy(kan), torch.rand(9, 7, generator=generator)
    twin(x).sum().backward()
    kan.kan_layers[0].grid = kan.kan_layers[0].grid.clone()  # of which no table is known yet
    with torch.device("meta"):
        kan(x).sum().backward()
    for ours, theirs in zip(kan.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
