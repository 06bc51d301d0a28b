"""The classes of HyperKvasir's labelled images and of Kvasir v2: folders, official names, counts and tasks.

Class names come in two spellings: those of the folders and those of the official split files. Eight of 23 differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Task = Literal["23", "seed7", "organ", "category"]
TASKS: tuple[Task, ...] = get_args(Task)

LANDMARKS, PATHOLOGY = "anatomical-landmarks", "pathological-findings"
QUALITY, THERAPY = "quality-of-mucosal-views", "therapeutic-interventions"


@dataclass(frozen=True)
class Class:
    """One class: its leaf folder, its name in the official split files, where it lies, and how many images it has."""

    folder: str
    official: str
    tract: str
    category: str
    count: int

    @property
    def path(self) -> str:
        """Folder relative to `labeled-images`."""
        return f"{self.tract}/{self.category}/{self.folder}"


def _classes(tract: str, category: str, **counts: tuple[int, str]) -> tuple[Class, ...]:
    made = []
    for key, (count, official) in counts.items():
        folder = key.replace("_", "-")
        made.append(Class(folder, official or folder, tract, category, count))
    return tuple(made)


_LOWER, _UPPER = "lower-gi-tract", "upper-gi-tract"
CLASSES: tuple[Class, ...] = (
    *_classes(_LOWER, LANDMARKS, cecum=(1009, "normal-cecum"), ileum=(9, ""), retroflex_rectum=(391, "")),
    *_classes(
        _LOWER,
        PATHOLOGY,
        hemorrhoids=(6, "hemorroids"),
        polyps=(1028, "polyp"),
        ulcerative_colitis_grade_0_1=(35, ""),
        ulcerative_colitis_grade_1=(201, ""),
        ulcerative_colitis_grade_1_2=(11, ""),
        ulcerative_colitis_grade_2=(443, ""),
        ulcerative_colitis_grade_2_3=(28, ""),
        ulcerative_colitis_grade_3=(133, ""),
    ),
    *_classes(_LOWER, QUALITY, bbps_0_1=(646, ""), bbps_2_3=(1148, ""), impacted_stool=(131, "")),
    *_classes(_LOWER, THERAPY, dyed_lifted_polyps=(1002, ""), dyed_resection_margins=(989, "")),
    *_classes(_UPPER, LANDMARKS, pylorus=(999, "normal-pylorus"), retroflex_stomach=(764, ""), z_line=(932, "normal-z-line")),
    *_classes(
        _UPPER,
        PATHOLOGY,
        barretts=(41, ""),
        barretts_short_segment=(53, "short-segment-barretts"),
        esophagitis_a=(403, "oesophagitis-a"),
        esophagitis_b_d=(260, "oesophagitis-b-d"),
    ),
)
BY_FOLDER: Mapping[str, Class] = {one.folder: one for one in CLASSES}

# Every spelling seen -> class: folders, split files, and the list of labels beside the data set.
ALIASES: Mapping[str, Class] = {
    **{one.official: one for one in CLASSES},
    **BY_FOLDER,
    **{one.folder.replace("-grade-", "-"): one for one in CLASSES if "-grade-" in one.folder},
}

# Kvasir v2: 1,000 images in each of these folders.
KVASIR_V2 = (
    "dyed-lifted-polyps",
    "dyed-resection-margins",
    "esophagitis",
    "normal-cecum",
    "normal-pylorus",
    "normal-z-line",
    "polyps",
    "ulcerative-colitis",
)


def task_label(one: Class, task: Task) -> str | None:
    """Return the label of images of class `one` in `task`; None if the task leaves them out.

    "23": all classes, by folder; "seed7": polyps and the six grades of ulcerative colitis; "organ": lower or upper tract;
    "category": the four kinds of finding. Raises ValueError if there is no such task.
    """
    if task == "23":
        return one.folder
    if task == "seed7":
        kept = one.tract == _LOWER and one.category == PATHOLOGY and one.folder != "hemorrhoids"
        return one.folder if kept else None
    if task == "organ":
        return one.tract
    if task == "category":
        return one.category
    raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")


def task_classes(task: Task) -> tuple[str, ...]:
    """Return the labels of `task`, sorted."""
    return tuple(sorted({label for one in CLASSES if (label := task_label(one, task)) is not None}))
