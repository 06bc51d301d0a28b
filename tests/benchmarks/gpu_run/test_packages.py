"""Packages from a folder of wheels: used without touching what is installed, and named where they cannot be."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu_run import packages

ROOT = Path(__file__).resolve().parents[3]


def wheel(folder: Path, name: str, version: str = "1.0", tag: str = "py3-none-any") -> Path:
    """A wheel whose one module holds its version."""
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n")
        file.writestr(f"{info}/RECORD", "")
    return path


def test_the_folder_is_read_off_the_command_line() -> None:
    assert packages.named(["gpu-run", "out", "--wheels", "w"]) == Path("w")
    assert packages.named(["gpu-run", "--wheels=w", "out"]) == Path("w")
    assert packages.named(["gpu-run", "out"]) is packages.named(["run", "--wheels", "w"]) is packages.named([]) is None
    assert packages.named(["gpu-run", "out", "--wheels"]) is None


def test_usable_wheels_are_importable_here_and_in_children_and_others_are_named(tmp_path: Path) -> None:
    import numpy

    wheel(tmp_path, "planted_package")
    wheel(tmp_path, "planted_elsewhere", tag="cp39-cp39-win_amd64")
    wheel(tmp_path, "numpy", version=numpy.__version__)  # the machine's own is as good: it stays
    code = f"""
import subprocess, sys
from pathlib import Path
from benchmarks.gpu_run import packages
for sentence in packages.use(Path({str(tmp_path)!r})):
    print(sentence)
assert packages.use(Path({str(tmp_path)!r})) == packages.left_out()
import planted_package
child = "import planted_package, numpy; print(planted_package.VERSION, numpy.__name__)"
subprocess.run([sys.executable, "-c", child], check=True)
import numpy
assert hasattr(numpy, "ndarray")
print(planted_package.__file__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    child, sentence, place = sorted(done.stdout.splitlines(), key=lambda line: ("/" in line, line))
    assert child == "1.0 numpy"
    assert sentence.startswith("planted_elsewhere-1.0-cp39-cp39-win_amd64.whl cannot be used: ")
    assert not Path(place).exists()  # scratch goes with the process


@pytest.mark.parametrize("words", [["--wheels", "{0}/none"], ["--wheels={0}"]])
def test_a_folder_without_wheels_is_refused_in_one_sentence(tmp_path: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "benchmarks", "gpu-run", str(tmp_path / "out"), *(w.format(tmp_path) for w in words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: wheels: expected a folder with *.whl files, got ") and done.stderr.count("\n") == 1
