"""How to cite a figure or a table: caption, where its files and rows are, and a BibTeX entry.

Its version is that of this project at the commit of the rows, left out where they have several or git does not know it.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from benchmarks.report.ids import matches
from benchmarks.report.machines import folders
from benchmarks.report.provenance import Source, read
from benchmarks.schema import environment

_ROOT = Path(__file__).resolve().parents[2]


def cite(wanted: str, out: Path) -> str:
    """Return the text for the id `wanted` ('F3' names every figure whose id begins so) in the report folder `out`.

    If `out` holds reports of several machines, one folder each, all of them are searched.

    Raises ValueError if nothing there has that id; the message lists those there are.
    """
    sources = known(out)
    if not sources:
        raise ValueError(f"out: expected a folder with a rendered report, got {out}; run `python -m benchmarks report` first")
    found = [(folder, source) for folder, source in sources if matches(wanted, source.id)]
    if not found:
        ids = sorted({source.id for _, source in sources}, key=_natural)
        raise ValueError(f"id: expected one of {', '.join(ids)}, got {wanted!r}")
    return "\n\n".join(_entry(folder, source) for folder, source in found)


def known(out: Path) -> list[tuple[Path, Source]]:
    """Return every figure and table in `out`, or in its folders of machines, in the order of their ids."""
    reports = folders(out) or [out]
    return [
        (folder, source)
        for folder in reports
        for source in sorted(
            (read(path) for kind in ("figures", "tables") for path in (folder / kind).glob("*.json")),
            key=lambda source: _natural(source.id),
        )
    ]


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort key by which F3 comes before F10."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", text)]


def _entry(folder: Path, source: Source) -> str:
    place = folder / source.folder
    commits = ", ".join(f"{commit} ({count} rows)" for commit, count in source.commits.items())
    environments = ", ".join(f"{name} ({count} rows)" for name, count in source.environments.items())
    return "\n".join(
        [
            source.id,
            f"Caption: {source.caption}",
            f"Files: {', '.join((place / name).as_posix() for name in source.files)}",
            f"Rows: {source.rows} of {(folder / 'raw').as_posix()} (schema {source.row_schema}), sha256 {source.rows_sha256}",
            f"Commit: {commits}",
            f"Environment: {environments}; {'; '.join(source.machines)}",
            f"Measured: {source.first_finished} to {source.last_finished}",
            "",
            _bibtex(folder.resolve().name, source),
        ]
    )


def _bibtex(report: str, source: Source) -> str:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    authors = " and ".join(f"{{{author['name']}}}" for author in project["authors"])
    commits = ", ".join(commit[:12] for commit in source.commits)
    what = f"{source.kind.capitalize()} {source.id} of {report}"
    versions = {environment.version_at(commit) for commit in source.commits}
    version = versions.pop() if len(versions) == 1 else None
    fields = {
        "author": authors,
        "title": f"{{{project['name']}: {project['description']}}}",
        "year": source.last_finished[:4],
        **({} if version is None else {"version": version}),
        "note": f"{what}; commit {commits}; rows sha256 {source.rows_sha256}",
    }
    key = re.sub(r"[^a-z0-9]+", "-", f"{project['name']}-{report}-{source.id}".lower()).strip("-")
    lines = ",\n".join(f"  {name:<7} = {{{_tex(value)}}}" for name, value in fields.items())
    return f"@software{{{key},\n{lines}\n}}"


def _tex(text: str) -> str:
    return re.sub(r"([_&%#])", r"\\\1", text)
