"""A whole case: what it records, that equal seeds give equal rows, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks import tasks
from benchmarks.run.worker import Job, measure
from benchmarks.schema.cases import Case, Point, Sweep
from benchmarks.study import original, stacked, sweep, training
from benchmarks.study.agreement import rank_correlation
from benchmarks.study.penalties import NORMS, PAIRS
from benchmarks.study.samples import Data
from benchmarks.study.training import Samples
from benchmarks.tasks.base import DataSet, Sizes
from efficient_kan import KAN
from reference.arm import Unsupported


def case(task: str = "exp_sin", penalty: str = "sample_l1+entropy", *, arm: str = "efficient_kan", **changes: object) -> Case:
    chosen = tasks.get_task(task)
    values: dict[str, object] = {
        "task": task, "penalty": penalty, "strengths": (1e-4, 3e-2, 10.0), "seeds": (0, 1), "steps": 150, "refit_steps": 20,
        "edge_counts": (1, 3, 8, 25),
    }  # fmt: skip
    point = Point(batch=chosen.sizes.train, layers=chosen.layers, grid_size=5)
    return Case(kind="sparsity", arm=arm, point=point, sweep=Sweep.model_validate(values | changes))


@pytest.fixture(scope="module")
def trained() -> sweep.SparsityResult:
    return sweep.run(case())


def test_a_case_has_a_record_for_each_seed_and_strength(trained: sweep.SparsityResult) -> None:
    assert [(run.seed, run.strength) for run in trained.runs] == [(s, l) for s in (0, 1) for l in (1e-4, 3e-2, 10.0)]
    assert trained.checkpoints == (0, 7, 30, 75, 150)
    for run in trained.runs:
        assert not run.diverged
        assert len(run.before) == len(run.validation) == len(run.test) == 4
        assert set(run.norms) == set(NORMS)
        assert len(run.agreement) == 5 and all(len(look) == len(PAIRS) for look in run.agreement)
        assert run.before[-1] == run.test_error, "with all edges kept nothing is pruned"


def test_strength_goes_from_no_effect_to_collapse(trained: sweep.SparsityResult) -> None:
    for seed in (0, 1):
        weak, middle, strong = (run for run in trained.runs if run.seed == seed)
        assert weak.test_error is not None and weak.test_error < 0.3
        assert strong.test_error is not None and strong.test_error > 0.9
        norms = [run.norms["sample_l1"] for run in (weak, middle, strong)]
        assert norms[0] is not None and norms[2] is not None
        assert norms[2] < 0.1 * norms[0]
        assert middle.entropy is not None and weak.entropy is not None and middle.entropy < weak.entropy
        assert middle.relevance_auc is not None and middle.relevance_auc >= 0.5


def test_equal_seeds_give_bit_equal_records_and_others_do_not(trained: sweep.SparsityResult) -> None:
    assert sweep.run(case()).runs == trained.runs
    others = sweep.run(case(seeds=(2, 3))).runs
    assert all(a.test != b.test for a, b in zip(others, trained.runs, strict=True))


def test_a_curve_is_that_of_the_packages_pruned_network() -> None:
    """Without refits, from the package's own importance and forward."""
    chosen = case(strengths=(0.0,), penalty="none", seeds=(5,), refit_steps=0, edge_counts=(2, 10, 25))
    (run,) = sweep.run(chosen).runs
    task = tasks.get_task("exp_sin")
    data = Data.drawn(task, (5,), torch.float32)
    (kan,) = stacked.initial(chosen.point.layers, 5, (5,), torch.float32, task=task.seed)
    stack = stacked.Stack.of([[kan]])
    training.train(stack, Samples.of(stack, *data.train), steps=150)
    for layer, own in zip(kan.kan_layers, stack.layers, strict=True):
        for name in ("base_weight", "spline_weight", "spline_scaler"):
            getattr(layer, name).data = getattr(own, name)[0, 0]
    scores = torch.cat([score.flatten() for score in kan.importance(data.train[0][0].T)])
    for count, before, after in zip((2, 10, 25), run.before, run.test, strict=True):
        threshold = scores.sort(descending=True).values[count - 1]
        for layer, score in zip(kan.kan_layers, kan.importance(data.train[0][0].T), strict=True):
            layer.edge_mask.copy_(score >= threshold)
        error = float((kan(data.test[0][0].T) - data.test[1][0].T).detach().square().mean().sqrt())
        for layer in kan.kan_layers:
            layer.edge_mask.fill_(1.0)
        assert before == pytest.approx(error, rel=1e-3)
        assert after == before


def test_a_classification_is_scaled_by_the_entropy_of_its_classes() -> None:
    (run,) = sweep.run(case("wine", "none", strengths=(0.0,), seeds=(0,), edge_counts=(3, 48))).runs
    assert run.test[-1] is not None and run.test[-1] < 0.6
    data = Data.drawn(tasks.get_task("wine"), (0,), torch.float32)
    assert float(data.scale[0]) == pytest.approx(stats.entropy(np.bincount(tasks.get_task("wine").draw(0).train.y)))
    assert run.exact_structure is None and run.relevance_auc is None


def test_a_run_that_diverges_is_recorded_and_the_others_are_kept() -> None:
    found = sweep.run(case(penalty="weight_l1", strengths=(1e-3, float("inf")), seeds=(0,), steps=20, refit_steps=2)).runs
    assert [run.diverged for run in found] == [False, True]
    assert found[0].test[-1] is not None
    assert found[1].test == (None,) * 4
    assert found[1].dead_edges is None


def test_pykan_itself_lands_on_our_curve() -> None:
    changes = {"strengths": (1e-3, 1e-2), "seeds": (0,), "steps": 40, "refit_steps": 5}
    ours = sweep.run(case("product", "sample_std+entropy", **changes))
    theirs = sweep.run(case("product", "sample_std+entropy", arm="pykan[speed]", **changes))
    for a, b in zip(ours.runs, theirs.runs, strict=True):
        np.testing.assert_allclose(np.array(a.test, float), np.array(b.test, float), rtol=2e-2)
        assert a.train_error == pytest.approx(b.train_error, rel=1e-2)
    assert theirs.checkpoints == (40,)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="point: expected 4 inputs and 1 outputs of exp_sin"):
        sweep.run(case().model_copy(update={"point": Point(batch=320, layers=(3, 5, 1), grid_size=5)}))
    with pytest.raises(ValueError, match="edge_counts: expected all 25 edges last, got 20"):
        sweep.run(case(edge_counts=(3, 20)))
    with pytest.raises(ValueError, match="minibatch: expected at most the 320 samples, got 999"):
        sweep.run(case(minibatch=999))
    outcome = measure(Job(case=case(arm="pykan[speed]")))
    assert outcome.status == "unsupported"
    assert "trained for the cross-check alone" in outcome.reason
    with pytest.raises(ValueError, match="penalty: expected one of none"):
        sweep.run(case(penalty="l2"))
    with pytest.raises(Unsupported):
        original.trained(case(arm="mlp[width]"), [KAN([1, 1])], torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))


@pytest.mark.end_to_end
def test_a_task_whose_package_is_missing_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = DataSet(
        name="absent", family="real", text="", load=lambda: (np.zeros((3, 1)), np.zeros(3)), features=1,
        requires={"no_such_package": "no-such-package"}, hidden=(1,), sizes=Sizes(1, 1, 1),
    )  # fmt: skip
    monkeypatch.setattr(tasks.base, "_TASKS", dict(tasks.base._TASKS))
    tasks.register(absent)
    outcome = measure(Job(case=case("absent", edge_counts=(1, 2))))
    assert (outcome.status, outcome.reason) == ("unsupported", "absent needs no-such-package, which is not installed")


def test_the_rank_correlation_is_scipys_within_layers() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = ([torch.rand(1, 1, o, i, generator=generator) for o, i in ((3, 4), (2, 3), (1, 2))] for _ in range(2))
    expected = sum(
        size * stats.spearmanr(a.flatten(), b.flatten()).statistic for size, a, b in zip((12, 6), first, second, strict=False)
    )
    assert rank_correlation(first, second)[0, 0] == pytest.approx(expected / 18)
    flat = [torch.ones(1, 1, 3, 4)]
    assert np.isnan(rank_correlation(flat, first[:1])[0, 0])
    assert np.isnan(rank_correlation([first[0] * float("nan")], first[:1])[0, 0])


def test_a_refit_to_convergence_keeps_the_short_one_beside_it() -> None:
    once = sweep.run(case(strengths=(1e-3,), seeds=(0,), steps=60)).runs[0]
    more = sweep.run(case(strengths=(1e-3,), seeds=(0,), steps=60, refit_rounds=3, refit_tolerance=0.02)).runs[0]
    assert (once.short_test, once.rounds, once.converged) == ((), (), ())
    assert more.short_test == once.test and more.short_validation == once.validation, "the first round is the short refit"
    assert len(more.rounds) == len(more.converged) == 4 and set(more.rounds) <= {2, 3}
    assert all((rounds == 3) or done for rounds, done in zip(more.rounds, more.converged, strict=True))
    assert more.test[-1] is not None and more.short_test[-1] is not None and more.test[-1] < more.short_test[-1]


def test_structure_dead_inputs_and_formula_are_those_of_the_network_at_the_true_size() -> None:
    found = sweep.run(case(strengths=(1e-2, 10.0), seeds=(0,), steps=300, edge_counts=(3, 25), formulas=True)).runs
    assert found[0].exact_structure is not None and found[0].dead_inputs in (0.0, 0.5, 1.0)
    assert bool(found[0].formula) != bool(found[1].formula), "formulas are tried at the chosen strength alone"
    chosen = found[0] if found[0].formula else found[1]
    assert chosen.exact_structure or not any(chosen.formula.values()), "of another structure no formula is right"
    plain = sweep.run(case("wine", "none", strengths=(0.0,), seeds=(0,), steps=5, edge_counts=(3, 48))).runs[0]
    assert plain.dead_inputs is None and plain.formula == {}


def test_more_samples_other_widths_orders_and_depths_are_trained() -> None:
    chosen = tasks.get_task("exp_sin")
    for changes in ({"batch": 100}, {"layers": (4, 3, 1)}, {"layers": (4, 5, 5, 1)}, {"grid_size": 3}, {"spline_order": 2}):
        point = Point(**{"batch": chosen.sizes.train, "layers": chosen.layers, "grid_size": 5} | changes)
        edges = sum(i * o for i, o in zip(point.layers, point.layers[1:], strict=False))
        one = case(strengths=(1e-3,), seeds=(0,), steps=5, refit_steps=2, edge_counts=(3, edges))
        (run,) = sweep.run(one.model_copy(update={"point": point})).runs
        assert not run.diverged and run.test[-1] is not None


def test_lbfgs_trains_with_grid_updates_and_is_pruned_and_refitted_on_its_own_knots() -> None:
    one = case(strengths=(1e-4, 1e-2), seeds=(0, 1), steps=6, refit_steps=5, optimiser="lbfgs", edge_counts=(3, 25))
    found = sweep.run(one).runs
    assert [(run.seed, run.strength) for run in found] == [(0, 1e-4), (0, 1e-2), (1, 1e-4), (1, 1e-2)]
    assert all(run.test_error is not None and run.test_error < 0.3 for run in found if run.strength == 1e-4)
    assert found[0].test != found[2].test
    state = torch.random.get_rng_state()
    sweep.run(one.model_copy(update={"sweep": one.sweep.model_copy(update={"seeds": (0,), "steps": 1})}))  # type: ignore[union-attr]
    assert torch.equal(torch.random.get_rng_state(), state), "pykan's optimiser seeds torch, and must not ours"
