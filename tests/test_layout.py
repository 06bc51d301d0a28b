"""What may import what, the public names, and that the README tells the truth about files and code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import efficient_kan

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("efficient_kan", {"reference", "benchmarks", "tests", "pandas", "matplotlib"}),
        ("reference", {"benchmarks", "tests"}),
        ("benchmarks/report", {"torch", "kan", "efficient_kan"}),
    ],
)
def test_import_boundaries(folder: str, forbidden: set[str]) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    assert {str(file): imported(file) & forbidden for file in files if imported(file) & forbidden} == {}


def test_compilers_are_imported_in_their_own_rooms_alone() -> None:
    room = ROOT / "efficient_kan" / "kernels" / "cpu"
    users = [f for f in (ROOT / "efficient_kan").rglob("*.py") if imported(f) & {"numba", "llvmlite"}]
    assert users
    assert [str(f) for f in users if not f.is_relative_to(room)] == []


@pytest.mark.parametrize(
    "module",
    ["benchmarks.cli", "benchmarks.runner", "benchmarks.compare_text", "benchmarks.export", "benchmarks.parallel.node"],
)
def test_parents_never_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'kan' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_package_imports_without_its_optional_dependencies() -> None:
    optional = ("kan", "numba", "triton", "pandas", "matplotlib", "scipy", "sklearn")
    code = f"import sys, efficient_kan; sys.exit(any(name in sys.modules for name in {optional}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_public_names_are_frozen() -> None:
    expected = ["KAN", "KANLinear", "ResNetKAN", "SampleL1", "SampleStd", "Trained", "WeightL1", "train"]
    assert efficient_kan.__all__ == expected
    assert all(hasattr(efficient_kan, name) for name in efficient_kan.__all__)


def test_the_readmes_links_lead_to_files() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
