"""The presets of the run as ordinary rows, by the ordinary runner: the centre first, so that a run that is cut has it.

The runner works in the scratch folder; rows and environments are added to the results as they come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from benchmarks import presets
from benchmarks.gpu_run import files
from benchmarks.gpu_run.stages import Cut, Job
from benchmarks.kinds import get_kind
from benchmarks.presets import Preset
from benchmarks.run import runner
from benchmarks.schema.cases import Case
from benchmarks.schema.rows import Row

_FEW = 8
_LAST_S = 3.0  # a case that begins with less left is killed before it has a row


def measure(job: Job) -> None:
    """Measure speed and memory without penalties."""
    _run(job, lambda case: case.penalty == "none")


def penalties(job: Job) -> None:
    """Measure what penalties cost: the time, then the memory; in a dry run the time alone."""
    _run(job, lambda case: case.penalty != "none" and not (job.dry_run and get_kind(case.kind).fills_memory))


def _run(job: Job, wanted: Callable[[Case], bool]) -> None:
    """Measure the wanted cases of the presets. Raises `Cut` when the time is nearly over."""
    name, cases = declared(job)
    run(job, name, [case for case in cases if wanted(case)])


def run(job: Job, name: str, cases: list[Case], on_row: Callable[[Row], object] = lambda row: None) -> None:
    """Measure `cases` as those of the preset `name`; `on_row` gets each row too. Raises `Cut` when the time is nearly over."""
    folder = job.scratch / "rows"
    counts: Counter[str] = Counter()

    def add(row: Row) -> None:
        on_row(row)
        if not counts:  # its environment is that of all of them
            files.append(job.raw / files.ENVIRONMENTS, (folder / "raw" / files.ENVIRONMENTS).read_text(encoding="utf-8"))
        files.append(job.raw / files.ROWS, row.model_dump_json() + "\n")
        counts[row.status] += 1
        endings = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
        where = " (dry run, on a CPU)" if job.dry_run else ""
        job.say(f"{counts.total()} of {len(cases)} cases: {endings}{where}; last {row.case.label}, {row.wall_s:.1f} s")
        if counts.total() < len(cases) and job.left() < _LAST_S:
            raise Cut(f"{len(cases) - counts.total()} cases were not begun")

    jobs = 2 if job.dry_run and len(cases) > _FEW else 1  # what measures takes seconds to start
    runner.run(name, cases, folder, jobs=jobs, command="python -m benchmarks gpu-run OUT", on_row=add)


def declared(job: Job) -> tuple[str, list[Case]]:
    """The name that rows give as their preset, and the cases on the device of the job.

    A dry run has cases of the same kinds and arms, small and few, under another name.
    """
    chosen = [presets.load(name) for name in job.presets]
    if job.dry_run:
        return f"{chosen[0].name}-dry-run", ordered([_small(preset) for preset in chosen])
    return chosen[0].name, ordered([presets.override(preset, device=job.device) for preset in chosen])


def _small(preset: Preset) -> Preset:
    only = ["bf16"] if "ieee" not in preset.centre.matmul else None  # a CPU has no TF32
    small = presets.override(
        preset, batch=[8], width=[4], grid=[3], order=[3], depth=[1], device="cpu", processes=1, matmul=only
    )
    least: dict[str, object] = {"blocks": 1, "budget_s": 0.01, "warmup": 1, "min_sample_ms": 0.1}
    changed: dict[str, dict[str, object]] = {
        "speed": least,
        "memory": {"arms": ("efficient_kan",), "centre_arms": ("mlp[width]",)},
        "penalty_cost": least | {"penalties": ("sample_l1",)},
    }
    sections = {name: getattr(small, name) for name in changed}
    return small.model_copy(
        update={name: section.model_copy(update=changed[name]) for name, section in sections.items() if section is not None}
    )


def ordered(chosen: list[Preset]) -> list[Case]:
    """The cases of all presets, those at the centre first within a kind; elsewhere a case lies on one axis alone."""
    cases = [case for preset in chosen for case in presets.expand(preset)]
    kinds = list(dict.fromkeys(case.kind for case in cases))
    return sorted(cases, key=lambda case: (kinds.index(case.kind), len(case.axes) == 1))
