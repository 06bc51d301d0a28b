"""The parent: one fresh process a case, and a row for every one of them, whatever happens.

It never imports torch, so it stays small and cannot disturb or be disturbed by what it measures.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks import environment
from benchmarks.cases import Case, case_key
from benchmarks.child import Child
from benchmarks.rows import Environment, Outcome, Row, Status
from benchmarks.sources import source_hash, versions
from benchmarks.store import Store
from benchmarks.worker import Job
from reference.arm import get_arm

TIMED = ("speed", "penalty_cost")
FINAL = ("ok", "unsupported")
# Imports of timed cases run side by side, at the price of this many idle processes in memory.
_STARTED_TOGETHER = min(4, psutil.cpu_count() or 1)
_STOPS_LARGER = ("oom", "killed", "timeout")


@dataclass
class Run:
    """One invocation: what to do, where, and what it has come to so far.

    `failed` are the cases, with key and status, that rule out larger ones; those of earlier invocations are given.
    """

    store: Store
    preset: str
    environment: Environment
    plugin: Path | None = None
    jobs: int = 1
    on_row: Callable[[Row], None] = lambda row: None
    failed: list[tuple[Case, str, Status]] = field(default_factory=list)
    counts: Counter[Status] = field(default_factory=Counter)
    _children: set[Child] = field(default_factory=set)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _stopped: bool = False

    def cases(self, cases: Sequence[Case]) -> None:
        """Measure `cases` in order: timed ones alone, then up to `jobs` of the others at once."""
        timed = [case for case in cases if case.kind in TIMED]
        try:
            for start in range(0, len(timed), _STARTED_TOGETHER):
                self._alone(timed[start : start + _STARTED_TOGETHER])
            with ThreadPoolExecutor(self.jobs) as pool:
                for done in [pool.submit(self._at_once, case) for case in cases if case.kind not in TIMED]:
                    done.result()
        except BaseException:
            self._stop()
            raise

    def _alone(self, cases: Sequence[Case]) -> None:
        """Start the processes of `cases` together, wait until all have imported, then measure one after the other."""
        waiting = [(case, self._start(case)) for case in cases if not self._skip(case)]
        ready = [(case, child, child.prepare()) for case, child in waiting]
        for case, child, failed in ready:
            if not self._skip(case, child):
                self._finish(case, child, failed)

    def _at_once(self, case: Case) -> None:
        if not self._stopped and not self._skip(case):
            child = self._start(case)
            self._finish(case, child, child.prepare())

    def _start(self, case: Case) -> Child:
        share = 1 if case.kind in TIMED else self.jobs
        job = Job(
            case=case,
            plugin=str(self.plugin) if self.plugin else None,
            source_hash=source_hash(case, self.plugin),
            memory_limit_bytes=int(0.9 * psutil.virtual_memory().available / share),
        )
        with self._guard:
            child = Child(job)
            self._children.add(child)
        return child

    def _stop(self) -> None:
        self._stopped = True
        with self._guard:
            for child in self._children:
                child.kill()

    def _end(self, child: Child) -> None:
        with self._guard:
            child.kill()
            self._children.discard(child)

    def _finish(self, case: Case, child: Child, failed: Outcome | None) -> None:
        try:
            outcome = failed or child.measure()
        finally:
            self._end(child)
        if not self._stopped:  # else we killed it, which says nothing about the case
            self._record(case, outcome, child.seconds)

    def _skip(self, case: Case, child: Child | None = None) -> bool:
        """Whether a smaller case has shown that this one is in vain; then record that and end its process."""
        outcome = self._blocked(case)
        if outcome is None:
            return False
        if child is not None:
            self._end(child)
        self._record(case, outcome, 0.0)
        return True

    def _record(self, case: Case, outcome: Outcome, seconds: float) -> None:
        row = Row(
            **outcome.model_dump(),
            run_id=self.environment.run_id,
            case_key=key_of(case, self.plugin),
            preset=self.preset,
            case=case,
            division=get_arm(case.arm).division,
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            wall_s=round(seconds, 3),
            env_id=self.environment.env_id,
            commit=self.environment.commit + ("+dirty" if self.environment.dirty else ""),
            versions=self.environment.versions,
        )
        self.store.add(row)
        with self._guard:
            self.counts[row.status] += 1
            if row.status in _STOPS_LARGER:
                self.failed.append((case, row.case_key, row.status))
            self.on_row(row)

    def _blocked(self, case: Case) -> Outcome | None:
        with self._guard:
            for smaller, key, status in self.failed:
                if _dominates(case, smaller):
                    reason = f"not tried: case {key} is no larger and ended in {status}"
                    return Outcome(status="skipped_by_frontier", reason=reason)
        return None


def _dominates(case: Case, smaller: Case) -> bool:
    """Whether `case` asks for the same as `smaller` at a point that is nowhere smaller."""
    alike = ("kind", "arm", "baseline", "modes", "penalty", "task")
    if any(getattr(case, name) != getattr(smaller, name) for name in alike):
        return False
    a, b = case.point, smaller.point
    if (a.device, a.dtype, a.threads, a.depth) != (b.device, b.dtype, b.threads, b.depth):
        return False
    return (
        a.batch >= b.batch
        and a.grid_size >= b.grid_size
        and a.spline_order >= b.spline_order
        and all(x >= y for x, y in zip(a.layers, b.layers, strict=True))
    )


def key_of(case: Case, plugin: Path | None = None) -> str:
    """Return the key of `case` for the source and versions at hand."""
    return case_key(case, source_hash(case, plugin), versions())


def pending(cases: Sequence[Case], known: dict[str, Status], *, retry: bool, plugin: Path | None = None) -> list[Case]:
    """Return the cases without a row; with `retry`, also those whose row is neither ok nor unsupported."""
    return [case for case in cases if (status := known.get(key_of(case, plugin))) is None or (retry and status not in FINAL)]


def run(
    preset: str,
    cases: Sequence[Case],
    out: Path,
    *,
    jobs: int = 1,
    retry: bool = False,
    plugin: Path | None = None,
    command: str = "",
    on_start: Callable[[int, int], None] = lambda todo, known: None,
    on_row: Callable[[Row], None] = lambda row: None,
) -> Counter[Status]:
    """Measure what `out` does not hold yet and return the number of rows of `cases` by status, old ones included.

    `on_start` is told how many cases are to do and how many are known; `on_row` gets every new row.

    Raises `benchmarks.store.Locked` if another run writes to `out`, ValueError if it holds rows of another schema.
    """
    with Store(out) as store:
        known = store.statuses()
        todo = pending(cases, known, retry=retry, plugin=plugin)
        again = {key_of(case, plugin) for case in todo}
        done = {key: case for case in cases if (key := key_of(case, plugin)) not in again}
        old = Counter(known[key] for key in done)
        on_start(len(todo), len(done))
        if todo:
            where = environment.capture(uuid.uuid4().hex[:12], command)
            store.add(where)
            failed = [(case, key, known[key]) for key, case in done.items() if known[key] in _STOPS_LARGER]
            this = Run(store, preset, where, plugin, jobs, on_row, failed)
            this.cases(todo)
            old += this.counts
        return old
