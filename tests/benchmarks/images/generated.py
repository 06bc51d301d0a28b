"""Trees with the real folder names and tiny images, made in about a second."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.images.labels import CLASSES, KVASIR_V2, Class


def jpeg(colour: int, side: int = 8) -> bytes:
    """A small JPEG whose pixels tell its class."""
    rng = np.random.default_rng(colour)
    pixels = np.clip(rng.integers(256, size=3) + rng.integers(-20, 20, size=(side, side, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def named(data: bytes, name: str) -> bytes:
    """The same JPEG with a comment after its first marker, so that no two files are equal."""
    comment = name.encode()
    return data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]


def stem_of(one: Class, n: int) -> str:
    return f"{one.folder}-{n:04d}-4a6b-8c1d"


def hyperkvasir(root: Path, share: float = 1.0) -> Path:
    """Write `labeled-images`, `image-labels.csv` and both split files below `root`; `share` of each class, 5 at least."""
    base = root / "labeled-images"
    labels = ["Video file,Organ,Finding,Classification"]
    splits: dict[int, list[str]] = {folds: ["file-name;class-name;split-index"] for folds in (2, 5)}
    for colour, one in enumerate(CLASSES):
        folder = base / one.path
        folder.mkdir(parents=True)
        data = jpeg(colour)
        for n in range(min(one.count, max(5, round(share * one.count)))):
            stem = stem_of(one, n)
            (folder / f"{stem}.jpg").write_bytes(named(data, stem))
            organ = "Lower GI" if one.tract.startswith("lower") else "Upper GI"
            labels.append(f"{stem},{organ},{one.folder},{one.category}")
            for folds, lines in splits.items():
                lines.append(f"{stem}.jpg;{one.official};{n % folds}")
    (base / "image-labels.csv").write_text("\n".join(labels) + "\n")
    (root / "official_splits").mkdir()
    for folds, lines in splits.items():
        (root / "official_splits" / f"{folds}_fold_split.csv").write_text("\n".join(lines) + "\n")
    return root


def kvasir_v2(root: Path, count: int = 1000) -> Path:
    for colour, name in enumerate(KVASIR_V2):
        folder = root / "kvasir-dataset-v2" / name
        folder.mkdir(parents=True)
        data = jpeg(colour)
        for n in range(count):
            (folder / f"{name}-{n:04d}.jpg").write_bytes(named(data, f"{name}{n}"))
    return root
