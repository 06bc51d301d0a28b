"""Tables: `KANRegressor` and `KANClassifier` beside scikit-learn's estimators, under one nested cross-validation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from benchmarks.kinds.design import Preset
from benchmarks.kinds.kind import Kind, Section, Shown
from benchmarks.schema.cases import Case, Point

# Samples, features and outputs of the data sets, all of which ship with scikit-learn.
SHAPES: dict[str, tuple[int, int, int]] = {
    "diabetes": (442, 10, 1),
    "breast_cancer": (569, 30, 2),
    "wine": (178, 13, 3),
    "digits": (1797, 64, 10),
    "iris": (150, 4, 3),
}
DataSet = Literal["diabetes", "breast_cancer", "wine", "digits", "iris"]
Model = Literal["kan", "mlp", "trees", "linear"]
# Seconds of a fit on one thread, roughly: of what it takes at least, of each step (networks), and of each sample, feature and
# output (trees).
_OVERHEAD = {"kan": 0.05, "mlp": 0.03, "trees": 0.1, "linear": 0.02}
_STEP = {"kan": 2e-3, "mlp": 5e-4}
_TREES = 1.5e-6
_CANDIDATES = 6


class Tabular(Section):
    """Every model on every data set. The outer folds give scores, the inner ones choose a candidate, the same for all models.

    Networks are trained for about `steps` steps of Adam on batches of `batch` samples.
    """

    data: tuple[DataSet, ...] = ("diabetes", "breast_cancer", "wine", "digits", "iris")
    models: tuple[Model, ...] = ("kan", "mlp", "trees", "linear")
    folds: int = Field(default=5, ge=2)
    repeats: int = Field(default=1, ge=1, description="of the outer folds, on other splits")
    inner: int = Field(default=3, ge=2)
    steps: int = Field(ge=1)
    batch: int = Field(default=128, ge=1)
    timeout_s: float = Field(gt=0)


def cases(preset: Preset, section: Tabular) -> Iterator[Case]:
    """Return a case for each data set and model. Networks are small, so that all are trained on the CPU."""
    shared = tuple((name, getattr(section, name)) for name in ("folds", "repeats", "inner", "steps"))
    for data in section.data:
        samples, features, outputs = SHAPES[data]
        place: dict[str, Any] = {"device": "cpu", "threads": preset.centre.threads}
        point = Point(batch=min(section.batch, samples), layers=(features, outputs), grid_size=3, **place)
        for model in section.models:
            told = (("data", data), ("model", model), *shared)
            yield Case(
                kind="tabular",
                arm="efficient_kan",
                point=point,
                options=told,
                seed=preset.centre.seed,
                timeout_s=section.timeout_s,
            )


def seconds(case: Case) -> float:
    """Return the predicted time of all fits."""
    told: dict[str, Any] = dict(case.options)
    samples, features, outputs = SHAPES[told["data"]]
    fits = told["folds"] * told["repeats"] * (told["inner"] * _CANDIDATES + 1)
    model = told["model"]
    trees = _TREES * samples * features * outputs if model == "trees" else 0.0
    return float(fits * (_OVERHEAD[model] + _STEP.get(model, 0.0) * told["steps"] + trees))


_NOTE = (
    "Every model has six candidates, chosen by the loss on the inner folds; all get the same folds. The interval is that "
    "of a mean over folds whose training sets overlap (Nadeau and Bengio 2003), for each data set alone."
)
KIND = Kind(
    name="tabular",
    about="estimators on tables",
    section=Tabular,
    cases=cases,
    measure="benchmarks.measure.tabular:measure",
    sources=("benchmarks.measure.tabular", "efficient_kan"),
    # As declared: data set by data set.
    order=lambda case: (),
    lacking={
        "batch": "trains on batches that its section declares",
        "width": "chooses widths by cross-validation",
        "grid": "trains grids that its candidates declare",
        "order": "trains cubic splines",
        "depth": "chooses the depth by cross-validation",
        "dtype": "trains in float32",
        "matmul": "computes float32 products in float32",
        "device": "runs on the CPU",
        "processes": "measures each cell in one process",
    },
    packages=lambda case: ("scikit-learn", "scipy"),
    trains=True,
    seconds=seconds,
    seen=frozenset({"point.batch", "point.layers", "options"}),
    tables="benchmarks.report.tabular:of_tables",
    shown=(
        Shown(
            60,
            "tabular",
            "Estimators on tables",
            ("tabular",),
            note=_NOTE,
        ),
    ),
)
