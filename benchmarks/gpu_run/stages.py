"""Stages with a time each: one process after the other, and a summary on the disk after every one of them.

A stage may run until the end of its slot. Slots follow each other, each as long as the stage's budget, so time that a stage
leaves over is the next ones', and no stage takes from the budget of a later one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Self

import psutil

from benchmarks.gpu_run import files
from benchmarks.schema.meaning import ROOT

Ending = Literal["done", "cut", "failed", "not begun"]
_LEAST_S = 2.0  # with less left a process does not even get to its first line
_SAID, _REASON = "said", "reason"
CUT = 3  # exit status of a stage that has ended itself for want of time


class Cut(Exception):
    """The stage's time is nearly over, says the stage itself; the message says what was not done."""


@dataclass(frozen=True)
class Job:
    """What the function of a stage is told.

    `raw` is the folder of results and `scratch` one that is removed after the run; `device` is a GPU, or "cpu" in a `dry_run`;
    `workers` processes may run at once and `presets` are measured as rows; at `ends_at`, seconds of the clock, the process is
    killed.
    """

    raw: Path
    scratch: Path
    device: str
    dry_run: bool
    workers: int
    presets: tuple[str, ...]
    ends_at: float = 0.0

    def say(self, text: str, *, log: bool = True) -> None:
        """Leave one line on how far the stage has come: the last one is in the summary, however the stage ends."""
        files.replace(self.scratch / _SAID, text)
        if log:
            print(text, flush=True)  # noqa: T201  # the log is where it goes

    def left(self) -> float:
        """Seconds until the process is killed."""
        return self.ends_at - time.time()

    def dumped(self) -> str:
        """The job as JSON."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def loaded(cls, text: str) -> Self:
        """The job that `text` is the JSON of."""
        found = json.loads(text)
        return cls(**found | {name: Path(found[name]) for name in ("raw", "scratch")} | {"presets": tuple(found["presets"])})


@dataclass(frozen=True)
class Stage:
    """`function`, "module:name", gets a `Job`. With `kernels` a dry run has Triton interpret its kernels."""

    name: str
    about: str
    budget_s: float
    function: str
    kernels: bool = False


@dataclass(frozen=True)
class Ended:
    """How a stage ended. `said` is the last line that it left, `reason` why it is not done."""

    name: str
    about: str
    budget_s: float
    seconds: float
    ending: Ending
    said: str = ""
    reason: str = ""

    @property
    def line(self) -> str:
        """The stage in one line."""
        texts = filter(None, (self.said, self.reason))
        return f"{self.name}: {self.ending} after {self.seconds:.1f} of {self.budget_s:.0f} s" + "".join(
            f"; {t}" for t in texts
        )


@dataclass
class Run:
    """A run: `facts` are what its summary says beside the stages; `on_end` gets every stage that has ended.

    `notes` are sentences for whoever reads the results.
    """

    job: Job
    facts: dict[str, object] = field(default_factory=dict)
    on_end: Callable[[Ended], None] = lambda ended: None
    ended: list[Ended] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def stages(self, stages: Sequence[Stage], began: float, seconds: float) -> None:
        """Run `stages` in turn, all of them within `seconds` after the time `began`."""
        slot = time.time()
        for stage in stages:
            slot += stage.budget_s
            self._add(self._stage(stage, min(slot, began + seconds)))

    def summarise(self, **facts: object) -> None:
        """Write the summary, with further `facts`."""
        self.facts |= facts
        content = self.facts | {"stages": [asdict(ended) for ended in self.ended]}
        files.replace(self.job.raw / files.SUMMARY, json.dumps(content, indent=1) + "\n")

    def _add(self, ended: Ended) -> None:
        self.ended.append(ended)
        self.summarise()
        self.on_end(ended)

    def _stage(self, stage: Stage, ends_at: float) -> Ended:
        begin = time.time()
        for name in (_SAID, _REASON):
            (self.job.scratch / name).unlink(missing_ok=True)

        def ended(ending: Ending, reason: str = "") -> Ended:
            seconds = round(time.time() - begin, 3)
            said, why = (_text(self.job.scratch / name) for name in (_SAID, _REASON))
            return Ended(stage.name, stage.about, stage.budget_s, seconds, ending, said, why or reason)

        if ends_at - begin < _LEAST_S:
            return ended("not begun", "no time was left")
        job = Job(**{**vars(self.job), "ends_at": ends_at})
        files.append(self.job.raw / files.LOG, f"\n== {stage.name}: {stage.about}\n")
        code = _process(stage, job)
        if code == CUT:
            return ended("cut")
        if code is None:
            return ended("cut", "its time was over; what it had written stays")
        if code < 0:
            return ended("failed", f"its process died of {signal.Signals(-code).name}")
        return ended("failed" if code else "done", f"exit status {code}" if code else "")


def _process(stage: Stage, job: Job) -> int | None:
    """Run a stage in a process of its own. Return its exit status; None if its time was over."""
    command = [sys.executable, "-m", "benchmarks.gpu_run.child", stage.function, job.dumped()]
    interpreter = {"TRITON_INTERPRET": "1"} if stage.kernels and job.dry_run else {}
    with (job.raw / files.LOG).open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | interpreter,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return process.wait(max(0.0, job.ends_at - time.time()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all that it has started, so that nothing runs beside the next stage."""
    started = [psutil.Process(process.pid), *_descendants(process.pid)] if process.poll() is None else []
    for one in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what an ended process left behind
    process.wait()
    psutil.wait_procs(started, timeout=2)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
