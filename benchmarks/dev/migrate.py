"""Stored rows that outlive a change: new keys for rows whose source computes what it did, and a tree without superseded ones.

Nothing is measured and no value changes. Files are written aside and renamed; the rows as they were are in git.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.analysis.data import current_rows
from benchmarks.kinds import sources
from benchmarks.run import archive
from benchmarks.run.store import Store
from benchmarks.schema import environment
from benchmarks.schema.cases import case_key
from benchmarks.schema.meaning import PACKAGES, ROOT
from benchmarks.schema.rows import Row

MANIFEST = "superseded.json"


@dataclass(frozen=True)
class Migrated:
    """How many rows have the key that a run looks for now, how many that of other source, and how many name none to read."""

    kept: int
    superseded: int
    unknown: int


def migrate(out: Path) -> Migrated:
    """Give every row below `out` the key of the present scheme, from the source at the commit that the row names.

    A row measured beside changes that were not committed, or with a plugin, which enters its key and is not in the repository,
    by an arm that is no longer there, or by modules of other names, keeps its key.

    Raises ValueError if a row is damaged or of another schema, `store.Locked` if a run writes there.
    """
    with Store(out) as store:
        archive.close(store.raw)
        rows = [Row.model_validate(record) for _, record in archive.rows(store.raw)]
        then: dict[tuple[str, str], str] = {}
        for commit in sorted({row.commit for row in rows}):
            with _checked_out(commit) as root:
                then |= {_name(row): _source(row, root) for row in rows if row.commit == commit}
        plugged = {record["run_id"] for _, record in archive.environments(store.raw) if _names_a_plugin(record)}
        then |= {_name(row): "" for row in rows if row.run_id in plugged}

        def rekeyed(line: str) -> str:
            row = Row.model_validate_json(line)
            source = then[_name(row)]
            if not source:
                return line
            key = case_key(row.case, source, row.versions, row.machine)
            return row.model_copy(update={"source": source, "case_key": key}).model_dump_json()

        _rewrite(store.raw, rekeyed)
    present = [(then[_name(row)] or row.source) == _source(row, ROOT) for row in rows]
    now = sum(present)
    unknown = sum(not then[_name(row)] and not kept for row, kept in zip(rows, present, strict=True))
    return Migrated(kept=now, superseded=len(rows) - now - unknown, unknown=unknown)


def compact(out: Path) -> int:
    """Remove the rows below `out` that a newer row of the same case on the same machine supersedes; return how many.

    `raw/superseded.json` counts them, with the commit that still holds them. Raises ValueError if the rows differ from those
    of that commit, for then git does not keep them.
    """
    commit = environment.git_commit()[0]
    if not _is_committed(out / "raw"):
        raise ValueError(f"out: expected rows that are committed, since those removed are left to git, got {out}")
    with Store(out) as store:
        archive.close(store.raw)
        kept = {_name(row) for row in current_rows(out)[0]}
        before = sum(1 for _ in archive.rows(store.raw))
        _rewrite(store.raw, lambda line: line if _name(Row.model_validate_json(line)) in kept else "")
        removed = before - sum(1 for _ in archive.rows(store.raw))
        if removed:
            _note(store.raw / MANIFEST, {"rows": removed, "commit": commit})
    return removed


def _name(row: Row) -> tuple[str, str]:
    return row.run_id, row.case_key


def _rewrite(raw: Path, change: Callable[[str], str]) -> None:
    """Replace every row by what `change` makes of its line; a run of which nothing is left goes with its environment."""
    for path in archive.closed(raw):
        before = archive.lines(path)
        after = [line if archive.is_environment(json.loads(line)) else change(line) for line in before]
        left = [line for line in after if line]
        if all(archive.is_environment(json.loads(line)) for line in left):
            path.unlink()
        elif left != before:
            archive.write(path, left)


def _note(manifest: Path, entry: dict[str, object]) -> None:
    known = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else []
    aside = manifest.with_suffix(".part")
    aside.write_text(json.dumps([*known, entry], indent=1) + "\n", encoding="utf-8")
    aside.replace(manifest)


def _names_a_plugin(environment: archive.Record) -> bool:
    return any(word.partition("=")[0] == "--plugin" for word in str(environment.get("command", "")).split())


def _source(row: Row, root: Path | None) -> str:
    """The source hash of the row's case in the repository at `root`; empty if that lacks a module or the arm is not known."""
    if root is None:
        return ""
    try:
        return sources.source_hash(row.case, root=root)
    except ValueError:
        return ""


@contextmanager
def _checked_out(commit: str) -> Iterator[Path | None]:
    """A folder with the packages at `commit`; None if it is no commit of this repository, such as one with changes beside."""
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder, "source.tar")
        if _git("archive", "--output", str(packed), commit, *PACKAGES).returncode:
            yield None
            return
        with tarfile.open(packed) as content:
            content.extraction_filter = getattr(tarfile, "data_filter", None)  # which Python 3.11.2, Debian's, lacks
            content.extractall(folder)
        yield Path(folder)


def _is_committed(folder: Path) -> bool:
    done = _git("status", "--porcelain", "--", str(folder.resolve()))
    return done.returncode == 0 and not done.stdout.strip()


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
