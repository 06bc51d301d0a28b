"""Fingerprint of the source text that decides what a case measures."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.cases import Case
from reference.arm import get_arm

ROOT = Path(__file__).resolve().parents[1]

_BY_KIND = {
    "speed": ("benchmarks.measure.speed", "benchmarks.measure.gate"),
    "penalty_cost": ("benchmarks.measure.speed", "benchmarks.measure.gate"),
    "memory": ("benchmarks.measure.memory",),
    "sparsity": ("benchmarks.measure.training", "benchmarks.tasks"),
}
_ALWAYS = ("benchmarks.measure.workload", "benchmarks.measure.case", "benchmarks.worker")


@cache
def _text_hash(module: str) -> str:
    """Hash of a module, or of all modules of a package, by dotted name below the repository root. Nothing is imported."""
    path = ROOT.joinpath(*module.split("."))
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    if not files or not all(file.is_file() for file in files):
        raise ValueError(f"sources: expected a module or package in this repository, got {module!r}")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def source_hash(case: Case, plugin: Path | None = None) -> str:
    """Return a hash over the source of the case's arm, its baseline, the measurement and, where gated, oracle and yardstick."""
    arms = [get_arm(name) for name in (case.arm, case.baseline) if name]
    modules = {*_ALWAYS, *_BY_KIND[case.kind], *(module for arm in arms for module in arm.sources)}
    if case.kind in ("speed", "penalty_cost") and any(arm.exact for arm in arms):
        for name in ("cox_de_boor", "pykan[speed]"):
            modules.update(get_arm(name).sources)
    parts = [_text_hash(module) for module in sorted(modules)]
    if plugin is not None:
        parts.append(hashlib.sha256(plugin.read_bytes()).hexdigest())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the installed versions that can change a result."""
    found = {}
    for name in ("torch", "pykan", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
