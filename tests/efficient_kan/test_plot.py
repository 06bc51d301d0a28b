"""Pictures show every edge there is, and say what they leave out."""

from __future__ import annotations

import io
import sys
from typing import Any

import matplotlib
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from torch import Tensor

from efficient_kan import KAN, KANLinear, _drawing
from efficient_kan.plot import edge_curves, plot_edges, strongest
from efficient_kan.symbolic import SymbolicKAN

pytestmark = pytest.mark.filterwarnings("ignore:prune", "ignore:update_grid")


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(widths: list[int], **options: Any) -> KAN:
    return KAN(widths, kernel="native", generator=source(), scale_noise=2.0, **options)


def samples(features: int, count: int = 50) -> Tensor:
    return torch.randn(count, features, generator=source(1))


def panels(figure: Figure) -> int:
    """Each band has its panels' paper and their frames."""
    return sum(len(c.get_paths()) for c in figure.axes[0].collections if isinstance(c, PatchCollection)) // 2


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=30)
    return file.getvalue()


@pytest.mark.parametrize("widths", [[1, 1], [3, 1], [2, 5, 1], [4, 8, 8, 3]], ids=str)
def test_every_edge_has_a_panel_and_every_input_and_output_a_name(widths: list[int]) -> None:
    kan = network(widths)
    figure = kan.plot(samples(widths[0]))
    assert panels(figure) == sum(layer.edge_mask.numel() for layer in kan.kan_layers)
    assert texts(figure) == [f"x[{n}]" for n in range(widths[0])] + [f"y[{n}]" for n in range(widths[-1])]
    assert png(figure).startswith(b"\x89PNG")


def test_masked_edges_are_gone_and_nodes_without_edges_hollow() -> None:
    kan = network([2, 3, 1])
    kan.kan_layers[0].edge_mask[1] = 0
    kan.kan_layers[0].edge_mask[0, 1] = 0
    figure = kan.plot(samples(2), title="pruned")
    assert panels(figure) == 3 + 3
    assert {"hollow: a node without edges on one side", "pruned"} <= set(texts(figure))
    assert sum(patch.get_facecolor() == (1.0, 1.0, 1.0, 1.0) for patch in figure.axes[0].patches) == 1


def test_a_network_without_any_edge_is_drawn() -> None:
    kan = network([2, 3, 1])
    for layer in kan.kan_layers:
        layer.edge_mask.zero_()
    figure = kan.plot(samples(2))
    assert panels(figure) == 0
    assert len(figure.axes[0].patches) == 6
    assert png(figure).startswith(b"\x89PNG")


def test_names_are_those_given_and_long_ones_are_cut() -> None:
    figure = network([2, 1]).plot(samples(2), input_names=["speed", "t" * 40], output_names=["drag"])
    assert texts(figure) == ["speed", "t" * 23 + "…", "drag"]
    formula = r"$\frac{\partial u}{\partial t}$ at the boundary"
    figure = network([2, 1]).plot(samples(2), input_names=[formula, "price in $"])
    assert texts(figure)[:2] == [formula, "price in $"]
    assert png(figure).startswith(b"\x89PNG")


def test_unimportant_edges_fade() -> None:
    kan = network([3, 1])
    with torch.no_grad():
        for weight in (kan.kan_layers[0].base_weight, kan.kan_layers[0].spline_weight):
            weight.copy_(torch.ones_like(weight))
            weight[:, 1] *= 0.1
            weight[:, 2] = 0
    figure = kan.plot(samples(3))
    frames = [c for c in figure.axes[0].collections if isinstance(c, PatchCollection)][1]
    strong, weak, none = (float(colour[3]) for colour in frames.get_edgecolors())
    assert strong > 0.95
    assert 0.2 < weak < 0.5
    assert none == pytest.approx(0.08)


def test_a_curve_is_its_edge_over_the_samples_range() -> None:
    kan, x = network([3, 4, 2], bias=True), samples(3)
    kan.update_grid(x)
    layer = kan.kan_layers[1]
    hidden = kan.kan_layers[0](x).detach()
    (curve,) = edge_curves(layer, hidden.amin(0), hidden.amax(0), [(1, 2)], torch.full((2, 4), 0.5))
    assert (curve.output, curve.input, curve.strength) == (1, 2, 0.5)
    assert (min(curve.points), max(curve.points)) == pytest.approx((float(hidden[:, 2].min()), float(hidden[:, 2].max())))
    layer.edge_mask.zero_()[1, 2] = 1
    probe = torch.zeros(len(curve.points), 4)
    probe[:, 2] = torch.tensor(curve.points)
    expected = (layer(probe) - layer.bias)[:, 1]
    assert torch.allclose(torch.tensor(curve.values), expected, atol=1e-6)


def test_a_large_network_shows_its_strongest_edges_and_says_so() -> None:
    kan, x = network([100, 20, 10]), samples(100, 200)
    figure = kan.plot(x, max_edges=30)
    assert panels(figure) == 60
    notes = " ".join(texts(figure))
    assert "the 30 strongest of 2000 edges" in notes
    assert "the 30 strongest of 200 edges" in notes
    assert "of 100 inputs" in notes
    assert sum(text.startswith("x[") for text in texts(figure)) < 31


def test_the_strongest_edges_lead_to_nodes_that_are_shown() -> None:
    scores = [torch.rand(20, 100, generator=source(3)), torch.rand(10, 20, generator=source(4))]
    alive = [torch.ones_like(score, dtype=torch.bool) for score in scores]
    alive[1][3] = False
    lower, upper = strongest(scores, alive, 25)
    assert len(lower) == len(upper) == 25
    assert {o for o, _ in lower} == {i for _, i in upper}
    assert {o for o, _ in upper} == set(range(10)) - {3}
    best = {(o, int(scores[1][o].argmax())) for o in range(10) if o != 3}
    assert best <= set(upper)


def test_symbolic_edges_are_marked_with_their_formula() -> None:
    curves = [
        _drawing.Curve(0, 0, [0, 1, 2], [0, 1, 4], 1.0, "x**2"),
        _drawing.Curve(0, 1, [0, 1, 2], [0, float("nan"), 1], 1.0),
        _drawing.Curve(0, 2, [1, 1, 1], [2, 2, 2], 1.0),
    ]
    figure = _drawing.draw([_drawing.Layer(3, 1, curves, 3)], ["a", "b", "c"], ["f"])
    assert "x**2" in texts(figure)
    red = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)][1].get_colors()
    assert [tuple(colour[:3]) == (0.0, 0.0, 0.0) for colour in red] == [False, True, True]
    assert png(figure).startswith(b"\x89PNG")


def test_a_symbolic_network_is_drawn_with_its_functions_and_remaining_splines() -> None:
    network = SymbolicKAN([2, 3, 1])
    layer = network.symbolic_layers[0]
    layer.splines = KANLinear(2, 3, kernel="native", generator=source(), scale_noise=2.0)
    layer.assign({(0, 0): None, (2, 1): None}, torch.zeros(4, 2))
    layer.splines.edge_mask[2, 1] = 0  # pruned before
    network.fix(0, 0, 1, "sin", [2.0, 3.0, 0.5, 0.1])
    network.fix(0, 1, 1, "x^2", [1.0, 1.0, 0.0, 0.0])
    network.fix(1, 0, 0, "exp", [1.0, 1.0, 0.0, 0.0])
    network.fix(1, 0, 1, "x", [1.0, 1.0, 0.0, 0.0])
    x = samples(2)
    figure = network.plot(x, input_names=["a", "b"], title="f")
    assert panels(figure) == 5
    marks = {"sin", "x^2", "exp", "x"}
    assert {text for text in texts(figure) if text in marks} == marks
    assert {"a", "b", "y[0]", "f", "hollow: a node without edges on one side"} <= set(texts(figure))
    curves = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)][1]
    colours = [tuple(colour[:3]) == (0.0, 0.0, 0.0) for colour in curves.get_colors()]
    assert sum(colours) == 1
    sine = curves.get_segments()[1]
    across = torch.linspace(float(x[:, 1].min()), float(x[:, 1].max()), len(sine))
    expected = torch.sin(3 * across + 0.5)
    found = torch.tensor(sine[:, 1])
    scaled = [(v - v.min()) / (v.max() - v.min()) for v in (expected.double(), found.double())]
    assert torch.allclose(*scaled, atol=1e-5)
    with pytest.raises(ValueError, match="input_names: expected 2 strings"):
        network.plot(x, input_names=["a"])
    with pytest.raises(ValueError, match="x: expected at least"):
        network.plot(x[:1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_networks_of_other_precisions_are_drawn(dtype: torch.dtype) -> None:
    kan = network([2, 3, 1], dtype=dtype)
    assert panels(kan.plot(samples(2).to(dtype))) == 9
    assert len(kan.plot_edges(0, samples(2).to(dtype)).axes) == 6


def test_nothing_of_matplotlib_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it fails
    before, kan = matplotlib.rcParams.copy(), network([2, 3, 1])
    png(kan.plot(samples(2)))
    png(kan.plot_edges(0))
    assert matplotlib.rcParams.copy() == before


def test_a_given_figure_is_drawn_into_and_notebooks_show_a_new_one() -> None:
    kan, figure = network([2, 1]), Figure()
    assert kan.plot(samples(2), figure=figure) is figure
    assert kan.plot_edges(0, figure=Figure()) is not figure
    assert kan.plot(samples(2))._repr_png_().startswith(b"\x89PNG")
    assert kan.plot_edges(0)._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("size", [(12, 9), (4, 3), (9, 2.5)], ids=str)
def test_parts_of_a_figure_are_drawn_into(size: tuple[float, float]) -> None:
    kan, figure = network([2, 3, 1]), Figure(size)
    left, right = figure.subfigures(1, 2, width_ratios=[2, 3])
    assert kan.plot(samples(2), title="a title that is long enough for two lines", figure=left) is left
    assert kan.plot_edges(0, figure=right) is right
    png(figure)
    assert tuple(figure.get_size_inches()) == size
    assert len(left.axes) == 1 and len(right.axes) == 6 and panels(left) == 9
    for part in (left, right):
        drawn = part.get_tightbbox()
        assert drawn.x0 >= part.bbox.x0 - 2 and drawn.x1 <= part.bbox.x1 + 2
        assert drawn.y0 >= part.bbox.y0 - 2 and drawn.y1 <= part.bbox.y1 + 2
    x, y = left.axes[0].transData.transform([(0, 0), (1, 1)]).T
    assert x[1] - x[0] == pytest.approx(y[1] - y[0]), "circles are round"
    with pytest.raises(ValueError, match=r"^figure: expected a SubFigure of over 1 by 1 inches, got '0\.50 by 1\.00'"):
        kan.plot_edges(0, figure=Figure((1, 1)).subfigures(1, 2)[0])


@pytest.mark.parametrize(
    "title",
    ["word " * 80, "W" * 300, "MW " * 90, "one\n\n" + "two " * 99, "tab\tbed", "i" * 20_000, r"$\alpha$ and $\beta$", " "],
    ids=lambda value: repr(str(value)[:9]),
)
@pytest.mark.parametrize("dpi", [50, 100])
def test_a_title_of_any_length_is_in_the_picture(title: str, dpi: int) -> None:
    figure = network([2, 1]).plot(samples(2), title=title, figure=Figure(dpi=dpi))
    png(figure)
    shown = [text for text in figure.axes[0].texts if text.get_fontsize() == 11]
    assert "".join("".join(text.get_text() for text in shown).split()) == "".join(title.split())
    for text in shown:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
        names = [other.get_window_extent() for other in figure.axes[0].texts if other is not text]
        assert all(box.y0 >= name.y1 for name in names)


def test_a_grid_of_panels_has_a_row_for_each_output() -> None:
    layer = network([3, 2]).kan_layers[0]
    layer.edge_mask[1, 2] = 0
    figure = plot_edges(layer, 3 * samples(3), input_names=["a", "b", "c"], output_names=["f", "g"])
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c", "", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["f", "", "", "g", "", ""]
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 2, 2, 2, 0]
    line = figure.axes[1].lines[0]
    probe = torch.zeros(len(line.get_xdata()), 3)
    probe[:, 1] = torch.tensor(line.get_xdata())
    layer.edge_mask.zero_()[0, 1] = 1
    assert torch.allclose(torch.tensor(line.get_ydata()), layer(probe)[:, 0].double(), atol=1e-6)


def test_panels_span_the_grid_without_samples_and_a_networks_samples_reach_its_layer() -> None:
    kan, x = network([2, 3, 1], grid_range=(-2, 4)), samples(2)
    ends = [kan.plot_edges(-1).axes[0].lines[0].get_xdata()[k] for k in (0, -1)]
    assert ends == pytest.approx([-2, 4])
    hidden = kan.kan_layers[0](x).detach()
    ends = [kan.plot_edges(1, x).axes[1].lines[0].get_xdata()[k] for k in (0, -1)]
    assert ends == pytest.approx([float(hidden[:, 1].min()), float(hidden[:, 1].max())])


@pytest.mark.parametrize("widths", [[30, 20], [2, 300], [300, 1]], ids=str)
def test_a_large_grid_of_panels_is_cut_and_says_so(widths: list[int]) -> None:
    figure = network(widths).plot_edges(0, max_panels=9)
    assert 4 <= len(figure.axes) <= 9
    assert f"of {widths[1]} outputs" in figure.texts[0].get_text()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda kan: kan.plot(samples(2)[:1]), "x: expected at least 2 samples"),
        (lambda kan: kan.plot(samples(3)), r"x: expected shape \(\.\.\., 2\)"),
        (lambda kan: kan.plot(samples(2) * float("nan")), "x: expected finite"),
        (lambda kan: kan.plot([[1.0, 2.0]]), "x: expected a floating-point tensor"),
        (lambda kan: kan.plot(samples(2), input_names=["a"]), "input_names: expected 2 strings"),
        (lambda kan: kan.plot(samples(2), input_names="ab"), "input_names: expected 2 strings"),
        (lambda kan: kan.plot(samples(2), output_names=[1]), "output_names: expected 1 strings"),
        (lambda kan: kan.plot(samples(2), max_edges=0), "max_edges: expected an integer >= 1"),
        (lambda kan: kan.plot(samples(2), beta=-1), "beta: expected"),
        (lambda kan: kan.plot(samples(2), figure="f"), "figure: expected a matplotlib"),
        (lambda kan: kan.plot(samples(2), title=5), "title: expected a string or None, got 5"),
        (lambda kan: kan.plot_edges(2), "layer: expected the number"),
        (lambda kan: kan.plot_edges(0, samples(3)), "x: expected shape"),
        (lambda kan: kan.plot_edges(0, samples(2)[:0]), "x: expected at least 1 sample"),
        (lambda kan: kan.plot_edges(0, max_panels=0), "max_panels: expected"),
        (lambda kan: plot_edges(kan), "layer: expected a KANLinear"),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(network([2, 3, 1]))


def test_a_diverged_network_is_refused_by_the_name_of_its_layer() -> None:
    kan = network([2, 3, 1])
    with torch.no_grad():
        kan.kan_layers[1].base_weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"layers\[1\]\.base_weight: expected finite"):
        kan.plot(samples(2))
    with pytest.raises(ValueError, match=r"layer\.base_weight: expected finite"):
        plot_edges(kan.kan_layers[1])


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("efficient_kan._drawing", "efficient_kan._panels"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delattr("efficient_kan._drawing", raising=False)
    monkeypatch.delattr("efficient_kan._panels", raising=False)
    with pytest.raises(ImportError, match=r"plot\(\) needs matplotlib.*efficient-kan-bench\[plot\]"):
        network([2, 1]).plot(samples(2))
    with pytest.raises(ImportError, match=r"plot_edges\(\) needs matplotlib.*efficient-kan-bench\[plot\]"):
        plot_edges(KANLinear(2, 1))


def test_the_strongest_edges_are_chosen_whatever_the_default_device_is() -> None:
    scores = [torch.rand(3, 4, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    alive = [torch.ones(3, 4, dtype=torch.bool)] * 2
    expected = strongest(scores, alive, 2)
    with torch.device("meta"):
        assert strongest(scores, alive, 2) == expected


LONG = [f"TOTAL_PREMIUM_AMOUNT_{letter}" for letter in "ABCDEFGHIJKL"]


@pytest.mark.parametrize(
    "names", [LONG, ["mean radius", "worst fractal dimension", "iiiiiiiiiiiiiiiiiiiiiiii"]], ids=["capitals", "small"]
)
def test_names_stay_in_the_picture_and_apart(names: list[str]) -> None:
    x = 2 * torch.rand(50, len(names), generator=torch.Generator().manual_seed(0)) - 1
    kan = KAN([len(names), 2, 1], generator=torch.Generator().manual_seed(0))
    for figure in (kan.plot(x, input_names=names), kan.plot_edges(0, x, input_names=names, output_names=names[:2])):
        assert isinstance(figure, Figure)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        texts = [text for axes in figure.axes for text in (*axes.texts, axes.title, axes.yaxis.label) if text.get_text()]
        boxes = [text.get_window_extent(renderer) for text in texts]
        for box in boxes:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[:n])


def test_names_that_begin_alike_are_told_apart_and_what_is_no_formula_is_drawn_as_it_stands() -> None:
    names = ["preprocessing__temperature_inside", "preprocessing__temperature_outside", "another_name_that_is_very_long"]
    assert _drawing.labels(names) == ["preprocessin…ture_inside", "preprocessin…ure_outside", "another_name_that_is_ve…"]
    assert _drawing.labels(["$x_1^2$", "cost in $ and 5% of $", "in $"]) == ["$x_1^2$", r"cost in \$ and 5% of \$", "in $"]
    figure = KAN([2, 1]).plot(torch.rand(50, 2), input_names=["cost in $ and 5% of $", "b"])
    figure.savefig(io.BytesIO())  # type: ignore[union-attr]
