"""Where a run takes place: versions, commit, processor, limits, load. Read without importing torch."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import psutil

from benchmarks.rows import Environment
from benchmarks.sources import ROOT, versions


def capture(run_id: str, command: str) -> Environment:
    """Return the environment of the run `run_id`.

    `env_id` identifies machine, versions and commit; load, start and run do not enter it.
    """
    commit, dirty = git_commit()
    lasting: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": psutil.cpu_count(logical=True),
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "cgroup": _cgroup_limits(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "packages": sorted({f"{d.name}=={d.version}" for d in distributions()}),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(("OMP_", "MKL_", "KMP_", "CUDA_VISIBLE"))},
    }
    gpu = _gpu()
    identity = json.dumps([lasting, gpu, commit, dirty], sort_keys=True)
    passing = {
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "memory_available_bytes": psutil.virtual_memory().available,
    }
    return Environment(
        env_id=hashlib.sha256(identity.encode()).hexdigest()[:12],
        run_id=run_id,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        commit=commit,
        dirty=dirty,
        versions=versions() | {"python": platform.python_version()},
        gpu=gpu,
        details=lasting | passing,
    )


def git_commit(root: Path = ROOT) -> tuple[str, bool | None]:
    """Return the commit of the checkout `root` and whether its files differ from it; ("unknown", None) outside git.

    New files count as differences, but not what runs and renders write under reports/: it decides no measurement.
    """
    git = shutil.which("git")
    if git is None:
        return "unknown", None
    head = _run(git, "-C", str(root), "rev-parse", "HEAD")
    if head is None:
        return "unknown", None
    status = _run(git, "-C", str(root), "status", "--porcelain", "--untracked-files=normal", "--", ".", ":!reports")
    return head, None if status is None else bool(status)


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _gpu() -> str | None:
    tool = shutil.which("nvidia-smi")
    return (_run(tool, "--query-gpu=name,driver_version", "--format=csv,noheader") or None) if tool else None


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in (_read("/proc/cpuinfo") or "").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cgroup_limits() -> dict[str, str]:
    names = {"cpu.max": "/sys/fs/cgroup/cpu.max", "memory.max": "/sys/fs/cgroup/memory.max"}
    return {name: text for name, path in names.items() if (text := _read(path)) is not None}


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
