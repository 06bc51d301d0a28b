"""Where rows and environments lie: one compressed file for each closed run, and lines that are appended while a run goes on.

`<out>/raw/<start>-<run id>.jsonl.xz` holds a closed run: its environment, then its rows, a JSON object a line. It is written
aside and renamed, never appended to. The order of the names is the order of the runs: where the clock was turned back between
two runs, the name of the later one has a moment just after the name before it. `raw/environments.jsonl` and `raw/rows.jsonl`
hold the run that is going on, or what one that was killed left; earlier versions kept everything there, and such folders are
read as they are.
"""

from __future__ import annotations

import json
import lzma
import os
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.schema.rows import FINAL

ROWS, ENVIRONMENTS = "rows.jsonl", "environments.jsonl"
CLOSED = ".jsonl.xz"

_MOMENT = re.compile(r"(\d{8}T\d{6})Z-")
_FORMAT = "%Y%m%dT%H%M%S"

Record = dict[str, Any]


def holds_rows(out: Path) -> bool:
    """Whether `out` is a report folder: whether a run, closed or not, has written there."""
    raw = out / "raw"
    return bool(closed(raw)) or (raw / ROWS).is_file()


def closed(raw: Path) -> list[Path]:
    """Return the files of the closed runs below `raw`, in the order of the runs; none if there is no such folder.

    Raises ValueError if the folder cannot be read: it is not taken for an empty one.
    """
    try:
        found = sorted(raw.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ValueError(f"out: expected a folder of rows that can be read, got {raw}: {error.strerror}") from error
    return [path for path in found if path.name.endswith(CLOSED) and not path.name.startswith(".")]


def replaces(later: str, earlier: str) -> bool:
    """Whether a row of status `later` counts instead of an earlier row, of status `earlier`, with the same key.

    It does, unless it would replace a result by a failure. By the order in which rows are stored, not by their clocks.
    """
    return later in FINAL or earlier not in FINAL


def rows(raw: Path) -> Iterator[tuple[str, Record]]:
    """Every row below `raw`, closed runs in the order of their start first, each with its place, as "FILE line N".

    Raises ValueError on a damaged line, except for an unfinished last one of the run that is going on.
    """
    return ((place, record) for place, record in _records(raw, ROWS) if not is_environment(record))


def environments(raw: Path) -> Iterator[tuple[str, Record]]:
    """Every environment below `raw`, likewise."""
    return ((place, record) for place, record in _records(raw, ENVIRONMENTS) if is_environment(record))


def is_environment(record: Record) -> bool:
    """Whether a line of a closed run is its environment."""
    return "started_at" in record


def counting(records: Iterable[Record]) -> dict[str, Record]:
    """The row that counts of each case key, without those of cases that a lost job did not come to."""
    found: dict[str, Record] = {}
    for record in records:
        key = record["case_key"]
        if not is_lost(record) and (key not in found or replaces(record["status"], found[key]["status"])):
            found[key] = record
    return found


def is_lost(record: Record) -> bool:
    """Whether a row is of a case that was never begun, since its job was lost: it says nothing about the case."""
    return record.get("status") == "killed" and record.get("wall_s") == 0


def _records(raw: Path, opened: str) -> Iterator[tuple[str, Record]]:
    for path in [*closed(raw), *([raw / opened] if (raw / opened).exists() else [])]:
        for number, line in enumerate(_lines(_text(path)), start=1):
            if line:
                place = f"{path.name} line {number}"
                yield place, _parsed(line, place)


def lines(path: Path) -> list[str]:
    """Return the lines of a closed run."""
    return _lines(_text(path))


def _lines(text: str) -> list[str]:
    """Lines end in a line feed alone: JSON's strings may hold other marks that Python would split at."""
    return text.removesuffix("\n").split("\n") if text else []


def _text(path: Path) -> str:
    try:
        if path.name.endswith(CLOSED):
            with lzma.open(path, "rt", encoding="utf-8", newline="\n") as file:
                return file.read()
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: expected lines of JSON, got {path}, which is no text") from error
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{path.name}: expected a closed run, got {path}, which is damaged: {error}") from error
    except OSError as error:
        raise ValueError(f"out: expected rows that can be read, got {path}: {error.strerror}") from error
    complete, _, _torn = text.rpartition("\n")  # an unfinished last line belongs to a run that is still writing or was killed
    return complete


def _parsed(line: str, place: str) -> Record:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: expected a JSON object, got {line[:60]!r}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{place}: expected a JSON object, got {line[:60]!r}")
    return record


def close(raw: Path) -> None:
    """Compress what `raw/rows.jsonl` and `raw/environments.jsonl` hold into one file a run, then remove both.

    Raises ValueError on a damaged line, and changes nothing then. If the process dies on the way, the next call ends what this
    one began: no line is ever in neither place.
    """
    runs: dict[str, list[str]] = {}
    starts: dict[str, str] = {}
    for name in (ENVIRONMENTS, ROWS):
        path = raw / name
        for number, line in enumerate(_lines(_text(path)) if path.exists() else (), start=1):
            record = _parsed(line, f"{name} line {number}")
            run = str(record.get("run_id"))
            runs.setdefault(run, []).append(line)
            moment = str(record.get("started_at") or record.get("finished_at"))
            starts[run] = min(starts.get(run, moment), moment)
    for run, lines in runs.items():
        store(raw, run, starts[run], lines)
    for name in (ROWS, ENVIRONMENTS):
        (raw / name).unlink(missing_ok=True)


def store(raw: Path, run: str, start: str, lines: Iterable[str], *, last: bool = True) -> None:
    """Add `lines` to the closed run `run` below `raw`, which began at `start`, in ISO 8601.

    A new run that is `last` comes after all that are there, whatever its `start` says.
    """
    there = closed(raw)
    before = next((path for path in there if path.name.endswith(f"-{run}{CLOSED}")), None)
    moment = start.partition("+")[0].replace("-", "").replace(":", "")
    taken = max((found[1] for path in there if (found := _MOMENT.match(path.name))), default="")
    if last and moment <= taken:
        moment = f"{datetime.strptime(taken, _FORMAT) + timedelta(seconds=1):{_FORMAT}}"
    path = before or raw / f"{moment}Z-{run}{CLOSED}"
    write(path, dict.fromkeys([*(_lines(_text(before)) if before else ()), *lines]))


def write(path: Path, lines: Iterable[str]) -> None:
    """Write `lines` compressed to `path`: aside, synced and renamed. Equal lines give equal bytes."""
    aside = path.with_name(f".{path.name}.part")
    try:
        with aside.open("wb") as file:
            file.write(lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=6))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)  # where the disk is full, it takes room that the rows need
        raise
