"""Docstrings as the site shows them: an extension of griffe that turns their reStructuredText into Markdown."""

from __future__ import annotations

import re
from typing import Any

_MATH = re.compile(r"^\.\. math::\n", flags=re.MULTILINE)
_LITERAL = re.compile(r"( ?)::$", flags=re.MULTILINE)
_TABLE = re.compile(r"^=+(?: +=+)+\n(?:.+(?:\n|\Z))+", flags=re.MULTILINE)
_ROLE = re.compile(r":(?:class|meth|func|mod|data|attr):`~?(?:efficient_kan\.)?([^`]+)`")
_FORMULA = re.compile(r":math:(`[^`]+`)")


def markdown(text: str) -> str:
    """`text` with formulas, literal blocks, simple tables and roles as Markdown; formulas stay LaTeX, shown as code."""
    text = _TABLE.sub(_table, _MATH.sub("", text))  # what is left of a formula is an indented block
    text = _LITERAL.sub(lambda colons: "" if colons[1] else ":", text)
    return _FORMULA.sub(r"\1", _ROLE.sub(r"`\1`", text))


def _table(found: re.Match[str]) -> str:
    border, *lines = found[0].splitlines()
    starts = [column.start() for column in re.finditer("=+", border)]
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("="):
            continue
        cells = [line[a:b].strip().replace("|", r"\|") for a, b in zip(starts, [*starts[1:], None], strict=True)]
        if cells[0]:
            rows.append(cells)
        else:  # the row above goes on
            rows[-1] = [" ".join(filter(None, pair)) for pair in zip(rows[-1], cells, strict=True)]
    rows.insert(1, ["---"] * len(starts))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


class Docstrings:
    """Called by griffe with every object that it has loaded."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring; of attributes, griffe takes second names for types, and types from the line above."""
        if obj.docstring is None:
            return
        obj.docstring.value = markdown(obj.docstring.value)
        for section in obj.docstring.parsed:
            for attribute in section.value if section.kind.value == "attributes" else ():
                names = f"{attribute.name} {attribute.annotation}"
                attribute.annotation = getattr(obj.all_members.get(attribute.name), "annotation", None)
                if f"{names}:" in obj.docstring.value:
                    attribute.name = names
