"""Fingerprint of the source text that decides what a case measures."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import tasks
from benchmarks.cases import Case
from reference.arm import Arm, get_arm
from reference.environments import get_environment

ROOT = Path(__file__).resolve().parents[1]
# Data set -> environment variable with its folder.
IMAGE_FOLDERS = {"hyperkvasir": "HYPERKVASIR", "kvasir_v2": "KVASIR_V2"}

_TIMING = ("benchmarks.nvml", *(f"benchmarks.measure.{name}" for name in ("speed", "gate", "gpu", "graphs")))
_SIMULATION = tuple(f"benchmarks.measure.{name}" for name in ("simulate", "meta", "shortcuts", "live"))
_BY_KIND = {
    "speed": _TIMING,
    "penalty_cost": _TIMING,
    "memory": ("benchmarks.measure.memory", "benchmarks.measure.live"),
    "simulated": _SIMULATION,
    "frontier": (*_SIMULATION, "benchmarks.measure.frontier"),
    "sparsity": (
        *(f"benchmarks.study.{name}" for name in ("agreement", "original", "penalties", "stacked", "sweep", "training")),
        "benchmarks.tasks",
    ),
}
_BY_KIND["images"] = tuple(
    f"benchmarks.images.{name}"
    for name in ("labels", "sets", "trees", "offline", "transforms", "metrics", "settings", "training", "study")
)
_BY_KIND["head_cost"] = ("benchmarks.images.cost", "benchmarks.measure.speed", "benchmarks.measure.memory")
_IMAGE_PACKAGES = ("mlxtend", "pillow", "scikit-image", "scikit-learn")
_ALWAYS = (
    *(f"benchmarks.measure.{name}" for name in ("workload", "case", "precision")),
    *("benchmarks.worker", "benchmarks.forkserver"),
)
_GATED = ("speed", "penalty_cost")
_YARDSTICKS = ("cox_de_boor", "pykan[speed]")


@cache
def text_hash(module: str) -> str:
    """Hash of a module, or of all modules of a package, by dotted name below the repository root. Nothing is imported."""
    path = ROOT.joinpath(*module.split("."))
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    if not files or not all(file.is_file() for file in files):
        raise ValueError(f"sources: expected a module or package in this repository, got {module!r}")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _arms(case: Case) -> list[Arm]:
    """Return the arms that decide what `case` gives: its own, the baseline, and where gated the oracle and the yardstick."""
    arms = [get_arm(name) for name in (case.arm, case.baseline) if name]
    if case.kind in _GATED and any(arm.exact for arm in arms):
        arms += [get_arm(name) for name in _YARDSTICKS]
    return arms


def source_hash(case: Case, plugin: Path | None = None) -> str:
    """Return a hash over the source of the measurement and of every arm that decides what it gives."""
    modules = {*_ALWAYS, *_BY_KIND[case.kind], *(module for arm in _arms(case) for module in arm.sources)}
    parts = [text_hash(module) for module in sorted(modules)]
    if plugin is not None:
        parts.append(hashlib.sha256(plugin.read_bytes()).hexdigest())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def versions(case: Case) -> dict[str, str]:
    """Return the installed versions of Python and of the packages that decide what `case` gives."""
    packages = {"torch", "numpy", *(package for arm in _arms(case) for package in arm.packages)}
    if case.kind == "images":
        packages |= set(_IMAGE_PACKAGES)
    if case.sweep:
        packages |= {"scipy", *tasks.get_task(case.sweep.task).packages}
    found = {"python": platform.python_version()} | {name: _version(name) for name in sorted(packages)}
    if environment := get_arm(case.arm).environment:
        found |= dict(requirement.split("==") for requirement in get_environment(environment).requirements)
    if case.images and case.images.data in IMAGE_FOLDERS:
        # A case that found no images is to be tried again once they are there.
        found[case.images.data] = "given" if os.environ.get(IMAGE_FOLDERS[case.images.data]) else "not given"
    return found


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
