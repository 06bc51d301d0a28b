"""What travels to a node: texts, a part, and what the source there must be. No case and no object of Python does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import presets
from benchmarks.kinds.sources import source_hash
from benchmarks.run import limits, parts
from benchmarks.run.merge import PARTS
from benchmarks.run.selection import Selected, Selection
from benchmarks.schema import environment
from benchmarks.schema.cases import Case, Record

_TRAVEL_AS_TEXT = ("preset", "plugin", "part")
CLAIM, ENDED = "claimed", "ended.json"


class Ended(Record):
    """How a job ended: its exit status and the last line that it said."""

    status: int
    said: str


class Order(Record):
    """What a job is to measure. Its store is `out`/parts/`job`, on a file system that all machines share."""

    job: str
    out: str
    part: str
    preset: str
    preset_text: str
    plugin: str | None
    plugin_text: str | None
    options: dict[str, Any]
    command: str
    retry: bool
    memory_bytes: int | None
    commit: str
    source: str
    plan: str

    @property
    def folder(self) -> Path:
        """The store of the job."""
        return Path(self.out, PARTS, self.job)

    def selection(self) -> Selection:
        """Write the texts below the store and return what they select. Raises ValueError if `Selection.resolve` would."""
        texts = self.folder / "texts"
        texts.mkdir(exist_ok=True)
        preset, plugin = texts / f"{self.preset}.toml", None
        preset.write_text(self.preset_text, encoding="utf-8")
        if self.plugin is not None and self.plugin_text is not None:
            plugin = texts / self.plugin
            plugin.write_text(self.plugin_text, encoding="utf-8")
        return Selection(**self.options, preset=str(preset), plugin=plugin, part=self.part)

    def refuse(self, selected: Selected) -> None:
        """Raise ValueError unless this machine's source is that of the order, cuts the same part, and has the cores for it."""
        here = source(selected.cases, selected.plugin)
        if here != self.source:
            commit, _ = environment.git_commit()
            raise ValueError(
                f"source: expected that of commit {self.commit[:12]} (hash {self.source}), got commit {commit[:12]} "
                f"(hash {here}): bring the checkout on this machine to that commit"
            )
        if parts.digest(selected.cases) != self.plan:
            raise ValueError(
                f"part: expected the cases that were handed out as {self.part}, got others: name --device, for auto is "
                "another one here"
            )
        limits.require_cores(selected.cases)


def orders(selection: Selection, selected: Selected, out: Path, count: int, job: str, **fields: Any) -> list[Order]:
    """Return the orders for `count` parts of what is selected; empty parts have none. Their jobs are called after `job`."""
    options = {name: value for name, value in asdict(selection).items() if value is not None and name not in _TRAVEL_AS_TEXT}
    plugin = selected.plugin
    found = []
    for index, cases in enumerate(parts.split(selected.whole, count, selected.preset.jobs), start=1):
        if cases:
            found.append(
                Order(
                    job=f"{index}-of-{count}-{job}",
                    out=str(out.resolve()),
                    part=f"{index}/{count}",
                    preset=presets.file(selection.preset).stem,
                    preset_text=presets.file(selection.preset).read_text(encoding="utf-8"),
                    plugin=plugin.name if plugin else None,
                    plugin_text=plugin.read_text(encoding="utf-8") if plugin else None,
                    options=options,
                    commit=environment.git_commit()[0],
                    source=source(cases, plugin),
                    plan=parts.digest(cases),
                    **fields,
                )
            )
    return found


def source(cases: Sequence[Case], plugin: Path | None) -> str:
    """Return a hash of all source that decides what `cases` give."""
    hashes = sorted({source_hash(case, plugin) for case in cases})
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:12]
