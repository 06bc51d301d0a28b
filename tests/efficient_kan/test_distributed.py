"""What decides by samples is the same on all ranks: two processes of gloo, which run all cases at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from efficient_kan import KAN, KANConv2d, SampleL1, SampleStd, WeightL1, _distributed

RANKS = 2
THRESHOLD = 0.06  # between the importances that one edge has at the samples of one rank and of the other
UNUSUAL = {"0-dim": torch.tensor(1.0), "list": [[1.0, 2.0]], "None": None, "double": torch.zeros(5, 2).double()}


def network(seed: int = 0, **options: Any) -> KAN:
    kan = KAN([2, 4, 1], kernel="native", generator=torch.Generator().manual_seed(seed), **options)
    with torch.no_grad():
        for layer in kan.kan_layers:
            layer.spline_weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
    return kan


def shard(rank: int, count: int = 150) -> Tensor:
    """Of other ranges on other ranks, whose grids would differ."""
    return (2 + rank) * (2 * torch.rand(count + 50 * rank, 2, generator=torch.Generator().manual_seed(rank)) - 1)


def probe() -> Tensor:
    return 3 * (2 * torch.rand(40, 2, generator=torch.Generator().manual_seed(9)) - 1)


def whole() -> Tensor:
    return torch.cat([shard(rank) for rank in range(RANKS)])


def result(kan: KAN) -> list[Tensor]:
    tensors = [tensor for layer in kan.kan_layers for tensor in (*layer.parameters(), *layer.buffers())]
    return [tensor.detach().clone() for tensor in (*tensors, kan(probe()))]


def updated(x: Any, kan: KAN | None = None, **options: Any) -> list[Tensor]:
    kan = network() if kan is None else kan
    kan.update_grid(x, **options)
    return result(kan)


class LearnedSlope(nn.Module):
    """An activation with a parameter of no dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x


class WithPenalty(nn.Module):
    """As documented in ``KAN.forward_with_penalty``."""

    def __init__(self, kan: KAN, penalty: Any) -> None:
        super().__init__()
        self.kan, self.penalty = kan, penalty

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.kan.forward_with_penalty(x, self.penalty)


def strided(kan: KAN) -> KAN:
    """The same numbers, outputs last in memory."""
    for layer in kan.kan_layers:
        layer.spline_weight.data = layer.spline_weight.data.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        layer.grid = layer.grid.T.contiguous().T
    return kan


def through_ddp(rank: int) -> list[Tensor]:
    kan = network()
    ddp = DistributedDataParallel(kan)
    y = ddp(shard(rank), update_grid=True)
    y.square().mean().backward()
    return [*result(kan), *(p.grad for p in kan.parameters() if p.grad is not None)]


def inside_ddp(rank: int) -> list[Tensor]:
    ddp = DistributedDataParallel(network())
    ddp.module.update_grid(shard(rank))
    ddp(shard(rank)).square().mean().backward()
    return result(ddp.module)


def convolved(x: Tensor) -> list[Tensor]:
    conv = KANConv2d(1, 4, (1, 2), kernel="native", generator=torch.Generator().manual_seed(0))
    conv.update_grid(x.view(-1, 1, 1, 2), fit="samples")
    return [*(tensor.detach() for tensor in conv.state_dict().values()), conv(probe().view(-1, 1, 1, 2)).detach()]


def convolution_in_ddp(rank: int) -> list[Tensor]:
    ddp = DistributedDataParallel(KANConv2d(1, 4, (1, 2), kernel="native", generator=torch.Generator().manual_seed(rank)))
    ddp(shard(rank).view(-1, 1, 1, 2)).square().mean().backward()
    return [p.grad for p in ddp.parameters() if p.grad is not None]


def shrunk(x: Tensor, folder: str) -> list[Tensor]:
    """After a prune of all ranks; each writes and draws it for itself."""
    small, nodes = network().prune(x, 2 * THRESHOLD).shrink(inputs=False)
    small.save(folder)
    small.plot(x)
    return [*result(KAN.load(folder)), torch.tensor([len(row) for row in nodes])]


def penalised(rank: int, penalty: Any) -> list[Tensor]:
    kan = network()
    ddp = DistributedDataParallel(WithPenalty(kan, penalty))
    y, loss = ddp(shard(rank))
    (y.square().mean() + loss).backward()
    return [p.grad for p in kan.parameters() if p.grad is not None]


def with_nan(rank: int) -> Tensor:
    x = shard(rank)
    if rank == 1:
        x[3, 0] = float("nan")
    return x


def cases(rank: int, alone: Any, folder: str) -> dict[str, Callable[[], list[Tensor]]]:
    """``alone`` is a group of this rank only."""
    return {
        "function": lambda: updated(shard(rank)),
        "samples": lambda: updated(shard(rank), fit="samples"),
        "an empty shard": lambda: updated(whole() if rank == 1 else whole()[:0]),
        "no samples": lambda: updated(shard(rank)[:0]),
        "scalar parameters": lambda: updated(shard(rank), network(base_activation=LearnedSlope)),
        "strided": lambda: updated(shard(rank), strided(network())),
        "through DDP": lambda: through_ddp(rank),
        "inside DDP": lambda: inside_ddp(rank),
        "refine": lambda: result(network().refine(4, shard(rank))),
        "refine at samples": lambda: result(network().refine(9, shard(rank), fit="samples")),
        "importance": lambda: network().importance(shard(rank)),
        "prune": lambda: result(network().prune(shard(rank), THRESHOLD)),
        "convolution": lambda: convolved(shard(rank)),
        "convolution in DDP": lambda: convolution_in_ddp(rank),
        "shrink": lambda: shrunk(shard(rank), f"{folder}/kan"),
        "NaN": lambda: updated(with_nan(rank)),
        "NaN in prune": lambda: result(network().prune(with_nan(rank))),
        "features": lambda: updated(shard(rank)[:, : 2 - rank]),
        **{name: lambda x=x: updated(x if rank == 1 else shard(0)) for name, x in UNUSUAL.items()},  # type: ignore[misc]
        "margin": lambda: updated(shard(rank), margin=-float(rank)),
        "settings": lambda: updated(shard(rank), fit=("samples", "function")[rank]),
        "threshold": lambda: result(network().prune(shard(rank), 0.1 + rank)),
        "group": lambda: updated(shard(rank), group="wordl"),
        "networks": lambda: updated(shard(rank), network(rank)),
        "this rank alone": lambda: updated(shard(rank), network(rank), group=None),
        "alone": lambda: updated(shard(rank), network(rank), group=alone),
        "another's group": lambda: updated(shard(rank), group=alone if rank == 0 else dist.GroupMember.NON_GROUP_MEMBER),
        "SampleL1": lambda: penalised(rank, SampleL1()),
        "SampleStd": lambda: penalised(rank, SampleStd()),
        "WeightL1": lambda: penalised(rank, WeightL1()),
    }


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    patience = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS, timeout=patience)
    groups = [dist.new_group([n]) for n in range(RANKS)]
    results: dict[str, Any] = {}
    for name, case in cases(rank, groups[rank], folder).items():
        try:
            results[name] = case()
        except ValueError as error:
            results[name] = str(error)
        dist.barrier()  # a rank that went its own way stops the run here
    torch.save(results, f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of each rank: tensors, or the message of a ValueError."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.start_processes(work, (str(folder),), nprocs=RANKS, start_method="spawn")
    return [torch.load(folder / str(rank)) for rank in range(RANKS)]


def single(name: str) -> list[Tensor]:
    """The same by one process that holds all samples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of changed functions
        calls: dict[str, Callable[[], list[Tensor]]] = {
            "function": lambda: updated(whole()),
            "samples": lambda: updated(whole(), fit="samples"),
            "an empty shard": lambda: updated(whole()),
            "scalar parameters": lambda: updated(whole(), network(base_activation=LearnedSlope)),
            "strided": lambda: updated(whole(), strided(network())),
            "through DDP": lambda: updated(whole()),
            "inside DDP": lambda: updated(whole()),
            "refine": lambda: result(network().refine(4, whole())),
            "refine at samples": lambda: result(network().refine(9, whole(), fit="samples")),
            "importance": lambda: network().importance(whole()),
            "prune": lambda: result(network().prune(whole(), THRESHOLD)),
            "convolution": lambda: convolved(whole()),
        }
        return calls[name]()


TOGETHER = ["function", "samples", "an empty shard", "scalar parameters", "strided", "through DDP", "inside DDP"]
TOGETHER += ["refine", "refine at samples", "importance", "prune", "convolution"]


@pytest.mark.parametrize("name", TOGETHER)
def test_ranks_agree_bit_by_bit_and_with_one_process(results: list[dict[str, Any]], name: str) -> None:
    expected = single(name)
    for found in zip(*(rank[name] for rank in results), strict=True):
        assert torch.equal(*found)
    for ours, theirs in zip(results[0][name], expected, strict=False):  # gradients of shards follow
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert len(results[0][name]) >= len(expected)


def test_the_grids_move_and_ranks_alone_would_differ() -> None:
    """Else equality would say nothing."""
    before = result(network())
    assert not all(torch.equal(*pair) for pair in zip(before, single("function"), strict=True))
    alone = [network().importance(shard(rank))[0] > THRESHOLD for rank in range(RANKS)]
    assert not torch.equal(*alone)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no samples", "x: expected at least 1 sample, got "),
        ("NaN", "x: expected finite values, got 1 NaN or infinite of 700"),
        ("NaN in prune", "x: expected finite values, got 1 NaN or infinite of 700"),
        ("features", "x: expected shape (..., 2), got torch.Size([200, 1])"),
        ("0-dim", "x: expected shape (..., 2), got torch.Size([])"),
        ("list", "x: expected a floating-point tensor, got <class 'list'>; use torch.tensor(x"),
        ("None", "x: expected a floating-point tensor, got <class 'NoneType'>"),
        ("double", "x: expected dtype torch.float32 (that of the weights), got torch.float64"),
        ("margin", "margin: expected a finite number in [0.0, inf], got -1.0"),
        (
            "settings",
            "group: expected the same arguments on all ranks, got different ones (rank 0: ('samples', 0.0, 0.01); rank 1: ",
        ),
        ("threshold", "group: expected the same arguments on all ranks, got different ones (rank 0: (0.1,); rank 1: (1.1,))"),
        ("group", "group: expected 'world', a torch.distributed.ProcessGroup or None, got 'wordl'"),
        ("networks", _distributed.GROUP_HELP),
    ],
)
def test_what_is_wrong_on_one_rank_is_said_on_all(results: list[dict[str, Any]], name: str, message: str) -> None:
    """A rank that raised alone would let the others wait."""
    for rank in results:
        assert isinstance(rank[name], str)
        assert rank[name].startswith(message)


@pytest.mark.parametrize("name", ["this rank alone", "alone"])
def test_ranks_of_no_common_group_keep_their_own(results: list[dict[str, Any]], name: str) -> None:
    for rank in range(RANKS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            expected = updated(shard(rank), network(rank))
        assert all(torch.equal(*pair) for pair in zip(results[rank][name], expected, strict=True))


def test_a_rank_outside_of_a_group_is_refused(results: list[dict[str, Any]]) -> None:
    assert not isinstance(results[0]["another's group"], str)
    assert results[1]["another's group"].startswith("group: expected one with this rank in it (None: this rank alone)")


def test_gradients_of_a_convolution_and_a_shrunk_network_are_the_same_on_all_ranks(results: list[dict[str, Any]]) -> None:
    for name in ("convolution in DDP", "shrink"):
        assert not isinstance(results[0][name], str), results[0][name]
        assert len(results[0][name]) >= 3
        assert all(torch.equal(*pair) for pair in zip(*(rank[name] for rank in results), strict=True))


@pytest.mark.parametrize("penalty", [SampleL1(), SampleStd(), WeightL1()], ids=lambda penalty: type(penalty).__name__)
def test_penalties_under_ddp_have_the_mean_of_the_ranks_gradients(results: list[dict[str, Any]], penalty: Any) -> None:
    kan = network()
    losses = []
    for rank in range(RANKS):
        y, loss = kan.forward_with_penalty(shard(rank), penalty)
        losses.append(y.square().mean() + loss)
    torch.stack(losses).mean().backward()
    expected = [p.grad for p in kan.parameters()]
    for rank in results:
        torch.testing.assert_close(rank[type(penalty).__name__], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("group", [0, "wordl", object()], ids=["int", "word", "object"])
def test_groups_are_checked_without_other_processes_too(group: Any) -> None:
    with pytest.raises(ValueError, match=r"^group: expected 'world', a torch.distributed.ProcessGroup or None, got "):
        network().update_grid(shard(0), group=group)


def test_fingerprints_tell_tensors_apart() -> None:
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    others = [x.T, x.view(5, 4), x.double(), x.flip(0), torch.where(x == x[2, 3], x + 1e-6, x), x[0, 0]]
    prints = {_distributed._fingerprint(tensor) for tensor in (x, *others)}
    assert len(prints) == 1 + len(others)
    assert _distributed._fingerprint(x.T.contiguous().T) == _distributed._fingerprint(x)
