"""The kernel table: each product of a layer by our kernel, by native, and as the bare matrix product of that shape.

Device time is that of a CUDA graph's replays, wall time that of the calls with their launches. Lines hold raw nanoseconds; the
report makes shares of the ceilings of them. No time is given for a kernel whose result is too far from native's in float64.
"""

from __future__ import annotations

import csv
import gc
import io
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu_run import files, gpu_state
from benchmarks.gpu_run.ceilings import PRODUCTS, described
from benchmarks.gpu_run.stages import Job
from efficient_kan.kernels import cuda
from efficient_kan.kernels.cuda import problems, timing
from efficient_kan.kernels.cuda.roofline import work

FACTOR = 4.0  # of native's error in the same precision, as in the check at first use
TF32 = 2.0**-11  # native may be exact by chance: its error counts as one rounding at least
# B, I, O, G; the order is 3.
SHAPES = ((16384, 256, 256, 5), (4096, 64, 64, 5), (1024, 256, 256, 5), (65536, 1024, 1024, 5), (4096, 64, 64, 64))
_SMALL = ((32, 16, 16, 5),)
ORDER = 3
IMPLEMENTATIONS = ("cuda", "cuda[uniform]", "native", "product")
COLUMNS = (
    *("device", "dry_run", "B", "I", "O", "G", "order", "kernel", "precision", "implementation", "status", "reason", "error"),
    *("limit", "clock", "inputs", "copies", "device_ns", "wall_ns", "flop", "moved_bytes", "sm_mhz"),
)
_ROOFLINE = {"ieee": "float32", "tf32": "tf32", "bf16": "bfloat16"}


class Item(NamedTuple):
    """One line of the table."""

    shape: tuple[int, int, int, int]
    precision: str
    kernel: str
    implementation: str


def items(dry_run: bool) -> Iterator[Item]:
    """All lines, the most wanted shapes first."""
    for shape in _SMALL if dry_run else SHAPES:
        for precision in PRODUCTS:
            for kernel in problems.KERNELS:
                for implementation in IMPLEMENTATIONS:
                    yield Item(shape, precision, kernel, implementation)


def measure(job: Job) -> None:
    """Add a line to kernels.csv for every item that is not in there yet."""
    path = job.raw / files.KERNELS
    if not path.exists():
        files.append(path, ",".join(COLUMNS) + "\n")
    todo, device = list(items(job.dry_run)), gpu_state.used(job.device)
    gc.freeze()  # a capture collects garbage first, and need not walk all of torch for it
    known = path.read_bytes().count(b"\n") - 1  # a line each: texts have none inside
    for count, item in enumerate(todo[known:], start=known + 1):
        line = {**_start(job, item), **_measured(item, device)}
        files.append(path, _text(line))
        job.say(f"{count} of {len(todo)} lines" + (" (dry run, on a CPU)" if job.dry_run else ""))
        if line["status"] == "error" and "CUDA error" in str(line["reason"]):  # every later call of this process fails
            os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu_run.child", *sys.argv[1:]])


def _start(job: Job, item: Item) -> dict[str, object]:
    name = described(torch.device(job.device))["name"]
    sizes = dict(zip(("B", "I", "O", "G"), item.shape, strict=True)) | {"order": ORDER}
    B, I, O, G = item.shape
    need = work(item.kernel, B, I, O, G, ORDER, _ROOFLINE[item.precision])
    counts = {"flop": need.matrix, "moved_bytes": need.moved}
    words = {"kernel": item.kernel, "precision": item.precision, "implementation": item.implementation}
    return {"device": name, "dry_run": job.dry_run} | sizes | words | counts


def _measured(item: Item, device: torch.device) -> dict[str, object]:
    """The other cells of a line; what goes wrong is one of them."""
    if item.implementation.startswith("cuda") and (reason := cuda.unavailable()) is not None:
        return {"status": "unsupported", "reason": reason}
    kind = PRODUCTS[item.precision]
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what a former graph held
    try:
        with problems.products(kind):
            found, calls, tensors = _prepared(item, kind, device)
            if found.get("status") == "gate_failed":
                return found
            rotated = timing.rotates(tensors, len(calls), device)
            times = timing.measure(calls, device)
    except torch.OutOfMemoryError as error:
        return {"status": "oom", "reason": _line(error)}
    except Exception as error:  # noqa: BLE001  # whatever the compiler or the driver says is a cell of this line
        return {"status": "error", "reason": f"{type(error).__name__}: {_line(error)}"}
    inputs = "cpu" if device.type == "cpu" else "rotated" if rotated else "warm L2"
    measured = {"status": "ok", "reason": times.note, "clock": times.clock, "inputs": inputs, "copies": len(calls)}
    raw = {"device_ns": " ".join(map(str, times.device_ns)), "wall_ns": " ".join(map(str, times.wall_ns))}
    return found | measured | raw | {"sm_mhz": gpu_state.read(device).get("sm_mhz", "")}


def _prepared(
    item: Item, kind: str, device: torch.device
) -> tuple[dict[str, object], list[Callable[[], object]], list[Tensor]]:
    """What the gate finds, the calls on rotated inputs, and the tensors that one of them reads."""
    B, I, O, G = item.shape
    sizes, kernel = (B, I, O, G + ORDER + 1, ORDER), item.kernel
    if item.implementation == "product":
        first = problems.bare(sizes, kind, device)
        count = timing.copies(first.tensors, device)
        layers = [first, *(problems.bare(sizes, kind, device, seed=seed) for seed in range(1, count))]
        return {}, [partial(layer.product, kernel) for layer in layers], first.tensors
    uniform = item.implementation == "cuda[uniform]"
    problem = problems.made(sizes, kind, device, uniform=uniform)
    found = _gate(item, problem)
    count = timing.copies(problem.tensors, device)
    more = [problem, *(problems.made(sizes, kind, device, uniform=uniform, seed=seed) for seed in range(1, count))]
    calls: list[Callable[[], object]] = [
        partial(layer.native if item.implementation == "native" else layer.ours, kernel) for layer in more
    ]
    return found, calls, problem.tensors


def _gate(item: Item, problem: problems.Problem) -> dict[str, object]:
    """Errors against native in float64: of native, or of our kernel, whose limit is a multiple of native's."""
    with problems.products("float32"):
        truth = problem.double().native(item.kernel)
    natives = _error(problem.native(item.kernel), truth)
    if item.implementation == "native":
        return {"error": f"{natives:.3g}"}
    rounding = TF32 if item.precision == "tf32" else torch.finfo(problem.grad.dtype).eps
    error, limit = _error(problem.ours(item.kernel), truth), FACTOR * max(natives, rounding)
    found: dict[str, object] = {"error": f"{error:.3g}", "limit": f"{limit:.3g}"}
    if not error <= limit:
        found |= {"status": "gate_failed", "reason": f"the error is {error:.1e}, native's {natives:.1e}"}
    return found


def _error(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).abs().max() / truth.abs().max())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _text(line: dict[str, object]) -> str:
    out = io.StringIO()
    csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n").writerow(line)
    return out.getvalue()
