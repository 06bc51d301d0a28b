"""The precision of products: who computes in which, and how the gate judges it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measure import gate, precision, workload
from benchmarks.run.worker import Job, measure
from benchmarks.schema.cases import Case, Matmul, Point
from efficient_kan import KAN
from reference.arm import Unsupported, get_arm

POINT = Point(batch=64, layers=(8, 8, 4), grid_size=5)
ROUGH = POINT.model_copy(update={"matmul": "bf16"})
EXACT = ["efficient_kan", "efficient_kan[native]", "cox_de_boor", "pykan[speed]"]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")


def _rounded(x: Any) -> Any:
    """A float32 tensor in TF32, as tensor cores read it: ten bits behind the leading one."""
    if not isinstance(x, torch.Tensor) or x.dtype != torch.float32:
        return x
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


class _Tf32(TorchDispatchMode):
    """A CPU that computes products of float32 matrices as a GPU does in TF32."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            args = tuple(_rounded(arg) for arg in args)
        return function(*args, **(kwargs or {}))


class _Dtypes(TorchFunctionMode):
    """Notes the dtypes of what `torch.matmul` gives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") in ("matmul", "__matmul__"):
            self.seen.add(found.dtype)
        return found


def _emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the gate compute as on a GPU with TF32; backward is part of it."""
    evaluate = gate.evaluate

    def rounding(*args: Any) -> Any:
        rough = len(args) > 5 and args[5] == "tf32"
        with _Tf32() if rough else nullcontext():
            return evaluate(*args)

    monkeypatch.setattr(gate, "evaluate", rounding)


def verdict_of(name: str, matmul: Matmul, **changes: Any) -> gate.Gate:
    source, data = workload.network(POINT, 3), workload.data(POINT, 4)
    arm = dataclasses.replace(get_arm(name), **changes)
    return gate.check(arm, arm.build(source), source, data, matmul=matmul)


def test_tf32_is_unsupported_where_torch_would_compute_in_float32() -> None:
    with pytest.raises(Unsupported, match=r"^matmul tf32: torch computes float32 products on cpu in float32$"):
        precision.choose(POINT.model_copy(update={"matmul": "tf32"}))
    case = Case(kind="speed", arm="mlp[width]", baseline="mlp[width]", point=POINT.model_copy(update={"matmul": "tf32"}))
    outcome = measure(Job(case=case.model_copy(update={"modes": ("step",), "blocks": 1})))
    assert (outcome.status, outcome.speed) == ("unsupported", ()) and "tf32" in outcome.reason


@pytest.mark.parametrize("matmul", ["tf32", "bf16"])
def test_a_gpu_without_such_products_is_unsupported(matmul: Matmul, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(Unsupported, match=f"^matmul {matmul}: this GPU has compute capability 7.5"):
        precision.choose(POINT.model_copy(update={"device": "cuda", "matmul": matmul}))


@pytest.mark.parametrize(("matmul", "chosen"), [("ieee", "highest"), ("tf32", "high"), ("bf16", "highest")])
def test_the_products_of_a_gpu_are_what_torch_and_our_kernels_are_told(
    matmul: Matmul, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="triton is not installed: there are no kernels to tell")
    from efficient_kan.kernels.cuda import tiles

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for before in ("high", "highest"):
        torch.set_float32_matmul_precision(before)
        precision.choose(POINT.model_copy(update={"device": "cuda:0", "matmul": matmul}))
        assert torch.get_float32_matmul_precision() == chosen
        assert tiles.precision(torch.float32) == ("tf32" if matmul == "tf32" else "ieee")


@pytest.mark.parametrize("mode", ["inference", "forward", "forward_backward", "step"])
@pytest.mark.parametrize("name", ["efficient_kan[native]", "gemm_bound", "mlp[width]"])
def test_calls_compute_products_in_bfloat16_and_gradients_in_float32(name: str, mode: Any) -> None:
    arm = get_arm(name)
    module = arm.build(workload.network(POINT, 0))
    outputs: list[torch.dtype] = []
    module.register_forward_hook(lambda _, __, y: outputs.append(y.dtype))
    call = workload.call(arm, module, workload.data(POINT, 0), mode, matmul="bf16")
    call()
    call()
    assert outputs == [torch.bfloat16] * 2
    assert not torch.is_autocast_enabled("cpu")
    found = {p.grad.dtype for p in module.parameters() if p.grad is not None}
    assert found == ({torch.float32} if mode in ("forward_backward", "step") else set())


def test_the_bare_products_are_there_in_the_precision_of_products() -> None:
    module = get_arm("gemm_bound").build(workload.network(POINT, 0))
    data = workload.data(POINT, 0)
    with _Dtypes() as plain:
        module(data.x)
    with _Dtypes() as rough, torch.autocast("cpu", torch.bfloat16):
        y = module(data.x.requires_grad_())
    assert (plain.seen, rough.seen) == ({torch.float32}, {torch.bfloat16})
    y.backward(torch.ones_like(y))
    assert all(p.grad is not None and p.grad.dtype == torch.float32 and p.grad.any() for p in module.parameters())
    assert data.x.grad is not None and data.x.grad.dtype == torch.float32
    assert module(data.x).dtype == torch.float32  # a later call outside has features of its own


@pytest.mark.parametrize(
    ("name", "matmul"), [*((name, "bf16") for name in EXACT), *((name, "tf32") for name in EXACT if name != "efficient_kan")]
)
def test_exact_arms_pass_beside_plain_torch_in_the_same_precision(
    name: str, matmul: Matmul, monkeypatch: pytest.MonkeyPatch
) -> None:
    _emulate(monkeypatch)
    verdict = verdict_of(name, matmul)
    assert verdict.passed, verdict.worst
    limits = {e.tensor: e.limit for e in verdict.errors}
    assert max(limit for tensor, limit in limits.items() if tensor != gate.MEAN) <= gate.sane(matmul)
    errors = [
        e.error for e in verdict.errors if e.tensor == f"output ({matmul})" or (name != "cox_de_boor" and e.tensor == "output")
    ]
    assert len(errors) == 1 and errors[0] is not None
    assert errors[0] > 20 * 2.0**-24  # computed as rough as asked for


@pytest.mark.parametrize("matmul", ["tf32", "bf16"])
@pytest.mark.parametrize("wrong", [1.2, math.nan])
def test_a_wrong_arm_fails_in_every_precision(matmul: Matmul, wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    _emulate(monkeypatch)
    for name in ("efficient_kan", "cox_de_boor"):
        right = get_arm(name)

        def off(source: KAN, right: Any = right) -> nn.Module:
            module = right.build(source)
            with torch.no_grad():
                module.layers[1].spline_weight.mul_(wrong)
            return module

        assert not verdict_of(name, matmul, builder=off).passed, name


def test_limits_of_ieee_products_are_what_they_were() -> None:
    verdict = verdict_of("efficient_kan", "ieee")
    assert verdict.rule.startswith(
        "float32: 3 x the errors of pykan[speed] in the geometric mean, 10 x for one tensor, at most 0.01"
    )
    rough = verdict_of("efficient_kan", "bf16")
    limits = {e.tensor: e.limit for e in rough.errors}
    assert all(e.limit < limits[e.tensor] for e in verdict.errors if e.tensor != gate.MEAN)
    # What a bfloat16 product is allowed would be refused as one of float32.
    assert any(e.error is not None and e.error > own.limit for e, own in zip(rough.errors, verdict.errors, strict=True))


@pytest.mark.parametrize(("kind", "penalty"), [("speed", "none"), ("memory", "none"), ("penalty_cost", "sample_std")])
def test_cases_are_measured_in_bfloat16(kind: Any, penalty: Any) -> None:
    settings: dict[str, Any] = {} if kind == "memory" else {"baseline": "efficient_kan", "blocks": 1}
    case = Case(kind=kind, arm="efficient_kan", point=ROUGH, modes=("step",), penalty=penalty, **settings)
    outcome = measure(Job(case=case))
    assert outcome.status == "ok", outcome.reason
    if kind == "memory":
        plain = measure(Job(case=case.model_copy(update={"point": POINT})))
        assert outcome.memory[0].activation_bytes != plain.memory[0].activation_bytes
    else:
        assert outcome.gate is not None and outcome.gate.rule.startswith("bf16: 3 x the errors of cox_de_boor")
