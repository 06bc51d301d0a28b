"""The declared rule, read from rule.toml; RULE.md says what it means."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import Field

from benchmarks.schema.cases import Record


class Comparison(Record):
    """A penalty and the one that it is compared with."""

    candidate: str
    reference: str


class CrossCheckRule(Record):
    """When pykan itself and this package's form of its penalty count as equal."""

    tolerance: float = Field(gt=0)


class Rule(Record):
    """Numbers of the rule, under the names of RULE.md."""

    alpha: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    margin: float = Field(gt=0)
    floor: float = Field(gt=0)
    ceiling: float = Field(gt=0)
    resamples: int = Field(ge=100)
    seed: int
    levels: tuple[float, ...]
    families: tuple[str, ...]
    no_effect: float = Field(gt=0)
    collapse: float = Field(gt=0)
    comparison: tuple[Comparison, ...] = Field(min_length=1)
    cross_check: CrossCheckRule


FILE = Path(__file__).with_name("rule.toml")


def load(path: Path = FILE) -> Rule:
    """Return the rule. Raises ValueError if the file does not fit."""
    return Rule.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
