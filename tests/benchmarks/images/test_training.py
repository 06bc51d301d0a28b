"""Training: order and augmentation that depend on nothing else, exact resumption after a kill, selection, imbalance."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.images.metrics import evaluate
from benchmarks.images.offline import offline
from benchmarks.images.settings import RECIPES, Settings, equal_width, kan_parameters
from benchmarks.images.training import Training, build, follow_features
from benchmarks.images.transforms import Order, Transform, Views, plain_batches, training_batches
from benchmarks.images.trees import HyperKvasir
from benchmarks.schema.meaning import ROOT
from efficient_kan.resnet import Head, Normalize


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tiny(**chosen: Any) -> Settings:
    """Digits at a size at which an epoch takes a fraction of a second."""
    return Settings.of("small", **{"data": "digits", "width": 1 / 16, "hidden": 4, "epochs": 2, "batch": 128} | chosen)


def test_transforms_follow_their_definition() -> None:
    pixels = np.arange(12 * 20 * 3, dtype=np.uint8).reshape(12, 20, 3)
    plain = Transform()(Image.fromarray(pixels))
    assert plain.shape == (3, 12, 20)
    assert torch.equal(plain, (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - 0.5) / 0.5)
    assert Transform(resize=6)(Image.fromarray(pixels)).shape == (3, 6, 10)
    middle = Transform(crop=12)(Image.fromarray(pixels))
    assert torch.equal(middle, plain[:, :, 4:16])
    assert Transform(resize=24, crop=24, size=8)(Image.fromarray(pixels)).shape == (3, 8, 8)
    square = Transform(crop=12, flip=True, rotate=True)
    seen = {square(Image.fromarray(pixels), np.random.default_rng(n)).numpy().tobytes() for n in range(200)}
    assert len(seen) == 8  # the symmetries of a square
    assert middle.numpy().tobytes() in seen
    moved = {Transform(shift=1)(Image.fromarray(pixels), np.random.default_rng(n)).numpy().tobytes() for n in range(200)}
    assert len(moved) == 9


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_depend_on_seed_and_epoch_alone(workers: int) -> None:
    images = offline("digits")
    indices = images.split(0.1).train[:100]
    views = Views(images, Transform(shift=1, flip=True), seed=3)

    def epoch(number: int, start: int = 0) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        order = Order(indices, 16, seed=3)
        order.epoch, order.start = number, start
        return list(training_batches(views, order, workers))

    whole, rest, other = epoch(5), epoch(5, start=3), epoch(6)
    assert len(whole) == 7
    for a, b in zip(whole[3:], rest, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    seen = torch.cat([index for *_, index in whole])
    assert sorted(seen.tolist()) == sorted(indices.tolist())
    assert not torch.equal(seen, torch.cat([index for *_, index in other]))
    assert all(int(images.labels[i]) == int(y) for _, labels, at in whole for i, y in zip(at, labels, strict=True))
    plain = next(iter(plain_batches(views, indices, 16, workers)))
    assert torch.equal(plain[0][0], Transform()(images.image(int(indices[0]))))


def test_resampling_evens_out_the_classes() -> None:
    labels = np.repeat([0, 1], [900, 100])
    order = Order(np.arange(1000), 50, 0, (1 / np.array([900, 100]))[labels].tolist())
    drawn = np.concatenate([[i for _, i in batch] for batch in order])
    assert 0.45 < labels[drawn].mean() < 0.55


COMMAND = [sys.executable, "-m", "benchmarks", "train-images", "--data", "lfw_subset", "--model", "resnet18-kan"]
COMMAND += [
    "--width",
    "0.0625",
    "--hidden",
    "4",
    "--epochs",
    "3",
    "--batch",
    "16",
    "--validation",
    "0.1",
    "--grid-updates",
    "1",
]
COMMAND += ["--normalize", "batch", "--checkpoint-steps", "2", "--device", "cpu"]


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

    def train(folder: Path) -> subprocess.Popen[bytes]:
        command = [*COMMAND, "--out", str(folder)]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def steps(folder: Path) -> int:
        path = folder / "checkpoint.pt"
        if not path.exists():
            return -1
        state = torch.load(path, weights_only=True)
        return 1000 * len(state["history"]) + int(state["sums"][2])

    straight = train(tmp_path / "straight")
    interrupted, places = tmp_path / "interrupted", []
    for wanted in (2, 1002):  # within the first epoch, and within the second
        process = train(interrupted)
        limit = time.monotonic() + 120
        while steps(interrupted) < wanted and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        places.append(steps(interrupted))
    assert 0 < places[0] < places[1] < 3000
    assert not (interrupted / "result.json").exists()
    _, errors = train(interrupted).communicate(timeout=120)
    assert (interrupted / "result.json").exists(), errors.decode()
    _, errors = straight.communicate(timeout=120)
    assert straight.returncode == 0, errors.decode()
    one, other = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("straight", "interrupted"))
    for part in ("model", "best_weights"):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])
    for n, state in one["optimiser"]["state"].items():
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(other["optimiser"]["state"][n][k])) for k, v in state.items()
        )
    for name in ("history.jsonl", "predictions.csv", "result.json"):
        assert (tmp_path / "straight" / name).read_bytes() == (interrupted / name).read_bytes()
    again = train(tmp_path / "straight")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0
    assert b"3 epochs are in" in errors.replace(b"\n", b" ")


def test_results_are_rows_from_which_the_metrics_follow(tmp_path: Path) -> None:
    settings = tiny()
    images = settings.open()
    trained = Training(settings, images, tmp_path).run()
    result = json.loads((tmp_path / "result.json").read_text())
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "test"]
    assert sorted(row["name"] for row in rows) == sorted(images.names[i] for i in images.split().test)
    labels = [images.classes.index(row["label"]) for row in rows]
    found = evaluate(labels, [[float(row[f"p {name}"]) for name in images.classes] for row in rows])
    assert found.macro_f1 == pytest.approx(result["test"]["macro_f1"])
    assert np.array_equal(found.confusion, result["test"]["confusion"])
    assert sum(map(sum, found.confusion)) == len(rows)  # of one epoch, not of all
    assert result["test"]["accuracy"] == trained.test.metrics().accuracy
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == trained.epochs == 2
    with pytest.raises(ValueError, match="out: expected a folder without a run"):
        Training(tiny(seed=1), images, tmp_path)


@pytest.mark.end_to_end
def test_the_chosen_epoch_is_the_best_on_the_validation_set() -> None:
    settings = tiny(epochs=4, learning_rate=0.02)
    training = Training(settings, settings.open())
    trained = training.run()
    scores = [(line["validation_macro_f1"], -line["validation_loss"]) for line in training.history]
    assert trained.epoch == scores.index(max(scores))
    found = trained.validation.metrics()
    assert found.macro_f1 == pytest.approx(max(scores)[0])


@pytest.mark.end_to_end
def test_training_ends_when_the_validation_set_says_so() -> None:
    settings = tiny(epochs=50, patience=1, learning_rate=1e-9)
    trained = Training(settings, settings.open()).run()
    assert trained.epochs < 6
    assert trained.epochs - 1 - trained.epoch >= 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains(recipe: str) -> None:
    pytest.importorskip("skimage")
    settings = Settings.of(
        recipe, data="tissue", width=1 / 16, hidden=4, epochs=2, batch=32, size=32, imbalance="weighted", precision="bfloat16"
    )
    training = Training(settings, settings.open())
    trained = training.run()
    assert training.history[-1]["train_loss"] < 1.2
    assert trained.test.probabilities.shape == (26, 2)


@pytest.mark.parametrize("head", ["kan", "mlp", "linear"])
def test_networks_that_differ_in_the_head_start_from_the_same_backbone(head: Any) -> None:
    model, other = build(tiny(head=head), 1, 10), build(tiny(), 1, 10)
    pairs = zip(model.backbone.parameters(), other.backbone.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    count = sum(p.numel() for p in model.head.parameters())
    wanted = kan_parameters(32, 4, 10, 5, 3)
    if head == "kan":
        assert count == wanted
    if head == "mlp":
        assert abs(count - wanted) <= (32 + 10 + 1) / 2
        assert model.head.get_parameter("net.0.weight").shape[0] == equal_width(32, 10, wanted)


def test_published_weights_go_into_the_backbone_and_other_files_are_named(tmp_path: Path) -> None:
    state = build(tiny(seed=1), 1, 10).backbone.state_dict()
    path = tmp_path / "weights.pt"
    kept = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}  # as before torch 0.4.1
    torch.save(kept | {"fc.weight": torch.zeros(1000, 32), "fc.bias": torch.zeros(1000)}, path)
    found = build(tiny(weights=str(path)), 1, 10)
    assert all(torch.equal(value, state[name]) for name, value in found.backbone.state_dict().items())
    plain = build(tiny(), 1, 10).head.state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in found.head.state_dict().items())
    for content in ({"conv1.weight": torch.zeros(1)}, {}, torch.zeros(1)):
        torch.save(content, path)
        with pytest.raises(ValueError, match="weights: expected those of this backbone, got"):
            build(tiny(weights=str(path)), 1, 10)
    path.write_text("no weights")
    for file in (path, tmp_path / "absent.pt"):
        with pytest.raises(ValueError, match="weights: expected those of this backbone, got"):
            build(tiny(weights=str(file)), 1, 10)


def test_a_network_that_is_not_finite_after_an_epoch_has_diverged(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny(epochs=1)
    training = Training(settings, settings.open())

    def ruin(self: Training) -> None:
        with torch.no_grad():
            self.model.head.get_parameter("net.layers.0.base_weight").fill_(torch.nan)

    monkeypatch.setattr(Training, "_update_grid", ruin)
    training.settings = settings.model_copy(update={"grid_updates": 1})
    with pytest.raises(FloatingPointError, match="training diverged"):
        training.run()


@pytest.mark.parametrize("penalty", ["weight_l1", "sample_l1", "sample_std"])
def test_penalties_reach_the_training(penalty: Any) -> None:
    settings = tiny(epochs=1)
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    gradients = []
    for change in ({}, {"penalty": penalty, "strength": 0.1}):
        training = Training(settings.model_copy(update=change), settings.open())
        training._step(x, y)
        gradients.append(training.model.head.get_parameter("net.layers.0.spline_weight").grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert not torch.allclose(gradients[0], gradients[1])


@pytest.mark.end_to_end
def test_one_epoch_of_the_whole_tree(whole_tree: Path) -> None:
    """10,662 images, 23 classes by colour: read by two processes, trained for one epoch."""
    chosen: dict[str, Any] = {"data": "hyperkvasir", "root": str(whole_tree), "folds": 2, "stem": "imagenet", "width": 1 / 16}
    settings = Settings.of("small", **chosen, hidden=8, epochs=1, normalize="batch")
    images = settings.open()
    assert isinstance(images, HyperKvasir)
    trained = Training(settings, images, workers=2).run()
    found = trained.test.metrics()
    assert found.images + len(trained.validation.indices) + len(images.split().train) == 10_662
    assert found.accuracy > 0.3  # the most frequent class alone gives 0.11


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.end_to_end
def test_the_command_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path))
    found = run("train-images", "--data", "hyperkvasir", *out)
    assert found.returncode == 2
    assert "root: expected the folder of hyperkvasir" in found.stderr
    found = run("train-images", "--data", "digits", "--model", "vgg-kan", *out)
    assert "model: expected resnet18, 34 or 50" in found.stderr


@pytest.mark.end_to_end
def test_the_audit_command_lists_files_and_fails(tmp_path: Path) -> None:
    from tests.benchmarks.images.generated import hyperkvasir

    root = hyperkvasir(tmp_path, share=0.001)
    words = ("audit-images", "--data", "hyperkvasir", "--root", str(root))
    found = run(*words)
    assert found.returncode == 0, found.stderr
    assert "0 problems" in found.stdout
    (root / "labeled-images" / "lower-gi-tract" / "anatomical-landmarks" / "ileum" / "ileum-0001-4a6b-8c1d.jpg").write_bytes(
        b""
    )
    found = run(*words)
    assert found.returncode == 1
    assert "ileum-0001-4a6b-8c1d.jpg" in found.stdout


@pytest.mark.parametrize("normalize", ["none", "batch"])
def test_a_grid_follows_every_feature(normalize: Normalize) -> None:
    generator = torch.Generator().manual_seed(0)
    head = Head(6, 3, "kan", hidden=(4,), normalize=normalize, generator=generator).train()
    features = 3 * torch.rand(200, 6, generator=generator)
    follow_features(head, features)
    with torch.no_grad():
        ordered = head.eval().normalize(features).sort(dim=0).values
    layer = head.kan.kan_layers[0]
    found = layer.grid[:, layer.spline_order : -layer.spline_order]
    torch.testing.assert_close(found[:, [0, -1]], ordered[[0, -1]].T)
    median = found[:, layer.grid_size // 2 : layer.grid_size // 2 + 2]
    assert (median[:, 0] < ordered[100]).all() and (ordered[100] < median[:, 1]).all()
