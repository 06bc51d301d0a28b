"""Draw the pictures of the documentation again: ``python docs/pictures.py``."""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl

FOLDER = Path(__file__).parent / "generated"
TUTORIAL = Path(__file__).parent / "examples" / "tutorial.py"


def draw(folder: Path) -> list[Path]:
    """Write the networks of the tutorial as SVG: trained, pruned, and as functions."""
    folder.mkdir(exist_ok=True)
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(None):
        os.chdir(scratch)  # the tutorial writes files
        try:
            found = runpy.run_path(str(TUTORIAL))
        finally:
            os.chdir(here)
    paths = []
    with mpl.rc_context({"svg.hashsalt": "efficient_kan"}):
        for name, variable in (("trained", "kan"), ("pruned", "small"), ("symbolic", "symbolic")):
            paths.append(folder / f"{name}.svg")
            figure = found[variable].plot(found["x"], input_names=["x", "y"], output_names=["f"])
            figure.savefig(paths[-1], metadata={"Date": None}, facecolor="white", bbox_inches="tight")
    return paths


if __name__ == "__main__":
    sys.exit(print(*draw(FOLDER.resolve()), sep="\n"))
