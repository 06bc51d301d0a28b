"""Environments of arms, made of a package built here: no network."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from reference import environments
from reference.arm import ARMS, Unsupported
from reference.environments import Environment

SHADOWED = "tabulate"  # small, without dependencies, and installed here in another version


@pytest.fixture(autouse=True)
def _prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    (tmp_path / "prefix").mkdir()


@pytest.fixture
def shadow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    environment = Environment("shadow", (str(wheel(tmp_path, "0.0.1")),))
    monkeypatch.setitem(environments.ENVIRONMENTS, "shadow", environment)
    return environment


def wheel(folder: Path, version: str) -> Path:
    """Write a wheel of the distribution and module SHADOWED, which knows its version."""
    info = f"{SHADOWED}-{version}.dist-info"
    files = {
        f"{SHADOWED}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {SHADOWED}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\n"
        for name, text in files.items()
    )
    target = folder / f"{SHADOWED}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for name, text in (files | {f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}).items():
            archive.writestr(name, text)
    return target


def test_every_environment_of_an_arm_is_declared() -> None:
    named = {arm.environment for arm in ARMS.values() if arm.environment}
    assert named == set(environments.ENVIRONMENTS)
    for name in named:
        assert environments.get_environment(name).name == name


def test_an_unknown_name_is_refused_with_the_choices(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"environment: expected one of pykan-0\.0\.5, got 'pykan'"):
        environments.interpreter("pykan")
    monkeypatch.setattr(sys, "argv", ["environments", "pykan"])
    with pytest.raises(SystemExit) as stopped:
        environments.main()
    assert stopped.value.code == 2
    assert "expected one of pykan-0.0.5" in capsys.readouterr().err


def test_a_missing_environment_names_the_command_that_makes_it() -> None:
    with pytest.raises(Unsupported, match=r"`python -m reference\.environments pykan-0\.0\.5`"):
        environments.interpreter("pykan-0.0.5")


def test_its_own_package_hides_the_borrowed_one(shadow: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["environments", "shadow"])
    with pytest.raises(SystemExit) as stopped:
        environments.main()
    assert not stopped.value.code
    python = environments.interpreter("shadow")
    code = (
        f"import importlib.metadata, json, sys, {SHADOWED}, packaging;"
        f"print(json.dumps([{SHADOWED}.version, importlib.metadata.version('{SHADOWED}'), packaging.__file__, sys.prefix]))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    import packaging

    folder = environments.folder("shadow")
    assert json.loads(done.stdout) == ["0.0.1", "0.0.1", packaging.__file__, str(folder)]
    own = {path.name for path in folder.glob("lib/*/site-packages/*")} - {"__pycache__"}
    assert own == {f"{SHADOWED}.py", f"{SHADOWED}-0.0.1.dist-info", "borrowed.pth"}


def test_making_again_changes_nothing_until_the_recipe_does(
    shadow: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = environments.make(shadow)
    mark = environments.folder("shadow") / "mark"
    mark.touch()
    assert environments.make(shadow) == python
    assert mark.exists()
    newer = Environment("shadow", (str(wheel(tmp_path, "0.0.2")),))
    monkeypatch.setitem(environments.ENVIRONMENTS, "shadow", newer)
    with pytest.raises(Unsupported, match="out of date"):
        environments.interpreter("shadow")
    assert environments.make(newer) == python
    assert not mark.exists()
    done = subprocess.run(
        [python, "-c", f"import {SHADOWED}; print({SHADOWED}.version)"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0.0.2\n"
    assert [path.name for path in python.parents[2].iterdir()] == ["shadow"]


def test_a_failed_installation_leaves_nothing_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Environment("broken", (str(tmp_path / "absent-1.0-py3-none-any.whl"),))
    with pytest.raises(subprocess.CalledProcessError):
        environments.make(broken)
    monkeypatch.setitem(environments.ENVIRONMENTS, "broken", broken)
    monkeypatch.setattr(sys, "argv", ["environments", "broken"])
    with pytest.raises(SystemExit) as stopped:
        environments.main()
    assert stopped.value.code
    assert "broken: not made" in capsys.readouterr().err
    assert list(environments.folder("broken").parent.iterdir()) == []
    assert not environments.is_made(broken)
