"""Two processes of gloo train one network: as one process would on all samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from efficient_kan import KAN, SampleL1, SampleStd, WeightL1, _distributed, train
from efficient_kan.training.ranks import Ranks

RANKS = 2


def network(seed: int = 0) -> KAN:
    return KAN([2, 3, 1], kernel="native", dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def samples(rank: int | None, count: int = 100) -> tuple[Tensor, Tensor]:
    """Of one rank, or of all."""
    if rank is None:
        x, y = zip(*(samples(n, count) for n in range(RANKS)), strict=True)
        return torch.cat(x), torch.cat(y)
    x = (1 + rank) * (2 * torch.rand(count, 2, generator=torch.Generator().manual_seed(rank), dtype=torch.float64) - 1)
    return x, torch.sin(x[:, :1]) + x[:, 1:] ** 2


class Uneven(nn.Module):
    """A part that gets no gradient at all, as an expert that no sample of a rank asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.kan, self.extra = network(), nn.Linear(2, 1, dtype=torch.float64)
        nn.init.ones_(self.extra.weight)
        nn.init.zeros_(self.extra.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.kan(x)
        return y + self.extra(x) if float(x.detach().abs().max()) > 1 else y


class Normalized(nn.Module):
    """With running statistics, which each rank has of its own samples."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize, self.kan = nn.BatchNorm1d(2, dtype=torch.float64), network()
        self.register_buffer("constants", torch.ones(1, dtype=torch.float64).expand(3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.kan(self.normalize(x))
        return y


def strided(kan: KAN) -> KAN:
    """The same numbers, outputs last in memory."""
    for layer in kan.kan_layers:
        layer.spline_weight.data = layer.spline_weight.data.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return kan


def cases(rank: int | None, alone: Any = None) -> dict[str, Callable[[], Any]]:
    """``rank`` is None in the one process that holds all samples."""
    data = samples(rank)

    def of(kan: nn.Module, **options: Any) -> tuple[list[Tensor], list[float], str]:
        trained = train(kan, options.pop("data", data), **options)
        tensors = [tensor.detach().clone() for tensor in (*trained.network.parameters(), *trained.network.buffers())]
        return tensors, [record.validation_loss or record.train_loss for record in trained.history], trained.ended

    def wrapped(kan: nn.Module) -> nn.Module:
        return kan if rank is None else DistributedDataParallel(kan)

    def ends(net: nn.Module, record: Any) -> bool:
        return rank == 1 and record.step == 2

    loader = DataLoader(TensorDataset(*data), 50)
    return {
        "adam": lambda: of(network(), steps=20),
        "lbfgs": lambda: of(network(), steps=3, optimizer="lbfgs"),
        "weights": lambda: of(network(), steps=20, penalty=WeightL1(), penalty_weight=1e-2),
        "DDP": lambda: of(wrapped(network()), steps=20),
        "grids": lambda: of(network(), steps=20, update_grid_every=5, update_grid_until=11, refine={15: 8}),
        "patience": lambda: of(network(), steps=100, lr=0.3, validation=data, patience=3),
        "uneven": lambda: of(Uneven(), steps=20),
        "callback": lambda: of(network(), steps=20, callbacks=[ends]),
        "penalty": lambda: of(network(), steps=5, penalty=SampleL1(), penalty_weight=1e-2),
        "loader": lambda: of(
            network(),
            data=loader
            if rank is None
            else DataLoader(TensorDataset(*samples(None)), 25, sampler=DistributedSampler(TensorDataset(*samples(None)))),
            epochs=2,
        ),
        "alone": lambda: of(network(rank or 0), steps=5 + (rank or 0), group=None),
        "own group": lambda: of(network(rank or 0), steps=5, group=alone),
        "networks": lambda: of(network(rank or 0), steps=5),
        "strided": lambda: of(strided(network()), steps=20),
        "own sizes": lambda: of(
            network(),
            data=samples(rank, 100 + (rank or 0)),
            steps=4,
            update_grid_every=2,
            grid_samples=100 + (rank or 0),
            penalty=WeightL1(),
            penalty_weight=1 if rank else 1.0,
            lr=np.float64(0.01) if rank else 0.01,
        ),
        "statistics": lambda: of(Normalized(), steps=5),
        "lr": lambda: of(network(), steps=5, lr=0.01 * (1 + (rank or 0))),
        "refine": lambda: of(network(), steps=5, refine={} if rank else {2: 8}),
        "penalties": lambda: of(network(), steps=5, penalty=SampleStd(entropy=float(rank or 0)), penalty_weight=0.1),
        "diverged": lambda: of(network(), steps=200, lr=1e6, optimizer=torch.optim.SGD, callbacks=[ends] if rank == 0 else []),
        "lengths": lambda: of(network(), data=samples(rank, 50 + 50 * (rank or 0)), epochs=2, batch_size=25),
        "DDP refined": lambda: of(wrapped(network()), steps=5, refine={2: 8}),
    }


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    patience = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS, timeout=patience)
    groups = [dist.new_group([n]) for n in range(RANKS)]
    results: dict[str, Any] = {}
    for name, case in cases(rank, groups[rank]).items():
        try:
            results[name] = case()
        except (ValueError, FloatingPointError) as error:
            results[name] = str(error)
        dist.barrier()  # a rank that went its own way stops the run here
    torch.save(results, f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of each rank: what was trained, or the message of a ValueError."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.start_processes(work, (str(folder),), nprocs=RANKS, start_method="spawn")
    return [torch.load(folder / str(rank)) for rank in range(RANKS)]


@pytest.mark.parametrize("name", ["adam", "strided", "lbfgs", "weights", "DDP", "grids", "patience"])
def test_equal_parts_train_as_the_whole(results: list[dict[str, Any]], name: str) -> None:
    """The mean of two means is the mean: to rounding."""
    (ours, losses, ended), (other, *_) = (rank[name] for rank in results)
    assert all(torch.equal(*pair) for pair in zip(ours, other, strict=True))
    expected, theirs, end = cases(None)[name]()
    assert ended == end and losses == pytest.approx(theirs, rel=1e-6)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    if name == "patience":
        assert ended == "patience"


@pytest.mark.parametrize("name", ["uneven", "callback", "penalty", "loader", "statistics", "own sizes"])
def test_ranks_stay_together(results: list[dict[str, Any]], name: str) -> None:
    (ours, losses, ended), (other, *_) = (rank[name] for rank in results)
    assert all(torch.equal(*pair) for pair in zip(ours, other, strict=True))
    assert len(losses) == {"uneven": 20, "callback": 3, "penalty": 5, "loader": 8, "statistics": 5, "own sizes": 4}[name]
    assert ended == ("callback" if name == "callback" else "steps")


def test_ranks_of_no_common_group_train_their_own(results: list[dict[str, Any]]) -> None:
    for rank in range(RANKS):
        for name in ("alone", "own group"):
            expected, losses, _ = cases(rank)["alone" if name == "alone" else "own group"]()
            assert all(torch.equal(*pair) for pair in zip(results[rank][name][0], expected, strict=True))
            assert results[rank][name][1] == losses


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("networks", _distributed.GROUP_HELP),
        ("lengths", "group: expected the same arguments on all ranks, got different ones (rank 0: steps=4; rank 1: steps="),
        ("lr", "group: expected the same arguments on all ranks, got different ones (rank 0: lr=0.01; rank 1: lr=0.02)"),
        (
            "refine",
            "group: expected the same arguments on all ranks, got different ones (rank 0: refine={2: 8}; rank 1: refine={})",
        ),
        ("penalties", "group: expected the same arguments on all ranks, got different ones (rank 0: penalty=SampleStd("),
        ("diverged", "train: diverged at step "),
        ("DDP refined", "refine: expected None with a DistributedDataParallel: pass its .module"),
    ],
)
def test_what_ranks_do_not_share_is_refused_on_all(results: list[dict[str, Any]], name: str, message: str) -> None:
    for rank in results:
        assert isinstance(rank[name], str) and rank[name].startswith(message)


def test_what_ranks_send_is_where_the_network_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As nccl sends from GPUs alone."""
    sent: list[Tensor] = []
    monkeypatch.setattr(_distributed, "active", lambda group: True)
    monkeypatch.setattr(_distributed, "gathered", lambda prepare, state, group: sent.append(prepare()[0]))
    Ranks("world").check(network().to("meta"), {"steps": 1})
    assert [tensor.device.type for tensor in sent] == ["meta"]
