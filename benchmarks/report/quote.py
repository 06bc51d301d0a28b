"""Numbers in a hand-written text, each tied to a cell of a table by a comment right behind it.

`2.21<!-- T1 step_ratio arm=pykan[speed] -->` says: the column `step_ratio` of table T1, in the one line where `arm` is
`pykan[speed]`. `digits=2` rounds to two significant digits (three are usual), `per=1024` divides first. Where a report has
several settings, the id of a table names its own (`T15-cpu-float32-1-thread-g5`), or `setting="..."` that of a line. The report
that is meant is the one named last before the number; before any, the first: `<!-- numbers from reports/cpu-2core -->`.

A number that no row holds names a file and the piece of it that says the number, `1.2<!-- in tests/test_memory.py: <= 1.2 -->`.
`<!-- by hand -->` marks what nothing can check, such as the number of an equation.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from benchmarks.report.cells import number

_MARKED = re.compile(r"(?P<shown>[^\s<>()*|]+)(?P<stars>\**)<!-- (?P<query>T\d+(?:-[\w-]+)? [^>]*?) -->")
_REPORT = re.compile(r"<!-- numbers from (\S+) -->")
_SOURCED = re.compile(r"(?P<shown>[^\s<>()*|]+)\**<!-- in (?P<file>\S+): (?P<piece>.*?) -->")
_NUMBER = re.compile(r"\d+e-?\d+|\d[\d.,]*\d|\d")
# What a reader does not read as a number of the text: code, targets of links, comments and what they mark, words with digits.
_NOT_PROSE = re.compile(
    r"```.*?```|`[^`]*`|\]\([^)]*\)|"
    r"(?P<marked>[^\s<>()*|]+\**<!-- (?:T\d+(?:-[\w-]+)? [^>]*?|in \S+: [^\n]*?|by hand) -->)|<!--.*?-->|[A-Za-z_]\w*\d\w*",
    re.DOTALL,
)
_OPTIONS = ("digits", "per")

Frames = Mapping[str, pd.DataFrame]  # tables by id


def read(file: Path) -> str:
    """Return the text of `file`. Raises ValueError if it cannot be read, or holds no text."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"file: expected a text in UTF-8, got {file}") from error
    except OSError as error:
        raise ValueError(f"file: expected a Markdown file that can be read, got {file}: {error.strerror}") from error


def count(text: str) -> int:
    """Return how many numbers of `text` are marked."""
    return len(_MARKED.findall(text))


def filled(text: str, frames: Callable[[Path], Frames], root: Path) -> str:
    """Return `text` with every marked number as the report says it; `frames` gives the tables of a report folder.

    Raises ValueError if a mark is there without a report, or does not name exactly one cell.
    """
    reports = _REPORT.findall(text)
    if not reports:
        if _MARKED.search(text):
            raise ValueError(
                "text: expected a comment that names the report, like <!-- numbers from reports/cpu-2core -->, got none"
            )
        return text
    tables = {report: frames(root / report) for report in set(reports)}

    def written(match: re.Match[str]) -> str:
        before = _REPORT.findall(text, 0, match.start())
        value = cell(match["query"], tables[before[-1] if before else reports[0]])
        return f"{value}{match['stars']}<!-- {match['query']} -->"

    return _MARKED.sub(written, text)


def cell(query: str, tables: Frames) -> str:
    """Return the text for one query. Raises ValueError if it does not name exactly one cell that has a value."""
    name, column, *rest = shlex.split(query)
    conditions = dict(word.split("=", 1) for word in rest if "=" in word)
    options = {key: float(conditions.pop(key)) for key in _OPTIONS if key in conditions}
    if name not in tables:
        raise ValueError(f"query: expected a table among {', '.join(sorted(tables))}, got {query!r}")
    frame = tables[name]
    if unknown := [key for key in (column, *conditions) if key not in frame.columns]:
        raise ValueError(f"query: expected columns of {name} ({', '.join(map(str, frame.columns))}), got {', '.join(unknown)}")
    for key, value in conditions.items():
        frame = frame[frame[key].map(_plain) == value]
    values = frame[column].dropna().drop_duplicates()
    if len(values) != 1:
        raise ValueError(f"query: expected one value of {column} in {name}, got {len(values)} for {query!r}")
    value = values.iloc[0]
    if isinstance(value, str) or (not options and float(value) == int(value)):
        return _plain(value)
    return number(float(value) / options.get("per", 1.0), int(options.get("digits", 3)))


def unfounded(text: str, root: Path) -> list[str]:
    """Return what is wrong with the files that `text` names for its numbers: each must hold the piece, and that the number."""
    found = []
    for match in _SOURCED.finditer(text):
        shown, file, piece = match["shown"], match["file"], match["piece"]
        path = root / file
        if not path.is_file() or piece not in path.read_text(encoding="utf-8"):
            found.append(f"{shown}: {file} does not hold {piece!r}")
        elif missing := sorted(set(_NUMBER.findall(shown)) - set(_NUMBER.findall(piece))):
            found.append(f"{shown}: {piece!r} of {file} does not say {', '.join(missing)}")
    return found


def unmarked(text: str) -> list[str]:
    """Return the numbers of the prose of `text` without a mark."""
    return re.findall(r"\d[\d.,]*\d|\d", _NOT_PROSE.sub(" ", text))


def _plain(value: object) -> str:
    """A whole number without its decimals, anything else as it is."""
    return str(int(value)) if isinstance(value, float) and value == value and value == int(value) else str(value)
