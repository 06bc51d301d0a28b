"""Every example and command of README.md runs as it stands, measuring ones up to the point where they would measure."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report.machines import folders
from benchmarks.run import archive
from tests.readme_lines import ROOT, blocks, check, commands

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))]
INSTALLS = list(dict.fromkeys(line for page in PAGES for line in commands(page) if "pip install" in line))
_ROWS = 40  # of each machine and kind: enough for every command, and read in no time


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with README.md and a copy of the committed reports, of whose rows only the first of each kind are kept."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    (folder / "README.md").write_text(README, encoding="utf-8")
    for report in folders(ROOT / "reports"):
        copy = folder / "reports" / report.name
        for part in ("figures", "tables"):
            (copy / part).mkdir(parents=True)
            for path in (report / part).glob("*.json"):
                shutil.copy(path, copy / part)
        (copy / "raw").mkdir()
        counts: dict[str, int] = {}
        kept = [record for _, record in archive.environments(report / "raw")]
        for _, record in archive.rows(report / "raw"):
            kind = record["case"]["kind"]
            counts[kind] = counts.get(kind, 0) + 1
            if counts[kind] <= _ROWS and kind in ("speed", "memory"):
                kept.append(record)
        archive.write(copy / "raw" / f"first{archive.CLOSED}", map(json.dumps, kept))
    smallest = min((folder / "reports").glob("*"), key=lambda path: (path / "raw" / f"first{archive.CLOSED}").stat().st_size)
    for name in ("first", "second"):  # what `compare` is given: the same rows twice, outside of the reports
        shutil.copytree(smallest / "raw", folder / "compared" / name / "raw")
    return folder


@pytest.mark.parametrize("block", blocks(README, "python"), ids=lambda block: block.strip().splitlines()[0][:40])
def test_an_example_runs_in_a_fresh_process(block: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    # What `prune` took away is a warning, and here it is meant to.
    command = [
        sys.executable,
        "-W",
        "error",
        "-W",
        "ignore:prune",
        "-c",
        f"{block}\nprint((kan(x) - y).square().mean().item())",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.sub(r"compiling the CPU kernel .*\n", "", done.stderr) == ""
    assert float(done.stdout) < 1e-3
    assert (tmp_path / "kan.png").stat().st_size > 10_000


@pytest.mark.parametrize("command", commands(README))
def test_a_command_runs(
    command: str, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout)
    check(command)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", INSTALLS)
def test_what_pages_install_exists(command: str) -> None:
    assert "--group" not in command, "pip 25.1 or later, which Python 3.11 does not bring"
    check(command)


def test_the_readme_has_examples_and_commands() -> None:
    assert blocks(README, "python")
    assert len(commands(README)) > 3


@pytest.mark.parametrize(
    "line",
    [
        "python -m benchmarks plan --nosuch 3",
        "python -m benchmarks nosuch",
        "python -m benchmarks export --out nowhere times.json",
        "nox -s nosuch",
        "nox -s bench -- --preset nosuch",
        "python -m pip install '.[nosuch]'",
        "python -m pip install -e . --group nosuch",
        "make all",
        "python -m benchmarks train-images --data digits --epochs 0 --out x",
    ],
)
def test_a_line_that_does_not_run_fails(line: str, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    with pytest.raises(BaseException, match=r".*"):  # an assertion, an exit or a failure of pytest: never a pass
        check(line)


def test_commands_are_found_in_blocks_of_any_shell_and_in_sentences() -> None:
    text = "Do `nox -s lint` or\n\n```bash\n$ nox -s tests && nox -s bench   # both\npip install \\\n  .\n```\n`not a command`"
    assert commands(text) == ["nox -s tests", "nox -s bench", "pip install    .", "nox -s lint"]
    with pytest.raises(ValueError, match=r"text: expected blocks in .*, got zsh"):
        commands("```zsh\nls\n```")
