"""What figures draw: failures as marks, readable ticks, a fixed look for each arm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import data, penalties, scaling, style, tables


@pytest.fixture
def loaded(full_run: Any, tmp_path: Path) -> data.Data:
    return data.load(full_run.write(tmp_path))


def marks(axes: Axes) -> list[tuple[float, str]]:
    """The x of every failure mark of a panel, with its colour."""
    return [(x, line.get_color()) for line in axes.lines if line.get_marker() == "x" for x in line.get_xdata()]


def test_failed_cases_are_marked_where_they_failed_in_the_colour_of_their_arm(loaded: data.Data) -> None:
    figure = scaling.draw(data.families(loaded.speed)[0], scaling.TIME)
    batch, width, grid = figure.axes[:3]
    assert marks(batch) == [(512, style.LOOKS["pykan[default]"].colour)]
    assert marks(width) == []
    assert marks(grid) == [(20, style.LOOKS["cox_de_boor"].colour)]


def test_marks_of_failures_stay_clear_of_the_curves(loaded: data.Data) -> None:
    figure = scaling.draw(data.families(loaded.speed)[0], scaling.TIME)
    for axes in figure.axes:
        to_panel = (axes.transData + axes.transAxes.inverted()).transform
        curves = [line for line in axes.lines if line.get_marker() not in ("x", "None")]
        highest = max(to_panel((x, y))[1] for line in curves for x, y in zip(*line.get_data(), strict=True) if y == y)
        lowest = min((y for line in axes.lines if line.get_marker() == "x" for y in line.get_ydata()), default=1)
        assert highest < lowest


def test_axes_are_logarithmic_with_units_and_the_measured_sizes_as_ticks(loaded: data.Data) -> None:
    figure = scaling.draw(data.families(loaded.speed)[0], scaling.TIME)
    bottom = figure.axes[-3:]
    assert [list(axes.get_xticks()) for axes in bottom] == [[32, 128, 512], [8, 32, 64], [3, 5, 20]]
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in figure.axes)
    assert "(samples)" in bottom[0].get_xlabel()
    assert "(ms)" in bottom[0].get_ylabel()


def test_the_ratio_figure_has_the_noise_floor_and_leaves_the_baseline_out(loaded: data.Data) -> None:
    figure = scaling.draw(data.families(loaded.speed)[0], scaling.RATIO)
    labels = legend(figure)
    assert "noise floor" in labels
    assert "efficient_kan" not in labels
    assert any(line.get_ydata()[0] == 1 for line in figure.axes[0].lines)


def test_an_unsupported_penalty_is_marked(loaded: data.Data) -> None:
    figure = penalties.draw_cost(tables.penalty_costs(loaded))
    assert [len(marks(axes)) for axes in figure.axes] == [1, 1, 1, 1]
    assert "no value: see failed cases" in legend(figure)


def test_looks_differ_and_do_not_depend_on_company() -> None:
    arms = ["efficient_kan", "pykan[default]", "pykan[nosave]", "pykan[speed]", "cox_de_boor", "gemm_bound", "new[a]", "new[b]"]
    chosen = style.looks(arms)
    assert len({(look.colour, look.marker) for look in chosen.values()}) == len(arms)
    assert style.looks(["new[b]", "pykan[speed]"])["pykan[speed]"] == chosen["pykan[speed]"]


def legend(figure: Figure) -> list[str]:
    """The texts of a figure's legend."""
    return [text.get_text() for text in figure.legends[0].get_texts()]
