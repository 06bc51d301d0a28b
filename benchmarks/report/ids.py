"""Ids under which figures and tables are cited: declared by name, so that they stay when another one appears or is absent.

A figure file is called `<kind>-<what it shows>`, its id is `F<number of the kind>-<what it shows>`; the id of a table is
`T<number>`. Numbers are given once, here, and never again to something else. What has no number is cited by its name.
"""

from __future__ import annotations

from collections.abc import Mapping

FIGURES: Mapping[str, int] = {
    "time": 1,
    "time_ratio": 2,
    "memory": 3,
    "resident": 4,
    "simulated": 5,
    "frontier": 6,
    "penalty_cost": 7,
    "sparsity_trade_off": 9,
    "sparsity_effects": 10,
    "sparsity_by_task": 11,
    "sparsity_sweep": 12,
    "sparsity_agreement": 13,
    "sparsity_cross_check": 14,
    "images": 15,
    "sparsity_trade_off_plain": 16,
    "gpu_kernels": 17,
    "sparsity_axes": 30,
    "papers_scaling": 40,
}
TABLES: Mapping[str, tuple[int, str]] = {
    "summary": (
        1,
        "Every arm where most lines of the plan cross: time of a call, ratio to `efficient_kan` (95 % interval), peak memory.",
    ),
    "equivalence": (2, "Equivalence gate: per arm the tensor nearest to its limit, over all points."),
    "time": (3, "Time of one call and its ratio to `efficient_kan` with a 95 % interval, all points."),
    "memory": (4, "Peak memory of one call in exact bytes, split by what holds it, all points."),
    "cross_check": (5, "Allocator peak against live storages and against simulation: the largest deviation per arm."),
    "simulated": (6, "Simulated peak memory at the named points."),
    "frontier": (7, "Largest batch of which one training step fits into a memory size, by simulation."),
    "penalty_cost": (8, "Time and peak memory of a penalised training step, and both over the arm's own plain step."),
    "overall": (
        11,
        "Per arm over all points: range of its time over that of `efficient_kan`, how often beyond the noise.",
    ),
    "failed_cases": (10, "Cases without a value, each with its reason."),
    "sparsity_verdict": (15, "Does L1 on the weights do the job? The verdict per family of tasks."),
    "sparsity_penalties": (16, "Every penalty against no penalty."),
    "sparsity_tasks": (17, "Every penalty on every task, at the chosen strengths."),
    "sparsity_ends": (
        18,
        "Do the strengths reach from no effect to collapse? Collapse is that of the penalty's own norm: `weight_l1` leaves the "
        "base weights out, so that a network under it may go on predicting with those.",
    ),
    "sparsity_cross_check": (19, "pykan itself against this package's form of its penalty."),
    "sparsity_declared": (20, "The tasks of the study, as declared."),
    "sparsity_rates": (
        30,
        "What sparsity is wanted for, as rates of networks with 95 % Wilson intervals: the exact structure, the exact formula "
        "by each fitter, all irrelevant inputs cut off, the declared errors at the true size.",
    ),
    "sparsity_axes": (
        31,
        "Where the verdict turns: L1 on the weights against that on the samples along each axis (*: centre).",
    ),
    "images": (12, "Heads on images: held-out scores over seeds, beside the published ones of HyperKvasir."),
    "published": (13, "Published baselines of HyperKvasir's 23 classes."),
    "tabular": (
        26,
        "Estimators on data sets that ship with scikit-learn, under one nested cross-validation: mean score (R squared or "
        "accuracy) and loss (mean squared error over the variance, or log loss) on outer folds.",
    ),
    "papers": (
        40,
        "The KAN papers' experiments: the paper's figure, ours with 95 % intervals over seeds, and the status by the rule of "
        "the experiment.",
    ),
    "papers_declared": (41, "The experiments as declared: claim, method, rule, and how many of their lines have each status."),
    "workflows": (
        42,
        "What people run, from start to end: seconds and peak memory until a declared error is reached.",
    ),
    "head_cost": (14, "What a head adds to the time and memory of the whole network."),
    "gpu_stages": (21, "The stages of the run on the GPU and how each of them ended."),
    "gpu_ceilings": (22, "What was measured of the GPU itself: the ceilings that shares refer to."),
    "gpu_kernels": (
        23,
        "Time on the device of each product of a layer by the Triton kernel, by `native` and as the bare matrix product. The "
        "share of the ceiling is that of a bound in the time: bytes at the measured rate of a copy, or the dense product's "
        "operations at that of a product if this is longer. Local support does fewer: its share may exceed 100 %.",
    ),
    "gpu_first_use": (24, "Every kernel on small problems against `native` in float64: the result nearest to its limit."),
    "gpu_auto": (25, "Measured times from which `auto` chooses where EFFICIENT_KAN_GPU_TABLE names the CSV of this table."),
}


def figure_id(name: str) -> str:
    """Return the id of the figure with the file stem `name`: 'memory-cpu' gives 'F3-cpu'."""
    kind, dash, rest = name.partition("-")
    return f"F{FIGURES[kind]}{dash}{rest}" if kind in FIGURES else f"F-{name}"


def table_id(name: str) -> str:
    """Return the id of the table `name`: 'time' gives 'T3', 'sparsity_verdict-cpu' of several settings 'T15-cpu'."""
    kind, dash, rest = name.partition("-")
    return f"T{TABLES[kind][0]}{dash}{rest}" if kind in TABLES else f"T-{name}"


def table_caption(name: str) -> str:
    """Return the caption of the table `name`."""
    kind = name.partition("-")[0]
    return TABLES[kind][1] if kind in TABLES else f"{name.replace('_', ' ').capitalize()}."


def matches(wanted: str, known: str) -> bool:
    """Whether `wanted` names the id `known`: the id itself or its part before a dash, in any case ('f3' names 'F3-cpu')."""
    return known.lower() == wanted.lower() or known.lower().startswith(f"{wanted.lower()}-")
