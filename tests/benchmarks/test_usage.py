"""A wrong word, file or folder gets one sentence of ours and the exit status 2; a success says what was written and where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import cli
from benchmarks.dev import bars
from benchmarks.run import usage
from efficient_kan import KAN
from reference import environments

ROOT = Path(__file__).parents[2]
FOREIGN = ("Traceback", "pydantic", "╭", "validation error", "usage:", "[Errno", "Input should")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs words that must be refused and returns the sentence."""

    def run(*words: object) -> str:
        with pytest.raises(SystemExit) as end:
            usage.run(cli.app, [str(word) for word in words])
        assert end.value.code == 2
        text = capsys.readouterr().err
        assert text.startswith("error: ")
        assert text.count("\n") == 1
        assert not [word for word in FOREIGN if word in text]
        return text

    return run


def succeed(*words: object) -> None:
    """Run words that nothing is wrong with."""
    with pytest.raises(SystemExit) as end:
        usage.run(cli.app, [str(word) for word in words])
    assert not end.value.code


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("nosuch", ("nosuch", "compare", "export", "plan")),
        ("plan --nosuch 3", ("--nosuch", "--batch, --depth")),
        ("plan smoke speed efficient_kan exp_sin 64 8 5 3 2 1 float32 cpu 1 x.py surplus", ("surplus",)),
        ("plan --threads x", ("threads", "whole number", "'x'")),
        ("plan --threads", ("threads", "a value", "none")),
        ("plan --threads 0", ("threads", "at least 1", "0")),
        ("plan --processes -2", ("processes", "at least 1", "-2")),
        ("plan --batch 64,x", ("batch", "whole numbers", "x")),
        ("plan --batch 0", ("batch", "positive", "0")),
        ("plan --batch -5", ("batch", "positive", "-5")),
        ("plan --batch", ("batch", "none")),
        ("plan --batch 6.5", ("batch", "whole numbers", "6.5")),
        ("plan --dtype float16", ("dtype", "float32, float64", "float16")),
        ("plan --device tpu", ("device", "auto, cpu, cuda", "tpu")),
        ("plan --only nosuch", ("only", "speed, penalty_cost", "nosuch")),
        ("plan --only", ("only", "speed", "none")),
        ("plan --arms nosuch", ("arm", "efficient_kan", "nosuch")),
        ("plan --tasks nosuch", ("tasks", "exp_sin", "nosuch")),
        ("plan --preset nosuch", ("preset", "smoke", "nosuch")),
        ("plan --preset nosuch.toml", ("preset", "nosuch.toml", "does not exist")),
        ("plan --preset smoke --preset paper", ("preset", "once")),
        ("plan --part 3", ("part", "I/N", "'3'")),
        ("merge", ("out", "none")),
        ("merge nowhere", ("out", "nowhere", "parts/")),
        ("plan --plugin nosuch.py", ("plugin", "nosuch.py", "does not exist")),
        ("plan --plugin .", ("plugin", "is a folder")),
        ("run --only memory --out /proc/x", ("out", "/proc/x")),
        ("run --preset default --only memory --device cuda:9", ("device", "cuda:9")),
        ("report --out nowhere", ("out", "nowhere", "does not exist")),
        ("report --out .", ("out", "rows below raw/")),
        ("cite", ("id", "none")),
        ("cite F1 --out nowhere", ("out", "nowhere")),
        ("quote nosuch.md", ("file", "nosuch.md")),
        ("quote", ("file", "none")),
        ("compare one", ("new", "none")),
        ("compare nowhere nowhere", ("OLD", "nowhere")),
        ("compare nowhere nowhere --memory-tolerance x", ("memory_tolerance", "a number", "'x'")),
        ("export --out nowhere times.json", ("out", "nowhere")),
        ("schema --folder /proc/x", ("/proc/x",)),
        ("train-images --data mnist5k --out x --epochs 0", ("epochs", "at least 1", "0")),
        ("train-images --data nosuch --out x", ("data", "digits", "nosuch")),
        ("train-images --data digits", ("out", "none")),
        ("train-images --data digits --out x --model resnet99-kan", ("model", "resnet18", "resnet99-kan")),
        ("train-images --data digits --out x --learning-rate 0", ("learning_rate", "more than 0", "0")),
        ("train-images --data digits --out x --device tpu", ("device", "auto, cpu", "tpu")),
        ("train-images --data digits --out x --device cuda:9", ("device", "cuda:9")),
        ("train-images --data digits --out x --weights nosuch.pt", ("weights", "nosuch.pt")),
        ("train-images --data digits --out x --workers -1", ("workers", "at least 0", "-1")),
        ("train-images --data digits --out x --checkpoint-steps -1", ("checkpoint_steps", "at least 0", "-1")),
        ("train-images --data digits --out x --model resnet18-linear --grid 9", ("grid", "resnet18-kan", "resnet18-linear")),
        ("train-images --data digits --out x --strength 0.1", ("strength", "penalty", "0.1")),
        ("train-images --data digits --out x --root y", ("root", "hyperkvasir", "digits")),
        ("train-images --data digits --out /proc/x", ("out", "/proc/x")),
        ("audit-images --data hyperkvasir", ("root", "none")),
        ("audit-images --data kvasir_v2 --workers 0", ("workers", "at least 1", "0")),
    ],
)
def test_what_is_wrong_is_named_in_one_sentence(
    refused: Callable[..., str], words: str, parts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = refused(*words.split())
    assert [part for part in parts if part not in text] == []


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ("at least one finished case",)),
        ("{\n", ("line 1", "JSON")),
        ("[]\n", ("line 1", "JSON object")),
        ('{"schema_version": 1}\n', ("line 1", "schema_version")),
        ('{"schema_version": 3, "status": "ok"}\n', ("line 1", "run_id: expected a value, got none")),
        (b"\xff\xfe\n", ("no text",)),
    ],
)
@pytest.mark.parametrize(
    "words", ["report --out {}", "export --out {} times.json", "compare {} {}", "run --only memory --out {}"]
)
def test_broken_rows_are_named_by_every_command_that_reads_them(
    refused: Callable[..., str], words: str, content: str | bytes, parts: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "raw").mkdir(parents=True)
    (out / "raw" / "rows.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    if words.startswith("run") and not content:
        return  # a run fills an empty folder
    text = refused(*(word.format(out) for word in words.split()))
    assert not content or "rows.jsonl" in text
    if not words.startswith("run"):
        assert [part for part in parts if part not in text] == []


def test_a_success_says_what_was_written_and_where(
    full_report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*words: object) -> str:
        succeed(*words)
        return capsys.readouterr().out

    text = tmp_path / "text.md"
    text.write_text("nothing marked", encoding="utf-8")
    assert f"{text}: 0 numbers" in said("quote", text)
    assert f"benchmarks in {tmp_path / 'times.json'}" in said("export", tmp_path / "times.json", "--out", full_report)
    assert str(tmp_path / "schema" / "row-v3.json") in said("schema", "--folder", tmp_path / "schema")
    assert f"files written to {full_report}; read {full_report / 'README.md'}" in said("report", "--out", full_report)


@pytest.fixture
def full_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two rows with times, of which figures are made and not painted."""
    from benchmarks.report import style
    from benchmarks.schema.cases import Case
    from tests.benchmarks.report.conftest import AXES, Run, point, series

    monkeypatch.setattr(style, "paint", lambda figure, path, metadata: path.touch())
    run = Run()
    for arm, factor in (("efficient_kan", 1.0), ("cox_de_boor", 2.0)):
        case = Case(kind="speed", arm=arm, baseline="efficient_kan", point=point(), modes=("step",), axes=tuple(AXES))
        run.add(case, speed=[series("step", factor, 1000)])
    return run.write(tmp_path / "report")


def test_times_of_several_machines_go_into_one_file_and_name_theirs(full_report: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / "reports" / name).mkdir(parents=True)
        (tmp_path / "reports" / name / "raw").symlink_to(full_report / "raw")
    succeed("export", "--out", tmp_path / "reports", tmp_path / "times.json")
    names = [one["fullname"] for one in json.loads((tmp_path / "times.json").read_text())["benchmarks"]]
    assert len(set(names)) == len(names) == 4
    assert sum(" first " in name for name in names) == sum(" second " in name for name in names) == 2


@pytest.mark.parametrize(
    ("main", "words", "parts"),
    [
        (environments.main, ["nosuch"], ("nosuch", "pykan-0.0.5")),
        (environments.main, ["--nosuch"], ("--nosuch", "options:")),
        (bars.main, ["--threads", "0"], ("--threads", "at least 1", "'0'")),
        (bars.main, ["--blocks", "x"], ("--blocks", "whole number", "'x'")),
    ],
)
def test_every_command_of_its_own_refuses_alike(
    main: Callable[[], None],
    words: list[str],
    parts: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(SystemExit) as end:
        main()
    check_refusal(end.value.code, capsys.readouterr().err, parts)


def test_a_process_refuses_as_its_command_does(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks", "nosuch"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    check_refusal(done.returncode, done.stderr, ("nosuch",))


def test_a_reader_that_has_enough_ends_a_command_in_silence(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m benchmarks plan --preset default | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout.splitlines()[1] in ("0", "141")


def check_refusal(status: object, text: str, parts: tuple[str, ...]) -> None:
    """The status is 2 and the text is one sentence of ours with all `parts`."""
    assert status == 2
    assert text.count("\n") == 1
    assert not [word for word in FOREIGN if word in text]
    assert [part for part in parts if part not in text] == []


def test_without_pykan_a_conversion_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "kan"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kan", None)
    monkeypatch.delitem(sys.modules, "efficient_kan._pykan_model", raising=False)  # which another test may have imported
    with pytest.raises(ImportError, match=r"^to_pykan\(\) needs pykan") as refusal:
        KAN([1, 1]).to_pykan()
    assert "pip install pykan==0.2.8 numpy matplotlib scikit-learn sympy pandas pyyaml tqdm" in str(refusal.value)
