"""Fingerprint of the source that decides what a case measures."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.kinds import get_kind
from benchmarks.schema import meaning
from benchmarks.schema.cases import Case
from benchmarks.schema.meaning import ROOT
from reference.arm import Arm, get_arm
from reference.environments import get_environment

_ALWAYS = (
    *(f"benchmarks.measure.{name}" for name in ("workload", "case", "precision")),
    *("benchmarks.run.worker", "benchmarks.run.forkserver"),
)
_YARDSTICKS = ("cox_de_boor", "pykan[speed]")


@cache
def text_hash(module: str) -> str:
    """Hash of the text of a module, or of all modules of a package. Nothing is imported.

    It is quick, and changes with every character: within one run. What is kept from run to run goes by `source_hash`.
    """
    digest = hashlib.sha256()
    for one in meaning.below(ROOT, module):
        digest.update(one.name.encode() + b"\0" + one.path.read_bytes() + b"\0")
    return digest.hexdigest()


def _arms(case: Case) -> list[Arm]:
    """Return the arms that decide what `case` gives: its own, the baseline, and where gated the oracle and the yardstick."""
    arms = [get_arm(name) for name in (case.arm, case.baseline) if name]
    if get_kind(case.kind).paired and any(arm.exact for arm in arms):
        arms += [get_arm(name) for name in _YARDSTICKS]
    return arms


def _modules(case: Case) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The modules and packages that decide what `case` gives, and what of each does not: of measuring and of its arms."""
    whole = {(name, ()) for name in (*_ALWAYS, *get_kind(case.kind).sources)}
    return tuple(sorted(whole | {(name, arm.apart) for arm in _arms(case) for name in arm.sources}))


def source_hash(case: Case, plugin: Path | None = None, root: Path | None = None) -> str:
    """Return a hash of what the source computes that decides what `case` gives, see `benchmarks.schema.meaning`.

    `root` is the folder of the repository that holds the source (None: this one). Raises ValueError if it lacks a module.
    """
    parts = [_meaning(root or ROOT, _modules(case))]
    if plugin is not None:
        parts.append(_of_file(plugin.resolve(), plugin.stat().st_mtime_ns))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def forget() -> None:
    """Read the source anew when it is next asked for: hashes are kept, since a run asks for thousands."""
    for kept in (text_hash, _meaning, _of_file, meaning.form, meaning.is_file):
        kept.cache_clear()


@cache
def _meaning(root: Path, modules: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    return meaning.fingerprint(
        one
        for name, apart in modules
        for one in meaning.below(root, name)
        if not any(f"{one.name}.".startswith(f"{other}.") for other in apart)
    )


@cache
def _of_file(path: Path, _changed_at: int) -> str:
    return meaning.of_file(path, ROOT)


def state_hash(case: Case, plugin: Path | None = None) -> str:
    """Return a hash of the text of the same source: whether it changed, in any way, since a process of this run read it."""
    parts = [text_hash(module) for module, _ in _modules(case)]
    if plugin is not None:
        parts.append(hashlib.sha256(plugin.read_bytes()).hexdigest())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def versions(case: Case) -> dict[str, str]:
    """Return the installed versions of Python and of the packages that decide what `case` gives."""
    kind = get_kind(case.kind)
    packages = {"torch", "numpy", *(package for arm in _arms(case) for package in arm.packages), *kind.packages(case)}
    found = {"python": platform.python_version()} | {name: _version(name) for name in sorted(packages)}
    if environment := get_arm(case.arm).environment:
        found |= dict(requirement.split("==") for requirement in get_environment(environment).requirements)
    return found | kind.facts(case)


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
