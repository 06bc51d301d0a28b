"""What figures draw: failures as marks, readable ticks, a fixed look for each arm."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.analysis import data
from benchmarks.report import (
    capacity,
    cells,
    figures,
    images,
    penalties,
    scaling,
    sparsity,
    sparsity_figures,
    style,
    tables,
    views,
)
from benchmarks.report.ids import figure_id
from benchmarks.schema.cases import Case, Point
from benchmarks.schema.rows import FrontierPoint, MemorySeries, SimulatedSeries, Status
from reference.arm import ARMS


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


def hollow(axes: Axes) -> list[tuple[float, float]]:
    """Every hollow mark of a panel."""
    return [
        tuple(map(float, place)) for line in axes.lines if line.get_markerfacecolor() == "white" for place in line.get_xydata()
    ]


def spans(axes: Axes) -> list[float]:
    """Where a panel has bars of intervals."""
    return [
        float(segment[0][0])
        for drawn in axes.collections
        if isinstance(drawn, LineCollection)
        for segment in drawn.get_segments()
        if len(segment) and np.isfinite(segment).all()
    ]


def test_a_ratio_of_one_process_is_hollow_and_has_no_bar(
    run: Any, speed_case: Callable[..., Case], times: Any, tmp_path: Path
) -> None:
    for batch, processes in ((32, 1), (128, 3), (512, 3)):
        run.add(speed_case(batch=batch, axes=("batch",)), speed=times())
        for process in range(processes):
            case = speed_case("pykan[default]", batch=batch, axes=("batch",)).model_copy(update={"process": process})
            run.add(case, speed=times(300.0 + process))
    (line,) = (line for line in data.families(data.load(run.write(tmp_path)).speed)[0] if line.axis == "batch")
    figure = scaling.draw([line], scaling.RATIO)
    (axes,) = figure.axes
    assert [x for x, _ in hollow(axes)] == [32]
    assert spans(axes) == [128, 512]
    assert {"one process: no interval", "95 % interval"} <= set(legend(figure))
    said = figures._on_ratios(line.frame)
    assert cells.HOLLOW in said and "Bars and coloured bands are 95 % intervals." in said
    several = replace(line, frame=line.frame[line.frame["batch"] > 32])
    assert "one process: no interval" not in legend(scaling.draw([several], scaling.RATIO))
    assert cells.HOLLOW not in figures._on_ratios(several.frame)
    alone = replace(line, frame=line.frame[line.frame["batch"] == 32])
    assert "95 % interval" not in legend(scaling.draw([alone], scaling.RATIO))
    assert "intervals" not in figures._on_ratios(alone.frame).replace(cells.HOLLOW, "")
    assert spans(scaling.draw([line], scaling.TIME).axes[0]) != [], "quartiles of the samples are another thing"


def test_the_page_to_hover_over_has_no_interval_of_one_process(loaded: data.Data) -> None:
    found = {view.key: view.frame for view in views.views(loaded, [])}
    for key in ("ratio", "penalty"):
        assert found[key]["ratio"].notna().any() and set(found[key]["processes"]) <= {0, 1}
        assert found[key][["ratio_low", "ratio_high"]].isna().all(axis=None), key


def test_a_cost_of_one_process_is_hollow_and_has_no_bar(loaded: data.Data) -> None:
    costs = tables.penalty_costs(loaded)
    several = costs.assign(processes=costs["processes"].where(costs["penalty"] != "sample_std", 3))
    figure = penalties.draw_cost(several)
    ratios = figure.axes[2]
    lone = several[several["ratio"].notna() & (several["processes"] < 2)]
    assert [x for x, _ in hollow(ratios)] == pytest.approx(list(lone["ratio"]))
    assert len(spans(ratios)) == (several["processes"] == 3).sum() > 0
    assert "one process: no interval" in legend(figure)
    assert figures._intervals(several) == f", the time with 95 % intervals. {cells.HOLLOW}"
    assert figures._intervals(costs) == f". {cells.HOLLOW}"
    assert figures._intervals(costs.assign(processes=3)) == ", the time with 95 % intervals."


def test_an_unsupported_penalty_is_marked(loaded: data.Data) -> None:
    figure = penalties.draw_cost(tables.penalty_costs(loaded))
    assert [len(marks(axes)) for axes in figure.axes] == [1, 1, 1, 1]
    assert "no value: see failed cases" in legend(figure)


def test_looks_differ_and_do_not_depend_on_company() -> None:
    arms = ["efficient_kan", "pykan[default]", "pykan[nosave]", "pykan[speed]", "cox_de_boor", "gemm_bound", "new[a]", "new[b]"]
    chosen = style.looks(arms)
    assert len({(look.colour, look.marker) for look in chosen.values()}) == len(arms)
    assert style.looks(["new[b]", "pykan[speed]"])["pykan[speed]"] == chosen["pykan[speed]"]


# Machado, Oliveira and Fernandes 2009, severity 1: what remains of a linear RGB colour.
SEEN = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def lab(colour: Any, seen: Any) -> np.ndarray:
    """CIE L*a*b* of a colour as it is seen."""
    values = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(np.array(seen) @ linear, 0, 1) / to_xyz.sum(axis=1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_every_arm_has_a_look_that_all_eyes_tell_from_the_others() -> None:
    assert set(ARMS) <= set(style.LOOKS)
    looks = {arm: style.LOOKS[arm] for arm in ARMS}
    assert len({look.marker for look in looks.values()}) == len(looks)
    for name, seen in SEEN.items():
        for (first, a), (second, b) in combinations(looks.items(), 2):
            assert np.linalg.norm(lab(a.colour, seen) - lab(b.colour, seen)) > 11, (name, first, second)


def test_the_interactive_page_knows_every_marker_and_line() -> None:
    script = (Path(style.__file__).parent / "web" / "app.js").read_text(encoding="utf-8")
    shapes = re.search(r"const SHAPES = \{(.*?)\n  \};", script, flags=re.DOTALL)
    dashes = re.search(r"const DASHES = \{(.*?)\};", script)
    assert shapes and dashes
    markers = set(re.findall(r'(?:^|[\s,])"?([^\s",\[]+?)"?: (?:polygon|\[)', shapes.group(1))) | {
        "o"
    }  # a circle is no polygon
    lines = set(re.findall(r'"([^"]+)": "', dashes.group(1)))
    for look in (*style.LOOKS.values(), *style.SPARE):
        assert look.marker in markers
        assert look.line in lines


def test_pdfs_embed_their_fonts_as_truetype_and_are_as_wide_as_a_column_of_text(rendered: Path) -> None:
    for path in (rendered / "figures").glob("*.pdf"):
        content = path.read_bytes()
        assert b"/FontFile2" in content
        assert b"/Type3" not in content
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", content)
        assert box
        assert float(box.group(1)) == pytest.approx(72 * style.WIDTH_INCHES)


def test_svgs_keep_their_texts(rendered: Path) -> None:
    for path in (rendered / "figures").glob("*.svg"):
        assert "<text" in path.read_text(encoding="utf-8")


def test_every_labelled_axis_has_a_unit_or_is_a_ratio(loaded: data.Data) -> None:
    lines = data.families(loaded.speed)[0]
    peaks = data.families(figures._peaks(loaded))[0]
    drawn = [scaling.draw(lines, scaling.TIME), scaling.draw(lines, scaling.RATIO), scaling.draw(peaks, scaling.MEMORY)]
    drawn.append(penalties.draw_cost(tables.penalty_costs(loaded)))
    labels = {text for figure in drawn for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel()) if text}
    assert len(labels) > 10
    assert [text for text in labels if "(" not in text and " / " not in text] == []


def test_named_peaks_are_points_in_the_order_of_the_arms(run: Any, tmp_path: Path) -> None:
    where = Point(batch=64, layers=(8, 8), grid_size=5)
    for arm, peak in (("efficient_kan", 2**30), ("pykan[speed]", 2**34), ("pykan[default]", None)):
        case = Case(kind="simulated", arm=arm, point=where, modes=("step",), name="large")
        series = [] if peak is None else [SimulatedSeries(mode="step", before_bytes=1, peak_bytes=peak)]
        run.add(case, simulated=series, **({} if peak else {"status": "timeout", "reason": "no result after 60 s"}))
    figure = capacity.draw_named(data.load(run.write(tmp_path)).simulated)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["efficient_kan", "pykan[default]", "pykan[speed]"]
    assert axes.get_ylim() == (2.5, -0.5)
    assert [text.get_text() for text in axes.texts] == ["1.00", "no value: see failed cases", "16.0"]


def test_named_points_without_any_peak_are_drawn(run: Any, tmp_path: Path) -> None:
    where = Point(batch=64, layers=(8, 8), grid_size=5)
    case = Case(kind="simulated", arm="inkan", point=where, modes=("step",), name="large")
    run.add(case, simulated=[], status="unsupported", reason="looks at values")
    figure = capacity.draw_named(data.load(run.write(tmp_path)).simulated)
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.axes[0].texts] == ["no value: see failed cases"]


@pytest.mark.parametrize(
    ("ends", "texts"),
    [
        ((0.02, 0.6), ["0.02", "0.05", "0.1", "0.2", "0.5"]),
        ((2.1, 9.5), ["3", "4", "6", "8"]),
        ((9e3, 2e8), ["$10^{4}$", "$10^{5}$", "$10^{6}$", "$10^{7}$", "$10^{8}$"]),
        ((3e6, 6e7), ["$5 \\times 10^{6}$", "$10^{7}$", "$2 \\times 10^{7}$", "$5 \\times 10^{7}$"]),
    ],
)
def test_the_ticks_of_one_axis_are_all_plain_numbers_or_all_powers_of_ten(ends: tuple[float, float], texts: list[str]) -> None:
    axes = Figure().subplots()
    axes.set_xlim(*ends)
    style.log_axis(axes, "x")
    shown = zip(axes.get_xticks(), axes.xaxis.get_ticklabels(), strict=True)
    assert [label.get_text() for tick, label in shown if ends[0] <= tick <= ends[1]] == texts


def test_what_does_not_fit_at_all_is_drawn_as_a_zero(run: Any, tmp_path: Path) -> None:
    for arm, batch in (("efficient_kan", 7), ("pykan[speed]", 0), ("pykan[default]", None)):
        where = Point(batch=1, layers=(8, 8), grid_size=5)
        case = Case(kind="frontier", arm=arm, point=where, modes=("step",), capacities_gib=(8,))
        found = [] if batch is None else [FrontierPoint(capacity_gib=8, batch=batch, peak_bytes=1, next_peak_bytes=None)]
        run.add(case, frontier=found, **({"status": "timeout", "reason": "no result"} if batch is None else {}))
    figure = capacity.draw_frontier(data.load(run.write(tmp_path)).frontier)
    (axes,) = figure.axes
    colours = {name: look.colour for name, look in style.LOOKS.items()}
    found = {
        line.get_marker(): line.get_color() for line in axes.lines if len(line.get_xdata()) and line.get_linestyle() == "None"
    }
    assert found == {"$0$": colours["pykan[speed]"], "x": colours["pykan[default]"]}
    assert {"not even one sample fits", "no value: see failed cases"} <= set(legend(figure))


def test_marks_of_what_has_no_value_stand_beyond_the_data_where_no_tick_is(run: Any, tmp_path: Path) -> None:
    for arm, batch in (("efficient_kan", 7), ("pykan[default]", None)):
        where = Point(batch=1, layers=(8, 8), grid_size=5)
        case = Case(kind="frontier", arm=arm, point=where, modes=("step",), capacities_gib=(8,))
        found = [] if batch is None else [FrontierPoint(capacity_gib=8, batch=batch, peak_bytes=1, next_peak_bytes=None)]
        run.add(case, frontier=found, **({"status": "unsupported", "reason": "no values"} if batch is None else {}))
    frame = data.load(run.write(tmp_path)).frontier
    (axes,) = capacity.draw_frontier(frame).axes
    (line,) = (line for line in axes.lines if list(line.get_xdata()) == [0, 1])
    (mark,) = (line for line in axes.lines if line.get_marker() == "x" and len(line.get_xdata()))
    border = float(np.asarray(line.get_ydata())[0])
    low, high = axes.get_ylim()
    share = math.log(border / low) / math.log(high / low)
    assert 0 < float(np.asarray(mark.get_ydata())[0]) < share
    assert border < 7
    assert all(tick >= border for tick in axes.get_yticks())
    caption = figures._below_the_line(frame)
    assert "an x has no value (cannot be simulated: `pykan[default]`; reasons in T10)" in caption


def test_a_peak_that_was_simulated_but_not_measured_is_hollow(run: Any, tmp_path: Path) -> None:
    peaks = {32: (1, 2), 128: (None, 8), 512: (None, None)}  # MiB by batch: measured, simulated
    for batch, (measured, simulated) in peaks.items():
        where = Point(batch=batch, layers=(8, 8), grid_size=5)
        shared = {"arm": "pykan[default]", "point": where, "modes": ("step",), "axes": ("batch",)}
        series = MemorySeries(
            mode="step",
            method="profiler allocation events",
            peak_bytes=(measured or 0) * 2**20,
            **dict.fromkeys(("parameter_bytes", "gradient_bytes", "optimiser_bytes", "input_bytes", "activation_bytes"), 0),
        )
        run.add(
            Case(kind="memory", **shared), **({"memory": [series]} if measured else {"status": "timeout", "reason": "hours"})
        )
        if simulated:
            found = SimulatedSeries(mode="step", before_bytes=1, peak_bytes=simulated * 2**20)
            run.add(Case(kind="simulated", **shared), simulated=[found])
    loaded = data.load(run.write(tmp_path))
    frame = figures._peaks(loaded)
    assert frame["simulated_mib"].dropna().tolist() == [8]
    keys = {row.case.point.batch: row.case_key for row in loaded.rows if row.case.kind == "simulated"}
    assert list(frame["simulated_case_key"].dropna()) == [keys[128]]
    (line,) = (line for line in data.families(frame)[0] if line.axis == "batch")
    figure = scaling.draw([line], scaling.MEMORY)
    (axes,) = figure.axes
    hollow = [tuple(map(float, drawn.get_xydata()[0])) for drawn in axes.lines if drawn.get_markerfacecolor() == "white"]
    assert hollow == [(128, 8)]
    assert marks(axes) == [(512, style.LOOKS["pykan[default]"].colour)]
    assert {"simulated, not measured", "no value: see failed cases"} <= set(legend(figure))
    assert figures._on_peaks(frame) == figures._SIMULATED
    assert figures._on_peaks(frame[frame["batch"] == 32]) == ""
    assert "Of `pykan[default]` at 8-8 the peak" in figures._on_peaks(frame.assign(method="live storages"))


def test_the_caption_says_what_each_cross_is(run: Any, speed_case: Callable[..., Case], times: Any, tmp_path: Path) -> None:
    run.add(speed_case(), speed=times())
    for batch, status in ((32, "timeout"), (512, "skipped_by_frontier")):
        run.add(speed_case("pykan[speed]", batch=batch), status=status, reason="none")
    speed = data.load(run.write(tmp_path)).speed
    caption = figures._crosses(speed[speed["ratio"].isna()])
    assert "a case without a value (out of time, not tried as a smaller case had failed; reasons in T10)" in caption
    assert set(cells.STATUSES) == {status for status in get_args(Status) if status != "ok"}


def test_the_resident_set_is_drawn_above_its_lowest() -> None:
    sampled = {"seconds": [0.0, 0.1, 0.2], "rss_bytes": [size * 2**20 for size in (300, 200, 250)]}
    own = pd.DataFrame(sampled).assign(arm="efficient_kan")
    other = own.assign(arm="pykan[speed]", seconds=10 * own["seconds"], rss_bytes=own["rss_bytes"].iloc[0])
    one, two = capacity.draw_resident(pd.concat([own, other])).axes
    assert list(one.lines[0].get_ydata()) == [100, 0, 50]
    assert list(two.lines[0].get_ydata()) == [0, 0, 0]
    assert one.get_ylim() == two.get_ylim()
    assert one.get_ylim()[1] >= 100
    assert two.get_xlim()[1] == pytest.approx(10 * one.get_xlim()[1])


def cut_off(figure: Figure) -> bool:
    """Whether anything drawn reaches beyond the figure."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    used = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    return bool(min(used.x0, used.y0) < -0.01 or max(used.x1 - width, used.y1 - height) > 0.01)


def test_nothing_of_a_figure_is_cut_off(loaded: data.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr(style, "save", lambda figure, _, folder, name: drawn.update({name: figure}))
    (study,) = sparsity.studies(loaded)
    figures.draw_all(loaded, [study], tmp_path)
    frames = {
        name: pd.concat([getattr(study, name), getattr(study, name).assign(family="real")]) for name in ("runs", "against_none")
    }
    with style.applied():
        drawn["two families"], _ = sparsity_figures.effects(replace(study, **frames))
    assert len(drawn) > 5
    assert [name for name, figure in drawn.items() if cut_off(figure)] == []


def heads(**accuracies: tuple[float, ...]) -> pd.DataFrame:
    """Runs of heads on one data set, one seed for each accuracy."""
    shared = {"setting": "cpu", "data": "digits", "task": "23", "fold": 0, "scope": "frozen", "backbone": "ResNet-18"}
    shared |= {"preparation": "batch", "penalty": "none", "strength": 0.0, "case_key": "0", "test_images": 9, "diverged": False}
    values = dict.fromkeys((*images._VALUES[1:], "active_edges", "total_edges", "seconds", "head_parameters"), 0.5)
    return pd.DataFrame(
        [
            shared | values | {"head": head, "seed": seed, "accuracy": accuracy}
            for head, found in accuracies.items()
            for seed, accuracy in enumerate(found)
        ]
    )


def test_intervals_of_accuracies_end_where_none_can_be_and_heads_without_a_value_are_marked() -> None:
    frame = images.summarised(heads(linear=(0.1, 0.9), mlp=(0.5,), kan=(math.nan, math.nan))).set_index("head")
    assert (frame.loc["linear", "accuracy_low"], frame.loc["linear", "accuracy_high"]) == (0, 1)
    assert frame.loc["mlp", "accuracy_high"] == math.inf
    assert list(frame["known"]) == [2, 1, 0]
    figure = images.draw(frame.reset_index())
    assert [colour for _, colour in marks(figure.axes[0])] == [images.HEADS["kan"].colour]
    assert legend(figure) == ["linear", "mlp", "kan", "no value: see failed cases"]
    assert legend(images.draw(images.summarised(heads(kan=(0.5, 0.6))))) == ["kan"]


def legend(figure: Figure) -> list[str]:
    """The texts of a figure's legend."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_pictures_have_a_palette_and_no_more_digits_than_can_be_seen(tmp_path: Path) -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0.1, 0.2, 0.7], [1.0, 3.0, 2.0], color="#0072b2")
    axes.plot([0.1], [1.0], "o", color="#882255")  # few pixels, which must not take another arm's colour
    style.save(figure, pd.DataFrame({"x": [1], "versions": ["torch 2"]}), tmp_path, "memory-all")
    with Image.open(tmp_path / "memory-all.png") as image:
        assert image.mode == "P" and len(image.getcolors() or ()) > 3
        shown = {colour for _, colour in image.convert("RGB").getcolors(2**24) or ()}
        assert {(0x00, 0x72, 0xB2), (0x88, 0x22, 0x55), (255, 255, 255)} <= shown
        assert image.info["Title"] == figure_id("memory-all")
        assert image.info["Comment"].startswith("values sha256:")
    paths = re.findall(r' d="([^"]*)"', (tmp_path / "memory-all.svg").read_text(encoding="utf-8"))
    assert paths and not re.search(r"\.\d{3}", "".join(paths))
    assert (tmp_path / "memory-all.csv").read_text() == "x\n1\n"
