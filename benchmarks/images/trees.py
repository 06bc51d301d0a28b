"""HyperKvasir (labelled images) and Kvasir v2 as trees of files, with every deviation reported by file.

Licence of HyperKvasir: the paper and the data set's LICENSE say Creative Commons Attribution 4.0; the README of the same
repository says research and education only, anything else with prior written permission. The two contradict each other: ask
the authors before any other use. No image is part of this project.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.images.labels import ALIASES, CLASSES, KVASIR_V2, TASKS, Class, Task, task_classes, task_label
from benchmarks.images.sets import DamagedError, FileSet, Problem, stratified_folds

SUFFIXES = (".jpg", ".jpeg")
OnProblems = Literal["raise", "list"]


@dataclass
class Scan:
    """The image files of a tree, each with the folder of its class, and what is wrong with the tree."""

    files: list[tuple[Path, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def distinct(self) -> dict[str, tuple[Path, str]]:
        """Stem -> file and class folder. Where a stem occurs twice, each further file is a problem."""
        found: dict[str, tuple[Path, str]] = {}
        for path, folder in self.files:
            if path.stem in found:
                self.problems.append(Problem("duplicate name", str(path), f"also {found[path.stem][0]}"))
            else:
                found[path.stem] = (path, folder)
        return found


def scan(root: Path, folders: Mapping[str, str], ignored: Sequence[str] = ()) -> Scan:
    """Walk `root`. `folders` maps relative paths of leaf folders to classes; `ignored` names files that belong at the top."""
    found = Scan()
    parents = {str(parent) for folder in folders for parent in Path(folder).parents}
    for relative in sorted(folders):
        if not (root / relative).is_dir():
            found.problems.append(Problem("missing folder", str(root / relative)))
    for folder, _, files in _walk(root):
        relative = folder.relative_to(root).as_posix()
        known = relative in folders
        if not known and relative not in parents:
            found.problems.append(Problem("unknown folder", str(folder), f"{len(files)} files"))
            continue
        for name in files:
            path = folder / name
            if known and path.suffix.lower() in SUFFIXES:
                found.files.append((path, folders[relative]))
            elif not (relative == "." and name in ignored):
                found.problems.append(Problem("unexpected file", str(path), "no .jpg in a folder of a class", blocking=False))
    return found


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    for folder, below, files in os.walk(root):
        below.sort()
        yield Path(folder), below, sorted(files)


class HyperKvasir(FileSet):
    """The 10,662 labelled images of HyperKvasir in their official folds.

    Args:
        root: the folder `labeled-images`, or one that contains it.
        folds: 2 or 5: which official split.
        fold: number of the test fold.
        task: see :func:`benchmarks.images.labels.task_label`.
        splits: the official split file, or the folder of `2_fold_split.csv` and `5_fold_split.csv`; by default
            `official_splits` in or beside `root`.
        problems: `"raise"`: a damaged tree raises; `"list"`: what is left of it is used, and `problems` lists what is wrong.

    Raises:
        DamagedError: with every problem of names and folders, see `benchmarks.images.audit` for contents too.
        ValueError: if an argument is out of its range or no tree or split file is found.
    """

    def __init__(
        self,
        root: Path | str,
        folds: int = 2,
        fold: int = 0,
        task: Task = "23",
        *,
        splits: Path | str | None = None,
        problems: OnProblems = "raise",
    ) -> None:
        if folds not in (2, 5):
            raise ValueError(f"folds: expected 2 or 5, the official splits, got {folds}")
        if not 0 <= fold < folds:
            raise ValueError(f"fold: expected 0 to {folds - 1}, got {fold}")
        if task not in TASKS:
            raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")
        self.root = labelled_images(Path(root))
        self.split_file = split_file(self.root, folds, Path(splits) if splits else None)
        tree = scan(self.root, {one.path: one.folder for one in CLASSES}, ignored=("image-labels.csv",))
        files = tree.distinct()
        rows, found = read_split(self.split_file, folds)
        found += tree.problems
        found += _joined(files, rows) + _label_file(self.root / "image-labels.csv", files)
        kept = []
        for stem, (official, part) in sorted(rows.items()):
            label = task_label(official, task)
            if stem in files and files[stem][1] == official.folder and label is not None:
                kept.append((files[stem][0], label, part))
        found.sort(key=lambda problem: (not problem.blocking, problem.kind, problem.file))
        if problems == "raise" and any(problem.blocking for problem in found):
            raise DamagedError("HyperKvasir", found)
        classes = task_classes(task)
        labels = [classes.index(label) for _, label, _ in kept]
        super().__init__("hyperkvasir", classes, [path for path, _, _ in kept], labels, [part for *_, part in kept], fold)
        self.problems = tuple(found)


def labelled_images(root: Path) -> Path:
    """Return the folder that holds `lower-gi-tract` and `upper-gi-tract`: `root` or `labeled-images` below it.

    Raises ValueError if neither does.
    """
    for folder in (root, root / "labeled-images", root / "hyper-kvasir" / "labeled-images"):
        if (folder / "lower-gi-tract").is_dir() or (folder / "upper-gi-tract").is_dir():
            return folder
    raise ValueError(f"root: expected a folder with labeled-images/lower-gi-tract, as in HyperKvasir's archive, got {root}")


def split_file(root: Path, folds: int, given: Path | None = None) -> Path:
    """Return the official split file: `given`, in the folder `given`, or in `official_splits` in or near `root`.

    Raises ValueError if there is none.
    """
    name = f"{folds}_fold_split.csv"
    near = [folder / part for folder in (root, root.parent) for part in ("official_splits", ".")]
    places = [folder / name for folder in near] if given is None else [given, given / name]
    for place in places:
        if place.is_file():
            return place
    hint = "download it from the folder official_splits of the repository simula/hyper-kvasir"
    raise ValueError(f"splits: expected {name} ({hint}), got none at {', '.join(map(str, places))}")


def read_split(path: Path, folds: int) -> tuple[dict[str, tuple[Class, int]], list[Problem]]:
    """Read `file-name;class-name;split-index`. Return stem -> class and fold, and the rows that say something else."""
    rows: dict[str, tuple[Class, int]] = {}
    problems = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=";")
        header = next(reader, [])
        if header != ["file-name", "class-name", "split-index"]:
            raise ValueError(f"splits: expected the columns file-name;class-name;split-index in {path}, got {';'.join(header)}")
        for number, row in enumerate(reader, start=2):
            stem = Path(row[0]).stem if row else ""
            place = f"{path}:{number}"
            if len(row) != 3 or not stem or not row[2].isdecimal() or int(row[2]) >= folds:
                problems.append(Problem("split file", place, f"no image, class and fold below {folds}: {';'.join(row)}"))
            elif row[1] not in ALIASES:
                problems.append(Problem("split file", place, f"unknown class {row[1]}"))
            elif stem in rows:
                problems.append(Problem("split file", place, f"{row[0]} a second time"))
            else:
                rows[stem] = (ALIASES[row[1]], int(row[2]))
    return rows, problems


def _joined(files: Mapping[str, tuple[Path, str]], rows: Mapping[str, tuple[Class, int]]) -> list[Problem]:
    problems = []
    for stem, (official, _) in rows.items():
        if stem not in files:
            problems.append(Problem("missing image", f"{official.path}/{stem}.jpg", "in the split file"))
        elif files[stem][1] != official.folder:
            problems.append(Problem("wrong class", str(files[stem][0]), f"{official.folder} in the split file"))
    extra = sorted(files.keys() - rows.keys())
    return problems + [Problem("extra image", str(files[stem][0]), "not in the split file") for stem in extra]


def _label_file(path: Path, files: Mapping[str, tuple[Path, str]]) -> list[Problem]:
    """Compare `image-labels.csv` with the tree. It decides nothing, so that no disagreement blocks."""

    def problem(file: Path | str, detail: str) -> Problem:
        return Problem("label file", str(file), detail, blocking=False)

    if not path.is_file():
        return [problem(path, "absent")]
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = {Path(row.get("Video file") or "").stem: row for row in csv.DictReader(file)}
    problems = [problem(files[stem][0], f"not in {path.name}") for stem in sorted(files.keys() - rows.keys())]
    problems += [problem(stem, f"in {path.name}, but no such file") for stem in sorted(rows.keys() - files.keys())]
    organs = {"lower gi": "lower-gi-tract", "upper gi": "upper-gi-tract"}
    folders = {one.folder: one for one in CLASSES}
    for stem in sorted(files.keys() & rows.keys()):
        own, row = folders[files[stem][1]], rows[stem]
        finding = ALIASES.get(row.get("Finding") or "", own)  # a spelling we do not know says nothing
        organ = organs.get((row.get("Organ") or "").lower(), own.tract)
        if finding is not own or organ != own.tract:
            text = f"{row.get('Organ')}, {row.get('Finding')} in {path.name}"
            problems.append(problem(files[stem][0], text))
    return problems


class KvasirV2(FileSet):
    """The 8,000 images of Kvasir v2, 1,000 in each of 8 folders. It has no official split: folds are made by name.

    Args:
        root: the folder `kvasir-dataset-v2`, or one that contains it.
        folds, fold: number of folds, and the test fold.
        problems: as for :class:`HyperKvasir`.

    Raises:
        DamagedError: with every problem of names and folders.
        ValueError: if an argument is out of its range or `root` holds no class folder.
    """

    def __init__(self, root: Path | str, folds: int = 5, fold: int = 0, *, problems: OnProblems = "raise") -> None:
        inner = Path(root) / "kvasir-dataset-v2"
        self.root = inner if inner.is_dir() else Path(root)
        if not any((self.root / name).is_dir() for name in KVASIR_V2):
            raise ValueError(f"root: expected a folder with {', '.join(KVASIR_V2)}, got {root}")
        tree = scan(self.root, {name: name for name in KVASIR_V2})
        files = tree.distinct()
        counts = Counter(folder for _, folder in files.values())
        for name in KVASIR_V2:
            if (self.root / name).is_dir() and counts[name] != 1000:
                kind = "missing image" if counts[name] < 1000 else "extra image"
                tree.problems.append(Problem(kind, str(self.root / name), f"{counts[name]} images instead of 1000"))
        found = sorted(tree.problems, key=lambda problem: (not problem.blocking, problem.kind, problem.file))
        if problems == "raise" and any(problem.blocking for problem in found):
            raise DamagedError("Kvasir v2", found)
        classes = tuple(sorted(counts))
        stems = sorted(files)
        labels = [classes.index(files[stem][1]) for stem in stems]
        parts = stratified_folds(np.asarray(labels, dtype=np.int64), stems, folds)
        super().__init__("kvasir_v2", classes, [files[stem][0] for stem in stems], labels, parts, fold)
        self.problems = tuple(found)
