"""What may import what, the public names, and that the README tells the truth about files and code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection
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
        ("efficient_kan", {"reference", "benchmarks", "tests", "pandas"}),
        ("reference", {"benchmarks", "tests"}),
        ("benchmarks/report", {"torch", "kan", "efficient_kan"}),
    ],
)
def test_import_boundaries(folder: str, forbidden: set[str]) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    assert {str(file): imported(file) & forbidden for file in files if imported(file) & forbidden} == {}


# The rooms of the benchmarks from the lowest to the highest: a module imports from its own layer and from those below. The
# longest name that fits a module is its place, so single modules of a room may stand lower or higher than the room.
LAYERS = (
    ("benchmarks", "benchmarks.schema", "benchmarks.tasks", "benchmarks.analysis.stats"),
    ("benchmarks.images.labels", "benchmarks.images.forecast", "benchmarks.study", "benchmarks.papers", "benchmarks.workflows"),
    ("benchmarks.kinds",),
    ("benchmarks.presets", "benchmarks.measure"),
    ("benchmarks.images",),
    ("benchmarks.run",),
    ("benchmarks.parallel", "benchmarks.images.command"),
    ("benchmarks.analysis",),
    ("benchmarks.report",),
    ("benchmarks.dev", "benchmarks.gpu_run", "benchmarks.study.pilot", "benchmarks.study.seeds"),
    ("benchmarks.cli", "benchmarks.__main__"),
)
UPWARD = {
    # Whether a kind has precisions of products is the kind's to say, and a case checks its point when it is made.
    ("benchmarks.schema.cases", "benchmarks.kinds"),
}


def _layer(module: str) -> int:
    found = [(len(name), level) for level, names in enumerate(LAYERS) for name in names if f"{module}.".startswith(f"{name}.")]
    return max(found)[1]


def _modules_of_the_benchmarks() -> dict[str, Path]:
    files = sorted((ROOT / "benchmarks").rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def _imported_modules(path: Path, known: Collection[str]) -> set[str]:
    """The modules of `known` that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            one_each = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= one_each & set(known) or {node.module}
    return names & set(known)


def test_the_rooms_of_the_benchmarks_import_one_way() -> None:
    modules = _modules_of_the_benchmarks()
    edges = {(name, target) for name, path in modules.items() for target in _imported_modules(path, modules)}
    assert len(edges) > 100
    assert sorted(edge for edge in edges - UPWARD if _layer(edge[0]) < _layer(edge[1])) == []


def test_the_root_of_the_benchmarks_holds_the_command_line_alone() -> None:
    assert {file.name for file in (ROOT / "benchmarks").glob("*.py")} == {"__init__.py", "__main__.py", "cli.py"}


def test_compilers_are_imported_in_their_own_rooms_alone() -> None:
    room = ROOT / "efficient_kan" / "kernels" / "cpu"
    users = [f for f in (ROOT / "efficient_kan").rglob("*.py") if imported(f) & {"numba", "llvmlite"}]
    assert users
    assert [str(f) for f in users if not f.is_relative_to(room)] == []


def test_matplotlib_is_imported_by_the_drawings_alone() -> None:
    users = {file.name for file in (ROOT / "efficient_kan").rglob("*.py") if "matplotlib" in imported(file)}
    typed = {"network.py", "picture.py", "plot.py"}  # for annotations
    assert users - typed == {"_drawing.py", "_panels.py"}


def test_parents_never_import_torch() -> None:
    parents = (
        "benchmarks.cli",
        "benchmarks.run.runner",
        "benchmarks.report.comparison",
        "benchmarks.analysis.export",
        "benchmarks.parallel.node",
    )
    code = f"""
import importlib, sys
for name in {parents}:
    importlib.import_module(name)
    assert not {{"torch", "kan"}} & sys.modules.keys(), name
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_imports_without_its_optional_dependencies() -> None:
    optional = ("kan", "numba", "triton", "pandas", "matplotlib", "scipy", "safetensors", "sklearn", "sympy")
    code = f"import sys, efficient_kan; sys.exit(any(name in sys.modules for name in {optional}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_public_names_are_frozen() -> None:
    expected = ["KAN", "KANConv2d", "KANLinear", "ResNetKAN", "SampleL1", "SampleStd", "Trained", "WeightL1", "train"]
    assert efficient_kan.__all__ == expected
    assert all(hasattr(efficient_kan, name) for name in efficient_kan.__all__)


def test_the_readmes_links_lead_to_files() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
