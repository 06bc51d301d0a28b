"""Every public function keeps every tensor on its device, checked without a second device.

`meta` tensors have a device and shapes but no values, and know autograd. Fake CUDA tensors pass for CUDA tensors on any
machine; a CPU build of torch aborts the process where autograd meets them, so they are used without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from efficient_kan import KAN, KANLinear, SampleL1, SampleStd, WeightL1
from efficient_kan.basis import bspline_basis, bspline_basis_derivative
from efficient_kan.grid_update import samples_needed

aten = torch.ops.aten
PENALTIES = [
    SampleL1(),
    SampleL1(divide_by_grid_range=True),
    SampleStd(coef=0.1, coefdiff=0.1),
    SampleStd(normalize=False),
    WeightL1(),
    WeightL1(fold_scale=True, count_base=True),
]
B, WIDTHS = 10, [3, 5, 2]


class OnDevice(TorchDispatchMode):
    """Fails where an operation returns a floating-point tensor on another device; counts the tensors seen."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.seen += 1
                assert tensor.device.type == self.device_type, f"{func} made a tensor on {tensor.device}"
        return result


class WithoutDeviceGuards(TorchFunctionMode):
    """Spells the Python methods that touch the CUDA runtime, which a CPU build lacks, as the operations they stand for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.__getitem__:
            return _index(*args)
        if func is Tensor.__setitem__:
            target, key, value = args
            return aten.copy_(_index(target, key), torch.as_tensor(value, device=target.device))
        if func is Tensor.contiguous:
            return args[0] if args[0].is_contiguous() else aten.clone(args[0], memory_format=torch.contiguous_format)
        if func is Tensor.copy_:
            return aten.copy_(*args, **kwargs)
        if func is Tensor.to:
            copy = kwargs.pop("copy", False)
            device, dtype, _, _ = torch._C._nn._parse_to(*args[1:], **kwargs)
            unchanged = device in (None, args[0].device) and dtype in (None, args[0].dtype)
            return args[0] if unchanged and not copy else aten._to_copy(args[0], device=device, dtype=dtype)
        if func is Tensor.__deepcopy__:  # it would copy the FakeTensorMode too
            tensor, memo = args
            copied = aten.clone(tensor)
            if isinstance(tensor, nn.Parameter):
                copied = nn.Parameter(copied, tensor.requires_grad)
            return memo.setdefault(id(tensor), copied)
        return func(*args, **kwargs)


def _index(tensor: Tensor, key: Any) -> Tensor:
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(k is Ellipsis for k in keys):
        at = next(n for n, k in enumerate(keys) if k is Ellipsis)
        taken = sum(k is not None for k in keys) - 1
        keys[at : at + 1] = [slice(None)] * (tensor.dim() - taken)
    dim = 0
    for k in keys:
        if isinstance(k, int):
            tensor = aten.select(tensor, dim, k)
            continue
        if k is None:
            tensor = aten.unsqueeze(tensor, dim)
        elif isinstance(k, slice):
            tensor = aten.slice(tensor, dim, k.start, k.stop, 1 if k.step is None else k.step)
        else:
            tensor = aten.index(tensor, [None] * dim + [torch.as_tensor(k, device=tensor.device)])
        dim += 1
    return tensor


@contextmanager
def simulated(device: str) -> Iterator[OnDevice]:
    """A device that is not there, and a checker of where tensors land."""
    with ExitStack() as stack:
        if device == "cuda":
            stack.enter_context(FakeTensorMode())
            stack.enter_context(WithoutDeviceGuards())
            stack.enter_context(torch.no_grad())
        yield stack.enter_context(OnDevice(device))


def make(device: str, **options: Any) -> tuple[KAN, Tensor]:
    return KAN(WIDTHS, device=device, **options), torch.empty(B, WIDTHS[0], device=device, dtype=options.get("dtype"))


def forward(kan: KAN, x: Tensor) -> Tensor:
    y: Tensor = kan(x)
    assert y.shape == (B, WIDTHS[-1])
    return y


def forward_leading_dimensions(kan: KAN, x: Tensor) -> Tensor:
    y: Tensor = kan(x.view(2, 1, 5, 3))
    assert y.shape == (2, 1, 5, WIDTHS[-1])
    return y


def forward_and_update_grid(kan: KAN, x: Tensor) -> Tensor:
    y: Tensor = kan(_many(kan, x), update_grid=True)
    return y


def update_grid(kan: KAN, x: Tensor) -> list[Tensor]:
    kan.update_grid(_many(kan, x))
    return [tensor for layer in kan.kan_layers for tensor in (layer.grid, layer.spline_weight)]


def update_grid_at_samples(kan: KAN, x: Tensor) -> list[Tensor]:
    kan.update_grid(x, fit="samples")
    return [tensor for layer in kan.kan_layers for tensor in (layer.grid, layer.spline_weight)]


def _many(kan: KAN, x: Tensor) -> Tensor:
    """As many samples as placing knots takes."""
    return x.new_empty(samples_needed(kan.grid_size, kan.spline_order), x.shape[1])


def refine(kan: KAN, x: Tensor) -> list[Tensor]:
    results = []
    for size, fit in ((7, "function"), (3, "function"), (7, "samples")):
        refined = kan.refine(size, x, fit=fit)  # type: ignore[arg-type]
        assert [layer.spline_weight.shape[-1] for layer in refined.kan_layers] == [size + 3, size + 3]
        results += [refined(x), *refined.state_dict().values()]
    return results


def prune(kan: KAN, x: Tensor) -> list[Tensor]:
    pruned = kan.prune(x, 0.1)
    return [pruned(x), *pruned.state_dict().values()]


def importance(kan: KAN, x: Tensor) -> list[Tensor]:
    return kan.importance(x)


def regularization_loss(kan: KAN, x: Tensor) -> Tensor:
    return kan.regularization_loss()


def reset_parameters(kan: KAN, x: Tensor) -> list[Tensor]:
    kan.kan_layers[0].reset_parameters()
    return list(kan.state_dict().values())


def basis(kan: KAN, x: Tensor) -> Tensor:
    return bspline_basis(x, kan.kan_layers[0].grid, 3)


def basis_derivative(kan: KAN, x: Tensor) -> Tensor:
    return bspline_basis_derivative(x, kan.kan_layers[0].grid, 3)


FUNCTIONS = [
    forward,
    forward_leading_dimensions,
    forward_and_update_grid,
    update_grid,
    update_grid_at_samples,
    refine,
    prune,
    importance,
    regularization_loss,
    reset_parameters,
    basis,
    basis_derivative,
]


@pytest.mark.parametrize("device", ["meta", "cuda"])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("options", [{}, {"enable_standalone_scale_spline": False, "bias": True}], ids=["scaler", "bias"])
def test_results_stay_on_the_device(function: Callable[..., Any], options: dict[str, Any], device: str) -> None:
    with simulated(device) as checker:
        kan, x = make(device, **options)
        for tensor in tree_leaves(function(kan, x)):
            assert tensor.device.type == device
    assert checker.seen > 10


@pytest.mark.parametrize("device", ["meta", "cuda"])
@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_penalties_stay_on_the_device(penalty: Any, device: str) -> None:
    with simulated(device) as checker:
        kan, x = make(device)
        y, loss = kan.forward_with_penalty(x, penalty)
        norms = penalty.edge_norms(kan.kan_layers[0], x)
        assert {t.device.type for t in (y, loss, norms)} == {device}
        assert (y.shape, loss.shape, norms.shape) == ((B, 2), (), (5, 3))
    assert checker.seen > 10


@pytest.mark.parametrize("device", ["meta", "cuda"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_stay_on_the_device(dtype: torch.dtype, device: str) -> None:
    with simulated(device):
        kan, x = make(device, dtype=dtype)
        y, loss = kan.forward_with_penalty(x, SampleStd())
        assert (y.device.type, loss.device.type, y.dtype) == (device, device, dtype)


@pytest.mark.parametrize("penalty", [None, *PENALTIES], ids=str)
def test_backward_stays_on_the_device(penalty: Any) -> None:
    with simulated("meta") as checker:
        kan, x = make("meta", bias=True)
        x.requires_grad_()
        y, loss = (kan(x), 0.0) if penalty is None else kan.forward_with_penalty(x, penalty)
        (y.square().mean() + loss).backward()
        leaves = {"x": x, **dict(kan.named_parameters())}
        for name, leaf in leaves.items():
            assert leaf.grad is not None and leaf.grad.device.type == "meta" and leaf.grad.shape == leaf.shape, name
    assert checker.seen > 50


@pytest.mark.parametrize("penalty", [None, SampleL1(), SampleStd()], ids=str)
def test_second_derivatives_stay_on_the_device(penalty: Any) -> None:
    with simulated("meta"):
        kan, x = make("meta")
        x.requires_grad_()
        value = kan(x).sum() if penalty is None else kan.forward_with_penalty(x, penalty)[1]
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        first.square().sum().backward()
        assert x.grad is not None and x.grad.device.type == "meta"


@pytest.mark.parametrize("device", ["meta", "cuda"])
def test_a_generator_of_the_cpu_serves_other_devices(device: str) -> None:
    generator = torch.Generator().manual_seed(1)
    with ExitStack() as stack:
        if device == "cuda":
            stack.enter_context(FakeTensorMode())
            stack.enter_context(WithoutDeviceGuards())
        layer = KANLinear(3, 2, device=device, generator=generator)
        assert {t.device.type for t in layer.state_dict().values()} == {device}


def test_input_of_another_device_is_refused() -> None:
    kan, x = make("meta")
    with pytest.raises(ValueError, match=r"x: expected device meta, got cpu"):
        kan(torch.zeros(B, 3))
    with pytest.raises(ValueError, match=r"x: expected device cpu \(that of knots\), got meta"):
        bspline_basis(x, torch.zeros(3, 12), 3)


def test_checker_catches_a_planted_mix_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A basis computed on the CPU and moved back, as by a forgotten `device=`, does not pass unseen."""
    from efficient_kan.kernels.native import expansion

    local_basis = expansion.local_basis

    def by_way_of_the_cpu(x: Tensor, knots: Tensor, spline_order: int) -> Any:
        table = torch.zeros(knots.shape)
        return local_basis(x, knots + table.to(knots.device), spline_order)

    for device in ("meta", "cuda"):
        with monkeypatch.context() as patch, simulated(device):
            kan, x = make(device)
            patch.setattr(expansion, "local_basis", by_way_of_the_cpu)
            with pytest.raises(AssertionError, match="made a tensor on cpu"):
                kan(x)


def test_mixing_devices_fails_on_fake_tensors() -> None:
    """The second line of defence: an operation on tensors of two devices."""
    with simulated("cuda"):
        a = torch.empty(3, device="cuda")
        with pytest.raises((RuntimeError, AssertionError)):
            a + torch.ones(3)


@pytest.mark.parametrize(
    "key",
    [0, -1, slice(1, 3), slice(None, None, 2), (slice(None), -1), (..., 0), (..., None), (0, ..., slice(2)), [0, 2], None],
    ids=str,
)
def test_index_means_what_python_indexing_means(key: Any) -> None:
    tensor = torch.arange(60.0).view(3, 4, 5)
    assert torch.equal(_index(tensor, key), tensor[key])
