"""The gate: an exact arm must agree with the float64 oracle in outputs, input gradient and every parameter gradient.

The error of a tensor is max|d| / max|reference|. In float64 it must not exceed 1e-12. In float32 rounding alone costs more than
any fixed number on fine grids, so the yardstick is the error of `pykan[speed]` in float32 on the same weights and data, which
counts as at least 4 units of rounding: errors against the float64 truth may be 3 times that, in the geometric mean over the
network's tensors. A single tensor says less, for both errors are the largest of many, and one of them may be small by chance:
there 10 times is the limit. (With 3 times for every tensor by itself the oracle's formula in float32 was refused in 10 of 40
networks of 16-16-16 at G = 20; its largest single ratio was 5.2.)
Where products are computed in tf32 or bfloat16 the yardstick is `cox_de_boor`, plain torch, in the very same precision, and its
errors count as at least one unit of that. No tensor may lose more than about half of the precision's digits, see `sane`: a
network of fine grids does, for a hidden value's rounding is multiplied by the slopes of the next layer, which grow as G does.
The yardstick cannot be judged by its own error: it is built and checked once more in float64. So is in float32 every arm where
that version of pykan is not installed. Knots then are what they were before float32 rounded them, because some arms compute
theirs.

pykan holds a dozen tensors of one value per sample and edge, and the oracle dozens of one per sample and basis function, which
no machine has room or time for at every size that is timed. So both take as many samples of the batch as keep such tensors at
`EDGE_VALUES` and `FEATURE_VALUES` elements; how many stands in the row. An arm may compute a large batch in another way than a
small one: the arm then runs the whole batch too, and what it gives for these samples, outputs and input gradients, must agree.

A run measures an arm at a point in several processes, and its baseline beside every other arm, always with the same numbers.
The gate would find the same each time, at more cost than the timing itself: so what it finds first holds for the whole run, and
rows that take it over say so. Only a pass is passed on; what fails is looked at anew.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import json
import math
import os
import sys
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.kinds.sources import text_hash
from benchmarks.measure.precision import UNIT, products
from benchmarks.measure.workload import Data
from benchmarks.schema.cases import Matmul, Penalty, Point
from benchmarks.schema.rows import Gate, GateError
from efficient_kan import KAN, knots
from reference.arm import Arm, get_arm

FLOAT64_LIMIT = 1e-12
FACTOR = 3.0
FACTOR_OF_ONE = 10.0
FLOOR = 4 * torch.finfo(torch.float32).eps  # pykan may be exact by chance on a small tensor
MEAN = "geometric mean of the errors over the yardstick's"
SANE = 1e-2  # no rounding error is larger; pykan going wrong in float32 must not loosen the limit of the others
_YARDSTICK = "pykan[speed]"
_ORACLE = "cox_de_boor"
_YARDSTICK_VERSION = "0.2.8"
_ROWS_AT_ONCE = 4096
EDGE_VALUES = 2**25
FEATURE_VALUES = 2**22


def preload(point: Point) -> None:
    """Import the oracle, and pykan if it sets the limits at `point`."""
    get_arm(_ORACLE).load()
    if (point.dtype, point.matmul) == ("float32", "ieee") and yardstick_is_installed():
        get_arm(_YARDSTICK).load()


def yardstick_is_installed() -> bool:
    """Whether this environment has the version of pykan that sets the limits in float32."""
    try:
        return importlib.metadata.version("pykan") == _YARDSTICK_VERSION
    except importlib.metadata.PackageNotFoundError:
        return False


def sane(matmul: Matmul) -> float:
    """Return the largest error that is still one of rounding: 0.01, of rougher products 4 times the root of their unit."""
    return SANE if matmul == "ieee" else 4 * math.sqrt(UNIT[matmul])


def check(arm: Arm, module: nn.Module, source: KAN, data: Data, penalty: Penalty = "none", matmul: Matmul = "ieee") -> Gate:
    """Compare one arm, see `Standard`."""
    return Standard(source, data, penalty, matmul).check(arm, module)


class Standard:
    """What the networks with the weights of `source` are compared with on `data`: the oracle, and the yardstick's errors.

    Both are computed once, when first needed, however many networks are checked. Products of `matmul` are those of float32.
    """

    def __init__(self, source: KAN, data: Data, penalty: Penalty = "none", matmul: Matmul = "ieee") -> None:
        rows = _rows(source, data)
        self._matmul = matmul
        self._floor = FLOOR if matmul == "ieee" else UNIT[matmul]
        # What sets the limits.
        self._rule = _YARDSTICK if matmul == "ieee" else _ORACLE
        self._source, self._penalty, self._everything = source, penalty, data
        self._data = Data(data.x[:rows], data.target[:rows])
        self._exact = Data(self._data.x.double(), self._data.target.double())
        self._whole = max(1, rows)
        # A penalty is no sum over samples, so only plain gradients can be accumulated over chunks to save memory.
        self._chunk = _ROWS_AT_ONCE if penalty == "none" else self._whole

    @cached_property
    def _truth(self) -> dict[str, Tensor]:
        oracle = get_arm(_ORACLE)
        return evaluate(oracle, oracle.build(copy.deepcopy(self._source).double()), self._exact, self._penalty, self._chunk)

    def _rounded(self, arm: Arm, module: nn.Module, data: Data, rows_at_once: int) -> dict[str, Tensor]:
        """What `module` gives in the precision that is judged."""
        return evaluate(arm, module, data, self._penalty, rows_at_once, self._matmul)

    @cached_property
    def _yardstick(self) -> dict[str, float]:
        kept = self._kept_yardstick()
        if kept is not None and kept.exists():
            found: dict[str, float] = json.loads(kept.read_bytes())
            return found
        rule = get_arm(self._rule)
        errors = _errors(self._rounded(rule, rule.build(self._source), self._data, self._chunk), self._truth)
        limited = {name: max(self._floor, error) for name, error in errors.items()}
        if kept is not None:
            _write(kept, json.dumps(limited))
        return limited

    def _kept_yardstick(self) -> Path | None:
        """Return the file, in the folder that the cases of a run share, for the yardstick's errors with these very numbers.

        At wide layers they cost more than the measurement, and every arm and process of a point needs the same.
        """
        folder = os.environ.get("BENCHMARKS_SHARED")
        if folder is None:
            return None
        modules = ("efficient_kan", "reference", "benchmarks.measure.gate")
        packages = ("torch", "numpy", *get_arm(self._rule).packages)
        versions = {name: importlib.metadata.version(name) for name in packages}
        return Path(folder) / f"yardstick-{self._digest(versions, *map(text_hash, modules))}.json"

    def _kept_verdict(self, arm: Arm) -> Path | None:
        """Return the file, in the folder of the run, for what the gate finds of `arm` with these very numbers.

        Source and versions do not change within a run, but an arm may be measured by another interpreter.
        """
        folder = os.environ.get("BENCHMARKS_VERDICTS")
        return None if folder is None else Path(folder) / f"{self._digest(arm.name, sys.prefix)}.json"

    def _digest(self, *setting: object) -> str:
        """Return what differs for another `setting`, network, penalty, precision, device, number of threads, or data."""
        numbers, where = self._numbers, str(self._everything.x.device)
        text = json.dumps([*setting, numbers, self._penalty, self._matmul, torch.get_num_threads(), where])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @cached_property
    def _numbers(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for tensor in (*self._source.state_dict().values(), self._everything.x, self._everything.target):
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy())
        return digest.hexdigest()

    def _of_twin(self, arm: Arm) -> dict[str, float]:
        """Errors of `arm` built in float64."""
        twin, oracle = _float64_twin(self._source), get_arm(_ORACLE)
        doubled = evaluate(arm, arm.build(twin), self._exact, self._penalty, self._chunk)
        return _errors(doubled, evaluate(oracle, oracle.build(twin), self._exact, self._penalty, self._chunk))

    def _in_batch(self, arm: Arm, module: nn.Module) -> dict[str, float]:
        """Errors of what `module` gives for the samples compared when they are a part of the batch; empty if they are all."""
        rows, everything = len(self._data.x), self._everything
        if rows == len(everything.x) or self._penalty != "none":
            return {}
        part = self._rounded(arm, module, everything, len(everything.x))
        of_samples = ("output", "input.grad")
        return _errors({name: part[name][:rows] for name in of_samples}, {name: self._truth[name] for name in of_samples})

    def check(self, arm: Arm, module: nn.Module) -> Gate:
        """Compare `module`, the network of `arm` with the weights of the source: errors, limits and verdict.

        With a penalty its value is compared too, and gradients are those of outputs and penalty together, see `evaluate`. A
        pass that an earlier process of the run found stands.
        """
        kept = self._kept_verdict(arm)
        if kept is not None and kept.exists():
            return Gate.model_validate_json(kept.read_bytes()).model_copy(update={"shared": True})
        verdict = self._compare(arm, module)
        if kept is not None and verdict.passed:
            _write(kept, verdict.model_dump_json())
        return verdict

    def _compare(self, arm: Arm, module: nn.Module) -> Gate:
        errors = _errors(self._rounded(arm, module, self._data, self._whole), self._truth)
        in_batch, precision = self._in_batch(arm, module), "float32" if self._matmul == "ieee" else self._matmul
        limit = sane(self._matmul)
        if self._data.x.dtype == torch.float64:
            limits, rule = dict.fromkeys(errors, FLOAT64_LIMIT), f"float64: {FLOAT64_LIMIT:g}"
        elif arm.name == self._rule or (self._rule == _YARDSTICK and not yardstick_is_installed()):
            limits = {f"{name} ({precision})": limit for name in errors}
            rounded = {f"{name} ({precision})": error for name, error in errors.items()}
            errors = self._of_twin(arm)
            limits |= dict.fromkeys(errors, FLOAT64_LIMIT)
            errors |= rounded
            why = f"which sets the limits in {precision}" if arm.name == self._rule else f"without pykan {_YARDSTICK_VERSION}"
            rule = f"{arm.name}, {why}: {FLOAT64_LIMIT:g} when built in float64, {limit:.2g} in {precision}"
        else:
            limits = {name: min(limit, FACTOR_OF_ONE * error) for name, error in self._yardstick.items()}
            errors[MEAN], limits[MEAN] = _mean_ratio(errors, self._yardstick, self._floor), FACTOR
            rule = (
                f"{precision}: {FACTOR:g} x the errors of {self._rule} in the geometric mean, {FACTOR_OF_ONE:g} x for one "
                f"tensor, at most {limit:.2g}; its errors count as at least {self._floor:.1e}"
            )
        for name, error in in_batch.items():
            rounded_limit = limits.get(f"{name} ({precision})", limits[name])  # the arm as it is, not its twin in float64
            errors[f"{name} in the whole batch"], limits[f"{name} in the whole batch"] = error, rounded_limit
        found = tuple(
            GateError(tensor=name, error=error if math.isfinite(error) else None, limit=limits[name])
            for name, error in errors.items()
        )
        passed = all(e.error is not None and e.error <= e.limit for e in found)
        return Gate(passed=passed, rule=rule, errors=found, rows=len(self._data.x))


def _write(path: Path, text: str) -> None:
    """Write a file that several processes may write and read at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def _mean_ratio(errors: dict[str, float], yardstick: dict[str, float], floor: float) -> float:
    """Geometric mean of ``errors / yardstick``, an error below `floor` counting as that; NaN if an error is."""
    if not all(math.isfinite(error) for error in errors.values()):
        return math.nan
    return math.exp(sum(math.log(max(floor, error) / yardstick[name]) for name, error in errors.items()) / len(errors))


def _rows(source: KAN, data: Data) -> int:
    edges = max(layer.in_features * layer.out_features for layer in source.kan_layers)
    features = max(layer.in_features * (layer.grid_size + layer.spline_order) for layer in source.kan_layers)
    return min(len(data.x), max(1, min(EDGE_VALUES // edges, FEATURE_VALUES // features)))


def evaluate(
    arm: Arm, module: nn.Module, data: Data, penalty: Penalty, rows_at_once: int, matmul: Matmul = "ieee"
) -> dict[str, Tensor]:
    """Return outputs and gradients of `module` in the layout of the source, accumulated over chunks of rows.

    With a penalty the cotangent of the outputs is divided by about the batch size: summed over the batch, it would drown the
    gradient of the penalty, which is a mean over it.
    """
    module.zero_grad(set_to_none=True)
    weight = 1.0 if penalty == "none" else 2.0 ** -(len(data.x).bit_length() - 1)  # a power of two: no rounding
    outputs, inputs, values = [], [], []
    precise = products(matmul, data.x.device)
    for part, pulled in zip(data.x.split(rows_at_once), data.target.split(rows_at_once), strict=True):
        leaf = part.clone().requires_grad_()
        if penalty == "none":
            with precise:
                y = module(leaf)
            torch.autograd.backward(y, pulled.to(y.dtype))
        else:
            with precise:
                y, value = arm.penalised_forward(module, leaf, penalty)
            values.append(value.detach())
            torch.autograd.backward([y, value], [(weight * pulled).to(y.dtype), torch.ones_like(value)])
        assert leaf.grad is not None
        outputs.append(y.detach())
        inputs.append(leaf.grad)
    found = {"output": torch.cat(outputs), "input.grad": torch.cat(inputs)}
    if values:
        found["penalty"] = torch.stack(values)
    found |= {f"{name}.grad": gradient.clone() for name, gradient in arm.parameter_gradients(module).items()}
    module.zero_grad(set_to_none=True)
    return found


def _float64_twin(source: KAN) -> KAN:
    """Return `source` in float64, with knots that follow their rule to float64 rounding where they did to float32's."""
    twin = copy.deepcopy(source).double()
    for layer in twin.kan_layers:
        layer.grid = _unrounded(layer.grid, layer.spline_order)
    return twin


def _unrounded(grid: Tensor, k: int) -> Tensor:
    """Return the knots `grid` (I, G + 2k + 1) at equal distances, or at least those beyond the grid, if they are so nearly."""
    interior = knots.interior_of(grid, k)
    parts = torch.linspace(0, 1, interior.shape[1], dtype=grid.dtype, device=grid.device)
    uniform = torch.lerp(interior[:, :1], interior[:, -1:], parts)
    for candidate in (knots.extend(uniform, k), knots.extend(interior, k)):
        if (candidate - grid).abs().max() <= 8 * torch.finfo(torch.float32).eps * grid.abs().max():
            return candidate
    return grid


def _errors(got: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    if got.keys() != truth.keys():
        raise ValueError(f"gradients: expected {sorted(truth)}, got {sorted(got)}")
    errors = {}
    for name, reference in truth.items():
        if got[name].shape != reference.shape:
            raise ValueError(f"{name}: expected shape {tuple(reference.shape)}, got {tuple(got[name].shape)}")
        scale = float(reference.abs().max())
        worst = float((got[name].double() - reference).abs().max())
        errors[name] = worst / scale if scale > 0 else worst
    return errors
