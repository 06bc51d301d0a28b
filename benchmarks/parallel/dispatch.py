"""Hand a plan out in parts, wait, merge; what a lost job did not come to becomes a row that names it."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from benchmarks.kinds.sources import source_hash, versions
from benchmarks.parallel.options import Dask, Slurm
from benchmarks.parallel.order import ENDED, Ended, Order, orders
from benchmarks.run import archive, merge
from benchmarks.run.parts import Part
from benchmarks.run.selection import Selected, Selection
from benchmarks.run.store import Store
from benchmarks.schema import environment
from benchmarks.schema.cases import Case, case_key
from benchmarks.schema.rows import Environment, Row, Status
from reference.arm import get_arm

_POLL_S = 1.0
_GRACE_S = 10.0  # until what a job wrote at its end is seen from here
_MEASURED, _LOST = (0, 1), (143, -9, -15)  # exit statuses of a part: it ran to its end, somebody ended it


class Queue(Protocol):
    """Where jobs wait and run; `name` is what one of them is called."""

    name: str

    def submit(self, orders: Sequence[str]) -> list[str]:
        """Submit a job for each order and return their ids."""

    def gone(self) -> dict[str, str]:
        """Return the jobs that are no longer there, by id, each with its last known state."""

    def cancel(self) -> None:
        """End all jobs."""

    def close(self) -> None:
        """Let go of what was opened."""


@dataclass
class Dispatched:
    """What came of a plan: its cases by status, and for each job that did not run its part the sentence that says why."""

    counts: Counter[Status] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def opened(options: Slurm | Dask, folder: Path) -> Queue:
    """Return the queue that `options` describe; `folder` is for its files. Raises ValueError if it is not there."""
    package = "submitit" if isinstance(options, Slurm) else "distributed"
    try:
        if isinstance(options, Slurm):
            from benchmarks.parallel.slurm import SlurmQueue

            return SlurmQueue(options, folder)
        from benchmarks.parallel.dask import DaskQueue

        return DaskQueue(options, folder)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"parallel: expected {package} to be installed, got no module {error.name}; "
            'run `python -m pip install -e ".[cluster]"` in the checkout'
        ) from error


def run(
    selection: Selection,
    selected: Selected,
    out: Path,
    options: Slurm | Dask,
    *,
    retry: bool = False,
    command: str = "",
    on_end: Callable[[str], None] = lambda text: None,
) -> Dispatched:
    """Measure what is selected in parts, as `options` say, and merge it into `out`; `on_end` is told of each job that ended.

    Raises `store.Locked` if a run writes to `out`, ValueError if the queue is not there or refuses, or a case needs
    more cores than a job has.
    """
    needed = max((case.point.threads for case in selected.cases), default=1)
    if needed > options.cpus:
        raise ValueError(f"cpus: expected at least the {needed} threads of a case, got {options.cpus}")
    with Store(out) as store:
        merge.add(store)
        run_id = uuid.uuid4().hex[:12]
        memory = None if options.memory_gb is None else int(options.memory_gb * 2**30)
        shared = {"command": command, "retry": retry, "memory_bytes": memory}
        todo = [
            order
            for order in orders(selection, selected, out, options.parts, run_id[:8], **shared)
            if _is_pending(_cases(order, selected), _stored(out), selected.plugin, retry=retry)
        ]
        queue = opened(options, out / merge.PARTS / f"queue-{run_id[:8]}")
        try:
            ends = _wait(queue, todo, on_end)
        except BaseException:
            queue.cancel()
            raise
        finally:
            queue.close()
            merge.add(store)
        lost = [(order, text) for order, end, text in ends if _is_lost(end)]
        _record_lost(store, selected, lost, environment.capture(run_id, command))
        known = _stored(out, lost=True)
        counts = Counter(known[name] for case in selected.cases if (name := _name(case, selected.plugin)) in known)
        failed = [f"{text}: {end.said}" for _, end, text in ends if end and end.status not in (*_MEASURED, *_LOST)]
        return Dispatched(counts, failed)


def _cases(order: Order, selected: Selected) -> list[Case]:
    return Part.parse(order.part).of(selected.whole, selected.preset.jobs)


def _is_pending(cases: Sequence[Case], known: Mapping[object, Status], plugin: Path | None, *, retry: bool) -> bool:
    """Whether one of `cases` has no row, or with `retry` one that is not ok."""
    found = [known.get(_name(case, plugin)) for case in cases]
    return any(status is None or (retry and status != "ok") for status in found)


End = tuple[Order, Ended | None, str]


def _wait(queue: Queue, todo: Sequence[Order], on_end: Callable[[str], None]) -> list[End]:
    """Submit `todo` and wait for all of it. Return how each job ended, None if without a word, with its name and state."""
    waiting = dict(zip(queue.submit([order.model_dump_json() for order in todo]), todo, strict=True))
    since: dict[str, float] = {}
    ends: list[End] = []
    while waiting:
        gone = queue.gone()
        for job, order in list(waiting.items()):
            end, text = _ended(order), f"{queue.name} {job} (part {order.part})"
            if end is None and (job not in gone or time.monotonic() - since.setdefault(job, time.monotonic()) < _GRACE_S):
                continue
            if _is_lost(end):
                text += f" left the queue ({gone.get(job, 'ended')})"
            ends.append((order, end, text))
            del waiting[job]
            on_end(text + ("" if end is None else " ended" if end.status in _MEASURED else f": {end.said}"))
        if waiting:
            time.sleep(_POLL_S)
    return ends


def _is_lost(end: Ended | None) -> bool:
    return end is None or end.status in _LOST


def _ended(order: Order) -> Ended | None:
    try:
        return Ended.model_validate_json((order.folder / ENDED).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _record_lost(store: Store, selected: Selected, lost: Sequence[tuple[Order, str]], here: Environment) -> None:
    """Add a row for every case of the `lost` jobs that has none, on the machine that the job, or another one, ran on."""
    known = _stored(store.raw.parent, lost=True)
    machines = {order.job: machine for order, _ in lost if (machine := _machine(order.folder))}
    missing = [
        (case, reason, machines.get(order.job) or next(iter(machines.values()), here.machine))
        for order, reason in lost
        for case in _cases(order, selected)
        if _name(case, selected.plugin) not in known
    ]
    if missing:
        store.add(here)
    for case, reason, machine in missing:
        source, installed = source_hash(case, selected.plugin), versions(case)
        store.add(
            Row(
                status="killed",
                reason=f"{reason} before this case had a row",
                run_id=here.run_id,
                case_key=case_key(case, source, installed, machine),
                preset=selected.preset.name,
                case=case,
                division=get_arm(case.arm).division,
                finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
                wall_s=0.0,
                env_id=here.env_id,
                machine=machine,
                commit=here.commit + ("+dirty" if here.dirty else ""),
                versions=installed,
                source=source,
            )
        )


def _machine(folder: Path) -> str | None:
    return next((str(one["machine"]) for _, one in archive.environments(folder / "raw")), None)


def _stored(out: Path, *, lost: bool = False) -> Mapping[object, Status]:
    """The status of each case of which `out` holds a row, on whatever machine; with `lost`, of cases of lost jobs too."""
    found: dict[object, Status] = {}
    for _, record in archive.rows(out / "raw"):
        if archive.is_lost(record) and not lost:
            continue
        row = Row.model_validate(record)
        name = row.case.cell, row.case.process, row.source
        if name not in found or archive.replaces(row.status, found[name]):
            found[name] = row.status
    return found


def _name(case: Case, plugin: Path | None) -> object:
    return case.cell, case.process, source_hash(case, plugin)  # versions are those of the nodes, which are not known here
