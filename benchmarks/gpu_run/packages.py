"""Packages that a machine lacks, from a folder of wheels, for this process and those that it starts.

They go into a scratch folder in front of the machine's own packages, which stay as they are. This module runs before anything
that is not in the standard library is imported.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

OPTION = "--wheels"
_PIP = (
    *("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"),
    *("--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade", "--target"),
)
_used: dict[Path, tuple[str, ...]] = {}


def named(words: Sequence[str]) -> Path | None:
    """Return the folder that the command line `words` names for `gpu-run`, if it does."""
    if words[:1] != ["gpu-run"]:
        return None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == OPTION and following:
            return Path(following)
        if word.startswith(f"{OPTION}="):
            return Path(word.partition("=")[2])
    return None


def use(folder: Path) -> tuple[str, ...]:
    """Make the packages of the wheels in `folder` importable. Return a sentence for each wheel that is left out.

    A package that the machine has in the very version of the wheel is left to it. Called again, it does nothing.

    Raises ValueError if there is no wheel in `folder`.
    """
    place = folder.resolve()
    if place in _used:
        return _used[place]
    wheels = sorted(place.glob("*.whl")) if place.is_dir() else []
    if not wheels:
        what = "without a wheel" if place.is_dir() else "which is no folder"
        raise ValueError(f"wheels: expected a folder with *.whl files, got {folder}, {what}")
    target = Path(tempfile.mkdtemp(prefix="wheels-"))
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    _used[place] = tuple(_install([wheel for wheel in wheels if not _is_there(wheel)], target))
    sys.path.insert(0, str(target))
    importlib.invalidate_caches()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(target), os.environ.get("PYTHONPATH"))))
    return _used[place]


def _install(wheels: Sequence[Path], target: Path) -> list[str]:
    """Install `wheels` at once or, where one of them stops the others, one by one."""
    if not wheels or _pip(wheels, target) is None:
        return []
    failures = ((wheel, _pip([wheel], target)) for wheel in wheels)
    return [f"{wheel.name} cannot be used: {reason}" for wheel, reason in failures if reason is not None]


def _pip(wheels: Sequence[Path], target: Path) -> str | None:
    """Return why pip refuses the wheels, None if it does not."""
    command = [sys.executable, *_PIP, str(target), *map(str, wheels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.returncode:
        return None
    lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if "WARNING" not in line]
    return lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with {done.returncode}"


def _is_there(wheel: Path) -> bool:
    """Whether the machine has the package in this version, by the wheel's name: NAME-VERSION-TAGS.whl."""
    name, version, *_ = wheel.name.split("-")
    try:
        return importlib.metadata.version(name).partition("+")[0] == version.partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return False


def left_out() -> tuple[str, ...]:
    """Return the sentences of all calls of `use`."""
    return tuple(sentence for sentences in _used.values() for sentence in sentences)
