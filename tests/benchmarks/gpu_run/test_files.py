"""The files of a run: nothing is overwritten, and they come out small enough."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from benchmarks.gpu_run import files


def test_a_new_or_empty_folder_is_taken_and_one_with_results_refused(tmp_path: Path) -> None:
    assert files.claim(tmp_path / "new") == tmp_path / "new" / "raw"
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "log").touch()  # what the caller writes beside the results
    raw = files.claim(tmp_path / "given")
    files.append(raw / files.ROWS, "{}\n")
    with pytest.raises(ValueError, match=r"out: expected a folder without results, got .*given, where raw/ holds rows.jsonl"):
        files.claim(tmp_path / "given")
    assert (raw / files.ROWS).read_text(encoding="utf-8") == "{}\n"
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="out: expected a folder to write to"):
        files.claim(tmp_path / "file")


def test_files_that_are_too_large_are_compressed_or_cut_and_named(tmp_path: Path) -> None:
    small, tight, large = files.KERNELS, files.ROWS, files.LOG
    (tmp_path / small).write_text("a\n", encoding="utf-8")
    (tmp_path / tight).write_text("same line\n" * 1000, encoding="utf-8")
    digits = random.Random(0)
    noise = [f"{digits.getrandbits(256):064x}\n" for _ in range(200)]
    (tmp_path / large).write_text("".join(noise), encoding="utf-8")
    said = files.shrink(tmp_path, largest=4096)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([small, f"{tight}.gz", f"{large}.gz"])
    assert all(path.stat().st_size <= 4096 for path in tmp_path.iterdir())
    assert gzip.decompress((tmp_path / f"{tight}.gz").read_bytes()).decode() == "same line\n" * 1000
    kept = gzip.decompress((tmp_path / f"{large}.gz").read_bytes()).decode().splitlines(keepends=True)
    assert 10 < len(kept) < 200 and kept == noise[: len(kept)]
    assert len(said) == 2 and said[0].startswith(f"{tight} was larger than 4096 bytes and is compressed: gunzip")
    assert f"without its last {200 - len(kept)} of 200 lines" in said[1]


def test_a_replaced_file_is_never_half_written(tmp_path: Path) -> None:
    path = tmp_path / files.SUMMARY
    files.replace(path, "first")
    files.replace(path, "second")
    assert [(one.name, one.read_text(encoding="utf-8")) for one in tmp_path.iterdir()] == [(files.SUMMARY, "second")]
