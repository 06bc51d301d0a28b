"""The declared rule, read from rule.toml; RULE.md says what it means."""

from __future__ import annotations

import tomllib
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.schema.cases import Record


class Comparison(Record):
    """A penalty and the one that it is compared with."""

    candidate: str
    reference: str


class CrossCheckRule(Record):
    """When pykan itself and this package's form of its penalty count as equal."""

    tolerance: float = Field(gt=0)


class Confirmatory(Record):
    """Which networks are confirmatory: fresh tasks, fresh seeds, and one setting, by the paths of a case's fields."""

    first_seed: int
    tasks: tuple[str, ...]
    setting: dict[str, Any]


class Rule(Record):
    """Numbers of the rule, under the names of RULE.md."""

    alpha: float = Field(gt=0, lt=1)
    margin: float = Field(gt=0)
    floor: float = Field(gt=0)
    ceiling: float = Field(gt=0)
    least_edges: int = Field(ge=1)
    collapsed: float = Field(gt=0)
    looks: tuple[int, ...] = Field(min_length=1)
    levels: tuple[float, ...]
    families: tuple[str, ...]
    pilot_weak: float = Field(gt=0, lt=1)
    pilot_strong: float = Field(gt=0, lt=1)
    pilot_beyond: float = Field(ge=1)
    no_effect: float = Field(gt=0)
    collapse: float = Field(gt=0)
    comparison: tuple[Comparison, ...] = Field(min_length=1)
    confirmatory: Confirmatory
    cross_check: CrossCheckRule

    @cached_property
    def exploratory_confidence(self) -> float:
        """Of every interval that no verdict of the confirmatory study rests on."""
        return 1 - self.alpha

    @cached_property
    def seeds_confidence(self) -> float:
        """Of the confirmatory intervals over seeds: one for each family and look."""
        return 1 - self.alpha / (len(self.families) * len(self.looks))

    @cached_property
    def tasks_confidence(self) -> float:
        """Of the confirmatory intervals over tasks: one for each family."""
        return 1 - self.alpha / len(self.families)


FILE = Path(__file__).with_name("rule.toml")


def load(path: Path = FILE) -> Rule:
    """Return the rule. Raises ValueError if the file does not fit."""
    return Rule.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
