"""One slice of the sparsity study, two penalties on one task: whether a GPU and a CPU give the same verdict."""

from __future__ import annotations

import math

import pandas as pd

from benchmarks import presets
from benchmarks.analysis import results
from benchmarks.gpu_run import grid
from benchmarks.gpu_run.stages import Job
from benchmarks.report.sparsity import percent
from benchmarks.schema.cases import Case
from benchmarks.schema.rows import Row
from benchmarks.study import rule as rules
from benchmarks.study import verdict

PRESET = "gpu-study"


def measure(job: Job) -> None:
    """Train, prune and refit the slice on the device of the job, then on the CPU, and say both verdicts."""
    rows: list[Row] = []
    grid.run(job, PRESET + "-dry-run" * job.dry_run, cases(job), on_row=rows.append)
    job.say(said(rows, job))


def cases(job: Job) -> list[Case]:
    """The cases on the device, then the same on the CPU; in a dry run, where both are one, small and once."""
    preset = presets.load(PRESET)
    if job.dry_run:
        (section,) = preset.sections("sparsity")
        small = section.model_copy(update={"steps": 3, "refit_steps": 2, "refit_rounds": 1, "seeds": 2, "counts": 2})
        return presets.expand(preset.model_copy(update={"sparsity": small}))
    return [
        *presets.expand(presets.override(preset, device=job.device)),
        *presets.expand(presets.override(preset, device="cpu")),
    ]


def said(rows: list[Row], job: Job) -> str:
    """'..: worse, +40 % (+30 to +51) on cuda; worse, +41 % (..) on cpu; the same verdict'."""
    found = verdicts(rows)
    task = ", ".join(sorted({row.case.sweep.task for row in rows if row.case.sweep}))
    words = [f"{line['verdict']}, {line['text']} on {device}" for device, line in found.items()]
    words += ["dry run, on a CPU"] if job.dry_run else []
    if len(found) > 1:
        words.append("the same verdict" if len({line["verdict"] for line in found.values()}) == 1 else "NOT the same verdict")
    return f"{task}, L1 on the weights against L1 on the samples: {'; '.join(words) or 'no rows'}"


def verdicts(rows: list[Row]) -> dict[str, dict[str, object]]:
    """By device the verdict of *these tasks* on the main comparison, exploratory, and its effect in words."""
    rule = rules.load()
    main = rule.comparison[0]
    found: dict[str, dict[str, object]] = {}
    for device in dict.fromkeys(row.case.point.device for row in rows):
        frame = results.sparsity_frame([row for row in rows if row.case.point.device == device])
        choices = verdict.chosen(verdict.with_areas(frame, rule), rule)
        judged = verdict.verdicts(choices, rule)
        own = judged[(judged["candidate"] == main.candidate) & (judged["reference"] == main.reference)]
        own = own[own["verdict"] != verdict.NO_ROWS]
        if own.empty:
            continue
        line = own.iloc[0]
        text = percent(pd.DataFrame([line]))[0] if not math.isinf(line["effect_low"]) else "of one seed"
        found[device] = {"verdict": str(line["verdict"]), "effect": float(line["effect"]), "text": text}
    return found
