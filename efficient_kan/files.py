"""Networks and layers in files: safetensors (an optional dependency), with the architecture as JSON in its header.

A file holds no code and is never unpickled. Its header has one entry, ``efficient_kan``: the JSON of

=============  ===================================================================================================
``format``     version of this description, now 2; a file of a later one is refused by its number
``kind``       ``KAN``, ``KANLinear`` or ``SymbolicKAN``
``layers``     of each layer its constructor's arguments, the base activation by name with its own arguments; of a
               :class:`~efficient_kan.symbolic.SymbolicKAN` the names of the edges' functions, and those of the splines left
``frozen``     names of the parameters that do not require gradients
``memory``     of tensors that are not contiguous: their dimensions from the outermost to the innermost one in memory,
               by which products round
``training``   whether the module was in training mode
``sha256``     checksum of the other entries and of all tensors; files of format 1 have none
=============  ===================================================================================================

Tensors are stored under the keys of the state dict, an ``edge_mask`` only where it is not all ones. The same module gives the
same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from efficient_kan import _architecture, _checks
from efficient_kan.linear import KANLinear
from efficient_kan.network import KAN

FORMAT = 2
_ENTRY = "efficient_kan"
_INSTALL = "python -m pip install 'efficient-kan-bench[files]'"
Module = TypeVar("Module", KAN, KANLinear)


def save(module: KAN | KANLinear, path: str | os.PathLike[str]) -> None:
    """Write ``module`` to ``path``, aside first and then renamed, so that no half file remains; see :meth:`KAN.save`."""
    for name, part in module.named_modules():  # whose class is a new one then
        _checks.require(not is_parametrized(part), name or "module", f"parameters, {_architecture.PERMANENT}", "computed ones")
    kind = type(module)
    expected = "a KAN or KANLinear itself (of a subclass a file would keep a part: save its state_dict())"
    _checks.require(kind in (KAN, KANLinear), "module", expected, kind)
    tensors: dict[str, Tensor] = {}
    layers = []
    for prefix, layer in _layers_of(module):
        options, found = _architecture.described(layer, prefix)
        layers.append(options)
        tensors |= found
    expected = "nothing beside the layers (else save its state_dict())"
    _checks.require(
        set(module.state_dict()) == set(tensors), "module", expected, sorted(set(module.state_dict()) ^ set(tensors))
    )
    places = [tensor.data_ptr() for tensor in tensors.values() if tensor.numel()]
    expected = "tensors of their own in each layer: a file would keep copies (else save its state_dict())"
    _checks.require(len(set(places)) == len(places), "module", expected, "tensors that share memory")
    header = {
        "kind": kind.__name__,
        "layers": layers,
        "frozen": sorted(name for name, parameter in module.named_parameters() if not parameter.requires_grad),
        "training": module.training,
    }
    write(path, header, tensors)


def write(path: str | os.PathLike[str], header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a file of ``tensors`` with this description, whose other entries are added."""
    order = {name: _order(tensor) for name, tensor in tensors.items() if not tensor.is_contiguous()}
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = {"format": FORMAT, "memory": order} | header
    entry = json.dumps(described | {"sha256": _checksum(described, stored)}, sort_keys=True)
    save_file = _safetensors("save()").torch.save_file
    with _replacing(path) as aside:
        save_file(stored, aside, {_ENTRY: entry})  # one entry: several would come in any order


def load(kind: type[Module], path: str | os.PathLike[str], device: torch.device | str | None = None) -> Module:
    """The module of this ``kind`` that :func:`save` wrote to ``path``; see :meth:`KAN.load`."""
    expected = "KAN or KANLinear themselves (a subclass loads a state_dict())"
    _checks.require(kind in (KAN, KANLinear), "load", expected, kind)
    with reading(kind.__name__, path, device) as (header, tensors):
        return _built(kind, header, tensors)


@contextmanager
def reading(
    kind: str, path: str | os.PathLike[str], device: torch.device | str | None
) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Description and tensors, on ``device``, of a file of this kind; errors that come up then name the file."""
    target = torch.get_default_device() if device is None else _checks.device(device, "device")
    file = Path(_path(path))
    _checks.require(file.is_file() or not file.exists(), "path", "the name of a file", str(path))
    library = _safetensors("load()")
    try:
        with library.safe_open(file, "pt") as opened:
            header = _header(opened.metadata(), kind)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if "sha256" in header:
            intact = header["sha256"] == _checksum({k: v for k, v in header.items() if k != "sha256"}, tensors)
            _checks.require(intact, "sha256", "the checksum of what the file holds", "another one: the file is damaged")
        _restore_order(header["memory"], tensors)
        yield header, {name: tensor.to(target, copy=True) for name, tensor in tensors.items()}
    except library.SafetensorError as error:
        with file.open("rb") as content:
            pickled = content.read(2).startswith((b"PK", b"\x80"))
        hint = "; it looks like one of torch.save, which is a pickle: use load_state_dict(torch.load(path))" if pickled else ""
        raise ValueError(
            f"{file}: expected a file of save(), got one that is not safetensors or is cut ({error}){hint}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _checksum(described: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 of a description and of tensors that are contiguous: their names, dtypes, shapes and bytes."""
    shapes = [(name, str(tensor.dtype), list(tensor.shape)) for name, tensor in sorted(tensors.items())]
    digest = hashlib.sha256(json.dumps([described, shapes], sort_keys=True).encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _safetensors(function: str) -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError(f"{function} needs safetensors, which does not import here ({error}); {_INSTALL}") from error
    return safetensors


def _path(path: Any) -> str:
    _checks.require(isinstance(path, (str, os.PathLike)) and str(path) != "", "path", "the name of a file", path)
    return str(os.path.realpath(path))


@contextmanager
def _replacing(path: Any) -> Iterator[Path]:
    """A name beside ``path`` to write to; what was written there takes the place of ``path``, unless an error comes up.

    The mode is that of the file that is replaced, or the umask's for a new one, whatever mode the writer chose.
    """
    target = Path(_path(path))
    _checks.require(
        target.parent.is_dir() and not target.is_dir(), "path", "the name of a file in an existing folder", str(path)
    )
    aside = target.with_name(f".{target.name[:200]}.{secrets.token_hex(6)}")
    try:
        aside.touch()
        mode = stat.S_IMODE((target if target.exists() else aside).stat().st_mode)
        yield aside
        with aside.open("rb+") as written:
            os.fsync(written.fileno())
        aside.chmod(mode)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _layers_of(module: KAN | KANLinear) -> list[tuple[str, KANLinear]]:
    if isinstance(module, KANLinear):
        return [("", module)]
    for n, layer in enumerate(module.layers):
        expected = "a KANLinear itself (of a subclass a file would keep a part: save its state_dict())"
        _checks.require(type(layer) is KANLinear, f"layers[{n}]", expected, type(layer))
    return [(f"layers.{n}.", layer) for n, layer in enumerate(module.kan_layers)]


def _order(tensor: Tensor) -> list[int]:
    """The dimensions from the outermost to the innermost one in memory."""
    return sorted(range(tensor.dim()), key=lambda n: (-tensor.stride()[n], n))


def _header(metadata: dict[str, str] | None, kind: str) -> dict[str, Any]:
    """The header's description, of a format that is known and of this kind."""
    known = metadata is not None and _ENTRY in metadata
    _checks.require(known, "file", "one of save()", f"a safetensors file of something else (header {metadata})")
    assert metadata is not None
    try:
        header = json.loads(metadata[_ENTRY])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"header: expected JSON, got {error}") from error
    _checks.require(isinstance(header, dict), "header", "a JSON object", header)
    version = _checks.integer(header.get("format"), "format", 1)
    expected = f"version {FORMAT} or earlier; this one was written by a later efficient-kan-bench: install that to load it"
    _checks.require(version <= FORMAT, "format", expected, version)
    names = {"format", "kind", "layers", "frozen", "memory", "training"} | ({"sha256"} if version > 1 else set())
    _checks.require(set(header) == names, "header", f"the entries {sorted(names)}", sorted(header))
    _checks.require(
        header["kind"] == kind, "kind", f"{kind} (use the class that wrote it: {header['kind']}.load)", header["kind"]
    )
    listed = isinstance(header["layers"], list) and len(header["layers"]) >= 1
    _checks.require(
        listed and all(isinstance(v, dict) for v in header["layers"]), "layers", "a list of objects", header["layers"]
    )
    frozen, memory = header["frozen"], header["memory"]
    _checks.require(isinstance(frozen, list) and all(isinstance(v, str) for v in frozen), "frozen", "a list of names", frozen)
    _checks.require(isinstance(memory, dict), "memory", "an object", memory)
    _checks.flag(header["training"], "training")
    return cast(dict[str, Any], header)


def _restore_order(memory: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    for name, order in memory.items():
        known = name in tensors and isinstance(order, list) and all(isinstance(n, int) for n in order)
        known = known and sorted(order) == list(range(tensors[name].dim()))
        _checks.require(known, f"memory of {name}", "the dimensions of a tensor", order)
        tensors[name] = tensors[name].permute(order).contiguous().permute([order.index(n) for n in range(len(order))])


def _built(kind: type[Module], header: dict[str, Any], left: dict[str, Tensor]) -> Module:
    layers = []
    for n, options in enumerate(header["layers"]):
        layers.append(_architecture.rebuilt(options, left, "" if kind is KANLinear else f"layers.{n}."))
    _checks.require(not left, "tensors", "those of the layers alone", sorted(left))
    if kind is KANLinear:
        _checks.require(len(layers) == 1, "layers", "one", len(layers))
        module = layers[0]
    else:
        module = KAN.from_layers(layers)  # type: ignore[assignment]
    freeze(module, header["frozen"])
    return module.train(header["training"])  # type: ignore[return-value]


def freeze(module: torch.nn.Module, frozen: list[str]) -> None:
    """Let the parameters of these names require no gradients."""
    parameters = dict(module.named_parameters())
    _checks.require(set(frozen) <= set(parameters), "frozen", f"some of {sorted(parameters)}", sorted(frozen))
    for name in frozen:
        parameters[name].requires_grad_(False)
