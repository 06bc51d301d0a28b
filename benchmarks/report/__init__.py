"""Tables, figures and the report page, rendered from stored rows alone. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from benchmarks.report import data as stored
from benchmarks.report import figures, page, sparsity, tables

_MANIFEST = "rendered.json"


def render(out: Path) -> None:
    """Read `out`/raw/{rows,environments}.jsonl and write `out`/{figures/, tables/, README.md, rendered.json}.

    Equal rows give equal bytes. Everything is drawn aside first and then moved into place file by file, so that a failure
    leaves the former report as it was. `rendered.json` maps each rendered file to its SHA-256; files that a former
    rendering listed and this one no longer makes are removed, all others are left alone.

    Raises ValueError if `out` holds no finished case, or a damaged row or one of another schema version.
    """
    out = Path(out)
    data = stored.load(out)
    studies = sparsity.studies(data)
    with tempfile.TemporaryDirectory(dir=out, prefix=".render-") as name:
        aside = Path(name)
        for folder in ("figures", "tables"):
            (aside / folder).mkdir()
        made = {
            table.name: table
            for table in (
                tables.summary(data),
                tables.equivalence(data),
                tables.time(data),
                tables.memory(data),
                tables.cross_check(data),
                tables.simulated(data),
                tables.frontier(data),
                tables.penalty_cost(data),
                *(table for study in studies for table in sparsity.tables(study, named=len(studies) > 1)),
                tables.failed(data),
            )
        }
        for table in made.values():
            if not table.frame.empty:
                table.save(aside / "tables")
        drawn = figures.draw_all(data, studies, aside / "figures")
        (aside / "README.md").write_text(page.page(data, studies, made, drawn), encoding="utf-8")
        _move(aside, out)


def _move(aside: Path, out: Path) -> None:
    files = sorted(path.relative_to(aside).as_posix() for path in aside.rglob("*") if path.is_file())
    digests = {name: hashlib.sha256((aside / name).read_bytes()).hexdigest() for name in files}
    former = out / _MANIFEST
    stale = set(json.loads(former.read_text(encoding="utf-8"))) - set(files) if former.exists() else set()
    (aside / _MANIFEST).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
    for name in [*files, _MANIFEST]:
        (out / name).parent.mkdir(exist_ok=True)
        (aside / name).replace(out / name)
    for name in stale:
        (out / name).unlink(missing_ok=True)
