"""The files of a run: which there are, how lines are added, and that they stay few and small.

All lie in `OUT`/raw. There are never more than eight, and none is larger than `LARGEST` at the end: what borrowed machines give
back is limited.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

ROWS, ENVIRONMENTS = "rows.jsonl", "environments.jsonl"
CEILINGS, FIRST_USE, TESTS, KERNELS = "ceilings.json", "first_use.csv", "junit.xml", "kernels.csv"
SUMMARY, LOG = "gpu-run.json", "gpu-run.log"
NAMES = (ROWS, ENVIRONMENTS, CEILINGS, FIRST_USE, TESTS, KERNELS, SUMMARY, LOG)
LARGEST = 16 * 2**20


def claim(out: Path) -> Path:
    """Return `out`/raw, made if need be.

    Raises ValueError if something is in there already, since results are never overwritten, or if it cannot be written to.
    """
    raw = out / "raw"
    try:
        raw.mkdir(parents=True, exist_ok=True)
        found = sorted(path.name for path in raw.iterdir())
    except OSError as error:
        raise ValueError(f"out: expected a folder to write to, got {out}: {error.strerror}") from error
    if found:
        raise ValueError(f"out: expected a folder without results, got {out}, where raw/ holds {', '.join(found[:8])}")
    return raw


def append(path: Path, text: str) -> None:
    """Add `text` to the end of the file `path` and wait until it is on the disk."""
    with path.open("ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, text: str) -> None:
    """Write the file `path` whole: whoever reads it, even after a crash, finds the former text or this one."""
    aside = path.with_suffix(".part")
    with aside.open("wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def shrink(raw: Path, largest: int = LARGEST) -> list[str]:
    """Compress the files of `raw` that are larger than `largest` bytes, and say so in one sentence each.

    Of one that is too large even then the first lines stay, as many as fit.
    """
    said = []
    for name in NAMES:
        path = raw / name
        if not path.exists() or path.stat().st_size <= largest:
            continue
        lines = path.read_bytes().splitlines(keepends=True)
        kept = len(lines)
        while len(packed := gzip.compress(b"".join(lines[:kept]), mtime=0)) > largest and kept:
            kept = int(0.8 * kept)
        path.with_name(f"{name}.gz").write_bytes(packed)
        path.unlink()
        lost = f", without its last {len(lines) - kept} of {len(lines)} lines" if kept < len(lines) else ""
        said.append(f"{name} was larger than {largest} bytes and is compressed{lost}: gunzip it before you use it")
    return said
