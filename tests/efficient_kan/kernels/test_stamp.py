"""The stamp of compiled code follows what the sources compute, not how they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from numba.core import config

from efficient_kan.kernels.cpu.codegen import stamp

SOURCE = b'"""Module."""\n\nLIMIT = 3\n\n\ndef f(a: int, b: int = LIMIT) -> int:\n    """Difference."""\n    return a - b * 2\n'
TIDIED = b"# a remark\nLIMIT = 3\ndef f(\n    a,\n    b=LIMIT,\n):\n    return (a - (b * 2))  # why\n"


def test_comments_docstrings_and_formatting_keep_it() -> None:
    assert stamp.meaning([SOURCE]) == stamp.meaning([TIDIED])


@pytest.mark.parametrize(
    ("old", "new"), [(b" - b", b" + b"), (b"LIMIT = 3", b"LIMIT = 4"), (b"def f", b"def g"), (b"b * 2", b"b * 2.0")]
)
def test_what_is_computed_changes_it(old: bytes, new: bytes) -> None:
    assert stamp.meaning([SOURCE.replace(old, new)]) != stamp.meaning([SOURCE])


def test_it_covers_every_file_and_is_kept_by_their_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "one.py").write_bytes(SOURCE)
    (package / "inner" / "two.py").write_bytes(b"x = 1\n")
    first = stamp.stamp_of(package)
    monkeypatch.setattr(stamp, "meaning", lambda sources: pytest.fail("compiled again"))
    assert stamp.stamp_of(package) == first
    monkeypatch.undo()
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    (package / "one.py").write_bytes(TIDIED)
    assert stamp.stamp_of(package) == first
    (package / "inner" / "two.py").write_bytes(b"x = 2\n")
    assert stamp.stamp_of(package) != first


def test_where_nothing_can_be_written_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.py").write_bytes(SOURCE)
    first = stamp.stamp_of(tmp_path)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "file"))
    assert stamp.stamp_of(tmp_path) == first


def test_what_moves_from_one_file_to_the_next_changes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    package = tmp_path / "package"
    package.mkdir()
    found = set()
    for one, two in ((b"x = 1\n", b"y = 2\n"), (b"x = 1\ny = 2\n", b"")):
        (package / "one.py").write_bytes(one)
        (package / "two.py").write_bytes(two)
        found.add(stamp.stamp_of(package))
    assert len(found) == 2
