"""Compiling, vectorising and differentiating twice give what plain autograd gives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

from efficient_kan import KAN, KANLinear, SampleL1, SampleStd, WeightL1
from efficient_kan.basis import bspline_basis
from efficient_kan.kernels.native import blocks as native_blocks

PENALTIES = [SampleL1(), SampleStd(coef=0.1, coefdiff=0.1), WeightL1(fold_scale=True, count_base=True)]
OTHERS = [pytest.param(penalty, marks=pytest.mark.slow) for penalty in (None, *PENALTIES[1:])]  # than the first
WIDTHS = [3, 5, 2]

# What torch says about its own machinery while it vectorises, traces or goes through forward mode.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:torch\.searchsorted\(\).*non-contiguous:UserWarning",
    "ignore:update_grid",  # which moves knots by pykan's rule here, and says how the function changed
)
compiling = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")


class Swish(nn.Module):
    """A base activation with a parameter."""

    def __init__(self, beta: float = 1.3) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(beta))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=source(seed), dtype=torch.float64) * 0.7


def network(widths: list[int] = WIDTHS, seed: int = 0, **options: Any) -> KAN:
    """Float64, coefficients of order one, uneven grids, a masked edge."""
    kan = KAN(widths, dtype=torch.float64, bias=True, scale_noise=5.0, generator=source(seed), **options)
    kan.update_grid(samples(50, widths[0], seed=seed + 10), fit="samples")
    kan.kan_layers[0].edge_mask[0, 0] = 0
    return kan


class Penalised(nn.Module):
    """`forward_with_penalty` as a module, for functional calls and compiling."""

    def __init__(self, kan: KAN, penalty: Any) -> None:
        super().__init__()
        self.kan, self.penalty = kan, penalty

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.kan.forward_with_penalty(x, self.penalty)


class Plain(nn.Module):
    """A copy of a network that runs on plain autograd through `bspline_basis`, and keeps all edges' values."""

    def __init__(self, kan: KAN, penalty: Any = None) -> None:
        super().__init__()
        self.kan, self.penalty = copy.deepcopy(kan), penalty

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(())
        for layer in self.kan.kan_layers:
            phi = edges(layer, x)
            total = total + self.layer_penalty(layer, phi, x)
            x = phi.sum(-1) + layer.bias
        return x, total

    def layer_penalty(self, layer: KANLinear, phi: Tensor, x: Tensor) -> Tensor:
        if isinstance(self.penalty, SampleL1):
            n = phi.abs().mean(0)
            p = (n / n.sum())[n > 0]
            return n.sum() - (p * p.log()).sum()
        if isinstance(self.penalty, SampleStd):
            alive = layer.edge_mask != 0
            n = torch.where(alive, torch.where(alive, phi, x.unsqueeze(1)).std(0), 0.0) / (x.std(0) + 0.1)
            rows, columns = n / (n.sum(1, keepdim=True) + 1), n / (n.sum(0, keepdim=True) + 1)
            entropy = -(rows * (rows + 1e-4).log2()).sum(1).mean() - (columns * (columns + 1e-4).log2()).sum(0).mean()
            smooth = (layer.spline_weight.abs().sum() + layer.spline_weight.diff(dim=-1).abs().sum()) / layer.out_features
            return n.sum() + 2 * entropy + 0.1 * smooth
        return x.new_zeros(())


def edges(layer: KANLinear, x: Tensor) -> Tensor:
    """All phi_oi(x_bi), (B, O, I)."""
    weight = layer.folded_weight()
    splines = torch.einsum("big,oig->boi", bspline_basis(x, layer.grid, layer.spline_order), weight[..., :-1])
    return splines + weight[..., -1] * layer.base_activation(x).unsqueeze(1)


def all_grads(module: nn.Module, value: Tensor, *others: Tensor) -> dict[str, Tensor]:
    names, leaves = zip(*module.named_parameters(), strict=True)
    grads = torch.autograd.grad(value, (*others, *leaves), allow_unused=True, materialize_grads=True)
    return dict(zip((*(f"input {n}" for n in range(len(others))), *names), grads, strict=True))


def assert_equal(ours: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert list(ours) == list(expected)
    for name, value in expected.items():
        error = (ours[name] - value).abs().max() / value.abs().max().clamp(min=1e-300)
        assert error <= tolerance, f"{name}: {error:.1e}"


@pytest.fixture(params=[False, True], ids=["one-block", "many-blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, so that a few samples need several."""
    if request.param:
        monkeypatch.setattr(native_blocks, "_BLOCK", {"cpu": 8})
        monkeypatch.setattr(native_blocks, "MIN_ROWS", 2)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_native_passes_gradcheck_in_both_modes() -> None:
    layer = KANLinear(2, 2, grid_size=3, kernel="native", dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def outputs(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(outputs, (x, *parameters), check_forward_ad=True, check_batched_grad=False)
    assert torch.autograd.gradgradcheck(outputs, (x, *parameters), check_batched_grad=False)


@pytest.mark.parametrize("penalty", [None, *PENALTIES], ids=str)
def test_gradgradcheck(penalty: Any, blocks: None) -> None:
    """First and second derivatives by finite differences, with respect to the samples and every parameter."""
    check_derivatives(penalty)


@pytest.mark.parametrize("penalty", [SampleL1(divide_by_grid_range=True), SampleStd(normalize=False)], ids=str)
def test_gradgradcheck_of_options(penalty: Any) -> None:
    check_derivatives(penalty)


def check_derivatives(penalty: Any) -> None:
    kan = network([2, 2, 1], grid_size=2, spline_order=2)
    names, parameters = zip(*kan.named_parameters(), strict=True)
    module = kan if penalty is None else Penalised(kan, penalty)
    prefix = "" if penalty is None else "kan."

    def call(x: Tensor, *values: Tensor) -> Any:
        return functional_call(module, {prefix + n: v for n, v in zip(names, values, strict=True)}, (x,))

    inputs = (samples(4, 2).requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def pinn_loss(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Residual of u_xx + sin(u) = 0."""
    u = call(x)
    (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    second = [torch.autograd.grad(first[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1])]
    return (torch.stack(second).sum(0) + u.squeeze(-1).sin()).square().mean()


def test_second_derivatives_in_a_pinn_loss_equal_plain_autograd(blocks: None) -> None:
    kan = network([2, 5, 1], grid_size=4)
    plain, x = Plain(kan), samples(60, 2).requires_grad_()
    ours = pinn_loss(kan, x)
    expected = pinn_loss(lambda z: plain(z)[0], x)
    assert_equal({"loss": ours}, {"loss": expected})
    assert_equal(
        {"kan." + n if n[0] != "i" else n: g for n, g in all_grads(kan, ours, x).items()}, all_grads(plain, expected, x), 1e-11
    )


@pytest.mark.parametrize("penalty", PENALTIES[:2], ids=str)
def test_second_derivatives_of_penalties_equal_plain_autograd(penalty: Any, blocks: None) -> None:
    """The gradient of the squared norm of all first derivatives of a penalty."""
    kan = network([2, 4, 2], grid_size=4)
    results = []
    for module in (Penalised(kan, penalty), Plain(kan, penalty)):
        x = samples(60, 2).requires_grad_()
        y, loss = module(x)
        first = torch.autograd.grad(loss + y.sin().sum(), (x, *module.parameters()), create_graph=True)
        results.append(all_grads(module, sum(g.square().sum() for g in first), x))
    assert_equal(*results, tolerance=1e-10)


@pytest.mark.parametrize("penalty", PENALTIES[:2], ids=str)
def test_first_derivatives_through_a_network_equal_plain_autograd(penalty: Any, blocks: None) -> None:
    """A penalty of deep layers reaches the parameters of the layers before."""
    kan, x = network([3, 5, 4, 2]), samples(70, 3).requires_grad_()
    results = []
    for module in (Penalised(kan, penalty), Plain(kan, penalty)):
        y, loss = module(x)
        results.append({"y": y, "loss": loss, **all_grads(module, loss + y.sin().sum(), x)})
    assert_equal(*results)


def leaves_of(kan: KAN, x: Tensor) -> dict[str, Tensor]:
    return {"x": x, **dict(kan.named_parameters())}


SUBSETS = {
    "x": ["x"],
    "spline_weight": ["layers.0.spline_weight"],
    "base_weight": ["layers.1.base_weight"],
    "scaler-and-bias": ["layers.0.spline_scaler", "layers.1.bias"],
    "last-layer": ["layers.1.base_weight", "layers.1.spline_weight", "layers.1.spline_scaler"],
    "x-and-last-layer": ["x", "layers.1.spline_weight"],
}


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_frozen_leaves_change_no_other_gradient(penalty: Any, subset: str) -> None:
    kan, x = network(), samples(30, 3).requires_grad_()
    y, loss = kan.forward_with_penalty(x, penalty)
    (y.square().sum() + loss).backward()
    expected = {name: leaf.grad for name, leaf in leaves_of(kan, x).items()}
    frozen, z = copy.deepcopy(kan), samples(30, 3)
    for name, leaf in leaves_of(frozen, z).items():
        leaf.grad = None
        leaf.requires_grad_(name in SUBSETS[subset])
    y, loss = frozen.forward_with_penalty(z, penalty)
    (y.square().sum() + loss).backward()
    for name, leaf in leaves_of(frozen, z).items():
        if name in SUBSETS[subset]:
            torch.testing.assert_close(leaf.grad, expected[name], rtol=1e-13, atol=1e-14)
        else:
            assert leaf.grad is None, name


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_without_gradients_nothing_is_recorded(penalty: Any) -> None:
    kan = network().requires_grad_(False)
    y, loss = kan.forward_with_penalty(samples(30, 3), penalty)
    assert not y.requires_grad and not loss.requires_grad
    with torch.no_grad():
        again, _ = network().forward_with_penalty(samples(30, 3).requires_grad_(), penalty)
    assert not again.requires_grad and torch.equal(again, y)


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_a_graph_can_be_used_twice_and_checkpointed(penalty: Any) -> None:
    kan, x = network(), samples(30, 3).requires_grad_()
    y, loss = kan.forward_with_penalty(x, penalty)
    first, second = (torch.autograd.grad(y.sum() + loss, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    y, loss = checkpoint(Penalised(kan, penalty), x, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(y.sum() + loss, x)[0], first)


def test_changing_weights_between_forward_and_backward_is_an_error() -> None:
    """What is kept for the backward pass is known to autograd, which refuses stale gradients."""
    kan, x = network(), samples(30, 3).requires_grad_()
    total = kan(x).sum()
    with torch.no_grad():
        x.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def ensemble(**options: Any) -> list[KAN]:
    """Three networks of one architecture on grids of their own."""
    return [network(seed=seed, **options) for seed in range(3)]


@pytest.mark.parametrize(
    "options", [{}, {"base_activation": Swish, "enable_standalone_scale_spline": False}], ids=["", "swish"]
)
@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_vmap_over_stacked_networks_equals_a_loop(penalty: Any, options: dict[str, Any]) -> None:
    kans = [Penalised(kan, penalty) for kan in ensemble(**options)]
    parameters, buffers = stack_module_state(kans)
    skeleton, x = copy.deepcopy(kans[0]).to("meta"), samples(20, 3)

    def loss(p: dict[str, Tensor], b: dict[str, Tensor], z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, extra = functional_call(skeleton, (p, b), (z,))
        return y.square().mean() + extra, (y, extra)

    values = vmap(lambda p, b: loss(p, b, x)[1], in_dims=(0, 0))(parameters, buffers)
    vectorised = vmap(grad(loss, argnums=(0, 2), has_aux=True), in_dims=(0, 0, None))
    (by_parameter, by_x), (ys, extras) = vectorised(parameters, buffers, x)
    for ours, expected in zip(values, (ys, extras), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-13, atol=1e-13)
    for n, kan in enumerate(kans):
        z = x.clone().requires_grad_()
        y, extra = kan(z)
        expected = {"y": y, "extra": extra, **all_grads(kan, y.square().mean() + extra, z)}
        ours = {"y": ys[n], "extra": extras[n], "input 0": by_x[n], **{name: g[n] for name, g in by_parameter.items()}}
        assert_equal(ours, expected)


@pytest.mark.parametrize("name", ["grid", "spline_weight", "base_weight", "spline_scaler", "edge_mask", "base_activation.beta"])
def test_vmap_over_one_tensor_alone(name: str) -> None:
    layers = [kan.kan_layers[0] for kan in ensemble(base_activation=Swish)]
    stacked, x = torch.stack([layer.state_dict()[name] for layer in layers]), samples(20, 3)
    if name == "base_activation.beta":
        stacked = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    ys = vmap(lambda value: functional_call(layers[0], {name: value}, (x,)))(stacked)
    for n in range(3):
        torch.testing.assert_close(ys[n], functional_call(layers[0], {name: stacked[n]}, (x,)), rtol=1e-13, atol=1e-13)


def test_vmap_over_samples_for_one_network_and_for_many() -> None:
    kans = ensemble()
    parameters, buffers = stack_module_state(kans)
    skeleton, xs = copy.deepcopy(kans[0]).to("meta"), samples(3, 20, 3)
    together = vmap(lambda p, b, z: functional_call(skeleton, (p, b), (z,)))(parameters, buffers, xs)
    torch.testing.assert_close(together, torch.stack([kan(x) for kan, x in zip(kans, xs, strict=True)]), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(vmap(kans[0], in_dims=1)(xs), kans[0](xs.transpose(0, 1)), rtol=1e-13, atol=1e-13)


def test_per_sample_gradients_equal_a_loop() -> None:
    kan, x = network(), samples(15, 3)
    state = {name: p.detach() for name, p in kan.named_parameters()}

    def loss(p: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(kan, p, (sample,)).square().sum()

    stacked = vmap(grad(loss), in_dims=(None, 0))(state, x)
    for n, sample in enumerate(x):
        assert_equal({name: g[n] for name, g in stacked.items()}, all_grads(kan, kan(sample).square().sum()))


def test_hessians_by_two_reverse_passes() -> None:
    kan = network([3, 4, 1])
    plain = Plain(kan)
    for x in samples(4, 3):
        ours = jacrev(jacrev(lambda z: kan(z).squeeze()))(x)
        expected = torch.autograd.functional.hessian(lambda z: plain(z.unsqueeze(0))[0].squeeze(), x)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


# torch scripts decompositions of its own for forward mode.
forwards = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
MODES = [pytest.param("native", None), *[pytest.param("cpu", penalty, id=str(penalty)) for penalty in (None, *PENALTIES)]]


def of_parameters(kan: KAN, penalty: Any) -> tuple[Callable[[dict[str, Tensor], Tensor], Tensor], dict[str, Tensor]]:
    """A scalar function of parameters and samples, and the parameters."""
    module: nn.Module = kan if penalty is None else Penalised(kan, penalty)

    def loss(p: dict[str, Tensor], x: Tensor) -> Tensor:
        out = functional_call(module, p, (x,))
        y, extra = out if isinstance(out, tuple) else (out, 0.0)
        return y.sin().sum() + extra

    return loss, {name: p.detach() for name, p in module.named_parameters()}


@forwards
@pytest.mark.parametrize(("kernel", "penalty"), MODES)
def test_forward_mode_equals_reverse_mode(kernel: str, penalty: Any) -> None:
    """Along one direction of samples and all parameters at once."""
    loss, parameters = of_parameters(network([3, 4, 2], kernel=kernel), penalty)
    x, direction = samples(9, 3), samples(9, 3, seed=2)
    along = {name: torch.randn(p.shape, generator=source(3), dtype=p.dtype) for name, p in parameters.items()}
    _, slope = jvp(loss, (parameters, x), (along, direction))
    of_p, of_x = grad(loss, argnums=(0, 1))(parameters, x)
    expected = (of_x * direction).sum() + sum((of_p[name] * along[name]).sum() for name in parameters)
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-12)


@forwards
@pytest.mark.parametrize(("kernel", "penalty"), MODES)
def test_hessians_of_all_four_orders_of_modes_agree(kernel: str, penalty: Any) -> None:
    loss, parameters = of_parameters(network([2, 3, 1], kernel=kernel), penalty)
    x = samples(5, 2)
    reverse = jacrev(jacrev(lambda z: loss(parameters, z)))(x)
    for outer, inner in ((jacfwd, jacrev), (jacrev, jacfwd), (jacfwd, jacfwd)):
        found = outer(inner(lambda z: loss(parameters, z)))(x)
        torch.testing.assert_close(found, reverse, rtol=1e-11, atol=1e-11 * reverse.abs().max().item())
    torch.testing.assert_close(hessian(lambda z: loss(parameters, z))(x), reverse, rtol=1e-11, atol=1e-10)


@forwards
def test_dual_numbers_go_without_a_graph_and_in_blocks(blocks: None) -> None:
    kan, x, direction = network(kernel="cpu"), samples(9, 3), samples(9, 3, seed=2)
    with torch.no_grad(), forward_ad.dual_level():
        y, slope = forward_ad.unpack_dual(kan(forward_ad.make_dual(x, direction)))
    expected = torch.autograd.functional.vjp(kan, x, torch.ones_like(y))[1]
    torch.testing.assert_close(y, kan(x).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope.sum(), (expected * direction).sum(), rtol=1e-12, atol=1e-12)


@forwards
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")  # torch's linearize
def test_forward_mode_under_vmap_and_linearised() -> None:
    kan, x = network(), samples(9, 3)
    directions = torch.stack([samples(9, 3, seed=n) for n in (2, 3)])
    one_by_one = torch.stack([jvp(kan, (x,), (direction,))[1] for direction in directions])
    together = vmap(lambda direction: jvp(kan, (x,), (direction,))[1])(directions)
    torch.testing.assert_close(together, one_by_one, rtol=1e-12, atol=1e-12)
    _, linear = linearize(kan, x)
    torch.testing.assert_close(linear(directions[0]), one_by_one[0], rtol=1e-12, atol=1e-12)


@forwards
@pytest.mark.parametrize("order", range(1, 6))
def test_slopes_on_knots_are_those_from_the_right_in_both_modes(order: int) -> None:
    kan = network([3, 2], spline_order=order)
    x = kan.kan_layers[0].grid.T[order:-1]
    forward = jvp(lambda z: kan(z).sum(), (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(forward, grad(lambda z: kan(z).sum())(x).sum(), rtol=1e-11, atol=1e-11)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled_equals_eager(kan: KAN, penalty: Any, tolerance: float, xs: list[Tensor], **options: Any) -> None:
    results: list[list[dict[str, Tensor]]] = []
    module: nn.Module = kan if penalty is None else Penalised(kan, penalty)
    for call in (torch.compile(module, fullgraph=True, **options), module):
        results.append([])
        for x in xs:
            leaf = x.clone().requires_grad_()
            out = call(leaf)
            y, extra = out if isinstance(out, tuple) else (out, out.new_zeros(()))
            results[-1].append({"y": y, "extra": extra, **all_grads(module, y.square().mean() + extra, leaf)})
    for ours, expected in zip(*results, strict=True):
        assert_equal(ours, expected, tolerance)


@compiling
@pytest.mark.parametrize("penalty", [PENALTIES[0], *OTHERS], ids=str)
def test_compiled_to_one_graph(penalty: Any, fresh_compiler: None) -> None:
    compiled_equals_eager(network(), penalty, 1e-12, [samples(20, 3)], backend="aot_eager")


@compiling
@pytest.mark.parametrize("penalty", [PENALTIES[0], *OTHERS], ids=str)
def test_compiled_once_for_any_batch_size(penalty: Any, fresh_compiler: None) -> None:
    sizes = [samples(n, 3, seed=n) for n in (20, 7, 33)]
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled_equals_eager(network([3, 2], spline_order=2), penalty, 1e-12, sizes, backend="aot_eager", dynamic=True)


@compiling
@pytest.mark.slow
@pytest.mark.parametrize("penalty", [None, *PENALTIES], ids=str)
def test_compiled_by_inductor(penalty: Any, fresh_compiler: None) -> None:
    compiled_equals_eager(network(), penalty, 1e-12, [samples(20, 3)])


@compiling
@pytest.mark.slow
@pytest.mark.parametrize("penalty", PENALTIES[:2], ids=str)
def test_wide_layer_compiled_by_inductor(penalty: Any, fresh_compiler: None) -> None:
    compiled_equals_eager(network([40, 30, 2]), penalty, 1e-11, [samples(300, 40)])


@compiling
def test_compiled_under_autocast(fresh_compiler: None) -> None:
    kan, x = KAN(WIDTHS, generator=source()), samples(20, 3).float().requires_grad_()
    call = torch.compile(kan, fullgraph=True, backend="aot_eager")
    results = []
    for function in (call, kan):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = function(x)
        assert y.dtype == torch.bfloat16
        results.append({"y": y.float(), **all_grads(kan, y.float().square().sum(), x)})
    # Casts fused into the graph may round in another order: a few units in the last bfloat16 place.
    assert_equal(*results, tolerance=2 * torch.finfo(torch.bfloat16).eps)


@compiling
def test_a_compiled_network_follows_its_grids(fresh_compiler: None) -> None:
    """They are buffers that change in place."""
    kan, x = network(), samples(30, 3)
    call = torch.compile(kan, fullgraph=True, backend="aot_eager")
    for seed in (5, 6):
        torch.testing.assert_close(call(x), kan(x), rtol=1e-12, atol=1e-12)
        kan.update_grid(samples(30, 3, seed=seed), fit="samples")


@compiling
def test_exported_program_equals_the_network(fresh_compiler: None) -> None:
    kan = network()
    program = torch.export.export(kan, (samples(20, 3),), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=2)}})
    x = samples(7, 3)
    torch.testing.assert_close(program.module()(x), kan(x), rtol=1e-13, atol=1e-13)


def _of_jvp(kan: KAN, x: Tensor, direction: Tensor) -> tuple[Tensor, ...]:
    return tuple(jvp(kan, (x,), (direction,)))


def _of_dual_numbers(kan: KAN, x: Tensor, direction: Tensor) -> tuple[Tensor, ...]:
    with forward_ad.dual_level():
        return tuple(forward_ad.unpack_dual(kan(forward_ad.make_dual(x, direction))))


def _of_products_with_hessians(kan: KAN, x: Tensor, direction: Tensor) -> tuple[Tensor, ...]:
    return tuple(jvp(grad(lambda z: kan(z).square().sum()), (x,), (direction,)))


def _of_hessians(kan: KAN, x: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    return (hessian(lambda z: kan(z).square().sum())(x),)


@forwards
@compiling
@pytest.mark.parametrize("kernel", ["auto", "native"])
@pytest.mark.parametrize(
    ("call", "backend"),
    [
        (_of_jvp, "eager"),
        (_of_dual_numbers, "eager"),
        pytest.param(_of_jvp, "aot_eager", marks=pytest.mark.slow),
        pytest.param(_of_jvp, "inductor", marks=pytest.mark.slow),
        pytest.param(_of_dual_numbers, "aot_eager", marks=pytest.mark.slow),
        pytest.param(_of_products_with_hessians, "aot_eager", marks=pytest.mark.slow),
        pytest.param(_of_hessians, "aot_eager", marks=pytest.mark.slow),
    ],
)
def test_forward_mode_inside_a_compiled_function(
    call: Callable[[KAN, Tensor, Tensor], tuple[Tensor, ...]], backend: str, kernel: str
) -> None:
    kan, x, direction = network([3, 4, 2], kernel=kernel), samples(6, 3), samples(6, 3, seed=2)
    torch._dynamo.reset()
    try:
        found = torch.compile(call, backend=backend, fullgraph=True)(kan, x, direction)
    finally:
        torch._dynamo.reset()
    torch.testing.assert_close(found, call(kan, x, direction), rtol=1e-12, atol=1e-12)
