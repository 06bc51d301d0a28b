"""Environments of arms that need another version of a package than this one has: `python -m reference.environments [NAME ...]`.

An environment is a virtual environment in `sys.prefix`/peers/NAME that holds its own requirements and nothing else. Everything
it lacks it borrows: a .pth file lists the package folders of the environment that made it, after its own. So torch is the very
same build there, and the own version of a package hides the borrowed one. This module imports no torch.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import site
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from reference.arm import Unsupported

_RECIPE = "recipe.json"


class Parser(argparse.ArgumentParser):
    """A parser that refuses in one sentence, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and which options there are."""
        options = ", ".join(sorted({name for action in self._actions for name in action.option_strings if name[:2] == "--"}))
        self.exit(2, f"error: {message} (options: {options})\n")


@dataclass(frozen=True)
class Environment:
    """A name and the requirements, with exact versions, that are installed without their dependencies."""

    name: str
    requirements: tuple[str, ...]


ENVIRONMENTS: dict[str, Environment] = {
    environment.name: environment for environment in (Environment("pykan-0.0.5", ("pykan==0.0.5",)),)
}


def get_environment(name: str) -> Environment:
    """Return the environment called `name`. Raises ValueError, listing the choices, if none is declared."""
    if name not in ENVIRONMENTS:
        raise ValueError(f"environment: expected one of {', '.join(ENVIRONMENTS)}, got {name!r}")
    return ENVIRONMENTS[name]


def folder(name: str) -> Path:
    """Return where the environment called `name` belongs."""
    return Path(sys.prefix) / "peers" / name


def interpreter(name: str) -> Path:
    """Return the Python of the environment called `name`.

    Raises ValueError if no such environment is declared; `Unsupported`, naming the command that makes it, if it is not there or
    was made of other requirements or for another Python.
    """
    environment = get_environment(name)
    if not is_made(environment):
        raise Unsupported(
            f"the environment {name} is not there or out of date; make it with `python -m reference.environments {name}`"
        )
    return _python(folder(name))


def is_made(environment: Environment) -> bool:
    """Whether the environment is there and made as it would be made now."""
    try:
        found = (folder(environment.name) / _RECIPE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return found == _recipe(environment) and _python(folder(environment.name)).exists()


def make(environment: Environment) -> Path:
    """Make the environment unless it is there, and return its Python. It is made aside and renamed, so it is whole or absent.

    Raises CalledProcessError if the requirements cannot be installed, RuntimeError if there is neither pip nor uv to do so.
    """
    target = folder(environment.name)
    if is_made(environment):
        return _python(target)
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        aside = Path(scratch) / "new"
        _Builder(symlinks=os.name != "nt").create(aside)
        _install(aside, environment.requirements)
        borrow = _packages(aside) / "borrowed.pth"
        borrow.write_text("".join(f"{path}\n" for path in borrowed_folders()), encoding="utf-8")
        (aside / _RECIPE).write_text(_recipe(environment), encoding="utf-8")
        if target.exists() and not is_made(environment):  # of another recipe
            target.rename(Path(scratch) / "old")
        if not target.exists():  # else another process has just made the same
            aside.rename(target)
    return _python(target)


def borrowed_folders() -> list[str]:
    """Return the package folders of this environment, in the order in which they are searched."""
    users = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [path for path in [*users, *site.getsitepackages()] if Path(path).is_dir()]


class _Builder(venv.EnvBuilder):
    def setup_scripts(self, context: object) -> None:
        """Write no activation scripts: they would name the folder from which the environment is renamed."""


def _install(aside: Path, requirements: tuple[str, ...]) -> None:
    python = str(_python(aside))
    # By its metadata: setuptools has a hook on looking for the module, which complains where distutils is already imported.
    if any(importlib.metadata.distributions(name="pip")):
        command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--quiet", "--python", python]
    else:
        raise RuntimeError("neither pip in this environment nor uv on the path: nothing to install with")
    subprocess.run([*command, "--no-deps", *requirements], check=True)


def _recipe(environment: Environment) -> str:
    """Return what decides how the environment comes out."""
    parts = {"requirements": environment.requirements, "borrowed": borrowed_folders(), "python": sys.version}
    return json.dumps(parts, indent=1) + "\n"


def _python(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _packages(environment: Path) -> Path:
    """Return the folder that `pip install` writes packages to in a virtual environment of this Python."""
    major, minor = sys.version_info[:2]
    return environment / ("Lib/site-packages" if os.name == "nt" else f"lib/python{major}.{minor}/site-packages")


def main() -> None:
    """Make the environments named on the command line, or all. Exits with status 1 if one of them could not be made."""
    parser = Parser(prog="python -m reference.environments", description="Make the environments of arms.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(ENVIRONMENTS)}; default: all")
    failures = 0
    for name in parser.parse_args().names or ENVIRONMENTS:
        try:
            environment = get_environment(name)
        except ValueError as error:
            parser.error(str(error))
        there = is_made(environment)
        try:
            python = make(environment)
        except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
            sys.stderr.write(f"{name}: not made, {error}\n")
            failures += 1
        else:
            sys.stdout.write(f"{name}: {'is there' if there else 'made'}, {python}\n")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
