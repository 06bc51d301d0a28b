"""Every kernel at every order and precision on small problems against native: the check of a first use, kept in numbers.

One process for each order and precision, several at a time: one that crashes takes no other with it. They compile most of what
the later stages use, too.
"""

from __future__ import annotations

import csv
import io
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product

from benchmarks.gpu_run import files
from benchmarks.gpu_run.stages import Job
from benchmarks.schema.meaning import ROOT

ORDERS = (3, 5, 4, 2, 1)  # the usual one first, then those that compile longest
# Precision -> dtype of the weights, and how float32 numbers are multiplied.
PRECISIONS = {
    "ieee": ("float32", "highest"),
    "tf32": ("float32", "high"),
    "bf16": ("bfloat16", "highest"),
    "fp16": ("float16", "highest"),
}
COLUMNS = ("device", "order", "precision", "problem", "result", "error", "native_error", "limit", "status", "reason")


def check(job: Job) -> None:
    """Have the lines of each order and precision added to first_use.csv as they are found."""
    path = job.raw / files.FIRST_USE
    files.append(path, _text(COLUMNS))
    pairs = [(1, "ieee"), (3, "bf16")] if job.dry_run else list(product(ORDERS, PRECISIONS))
    with ThreadPoolExecutor(job.workers) as pool:
        running = [pool.submit(_checked, job, order, precision) for order, precision in pairs]
        for count, done in enumerate(as_completed(running), start=1):
            done.result()
            with path.open(encoding="utf-8", newline="") as file:
                lines = list(csv.DictReader(file))
            bad = {(line["order"], line["precision"]) for line in lines if line["status"] != "ok"}
            lacking = sorted({line["reason"] for line in lines if line["status"] == "unsupported"})
            named = ", ".join(f"order {order} in {precision}" for order, precision in sorted(bad))
            judged = f"not made: {'; '.join(lacking)}" if lacking else f"not passed: {named}" if bad else "all passed"
            job.say(f"{count} of {len(pairs)} checks, {judged}" + " (interpreted, on a CPU)" * job.dry_run)


def _checked(job: Job, order: int, precision: str) -> None:
    """Run one check in a process of its own, which adds its lines; if it ends early, add a line that says why."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_run.first_use", job.dumped(), str(order), precision]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit status {done.returncode}"
        files.append(job.raw / files.FIRST_USE, _line(job, order, precision, status="error", reason=f"{how}: {last}"))


def _line(job: Job, order: int, precision: str, **cells: object) -> str:
    named = {"device": "cpu (dry run)" if job.dry_run else job.device, "order": order, "precision": precision} | cells
    return _text([named.get(column, "") for column in COLUMNS])


def _text(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def main(text: str, order: str, precision: str) -> None:
    """Add the lines of one check. That the kernels cannot be used here is a line, too."""
    import torch

    from benchmarks.gpu_run import gpu_state
    from efficient_kan.kernels import cuda

    job = Job.loaded(text)

    def add(**cells: object) -> None:
        files.append(job.raw / files.FIRST_USE, _line(job, int(order), precision, **cells))

    if (reason := cuda.unavailable()) is not None:
        add(status="unsupported", reason=reason)
        return
    from efficient_kan.kernels.cuda import check

    dtype, products = PRECISIONS[precision]
    torch.set_float32_matmul_precision(products)
    small = (check.Problem(20, 5, 7, 4, uniform=False, silu=False, edges=True),)
    device = gpu_state.used(job.device)
    for found in check.comparisons(device, int(order), getattr(torch, dtype), small if job.dry_run else check.PROBLEMS):
        add(
            problem=found.problem,
            result=found.result,
            error=f"{found.error:.4g}",
            native_error=f"{found.native:.4g}",
            limit=f"{found.limit:.4g}",
            status="ok" if found.passed else "failed",
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
