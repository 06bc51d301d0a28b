"""What is loaded is what was saved, bit for bit, and files of anything else are refused in a sentence."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from efficient_kan import KAN, KANLinear

pytestmark = pytest.mark.filterwarnings("ignore:prune", "ignore:update_grid", "ignore:refine")


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(count: int = 60, features: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, features, generator=source(1)).to(dtype)


def network(widths: tuple[int, ...] = (3, 6, 2), **options: Any) -> KAN:
    return KAN(widths, **({"kernel": "native", "generator": source(), "scale_noise": 2.0} | options))


def updated(kan: KAN) -> KAN:
    kan.update_grid(samples(200, dtype=kan.kan_layers[0].base_weight.dtype), fit="samples")
    return kan


def pruned(kan: KAN) -> KAN:
    return updated(kan).prune(samples(dtype=kan.kan_layers[0].base_weight.dtype), 0.08)


def biased_by_file(kan: KAN) -> KAN:
    state = kan.state_dict()
    kan.load_state_dict(state | {"layers.0.bias": torch.ones(6)})
    return kan


def other_layers() -> KAN:
    layers = [
        KANLinear(3, 4, 7, 2, 0.2, 0.3, 0.4, grid_eps=0.5, grid_range=(-0.1, 3), kernel="native"),
        KANLinear(4, 2, 1, 5, enable_standalone_scale_spline=False, bias=True, base_activation=nn.Tanh, kernel="native"),
    ]
    return KAN.from_layers(layers)


def frozen(kan: KAN) -> KAN:
    kan.kan_layers[1].spline_weight.requires_grad_(False)
    return kan.eval()


def diverged(kan: KAN) -> KAN:
    with torch.no_grad():
        kan.kan_layers[0].spline_weight[0, 0, 0] = float("nan")
    return kan


def flattened(kan: KAN) -> KAN:
    """Parameters that are slices of one vector, as of torch.nn.utils.vector_to_parameters."""
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(kan.parameters()).detach(), kan.parameters())
    return kan


CASES: dict[str, Callable[[], KAN]] = {
    "new": network,
    "default kernel": lambda: network(kernel="auto"),
    "update_grid": lambda: updated(network()),
    "refine": lambda: updated(network()).refine(9, samples()),
    "refine by samples": lambda: network().refine(9, samples(), fit="samples"),
    "prune": lambda: pruned(network()),
    "shrink": lambda: pruned(network((3, 9, 9, 2))).shrink().network,
    "all of them": lambda: pruned(updated(network()).refine(8, samples())).shrink().network.refine(12, samples()),
    "one layer": lambda: network((3, 1)),
    "no scale, bias": lambda: network(enable_standalone_scale_spline=False, bias=True),
    "bias of a file": lambda: biased_by_file(network()),
    "layers of other kinds": other_layers,
    "frozen": lambda: frozen(network()),
    "diverged": lambda: diverged(network()),
    "flattened": lambda: flattened(network()),
    "float64": lambda: pruned(network(dtype=torch.float64)),
    "bfloat16": lambda: network(dtype=torch.bfloat16),
    "float16": lambda: network(dtype=torch.float16),
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky": partial(nn.LeakyReLU, 0.3),
    "prelu": nn.PReLU,
    "prelus": partial(nn.PReLU, 6),
    "gelu": partial(nn.GELU, approximate="tanh"),
    "identity": nn.Identity,
    "threshold": partial(nn.Threshold, 0.1, 20),
    "hardtanh": partial(nn.Hardtanh, -2, float("inf")),
    "softplus": partial(nn.Softplus, 2.5),
}


def is_same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    bits = torch.int16 if a.element_size() == 2 else torch.int32 if a.element_size() == 4 else torch.int64
    return a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a.detach().view(bits), b.detach().view(bits))


def assert_goes_through(module: Any, folder: Path) -> Any:
    first, second = folder / "first.safetensors", folder / "second.safetensors"
    module.save(first)
    state = torch.get_rng_state()
    again = type(module).load(first)
    assert torch.equal(torch.get_rng_state(), state)
    again.save(second)
    assert first.read_bytes() == second.read_bytes()
    layers = [(module, again)] if isinstance(module, KANLinear) else list(zip(module.layers, again.layers, strict=True))
    for old, new in layers:
        for name, tensor in [*old.named_parameters(), *old.named_buffers()]:
            assert is_same(tensor, new.get_parameter(name) if isinstance(tensor, nn.Parameter) else new.get_buffer(name)), name
            assert new.get_parameter(name).requires_grad == tensor.requires_grad if isinstance(tensor, nn.Parameter) else True
        assert str(old) == str(new)
        plain = {key: value for key, value in vars(old).items() if not key.startswith("_") or key == "_bias_added"}
        assert plain == {key: value for key, value in vars(new).items() if not key.startswith("_") or key == "_bias_added"}
    first_layer = layers[0][0]
    x = samples(30, first_layer.in_features, first_layer.base_weight.dtype)
    assert is_same(module(x), again(x))
    return again


@pytest.mark.parametrize("case", CASES)
def test_save_load_save_is_the_same_to_the_bit(case: str, tmp_path: Path) -> None:
    again = assert_goes_through(CASES[case](), tmp_path)
    if case != "frozen":
        again(samples(30, again.layers_hidden[0], again.layers[0].base_weight.dtype)).sum().backward()
        assert all(parameter.grad is not None for parameter in again.parameters())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_base_activations_of_torch_are_kept(activation: str, tmp_path: Path) -> None:
    layer = KANLinear(6, 2, base_activation=ACTIVATIONS[activation], kernel="native")
    again = assert_goes_through(layer, tmp_path)
    assert repr(again.base_activation) == repr(layer.base_activation)


def test_every_activation_that_a_file_can_name_goes_through(tmp_path: Path) -> None:
    from efficient_kan._architecture import _ACTIVATIONS

    for name in _ACTIVATIONS:
        arguments = (0.1, 20.0) if name == "Threshold" else ()
        layer = KANLinear(2, 2, base_activation=partial(getattr(nn, name), *arguments), kernel="native").eval()
        assert_goes_through(layer, tmp_path)


def test_a_loaded_network_trains_and_adapts_like_the_saved_one(tmp_path: Path) -> None:
    kan = biased_by_file(network())
    kan.save(tmp_path / "kan")
    again = KAN.load(tmp_path / "kan")
    x = samples(200)
    for each in (kan, again):
        optimizer = torch.optim.Adam(each.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            each(x).square().mean().backward()
            optimizer.step()
        each.update_grid(x)
        each.load_state_dict({k: v for k, v in each.state_dict().items() if not k.endswith("bias")})
    assert torch.equal(kan(x), again(x))


def test_the_header_is_json_that_others_can_read(tmp_path: Path) -> None:
    path = tmp_path / "kan.safetensors"
    pruned(network()).save(path)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    described = json.loads(header["__metadata__"]["efficient_kan"])
    assert described["format"] == 2
    assert [layer["in_features"] for layer in described["layers"]] == [3, 6]
    assert set(load_file(path)) == set(pruned(network()).state_dict())


def test_a_file_takes_the_place_of_another_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kan"
    network().save(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    pruned(network()).save(link)
    assert link.is_symlink()
    before = path.read_bytes()

    def fails(*args: Any, **options: Any) -> None:
        Path(args[1]).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        network().save(path)
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [path, link]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077], ids=oct)
def test_a_new_file_has_the_mode_of_the_umask_and_a_replaced_one_keeps_its_own(umask: int, tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    before = os.umask(umask)
    try:
        network().save(new)
        old.touch()
        for mode in (0o664, 0o600, 0o444):
            old.chmod(mode)
            network().save(old)
            assert old.stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)
    assert new.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_loaded_network_does_not_depend_on_its_file(tmp_path: Path) -> None:
    path, x = tmp_path / "kan", samples()
    kan = network()
    kan.save(path)
    again = KAN.load(path)
    with path.open("r+b") as file:
        file.seek(-400, os.SEEK_END)
        file.write(bytes(400))
    assert torch.equal(again(x), kan(x))


def test_the_device_is_chosen(tmp_path: Path) -> None:
    pruned(network()).save(tmp_path / "kan")
    assert {p.device.type for p in KAN.load(tmp_path / "kan", device="meta").parameters()} == {"meta"}
    assert {p.device.type for p in KAN.load(str(tmp_path / "kan"), "cpu").parameters()} == {"cpu"}
    with torch.device("meta"):
        assert {p.device.type for p in KAN.load(tmp_path / "kan").parameters()} == {"meta"}
    for make in (KAN.load, KANLinear.load, lambda path, device: KAN([2, 1], device=device)):
        with pytest.raises(ValueError, match="device: expected a torch device"):
            make(tmp_path / "kan", device="nowhere")
        with pytest.raises(ValueError, match=r"device: expected a device that torch can use here, got 'cuda:99' \(.+\)"):
            make(tmp_path / "kan", device="cuda:99")


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.3 * x)


class Sub(KAN):
    pass


class SubLayer(KANLinear):
    pass


def with_more() -> KAN:
    kan = network()
    kan.extra = nn.Linear(2, 2)
    return kan


def changed(change: Callable[[KAN], Any]) -> KAN:
    kan = network()
    change(kan)
    return kan


def shared() -> KAN:
    kan = network((3, 3, 3))
    kan.kan_layers[1].base_weight = kan.kan_layers[0].base_weight
    return kan


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sub([2, 1]), "module: expected a KAN or KANLinear itself .*state_dict"),
        (lambda: SubLayer(2, 1), "module: expected a KAN or KANLinear itself"),
        (lambda: KAN.from_layers([SubLayer(2, 1)]), r"layers\[0\]: expected a KANLinear itself"),
        (lambda: network(base_activation=Swish), r"layers\.0\.base_activation: expected one that a file can name.*Swish"),
        (lambda: network(base_activation=lambda: nn.Sequential(nn.SiLU())), "base_activation: expected one that a file"),
        (lambda: KAN.from_layers([KANLinear(2, 2)] * 2), "module: expected tensors of their own"),
        (shared, "module: expected tensors of their own"),
        (with_more, "module: expected nothing beside the layers.*extra"),
        (lambda: network(device="meta"), r"layers\.0\.base_weight: expected values, got .a tensor on meta"),
        (
            lambda: changed(lambda kan: parametrizations.weight_norm(kan.layers[0], "spline_weight")),
            "layers.0: expected parameters, not comp",
        ),
        (lambda: changed(lambda kan: prune.l1_unstructured(kan.layers[1], "base_weight", 2)), "1.base_weight: expected a par"),
        (lambda: changed(lambda kan: kan.layers[0].grid.fill_(float("nan"))), "grid: expected finite"),
        (lambda: changed(lambda kan: setattr(kan.layers[0], "grid_size", 9)), r"spline_weight: expected shape \(6, 3, 12\)"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(make: Callable[[], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make().save(tmp_path / "kan")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["", 7, None, "no/such/folder/kan", "."], ids=str)
def test_paths_that_cannot_be_written_are_refused(path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="path: expected the name of a file"):
        network().save(path)
    assert list(tmp_path.iterdir()) == []


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], Any]) -> None:
    """The file with another header and other tensors, as one of format 1, which has no checksum."""
    pruned(network()).save(path)
    content = path.read_bytes()
    metadata = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])["__metadata__"]
    header, tensors = json.loads(metadata["efficient_kan"]), load_file(path)
    del header["sha256"]
    header["format"] = 1
    change(header, tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, {"efficient_kan": json.dumps(header)})


def layer_entry(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], Any]:
    return lambda header, tensors: header["layers"][0].update({name: value})


WRONG: dict[str, tuple[Callable[[dict[str, Any], dict[str, Tensor]], Any], str]] = {
    "future": (
        lambda h, t: h.update(format=3, more=1),
        "format: expected version 2 or earlier.*later efficient-kan-bench.*got 3",
    ),
    "format": (lambda h, t: h.update(format="1"), "format: expected an integer"),
    "kind": (lambda h, t: h.update(kind="KANLinear"), r"kind: expected KAN \(.*KANLinear\.load"),
    "no checksum": (lambda h, t: h.update(format=2), "header: expected the entries.*sha256"),
    "entries": (lambda h, t: h.pop("frozen"), "header: expected the entries"),
    "no layers": (lambda h, t: h.update(layers=[]), "layers: expected a list"),
    "layers": (lambda h, t: h.update(layers=[1]), "layers: expected a list of objects"),
    "one layer less": (lambda h, t: h["layers"].pop(), r"tensors: expected those of the layers alone.*layers\.1\."),
    "one layer more": (lambda h, t: h["layers"].append(h["layers"][0]), r"layers\.2\.base_weight: expected a tensor"),
    "frozen": (lambda h, t: h.update(frozen=["layers.7.bias"]), "frozen: expected some of"),
    "memory": (lambda h, t: h.update(memory={"layers.0.grid": [0, 0]}), "memory of layers.0.grid: expected the dimensions"),
    "memory of nothing": (lambda h, t: h.update(memory={"x": [0]}), "memory of x: expected"),
    "memory of words": (lambda h, t: h.update(memory={"layers.0.grid": ["a", 1]}), "memory of layers.0.grid: expected"),
    "widths": (layer_entry("in_features", 4), r"base_weight: expected shape \(6, 4\)"),
    "huge": (layer_entry("spline_order", 10**9), "spline_weight: expected shape"),
    "a word": (layer_entry("grid_size", "5"), "grid_size: expected an integer"),
    "range": (layer_entry("grid_range", [1, float("nan")]), "grid_range: expected"),
    "kernel": (layer_entry("kernel", "os.system"), "kernel: expected one of"),
    "activation": (layer_entry("base_activation", ["Linear", {}]), "base_activation: expected a known activation"),
    "activation's list": (layer_entry("base_activation", [[], {}]), "base_activation: expected a known activation"),
    "arguments": (layer_entry("base_activation", ["ELU", {"beta": 1}]), "base_activation: expected a known activation"),
    "bad arguments": (
        layer_entry("base_activation", ["Hardtanh", {"min_val": 2, "max_val": 1}]),
        "expected arguments of torch.nn",
    ),
    "huge activation": (layer_entry("base_activation", ["PReLU", {"num_parameters": 10**13}]), "expected its own tensors"),
    "an option more": (layer_entry("code", "print()"), "options: expected"),
    "a tensor more": (lambda h, t: t.update(z=torch.ones(1)), r"tensors: expected those of the layers alone.*'z'"),
    "a tensor of a layer more": (lambda h, t: t.update({"layers.0.z": torch.ones(1)}), "expected its own tensors"),
    "a tensor less": (lambda h, t: t.pop("layers.1.grid"), r"layers\.1\.grid: expected a tensor"),
    "a shape": (lambda h, t: t.update({"layers.0.bias": torch.ones(2)}), r"layers\.0\.bias: expected shape \(6,\)"),
    "a dtype": (lambda h, t: t.update({"layers.0.edge_mask": t["layers.0.edge_mask"].double()}), "edge_mask: expected dtype"),
    "a grid": (lambda h, t: t["layers.0.grid"].neg_(), "grid: expected non-decreasing"),
    "integers": (lambda h, t: t.update({k: v.int() for k, v in t.items()}), "expected"),
}


@pytest.mark.parametrize("case", WRONG)
def test_damaged_and_future_files_are_refused(case: str, tmp_path: Path) -> None:
    change, message = WRONG[case]
    rewritten(tmp_path / "kan", change)
    with pytest.raises(ValueError, match=f"kan: .*{message}"):
        KAN.load(tmp_path / "kan")


def test_a_file_of_format_1_loads_and_is_saved_with_a_checksum(tmp_path: Path) -> None:
    rewritten(tmp_path / "kan", lambda header, tensors: None)
    KAN.load(tmp_path / "kan").save(tmp_path / "again")
    pruned(network()).save(tmp_path / "new")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "new").read_bytes()


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    """Of the header all bytes but the spaces that fill it up."""
    path = tmp_path / "kan"
    network((2, 1)).save(path)
    whole = path.read_bytes()
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    for place in [*range(len(whole[:start].rstrip())), *range(start, len(whole))]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"kan: "):
            KAN.load(path)


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "kan"
    network().save(path)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[:100], whole[:-1], whole + b"x", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"kan: expected a file of save\(\), got one that is not safetensors or is cut"):
            KAN.load(path)
    torch.save(network().state_dict(), path)
    with pytest.raises(ValueError, match=r"looks like one of torch\.save.*load_state_dict"):
        KAN.load(path)
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"kan: file: expected one of save\(\), got .a safetensors file of something else"):
        KAN.load(path)
    save_file({"x": torch.ones(1)}, path, {"efficient_kan": "{"})
    with pytest.raises(ValueError, match="header: expected JSON"):
        KAN.load(path)
    with pytest.raises(FileNotFoundError):
        KAN.load(tmp_path / "nothing")
    for not_a_file in (tmp_path, os.devnull):
        with pytest.raises(ValueError, match=r"^path: expected the name of a file, got '/"):
            KAN.load(not_a_file)
    KANLinear(2, 1).save(path)
    with pytest.raises(ValueError, match=r"KANLinear\.load"):
        KAN.load(path)
    for cls in (Sub, SubLayer):
        with pytest.raises(ValueError, match="load: expected KAN or KANLinear themselves"):
            cls.load(path)


def test_without_safetensors_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (lambda: network().save(tmp_path / "kan"), lambda: KAN.load(tmp_path / "kan")):
        with pytest.raises(ImportError, match=r"needs safetensors.*efficient-kan-bench\[files\]"):
            call()
    assert list(tmp_path.iterdir()) == []
