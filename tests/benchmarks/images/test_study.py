"""The study of heads: its cases, the features they share, what a run records, resumption, and the report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import confusion_matrix

from benchmarks import presets
from benchmarks.analysis import results
from benchmarks.images import cost, forecast, study
from benchmarks.images.offline import offline
from benchmarks.kinds import images, sources
from benchmarks.kinds.images import Images
from benchmarks.report import images as report
from benchmarks.report import render
from benchmarks.schema.cases import Backbone, Case, ImageStudy, Point
from benchmarks.schema.meaning import ROOT
from reference.arm import Unsupported

SMALL = Backbone(stem="small", width=1 / 16)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def case(scope: str = "frozen", head: str = "kan", preparation: str = "none", **chosen: Any) -> Case:
    values: dict[str, Any] = {"data": "digits", "backbone": SMALL, "recipe": "small", "epochs": 1, "batch": 64}
    values |= {
        "learning_rate": 3e-3,
        "head_epochs": 2,
        "seeds": (0, 1),
        "scope": scope,
        "head": head,
        "preparation": preparation,
    }
    point = Point(batch=64, layers=(32, 6, 10), grid_size=5)
    return Case(kind="images", arm="efficient_kan", point=point, images=ImageStudy.model_validate(values | chosen))


def test_the_default_preset_has_every_head_preparation_and_penalty() -> None:
    cases = [one for one in presets.expand(presets.load("default"), ["images"]) if one.images]
    for data in ("digits", "mnist5k"):
        own = [one.images for one in cases if one.images and one.images.data == data]
        frozen = {(s.head, s.preparation): s for s in own if s.scope == "frozen"}
        plain = {(h, p) for h in ("linear", "mlp", "kan") for p in ("none", "layer", "tanh", "batch")}
        assert set(frozen) == plain | {("kan", "update_grid")}
        for (head, _), one in frozen.items():
            names = [name for name, _ in one.penalties]
            assert names == (["none", "weight_l1", "sample_l1", "sample_std"] if head == "kan" else ["none"])
            assert len(one.seeds) >= 5
        whole = {(s.head, s.preparation) for s in own if s.scope == "end_to_end"}
        assert {("linear", "batch"), ("mlp", "batch"), ("kan", "batch")} <= whole
    keys = {one.cell for one in cases}
    assert len(keys) == len(cases)


def test_the_paper_preset_has_hyperkvasir_in_both_official_halves() -> None:
    cases = presets.expand(presets.load("paper"), ["images"])
    own = [one for one in cases if one.images and one.images.data == "hyperkvasir"]
    assert {one.images.fold for one in own if one.images} == {0, 1}
    assert {one.point.layers for one in own} == {(512, 64, 23)}


def test_the_default_image_part_is_predicted_to_take_less_than_15_minutes_on_two_cores() -> None:
    preset = presets.load("default")
    cases = presets.expand(preset, ["images", "head_cost"])
    seconds = [forecast.seconds(one) + 2 for one in cases]
    timed = sum(s for s, one in zip(seconds, cases, strict=True) if one.kind == "head_cost")
    assert timed + (sum(seconds) - timed) / preset.jobs < 900


@pytest.mark.end_to_end
def test_heads_share_one_backbone_and_record_every_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARKS_SHARED", str(tmp_path))
    first = study.run(case(head="kan", preparation="update_grid", penalties=(("none", 0.0), ("weight_l1", 1.0))))
    (folder,) = tmp_path.iterdir()
    trained = (folder / "features.pt").stat().st_mtime_ns
    second = study.run(case(head="mlp", preparation="batch"))
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert (folder / "features.pt").stat().st_mtime_ns == trained
    assert first.labels == second.labels
    images = offline("digits")
    test = images.split(study.VALIDATION).test
    assert first.labels == tuple(images.labels[test])
    assert first.images[2] == len(test)
    assert [(run.penalty, run.seed) for run in first.runs] == [("none", 0), ("none", 1), ("weight_l1", 0), ("weight_l1", 1)]
    for run in (*first.runs, *second.runs):
        confusion = confusion_matrix(first.labels, run.predicted, labels=range(10))
        assert np.array_equal(confusion, run.confusion)
        assert run.accuracy == pytest.approx(confusion.trace() / len(test))
        assert len(run.confidence) == len(test)
    assert first.runs[0].total_edges == 32 * 6 + 6 * 10
    assert first.runs[0].predicted != first.runs[1].predicted
    ratio = second.runs[0].head_parameters / first.runs[0].head_parameters
    assert ratio == pytest.approx(1, abs=0.02)
    alone = study.run(case(head="mlp", preparation="batch"))
    assert [run.predicted for run in alone.runs] == [run.predicted for run in second.runs]
    monkeypatch.delenv("BENCHMARKS_SHARED")
    apart = study.run(case(head="mlp", preparation="batch"))  # trains the backbone for itself
    assert [run.predicted for run in apart.runs] == [run.predicted for run in second.runs]


@pytest.mark.end_to_end
def test_whole_networks_are_trained_and_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARKS_SHARED", str(tmp_path))
    found = study.run(case("end_to_end", preparation="update_grid", seeds=(0,)))
    assert list(tmp_path.iterdir()) == []
    assert found.backbone_accuracy is None
    assert found.runs[0].accuracy is not None
    assert found.runs[0].active_edges is not None


def test_data_that_is_not_here_is_unsupported_and_tried_again_once_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYPERKVASIR", raising=False)
    absent = case(data="hyperkvasir", folds=2)
    with pytest.raises(Unsupported, match="set HYPERKVASIR to their folder"):
        study.run(absent)
    before = sources.versions(absent)
    monkeypatch.setenv("HYPERKVASIR", "somewhere")
    assert sources.versions(absent) != before


@pytest.mark.end_to_end
def test_hyperkvasir_runs_through_the_study(whole_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKVASIR", str(whole_tree))
    found = study.run(case(data="hyperkvasir", task="seed7", folds=2, seeds=(0,), backbone=Backbone(width=1 / 16)))
    assert len(found.classes) == 7
    assert sum(found.images) == 1879


def test_a_training_that_diverges_is_a_run_without_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "HEAD_LEARNING_RATE", 1e30)
    found = study.run(case(seeds=(0,)))
    assert found.runs[0].diverged
    assert found.runs[0].accuracy is None


@pytest.mark.parametrize("arm", ["efficient_kan", "pykan[speed]"])
@pytest.mark.end_to_end
def test_the_cost_of_a_head_is_a_share_of_the_whole(arm: str) -> None:
    point = Point(batch=3, layers=(128, 6, 4), grid_size=5)
    below = Backbone(width=0.25, size=32)
    one = Case(kind="head_cost", arm=arm, point=point, backbone=below, blocks=1, budget_s=5, warmup=1, min_sample_ms=0.1)
    found = cost.measure(one)
    backbone = sum(p.numel() for p in cost._whole(one, below, linear=True)[0][0].parameters())
    assert found.whole_parameters == backbone + found.head_parameters
    assert len(found.head_ns) == len(found.whole_ns) == 2
    assert found.head_peak_bytes < found.whole_peak_bytes
    assert found.whole_peak_bytes > found.linear_peak_bytes
    with pytest.raises(ValueError, match="layers: expected 128 features first, got 32"):
        cost.measure(one.model_copy(update={"point": Point(batch=3, layers=(32, 6, 4), grid_size=5)}))


def test_predicted_times_grow_with_the_work() -> None:
    small, large = (forecast.seconds(case("end_to_end", backbone=Backbone(width=w, size=64))) for w in (0.25, 1.0))
    assert small < large
    section = Images.model_validate(
        {
            "data": "mnist5k",
            "backbone": SMALL,
            "epochs": 1,
            "batch": 8,
            "learning_rate": 0.1,
            "head_epochs": 3,
            "seeds": (0,),
            "timeout_s": 9,
        }
    )
    assert all(forecast.seconds(one) > 0 for one in images.cases(presets.load("smoke"), section))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image part of the smoke preset, run and rendered from the command line."""
    out = tmp_path_factory.mktemp("smoke")
    words = ["run", "--preset", "smoke", "--only", "images", "head_cost", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], cwd=ROOT, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    render(out)
    return out


@pytest.mark.slow
def test_the_smoke_preset_runs_and_is_not_repeated(smoke: Path) -> None:
    rows = results.load_rows(smoke)
    assert {row.status for row in rows} == {"ok"}
    assert {row.case.kind for row in rows} == {"images", "head_cost"}
    assert all("pillow" in row.versions for row in rows if row.case.kind == "images")
    words = ["run", "--preset", "smoke", "--only", "images", "head_cost", "--out", str(smoke)]
    done = subprocess.run([sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"{len(rows)} cases are in" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_the_report_shows_heads_with_intervals_beside_the_published_table(smoke: Path) -> None:
    page = (smoke / "README.md").read_text(encoding="utf-8")
    for text in ("## Heads on images", "## What a head costs in the whole network", "Borgli et al. 2020", "DenseNet-161"):
        assert text in page
    table = pd.read_csv(smoke / "tables" / "images.csv")
    rows = [row for row in results.load_rows(smoke) if row.images]
    runs = [(row.case.images, run) for row in rows if row.images for run in row.images.runs]
    assert table["runs"].sum() == len(runs)
    frozen = table[(table["scope"] == "frozen") & (table["head"] == "kan") & (table["penalty"] == "none")]
    line = frozen[frozen["preparation"] == "batch"].iloc[0]
    own = [
        r.accuracy
        for s, r in runs
        if s and (s.scope, s.head, s.preparation) == ("frozen", "kan", "batch") and r.penalty == "none"
    ]
    mean, reach = np.mean(own), 12.7062047 * np.std(own, ddof=1) / np.sqrt(2)  # Student's t with one degree of freedom
    assert line[["accuracy_mean", "accuracy_low", "accuracy_high"]].tolist() == pytest.approx(
        [mean, max(mean - reach, 0), min(mean + reach, 1)]
    )
    costs = pd.read_csv(smoke / "tables" / "head_cost.csv")
    assert set(costs["arm"]) == {"efficient_kan", "pykan[speed]"}
    assert (costs["time_share"] < 1).all()
    shown = (smoke / "tables" / "head_cost.md").read_text(encoding="utf-8")
    assert "95 %" not in shown and (costs["pairs"] > 0).all()
    assert "Each was timed in one process: its pairs say nothing of the spread between processes" in page
    assert len(report.PUBLISHED) == 7
