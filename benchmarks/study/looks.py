"""Where the families of the confirmatory study stand: at which look of the rule, and what is judged there."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from benchmarks import tasks
from benchmarks.study import rule as rules
from benchmarks.study import verdict


@dataclass(frozen=True)
class Standing:
    """Where a family stands: the `seeds` that all its tasks have, the verdict there, and the next look (0: done)."""

    family: str
    seeds: int
    verdict: str
    next: int

    @property
    def line(self) -> str:
        """In words."""
        what = f"look at {self.next} seeds next" if self.next else "done"
        return f"{self.family}: {self.verdict or 'no verdict yet'} at {self.seeds} seeds; {what}"


def standings(runs: pd.DataFrame, rule: rules.Rule) -> list[Standing]:
    """Where each family stands, from the confirmatory runs with areas, by the main comparison."""
    main = rule.comparison[0]
    found = []
    for family in rule.families:
        names = [name for name in rule.confirmatory.tasks if tasks.get_task(name).family == family]
        own = runs[runs["penalty"].isin([main.candidate, main.reference]) & runs["task"].isin(names)]
        seeds = _complete(own, names, (main.candidate, main.reference), rule)
        reached = [look for look in rule.looks if look <= seeds]
        judged = ""
        for look in reached:  # as they were looked at: a family that was decided early stays so
            last = rule.confirmatory.first_seed + look
            choices = verdict.chosen(own[own["seed"] < last], rule)
            line = verdict.verdicts(choices, rule, confirmatory=rule.families)
            judged = str(line[(line["family"] == family)].iloc[0]["verdict"])
            if judged != verdict.UNDECIDED:
                found.append(Standing(family, look, judged, 0))
                break
        else:
            later = [look for look in rule.looks if look > seeds]
            found.append(Standing(family, seeds, judged, later[0] if later else 0))
    return found


def _complete(own: pd.DataFrame, names: list[str], penalties: tuple[str, str], rule: rules.Rule) -> int:
    """Seeds from the first on that every task has of both penalties."""
    groups = own.groupby(["task", "penalty"])["seed"].agg(set).to_dict() if len(own) else {}
    every = [groups.get((name, penalty), set()) for name in names for penalty in penalties]
    seed = rule.confirmatory.first_seed
    while every and all(seed in one for one in every):
        seed += 1
    return seed - rule.confirmatory.first_seed
