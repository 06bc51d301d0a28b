"""What several jobs measured becomes one report: OUT/parts/JOB holds the rows of a job, OUT/raw those that count.

Each job writes to a store of its own, so that nothing depends on the locks of a network's file system. Nothing is removed
there: merging again, or after a merge was killed, adds what is missing and no more.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from benchmarks.run import archive
from benchmarks.run.archive import Record
from benchmarks.run.store import Store
from benchmarks.schema.rows import FINAL, SCHEMA_VERSION, Environment, Row, Status
from benchmarks.schema.wrong import wrong

PARTS = "parts"
_READS, _AGAIN_S = 3, 0.2


@dataclass(frozen=True)
class Merged:
    """What a merge came to: rows `added`, `known` from before, and `left` where they are, since another row of the case counts.

    `machines` counts the machines of all jobs by what they are called: their times and memory are never compared.
    """

    jobs: int
    added: int
    known: int
    left: int
    machines: Counter[str]


def jobs(out: Path) -> list[Path]:
    """Return the stores of the jobs below `out`, by name. Raises ValueError if the folder cannot be read."""
    try:
        return sorted(path for path in (out / PARTS).iterdir() if archive.holds_rows(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ValueError(f"out: expected a folder that can be read, got {out / PARTS}: {error.strerror}") from error


def statuses(out: Path) -> dict[str, Status]:
    """Return the status of the row that counts for each case key, in `out` and in the stores of its jobs. Takes no lock.

    A case that a lost job did not come to is not among them.
    """
    return {key: record["status"] for key, record in _counting(out).items()}


def limits(out: Path) -> dict[str, float]:
    """Return the time limits of the same rows, in seconds."""
    return {key: float(record["case"]["timeout_s"]) for key, record in _counting(out).items()}


def _counting(out: Path) -> dict[str, archive.Record]:
    return archive.counting(record for folder in (*jobs(out), out) for record in _rows(folder))


def namesakes(out: Path, machine: str, host: str) -> int:
    """Return how many machines other than `host` have measured rows of `out` under the same name, `machine`."""
    found = (one for _, one in archive.environments(out / "raw") if one.get("machine") == machine)
    return len({known for one in found if (known := one.get("details", {}).get("host"))} - {host})


def is_of_others(out: Path, machine: str) -> bool:
    """Return whether `out` holds rows, none of them measured on a machine that is called `machine`."""
    names = {one.get("machine") for _, one in archive.environments(out / "raw")}
    return bool(names) and machine not in names


def merge(out: Path) -> Merged:
    """Add to `out` the rows of its jobs that count; see `add`.

    Raises ValueError if there is no job or a row is damaged, and adds nothing then; `store.Locked` if a run writes
    to `out`.
    """
    if not jobs(out):
        raise ValueError(f"out: expected a folder with the rows of jobs below {PARTS}/, got {out}")
    with Store(out) as store:
        return add(store)


def add(store: Store) -> Merged:
    """Add to `store`, which is locked, the rows of its jobs that count, each run whole or not at all.

    A result counts before a failure; of several results the one that is stored already or finished last, of several failures
    the one that finished last. So each case is there once, unless a later row replaces its failure, as where a run is repeated.
    """
    archive.close(store.raw)
    out = store.raw.parent
    stored = list(_rows(out))
    present = {_identity(record) for record in stored}
    counting: dict[str, Record] = {}
    for record in stored:
        if (old := counting.get(record["case_key"])) is None or archive.replaces(record["status"], old["status"]):
            counting[record["case_key"]] = record
    found = [(list(_rows(job)), [one for _, one in archive.environments(job / "raw")]) for job in jobs(out)]
    best: dict[str, Record] = {}
    for record in (one for rows, _ in found for one in rows):
        if (old := best.get(record["case_key"])) is None or _rank(record) > _rank(old):
            best[record["case_key"]] = record
    counts: Counter[str] = Counter()
    for rows, environments in found:
        starts = {one["run_id"]: one["started_at"] for one in environments}
        lines = {one["run_id"]: [Environment.model_validate(one).model_dump_json()] for one in environments}
        replacing: set[str] = set()
        taken: set[str] = set()
        for record in rows:
            old, run = counting.get(record["case_key"]), record["run_id"]
            if _identity(record) in present:
                counts["known"] += 1
            elif best[record["case_key"]] is record and (old is None or _replaces(record, old)):
                counts["added"] += 1
                lines.setdefault(run, []).append(Row.model_validate(record).model_dump_json())
                starts.setdefault(run, record["finished_at"])
                taken.add(run)
                replacing |= {run} if old else set()
            else:
                counts["left"] += 1
        for run in taken:
            archive.store(store.raw, run, starts[run], lines[run], last=run in replacing)
    places = {(one["machine"], one["details"].get("host")) for _, environments in found for one in environments}
    machines = Counter(machine for machine, _ in places)
    return Merged(len(found), counts["added"], counts["known"], counts["left"], machines)


def _rows(out: Path) -> Iterator[Record]:
    for place, record in _settled(out / "raw"):
        if record.get("schema_version") != SCHEMA_VERSION:
            got = f"{record.get('schema_version')!r} in {out}, {place}"
            raise ValueError(f"out: expected rows of schema_version {SCHEMA_VERSION}, got {got}")
        try:
            Row.model_validate(record)
        except ValidationError as error:
            raise ValueError(f"out: expected a row of schema {SCHEMA_VERSION} in {out}, {place}: {wrong(error)}") from error
        yield record


def _settled(raw: Path) -> list[tuple[str, Record]]:
    """The rows below `raw`, read again if files went meanwhile: a job closes its run when it ends."""
    for _ in range(_READS - 1):
        try:
            return list(archive.rows(raw))
        except ValueError:
            time.sleep(_AGAIN_S)
    return list(archive.rows(raw))


def _identity(record: Record) -> tuple[str, str]:
    """Which measurement a row is of: a run measures a case once. Its key may change, see `benchmarks.dev.migrate`."""
    return record["run_id"], json.dumps(record["case"], sort_keys=True)


def _rank(record: Record) -> tuple[bool, bool, str]:
    return record["status"] in FINAL, not archive.is_lost(record), record["finished_at"]


def _replaces(record: Record, stored: Record) -> bool:
    return stored["status"] not in FINAL and _rank(record) > _rank(stored)
