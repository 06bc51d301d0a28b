"""Keys by meaning: they outlive tidying, and change with what is computed."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.kinds import sources
from benchmarks.schema import meaning
from benchmarks.schema.cases import Case, Point
from benchmarks.schema.meaning import PACKAGES

CASE = Case(
    kind="speed",
    arm="efficient_kan",
    baseline="pykan[speed]",
    point=Point(batch=8, layers=(4, 4), grid_size=5),
    modes=("step",),
    blocks=1,
)
Repository = Callable[[], Path]


def of(text: str, *, name: str = "reference.one", root: Path, others: dict[str, str] | None = None) -> str:
    """The fingerprint of a small repository of one module, or of it and `others`."""
    shutil.rmtree(root, ignore_errors=True)
    for module, content in ({name: text} | (others or {})).items():
        path = root.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    sources.forget()
    return meaning.fingerprint(one for module in (name, *(others or {})) for one in meaning.below(root, module))


BEFORE = '''"""Module."""
from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LIMIT: int = 3
"""What it bounds."""


@cache
def area(radius: float, *, scale: float = 2.0) -> float:
    """Doc."""
    count: int = 0  # of nothing
    if radius > LIMIT:
        pass
    return math.pi * radius**2 * scale + count
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Module."""\n', ""),
        ('    """Doc."""\n', ""),
        ('"""What it bounds."""\n', ""),
        ("  # of nothing", "  # of something"),
        ("import math\nimport os\n", "import os, math\n"),
        ("LIMIT: int = 3", "LIMIT = 3"),
        ("radius: float", "radius: int"),
        (" -> float", ""),
        ("count: int = 0", "count = 0"),
        ("math.pi * radius**2 * scale", "(math.pi *\n            radius ** 2 * scale)"),
        ("from pathlib import Path", "from os import PathLike"),
        ("from typing import TYPE_CHECKING", "from typing import TYPE_CHECKING, Any"),
        ("from __future__ import annotations\n", ""),
    ],
)
def test_writing_it_otherwise_keeps_the_fingerprint(old: str, new: str, tmp_path: Path) -> None:
    assert old in BEFORE
    assert of(BEFORE, root=tmp_path / "r") == of(BEFORE.replace(old, new), root=tmp_path / "r")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("* scale", "+ scale"),
        ("radius**2", "radius**3"),
        ("radius > LIMIT", "radius >= LIMIT"),
        ("scale: float = 2.0", "scale: float = 2"),
        ("LIMIT: int = 3", "LIMIT: int = 4"),
        ("@cache\n", ""),
        ("import math", "import cmath as math"),
        ("        pass\n", "        return 0\n"),
        ("def area(", "def volume("),
        ("*, scale", "scale"),
        ("math.pi * radius**2 * scale", "math.pi * (radius**2 * scale)"),
    ],
)
def test_computing_something_else_changes_the_fingerprint(old: str, new: str, tmp_path: Path) -> None:
    assert old in BEFORE
    assert of(BEFORE, root=tmp_path / "r") != of(BEFORE.replace(old, new), root=tmp_path / "r")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("class A:\n    x: int = 1\n", "class A:\n    x: float = 1\n"),
        ("@jit\ndef f(x, n: constexpr): return x\n", "@jit\ndef f(x, n): return x\n"),
        ("@custom_op\ndef f(x: Tensor) -> Tensor: return x\n", "@custom_op\ndef f(x: Tensor) -> int: return x\n"),
    ],
    ids=["fields of a class", "Triton's constants", "schema of an operator"],
)
def test_annotations_that_the_program_reads_count(one: str, other: str, tmp_path: Path) -> None:
    assert of(one, root=tmp_path / "r") != of(other, root=tmp_path / "r")


USER = "from {package} import {module}\nfrom {package}.{module} import half\n\ndef f(x):\n    return {module}.half(half(x))\n"
HALF = "def half(x):\n    return x / 2\n"
TAIL = "def half(x):\n    return x // 2\n"


def test_a_module_may_be_renamed_and_moved(tmp_path: Path) -> None:
    def named(package: str, module: str) -> str:
        user = USER.format(package=package, module=module)
        return of(user, root=tmp_path / "r", others={f"{package}.{module}": HALF})

    assert named("efficient_kan", "halves") == named("efficient_kan", "parts") == named("reference.peers", "parts")


def test_the_same_name_from_another_module_counts(tmp_path: Path) -> None:
    def imported(module: str) -> str:
        others = {"efficient_kan.true": HALF, "efficient_kan.floor": TAIL}
        return of(f"from efficient_kan.{module} import half\nuse = half\n", root=tmp_path / "r", others=others)

    assert imported("true") != imported("floor")


def test_the_order_of_imports_follows_what_modules_compute(tmp_path: Path) -> None:
    def using(halves: str, floors: str) -> str:
        text = f"from reference import {', '.join(sorted((halves, floors)))}\nuse = 1\n"
        return of(text, root=tmp_path / "r", others={f"reference.{halves}": HALF, f"reference.{floors}": TAIL})

    assert using("a", "b") == using("b", "a") == using("c", "a")


def test_what_another_module_computes_counts(tmp_path: Path) -> None:
    def using(content: str) -> str:
        return of(USER.format(package="reference", module="part"), root=tmp_path / "r", others={"reference.part": content})

    assert using(HALF) != using(TAIL)


def test_a_local_variable_of_a_modules_name_is_no_module(tmp_path: Path) -> None:
    text = "from reference import part\n\ndef f(part):\n    return part\n"
    assert of(text, root=tmp_path / "r", others={"reference.part": HALF}) == of(
        text, root=tmp_path / "r", others={"reference.part": HALF}
    )
    moved = text.replace("part", "piece")
    assert of(text, root=tmp_path / "r", others={"reference.part": HALF}) != of(
        moved, root=tmp_path / "r", others={"reference.piece": HALF}
    )


def test_relative_imports_are_those_of_the_absolute_name(tmp_path: Path) -> None:
    absolute, relative = (f"from {of_}part import half\nuse = half\n" for of_ in ("efficient_kan.", "."))
    others = {"efficient_kan.part": HALF}
    found = [of(text, name="efficient_kan.user", root=tmp_path / "r", others=others) for text in (absolute, relative)]
    assert found[0] == found[1]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of this repository's packages."""
    for package in PACKAGES:
        for file in (meaning.ROOT / package).rglob("*.py"):
            copy = tmp_path / file.relative_to(meaning.ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    sources.forget()
    return tmp_path


def key(root: Path) -> str:
    sources.forget()
    return sources.source_hash(CASE, root=root)


def test_a_tidied_repository_keeps_its_keys(copied: Path) -> None:
    """Every file is written anew by another formatter, without comments and docstrings; a module gets another name."""
    before = key(copied)
    for file in copied.rglob("*.py"):
        tree = ast.parse(file.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        file.write_text(ast.unparse(tree).replace("efficient_kan.knots", "efficient_kan.vectors_of_knots"), encoding="utf-8")
    (copied / "efficient_kan" / "knots.py").rename(copied / "efficient_kan" / "vectors_of_knots.py")
    for file in copied.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"\bknots\b(?=[.,\n])", "vectors_of_knots", text) if _imports_knots(text) else text)
    assert key(copied) == before


def _imports_knots(text: str) -> bool:
    return re.search(r"^ *from efficient_kan import .*\bknots\b", text, re.MULTILINE) is not None


@pytest.mark.parametrize("module", ["efficient_kan/knots.py", "efficient_kan/linear.py", "benchmarks/measure/speed.py"])
def test_one_operator_changes_the_keys(module: str, copied: Path) -> None:
    before = key(copied)
    file = copied / module
    text = file.read_text(encoding="utf-8")
    changed = re.sub(r" - ", " + ", text, count=1) if " - " in text else text.replace(" + ", " - ", 1)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))
    file.write_text(changed, encoding="utf-8")
    assert key(copied) != before


def test_a_file_that_is_not_python_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source: expected Python, got one\.py"):
        of("def f(:", root=tmp_path / "r")
