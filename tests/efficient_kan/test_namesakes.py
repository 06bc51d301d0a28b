"""Another distribution that installs ``efficient_kan`` is told of, once; and what this one says of itself holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest

from efficient_kan import _namesakes

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def install(folder: Path, name: str, **files: str) -> None:
    info = folder / name
    info.mkdir(parents=True)
    for file, content in files.items():
        (info / file.replace("_txt", ".txt")).write_text(content)


@pytest.mark.parametrize(
    ("info", "files", "expected"),
    [
        (
            "efficient_kan-0.1.0.dist-info",
            {"RECORD": "efficient_kan/__init__.py,sha256=x,1\nefficient_kan/kan.py,,\n"},
            ["efficient-kan"],
        ),
        ("Fast.KAN_thing-3.dist-info", {"RECORD": "a.py,,\nefficient_kan/__init__.py,,\n"}, ["fast-kan-thing"]),
        ("other-1.dist-info", {"RECORD": "a.py,,\r\nefficient_kan/__init__.py,,\r\n"}, ["other"]),
        ("quoted-1.dist-info", {"RECORD": '"efficient_kan/a,b.py",,\n'}, ["quoted"]),
        ("legacy-1-py3.11.egg-info", {"top_level_txt": "efficient_kan\n"}, ["legacy"]),
        ("develop.egg-info", {"top_level_txt": "tests\nefficient_kan\n"}, ["develop"]),
        ("efficient_kan_bench-0.1.0.dist-info", {"RECORD": "efficient_kan/__init__.py,,\n"}, []),
        ("efficient.kan.bench-9.dist-info", {"top_level_txt": "efficient_kan"}, []),
        (
            "near-1.dist-info",
            {"RECORD": "efficient_kan_tools/a.py,,\nx/efficient_kan/b.py,,\n", "top_level_txt": "efficient_kan2\n"},
            [],
        ),
        ("empty-1.dist-info", {}, []),
    ],
)
def test_distributions_of_the_same_package_are_found(
    info: str, files: dict[str, str], expected: list[str], tmp_path: Path
) -> None:
    install(tmp_path, info, **files)
    assert _namesakes.clashing([str(tmp_path), str(tmp_path), str(tmp_path / "nothing"), __file__]) == expected


def test_a_clash_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "efficient_kan-0.1.0.dist-info", RECORD="efficient_kan/__init__.py,,\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    message = r"efficient-kan install a package of this name.*pip uninstall efficient-kan efficient-kan-bench"
    with pytest.warns(UserWarning, match=message):
        _namesakes.warn_of_clash()
    monkeypatch.setattr(sys, "path", ["", str(ROOT)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _namesakes.warn_of_clash()


def test_an_import_tells_once(tmp_path: Path) -> None:
    install(tmp_path, "efficient_kan-0.1.0.dist-info", RECORD="efficient_kan/__init__.py,,\n")
    code = "import efficient_kan, efficient_kan.files, efficient_kan.kernels; efficient_kan.KAN([2, 1], kernel='native')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stderr.count("install a package of this name") == 1


def test_the_description_on_pypi_has_no_link_into_the_repository() -> None:
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = (ROOT / hook["fragments"][0]["path"]).read_text(encoding="utf-8")
    relative = r"\]\((?!https?:|#)"
    assert re.search(relative, text)
    for substitution in hook["substitutions"]:
        text = re.sub(substitution["pattern"], substitution["replacement"], text)
    assert not re.search(relative, text)
    assert "<!--" not in text
    for part in ("# efficient-kan-bench", "from efficient_kan import KAN", "| training step |"):
        assert part in text


def test_what_is_claimed_of_pythons_and_systems_is_what_is_tested() -> None:
    project = PROJECT["project"]
    claimed = [c for c in project["classifiers"] if c.startswith(("Operating System", "Programming Language :: Python :: 3."))]
    assert claimed == [
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{n}" for n in (11, 12, 13)),
    ]
    assert project["requires-python"] == ">=3.11"
    assert project["authors"] == [{"name": "efficient-kan-bench contributors"}]
