"""The papers' numbers, with equation, table or figure and row: `published.csv`, in the papers' own notation."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class Published:
    """One number, or one network's shape as in 2-5-1. `page` is the page of notes that it was transcribed to first."""

    experiment: str
    row: str
    quantity: str
    value: str
    paper: str
    place: str
    page: str


@cache
def table() -> Mapping[tuple[str, str, str], Published]:
    """Every number by experiment, row and quantity. Raises ValueError if one is there twice."""
    found: dict[tuple[str, str, str], Published] = {}
    with FILE.open(encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines):
            one = Published(**line)
            key = one.experiment, one.row, one.quantity
            if key in found:
                raise ValueError(f"published.csv: expected each number once, got {', '.join(key)} twice")
            found[key] = one
    return found


def rows(experiment: str) -> list[str]:
    """The rows of an experiment, in the order of the paper."""
    return list(dict.fromkeys(row for name, row, _ in table() if name == experiment))


def value(experiment: str, row: str, quantity: str) -> float | None:
    """A number; None if the paper's was not transcribed."""
    found = table().get((experiment, row, quantity))
    return None if found is None else float(found.value)


def shape(experiment: str, row: str, quantity: str = "KAN shape") -> tuple[int, ...]:
    """A network's widths. Raises KeyError if it was not transcribed."""
    return tuple(int(width) for width in table()[experiment, row, quantity].value.split("-"))
