"""The command `gpu-run`."""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks import presets
from benchmarks.gpu_run import files, packages
from benchmarks.gpu_run.stages import Job, Run, Stage
from benchmarks.schema import environment

_MODULE = "benchmarks.gpu_run"
STAGES = (
    Stage("ceilings", "the GPU, its clocks, and its rates as measured", 25, f"{_MODULE}.ceilings:measure"),
    Stage("first use", "every kernel at every precision and order against native", 70, f"{_MODULE}.first_use:check", True),
    Stage("tests", "the tests that need a GPU", 100, f"{_MODULE}.suite:test", True),
    Stage("kernels", "kernels, native and bare products, as shares of the ceilings", 85, f"{_MODULE}.table:measure", True),
    Stage("grid", "the presets, as rows", 110, f"{_MODULE}.grid:measure"),
    Stage("penalties", "what a penalty costs, as rows", 35, f"{_MODULE}.grid:penalties"),
    Stage("study", "a slice of the sparsity study, and whether a CPU gives the same verdict", 35, f"{_MODULE}.study:measure"),
)
PRESETS = ("gpu", "gpu-precisions")
_AROUND_S = 20.0  # the start, and what is left to do when the last stage has ended


def gpu_run(
    out: Path,
    *,
    wheels: Path | None = None,
    device: str = "cuda",
    seconds: float = 480.0,
    workers: int = 12,
    preset: tuple[str, ...] = PRESETS,
    dry_run: bool = False,
) -> None:
    """Answer everything that needs a GPU, in stages, in less than eight minutes; no git, network or nox is needed.

    The stages are: measured ceilings, first use of every kernel, tests, a table of the kernels, presets as rows, penalties,
    and a slice of the sparsity study. One that overruns or fails does not stop the next. OUT/raw gets eight files at most, from
    which `report --out OUT` renders. Where there is no git, the environment variable EFFICIENT_KAN_COMMIT names the commit.

    The exit status is 0 if every stage is done, 1 if not, 2 if the run could not start, 130 if it was interrupted.

    Parameters
    ----------
    out
        Folder for the results, new or empty: nothing is overwritten.
    wheels
        Folder with wheels of packages that the machine lacks; the machine's own are left as they are.
    device
        GPU of torch: cuda or cuda:N.
    seconds
        How long the run may last. Each stage gets its share, and what those before it left over.
    workers
        Processes that check kernels and run tests at once.
    preset
        What is measured as rows, by name or as a .toml file; once for each. Rows bear the name of the first.
    dry_run
        Go all the way on a CPU, in small: interpreted kernels, no figure of a GPU.
    """
    began = time.time()
    if wheels is not None:
        packages.use(wheels)  # in vain where __main__ has
    if not math.isfinite(seconds) or seconds <= _AROUND_S:
        raise ValueError(f"seconds: expected more than {_AROUND_S:g}, got {seconds:g}")
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    chosen = tuple(str(Path(one).resolve()) if one.endswith(".toml") else one for one in preset)  # stages start elsewhere
    for one in chosen:
        presets.load(one)
    name = "a CPU (dry run)" if dry_run else environment.gpu_name(device)
    environment.git_commit()  # refuses what the variable for it should not be
    raw = files.claim(out.resolve())  # stages start in another folder
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    share = (seconds - _AROUND_S) / sum(stage.budget_s for stage in STAGES)
    stages = [Stage(**{**vars(stage), "budget_s": stage.budget_s * share}) for stage in STAGES]
    scratch = Path(tempfile.mkdtemp(prefix="gpu-run-"))
    job = Job(raw, scratch, "cpu" if dry_run else device, dry_run, workers, chosen)
    run = Run(job, facts(name, dry_run), lambda ended: console.print(ended.line))
    try:
        run.stages(stages, began, seconds - _AROUND_S / 2)
    except KeyboardInterrupt:
        run.notes.append("interrupted")
        raise SystemExit(130) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for sentence in finish(run, time.time() - began):
            console.print(sentence)
        console.print(f"results in {raw}; `python -m benchmarks report --out {out}` renders them")
    if any(ended.ending != "done" for ended in run.ended):
        raise SystemExit(1)


def facts(name: str, dry_run: bool) -> dict[str, object]:
    """What the summary says of the run as a whole, as far as it is known before it."""
    commit, dirty = environment.git_commit()
    return {
        "schema": 1,
        "dry_run": dry_run,
        "gpu": name,
        "machine": environment.machine(),
        "commit": commit + ("+dirty" if dirty else ""),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks {' '.join(_words())}",
    }


def finish(run: Run, seconds: float) -> list[str]:
    """Write the last summary, make the files small enough, and return what there is to say about both."""
    notes = [*run.notes, *packages.left_out(), *files.shrink(run.job.raw)]
    run.summarise(notes=notes, seconds=round(seconds, 1))
    return notes


def _words() -> list[str]:
    """The command line without paths, which say nothing about what was measured and are published."""
    return [Path(word).name if "/" in word else word for word in sys.argv[1:]]
