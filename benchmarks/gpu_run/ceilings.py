"""What this GPU reaches: bytes a second of a large copy, and operations a second of large matrix products.

Shares of these are what a kernel on this very machine, at its clocks, can be asked for; a datasheet's are not. A dry run takes
small sizes on the CPU.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_run import files, gpu_state
from benchmarks.gpu_run.stages import Job
from efficient_kan.kernels.cuda import problems, timing

PRODUCTS = {"ieee": "float32", "tf32": "tf32", "bf16": "half"}  # name -> kind in `problems`
_SIDE, _COPIED = 8192, 2**30  # of a product, and bytes that a copy reads


def measure(job: Job) -> None:
    """Write ceilings.json anew after every rate."""
    device = gpu_state.used(job.device)
    found: dict[str, Any] = {"dry_run": job.dry_run, "device": described(device), "before": gpu_state.read(device), "rates": {}}

    def add(name: str, unit: str, work: float, call: Callable[[], object]) -> None:
        samples = _samples(call, device)
        rate = work / (statistics.median(samples) * 1e-9)
        found["rates"][name] = {"unit": unit, "per_second": rate, "work": work, "ns": samples}
        files.replace(job.raw / files.CEILINGS, json.dumps(found | {"after": gpu_state.read(device)}, indent=1) + "\n")
        rates = ", ".join(f"{key} {one['per_second'] / 1e12:.3g} T{one['unit']}/s" for key, one in found["rates"].items())
        job.say(("dry run, on a CPU: " if job.dry_run else "") + rates)

    copied, side = (2**20, 64) if job.dry_run else (_COPIED, _SIDE)
    source = torch.randint(256, (copied,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    add("copy", "B", 2.0 * copied, partial(target.copy_, source))
    del source, target
    for name, kind in reversed(PRODUCTS.items()):
        a, b = (torch.randn(side, side, device=device).to(problems.KINDS[kind][0]) for _ in range(2))
        out = torch.empty_like(a)
        with problems.products(kind):
            add(name, "FLOP", 2.0 * side**3, partial(torch.mm, a, b, out=out))


def _samples(call: Callable[[], object], device: torch.device) -> tuple[int, ...]:
    if device.type == "cuda":
        return timing.busy(call)
    return timing.measure([call], device).wall_ns


def described(device: torch.device) -> dict[str, Any]:
    """Name and size of the device, and the versions of what computes on it."""
    versions: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()}
    if device.type != "cuda":
        return {"name": "CPU (dry run)"} | versions
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    } | versions
