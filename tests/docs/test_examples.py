"""Every example of the documentation runs as it stands, and every page shows examples that run."""

from __future__ import annotations

import re
import runpy
import warnings
from pathlib import Path

import pytest

from tests.readme_lines import ROOT, blocks

DOCS = ROOT / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
PAGES = sorted(DOCS.glob("*.md"))
_INCLUDE = re.compile(r'^--8<-- "([^"]+)"$')


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.end_to_end
def test_an_example_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as for a reader: grids that are updated say by how much the function moves
        runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip(), "an example prints what it found"


def test_pages_show_no_other_code_than_the_examples_and_all_of_them() -> None:
    shown = [
        line for page in PAGES for block in blocks(page.read_text(encoding="utf-8"), "python") for line in block.splitlines()
    ]
    included = [match[1] for line in shown if (match := _INCLUDE.match(line))]
    assert len(included) == len(shown), [line for line in shown if not _INCLUDE.match(line)]
    assert sorted(included) == sorted(path.name for path in EXAMPLES)


def test_pictures_are_those_that_the_script_draws(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        drawn = runpy.run_path(str(DOCS / "pictures.py"))["draw"](tmp_path / "generated")
    assert [path.name for path in drawn] == ["trained.svg", "pruned.svg", "symbolic.svg"]
    committed = DOCS / "generated"
    assert {path.name for path in committed.iterdir()} == {path.name for path in drawn}
    for path in drawn[1:]:  # what is left after pruning is the same on every machine: the same panels and names
        text, kept = (one.read_text(encoding="utf-8") for one in (path, committed / path.name))
        assert text.count("<!--") == kept.count("<!--")
    linked = {name for page in PAGES for name in re.findall(r"\(generated/([^)]+)\)", page.read_text(encoding="utf-8"))}
    assert linked == {path.name for path in drawn}
