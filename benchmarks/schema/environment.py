"""Where a run takes place: versions, commit, processor, limits, load. Read without importing torch."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import distributions
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from benchmarks.schema import nvml
from benchmarks.schema.meaning import ROOT
from benchmarks.schema.rows import Environment

try:
    import archspec.cpu as archspec
except ModuleNotFoundError:  # on a borrowed machine: names of processors then say less
    archspec = None

# What can be known only by loading the libraries, asked in a process of its own.
_PROBE = """
import json, torch
from threadpoolctl import threadpool_info
import numpy
cuda = torch.cuda.is_available()
print(json.dumps({
    "torch": torch.__version__,
    "torch_config": torch.__config__.show(),
    "torch_threads": torch.__config__.parallel_info(),
    "cuda": torch.version.cuda if cuda else None,
    "cudnn": torch.backends.cudnn.version() if cuda else None,
    "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
    "float32_matmul_precision": torch.get_float32_matmul_precision(),
    "thread_pools": [{k: v for k, v in pool.items() if k != "filepath"} for pool in threadpool_info()],
}))
"""
_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX"}  # by the flag of a processor, widest first
COMMIT = "EFFICIENT_KAN_COMMIT"


def capture(run_id: str, command: str) -> Environment:
    """Return the environment of the run `run_id`.

    `env_id` identifies machine, versions and commit; load, clocks, start and run do not enter it.
    """
    commit, dirty = git_commit()
    lasting: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_kind": _cpu_kind(),
        "cpu_features": _cpu_features(),
        "host": host(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": psutil.cpu_count(logical=True),
        "cores_usable": _usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "cgroup": _cgroup_limits(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "packages": sorted({f"{d.name}=={d.version}" for d in distributions()}),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(("OMP_", "MKL_", "KMP_", "CUDA_VISIBLE"))},
        "libraries": libraries(),
    }
    gpu = nvml.describe() or "\n".join(libraries()["devices"]) or None
    identity = json.dumps([lasting, gpu, commit, dirty], sort_keys=True)
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    passing = {
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "memory_available_bytes": psutil.virtual_memory().available,
        "cpu_mhz": frequency.current if frequency else None,
        "gpu_state": [reading.model_dump() for reading in nvml.readings()] or None,
    }
    return Environment(
        env_id=hashlib.sha256(identity.encode()).hexdigest()[:12],
        run_id=run_id,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        commit=commit,
        dirty=dirty,
        machine=machine(),
        versions={"python": platform.python_version()} | _named_versions(),
        gpu=gpu,
        details=lasting | passing,
    )


@cache
def machine() -> str:
    """Return the hardware in words: processor and its kind, usable cores, memory, and the GPU that torch can use."""
    gibibytes = round(psutil.virtual_memory().total / 2**30)
    kind = _cpu_kind()
    words = [f"{_cpu_name()}{f' ({kind})' if kind else ''}, {_usable_cores()} cores, {gibibytes} GiB"]
    return " with ".join(words + sorted(set(libraries()["devices"])))


def host() -> str:
    """Return a hash of this machine's own names: it tells two machines apart whose `machine` is the same."""
    names = (platform.node(), _read("/etc/machine-id") or "")
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:12]


def places(device: str) -> Iterator[str]:
    """Yield names for the report folder of this machine, without end: a later one is for where another machine has the former.

    The first is 'cpu-2core', or after the GPU on which `device` runs; then with the kind of processor, if it is known, as
    'cpu-2core-zen2'; then that with numbers from 2.

    Raises ValueError if torch finds no such GPU.
    """
    name = _slug(gpu_name(device)) if device.startswith("cuda") else f"cpu-{_usable_cores()}core"
    yield name
    if kind := _cpu_kind():
        name += f"-{_slug(kind.partition(',')[0])}"
        yield name
    for number in count(2):
        yield f"{name}-{number}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def gpu_name(device: str) -> str:
    """Return the name of the GPU that `device`, cuda or cuda:N, is. Raises ValueError if torch finds no such GPU."""
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise ValueError(f"device: expected cuda or cuda:N, got {device!r}")
    number, found = int(device.partition(":")[2] or 0), libraries()["devices"]
    if number >= len(found):
        names = ", ".join(f"cuda:{index}" for index in range(len(found))) or "no GPU"
        raise ValueError(f"device: expected cpu or a GPU that this torch finds ({names}), got {device}")
    return str(found[number])


def require(devices: Iterable[str]) -> None:
    """Raise ValueError if one of `devices` is a GPU that torch does not find. Without a GPU among them torch is not asked."""
    for device in sorted(set(devices)):
        if device.startswith("cuda"):
            gpu_name(device)


@cache
def libraries() -> dict[str, Any]:
    """Return what the numerical libraries say of themselves: builds, BLAS, thread pools, devices.

    Raises RuntimeError if torch cannot be imported.
    """
    command = [sys.executable, "-W", "ignore", "-c", _PROBE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"the numerical libraries do not load: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def resolve_device(device: str) -> str:
    """Return `device`, or for "auto" the first GPU if torch finds one, else the CPU."""
    if device != "auto":
        return device
    return "cuda" if libraries()["devices"] else "cpu"


def git_commit(root: Path = ROOT) -> tuple[str, bool | None]:
    """Return the commit of the checkout `root` and whether its files differ from it.

    New files count as differences, but not what runs and renders write under reports/: it decides no measurement. Where git or
    its folder is missing, the environment variable EFFICIENT_KAN_COMMIT says both: a hash, with '+dirty' after it if files
    differ; without it the commit is ("unknown", None).

    Raises ValueError if that variable holds anything else.
    """
    git = shutil.which("git")
    head = None if git is None else _run(git, "-C", str(root), "rev-parse", "HEAD")
    if git is None or head is None:
        return _given_commit()
    status = _run(git, "-C", str(root), "status", "--porcelain", "--untracked-files=normal", "--", ".", ":!reports")
    return head, None if status is None else bool(status)


def version_at(commit: str) -> str | None:
    """Return the version of this project at `commit`; None where git does not know that."""
    git = shutil.which("git")
    text = None if git is None else _run(git, "-C", str(ROOT), "show", f"{commit}:pyproject.toml")
    return None if text is None else str(tomllib.loads(text)["project"]["version"])


def _given_commit() -> tuple[str, bool | None]:
    given = os.environ.get(COMMIT, "")
    if not given:
        return "unknown", None
    if (found := re.fullmatch(r"([0-9a-f]{7,40})(\+dirty)?", given)) is None:
        raise ValueError(f"{COMMIT}: expected the hash of a commit, with '+dirty' after it if files differ, got {given!r}")
    return found[1], found[2] is not None


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _named_versions() -> dict[str, str]:
    installed = {d.name.lower(): d.version for d in distributions()}
    return {name: installed.get(name, "not installed") for name in ("torch", "numpy", "pykan")}


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    return (archspec.brand_string() if archspec else None) or platform.processor() or platform.machine()


def _cpu_kind() -> str | None:
    """Return what tells processors of one name apart, as virtual machines show them: microarchitecture and widest vectors.

    Where a virtual machine hides what a microarchitecture has, archspec names the level that is left, such as x86_64_v4. None
    where it is not installed, or knows no more than the processor's family.
    """
    if archspec is None:
        return None
    host = archspec.host()
    vectors = [words for flag, words in _VECTORS.items() if flag in host.features]
    if host.vendor == "generic" and not vectors:
        return None
    return ", ".join([str(host.name), *vectors[:1]])


def _cpu_features() -> list[str]:
    """Return the extensions of the instruction set by archspec's names."""
    return sorted(archspec.host().features) if archspec else []


def _cgroup_limits() -> dict[str, str]:
    names = {"cpu.max": "/sys/fs/cgroup/cpu.max", "memory.max": "/sys/fs/cgroup/memory.max"}
    return {name: text for name, path in names.items() if (text := _read(path)) is not None}


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
