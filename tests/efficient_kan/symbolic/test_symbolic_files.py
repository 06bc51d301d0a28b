"""What `SymbolicKAN.load` gives is what was saved, bit for bit; other files are refused in a sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sympy
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from efficient_kan import KAN
from efficient_kan.symbolic import LIBRARY, Function, SymbolicKAN
from tests.efficient_kan.symbolic.planted import planted, uniform

X = uniform(200, (-1.0, 1.0), (-1.0, 1.0))
CUBED = Function("cubed sine", lambda t: torch.sin(t) ** 3, lambda t: sympy.sin(t) ** 3)


def by_hand() -> SymbolicKAN:
    network = SymbolicKAN([2, 2, 1], dtype=torch.float64)
    network.fix(0, 0, 0, "sin", (1.0, math.pi, 0.0, 0.25))
    network.fix(0, 1, 1, CUBED, (2.0, 1.0, 0.5, 0.0))
    network.fix(1, 0, 0, "exp", (1.0, 0.5, 0.0, 0.0))
    network.symbolic_layers[0].bias.requires_grad_(False)
    return network.eval()


def of_a_network() -> SymbolicKAN:
    edges = {(0, 0, 0): lambda t: torch.sin(math.pi * t), (0, 0, 1): torch.square, (1, 0, 0): torch.exp}
    return planted([2, 1, 1], edges, X).symbolic(X)


def with_splines() -> SymbolicKAN:
    kan = KAN([2, 3, 1], base_activation=nn.Tanh, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kan.kan_layers[0].edge_mask[2, 0] = 0.0
    return kan.symbolic(X, functions={(0, 1, 0): "x^2"}, automatic=False)


NETWORKS: dict[str, Callable[[], SymbolicKAN]] = {
    "by hand": by_hand,
    "of a network": of_a_network,
    "with splines": with_splines,
    "float32": lambda: of_a_network().float(),
}


@pytest.mark.filterwarnings("ignore:symbolic")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_network_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    network, library = NETWORKS[name](), [*LIBRARY.values(), CUBED]
    network.save(tmp_path / "one")
    again = SymbolicKAN.load(tmp_path / "one", library)
    x = X.to(network.symbolic_layers[0].affine.dtype)
    assert torch.equal(again(x), network(x))
    assert again.edges() == network.edges() and again.splines() == network.splines()
    assert again.training == network.training and again.layers_hidden == network.layers_hidden
    frozen = [[n for n, p in of.named_parameters() if not p.requires_grad] for of in (network, again)]
    assert frozen[0] == frozen[1]
    again.save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    if not network.splines():
        formulas, others = network.formula(), again.formula()
        assert formulas == others and formulas.error == others.error


def test_the_file_has_the_samples_that_an_edge_is_fitted_to(tmp_path: Path) -> None:
    network = of_a_network()
    network.save(tmp_path / "file")
    again = SymbolicKAN.load(tmp_path / "file")
    for one in (network, again):
        one.fix(0, 0, 1, "cosh")
    assert network.edges() == again.edges()


def test_functions_of_ones_own_are_passed_again(tmp_path: Path) -> None:
    by_hand().save(tmp_path / "file")
    with pytest.raises(ValueError, match=r"file: library: expected functions called \['cubed sine'\], as in this file"):
        SymbolicKAN.load(tmp_path / "file")


def test_files_of_another_class_are_refused(tmp_path: Path) -> None:
    by_hand().save(tmp_path / "symbolic")
    with pytest.raises(ValueError, match=r"kind: expected KAN \(use the class that wrote it: SymbolicKAN\.load\)"):
        KAN.load(tmp_path / "symbolic")
    KAN([2, 1]).save(tmp_path / "kan")
    with pytest.raises(ValueError, match=r"kind: expected SymbolicKAN \(use the class that wrote it: KAN\.load\)"):
        SymbolicKAN.load(tmp_path / "kan")


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    class Sub(SymbolicKAN):
        pass

    with pytest.raises(ValueError, match="self: expected a SymbolicKAN itself"):
        Sub([2, 1]).save(tmp_path / "file")
    network = by_hand()
    network.extra = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"self: expected nothing beside the layers.*extra"):
        network.save(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


Change = Callable[[dict[str, Any], dict[str, Tensor]], Any]
WRONG: dict[str, tuple[Change, str]] = {
    "future": (lambda h, t: h.update(format=3), "format: expected version 2 or earlier"),
    "entries of a layer": (lambda h, t: h["layers"][0].update(code=1), "layers: expected names and splines of each"),
    "no names": (lambda h, t: h["layers"][0].update(names=[]), "names: expected rows of names"),
    "unequal rows": (lambda h, t: h["layers"][0]["names"][0].pop(), "names: expected rows of names"),
    "names that are none": (lambda h, t: h["layers"][0]["names"][0].__setitem__(0, 1), "names: expected rows of names"),
    "widths": (lambda h, t: h["layers"][0]["names"].pop(), r"layers\.1\.names: expected 2 inputs, got 3"),
    "a spline without tensors": (lambda h, t: h["layers"][0].update(splines=None), r"layers\.0\.splines: expected an object"),
    "splines without a spline": (
        lambda h, t: h["layers"][0].update(names=[["x"] * 2] * 3),
        r"layers\.0\.splines: expected an object where edges are splines, else none",
    ),
    "a shape": (lambda h, t: t.update({"layers.0.bias": torch.ones(2)}), r"layers\.0\.bias: expected a tensor of shape \(3,\)"),
    "a tensor less": (
        lambda h, t: t.pop("layers.1.affine"),
        r"layers\.1\.affine: expected a tensor of shape \(4, 1, 3\), got None",
    ),
    "a tensor more": (lambda h, t: t.update(z=torch.ones(1)), r"tensors: expected those of the layers and samples alone.*'z'"),
    "samples": (lambda h, t: t.update(samples=torch.ones(3, 5)), r"samples: expected shape \(any, 2\)"),
    "frozen": (lambda h, t: h.update(frozen=["layers.7.bias"]), "frozen: expected some of"),
}


@pytest.mark.filterwarnings("ignore:symbolic")
@pytest.mark.parametrize("case", WRONG)
def test_damaged_files_are_refused(case: str, tmp_path: Path) -> None:
    path, (change, message) = tmp_path / "file", WRONG[case]
    with_splines().save(path)
    with safe_open(path, "pt") as opened:
        header = json.loads(opened.metadata()["efficient_kan"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    del header["sha256"]  # as in a file of format 1
    header["format"] = 1
    change(header, tensors)
    save_file(tensors, path, {"efficient_kan": json.dumps(header)})
    with pytest.raises(ValueError, match=f"file: .*{message}"):
        SymbolicKAN.load(path)
