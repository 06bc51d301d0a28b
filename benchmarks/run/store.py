"""The folder of one report: append-only rows, one writer at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from benchmarks.run import archive
from benchmarks.schema.rows import SCHEMA_VERSION, Environment, Row, Status


class Locked(RuntimeError):
    """Another run writes to the same folder."""


class Unwritable(RuntimeError):
    """The disk is full, say. What was written before is kept."""

    def __init__(self, out: Path, error: OSError) -> None:
        super().__init__(
            f"out: expected room for rows in {out}, got: {error.strerror}; the rows that are there are kept, and the same "
            "command goes on from them"
        )


class Store:
    """Rows and environments under `out`/raw, see `archive`.

    Use as a context manager: entering takes the lock and repairs a torn line.

    A line is written, flushed and synced before the case counts as finished, so a killed run loses at most the case it was in.
    Leaving closes the run: its lines are compressed, see `archive`. `work` is a folder for temporary files of the
    run; it is emptied on entering and removed on leaving.
    """

    def __init__(self, out: Path) -> None:
        self.raw = out / "raw"
        self.rows = self.raw / archive.ROWS
        self.environments = self.raw / archive.ENVIRONMENTS
        self.work = self.raw.resolve() / ".work"  # the processes that measure start in another folder
        self._lock = FileLock(self.raw / ".lock", thread_local=False)
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        try:
            self.raw.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise Locked(f"another run is writing to {self.raw.parent}") from None
        except OSError as error:
            raise ValueError(f"out: expected a folder to write to, got {self.raw.parent}: {error.strerror}") from error
        try:
            for path in (self.rows, self.environments):
                self._repair(path)
            shutil.rmtree(self.work, ignore_errors=True)  # what a killed run left
        except OSError as error:
            self._lock.release()
            raise ValueError(f"out: expected rows that can be read, got {self.raw.parent}: {error.strerror}") from error
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        try:
            if error is None or not isinstance(error, Exception):  # an interrupted run is closed too
                archive.close(self.raw)
        except OSError as failure:
            raise Unwritable(self.raw.parent, failure) from failure
        finally:
            self._lock.release()

    def _repair(self, path: Path) -> None:
        """Move what follows the last line break, the mark of a killed run, to a file of its own."""
        if not path.exists():
            return
        content = path.read_bytes()
        torn = content.rpartition(b"\n")[2]
        if not torn:
            return
        self._append(path.with_suffix(".torn"), torn + b"\n")
        os.truncate(path, len(content) - len(torn))

    def statuses(self) -> dict[str, Status]:
        """Return the status of the row that counts for each case key, without cases that a lost job did not come to.

        Raises ValueError on a damaged row or another schema.
        """
        found: dict[str, Status] = {}
        for place, record in archive.rows(self.raw):
            if record.get("schema_version") != SCHEMA_VERSION:
                got = f"{record.get('schema_version')!r} in {place}; use another folder"
                raise ValueError(f"out: expected rows of schema_version {SCHEMA_VERSION}, got {got}")
            if not {"case_key", "status"} <= record.keys():
                raise ValueError(f"out: expected a row in {place}, got one without case_key or status; use another folder")
            key, status = record["case_key"], record["status"]
            if not archive.is_lost(record) and (key not in found or archive.replaces(status, found[key])):
                found[key] = status
        return found

    def limits(self) -> dict[str, float]:
        """Return the time limit of the row that counts for each case key, as in `statuses`: that of the plan may be another."""
        counting = archive.counting(record for _, record in archive.rows(self.raw))
        return {key: float(record["case"]["timeout_s"]) for key, record in counting.items()}

    def add(self, record: Row | Environment) -> None:
        """Append `record` and wait until it is on the disk. Safe to call from several threads.

        Raises Unwritable if there is no room; then the file is as it was before.
        """
        path = self.rows if isinstance(record, Row) else self.environments
        with self._writing:
            self._append(path, record.model_dump_json().encode() + b"\n")

    def require_room(self) -> None:
        """Raise Unwritable if nothing can be written any more: what failed then may have failed for that."""
        try:
            probe = self.raw / ".room"
            probe.write_bytes(b"\0" * 2**16)
            probe.unlink()
        except OSError as error:
            with contextlib.suppress(OSError):
                probe.unlink()
            raise Unwritable(self.raw.parent, error) from error

    def _append(self, path: Path, line: bytes) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                size, rest = os.fstat(descriptor).st_size, memoryview(line)
                try:
                    while rest:
                        rest = rest[os.write(descriptor, rest) :]
                    os.fsync(descriptor)
                except BaseException:
                    os.ftruncate(descriptor, size)  # the next line must not follow half of this one
                    raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Unwritable(self.raw.parent, error) from error
