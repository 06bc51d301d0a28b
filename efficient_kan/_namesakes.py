"""Other distributions that install a package of this name: pip lets their files replace these without a word."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

_OWN, _PACKAGE = "efficient-kan-bench", "efficient_kan"


def clashing(path: Iterable[str] | None = None) -> list[str]:
    """Names of the other distributions on ``path`` (``sys.path``) that install ``efficient_kan``, in order.

    Looks at the list of files of each, as bytes: ``importlib.metadata`` takes twenty times as long to parse them.
    """
    found = set()
    for folder in dict.fromkeys(sys.path if path is None else path):
        try:
            installed = [entry for entry in Path(folder or ".").iterdir() if entry.suffix in (".dist-info", ".egg-info")]
        except OSError:  # of an archive, or nothing
            continue
        for info in installed:
            name = re.sub(r"[-_.]+", "-", info.stem.partition("-")[0]).lower()
            if name != _OWN and _installs_it(info):
                found.add(name)
    return sorted(found)


def _installs_it(info: Path) -> bool:
    for name, line in (("RECORD", rb"^\"?efficient_kan/"), ("top_level.txt", rb"^efficient_kan\s*$")):
        try:
            if re.search(line, (info / name).read_bytes(), re.MULTILINE):
                return True
        except OSError:
            continue
    return False


def warn_of_clash() -> None:
    """One ``UserWarning`` if there are such distributions."""
    others = clashing()
    if others:
        listed = " ".join(others)
        warnings.warn(
            f"efficient_kan: {' and '.join(others)} install a package of this name, too: files of one replace those of the "
            f"other, and what is imported may be either; keep one: python -m pip uninstall {listed} {_OWN}, then install that",
            stacklevel=2,
        )
