"""`python -m benchmarks.study.seeds OUT [PRESET]`: which families of the confirmatory study are decided, and what to run next.

It prints where each family stands and, if one needs another look, writes `OUT/next.toml`: the preset `confirm` with the missing
seeds of the undecided families' tasks alone. `python -m benchmarks run --preset OUT/next.toml --out OUT` measures them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmarks import presets, tasks
from benchmarks.analysis import data
from benchmarks.study import rule as rules
from benchmarks.study import verdict
from benchmarks.study.looks import Standing, standings


def next_preset(text: str, found: list[Standing], rule: rules.Rule) -> str | None:
    """The text of the preset `text` for the next look of the families that need one; None if none does."""
    going = [one for one in found if one.next]
    if not going:
        return None
    # Families at different looks are run in turn: the one with the fewest seeds first.
    fewest = min(one.next for one in going)
    now = [one for one in going if one.next == fewest]
    names = [name for name in rule.confirmatory.tasks if tasks.get_task(name).family in {one.family for one in now}]
    first = min(one.seeds for one in now)
    for field, value in (
        ("first_seed", str(rule.confirmatory.first_seed + first)),
        ("seeds", str(fewest - first)),
        ("tasks", "[" + ", ".join(f'"{name}"' for name in names) + "]"),
    ):
        pattern = rf"^{field} = (\[[^\]]*\]|\S+)$"
        text, count = re.subn(pattern, f"{field} = {value}", text, count=1, flags=re.MULTILINE)
        if not count:
            raise ValueError(f"preset: expected a line for {field}, got none")
    return text


def main(out: str, preset: str = "confirm") -> None:
    """Say where the families stand, and write the preset of what to run next."""
    rule = rules.load()
    frame = data.load(Path(out)).sparsity
    runs = verdict.with_areas(frame[frame["confirmatory"]], rule)
    found = standings(runs, rule)
    following = next_preset(presets.file(preset).read_text(encoding="utf-8"), found, rule)
    for one in found:
        sys.stdout.write(one.line + "\n")
    if following is not None:
        path = Path(out) / "next.toml"
        path.write_text(following, encoding="utf-8")
        sys.stdout.write(f"written: {path}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
