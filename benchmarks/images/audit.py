"""What the files of a tree contain: images that cannot be decoded, and images that occur twice."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from benchmarks.images.sets import FileSet, Problem


def audit(images: FileSet, workers: int = 4) -> list[Problem]:
    """Return all that is wrong with `images`: what opening it listed, and every file without a whole, unique JPEG.

    Every file is read and decoded, by `workers` threads (Pillow decodes outside of the interpreter's lock).
    """
    return [*images.problems, *contents(images.paths, workers)]


def contents(paths: Sequence[Path], workers: int = 4) -> list[Problem]:
    """Return the problems in the contents of these files: empty, no image, cut off, not a JPEG, equal to another."""
    # Around the pool: threads share the filters of warnings, and would restore each other's.
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns where it repairs
        with ThreadPoolExecutor(workers) as pool:
            checked = list(pool.map(_check, paths))
    problems = [problem for problem, _ in checked if problem]
    first: dict[bytes, Path] = {}
    for path, (_, digest) in zip(paths, checked, strict=True):
        if not digest:
            continue
        if digest in first:
            problems.append(Problem("duplicate content", str(path), f"the bytes of {first[digest]}"))
        else:
            first[digest] = path
    return problems


def _check(path: Path) -> tuple[Problem | None, bytes]:
    """Decode one file. The second result is a hash of its bytes; empty if there is nothing to compare."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return Problem("unreadable file", str(path), str(error.strerror)), b""
    if not data:
        return Problem("empty file", str(path)), b""
    digest = hashlib.sha256(data).digest()
    try:
        with Image.open(path) as image:
            image.load()
            kind = image.format
    except UnidentifiedImageError:
        return Problem("not an image", str(path)), digest
    except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError) as error:
        return Problem("corrupt image", str(path), str(error)), digest
    if kind != "JPEG":
        return Problem("wrong format", str(path), f"{kind}, not JPEG", blocking=False), digest
    return None, digest


def blocking(problems: Iterable[Problem]) -> list[Problem]:
    """Return those that change the data set."""
    return [problem for problem in problems if problem.blocking]
