"""``train`` against loops written by hand, and what it promises beside."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from efficient_kan import KAN, KANConv2d, ResNetKAN, SampleL1, SampleStd, WeightL1, train
from efficient_kan.training import Record


def network(dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> KAN:
    return KAN([2, 4, 1], generator=torch.Generator().manual_seed(seed), kernel="native", dtype=dtype, **options)


def samples(count: int = 200, dtype: torch.dtype = torch.float32, seed: int = 1) -> tuple[Tensor, Tensor]:
    x = 2 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=dtype) - 1
    return x, torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def state(module: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in (*module.parameters(), *module.buffers())]


def same(a: nn.Module | list[Tensor], b: nn.Module | list[Tensor]) -> bool:
    first, second = (state(one) if isinstance(one, nn.Module) else one for one in (a, b))
    return len(first) == len(second) and all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=2e-2)


def cosine(step: int) -> float:
    return 2e-2 * (1 + math.cos(math.pi * step / 30)) / 2


@pytest.mark.parametrize("penalty", [None, SampleL1(), SampleStd(), WeightL1()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_adam_on_all_samples_is_the_plain_loop(penalty: Any, dtype: torch.dtype) -> None:
    x, y = samples(dtype=dtype)
    ours, theirs = network(dtype), network(dtype)
    optimizer = adam(theirs.parameters())
    losses, penalties = [], []
    for step in range(12):
        optimizer.param_groups[0]["lr"] = cosine(step)
        optimizer.zero_grad()
        output, value = (theirs(x), None) if penalty is None else theirs.forward_with_penalty(x, penalty)
        loss = nn.functional.mse_loss(output, y)
        (loss if value is None else loss + 1e-3 * value).backward()
        optimizer.step()
        losses.append(loss.item())
        penalties.append(None if value is None else value.item())
    trained = train(ours, (x, y), steps=12, optimizer=adam, lr=cosine, penalty=penalty, penalty_weight=penalty and 1e-3)
    assert trained.network is ours and trained.ended == "steps" and trained.best_step is None
    assert same(ours, theirs)
    assert [record.train_loss for record in trained.history] == losses
    assert [record.penalty for record in trained.history] == penalties
    assert [record.step for record in trained.history] == list(range(12))
    assert [record.learning_rate for record in trained.history] == [cosine(step) for step in range(12)]
    seconds = [record.seconds for record in trained.history]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert losses[-1] < 0.9 * losses[0], "the run must train, or equality shows little"


def test_the_default_adam_is_torchs() -> None:
    """In one operation, whose rounding is its own."""
    ours, theirs = network(torch.float64), network(torch.float64)
    data = samples(dtype=torch.float64)
    train(ours, data, steps=20)
    train(theirs, data, steps=20, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2))
    for a, b in zip(state(ours), state(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("penalty", [None, SampleStd()], ids=["plain", "penalised"])
def test_lbfgs_is_the_plain_loop_with_pykans_settings(penalty: Any) -> None:
    x, y = samples(60, torch.float64)
    ours, theirs = network(torch.float64), network(torch.float64)
    tolerances = {"tolerance_grad": 1e-32, "tolerance_change": 1e-32}
    optimizer = torch.optim.LBFGS(theirs.parameters(), lr=1, history_size=10, line_search_fn="strong_wolfe", **tolerances)
    last: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        output, value = (theirs(x), None) if penalty is None else theirs.forward_with_penalty(x, penalty)
        loss = nn.functional.mse_loss(output, y)
        last[:] = [loss.item()]
        total = loss if value is None else loss + 1e-3 * value
        total.backward()
        return total

    losses = []
    for step in range(4):
        if step in (0, 2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                theirs.update_grid(x, fit="samples")
        optimizer.step(closure)
        losses += last
    grids: Any = {"update_grid_every": 2, "grid_options": {"fit": "samples"}}
    trained = train(ours, (x, y), steps=4, optimizer="lbfgs", penalty=penalty, penalty_weight=penalty and 1e-3, **grids)
    assert [record.train_loss for record in trained.history] == losses
    assert same(ours, theirs)
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_lbfgs_survives_its_own_success(dtype: torch.dtype) -> None:
    """With pykan's tolerances it never stops by itself: more parameters than samples, hundreds of iterations at the bottom."""
    trained = train(KAN([2, 1], dtype=dtype, generator=seeded()), samples(6, dtype), steps=8, optimizer="lbfgs")
    assert trained.history[-1].train_loss < (1e-9 if dtype == torch.float32 else 1e-20)


def test_pykans_own_fit_is_followed() -> None:
    """With pykan's optimizer: ``MultKAN.fit`` of the tutorial, its penalty and its grid updates, as far as rounding allows."""
    kan = pytest.importorskip("kan")
    from kan.LBFGS import LBFGS

    from reference.pykan import contained

    data = samples(100, torch.float64)
    torch.set_default_dtype(torch.float64)
    try:
        with contained():
            model = kan.KAN(width=[2, 3, 1], grid=3, k=3, seed=0, auto_save=False)
            ours = KAN.from_pykan(model)
            dataset = dict(zip(("train_input", "train_label", "test_input", "test_label"), (*data, *data), strict=True))
            found = model.fit(dataset, opt="LBFGS", steps=3, lamb=1e-3, grid_update_num=3, stop_grid_update_step=3)
    finally:
        torch.set_default_dtype(torch.float32)
    tolerances = dict.fromkeys(("tolerance_grad", "tolerance_change", "tolerance_ys"), 1e-32)
    trained = train(
        ours,
        data,
        steps=3,
        optimizer=lambda p: LBFGS(list(p), lr=1, history_size=10, line_search_fn="strong_wolfe", **tolerances),
        penalty=SampleStd(),
        penalty_weight=1e-3,
        update_grid_every=1,
        grid_options={"fit": "samples"},
        validation=data,
    )
    losses = torch.tensor([record.train_loss for record in trained.history], dtype=torch.float64).sqrt()
    theirs = torch.tensor([float(value) for value in found["train_loss"]], dtype=torch.float64)
    torch.testing.assert_close(losses[:2], theirs[:2], rtol=1e-6, atol=0)
    # Each step is twenty iterations with line searches, which amplify the rounding of the steps before: pykan parts from itself
    # likewise when its samples are reordered (test_training_runs.py).
    torch.testing.assert_close(losses, theirs, rtol=1e-2, atol=0)


class Counted(nn.Module):
    """Counts forward passes."""

    def __init__(self, kan: KAN) -> None:
        super().__init__()
        self.kan, self.plain, self.penalised = kan, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.plain += 1
        return self.kan(x)

    def forward_with_penalty(self, x: Tensor, penalty: Any) -> tuple[Tensor, Tensor]:
        self.penalised += 1
        return self.kan.forward_with_penalty(x, penalty)


def test_one_forward_pass_an_evaluation_and_no_penalty_where_its_weight_is_zero() -> None:
    counted = Counted(network())
    weights = [0.0, 0.0, 1e-3, 0.0]
    trained = train(counted, samples(), steps=4, penalty=SampleL1(), penalty_weight=lambda step: weights[step])
    assert (counted.plain, counted.penalised) == (3, 1)
    assert [record.penalty is None for record in trained.history] == [True, True, False, True]
    counted = Counted(network())
    evaluations: list[int] = []
    train(
        counted,
        samples(),
        steps=2,
        optimizer=lambda p: torch.optim.LBFGS(p, max_iter=3),
        penalty=SampleL1(),
        callbacks=[lambda net, record: evaluations.append(counted.penalised)],
    )
    assert counted.plain == 0 and evaluations[0] >= 3 and evaluations[1] == counted.penalised


def test_batches_follow_the_generator() -> None:
    data = samples()
    kans = [network() for _ in range(3)]
    for kan, seed in zip(kans, (3, 3, 4), strict=True):
        train(kan, data, epochs=3, batch_size=64, generator=seeded(seed))
    assert same(kans[0], kans[1]) and not same(kans[0], kans[2])
    global_state = torch.get_rng_state()
    train(network(), data, epochs=1, batch_size=64, generator=seeded())
    assert torch.equal(global_state, torch.get_rng_state())
    torch.manual_seed(5)
    train(kans[0], data, epochs=1, batch_size=64)
    assert not torch.equal(global_state, torch.get_rng_state()), "without a generator torch's own is used"


# Schedules


class Scheduled(KAN):
    """Notes when its grids are changed, and by how many samples."""

    calls: list[tuple[str, int]]

    def update_grid(self, x: Tensor, *args: Any, **options: Any) -> None:
        self.calls.append(("update", len(x)))
        super().update_grid(x, *args, **options)

    def refine(self, grid_size: int, x: Tensor, **options: Any) -> KAN:
        self.calls.append((f"refine {grid_size}", len(x)))
        return super().refine(grid_size, x, **options)


def scheduled() -> Scheduled:
    kan = Scheduled([2, 3, 1], generator=seeded(0), kernel="native")
    kan.calls = []
    return kan


def when(kan: Scheduled, **options: Any) -> list[tuple[int, list[tuple[str, int]]]]:
    """The steps before which grids changed."""
    found = []

    def note(net: Any, record: Record) -> None:
        found.append((record.step, list(net.calls)))
        net.calls.clear()

    train(kan, samples(), callbacks=[note], **options)
    return [(step, calls) for step, calls in found if calls]


def test_grids_are_updated_when_asked() -> None:
    assert when(scheduled(), steps=8, update_grid_every=3) == [(s, [("update", 200)]) for s in (0, 3, 6)]
    assert when(scheduled(), steps=8, update_grid_every=3, update_grid_until=6) == [(s, [("update", 200)]) for s in (0, 3)]
    assert when(scheduled(), steps=4, update_grid_every=2, grid_samples=100) == [(s, [("update", 100)]) for s in (0, 2)]
    assert when(scheduled(), steps=4) == []


def test_refined_networks_take_over() -> None:
    kan = scheduled()
    before, counts = None, []

    def look(net: nn.Module, record: Record) -> None:
        nonlocal before
        counts.append((net.grid_size, net is kan))
        if record.step == 3:
            before = state(kan)

    data = samples(dtype=torch.float32)
    trained = train(kan, data, steps=12, refine={4: 8, 8: 20}, update_grid_every=8, callbacks=[look])
    assert counts == [(5, True)] * 4 + [(8, False)] * 4 + [(20, False)] * 4
    assert trained.network is not kan and trained.network.grid_size == 20
    assert before is not None and same(kan, before), "the network passed in stays as it was"
    losses = [record.train_loss for record in trained.history]
    assert losses[-1] < losses[4] < losses[0]
    refined = network(torch.float64)
    x, y = samples(dtype=torch.float64)
    history = train(refined, (x, y), steps=6, refine={3: 10}, lr=1e-3).history
    twin = train(network(torch.float64), (x, y), steps=4, lr=1e-3).history
    assert history[3].train_loss == pytest.approx(twin[3].train_loss, rel=1e-10), "refining keeps the function"


def test_refining_serves_lbfgs_and_follows_a_rate() -> None:
    data = samples(150, torch.float64)
    kan = KAN([2, 3, 1], 3, generator=seeded(0), kernel="native", dtype=torch.float64)
    trained = train(kan, data, steps=6, optimizer="lbfgs", refine={2: 6, 4: 12}, lr=lambda step: 1.0 if step else 0.5)
    assert trained.network.grid_size == 12
    assert trained.history[-1].train_loss < 0.5 * trained.history[1].train_loss
    assert [record.learning_rate for record in trained.history] == [0.5] + [1.0] * 5


def test_notes_of_grid_updates_enter_the_history_and_other_warnings_pass() -> None:
    kan = network()
    x, y = samples()
    trained = train(kan, (3 * x, y), steps=4, update_grid_every=2)
    assert trained.history[0].note.startswith("update_grid: the function changed: output 0")
    assert trained.history[1].note == ""
    shrunk = train(network(), (x, y), steps=3, refine={2: 2})
    assert shrunk.history[2].note.startswith("refine: the function changed")

    class Warns(Scheduled):
        def update_grid(self, x: Tensor, *args: Any, **options: Any) -> None:
            warnings.warn("something else", DeprecationWarning, stacklevel=2)

    with pytest.warns(DeprecationWarning, match="something else"):
        train(Warns([2, 1]), (x, y), steps=1, update_grid_every=1)


def test_too_few_samples_for_a_schedule_are_refused() -> None:
    """``update_grid`` alone warns and leaves such grids; a schedule would warn of nothing but doing nothing."""
    with pytest.raises(ValueError, match=r"^update_grid_every: expected at least 96 samples to place knots by, got 50"):
        train(network(), samples(50), steps=1, update_grid_every=1)
    trained = train(network(), samples(50), steps=1, update_grid_every=1, grid_options={"fit": "samples"})
    assert "update_grid" in trained.history[0].note


def test_a_schedule_that_will_have_too_few_samples_is_refused_before_the_first_step() -> None:
    schedule: dict[str, Any] = {"update_grid_every": 10, "update_grid_until": 25}
    steps: list[int] = []
    for refine, refused in (({12: 20}, 12), ({5: 8, 20: 20}, None), ({20: 20}, None), ({5: 20, 8: 8}, None), ({0: 20}, 0)):
        options: dict[str, Any] = {"refine": refine, "callbacks": [lambda _, record: steps.append(record.step)], **schedule}
        if refused is None:
            train(network(), samples(), steps=30, **options)
        else:
            with pytest.raises(ValueError, match=rf"^refine\[{refused}\]: expected a size that 200 samples .*276 are needed"):
                train(network(), samples(), steps=30, **options)
            assert not steps
        steps.clear()
    train(network(), samples(), steps=15, refine={12: 20}, **schedule)
    train(network(), samples(), steps=15, refine={5: 20}, grid_options={"fit": "samples"}, **schedule)
    train(WithoutLayers(), samples(), steps=15, refine={5: 20}, **schedule)


class WithoutLayers(nn.Linear):
    """Whose grids are its own business."""

    def __init__(self) -> None:
        super().__init__(2, 1)

    def update_grid(self, x: Tensor, fit: str = "function") -> None:
        pass

    def refine(self, grid_size: int, x: Tensor, fit: str = "function") -> WithoutLayers:
        return self


# Validation


def test_samples_of_a_schedule_are_counted_as_the_network_counts_them() -> None:
    """Patches of a convolution, and all leading dimensions of a KAN's."""
    conv = KANConv2d(1, 2, 3, generator=seeded())
    knots = conv.kan_layers[0].grid.clone()
    images = 3 * torch.rand(10, 1, 8, 8, generator=seeded())
    train(conv, (images, torch.zeros(10, 2, 6, 6)), steps=1, update_grid_every=1)
    assert not torch.equal(conv.kan_layers[0].grid, knots)
    with pytest.raises(ValueError, match="update_grid_every: expected at least 96 samples to place knots by, got 36"):
        train(conv, (images[:1], torch.zeros(1, 2, 6, 6)), steps=1, update_grid_every=1)
    kan = network()
    knots = kan.kan_layers[0].grid.clone()
    train(kan, (3 * torch.rand(2, 10, 10, 2, generator=seeded()), torch.zeros(2, 10, 10, 1)), steps=1, update_grid_every=1)
    assert not torch.equal(kan.kan_layers[0].grid, knots)


def test_the_weights_of_the_lowest_validation_loss_come_back() -> None:
    x, y = samples(40)
    held_out = samples(40, seed=2)
    kept: dict[int, list[Tensor]] = {}
    kan = network()

    def keep(net: nn.Module, record: Record) -> None:
        kept[record.step] = state(net)

    options: Any = {"steps": 400, "lr": 0.2, "validation": held_out, "callbacks": [keep]}
    trained = train(kan, (x, y), patience=15, **options)
    losses = [record.validation_loss for record in trained.history]
    assert all(loss is not None for loss in losses)
    best = min(range(len(losses)), key=lambda step: losses[step] or 0.0)
    assert trained.ended == "patience" and trained.best_step == best and len(losses) == best + 16 < 400
    assert same(kan, kept[best]) and not same(kept[best], kept[len(losses) - 1])
    assert nn.functional.mse_loss(kan(held_out[0]), held_out[1]).item() == losses[best]
    observed = train(kan := network(), (x, y), **{**options, "steps": len(losses)})
    assert same(kan, kept[len(losses) - 1]) and observed.ended == "steps", "without patience validation only observes"
    assert observed.best_step == best
    to_the_end = train(kan := network(), (x, y), patience=1000, **{**options, "steps": len(losses)})
    assert to_the_end.ended == "steps" and same(kan, kept[best])


def test_min_delta_and_validate_every() -> None:
    data = samples()
    trained = train(network(), data, steps=9, validation=data, validate_every=4)
    validated = [record.validation_loss is not None for record in trained.history]
    assert validated == [step in (3, 7, 8) for step in range(9)], "and after the last step"
    strict = train(network(), data, steps=100, validation=data, validate_every=2, patience=3, min_delta=1e3)
    assert strict.ended == "patience" and len(strict.history) == 8, "the first is lower than none, three are not lower enough"
    assert strict.best_step == 7, "the weights are those of the lowest loss all the same"
    epochs = train(network(), data, epochs=3, batch_size=50, validation=data)
    assert [r.step for r in epochs.history if r.validation_loss is not None] == [3, 7, 11]
    assert [r.epoch for r in epochs.history] == [0] * 4 + [1] * 4 + [2] * 4


def test_the_best_network_may_be_one_before_refining() -> None:
    """Planted: validation losses that rise from the step at which the network is refined."""
    x, y = samples()
    planted = iter([3.0, 2.0, 1.0, 5.0, 6.0, 7.0])

    def loss(output: Tensor, target: Tensor) -> Tensor:
        true = nn.functional.mse_loss(output, target)
        return true if torch.is_grad_enabled() else true * 0 + next(planted)

    kan = network()
    trained = train(kan, (x, y), steps=6, refine={3: 9}, loss=loss, validation=(x, y), patience=10)
    assert trained.best_step == 2 and trained.network is kan
    assert same(kan, train(network(), (x, y), steps=3).network)


class WithDropout(nn.Module):
    """Asserts the mode that it is called in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout, self.kan = nn.BatchNorm1d(2), nn.Dropout(0.5), network()
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append((self.training, self.norm.training))
        return self.kan(self.dropout(self.norm(x)))


def test_modes_are_respected_and_restored() -> None:
    data = samples()
    module = WithDropout().eval()
    train(module, data, steps=1, validation=data)
    assert module.modes == [(True, True), (False, False)] and not any(m.training for m in module.modules())
    frozen = WithDropout()
    frozen.norm.eval()
    train(frozen, data, steps=2, validation=data)
    assert frozen.modes == [(True, False), (False, False)] * 2
    assert frozen.training and not frozen.norm.training
    assert not train(network().eval(), data, steps=2, refine={1: 6}).network.training


# Losses and weights of samples


LOSSES: dict[str, tuple[Callable[[], Any], Callable[[Tensor], Tensor]]] = {
    "default": (lambda: None, lambda y: y),
    "MSE": (nn.MSELoss, lambda y: y),
    "sum": (lambda: nn.MSELoss(reduction="sum"), lambda y: y),
    "Huber": (nn.HuberLoss, lambda y: y),
    "cross-entropy": (nn.CrossEntropyLoss, lambda y: (y[:, 0] > 1).long() + (y[:, 0] > 2)),
    "classes of unequal weight": (
        lambda: nn.CrossEntropyLoss(torch.tensor([1.0, 10.0, 0.5], dtype=torch.float64), label_smoothing=0.1),
        lambda y: (y[:, 0] > 1).long() + (y[:, 0] > 2),
    ),
    "an ignored class": (lambda: nn.CrossEntropyLoss(ignore_index=1), lambda y: (y[:, 0] > 1).long() + (y[:, 0] > 2)),
    "probabilities": (nn.CrossEntropyLoss, lambda y: torch.cat([y, y.square(), 1 / y], 1).softmax(1)),
    "mean of batches": (lambda: nn.KLDivLoss(reduction="batchmean"), lambda y: torch.cat([y, y.square()], 1).softmax(1)),
    "two outputs": (nn.L1Loss, lambda y: torch.cat([y, y.square()], 1)),
    "function": (lambda: lambda output, y: (output - y).square(), lambda y: y),
}


@pytest.mark.parametrize("name", LOSSES)
def test_weights_are_repetitions(name: str) -> None:
    make, target = LOSSES[name]
    x, y = samples(60, torch.float64)
    y = target(y)
    outputs = 2 if name in ("two outputs", "mean of batches") else 1 if y.shape == (60, 1) else 3
    counts = torch.randint(0, 4, (60,), generator=seeded())

    def of(*, data: Any, **options: Any) -> tuple[KAN, list[float]]:
        kan = KAN([2, 3, outputs], generator=seeded(0), dtype=torch.float64, kernel="native")
        # Of a sum the gradient is as large as the samples are many.
        trained = train(kan, data, steps=20, optimizer=lambda p: torch.optim.SGD(p, lr=1e-3), loss=make(), **options)
        return kan, [record.train_loss for record in trained.history]

    weighted, losses = of(data=(x, y), sample_weight=counts.double())
    third, _ = of(data=(x, y, counts))
    assert same(weighted, third)
    if name == "function":  # which returns the losses of samples
        make = nn.MSELoss
    repeated, expected = of(data=(x.repeat_interleave(counts, 0), y.repeat_interleave(counts, 0)))
    assert losses == pytest.approx(expected, rel=1e-12)
    for a, b in zip(state(weighted), state(repeated), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_a_batch_of_weight_zero_teaches_nothing() -> None:
    x, y = samples(4)
    kan = network()
    before = state(kan)
    train(kan, [x, y, torch.tensor([0.0, 0.0, 0.0, 1.0])], steps=1, batch_size=1, generator=seeded(0))
    order = torch.randperm(4, generator=seeded(0))
    assert same(kan, before) == (int(order[0]) != 3)


def test_weights_count_in_validation_and_parts_of_it_add_up() -> None:
    x, y = samples(90)
    weight = torch.rand(90, generator=seeded())
    trained = train(kan := network(), (x, y), steps=1, validation=(x, y, weight))
    expected = ((kan(x) - y).square()[:, 0] * weight).sum() / weight.sum()
    assert trained.history[0].validation_loss == pytest.approx(expected.item(), rel=1e-5)
    trained = train(kan := network(), (x, y), steps=1, batch_size=40, validation=(x, y), validate_every=1)
    assert trained.history[0].validation_loss == pytest.approx((kan(x) - y).square().mean().item(), rel=1e-5)
    trained = train(kan := network(), (x, y), steps=1, batch_size=40, loss=nn.MSELoss(reduction="sum"), validation=(x, y))
    assert trained.history[0].validation_loss == pytest.approx((kan(x) - y).square().sum().item(), rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_parts_of_a_validation_add_up_where_classes_count_unequally(weighted: bool) -> None:
    """Also where all targets of a part are ignored."""
    x, y = samples(90)
    target, weight = (y[:, 0] > 1).long(), torch.rand(90, generator=seeded())
    target[:30] = -100
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 10.0]))
    data = (x, target, weight) if weighted else (x, target)
    kan = KAN([2, 2], kernel="native", generator=seeded())
    trained = train(kan, (x, target), steps=1, batch_size=30, loss=loss, validation=data)
    each = nn.CrossEntropyLoss(torch.tensor([1.0, 10.0]), reduction="none")(kan(x), target)
    counts = (target >= 0) * torch.where(target == 1, 10.0, 1.0) * (weight if weighted else 1.0)
    expected = (each * (weight if weighted else 1.0)).sum() / counts.sum()
    assert trained.history[0].validation_loss == pytest.approx(expected.item(), rel=1e-5)


class Focal(nn.CrossEntropyLoss):
    """A loss of classes that divides by the number of samples."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        each = nn.functional.cross_entropy(output, target, self.weight, reduction="none")
        each = (1 - (-each).exp()) ** 2 * each
        return each if self.reduction == "none" else each.mean()


def test_losses_of_classes_are_known_by_what_they_compute() -> None:
    x, y = samples(40)
    target = (y[:, 0] > 1).long()
    loss = Focal(torch.tensor([1.0, 10.0]))
    kan = KAN([2, 2], kernel="native", generator=seeded())
    trained = train(kan, (x, target), steps=1, batch_size=20, loss=loss, validation=(x, target))
    assert trained.history[0].validation_loss == pytest.approx(loss(kan(x), target).item(), rel=1e-5)
    bytes_ = target.to(torch.uint8)
    for weight in (None, torch.ones(40)):
        train(kan, (x, bytes_), steps=1, loss=nn.CrossEntropyLoss(torch.ones(2)), validation=(x, bytes_), sample_weight=weight)


def test_a_validation_without_a_target_that_counts_is_an_error() -> None:
    x, y = samples(40)
    data, ignored = (x, (y[:, 0] > 1).long()), (x, torch.full((40,), -100))
    with pytest.raises(FloatingPointError, match=r"^train: the validation loss after step 0 is nan"):
        train(KAN([2, 2]), data, steps=1, loss=nn.CrossEntropyLoss(), validation=ignored)


# Callbacks, progress, other networks and dtypes


def test_a_callback_ends_the_training() -> None:
    seen: list[Record] = []
    trained = train(
        network(),
        samples(),
        steps=50,
        callbacks=[lambda net, record: seen.append(record), lambda net, record: record.step == 6],
    )
    assert trained.ended == "callback" and len(trained.history) == 7
    assert seen == trained.history


@pytest.mark.parametrize("kind", [bool, np.bool_, torch.tensor], ids=["bool", "numpy", "torch"])
def test_any_kind_of_true_ends_the_training_and_false_does_not(kind: Any) -> None:
    trained = train(network(), samples(), steps=9, callbacks=(lambda net, record: kind(record.step == 2) for _ in range(1)))
    assert trained.ended == "callback" and len(trained.history) == 3


def test_an_early_stop_before_a_refinement_is_no_error() -> None:
    trained = train(network(), samples(), steps=9, refine={5: 8}, callbacks=[lambda net, record: record.step == 2])
    assert trained.ended == "callback" and trained.network.grid_size == 5


def test_grid_options_are_those_of_the_networks_own_method() -> None:
    class Own(KAN):
        def update_grid(self, x: Tensor, *, strength: float, group: Any = None) -> None:  # type: ignore[override]
            self.strength = strength

    own = train(Own([2, 1]), samples(), steps=1, update_grid_every=1, grid_options={"strength": 2.0}).network
    assert own.strength == 2
    with pytest.raises(ValueError, match=r"^grid_options: expected some of \['strength'\], got \['margin'\]"):
        train(own, samples(), steps=1, update_grid_every=1, grid_options={"margin": 0.1})


@pytest.mark.parametrize("answer", [1, "stop", np.array([True, False]), torch.ones(2, dtype=torch.bool), math.nan], ids=str)
def test_what_is_no_bool_does_not_end_the_training(answer: Any) -> None:
    """A callback that writes to a file returns how much it wrote."""
    assert len(train(network(), samples(), steps=2, callbacks=[lambda net, record: answer]).history) == 2


def test_schedules_may_return_tensors_and_weights_of_zero_need_no_penalty() -> None:
    rates = torch.tensor([0.1, 0.0])
    trained = train(network(), samples(), steps=2, lr=lambda step: rates[step], penalty_weight=0.0, min_delta=0.0)
    assert [record.learning_rate for record in trained.history] == [pytest.approx(0.1), 0.0]


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_weights_of_any_usual_size_give_the_weighted_mean(size: float) -> None:
    plain, weighted = (
        train(network(), samples(), steps=3, sample_weight=torch.full((200,), each)).history[-1].train_loss
        for each in (1.0, size)
    )
    assert weighted == pytest.approx(plain, rel=1e-5)


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    train(network(), samples(), steps=50, progress=True, penalty=SampleL1(), penalty_weight=1e-4, validation=samples(20))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 11
    assert lines[0].startswith("step 1/50, loss ") and lines[-1].startswith("step 50/50, loss ")
    assert "penalty" in lines[0] and "validation" in lines[0]
    train(network(), samples(), steps=2)
    assert capsys.readouterr().err == ""


def test_a_network_with_a_kan_inside() -> None:
    images = torch.rand(120, 1, 8, 8, generator=seeded())
    labels = (images.mean((1, 2, 3)) > 0.5).long()
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5))
    model = ResNetKAN(num_classes=2, hidden=(4,), backbone=backbone, features=5, kernel="native", generator=seeded(0))
    options: Any = {"penalty": SampleL1(), "penalty_weight": 1e-4, "update_grid_every": 2, "grid_samples": 120}
    trained = train(model, (images, labels), epochs=2, batch_size=60, loss=nn.CrossEntropyLoss(), **options)
    assert len(trained.history) == 4 and all(record.penalty for record in trained.history)


def test_autocast_and_devices_without_float64() -> None:
    class No64(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            assert getattr(result, "dtype", None) != torch.float64, func
            return result

    data, kan = samples(), network()
    with No64():
        train(kan, data, epochs=2, batch_size=50, validation=data, patience=1, sample_weight=torch.rand(200))
    with torch.autocast("cpu", torch.bfloat16):
        trained = train(network(), data, steps=60, penalty=SampleL1(), penalty_weight=1e-4, update_grid_every=30)
    assert trained.history[-1].train_loss < trained.history[0].train_loss


def test_parameters_without_gradient_stay() -> None:
    kan = network()
    kan.kan_layers[0].requires_grad_(False)
    before, after = state(kan.kan_layers[0]), state(kan.kan_layers[1])
    train(kan, samples(), steps=3, optimizer="lbfgs")
    assert same(kan.kan_layers[0], before) and not same(kan.kan_layers[1], after)


def fused(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=2e-2, fused=True)


class Flat(torch.optim.SGD):
    """Views gradients as flat, as LBFGS of pykan does, which is no subclass of torch's."""

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data -= 0.01 * parameter.grad.view(-1).view_as(parameter)
        return loss


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", fused, Flat], ids=["adam", "lbfgs", "fused", "flat"])
def test_strided_parameters_train_as_others(optimizer: Any) -> None:
    kan, twin = network(torch.float64), network(torch.float64)
    for layer in kan.kan_layers:
        layer.spline_weight.data = layer.spline_weight.data.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert not kan.kan_layers[0].spline_weight.is_contiguous()
    data = samples(dtype=torch.float64)
    losses = [train(one, data, steps=3, optimizer=optimizer).history[-1].train_loss for one in (kan, twin)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for ours, theirs in zip(kan.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_adam_takes_views_of_other_tensors() -> None:
    """Such as slices, between whose numbers are others that must stay."""
    kan, twin = network(torch.float64), network(torch.float64)
    weight = kan.kan_layers[0].spline_weight
    whole = torch.full((*weight.shape[:2], 2 * weight.shape[2]), 7.0, dtype=torch.float64)
    whole[..., ::2] = weight.data
    weight.data = whole[..., ::2]
    for one in (kan, twin):
        train(one, samples(dtype=torch.float64), steps=3)
    torch.testing.assert_close(weight, twin.kan_layers[0].spline_weight, rtol=1e-9, atol=1e-12)
    assert bool((whole[..., 1::2] == 7).all())


def test_channels_last_trains_as_channels_first() -> None:
    images, labels = torch.randn(8, 3, 8, 8, generator=seeded(), dtype=torch.float64), torch.arange(8) % 3
    sizes: dict[str, Any] = {"stem": "small", "width": 1 / 16, "hidden": (4,), "dtype": torch.float64}
    nets = [ResNetKAN(18, 3, generator=seeded(), **sizes) for _ in range(2)]
    nets[1].to(memory_format=torch.channels_last)
    for net in nets:
        train(net, (images, labels), steps=3, loss=nn.CrossEntropyLoss())
    for first, last in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(first, last, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (nn.PoissonNLLLoss(), torch.ones(200)),
        (nn.KLDivLoss(reduction="batchmean"), torch.ones(200)),
        (nn.SoftMarginLoss(), torch.ones(200)),
        (nn.HingeEmbeddingLoss(), torch.ones(200)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_losses_that_would_broadcast_targets_are_refused_them(loss: Any, y: Tensor) -> None:
    x = samples()[0]
    with pytest.raises(ValueError, match=r"^y: expected the shape of the outputs \(200, 1\), got \(200,\); use y.unsq"):
        train(network(), (x, y), steps=1, loss=loss)
    assert math.isfinite(train(network(), (x, y.unsqueeze(1)), steps=1, loss=loss).history[0].train_loss)


def test_counts_may_be_whole_numbers() -> None:
    x, counts = samples()[0], torch.arange(200).unsqueeze(1) % 5
    trained = train(network(), (x, counts), steps=2, loss=nn.PoissonNLLLoss())
    expected = nn.PoissonNLLLoss()(network()(x), counts.float())
    assert trained.history[0].train_loss == pytest.approx(float(expected.detach()), rel=1e-6)


def test_divergence_is_said_with_its_step() -> None:
    with pytest.raises(FloatingPointError, match=r"^train: diverged at step \d+, the loss is (nan|inf)"):
        train(network(), samples(), steps=500, optimizer=torch.optim.SGD, lr=1e6)
    for schedule in ({"update_grid_every": 1}, {"update_grid_every": 2}, {"refine": {1: 8}}, {"refine": {3: 8}}):
        with pytest.raises(FloatingPointError, match=r"^train: diverged at step [01], "):
            train(network(), samples(), steps=20, lr=1e30, **schedule)

    def late(output: Tensor, y: Tensor) -> Tensor:
        return (output - y).square().mean() * (math.nan if not torch.is_grad_enabled() else 1.0)

    with pytest.raises(FloatingPointError, match=r"^train: the validation loss after step 0 is nan"):
        train(network(), samples(), steps=2, loss=late, validation=samples())


class NoClosure(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        return None


class NotAKAN(nn.Linear):
    pass


X, Y = samples()
BAD: list[tuple[dict[str, Any], str]] = [
    ({"steps": None}, r"steps, epochs: expected one of both, got \(None, None\)"),
    ({"epochs": 3}, r"steps, epochs: expected one of both, got \(2, 3\)"),
    ({"steps": 0}, "steps: expected an integer >= 1, got 0"),
    ({"steps": None, "epochs": 1.5}, "epochs: expected an integer >= 1, got 1.5"),
    ({"batch_size": 0}, "batch_size: expected an integer >= 1, got 0"),
    ({"optimizer": "sgd"}, "optimizer: expected 'adam', 'lbfgs' or a function .*, got 'sgd'"),
    ({"optimizer": torch.optim.SGD([torch.zeros(1)])}, "optimizer: expected 'adam', 'lbfgs' or a function"),
    ({"optimizer": NoClosure}, "optimizer: expected one whose step calls its closure"),
    ({"lr": -1.0}, r"lr: expected a finite number in \[0.0, inf\], got -1.0"),
    ({"lr": lambda step: None}, r"lr of step 0: expected a finite number in \[0.0, inf\], got None"),
    ({"lr": lambda step: math.nan, "optimizer": "lbfgs"}, "lr of step 0: expected a finite number .*, got nan"),
    ({"penalty": SampleL1(), "penalty_weight": lambda step: -1}, "penalty_weight of step 0: expected a finite number"),
    ({"penalty_weight": 0.1}, "penalty_weight: expected None or 0 without penalty, got 0.1"),
    ({"callbacks": print}, "callbacks: expected a sequence of functions"),
    ({"callbacks": [print, None]}, r"callbacks\[1\]: expected a function \(network, record\), got None"),
    ({"loss": nn.MSELoss}, "loss: expected a function"),
    ({"loss": nn.MSELoss(reduction="none")}, r"loss: expected a scalar \(reduction='mean'\), got torch.Size"),
    (
        {"loss": lambda output, y: (output - y).square().mean(), "sample_weight": torch.ones(200)},
        "loss: expected with sample w",
    ),
    ({"penalty": SampleL1}, "penalty: expected a WeightL1, SampleL1 or SampleStd object, or None"),
    ({"penalty": SampleL1(), "penalty_weight": -1}, "penalty_weight: expected a finite number"),
    ({"kan": NotAKAN(2, 1), "penalty": SampleL1()}, "penalty: expected None, as the network has no forward_with_penalty"),
    ({"kan": NotAKAN(2, 1), "update_grid_every": 1}, "update_grid_every: expected a network with a method update_grid"),
    ({"kan": NotAKAN(2, 1), "refine": {0: 3}}, "refine: expected a network with a method refine"),
    ({"kan": network().requires_grad_(False)}, "kan: expected a network with parameters that require a gradient"),
    ({"kan": "kan"}, "kan: expected a torch.nn.Module"),
    ({"update_grid_every": 0}, "update_grid_every: expected an integer >= 1"),
    ({"update_grid_until": 5}, "update_grid_until: expected None without update_grid_every, got 5"),
    ({"refine": [5]}, r"refine: expected a mapping \{step: grid_size\}"),
    ({"refine": {-1: 5}}, "refine: step: expected an integer >= 0, got -1"),
    ({"refine": {1: 0}}, r"refine\[1\]: expected an integer >= 1, got 0"),
    ({"refine": {1: 8, 2: 9, 50: 10}}, r"refine: expected steps below 2, as there are no more, got \[2, 50\]"),
    ({"refine": []}, r"refine: expected a mapping"),
    ({"grid_options": ()}, "grid_options: expected a mapping of keywords"),
    ({"grid_samples": 10}, "grid_samples: expected None without update_grid_every and refine, got 10"),
    ({"grid_options": {"fit": "samples"}}, "grid_options: expected None without update_grid_every and refine"),
    (
        {"update_grid_every": 1, "grid_options": {"nonsense": 1}},
        r"grid_options: expected some of \['fit', 'margin', 'max_change'\], got \['nonsense'\]",
    ),
    ({"refine": {1: 8}, "grid_options": {"margin": 0.1}}, r"grid_options: expected some of \['fit'\], got \['margin'\]"),
    ({"update_grid_every": 1, "grid_options": {"group": None}}, "grid_options: expected some of"),
    ({"update_grid_every": 1, "grid_samples": 50}, "grid_samples: expected at least 96 samples to place knots by, got 50"),
    ({"grid_samples": 0}, "grid_samples: expected an integer >= 1"),
    ({"grid_options": 3}, "grid_options: expected a mapping of keywords"),
    ({"patience": 3}, "patience: expected None without validation, got 3"),
    ({"validate_every": 3}, "validate_every: expected None without validation, got 3"),
    ({"validation": (X, Y), "patience": 0}, "patience: expected an integer >= 1"),
    ({"min_delta": 0.1}, "min_delta: expected None or 0 without patience, got 0.1"),
    ({"validation": (X, Y), "min_delta": 0.1}, "min_delta: expected None or 0 without patience, got 0.1"),
    ({"validation": (X, Y), "patience": 3, "min_delta": -1}, "min_delta: expected a finite number"),
    ({"validation": X}, "validation: expected tensors"),
    ({"progress": 2}, "progress: expected a bool, got 2"),
    ({"group": "wordl"}, "group: expected 'world', a torch.distributed.ProcessGroup or None"),
    ({"data": X}, r"data: expected tensors \(x, y\), a Dataset or a DataLoader, got <class 'torch.Tensor'>"),
    ({"data": (X,)}, r"data: expected tensors \(x, y\) or \(x, y, weight\)"),
    ({"data": (X, Y.numpy())}, "data: y: expected a tensor"),
    ({"data": (X, Y[:5])}, "data: y: expected 200 samples, as x, got 5"),
    ({"data": (X[:0], Y[:0])}, "data: expected at least 1 sample, got 0"),
    ({"data": (X, Y * math.nan)}, "data: y: expected finite values, got 200 NaN"),
    ({"data": (X, Y[:, 0])}, r"y: expected the shape of the outputs \(200, 1\), got \(200,\); use y.unsqueeze\(1\)"),
    (
        {"kan": KAN([2, 3]), "data": (X, torch.zeros(200, dtype=torch.long))},
        r"y: expected the shape of the outputs \(200, 3\), got \(200,\); for classes use loss=torch.nn.CrossEntropyLoss\(\)",
    ),
    ({"data": (X, Y.double())}, "y: expected the dtype of the outputs, torch.float32, got torch.float64; use y.to"),
    ({"data": (X.double(), Y)}, "x: expected dtype torch.float32"),
    ({"sample_weight": torch.ones(7)}, "data: weight: expected 200 samples, as x, got 7"),
    ({"sample_weight": torch.ones(200, 1)}, r"data: weight: expected shape \(N,\), got \(200, 1\)"),
    ({"sample_weight": -torch.ones(200)}, "data: weight: expected none negative and not all zero"),
    (
        {"sample_weight": torch.full((200,), 1e-33)},
        r"data: weight: expected a largest one in \[1e-31, 4e\+31\], which torch.float32",
    ),
    ({"sample_weight": torch.full((200,), 1e307, dtype=torch.float64)}, "data: weight: expected a largest one in .*got 1e"),
    ({"sample_weight": torch.full((200,), 1e-320, dtype=torch.float64)}, "data: weight: expected a largest one in"),
    ({"sample_weight": torch.zeros(200)}, "data: weight: expected none negative and not all zero"),
    ({"data": (X, Y, torch.ones(200)), "sample_weight": torch.ones(200)}, r"data: expected \(x, y\) beside sample_weight"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[f"{n}-{next(iter(o))}" for n, (o, _) in enumerate(BAD)])
def test_what_does_not_fit_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"kan": network(), "data": (X, Y), "steps": 2} | options
    kan = arguments.pop("kan")
    before = copy.deepcopy(kan)
    with pytest.raises(ValueError, match=f"^{message}"):
        train(kan, arguments.pop("data"), **arguments)
    if isinstance(kan, nn.Module):
        assert same(kan, before), "nothing was trained"
