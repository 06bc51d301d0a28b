"""What decides by samples is the same on all ranks: two processes of gloo, which run all cases at once."""

from __future__ import annotations

import re
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
SHARDED = ["fully_shard", "layer by layer", "from outside", "FSDP", "FSDP of original parameters", "replicated"]
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


def sharded(how: str) -> tuple[Any, KAN]:
    """A module that is called, and the network in it, whose parameters are shared out among the ranks."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
    from torch.distributed.tensor import distribute_module

    mesh, kan = init_device_mesh("cpu", (RANKS,)), network()
    if how == "fully_shard":
        return fully_shard(kan, mesh=mesh), kan
    if how == "layer by layer":
        for layer in kan.kan_layers:
            fully_shard(layer, mesh=mesh)
        return fully_shard(kan, mesh=mesh), kan
    if how == "from outside":
        return fully_shard(Passing(kan), mesh=mesh), kan
    if how == "replicated":
        return distribute_module(kan, mesh), kan
    own = how == "FSDP of original parameters"
    return FullyShardedDataParallel(Passing(kan), device_id=torch.device("cpu"), use_orig_params=own), kan


class Passing(nn.Module):
    """Of which a network is a part."""

    def __init__(self, kan: KAN) -> None:
        super().__init__()
        self.kan = kan

    def forward(self, *arguments: Any) -> Tensor:
        y: Tensor = self.kan(*arguments)
        return y


def refusals(rank: int, how: str) -> dict[str, tuple[str, bool]]:
    """What calls on a sharded network say, and whether all tensors are what they were."""
    module, kan = sharded(how)
    layer, x = kan.kan_layers[0], shard(rank)
    calls: dict[str, Callable[[], object]] = {
        "update_grid": lambda: kan.update_grid(x),
        "update_grid alone": lambda: kan.update_grid(x, group=None),
        "at samples": lambda: kan.update_grid(x, fit="samples"),
        "of a layer": lambda: layer.update_grid(x),
        "refine": lambda: kan.refine(7, x),
        "refine a layer": lambda: layer.refine(7, x),
        "importance": lambda: kan.importance(x),
        "prune": lambda: kan.prune(x),
        "SampleL1": lambda: kan.forward_with_penalty(x, SampleL1()),
        "SampleStd": lambda: SampleStd().edge_norms(layer, x),
        "WeightL1": lambda: WeightL1().edge_norms(layer),
        "regularization_loss": lambda: kan.regularization_loss(),
        "scaled_spline_weight": lambda: layer.scaled_spline_weight,
        "to_pykan": kan.to_pykan,
        "add_bias": lambda: layer.add_bias(torch.ones(4)),
        "past what shards": lambda: layer.forward(x),
    }
    found = {}
    before = numbers(module)
    for name, call in calls.items():
        try:
            call()
            message = ""
        except ValueError as error:
            message = str(error)
        found[name] = message, all(torch.equal(*pair) for pair in zip(before, numbers(module), strict=True))
    try:
        module(x, True)
    except ValueError as error:  # while all ranks have all parameters
        found["in a forward pass"] = str(error), same_numbers(kan, network())
    return found


def same_numbers(kan: KAN, other: KAN) -> bool:
    names = ("grid", "base_weight", "spline_weight", "spline_scaler")
    pairs = [(getattr(a, n), getattr(b, n)) for a, b in zip(kan.layers, other.layers, strict=True) for n in names]
    return all(torch.equal(a.full_tensor() if hasattr(a, "full_tensor") else a, b) for a, b in pairs)


def numbers(module: nn.Module) -> list[Tensor]:
    """What this rank has of all parameters and buffers."""
    tensors = (*module.parameters(), *module.buffers())
    return [t.to_local().clone() if hasattr(t, "to_local") else t.detach().clone() for t in tensors]


def through_states(rank: int, how: str) -> list[Tensor]:
    """As the message says."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

    module, kan = sharded(how)
    prefix = "kan." if isinstance(getattr(module, "kan", None), KAN) or how.startswith("FSDP") else ""
    options = StateDictOptions(full_state_dict=True)
    whole = network(1)
    whole.load_state_dict({name.removeprefix(prefix): t for name, t in get_model_state_dict(module, options=options).items()})
    whole.update_grid(shard(rank))
    set_model_state_dict(module, {prefix + name: t for name, t in whole.state_dict().items()}, options=options)
    return [layer.grid.clone() for layer in kan.kan_layers] + [module(probe()).detach()]


def summoned(rank: int, how: str) -> list[Tensor]:
    from torch.distributed.fsdp import FullyShardedDataParallel

    module, kan = sharded(how)
    with FullyShardedDataParallel.summon_full_params(module):
        kan.update_grid(shard(rank))
    return [layer.grid.clone() for layer in kan.kan_layers] + [module(probe()).detach()]


def trained(rank: int, how: str) -> list[Tensor]:
    """A step with a penalty, as documented in ``KAN.forward_with_penalty``."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    kan = network()
    penalised = WithPenalty(kan, SampleL1())
    module: Any = DistributedDataParallel(penalised)
    if how == "fully_shard":
        module = fully_shard(penalised)
    elif how == "FSDP":
        module = FullyShardedDataParallel(penalised, device_id=torch.device("cpu"))
    optimiser = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(2):
        optimiser.zero_grad()
        y, loss = module(shard(rank))
        (y.square().mean() + loss).backward()
        optimiser.step()
    return [module(probe())[0].detach()]


def in_mixed_precision() -> list[Tensor]:
    """Parameters are cast to 16 bits, the masks, which are buffers, are not."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    found = []
    for kernel in ("auto", "native"):
        for penalty in (None, SampleL1(), WeightL1()):
            kan = network()
            for layer in kan.kan_layers:
                layer.kernel = kernel
            kan.kan_layers[0].edge_mask[1, 0] = 0
            module: Any = fully_shard(
                WithPenalty(kan, penalty) if penalty else kan, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16)
            )
            y = module(probe())
            y, loss = y if penalty else (y, y.new_zeros(()))
            (y.square().mean() + loss).backward()
            found.append(y.detach())
    return found


def drawn_anew() -> list[Tensor]:
    """Parameters that are sharded before they have numbers."""
    from torch.distributed.fsdp import fully_shard

    with torch.device("meta"):
        kan = KAN([2, 4, 1], kernel="native")
    fully_shard(kan)
    kan.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(5)
    for layer in kan.kan_layers:
        layer.reset_parameters(generator)
    return [kan(probe()).detach()]


def of_dtensors() -> list[Tensor]:
    """Parameters and samples are DTensors; then parameters are whole again."""
    from torch.distributed.tensor import distribute_tensor

    kan = sharded("replicated")[1]
    y: Any = kan(distribute_tensor(probe(), kan.kan_layers[0].base_weight.device_mesh))  # type: ignore[attr-defined, arg-type]
    kan.load_state_dict(network().state_dict(), assign=True)
    for layer in kan.kan_layers:
        layer.edge_mask = torch.ones_like(layer.base_weight)
    return [y.full_tensor().detach(), *updated(whole(), kan, group=None)]


def with_nan(rank: int) -> Tensor:
    x = shard(rank)
    if rank == 1:
        x[3, 0] = float("nan")
    return x


def cases(rank: int, alone: Any, impatient: Any, folder: str) -> dict[str, Callable[[], Any]]:
    """``alone`` is a group of this rank only, ``impatient`` one that waits a second."""
    return {
        **{f"refusals, {how}": lambda how=how: refusals(rank, how) for how in SHARDED},  # type: ignore[misc]
        **{f"states, {how}": lambda how=how: through_states(rank, how) for how in SHARDED[:-1]},  # type: ignore[misc]
        **{f"summoned, {how}": lambda how=how: summoned(rank, how) for how in SHARDED if "FSDP" in how},  # type: ignore[misc]
        **{f"trained, {how}": lambda how=how: trained(rank, how) for how in ("DDP", "fully_shard", "FSDP")},  # type: ignore[misc]
        "drawn anew": drawn_anew,
        "mixed precision": in_mixed_precision,
        "DTensors": of_dtensors,
        "missing": lambda: updated(shard(rank), group=impatient) if rank == 0 else [],
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
    impatient = dist.new_group(timeout=timedelta(seconds=1))
    results: dict[str, Any] = {}
    for name, case in cases(rank, groups[rank], impatient, folder).items():
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
            "group: expected the same arguments on all ranks, got different ones (rank 0: samples; rank 1: function)",
        ),
        ("threshold", "group: expected the same arguments on all ranks, got different ones (rank 0: 0.1; rank 1: 1.1)"),
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


@pytest.mark.parametrize("how", SHARDED)
def test_sharded_parameters_are_refused_before_anything_is_changed(results: list[dict[str, Any]], how: str) -> None:
    pattern = re.compile(r"(layers\[0\]\.)?\w+: expected a parameter that is whole on every rank, got .*; (do it|call the) ")
    for rank in results:
        assert "in a forward pass" in rank[f"refusals, {how}"]
        for name, (message, unchanged) in rank[f"refusals, {how}"].items():
            assert pattern.match(message), (name, message)
            assert unchanged, name


@pytest.mark.parametrize(
    "name", [f"states, {how}" for how in SHARDED[:-1]] + [f"summoned, {how}" for how in SHARDED if "FSDP" in how]
)
def test_sharded_networks_are_updated_as_the_message_says(results: list[dict[str, Any]], name: str) -> None:
    expected = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of changed functions
        expected.update_grid(whole())
    for rank in results:
        *grids, y = rank[name]
        assert all(torch.equal(layer.grid, grid) for layer, grid in zip(expected.kan_layers, grids, strict=True))
        torch.testing.assert_close(y, expected(probe()).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["fully_shard", "FSDP"])
def test_sharded_networks_train_with_penalties(results: list[dict[str, Any]], how: str) -> None:
    for rank in results:
        torch.testing.assert_close(rank[f"trained, {how}"], rank["trained, DDP"], rtol=1e-5, atol=1e-6)


def test_sharded_networks_compute_in_the_dtype_that_parameters_are_cast_to(results: list[dict[str, Any]]) -> None:
    expected = network()
    expected.kan_layers[0].edge_mask[1, 0] = 0
    expected.bfloat16()
    for rank in results:
        for y in rank["mixed precision"]:
            assert y.dtype == torch.bfloat16
            torch.testing.assert_close(y.float(), expected(probe().bfloat16()).float(), rtol=3e-2, atol=3e-2)


def test_sharded_parameters_are_drawn_anew(results: list[dict[str, Any]]) -> None:
    expected = KAN([2, 4, 1], kernel="native", generator=torch.Generator().manual_seed(5))(probe())
    for rank in results:
        torch.testing.assert_close(rank["drawn anew"][0], expected, rtol=1e-5, atol=1e-6)


def test_dtensors_are_taken_with_dtensors(results: list[dict[str, Any]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = [network()(probe()), *updated(whole())]
    for rank in results:
        torch.testing.assert_close(rank["DTensors"], expected, rtol=1e-5, atol=1e-6)


def test_a_rank_that_calls_alone_waits_no_longer_than_its_group(results: list[dict[str, Any]]) -> None:
    message = results[0]["missing"]
    assert message.startswith("group: expected a call on every rank, got no answer from some (")
    assert "group=None" in message
