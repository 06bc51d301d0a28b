"""The figure of the kernels on a GPU: their time, and native's, over that of the bare product."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.report.style import BLUE, GREEN, GREY, VIOLET, WIDTH_INCHES, Look, log_axis

LOOKS: Mapping[str, tuple[str, Look]] = {
    "cuda": ("kernel, arbitrary knots", Look(BLUE, "o")),
    "cuda[uniform]": ("kernel, uniform knots", Look(GREEN, "^")),
    "native": ("native", Look(VIOLET, "d")),
}
_SHORT = {"forward": "y", "input_grad": "dx", "weight_grad": "dW"}


def draw(frame: pd.DataFrame) -> Figure:
    """Draw the lines of the kernel table that have a time beside a bare product: a panel for each precision."""
    precisions = list(dict.fromkeys(frame["precision"]))
    layers = list(dict.fromkeys(_layers(frame)))
    places = {key: place for place, key in enumerate((layer, kernel) for layer in layers for kernel in _SHORT)}
    figure = Figure(figsize=(WIDTH_INCHES, 1.2 + 1.0 * len(precisions)), layout="constrained")
    grid = figure.subplots(len(precisions), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, precision in zip(grid, precisions, strict=True):
        part = frame[frame["precision"] == precision]
        for name, (label, look) in LOOKS.items():
            own = part[part["implementation"] == name]
            at = [places[key] for key in zip(_layers(own), own["kernel"], strict=True)]
            axes.plot(at, own["of_product"], look.marker, color=look.colour, label=label)
        axes.axhline(1.0, color=GREY, linewidth=0.6)
        for place in range(len(_SHORT), len(places), len(_SHORT)):
            axes.axvline(place - 0.5, color=GREY, linewidth=0.4)
        axes.set_title(precision)
    grid[len(grid) // 2].set_ylabel("time / time of the bare product")
    log_axis(grid[0], "y")
    middle = len(_SHORT) // 2
    labels = [
        f"{_SHORT[kernel]}\n{layer}" if place % len(_SHORT) == middle else _SHORT[kernel]
        for (layer, kernel), place in places.items()
    ]
    grid[-1].set_xticks(list(places.values()), labels)
    grid[-1].grid(visible=False, axis="x")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(LOOKS))
    return figure


def _layers(frame: pd.DataFrame) -> list[str]:
    return [f"B {B}\n{I}→{O}\nG {G}" for B, I, O, G in frame[["B", "I", "O", "G"]].itertuples(index=False, name=None)]
