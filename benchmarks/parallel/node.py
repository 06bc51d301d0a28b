"""What a job runs on its node: one part, in a fresh process that hears the scheduler's signals and ends with the job.

`measure` is what SLURM and Dask call, with an order as text; it starts `python -m benchmarks.parallel.node ORDER`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.parallel.order import CLAIM, ENDED, Ended, Order
from benchmarks.run import limits, merge, runner, usage
from benchmarks.run.interrupt import Terminated, heeding_sigterm
from benchmarks.run.store import Locked, Unwritable
from benchmarks.run.worker import die_with_parent
from benchmarks.schema import environment
from benchmarks.schema.meaning import ROOT
from benchmarks.schema.rows import Row

LOG, ORDER = "log.txt", "order.json"


def measure(text: str, without: Sequence[str] = ()) -> None:
    """Measure the order in `text`, once: a scheduler that runs a job again, since its node was lost, finds it claimed.

    `without` names environment variables that the queue has set for its own workers.
    """
    order = Order.model_validate_json(text)
    order.folder.mkdir(parents=True, exist_ok=True)
    try:
        (order.folder / CLAIM).open("x").close()
    except FileExistsError:
        return
    (order.folder / ORDER).write_text(text, encoding="utf-8")
    variables = {name: value for name, value in os.environ.items() if name not in without}
    if order.memory_bytes is not None:
        variables[limits.MEMORY] = str(order.memory_bytes)
    with (order.folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.parallel.node", str(order.folder / ORDER)],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            _end(order, process.returncode)


def _end(order: Order, status: int) -> None:
    lines = (order.folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
    said = next((line for line in reversed(lines) if line.strip()), "")
    aside = order.folder / f".{ENDED}"
    aside.write_text(Ended(status=status, said=said).model_dump_json(), encoding="utf-8")
    aside.replace(order.folder / ENDED)


def _run(order: Order) -> int:
    """Measure and return the exit status, as that of `python -m benchmarks run`."""
    selected = order.selection().resolve()
    order.refuse(selected)
    environment.require(case.point.device for case in selected.cases)
    known, known_limits = merge.statuses(Path(order.out)), merge.limits(Path(order.out))
    try:
        with heeding_sigterm():
            counts = runner.run(
                selected.preset.name,
                selected.cases,
                order.folder,
                jobs=selected.preset.jobs,
                retry=order.retry,
                known=known,
                known_limits=known_limits,
                plugin=selected.plugin,
                command=order.command,
                on_row=_say,
            )
    except Terminated:
        sys.stderr.write("terminated by the scheduler\n")
        return 143
    return 0 if all(status in runner.FINAL for status in counts) else 1


def _say(row: Row) -> None:
    sys.stdout.write(f"{row.status:<11} {row.wall_s:6.1f} s  {row.case.label}  {row.reason}\n")
    sys.stdout.flush()


def main() -> None:
    """Measure the order in the file that the command line names; what is wrong with it is one sentence and status 2."""
    die_with_parent()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # submitit's warning, which is not for this process
    try:
        status = _run(Order.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except Unwritable as error:
        usage.refuse(error, status=3)
    except (ImportError, Locked, OSError, RuntimeError, ValueError) as error:
        usage.refuse(usage.described(error))
    raise SystemExit(status)


if __name__ == "__main__":
    main()
