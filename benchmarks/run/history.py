"""What stored rows say about the time and memory of cases that are not measured yet.

A kind predicts both from sizes (`benchmarks.kinds.predict`). Of the stored rows of the same arm and kind, those of the nearest
cases tell how far such predictions are off: the prediction is multiplied by the mean of measured over predicted, in logarithms
and weighted by nearness. Without a row of the arm and kind the prediction stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.kinds import find_kind
from benchmarks.run import archive
from benchmarks.schema.cases import Case
from benchmarks.schema.meaning import ROOT

_NEAREST = 3
_CLOSE = 0.1  # doublings of a size: what lies nearer counts as the same


@dataclass(frozen=True)
class History:
    """Cases with measured seconds, by kind, arm and group, and with peak bytes, by what predicts them, penalty and arm."""

    _seconds: dict[tuple[object, ...], list[tuple[Case, float]]] = field(default_factory=dict)
    _bytes: dict[tuple[object, ...], list[tuple[Case, float]]] = field(default_factory=dict)

    @classmethod
    def stored(cls, out: Path | None = None) -> History:
        """Read the rows of all reports of this repository, and those of `out`."""
        raws = {raw.resolve() for raw in (ROOT / "reports").glob("*/raw")} | ({(out / "raw").resolve()} if out else set())
        return cls.of(sorted(raw.parent for raw in raws))

    @classmethod
    def of(cls, folders: Iterable[Path]) -> History:
        """Read the rows of the report folders `folders`, as far as they are of kinds that are registered.

        A record that is no row of the present schema says nothing here; whoever loads the rows refuses it.
        """
        found = cls()
        for folder in folders:
            for _, record in archive.rows(folder / "raw"):
                found._add(record)
        return found

    def seconds(self, case: Case) -> float:
        """Return the predicted time of `case`."""
        kind = find_kind(case.kind)
        if kind is None:
            return 0.0
        return _corrected(case, self._seconds.get((case.kind, case.arm, *kind.group(case, "")), ()), kind.seconds)

    def peak_bytes(self, case: Case) -> int | None:
        """Return the predicted peak of `case`; None if that is not known."""
        kind = find_kind(case.kind)
        if kind is None or kind.peak_bytes(case) is None:
            return None
        known = self._bytes.get((kind.peak_bytes, case.penalty, case.arm), ())
        return int(_corrected(case, known, lambda one: float(kind.peak_bytes(one) or 0)))

    def _add(self, record: archive.Record) -> None:
        kind = find_kind(str(record.get("case", {}).get("kind")))
        if record.get("status") != "ok" or kind is None:
            return
        try:
            case = Case.model_validate(record["case"])
        except ValueError:
            return
        self._seconds.setdefault((case.kind, case.arm, *kind.group(case, "")), []).append((case, float(record["wall_s"])))
        peaks = [series["peak_bytes"] for series in record.get(kind.part, ())] if kind.compared == "peak bytes" else []
        if peaks:
            self._bytes.setdefault((kind.peak_bytes, case.penalty, case.arm), []).append((case, float(max(peaks))))


def _corrected(case: Case, known: Sequence[tuple[Case, float]], predict: Callable[[Case], float]) -> float:
    """Return the prediction for `case`, times what the nearest of `known` were measured at over their prediction."""
    predicted = predict(case)
    there = sorted(((_distance(case, other), place) for place, (other, _) in enumerate(known)))[:_NEAREST]
    weights, logs = 0.0, 0.0
    for distance, place in there:
        other, measured = known[place]
        scale = predict(other) if predicted else 1.0
        if measured > 0 and scale > 0:
            weight = 1 / (_CLOSE + distance)
            weights, logs = weights + weight, logs + weight * math.log(measured / scale)
    return (predicted or 1.0) * math.exp(logs / weights) if weights else predicted


def _distance(case: Case, other: Case) -> float:
    """How far two cases of one kind and arm lie apart, in doublings of their sizes."""
    return math.dist(_place(case), _place(other))


def _place(case: Case) -> tuple[float, ...]:
    point = case.point
    edges = sum(i * o for i, o in zip(point.layers, point.layers[1:], strict=False))
    runs = len(case.sweep.strengths) * len(case.sweep.seeds) if case.sweep else 1
    sizes = (point.batch, edges, point.grid_size + point.spline_order, point.depth, point.threads, runs)
    return tuple(math.log2(size) for size in sizes)
