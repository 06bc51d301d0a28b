"""The preset `gpu` as ordinary rows, by the ordinary runner: the centre first, so that a run that is cut has it.

The runner works in the scratch folder; rows and environments are added to the results as they come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from benchmarks import presets, runner
from benchmarks.cases import Case
from benchmarks.gpu_run import files
from benchmarks.gpu_run.stages import Cut, Job
from benchmarks.presets import Preset
from benchmarks.rows import Row

PRESET = "gpu"
_LAST_S = 3.0  # a case that begins with less left is killed before it has a row


def measure(job: Job) -> None:
    """Measure speed and memory without penalties."""
    _run(job, lambda case: case.penalty == "none" and case.kind != "penalty_cost")


def penalties(job: Job) -> None:
    """Measure what penalties cost in time and memory."""
    _run(job, lambda case: case.penalty != "none" or case.kind == "penalty_cost")


def _run(job: Job, wanted: Callable[[Case], bool]) -> None:
    """Measure the wanted cases of the preset. Raises `Cut` when the time is nearly over."""
    preset = declared(job)
    cases = [case for case in ordered(preset) if wanted(case)]
    folder = job.scratch / "rows"
    counts: Counter[str] = Counter()

    def on_row(row: Row) -> None:
        if not counts:  # its environment is that of all of them
            files.append(job.raw / files.ENVIRONMENTS, (folder / "raw" / files.ENVIRONMENTS).read_text(encoding="utf-8"))
        files.append(job.raw / files.ROWS, row.model_dump_json() + "\n")
        counts[row.status] += 1
        endings = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
        where = " (dry run, on a CPU)" if job.dry_run else ""
        job.say(f"{counts.total()} of {len(cases)} cases: {endings}{where}; last {row.case.label}, {row.wall_s:.1f} s")
        if counts.total() < len(cases) and job.left() < _LAST_S:
            raise Cut(f"{len(cases) - counts.total()} cases were not begun")

    runner.run(preset.name, cases, folder, jobs=preset.jobs, command="python -m benchmarks gpu-run OUT", on_row=on_row)


def declared(job: Job) -> Preset:
    """The preset on the device of the job; in a dry run a small one under another name, of the same kinds and arms."""
    preset = presets.load(PRESET)
    if not job.dry_run:
        return presets.override(preset, device=job.device)
    preset = presets.override(preset, batch=[8], width=[4], grid=[3], order=[3], depth=[1], device="cpu", processes=1)
    assert preset.speed is not None and preset.memory is not None and preset.penalty_cost is not None
    least = {"blocks": 1, "budget_s": 0.01, "warmup": 1, "min_sample_ms": 0.1}
    quick = {
        "speed": preset.speed.model_copy(update=least),
        "memory": preset.memory.model_copy(update={"arms": ("efficient_kan",), "centre_arms": ("mlp[width]",)}),
        "penalty_cost": preset.penalty_cost.model_copy(update=least | {"penalties": ("sample_l1",)}),
    }
    return preset.model_copy(update={"name": f"{PRESET}-dry-run", "jobs": 2} | quick)


def ordered(preset: Preset) -> list[Case]:
    """The cases of `preset`, those at the centre first within a kind; on lines nothing else lies on more than one axis."""
    cases = presets.expand(preset)
    kinds = list(dict.fromkeys(case.kind for case in cases))
    return sorted(cases, key=lambda case: (kinds.index(case.kind), len(case.axes) == 1))
