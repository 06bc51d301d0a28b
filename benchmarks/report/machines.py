"""Reports of several machines side by side: one folder each, and a page over them. Nothing is averaged over machines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.analysis import data
from benchmarks.report.cells import markdown
from benchmarks.report.html import Part
from benchmarks.report.provenance import Source
from benchmarks.run import archive
from benchmarks.run.archive import holds_rows
from benchmarks.run.merge import PARTS

_NOT_RESULTS = ("smoke", "micro")  # what trial runs write beside the reports
_SHOWN = ("time_ratio", "memory", "sparsity_effects")  # of these kinds the first figure is on the page


def has_rows(out: Path) -> bool:
    """Whether `out` is the report of one machine."""
    return holds_rows(out)


def folders(out: Path) -> list[Path]:
    """Return the folders below `out` that hold the report of one machine each, not those of runs stopped before a row."""
    found = (path for path in out.glob("*") if path.name not in _NOT_RESULTS and has_rows(path))
    return sorted(path for path in found if any(True for _ in archive.rows(path / "raw")))


def reports(out: Path) -> list[Path]:
    """Return `out` if it holds rows, else the folders below that do.

    Raises ValueError if there are none.
    """
    found = [out] if has_rows(out) else folders(out)
    if not found:
        raise ValueError(f"out: expected a folder with rows below raw/, or one of several machines, got {described(out)}")
    return found


def described(out: Path) -> str:
    """The folder `out` in a message: that it is not there, if so, and that rows of a trial run lie below, if they do."""
    if not out.exists():
        return f"{out}, which does not exist"
    trials = [str(out / name) for name in _NOT_RESULTS if has_rows(out / name)]
    if (out / PARTS).is_dir():
        return f"{out}, whose parts are not merged: `python -m benchmarks merge {out}`"
    return f"{out}" + (f"; trial runs are in {', '.join(trials)}" if trials else "")


def page(parts: Sequence[Part]) -> str:
    """Return the Markdown page over the reports `parts`."""
    many = len(parts) > 1
    text = [
        "# Benchmark reports",
        "A report is of one machine; "
        + ("they stand side by side and are never averaged. " if many else "those of further machines will stand beside it. ")
        + "[index.html](index.html) holds every point, to filter and to hover over: save it and open it.",
        _table(parts),
        *(
            []
            if any(set(part.data.cases["device"]) != {"cpu"} for part in parts)
            else ["**CPU figures: no GPU was measured.**"]
        ),
    ]
    for part in parts:
        first = "\n".join(f"- {headline.markdown()}" for headline in part.headlines)
        text += [f"## In short, on {part.folder}" if many else "## In short", _prefixed(first, part.folder)]
        text += [_figure(part.folder, source) for source in _chosen(part.sources)]
        text.append(
            f"Every number above is computed from the rows in [{part.folder}/raw]({part.folder}/raw). "
            f"[The full report]({part.folder}/README.md) has all figures and tables, "
            f"[REPRODUCIBILITY.md]({part.folder}/REPRODUCIBILITY.md) how to get them again."
        )
    return "\n\n".join(text) + "\n"


def _table(parts: Sequence[Part]) -> str:
    return markdown(
        {
            "report": [f"[{part.folder}]({part.folder}/README.md)" for part in parts],
            "machine": ["; ".join(data.machines(part.data)) for part in parts],
            "device": [", ".join(sorted(set(part.data.cases["device"]))) for part in parts],
            "cases": [f"{len(part.data.cases):,}" for part in parts],
            "ok": [f"{int((part.data.cases['status'] == 'ok').sum()):,}" for part in parts],
            "last finished": [max(row.finished_at for row in part.data.rows) for part in parts],
            "commit": [", ".join(sorted({f"`{row.commit[:12]}`" for row in part.data.rows})) for part in parts],
        }
    )


def _chosen(sources: Sequence[Source]) -> list[Source]:
    figures = [source for source in sources if source.kind == "figure"]
    firsts = (next((source for source in figures if source.name.partition("-")[0] == kind), None) for kind in _SHOWN)
    return [source for source in firsts if source is not None]


def _figure(folder: str, source: Source) -> str:
    alternative = source.caption.replace("`", "").split(". ")[0]
    line = _prefixed(source.line, folder)
    return f"![{alternative}]({folder}/figures/{source.name}.png)\n\n*{source.caption}*\n\n{line}"


def _prefixed(text: str, folder: str) -> str:
    """The Markdown `text` with its links leading below `folder`."""
    return re.sub(r"\]\((?!https?:)", f"]({folder}/", text)
