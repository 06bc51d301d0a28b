"""Bad input to every public callable: a ``ValueError`` with the argument, what was expected and what came."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from kan import MultKAN
from torch import Tensor, nn

from efficient_kan import KAN, KANLinear, SampleL1, SampleStd, WeightL1, kernels
from efficient_kan.basis import bspline_basis, bspline_basis_derivative
from efficient_kan.pruning import dangling_nodes, importance
from efficient_kan.pykan import from_pykan, to_pykan

X = torch.linspace(-1, 1, 12).view(6, 2)
KNOTS = torch.arange(9.0).repeat(2, 1)


class Doubled(nn.Module):
    """Not elementwise: twice as wide as its input."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, x), dim=-1)


@dataclass(frozen=True)
class Case:
    name: str
    argument: str
    call: Callable[[], Any]
    message: str = ""  # a part of it that must be there


def layer(**options: Any) -> KANLinear:
    return KANLinear(**({"in_features": 2, "out_features": 3} | options))


def kan(**options: Any) -> KAN:
    return KAN(**({"layers_hidden": [2, 3, 1]} | options))


def with_value(value: float) -> Tensor:
    x = X.clone()
    x[2, 1] = value
    return x


def falling_knots() -> Tensor:
    knots = KNOTS.clone()
    knots[1, 4] = -1.0
    return knots


def pykan_model(width: list[Any] | None = None, **options: Any) -> MultKAN:
    with torch.random.fork_rng():
        return MultKAN(width=width or [2, 3, 1], auto_save=False, **options)


def with_active_symbolic_edge() -> MultKAN:
    model = pykan_model()
    model.symbolic_fun[0].mask.data[2, 1] = 1.0
    return model


def with_affine(name: str, value: float) -> MultKAN:
    model = pykan_model()
    getattr(model, name)[1].data.fill_(value)
    return model


CONSTRUCTORS = [
    Case("in_features zero", "in_features", lambda: layer(in_features=0), "integer >= 1, got 0"),
    Case("in_features float", "in_features", lambda: layer(in_features=2.0), "got 2.0"),
    Case("out_features negative", "out_features", lambda: layer(out_features=-3), "got -3"),
    Case("out_features bool", "out_features", lambda: layer(out_features=True), "got True"),
    Case("grid_size zero", "grid_size", lambda: layer(grid_size=0), "got 0"),
    Case("grid_size text", "grid_size", lambda: layer(grid_size="5"), "got '5'"),
    Case("spline_order zero", "spline_order", lambda: layer(spline_order=0), "integer >= 1, got 0"),
    Case("scale_noise negative", "scale_noise", lambda: layer(scale_noise=-0.1), "got -0.1"),
    Case("scale_noise beyond floats", "scale_noise", lambda: layer(scale_noise=10**400)),
    Case("scale_base nan", "scale_base", lambda: layer(scale_base=math.nan), "finite number"),
    Case("scale_spline infinite", "scale_spline", lambda: layer(scale_spline=math.inf), "got inf"),
    Case("scale_spline None", "scale_spline", lambda: layer(scale_spline=None), "got None"),
    Case("scaler flag None", "enable_standalone_scale_spline", lambda: layer(enable_standalone_scale_spline=None), "a bool"),
    Case("activation is a module", "base_activation", lambda: layer(base_activation=nn.SiLU()), "factory"),
    Case("activation is a name", "base_activation", lambda: layer(base_activation="silu"), "got 'silu'"),
    Case("activation is a function", "base_activation", lambda: layer(base_activation=nn.functional.silu), "got <function"),
    Case("activation factory of a number", "base_activation", lambda: layer(base_activation=lambda: 1.0), "got 1.0"),
    Case("activation in place", "base_activation", lambda: layer(base_activation=lambda: nn.ReLU(inplace=True)), "inplace"),
    Case("grid_eps above one", "grid_eps", lambda: layer(grid_eps=1.5), "[0.0, 1.0], got 1.5"),
    Case("grid_range reversed", "grid_range", lambda: layer(grid_range=(1, -1)), "low < high"),
    Case("grid_range empty", "grid_range", lambda: layer(grid_range=(0, 0)), "low < high"),
    Case("grid_range of three", "grid_range", lambda: layer(grid_range=(-1, 0, 1)), "two finite numbers"),
    Case("grid_range infinite", "grid_range", lambda: layer(grid_range=(-math.inf, 1)), "finite"),
    Case("grid_range below resolution", "grid_range", lambda: layer(grid_range=(1, 1 + 1e-9)), "float32"),
    Case("grid_range beyond float32", "grid_range", lambda: layer(grid_range=(-1e300, 1e300)), "float32"),
    Case(
        "grid_range overflows with its extension", "grid_range", lambda: layer(grid_range=(-1e38, 1e38), grid_size=1), "float32"
    ),
    Case("bias is a number", "bias", lambda: layer(bias=0.5), "a bool, got 0.5"),
    Case("kernel unknown", "kernel", lambda: layer(kernel="fast"), "got 'fast'"),
    Case("generator is a seed", "generator", lambda: layer(generator=42), "torch.Generator"),
    Case("generator of reset_parameters", "generator", lambda: layer().reset_parameters(42), "torch.Generator"),  # type: ignore[arg-type]
    Case("device unknown", "device", lambda: layer(device="gpu"), "got 'gpu'"),
    Case("device is a float", "device", lambda: layer(device=0.5), "got 0.5"),
    Case("dtype is integer", "dtype", lambda: layer(dtype=torch.int64), "got torch.int64"),
    Case("dtype is a name", "dtype", lambda: layer(dtype="float32"), "got 'float32'"),
    Case("dtype is complex", "dtype", lambda: layer(dtype=torch.complex64), "got torch.complex64"),
    Case("widths of one", "layers_hidden", lambda: kan(layers_hidden=[4]), "at least two"),
    Case("widths a number", "layers_hidden", lambda: kan(layers_hidden=4), "got 4"),
    Case("widths text", "layers_hidden", lambda: kan(layers_hidden="21"), "got '21'"),
    Case("width zero", "layers_hidden[1]", lambda: kan(layers_hidden=[2, 0, 1]), "got 0"),
    Case("width float", "layers_hidden[2]", lambda: kan(layers_hidden=[2, 3, 1.5]), "got 1.5"),
    Case("network grid_size", "grid_size", lambda: kan(grid_size=-1), "got -1"),
    Case("network kernel", "kernel", lambda: kan(kernel=None), "got None"),
    Case("network device", "device", lambda: kan(device="nowhere"), "got 'nowhere'"),
    Case("no layers", "layers", lambda: KAN.from_layers([]), "at least one"),
    Case("layers a generator", "layers", lambda: KAN.from_layers(layer() for _ in range(2)), "sequence"),  # type: ignore[arg-type]
    Case("layers a layer", "layers", lambda: KAN.from_layers(layer()), "sequence"),  # type: ignore[arg-type]
    Case("a layer of another kind", "layers[1]", lambda: KAN.from_layers([layer(), nn.Linear(3, 1)]), "Linear"),  # type: ignore[list-item]
    Case("widths that do not meet", "layers[1]", lambda: KAN.from_layers([layer(), layer()]), "in_features 3, got 2"),
    Case(
        "dtypes that do not meet",
        "layers[1]",
        lambda: KAN.from_layers([layer(), layer(in_features=3, dtype=torch.float64)]),
        "torch.float64",
    ),
    Case(
        "devices that do not meet",
        "layers[1]",
        lambda: KAN.from_layers([layer(), layer(in_features=3, device="meta")]),
        "on meta",
    ),
]

FORWARDS: list[Case] = []
for call_name, call in {
    "layer": lambda x: layer()(x),
    "network": lambda x: kan()(x),
    "layer with penalty": lambda x: layer().forward_with_penalty(x, SampleL1()),
    "network with penalty": lambda x: kan().forward_with_penalty(x, SampleStd()),
    "SampleL1.edge_norms": lambda x: SampleL1().edge_norms(layer(), x),
    "SampleStd.edge_norms": lambda x: SampleStd().edge_norms(layer(), x),
    "update_grid": lambda x: kan().update_grid(x),
    "layer update_grid": lambda x: layer().update_grid(x),
    "forward with update_grid": lambda x: kan()(x, update_grid=True),
    "refine": lambda x: kan().refine(7, x),
    "layer refine": lambda x: layer().refine(7, x),
    "importance": lambda x: kan().importance(x),
    "prune": lambda x: kan().prune(x),
}.items():
    for bad_name, x, message in (
        ("a list", X.tolist(), "floating-point tensor, got <class 'list'>"),
        ("integers", X.long(), "floating-point tensor, got torch.int64"),
        ("another dtype", X.double(), "torch.float32 (that of the weights), got torch.float64"),
        ("another width", X[:, :1], "(..., 2), got torch.Size([6, 1])"),
        ("a scalar", X[0, 0], "(..., 2), got torch.Size([])"),
        ("another device", X.to("meta"), "device cpu, got meta"),
    ):
        FORWARDS.append(Case(f"{call_name}: {bad_name}", "x", lambda call=call, x=x: call(x), message))  # type: ignore[misc]


class Frame:
    """Like those of pandas and polars."""

    def to_numpy(self) -> Any:
        return X.numpy()


def quantized() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but still met
        return torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)


def nested(layout: torch.layout) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prototypes
        return torch.nested.nested_tensor([X, X[:3]], layout=layout)


def sparse_csr() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "in beta state"
        return X.to_sparse_csr()


for bad_name, make, message in (
    ("sparse", X.to_sparse, "got layout torch.sparse_coo; use x.to_dense()"),
    ("sparse rows", sparse_csr, "got layout torch.sparse_csr; use x.to_dense()"),
    ("mkldnn", X.to_mkldnn, "got layout torch._mkldnn; use x.to_dense()"),
    ("nested", lambda: nested(torch.strided), "got a nested one; use torch.nested.to_padded_tensor"),
    ("jagged", lambda: nested(torch.jagged), "got a nested one; use torch.nested.to_padded_tensor"),
    ("quantized", quantized, "got torch.qint8; use x.dequantize()"),
    ("bytes", lambda: (X * 100).byte(), "got torch.uint8; use x.float() / 255 for images"),
    ("integers", lambda: X.long(), "got torch.int64; use x.float()"),
    ("booleans", lambda: X > 0, "got torch.bool; use x.float()"),
    ("complex numbers", lambda: X.to(torch.complex64), "got torch.complex64; use torch.view_as_real(x)"),
    ("float64", X.double, "got torch.float64; use x.to(torch.float32), or move the network by .double()"),
    ("float16", X.half, "got torch.float16; use x.to(torch.float32), or move the network by .to(torch.float16)"),
    ("another device", lambda: X.to("meta"), "got meta; use x.to('cpu')"),
    ("an array", X.numpy, "got <class 'numpy.ndarray'>; use torch.as_tensor(x, dtype=torch.float32)"),
    ("a frame", Frame, "use torch.tensor(x.to_numpy(), dtype=torch.float32)"),
    ("lists", X.tolist, "got <class 'list'>; use torch.tensor(x, dtype=torch.float32)"),
    ("a loader's batch", lambda: [X, X], "use torch.stack(x), or x[0] if it is a batch (inputs, targets)"),
    ("nothing", lambda: None, "got <class 'NoneType'>"),
):
    for call_name, call in {
        "layer": lambda x: layer()(x),
        "network": lambda x: kan()(x),
        "prune": lambda x: kan().prune(x),
    }.items():
        case = Case(f"{call_name}, what to do: {bad_name}", "x", lambda call=call, make=make: call(make()), message)  # type: ignore[misc]
        FORWARDS.append(case)

SAMPLES: list[Case] = []
for call_name, call in {
    "update_grid": lambda x: kan().update_grid(x),
    "layer update_grid": lambda x: layer().update_grid(x),
    "forward with update_grid": lambda x: layer()(x, update_grid=True),
    "refine": lambda x: kan().refine(7, x),
    "importance": lambda x: importance(kan(), x),
    "prune": lambda x: kan().prune(x),
}.items():
    needed = 2 if call_name in ("importance", "prune") else 1
    for bad_name, x, message in (
        ("NaN sample", with_value(math.nan), "got 1 NaN or infinite of 12"),
        ("infinite sample", with_value(-math.inf), "got 1 NaN or infinite of 12"),
        ("too few samples", X[: needed - 1], f"at least {needed} sample"),
    ):
        SAMPLES.append(Case(f"{call_name}: {bad_name}", "x", lambda call=call, x=x: call(x), message))  # type: ignore[misc]

METHODS = [
    Case("refine to zero", "grid_size", lambda: kan().refine(0, X), "integer >= 1, got 0"),
    Case("refine to a float", "grid_size", lambda: layer().refine(7.5, X), "got 7.5"),  # type: ignore[arg-type]
    Case("prune below zero", "threshold", lambda: kan().prune(X, -0.1), "got -0.1"),
    Case("prune at nan", "threshold", lambda: kan().prune(X, math.nan), "got nan"),
    Case("prune at text", "threshold", lambda: kan().prune(X, "3e-2"), "got '3e-2'"),  # type: ignore[arg-type]
    Case("importance of a layer", "kan", lambda: importance(layer(), X), "KANLinear"),  # type: ignore[arg-type]
    Case("dangling nodes of a layer", "kan", lambda: dangling_nodes(layer()), "KANLinear"),  # type: ignore[arg-type]
    Case("activation not elementwise", "base_activation", lambda: layer(base_activation=Doubled)(X), "got Doubled()"),
    Case("activation that broadcasts", "base_activation", lambda: layer(base_activation=nn.GLU)(X), "got GLU"),
]

PENALTIES = [
    Case("no penalty", "penalty", lambda: kan().forward_with_penalty(X, None), "got None"),  # type: ignore[arg-type]
    Case("penalty a class", "penalty", lambda: kan().forward_with_penalty(X, SampleL1), "object"),  # type: ignore[arg-type]
    Case("penalty a name, layer", "penalty", lambda: layer().forward_with_penalty(X, "l1"), "got 'l1'"),  # type: ignore[arg-type]
    Case("SampleL1 negative", "l1", lambda: SampleL1(l1=-1.0), "got -1.0"),
    Case("SampleL1 nan", "entropy", lambda: SampleL1(entropy=math.nan), "got nan"),
    Case("SampleL1 range flag", "divide_by_grid_range", lambda: SampleL1(divide_by_grid_range=1), "a bool"),  # type: ignore[arg-type]
    Case("SampleStd negative", "coefdiff", lambda: SampleStd(coefdiff=-2), "got -2"),
    Case("SampleStd infinite", "coef", lambda: SampleStd(coef=math.inf), "got inf"),
    Case("SampleStd flag", "normalize", lambda: SampleStd(normalize="yes"), "got 'yes'"),  # type: ignore[arg-type]
    Case("WeightL1 text", "l1", lambda: WeightL1(l1="1"), "got '1'"),  # type: ignore[arg-type]
    Case("WeightL1 flag", "fold_scale", lambda: WeightL1(fold_scale=0), "a bool"),  # type: ignore[arg-type]
    Case("regularization_loss", "regularize_activation", lambda: kan().regularization_loss(-1.0), "got -1.0"),
    Case("regularization_loss entropy", "regularize_entropy", lambda: layer().regularization_loss(1.0, math.nan), "got nan"),
    Case("SampleStd one sample", "x", lambda: kan().forward_with_penalty(X[:1], SampleStd()), "at least 2 samples"),
    Case("SampleStd norms one sample", "x", lambda: SampleStd().edge_norms(layer(), X[:1]), "at least 2 samples"),
    Case("SampleStd no sample", "x", lambda: layer().forward_with_penalty(X[:0], SampleStd()), "at least 2 samples"),
    Case("SampleL1 no sample", "x", lambda: kan().forward_with_penalty(X[:0], SampleL1()), "at least 1 sample"),
    Case("SampleL1 norms no sample", "x", lambda: SampleL1().edge_norms(layer(), X[:0]), "at least 1 sample"),
    Case("SampleL1 norms of a network", "layer", lambda: SampleL1().edge_norms(kan(), X), "KAN"),  # type: ignore[arg-type]
    Case("SampleStd norms of a network", "layer", lambda: SampleStd().edge_norms(kan(), X), "KAN"),  # type: ignore[arg-type]
    Case("WeightL1 norms of a network", "layer", lambda: WeightL1().edge_norms(kan()), "KAN"),  # type: ignore[arg-type]
]

BASES: list[Case] = []
for function in (bspline_basis, bspline_basis_derivative):
    for bad_name, argument, arguments, message in (
        ("order zero", "spline_order", (X, KNOTS, 0), "got 0"),
        ("order float", "spline_order", (X, KNOTS, 3.0), "got 3.0"),
        ("x a list", "x", ([0.5, 0.5], KNOTS, 3), "<class 'list'>"),
        ("x integers", "x", (X.long(), KNOTS, 3), "torch.int64"),
        ("x complex", "x", (X.to(torch.complex64), KNOTS, 3), "torch.complex64"),
        ("x of another dtype", "x", (X.double(), KNOTS, 3), "got torch.float64"),
        ("x of another width", "x", (X[:, :1], KNOTS, 3), "last dimension 2"),
        ("x a scalar", "x", (X[0, 0], KNOTS, 3), "at least one dimension"),
        ("x on another device", "x", (X.to("meta"), KNOTS, 3), "got meta"),
        ("knots an array", "knots", (X, KNOTS.numpy(), 3), "numpy.ndarray"),
        ("knots integers", "knots", (X, KNOTS.long(), 3), "torch.int64"),
        ("knots of one dimension", "knots", (X, KNOTS[0], 3), "torch.Size([9])"),
        ("knots too few", "knots", (X, KNOTS[:, :7], 3), "at least 8"),
        ("knots without features", "knots", (X[:, :0], KNOTS[:0], 3), "torch.Size([0, 9])"),
        ("knots falling", "knots", (X, falling_knots(), 3), "got 1 decreasing"),
        ("knots nan", "knots", (X, KNOTS * math.nan, 3), "got 18 NaN"),
    ):
        BASES.append(
            Case(f"{function.__name__}: {bad_name}", argument, lambda f=function, a=arguments: f(*a), message)  # type: ignore[misc]
        )

CONVERSIONS = [
    Case("from_pykan of nothing", "model", lambda: KAN.from_pykan(None), "kan.MultKAN"),
    Case("from_pykan of a KAN", "model", lambda: from_pykan(kan()), "kan.MultKAN"),
    Case("from_pykan active symbolic edge", "model", lambda: from_pykan(with_active_symbolic_edge()), "(0, 1, 2)"),
    Case("from_pykan multiplication nodes", "model", lambda: from_pykan(pykan_model([2, [2, 1], 1])), "depth 1, got 1"),
    Case(
        "from_pykan trainable affine",
        "model",
        lambda: from_pykan(pykan_model(affine_trainable=True)),
        "trainable node_scale[0]",
    ),
    Case("from_pykan node_scale", "model", lambda: from_pykan(with_affine("node_scale", 2.0)), "node_scale[1]"),
    Case("from_pykan subnode_scale", "model", lambda: from_pykan(with_affine("subnode_scale", 2.0)), "subnode_scale[1]"),
    Case("from_pykan subnode_bias", "model", lambda: from_pykan(with_affine("subnode_bias", 0.5)), "subnode_bias[1]"),
    Case("from_pykan zero base function", "model", lambda: from_pykan(pykan_model(base_fun="zero")), "got 'zero'"),
    Case("to_pykan other activation", "kan", lambda: kan(base_activation=nn.Tanh).to_pykan(), "got Tanh()"),
    Case(
        "to_pykan mixed activations",
        "kan",
        lambda: KAN.from_layers([layer(), layer(in_features=3, base_activation=nn.Identity)]).to_pykan(),
        "the same base activation",
    ),
    Case("to_pykan half precision", "kan", lambda: kan(dtype=torch.bfloat16).to_pykan(), "got torch.bfloat16"),
    Case("to_pykan of a layer", "kan", lambda: to_pykan(layer()), "KANLinear"),  # type: ignore[arg-type]
    Case("resolve unknown", "kernel", lambda: kernels.resolve("cuda-graph"), "got 'cuda-graph'"),
    Case("resolve nothing", "kernel", lambda: kernels.resolve(None), "got None"),  # type: ignore[arg-type]
    Case("check_kernel unknown", "kernel", lambda: kernels.check_kernel(""), "got ''"),
]

CASES = CONSTRUCTORS + FORWARDS + SAMPLES + METHODS + PENALTIES + BASES + CONVERSIONS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_is_refused_by_name(case: Case) -> None:
    with pytest.raises(ValueError) as refused:
        case.call()
    message = str(refused.value)
    assert re.fullmatch(rf"{re.escape(case.argument)}: expected .+, got .+", message, flags=re.DOTALL), message
    assert case.message in message
    assert len(message) < 400


def test_cases_are_distinct() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_a_model_that_went_through_prune_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # pykan's pruned copy writes a checkpoint folder
    with torch.random.fork_rng():
        model = MultKAN(width=[3, 2, 1], auto_save=True)
        model(torch.rand(20, 3))
        pruned = model.prune_input(active_inputs=[0, 2])
    with pytest.raises(ValueError, match=r"^model: expected all inputs in use .*, got \[0, 2\]"):
        from_pykan(pruned)


def test_refused_samples_leave_the_network_as_it_was() -> None:
    network = kan(generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for bad in (with_value(math.nan), X[:0], X[:, :1]):
        with pytest.raises(ValueError):
            network.update_grid(bad)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_numbers_of_numpy_are_numbers() -> None:
    import numpy

    network = KAN([numpy.int64(2), numpy.int32(1)], grid_size=numpy.int64(4), grid_eps=numpy.float32(0.5))
    assert network(X).shape == (6, 1)
    assert type(network.layers[0].grid_size) is int
