"""The report of one machine as one file: `pack` writes it there, `take` makes or completes a report folder here.

What a machine measured is never mixed with what another did: each has a folder of its own, side by side in one report.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from benchmarks.run import archive, merge
from benchmarks.run.archive import CLOSED, Record


def pack(out: Path, file: Path) -> int:
    """Write every environment and row of the report `out` to `file`, and return the number of rows.

    Raises ValueError if `out` holds no row, a damaged one, or rows of several machines; and if `file` is there already, cannot
    be written or is not called *.jsonl.xz.
    """
    if not file.name.endswith(CLOSED) or file.exists():
        raise ValueError(f"file: expected a new file called *{CLOSED}, got {file}{' (is there)' if file.exists() else ''}")
    rows = [record for _, record in archive.rows(out / "raw")]
    if not rows:
        raise ValueError(f"out: expected a folder with rows below raw/, got {out}")
    _machine(rows, "out", out)
    environments = [record for _, record in archive.environments(out / "raw")]
    try:
        archive.write(file, map(json.dumps, [*environments, *rows]))
    except OSError as error:
        raise ValueError(f"file: expected a place to write to, got {file}: {error.strerror}") from error
    return len(rows)


def take(file: Path, out: Path) -> merge.Merged:
    """Add to the report folder `out` the rows of `file` that are not there yet, by the rules of `merge.merge`.

    Raises ValueError if `file` is not what `pack` wrote, is damaged or holds rows of several machines or of another schema, or
    if `out` holds rows of another machine, and adds nothing then; `store.Locked` if a run writes to `out`.
    """
    job = out / merge.PARTS / f"submitted-{file.name.removesuffix(CLOSED)}"
    if not file.name.endswith(CLOSED) or not file.is_file():
        raise ValueError(f"file: expected a file called *{CLOSED}, got {file}")
    if job.exists():
        raise ValueError(f"out: expected no {job}, which an interrupted merge may have left; remove it")
    records = [json.loads(line) for line in archive.lines(file)]
    machine = _machine([record for record in records if not archive.is_environment(record)], "file", file)
    there = {record["machine"] for _, record in archive.rows(out / "raw")} if archive.holds_rows(out) else {machine}
    if there != {machine}:
        raise ValueError(f"out: expected a folder for {machine!r}, got {out}, which holds rows of {_listed(there)}")
    (job / "raw").mkdir(parents=True)
    try:
        shutil.copy(file, job / "raw" / file.name)
        return merge.merge(out)
    finally:
        shutil.rmtree(job)
        if not any((out / merge.PARTS).iterdir()):
            (out / merge.PARTS).rmdir()


def _machine(rows: Iterable[Record], name: str, place: Path) -> str:
    machines = {str(record.get("machine")) for record in rows}
    if len(machines) != 1:
        raise ValueError(f"{name}: expected rows of one machine, got {_listed(machines) or 'none'} in {place}")
    return machines.pop()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names)))
