"""What a run on a GPU brought back, rendered: shares of its own ceilings, tables that rest on files, and `auto`'s times."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.gpu_run import first_use, table
from benchmarks.report import frames, gpu, render

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SUMMARY = {
    "schema": 1,
    "dry_run": False,
    "gpu": "Example GPU",
    "machine": "Example CPU, 16 cores, 128 GiB with Example GPU",
    "commit": COMMIT,
    "started_at": "2026-01-02T03:00:00+00:00",
    "command": "python -m benchmarks gpu-run OUT",
    "seconds": 456.7,
    "notes": ["example.whl cannot be used: no such tag"],
    "stages": [
        {
            "name": "kernels",
            "about": "kernels",
            "budget_s": 85.0,
            "seconds": 85.1,
            "ending": "cut",
            "said": "4 of 9",
            "reason": "late",
        }
    ],
}
# 1 TB/s, and 100 TFLOP/s in each precision: the layer below has a bound of 1000 us by operations and of 100 us by bytes.
RATES = {"copy": 1e12, "ieee": 1e14, "tf32": 1e14, "bf16": 1e14}
CEILINGS = {
    "dry_run": False,
    "device": {"name": "Example GPU"},
    "rates": {name: {"unit": "B", "per_second": rate, "work": 1.0, "ns": [3, 1, 2]} for name, rate in RATES.items()},
}
LAYER = {"B": 16384, "I": 256, "O": 256, "G": 5, "order": 3, "flop": 10**11, "moved_bytes": 10**8, "device": "Example GPU"}


def line(kernel: str, implementation: str, us: float, **cells: object) -> dict[str, object]:
    """A line of the kernel table whose median is `us` microseconds."""
    ns = f"{round(900 * us)} {round(1000 * us)} {round(5000 * us)}"
    timed = {"status": "ok", "device_ns": ns, "wall_ns": ns, "clock": "graph replay", "inputs": "rotated", "copies": 3}
    words = {"kernel": kernel, "precision": "bf16", "implementation": implementation, "dry_run": False}
    return LAYER | words | timed | cells


def write(path: Path, columns: tuple[str, ...], lines: list[dict[str, object]], torn: str = "") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        file.write(torn)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run whose grid brought back no row."""
    raw = tmp_path / "gpu-example" / "raw"
    raw.mkdir(parents=True)
    (raw / "gpu-run.json").write_text(json.dumps(SUMMARY), encoding="utf-8")
    (raw / "ceilings.json").write_text(json.dumps(CEILINGS), encoding="utf-8")
    lines = [
        *(
            line("forward", name, us)
            for name, us in (("cuda", 2000), ("cuda[uniform]", 1250), ("native", 4000), ("product", 1000))
        ),
        line("weight_grad", "cuda", 0, status="gate_failed", device_ns="", wall_ns="", reason="the error is 1, or so"),
        line("weight_grad", "native", 8000),
        line("input_grad", "cuda", 3000),
        line("input_grad", "native", 1500, clock="events"),
    ]
    write(raw / "kernels.csv", table.COLUMNS, lines, torn="Example GPU,False,163")
    checks = [
        {
            "order": 3,
            "precision": "bf16",
            "device": "cuda",
            "problem": 0,
            "result": name,
            "error": error,
            "limit": 1.0,
            "status": status,
        }
        for name, error, status in (("y", 0.5, "ok"), ("edge_l1", 2.0, "failed"))
    ]
    checks.append({"order": 4, "precision": "bf16", "device": "cuda", "status": "error", "reason": "SIGSEGV: no message"})
    write(raw / "first_use.csv", first_use.COLUMNS, checks)
    return raw.parent


def test_shares_are_of_the_ceilings_that_were_measured(out: Path) -> None:
    found = {made.name: made for made in gpu.tables(out)}
    kernels = found["gpu_kernels"].frame.set_index(["kernel", "implementation"])
    assert len(kernels) == 8  # the torn line is not one
    forward = kernels.loc[("forward", "cuda")]
    assert [forward[name] for name in ("device_us", "bound_us", "share", "of_product", "of_native")] == [
        2000,
        1000,
        0.5,
        2,
        0.5,
    ]
    view = pd.DataFrame(found["gpu_kernels"].view)
    first, second, third = view.to_dict("records")
    assert first["kernel (µs)"] == "2,000" and first["share of ceiling"] == "50 %" and first["kernel / native"] == "0.500"
    assert first["on uniform knots (share)"] == "80 %" and first["of native"] == "25 %"
    assert second["kernel (µs)"] == "gate failed" and second["share of ceiling"] == "–" and second["native"] == "8,000"
    assert third["native"] == "1,500 (events)" and third["kernel / native"] == "2.00"
    assert [line["results"] for line in found["gpu_first_use"].frame.to_dict("records")] == [2, 0]


def test_without_rows_the_rest_is_rendered(out: Path) -> None:
    assert render(out) == {out: len([*out.glob("tables/*"), *out.glob("figures/*")]) + 2}
    page = (out / "README.md").read_text(encoding="utf-8")
    assert "No row came back" in page and "Dry run" not in page and "Setting: dry run" not in page
    assert "Ceilings, measured on this GPU: copy 1.00 TB/s, ieee 100 TFLOP/s, tf32 100 TFLOP/s, bf16 100 TFLOP/s." in page
    assert "take longer than native at 1 of 2 products; the largest ratio is 2.00, of the gradient of x at B = 16384" in page
    assert "example.whl cannot be used" in page and "| late" in page and "SIGSEGV: no message" in page
    source = json.loads((out / "tables" / "gpu_kernels.json").read_text(encoding="utf-8"))
    assert source["rows_sha256"] == hashlib.sha256((out / "raw" / "kernels.csv").read_bytes()).hexdigest()
    drawn = json.loads((out / "figures" / "gpu_kernels-example-gpu.json").read_text(encoding="utf-8"))
    assert drawn["id"] == "F17-example-gpu" and drawn["rows_sha256"] == source["rows_sha256"]
    assert len(drawn["files"]) == 4 and "](figures/gpu_kernels-example-gpu.png)" in page
    assert (source["id"], source["commits"], source["machines"]) == ("T23", {COMMIT: 8}, [SUMMARY["machine"]])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_auto_reads_the_times_of_both(out: Path) -> None:
    from efficient_kan.kernels.cuda import model

    render(out)
    sizes = model.Sizes(16384, 256, 256, 9, 3)
    try:
        model.use(out / "tables" / "gpu_auto.csv")
        assert model.times("forward", sizes, "half") == (2000e-6, 4000e-6, "measured")
        assert model.times("input_grad", sizes, "half").source == "measured"
        assert model.times("weight_grad", sizes, "half").source == "model"  # a time that nobody has decides nothing
    finally:
        model.use(None)


def test_a_dry_run_has_no_shares_and_nothing_for_auto(out: Path) -> None:
    (out / "raw" / "gpu-run.json").write_text(
        json.dumps(SUMMARY | {"dry_run": True, "gpu": "a CPU (dry run)"}), encoding="utf-8"
    )
    found = {made.name: made for made in gpu.tables(out)}
    assert found["gpu_auto"].frame.empty and found["gpu_kernels"].frame["share"].isna().all()
    assert all("dry run on a CPU, no figure of a GPU" in made.caption for made in found.values() if not made.frame.empty)
    assert gpu.figures(out, out) == []
    assert gpu.text(out).startswith("**Dry run on a CPU") and "Ceilings" not in gpu.text(out)


@pytest.mark.parametrize(("name", "text"), [("gpu-run.json", "{"), ("ceilings.json", "[1"), ("kernels.csv", "a,b\n1,2\n")])
def test_a_damaged_file_is_named_in_one_sentence(out: Path, name: str, text: str) -> None:
    (out / "raw" / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="out: expected the files of a gpu-run in "):
        render(out)


def test_stages_that_brought_nothing_leave_no_table(out: Path) -> None:
    for name in ("ceilings.json", "kernels.csv", "first_use.csv"):
        (out / "raw" / name).unlink()
    render(out)
    assert sorted(path.name for path in (out / "tables").glob("*.csv")) == ["gpu_stages.csv"]


def test_a_folder_without_such_a_run_has_no_section(tmp_path: Path) -> None:
    assert (
        gpu.load(tmp_path) is None
        and gpu.figures(tmp_path, tmp_path) == []
        and gpu.tables(tmp_path) == []
        and gpu.text(tmp_path) == ""
    )
    with pytest.raises(ValueError, match="out: expected a folder with rows"):
        frames(tmp_path)
