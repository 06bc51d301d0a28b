"""The parent: one fresh process a case, and a row for every one of them, whatever happens.

It never imports torch, so it stays small and cannot disturb or be disturbed by what it measures.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.kinds import STOPS_LARGER, get_kind, rules_out
from benchmarks.kinds.sources import source_hash, state_hash, versions
from benchmarks.run import limits
from benchmarks.run.child import Server, modules, variables
from benchmarks.run.history import History
from benchmarks.run.store import Store, Unwritable
from benchmarks.run.worker import Job
from benchmarks.schema import environment
from benchmarks.schema.cases import Case, case_key
from benchmarks.schema.rows import FINAL as FINAL
from benchmarks.schema.rows import Environment, Outcome, Row, Status
from reference.arm import Unsupported, get_arm
from reference.environments import interpreter

_ATTEMPTS = 3  # to time a case without the machine being suspended meanwhile
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


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
    on_say: Callable[[str], None] = lambda text: None
    failed: list[tuple[Case, str, Status]] = field(default_factory=list)
    counts: Counter[Status] = field(default_factory=Counter)
    _servers: dict[tuple[object, ...], Server] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _stopped: bool = False
    _required: dict[tuple[str, ...], set[str]] = field(default_factory=dict)

    def cases(self, cases: Sequence[Case]) -> None:
        """Measure `cases`: timed ones alone and in order, then up to `jobs` of the others at once, then large ones alone.

        Large are memory cases that may need more than a job's share of the memory: with less they would end as out of memory
        on a machine that holds them.
        """
        pool = ThreadPoolExecutor(self.jobs)
        untimed = [case for case in cases if not get_kind(case.kind).timed]
        for case in cases:
            self._required.setdefault(_alike(case), set()).update(_requires(case))
        fills = self.jobs > 1 and any(get_kind(case.kind).fills_memory for case in untimed)
        history = History.stored(self.store.raw.parent) if fills else History()
        large = [case for case in untimed if self.jobs > 1 and _is_large(case, _available_bytes() // self.jobs, history)]
        try:
            for case in cases:
                if get_kind(case.kind).timed:
                    self._case(case)
            self._close()
            for done in [pool.submit(self._case, case, self.jobs) for case in untimed if case not in large]:
                done.result()
            for case in large:
                self._case(case)
        except BaseException:
            self._stopped = True
            raise
        finally:
            self._close()  # before waiting for the threads, which wait for the processes that this ends
            pool.shutdown(cancel_futures=True)

    def _case(self, case: Case, share: int = 1) -> None:
        """Measure `case` with one of `share` equal parts of the memory, and record what came of it."""
        if self._stopped:
            return
        outcome, seconds = self._blocked(case), 0.0
        if outcome is None:
            outcome, seconds = self._measure(case, share)
        if outcome.status == "error":
            self.store.require_room()
        if not self._stopped:  # else we killed it, which says nothing about the case
            self._record(case, outcome, seconds)

    def _measure(self, case: Case, share: int) -> tuple[Outcome, float]:
        job = Job(
            case=case,
            plugin=str(self.plugin.resolve()) if self.plugin else None,  # the worker starts in another folder
            state_hash=state_hash(case, self.plugin),
            memory_limit_bytes=_available_bytes() // share,
            shared=str(self.store.raw.resolve() / ".shared"),
            verdicts=str(self.store.work.resolve() / "verdicts"),
        )
        try:
            server = self._server(case)
        except Unsupported as fact:
            return Outcome(status="unsupported", reason=str(fact)), 0.0
        try:
            for _ in range(_ATTEMPTS):
                outcome, seconds = server.run(job)
                if not get_kind(case.kind).timed or not server.paused:
                    break
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise Unwritable(self.store.raw.parent, error) from error
            raise
        return outcome, seconds

    def _server(self, case: Case) -> Server:
        """Return the server for cases like this one.

        Each of the processes that repeat a cell comes from a server of its own: addresses, which decide much about caches, are
        drawn when a process starts and are equal in all that are forked from it.
        """
        chosen = get_arm(case.arm).environment
        python = sys.executable if chosen is None else str(interpreter(chosen))
        settings, imports = variables(case), modules(case, self._required.get(_alike(case)) or _requires(case))
        key = (python, tuple(sorted(settings.items())), imports, case.process, threading.get_ident())
        with self._guard:
            if key not in self._servers:
                self._servers[key] = Server(self.store.work, settings, imports, python, self.on_say)
            return self._servers[key]

    def _close(self) -> None:
        with self._guard:
            for server in self._servers.values():
                server.close()
            self._servers.clear()

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
            machine=self.environment.machine,
            load_average=os.getloadavg()[0],
            commit=self.environment.commit + ("+dirty" if self.environment.dirty else ""),
            versions=versions(case),
            source=source_hash(case, self.plugin),
        )
        self.store.add(row)
        with self._guard:
            self.counts[row.status] += 1
            if row.status in STOPS_LARGER:
                self.failed.append((case, row.case_key, row.status))
            self.on_row(row)

    def _blocked(self, case: Case) -> Outcome | None:
        """Return why this case is in vain, if a smaller one has shown so."""
        with self._guard:
            for smaller, key, status in self.failed:
                if rules_out(smaller, status, case):
                    reason = f"not tried: case {key} is no larger and ended in {status}"
                    return Outcome(status="skipped_by_frontier", reason=reason)
        return None


def _available_bytes() -> int:
    return limits.available_bytes()


def _is_large(case: Case, share_bytes: int, history: History) -> bool:
    """Whether `case` measures memory of which half of `share_bytes` may not do: predictions are right to a factor of two."""
    return get_kind(case.kind).fills_memory and (history.peak_bytes(case) or 0) > share_bytes / 2


def _alike(case: Case) -> tuple[str, ...]:
    """Equal for cases whose servers import the same: timed ones share them, in the others no other arm's packages are there."""
    where = get_arm(case.arm).environment or "", case.point.device
    return (*where, "timed") if get_kind(case.kind).timed else (*where, case.kind, *sorted(_requires(case)))


def _requires(case: Case) -> tuple[str, ...]:
    """Return the libraries that the arms of `case` and, where it is gated, pykan's yardstick import."""
    arms = [case.arm, *([case.baseline] if case.baseline else []), *(["pykan[speed]"] if get_kind(case.kind).paired else [])]
    return tuple(name for arm in arms for name in get_arm(arm).requires)


def key_of(case: Case, plugin: Path | None = None) -> str:
    """Return the key of `case` for the source, versions and machine at hand."""
    return case_key(case, source_hash(case, plugin), versions(case), environment.machine())


def pending(cases: Sequence[Case], known: dict[str, Status], *, retry: bool, plugin: Path | None = None) -> list[Case]:
    """Return the cases without a row; with `retry`, also those whose row is not ok: what an arm needs may be here by now."""
    return [case for case in cases if (status := known.get(key_of(case, plugin))) is None or (retry and status != "ok")]


def run(
    preset: str,
    cases: Sequence[Case],
    out: Path,
    *,
    jobs: int = 1,
    retry: bool = False,
    known: Mapping[str, Status] | None = None,
    known_limits: Mapping[str, float] | None = None,
    plugin: Path | None = None,
    command: str = "",
    on_start: Callable[[int, int], None] = lambda todo, known: None,
    on_row: Callable[[Row], None] = lambda row: None,
    on_say: Callable[[str], None] = lambda text: None,
) -> Counter[Status]:
    """Measure what `out` does not hold yet and return the number of rows of `cases` by status, old ones included.

    `known` are the statuses, by key, of cases that another folder holds, and `known_limits` their limits of time: they count as
    if `out` held them.

    `on_start` is told how many cases are to do and how many are known; `on_row` gets every new row,
    and `on_say` what the package says while it prepares a case, such as that it compiles.

    Raises `benchmarks.run.store.Locked` if another run writes to `out`, `benchmarks.run.store.Unwritable` if its disk is full,
    ValueError if it holds rows of another schema.
    """
    with Store(out) as store:
        known = {**(known or {}), **store.statuses()}
        todo = pending(cases, known, retry=retry, plugin=plugin)
        again = {key_of(case, plugin) for case in todo}
        done = {key: case for case in cases if (key := key_of(case, plugin)) not in again}
        old = Counter(known[key] for key in done)
        on_start(len(todo), len(done))
        if todo:
            where = environment.capture(uuid.uuid4().hex[:12], command)
            store.add(where)
            limits_s = {**(known_limits or {}), **store.limits()}
            failed = [
                (case.model_copy(update={"timeout_s": limits_s.get(key, case.timeout_s)}), key, known[key])
                for key, case in done.items()
                if known[key] in STOPS_LARGER
            ]
            this = Run(store, preset, where, plugin, jobs, on_row, on_say, failed)
            this.cases(todo)
            old += this.counts
        return old
