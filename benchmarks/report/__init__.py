"""Tables, figures and the report pages, rendered from stored rows alone. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd

from benchmarks import kinds
from benchmarks.analysis import data as stored
from benchmarks.kinds.kind import resolved
from benchmarks.report import (
    figures,
    findings,
    gpu,
    headlines,
    html,
    machines,
    page,
    provenance,
    reproducibility,
    sparsity,
    tables,
)
from benchmarks.report.ids import table_id

_MANIFEST = "rendered.json"
_TITLE = "efficient-kan-bench: report"


def render(out: Path) -> dict[Path, int]:
    """Render the report of `out` from its rows, or those of the machines below it and the pages over them.

    The rows below `out`/raw give `out`/{figures/, tables/, README.md, REPRODUCIBILITY.md, index.html,
    rendered.json}. A folder without rows whose folders hold some has each of them rendered, and README.md and index.html
    over them. Where `gpu-run` brought back all but rows, README.md, figures/ and tables/ show that.

    Equal rows give equal bytes. Everything is drawn aside first and then moved into place file by file, so that a failure
    leaves the former report as it was. `rendered.json` maps each rendered file to its SHA-256; files that a former
    rendering listed and this one no longer makes are removed, all others are left alone.

    Returns the folders that were written, with their numbers of files. Raises ValueError if `out` holds no finished case, a
    damaged row or one of another schema version, or cannot be written to.
    """
    out = Path(out)
    if not machines.has_rows(out) and gpu.load(out) is not None:
        _without_rows(out)
        return {out: _written(out)}
    folders = machines.reports(out)
    parts = [_one(folder) for folder in folders]
    if folders == [out]:
        return {out: _written(out)}
    parts.sort(key=lambda part: -len(part.data.cases))  # what is read first is what tells most
    with _aside(out) as aside:
        (aside / "README.md").write_text(machines.page(parts), encoding="utf-8")
        (aside / "index.html").write_text(html.index(parts, _TITLE), encoding="utf-8")
    return {folder: _written(folder) for folder in (*folders, out)}


def _written(out: Path) -> int:
    return len(json.loads((out / _MANIFEST).read_text(encoding="utf-8"))) + 1


def _one(out: Path) -> html.Part:
    """Render the report of one machine and return it as a part of a page."""
    data = stored.load(out)
    with _aside(out) as aside:
        for folder in ("figures", "tables"):
            (aside / folder).mkdir()
        studies = sparsity.studies(data)
        made = _tables(data, studies, out)
        full = [table for table in made.values() if not table.frame.empty]
        for table in full:
            table.save(aside / "tables")
        drawn = [*figures.draw_all(data, studies, aside / "figures"), *gpu.figures(out, aside / "figures")]
        sources = provenance.write(data, full, drawn, aside)
        first, found = headlines.headlines(made), findings.findings(made)
        part = html.Part("", data, studies, first, found, list(sources.values()))
        texts = {
            "README.md": page.page(data, studies, made, drawn, sources, gpu.text(out)),
            "REPRODUCIBILITY.md": reproducibility.reproducibility(data, sources.values()),
            "index.html": html.index([part], _TITLE),
        }
        for name, text in texts.items():
            (aside / name).write_text(text, encoding="utf-8")
    return replace(part, folder=out.name)


def _without_rows(out: Path) -> None:
    """Render what a run on a GPU wrote beside rows."""
    made = {table.name: table for table in gpu.tables(out)}
    with _aside(out) as aside:
        for folder in ("figures", "tables"):
            (aside / folder).mkdir()
        drawn = gpu.figures(out, aside / "figures")
        full = [table for table in made.values() if not table.frame.empty]
        for table in full:
            table.save(aside / "tables")
        section = page.gpu_section(gpu.text(out), made, drawn, provenance.of_files(full, drawn, aside))
        text = ["# Report of a run on a GPU", "No row came back: the stages below say why.", *section]
        (aside / "README.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _tables(data: stored.Data, studies: Sequence[sparsity.Study], out: Path) -> dict[str, tables.Table]:
    """Every table by its name; one of which there are no rows is empty."""
    over_all = (tables.summary(data), findings.overall(data), tables.equivalence(data), tables.failed(data))
    of_kinds = (table for kind in kinds.every() if kind.tables for table in resolved(kind.tables)(data, studies))
    made: list[tables.Table] = [*over_all, *of_kinds, *gpu.tables(out)]
    return {table.name: table for table in made}


def frames(out: Path) -> dict[str, pd.DataFrame]:
    """Return the values of every table of `out` by its id, from the rows. Raises ValueError as `render` does."""
    data = stored.load(out)
    made = _tables(data, sparsity.studies(data), out).values()
    return {table_id(table.name): table.frame for table in made if not table.frame.empty}


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """Give a folder to render into; what it holds at the end without an error takes the place of the former report."""
    try:
        made = tempfile.TemporaryDirectory(dir=out, prefix=".render-")
    except OSError as error:
        raise ValueError(f"out: expected a folder to write to, got {out}: {error.strerror}") from error
    with made as name:
        aside = Path(name)
        yield aside
        _move(aside, out)


def _move(aside: Path, out: Path) -> None:
    files = sorted(path.relative_to(aside).as_posix() for path in aside.rglob("*") if path.is_file())
    digests = {name: hashlib.sha256((aside / name).read_bytes()).hexdigest() for name in files}
    former = out / _MANIFEST
    stale = _listed(former) - set(files)
    (aside / _MANIFEST).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
    for name in [*files, _MANIFEST]:
        (out / name).parent.mkdir(exist_ok=True)
        (aside / name).replace(out / name)
    for name in stale:
        (out / name).unlink(missing_ok=True)


def _listed(manifest: Path) -> set[str]:
    """The files that a former rendering wrote. Raises ValueError if its list is damaged."""
    if not manifest.exists():
        return set()
    try:
        return set(dict(json.loads(manifest.read_text(encoding="utf-8"))))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"out: expected the list of a former rendering, got {manifest}; remove it and render again") from error
