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
from benchmarks.sources import ROOT

ORDERS = (3, 1, 2, 4, 5)
# Precision -> dtype of the weights, and how float32 numbers are multiplied.
PRECISIONS = {
    "ieee": ("float32", "highest"),
    "tf32": ("float32", "high"),
    "bf16": ("bfloat16", "highest"),
    "fp16": ("float16", "highest"),
}
COLUMNS = ("device", "order", "precision", "problem", "result", "error", "native_error", "limit", "status", "reason")


def check(job: Job) -> None:
    """Add the lines of each order and precision to first_use.csv as they are found."""
    path = job.raw / files.FIRST_USE
    files.append(path, _lines([COLUMNS]))
    pairs = [(3, "ieee"), (3, "bf16")] if job.dry_run else list(product(ORDERS, PRECISIONS))
    bad: list[str] = []
    with ThreadPoolExecutor(job.workers) as pool:
        running = {pool.submit(_checked, job, order, precision): (order, precision) for order, precision in pairs}
        for count, done in enumerate(as_completed(running), start=1):
            text = done.result()
            files.append(path, text)
            lines = list(csv.DictReader(io.StringIO(text), COLUMNS))
            order, precision = running[done]
            bad += [f"order {order} in {precision}"] * any(line["status"] != "ok" for line in lines)
            judged = f"not passed: {', '.join(bad)}" if bad else "all passed"
            job.say(f"{count} of {len(pairs)} checks, {judged}" + " (interpreted, on a CPU)" * job.dry_run)


def _checked(job: Job, order: int, precision: str) -> str:
    """Run one check in a process of its own and return its lines, the last of them why it ended early, if it did."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_run.first_use", job.dumped(), str(order), precision]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not done.returncode:
        return done.stdout
    complete = "".join(line for line in done.stdout.splitlines(keepends=True) if line.endswith("\n"))
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit status {done.returncode}"
    line = (_device(job), order, precision, "", "", "", "", "", "error", f"{how}: {last}")
    return complete + _lines([line])


def _device(job: Job) -> str:
    return "cpu (dry run)" if job.dry_run else job.device


def _lines(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def main(text: str, order: str, precision: str) -> None:
    """Print the lines of one check. That `kernels` cannot be used here is a line, too."""
    import torch

    from efficient_kan.kernels import cuda

    job = Job.loaded(text)
    start = (_device(job), int(order), precision)
    if (reason := cuda.unavailable()) is not None:
        sys.stdout.write(_lines([(*start, "", "", "", "", "", "unsupported", reason)]))
        return
    from efficient_kan.kernels.cuda import check

    dtype, products = PRECISIONS[precision]
    torch.set_float32_matmul_precision(products)
    small = (check.Problem(20, 5, 7, 4, uniform=False, silu=False, edges=True),)
    device = torch.device(job.device)
    for found in check.comparisons(device, int(order), getattr(torch, dtype), small if job.dry_run else check.PROBLEMS):
        numbers = (found.problem, found.result, f"{found.error:.4g}", f"{found.native:.4g}", f"{found.limit:.4g}")
        sys.stdout.write(_lines([(*start, *numbers, "ok" if found.passed else "failed", "")]))
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
