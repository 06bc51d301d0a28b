"""How figures look: widths and font sizes for papers, colours that colour-blind readers tell apart, byte-stable files."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.typing import ColorType, LineStyleType
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy.spatial.distance import cdist
from tueplots import figsizes, fontsizes

from benchmarks.report.cells import csv
from benchmarks.report.ids import figure_id

WIDTH_INCHES: float = figsizes.neurips2024()["figure.figsize"][0]
BLACK, ORANGE, SKY, GREEN, _YELLOW, BLUE, VERMILION, PURPLE = mpl.color_sequences["okabe_ito"]
GREY = (0.45, 0.45, 0.45)
# Further colours, of Paul Tol's muted set; Okabe and Ito's yellow is too pale on white.
WINE, OLIVE, INDIGO, TEAL, FOREST = "#882255", "#999933", "#332288", "#44aa99", "#117733"
# Chosen for their distance from all of the above, also to colour-blind eyes.
VIOLET, BROWN = "#9c00fc", "#543c00"


@dataclass(frozen=True)
class Look:
    """Colour, marker and line style of one arm or penalty: each tells it apart without the others."""

    colour: ColorType
    marker: str
    line: LineStyleType = "-"


LOOKS = {
    "efficient_kan": Look(BLUE, "o"),
    "efficient_kan[native]": Look(VIOLET, "d", "--"),
    "pykan[default]": Look(VERMILION, "s"),
    "pykan[nosave]": Look(ORANGE, "^"),
    "pykan[speed]": Look(PURPLE, "D"),
    "cox_de_boor": Look(GREEN, "v"),
    "gemm_bound": Look(BLACK, "P", "--"),
    "mlp[width]": Look(SKY, "<", ":"),
    "mlp[params]": Look(GREY, ">", ":"),
    "inkan": Look(WINE, "*", "-."),
    "inkan[compiled]": Look(BROWN, "8", ":"),
    "torchcurves": Look(OLIVE, "h", "-."),
    "pykan[0.0.5]": Look(INDIGO, "p", "-."),
    "pykan[0.0.5-nosymbolic]": Look(FOREST, "X", "--"),
    "none": Look(BLACK, "P"),
    "weight_l1": Look(ORANGE, "s"),
    "folded_l1": Look(VERMILION, "D"),
    "sample_l1": Look(BLUE, "o"),
    "sample_std": Look(GREEN, "^"),
}
SPARE = [Look(colour, marker, "-.") for marker in "8*hpX" for colour in (TEAL, VERMILION, PURPLE, SKY, ORANGE)]


def looks(names: list[str]) -> dict[str, Look]:
    """Return a look for each of `names`, known ones first and always the same."""
    spare = iter(SPARE)
    known = [name for name in LOOKS if name in names]
    return {name: LOOKS.get(name) or next(spare) for name in known + sorted(set(names) - set(known))}


@contextmanager
def applied() -> Iterator[None]:
    """Draw and save inside: matplotlib's defaults, whatever the user's own settings are, with the ones below on top."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(fontsizes.neurips2024(default_smaller=2))
        mpl.rcParams.update(
            {
                "axes.grid": True,
                "axes.linewidth": 0.5,
                "axes.spines.right": False,
                "axes.spines.top": False,
                "axes.labelsize": 7,
                "axes.titlesize": 6,
                "font.family": "DejaVu Sans",
                "grid.color": "0.9",
                "grid.linewidth": 0.5,
                "legend.frameon": False,
                "lines.linewidth": 1.0,
                "lines.markersize": 3.5,
                "pdf.fonttype": 42,
                "figure.dpi": 220,
                "svg.fonttype": "none",
                "svg.hashsalt": "benchmarks.report",
                "xtick.major.width": 0.5,
                "ytick.major.width": 0.5,
            }
        )
        yield


def log_axis(axes: Axes, axis: str, ticks: list[float] | None = None) -> None:
    """Make one axis logarithmic with plain numbers: at `ticks` if given, else as many as its present range needs."""
    (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    low, high = axes.get_xlim() if axis == "x" else axes.get_ylim()
    which = axes.xaxis if axis == "x" else axes.yaxis
    decades = math.log10(high / low)
    if ticks is not None:
        which.set_ticks(ticks)
    elif decades < 0.35:
        which.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        steps = (
            (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
            if decades < 0.7
            else (1.0, 2.0, 3.0, 5.0)
            if decades < 1.2
            else (1.0, 2.0, 5.0)
            if decades < 1.7
            else (1.0, 3.0)
            if decades < 3
            else (1.0,)
        )
        which.set_major_locator(LogLocator(subs=steps, numticks=12))
    powers = high >= 1e6
    which.set_major_formatter(FuncFormatter(lambda value, _: _power(value) if powers else f"{value:.6g}"))
    which.set_minor_locator(NullLocator())


def log_axis_apart(grid: Sequence[Axes], side: Literal["above", "below"], room: float) -> None:
    """Make the y axis that `grid` shares logarithmic, with a line on one `side` of the data and a share `room` free beyond it.

    Marks of what has no value go there, where no tick gives them one.
    """
    first = grid[0]
    log_axis(first, "y")
    if not room:
        return
    low, high = first.get_ylim()
    ticks = [tick for tick in first.get_yticks() if low <= tick <= high]
    reach = (high / low) ** (room / (1 - room))
    first.set_ylim(*((low, high * reach) if side == "above" else (low / reach, high)))
    log_axis(first, "y", ticks)
    for axes in grid:
        axes.axhline(high if side == "above" else low, color=GREY, linewidth=0.6)


def _power(value: float) -> str:
    """A positive number as a power of ten, with a factor before it where it is none."""
    factor, _, power = f"{value:.5e}".partition("e")
    return ("" if float(factor) == 1 else f"{float(factor):g} \\times ").join(("$", f"10^{{{int(power)}}}$"))


_METADATA: dict[str, dict[str, Any]] = {
    # The date and the version of matplotlib would make equal figures differ.
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


_GREYS = 80
_GREY = 12  # between the largest and the smallest part of a colour that passes for grey
_IN_ROWS = ("versions", "machine")  # long texts that the row behind a line holds, see `case_key`
_PLACES = re.compile(r' (?:d|x|y|x1|x2|y1|y2|points)="[^"]*"')  # of paths and marks; factors of transforms keep their digits
_LONG = re.compile(r"(\.\d\d)\d+")
_REMARK = {"pdf": "Keywords", "svg": "Keywords", "png": "Comment"}


def save(figure: Figure, drawn: pd.DataFrame, folder: Path, name: str) -> None:
    """Write `folder`/`name`.pdf, .svg, .png and, as .csv, the rows that the figure draws.

    Each picture carries its id and the SHA-256 of that CSV, so that a copy in a paper still says where it came from.
    """
    lay_out(figure)
    values = csv(drawn.drop(columns=list(_IN_ROWS), errors="ignore"))
    origin = f"values sha256:{hashlib.sha256(values).hexdigest()}"
    for suffix, metadata in _METADATA.items():
        marked = metadata | {"Title": figure_id(name), _REMARK[suffix]: [origin] if suffix == "svg" else origin}
        paint(figure, folder / f"{name}.{suffix}", marked)
    (folder / f"{name}.csv").write_bytes(values)


def lay_out(figure: Figure) -> None:
    """Solve the layout once for all files."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def paint(figure: Figure, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write one picture, and a PNG or SVG again in fewer bytes."""
    figure.savefig(path, metadata=metadata)
    if path.suffix == ".png":
        _with_a_palette(path)
    elif path.suffix == ".svg":
        _with_shorter_numbers(path)


def _with_a_palette(path: Path) -> None:
    """Write a PNG again with a palette of 256 colours: its file becomes a third of the size.

    These are the most frequent colours and the most frequent greys, exactly as they are, so that lines and marks keep theirs;
    what is between them, at their edges, takes the nearest.
    """
    with Image.open(path) as image:
        texts = PngInfo()
        for key, value in image.info.items():
            if isinstance(value, str):
                texts.add_text(str(key), value)
        pixels = np.asarray(image.convert("RGB"))
        colours, places, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        grey = np.ptp(colours[order].astype(int), axis=1) < _GREY
        chosen = colours[np.concatenate((order[~grey][: 256 - _GREYS], order[grey][:_GREYS]))]
        nearest = cdist(colours, chosen, "sqeuclidean").argmin(1).astype(np.uint8)
        few = Image.fromarray(nearest[places.ravel()].reshape(pixels.shape[:2]), "P")
        few.putpalette(chosen.astype(np.uint8).tobytes())
        few.save(path, optimize=True, pnginfo=texts, dpi=image.info.get("dpi"))


def _with_shorter_numbers(path: Path) -> None:
    """Write an SVG again with places to a hundredth of a point instead of a millionth."""
    text = path.read_text(encoding="utf-8")
    path.write_text(_PLACES.sub(lambda found: _LONG.sub(r"\1", found[0]), text), encoding="utf-8")
