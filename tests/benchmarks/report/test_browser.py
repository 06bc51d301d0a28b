"""The interactive page in a real browser: no error, nothing loaded, filters, pointer, keyboard, themes, a phone's width."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytest.importorskip("playwright", reason="playwright is in the group browser: nox -s browser installs it")
from tests.benchmarks.report import chromium

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium on this machine"),
]
ROWS = "[...document.querySelectorAll('#table tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))"
HEAD = "[...document.querySelectorAll('#table thead th')].map(cell => cell.textContent)"
SUMMARY = "document.getElementById('summary').textContent"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests of this file."""
    with chromium.Browser() as opened:
        yield opened


@pytest.fixture
def page(browser: Any, rendered: Path) -> Iterator[Any]:
    """The page, freshly opened at the width of a desk; fails if the page complained while the test used it."""
    browser.problems.clear()
    browser.look()
    browser.open((rendered / "index.html").as_uri())
    yield browser
    assert browser.run("1") == 1  # what the page has to say has been heard by then
    assert browser.problems == []


def drawn(rendered: Path, name: str, axis: str, mode: str) -> pd.DataFrame:
    """What the figure `name` draws along `axis`."""
    frame = pd.read_csv(rendered / "figures" / f"{name}-cpu-float32-1-thread.csv")
    return frame[(frame["axis"] == axis) & (frame["mode"] == mode)]


def test_it_opens_without_an_error_and_loads_only_itself(page: Any) -> None:
    assert [one for one in page.requests if one.startswith("file:")] == [page.run("location.href.split('#')[0]")]
    assert page.run("document.querySelectorAll('#chart svg polygon').length") > 0


@pytest.mark.parametrize(("axis", "column"), [("batch", "batch"), ("width", "width"), ("grid", "grid_size")])
def test_the_axis_and_mode_filters_show_what_the_figure_draws(page: Any, rendered: Path, axis: str, column: str) -> None:
    page.choose("#filter-axis", axis)
    page.choose("#filter-mode", "forward")
    expected = drawn(rendered, "time_ratio", axis, "forward")
    shown = page.run(ROWS)
    assert page.run(HEAD)[:3] == [
        "arm",
        page.run("document.querySelector('#table thead th:nth-child(2)').textContent"),
        "time / time of efficient_kan",
    ]
    assert sorted((arm, int(x.replace(",", ""))) for arm, x, *_ in shown) == sorted(
        zip(expected["arm"], expected[column], strict=True)
    )
    values = {(arm, int(x.replace(",", ""))): value for arm, x, value, *_ in shown}
    for row in expected[expected["ratio"].notna()].to_dict("records"):
        assert float(values[row["arm"], row[column]]) == pytest.approx(row["ratio"], rel=5e-3)


def test_unchecking_an_arm_removes_its_points(page: Any) -> None:
    before = page.run(ROWS)
    page.click("[data-series='mlp[width]']")
    after = page.run(ROWS)
    assert after == [row for row in before if row[0] != "mlp[width]"]
    page.click("#none")
    assert page.run(ROWS) == []
    page.click("#all")
    assert page.run(ROWS) == before


def test_every_quantity_and_filter_draws_what_the_table_lists(page: Any) -> None:
    for quantity in page.run("[...document.querySelectorAll('#quantity option')].map(option => option.value)"):
        page.choose("#quantity", quantity)
        for select in page.run("[...document.querySelectorAll('#filters select')].map(select => select.id)"):
            for value in page.run(f"[...document.getElementById('{select}').options].map(option => option.value)"):
                page.choose(f"#{select}", value)
                rows = page.run(ROWS)
                assert rows
                assert page.run(SUMMARY).startswith(f"{sum(row[2] != '–' for row in rows)} values")
    assert page.problems == []


def test_a_failure_is_a_cross_that_tells_its_reason(page: Any) -> None:
    page.choose("#filter-axis", "batch")
    crosses = page.run("document.querySelectorAll('#chart svg path:not(.frame)').length")
    assert crosses == 1
    page.move_to("#chart svg path:not(.frame)")
    text = page.run("document.getElementById('tip').innerText")
    assert "no value: timeout, exceeded 300 s" in text
    assert "pykan[default], batch size B (samples): 512" in text


def test_the_pointer_shows_noise_processes_and_provenance(page: Any) -> None:
    page.move_to("#chart svg circle:not(.halo)")
    text = page.run("document.getElementById('tip').innerText")
    assert "efficient_kan, batch size B (samples): 32" in text
    for part in (
        "noise floor: ",
        "10 pairs from 1 process\n",
        "case 0",
        "environment env0",
        "commit 0123abc",
    ):
        assert part in text
    assert "95 % interval" not in text
    assert "Bars and bands: 95 % interval; what was timed in one process has none." in page.run(SUMMARY)
    page.move(2, 2)
    assert page.run("document.getElementById('tip').hidden")


def test_the_keyboard_reaches_every_point(page: Any) -> None:
    page.run("document.getElementById('chart').focus()")
    count = len(page.run(ROWS))
    seen = set()
    for _ in range(count + 3):
        page.press("ArrowRight")
        seen.add(page.run("document.querySelector('#tip div').textContent"))
    assert len(seen) == count
    page.press("Home")
    page.press("ArrowDown")
    assert "pykan[default]" in page.run("document.querySelector('#tip div').textContent")
    page.press("ArrowUp")
    assert "efficient_kan" in page.run("document.querySelector('#tip div').textContent")
    page.press("Escape")
    assert page.run("document.getElementById('tip').hidden")


def test_logarithmic_axes_can_be_switched_off(page: Any) -> None:
    ticks = "[...document.querySelectorAll('#chart svg text[text-anchor=end]')].map(text => text.textContent)"
    logarithmic = page.run(ticks)
    page.click("#logy")
    linear = [float(text.replace(",", "")) for text in page.run(ticks)]
    assert linear[0] == 0
    assert len({round(b - a, 6) for a, b in pairwise(linear)}) == 1
    page.click("#logy")
    assert page.run(ticks) == logarithmic


def test_the_address_leads_back_to_what_was_shown(page: Any) -> None:
    page.choose("#quantity", "memory.peak_mib")
    page.choose("#filter-axis", "grid")
    page.click("[data-series='pykan[speed]']")
    address, rows = page.run("location.href"), page.run(ROWS)
    page.open(address)
    assert page.run(ROWS) == rows
    assert page.run("document.getElementById('quantity').value") == "memory.peak_mib"


def test_every_control_has_a_name_for_a_screen_reader(page: Any) -> None:
    nodes = page.accessible()
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")]
    controls = [one for one in named if one[0] in ("combobox", "checkbox", "button", "application", "link", "region")]
    assert len(controls) > 15
    assert [one for one in controls if not one[1].strip()] == []
    assert "table" in {role for role, _ in named}


def test_themes_follow_the_system_and_the_choice(page: Any) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.run(colour)
    page.look(scheme="dark")
    dark = page.run(colour)
    assert light != dark
    page.choose("#theme", "light")
    assert page.run(colour) == light
    page.look()
    page.choose("#theme", "dark")
    assert page.run(colour) == dark
    page.choose("#theme", "")
    assert page.run(colour) == light


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_overflows_on_a_phone(page: Any, width: int) -> None:
    page.look(width=width, height=800, mobile=True)
    for quantity in page.run("[...document.querySelectorAll('#quantity option')].map(option => option.value)"):
        page.choose("#quantity", quantity)
        assert page.run("document.documentElement.scrollWidth") <= width
        chart = page.run("document.querySelector('#chart svg').getBoundingClientRect().width")
        assert 280 <= chart <= width
