"""The transcribed numbers: whole, well-formed, and equal to the notes where these lie beside the repository."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from benchmarks.papers import published
from benchmarks.schema.meaning import ROOT

NOTES = [folder / "facts" for folder in (ROOT.parent / "shared", ROOT.parent.parent / "shared")]


def notes(page: str) -> str:
    """The text of a page of notes."""
    for folder in NOTES:
        if (folder / page).is_file():
            return (folder / page).read_text(encoding="utf-8")
    pytest.skip(f"{page} does not lie beside the repository")


def ours(experiment: str) -> Mapping[tuple[str, str], str]:
    """Values by row and quantity."""
    return {(row, quantity): one.value for (name, row, quantity), one in published.table().items() if name == experiment}


def test_every_number_has_its_place() -> None:
    table = published.table()
    assert len(published.rows("special")) == 15 and len(published.rows("feynman")) == 24
    for one in table.values():
        assert one.row and one.place and "arXiv" in one.paper and one.page.endswith(".md")
        if one.quantity.endswith("shape"):
            assert re.fullmatch(r"\d+(-\d+)+", one.value)
        else:
            assert float(one.value) != 0


def test_special_functions_are_those_of_the_notes() -> None:
    text = notes("resnet-kan-and-papers.md").partition("best KAN shape RMSE | MLP:")[2].partition("Setup:")[0]
    found = {}
    for name, shape, kan, mlp in re.findall(r"(\w+) \[([\d,]+)\] (\d[\d.]*e-\d+)\|(\d[\d.]*e-\d+)", text):
        found |= {(name, "KAN shape"): shape.replace(",", "-"), (name, "KAN"): kan, (name, "MLP"): mlp}
    assert found == ours("special")


def test_feynman_rows_are_those_of_the_notes() -> None:
    found = {}
    for line in notes("kan-paper-feynman.md").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not re.match(r"I+\.\d", cells[0]):
            continue
        shapes = dict(zip(("human shape", "minimal shape", "pruned shape"), cells[2:5], strict=True))
        errors = dict(zip(("human", "pruned", "unpruned", "MLP"), cells[5:], strict=True))
        found |= {(cells[0], name): shape.strip("[]").replace(",", "-") for name, shape in shapes.items()}
        # A star marks a cell of which two copies of the paper disagree: it is not quoted.
        found |= {(cells[0], name): error for name, error in errors.items() if not error.endswith("*")}
    assert found == ours("feynman")


def test_other_numbers_stand_in_the_notes() -> None:
    for (experiment, row, quantity), one in published.table().items():
        if experiment not in ("special", "feynman"):
            text = notes(one.page).replace("−", "-")
            value = f"[{one.value.replace('-', ',')}]" if quantity.endswith("shape") else one.value
            assert value in text, (experiment, row, quantity)
