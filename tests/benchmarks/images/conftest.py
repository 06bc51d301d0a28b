from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.benchmarks.images.generated import hyperkvasir


@pytest.fixture(scope="session")
def whole_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HyperKvasir's labelled part with its real folder names and counts, 8 x 8 pixels an image. Not to be changed."""
    return hyperkvasir(tmp_path_factory.mktemp("hyperkvasir"))


@pytest.fixture(scope="session")
def official_splits() -> Path:
    """The folder of the official split files, which are not part of the repository."""
    beside = Path(__file__).resolve().parents[4] / "shared" / "data" / "hyperkvasir"
    folder = Path(os.environ.get("HYPERKVASIR_SPLITS", beside))
    if not (folder / "2_fold_split.csv").is_file():
        pytest.skip("no official split files: set HYPERKVASIR_SPLITS to their folder")
    return folder
