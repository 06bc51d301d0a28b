"""Where rows and environments lie: one compressed file for each closed run, and lines that are appended while a run goes on.

`<out>/raw/<start>-<run id>.jsonl.xz` holds a closed run: its environment, then its rows, a JSON object a line. It is written
aside and renamed, never appended to. `raw/environments.jsonl` and `raw/rows.jsonl` hold the run that is going on, or what one
that was killed left; earlier versions kept everything there, and such folders are read as they are.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROWS, ENVIRONMENTS = "rows.jsonl", "environments.jsonl"
CLOSED = ".jsonl.xz"

Record = dict[str, Any]


def holds_rows(out: Path) -> bool:
    """Whether `out` is a report folder: whether a run, closed or not, has written there."""
    raw = out / "raw"
    return (raw / ROWS).is_file() or any(raw.glob(f"*{CLOSED}"))


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


def _records(raw: Path, opened: str) -> Iterator[tuple[str, Record]]:
    for path in [*sorted(raw.glob(f"*{CLOSED}")), raw / opened]:
        if not path.exists():
            continue
        for number, line in enumerate(_text(path).splitlines(), start=1):
            if line:
                place = f"{path.name} line {number}"
                yield place, _parsed(line, place)


def lines(path: Path) -> list[str]:
    """Return the lines of a closed run."""
    return _text(path).splitlines()


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
        for number, line in enumerate(_text(path).splitlines() if path.exists() else (), start=1):
            record = _parsed(line, f"{name} line {number}")
            run = str(record.get("run_id"))
            runs.setdefault(run, []).append(line)
            moment = str(record.get("started_at") or record.get("finished_at"))
            starts[run] = min(starts.get(run, moment), moment)
    for run, lines in runs.items():
        before = next(raw.glob(f"*-{run}{CLOSED}"), None)
        known = _text(before).splitlines() if before else []
        path = before or raw / f"{_compact(starts[run])}-{run}{CLOSED}"
        write(path, dict.fromkeys([*known, *lines]))
    for name in (ROWS, ENVIRONMENTS):
        (raw / name).unlink(missing_ok=True)


def _compact(moment: str) -> str:
    """A time in ISO 8601 without separators, for the name of a file."""
    return moment.partition("+")[0].replace("-", "").replace(":", "") + "Z"


def write(path: Path, lines: Iterable[str]) -> None:
    """Write `lines` compressed to `path`: aside, synced and renamed. Equal lines give equal bytes."""
    aside = path.with_name(f".{path.name}.part")
    with aside.open("wb") as file:
        file.write(lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=6))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
