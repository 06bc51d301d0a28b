"""Which stored rows a figure or a table rests on: their hash, commits and environments, as a JSON file beside it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from benchmarks import kinds
from benchmarks.analysis.data import BASELINE, POINT, Data, slug
from benchmarks.report.figures import Entry
from benchmarks.report.ids import figure_id, table_id
from benchmarks.report.tables import Origin, Table
from benchmarks.schema.rows import SCHEMA_VERSION, Row

_SHOWN = 12  # digits of a hash in a text; the file has them all


@dataclass(frozen=True)
class Source:
    """What the file beside a figure or table says. `commits` and `environments` count the rows of each.

    `rows_sha256` is the SHA-256 of the rows as stored, one line each, in the order of their case keys.
    """

    id: str
    kind: Literal["figure", "table"]
    name: str
    caption: str
    files: Mapping[str, str]
    row_schema: int
    rows: int
    rows_sha256: str
    commits: Mapping[str, int]
    environments: Mapping[str, int]
    machines: Sequence[str]
    first_finished: str
    last_finished: str
    case_keys: Sequence[str]

    @property
    def folder(self) -> str:
        """Folder of its files, below the report."""
        return f"{self.kind}s"

    @property
    def line(self) -> str:
        """One line of Markdown: id, rows, commits, environments."""
        commits = ", ".join(f"`{_short_commit(commit)}`" for commit in self.commits)
        environments = ", ".join(f"`{environment}`" for environment in self.environments)
        where = f"environment {environments}" if environments else "no rows, but a file of the run"
        return (
            f"**{self.id}** · {self.rows} rows, `sha256:{self.rows_sha256[:_SHOWN]}` · commit {commits} · "
            f"{where} · [provenance]({self.folder}/{self.name}.json)"
        )


def write(data: Data, tables: Sequence[Table], figures: Sequence[Entry], folder: Path) -> dict[tuple[str, str], Source]:
    """Write `folder`/{figures,tables}/<name>.json for what stands there; return the sources by (kind, name)."""
    found = [
        _source(data, pd.read_csv(folder / "figures" / f"{entry.name}.csv", dtype=str), entry.caption, folder, entry.name)
        for entry in figures
        if entry.origin is None
    ]
    resting = [table for table in tables if table.origin is None]
    found += [_source(data, table.frame, table.caption, folder, table.name, table=True) for table in resting]
    return _written(found, folder) | of_files(tables, figures, folder)


def of_files(tables: Iterable[Table], figures: Iterable[Entry], folder: Path) -> dict[tuple[str, str], Source]:
    """Write and return the same of what rests on files, not on rows: their lines and hash stand for those of rows."""
    drawn = [_of_a_file(entry.origin, "figure", entry, folder) for entry in figures if entry.origin is not None]
    listed = [_of_a_file(table.origin, "table", table, folder) for table in tables if table.origin is not None]
    return _written([*drawn, *listed], folder)


def _written(found: Iterable[Source], folder: Path) -> dict[tuple[str, str], Source]:
    listed = list(found)
    for source in listed:
        text = json.dumps(asdict(source), indent=1, ensure_ascii=False)
        (folder / source.folder / f"{source.name}.json").write_text(text + "\n", encoding="utf-8")
    return {(source.kind, source.name): source for source in listed}


def read(path: Path) -> Source:
    """Return the source stored in the file `path`. Raises ValueError if it is none."""
    try:
        return Source(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"path: expected the provenance of a figure or table, got {path.name}: {error}") from error


def rows_hash(rows: Iterable[Row]) -> str:
    """Return the SHA-256 of `rows` as they are stored, one line each, in the order of their case keys."""
    lines = (row.model_dump_json() + "\n" for row in sorted(rows, key=lambda row: row.case_key))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _source(data: Data, frame: pd.DataFrame, caption: str, folder: Path, name: str, *, table: bool = False) -> Source:
    kind: Literal["figure", "table"] = "table" if table else "figure"
    if table and name == "summary":
        frame = _at_the_centre(data)
    elif name.startswith("sparsity"):
        frame = _of_the_study(data, name)
    rows = rows_behind(data, frame, _grouped(name) if table else None)
    return Source(
        id=table_id(name) if table else figure_id(name),
        kind=kind,
        name=name,
        caption=caption,
        files=_files(folder, kind, name),
        row_schema=SCHEMA_VERSION,
        rows=len(rows),
        rows_sha256=rows_hash(rows),
        commits=_counts(row.commit for row in rows),
        environments=_counts(row.env_id for row in rows),
        machines=sorted({row.machine for row in rows}),
        first_finished=min((row.finished_at for row in rows), default=""),
        last_finished=max((row.finished_at for row in rows), default=""),
        case_keys=sorted(row.case_key for row in rows),
    )


def _files(folder: Path, kind: str, name: str) -> dict[str, str]:
    """The files of a figure or table with their hashes."""
    found = sorted(path for path in (folder / f"{kind}s").glob(f"{name}.*") if path.suffix != ".json")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def _of_a_file(origin: Origin, kind: Literal["figure", "table"], shown: Entry | Table, folder: Path) -> Source:
    return Source(
        id=figure_id(shown.name) if kind == "figure" else table_id(shown.name),
        kind=kind,
        name=shown.name,
        caption=shown.caption,
        files=_files(folder, kind, shown.name),
        row_schema=SCHEMA_VERSION,
        rows=origin.lines,
        rows_sha256=origin.sha256,
        commits={origin.commit: origin.lines},
        environments={},
        machines=[origin.machine],
        first_finished=origin.started_at,
        last_finished=origin.started_at,
        case_keys=[],
    )


def _grouped(name: str) -> list[str] | None:
    """The kinds that a table of groups summarises, whose lines name no case; None for other tables."""
    return [kind.name for kind in kinds.every() if name in kind.grouped] or None


def rows_behind(data: Data, frame: pd.DataFrame, of_kinds: Sequence[str] | None = None) -> list[Row]:
    """Return the rows that decide the values of `frame`, whose columns `...case_key` name cases.

    With a named case go the other processes of its cell, the plain case that a penalised memory is compared with, and the
    rows of the noise floor. Without such columns: all rows of `of_kinds`, or every row.
    """
    columns = [column for column in map(str, frame.columns) if column.endswith("case_key")]
    if of_kinds is not None or not columns:
        return [row for row in data.rows if of_kinds is None or row.case.kind in of_kinds]
    keys = {key for column in columns for key in frame[column].dropna()}
    named = [row for row in data.rows if row.case_key in keys]
    cells = {(row.case.cell, row.machine) for row in named}
    for row in named:
        if row.memory and row.case.penalty != "none":
            cells.add((row.case.model_copy(update={"penalty": "none"}).cell, row.machine))
    if "floor" in frame.columns:
        cells |= _floor_cells(data, frame)
    return [row for row in data.rows if (row.case.cell, row.machine) in cells]


def _at_the_centre(data: Data) -> pd.DataFrame:
    """The lines of speed and memory that the summary is made of."""
    cases = data.central
    keys = set(cases["case_key"])
    frames = [frame[frame["case_key"].isin(keys)] for frame in (data.speed, data.memory) if not frame.empty]
    return pd.concat(frames, ignore_index=True) if frames else cases


def _of_the_study(data: Data, name: str) -> pd.DataFrame:
    """The networks that a figure or table of the study is made of: this package's in its setting, in a cross-check all."""
    frame = data.sparsity[data.sparsity["status"] != "unsupported"]
    kind, _, setting = name.partition("-")
    if setting and kind != "sparsity_axes":  # which is of all settings on lines through one
        frame = frame[frame["setting"].map(slug) == setting]
    return frame if kind == "sparsity_cross_check" else frame[frame["arm"] == BASELINE]


def _floor_cells(data: Data, frame: pd.DataFrame) -> set[tuple[str, str]]:
    """Cells of the baseline against itself that gave the column `floor`: at the same point, else all of setting and mode."""
    own = data.speed[data.speed["arm"] == data.speed["baseline"]]
    places = _places(own)
    wanted = set(_places(frame))
    apart = {(place[0], place[-1]) for place in wanted - set(places)}
    used = [place in wanted or (place[0], place[-1]) in apart for place in places]
    keys = set(own.loc[used, "case_key"])
    return {(row.case.cell, row.machine) for row in data.rows if row.case_key in keys}


def _places(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """Point and mode of each line, as texts: the values of a figure come from its CSV."""
    return [tuple(map(str, key)) for key in frame[[*POINT, "mode"]].itertuples(index=False, name=None)]


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _short_commit(commit: str) -> str:
    name, dirty, rest = commit.partition("+")
    return f"{name[:_SHOWN]}{dirty}{rest}"
