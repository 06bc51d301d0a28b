"""All kinds of data give the same training, and grids find their samples in each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from efficient_kan import KAN, train
from efficient_kan.training.batches import Loader, source_of

CPU = torch.device("cpu")


def samples(count: int = 120) -> tuple[Tensor, Tensor]:
    x = 2 * torch.rand(count, 2, generator=torch.Generator().manual_seed(1)) - 1
    return x, x.prod(1, keepdim=True)


def network() -> KAN:
    return KAN([2, 3, 1], generator=torch.Generator().manual_seed(0), kernel="native")


class Rows(Dataset[Any]):
    """Samples one by one, with weights if there are some."""

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)


class Stream(IterableDataset[Any]):
    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return iter(zip(*self.tensors, strict=True))


def losses(data: Any, **options: Any) -> list[float]:
    shuffled = {} if isinstance(data, DataLoader) else {"generator": torch.Generator().manual_seed(2)}
    options = {"epochs": 2} | shuffled | options
    return [record.train_loss for record in train(network(), data, **options).history]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_all_samples_at_once_from_every_kind(weighted: bool) -> None:
    data = samples()
    if weighted:
        data = (*data, torch.rand(120, generator=torch.Generator().manual_seed(4)))
    expected = losses(data)
    assert losses(list(data)) == expected
    assert losses(TensorDataset(*data)) == expected
    assert losses(Rows(*data)) == expected
    assert losses(Rows(*data), batch_size=500) == expected
    assert losses(Stream(*data), batch_size=120, steps=2, epochs=None) == expected
    assert losses(DataLoader(Rows(*data), batch_size=120)) == expected


def test_a_dataset_is_shuffled_as_a_loader_of_torch_would() -> None:
    data = Rows(*samples())
    expected = losses(DataLoader(data, batch_size=50, shuffle=True, generator=torch.Generator().manual_seed(2)))
    assert losses(data, batch_size=50) == expected and len(expected) == 6
    assert losses(data, batch_size=50, generator=torch.Generator().manual_seed(3)) != expected


def test_batches_of_tensors_cover_all_samples_evenly() -> None:
    x, y = samples(65)
    source = source_of((x, y), "data", device=CPU, batch_size=32, generator=torch.Generator().manual_seed(0))
    first, second = ([batch.x for batch in source.epoch(n)] for n in range(2))
    assert [len(part) for part in first] == [22, 22, 21], "no batch of a single sample, whose deviation is none"
    assert torch.equal(torch.cat(first).sort(0).values, x.sort(0).values)
    assert not torch.equal(torch.cat(first), torch.cat(second))
    in_order = source_of((x, y), "data", device=CPU, batch_size=32, shuffle=False)
    assert torch.equal(torch.cat([batch.x for batch in in_order.epoch(0)]), x)


def test_grids_of_loaders_follow_the_latest_batches_and_at_first_the_next_ones() -> None:
    x, y = samples(100)
    source = Loader(DataLoader(TensorDataset(x, y), batch_size=10), CPU, "data", keep=25)
    found = []
    for n, batch in enumerate(source.epoch(0)):
        assert torch.equal(batch.x, x[10 * n : 10 * n + 10]), "looking ahead takes nothing away"
        found.append(source.inputs(25))
    assert torch.equal(found[0], x[5:30])
    assert torch.equal(found[5], x[35:60])
    assert torch.equal(source.inputs(1000), x[70:]), "no more is kept than asked for"
    several = Loader(DataLoader(TensorDataset(x, y), batch_size=10), CPU, "data", keep=1000)
    batches = iter(several.epoch(0))
    next(batches)
    assert torch.equal(several.inputs(1000), x)
    assert len(list(batches)) == 9


def test_a_schedule_works_with_a_loader_as_with_tensors() -> None:
    x, y = samples(200)
    tensors = train(kan := network(), (3 * x, y), steps=1, update_grid_every=1)
    loaded = train(twin := network(), DataLoader(TensorDataset(3 * x, y), batch_size=200), steps=1, update_grid_every=1)
    assert all(torch.equal(a.grid, b.grid) for a, b in zip(kan.kan_layers, twin.kan_layers, strict=True))
    assert tensors.history[0].note == loaded.history[0].note != ""
    in_parts = DataLoader(TensorDataset(3 * x, y), batch_size=40)
    train(other := network(), in_parts, epochs=1, update_grid_every=10)
    assert torch.equal(other.kan_layers[0].grid, kan.kan_layers[0].grid), "the five batches together"


class WithEpoch(torch.utils.data.Sampler[int]):
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return 20

    def __iter__(self) -> Iterator[int]:
        return iter(range(20))


def test_the_epoch_of_a_distributed_sampler_is_set() -> None:
    sampler = WithEpoch()
    losses(DataLoader(TensorDataset(*samples()), batch_size=10, sampler=sampler), epochs=3)
    assert sampler.epochs == [0, 1, 2]


def test_an_iterable_dataset_by_epochs() -> None:
    data = Stream(*samples(50))
    trained = train(network(), data, epochs=3, batch_size=20, validation=samples(), validate_every=2, patience=9)
    assert [record.epoch for record in trained.history] == [0] * 3 + [1] * 3 + [2] * 3
    validated = [record.step for record in trained.history if record.validation_loss is not None]
    assert validated == [1, 3, 5, 7, 8], "and after the last step, though nobody knew that it was the last"


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (DataLoader(Rows(*samples())), {"batch_size": 3}, "batch_size: expected None, since data is a DataLoader"),
        (
            DataLoader(Rows(*samples())),
            {"generator": torch.Generator()},
            "generator: expected None, since data is",
        ),
        (
            DataLoader(Rows(*samples())),
            {"sample_weight": torch.ones(120)},
            "sample_weight: expected None, since data is no pair",
        ),
        (Rows(*samples()), {"sample_weight": torch.ones(120)}, "sample_weight: expected None, since data is no pair"),
        (Stream(*samples()), {}, "batch_size: expected a number, since an IterableDataset"),
        (Rows(torch.zeros(0, 2), torch.zeros(0, 1)), {}, "data: expected at least 1 sample, got 0"),
        (DataLoader(Stream(torch.zeros(0, 2), torch.zeros(0, 1))), {}, "data: expected at least 1 batch in an epoch, got 0"),
        (DataLoader(Rows(samples()[0])), {}, r"data: expected batches \(x, y\) or \(x, y, weight\)"),
        (DataLoader(Stream(*samples())), {"validation": samples()}, "validate_every: expected a number of steps"),
    ],
)
def test_data_that_does_not_fit_is_refused(data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        train(network(), data, epochs=1, **options)


def test_validation_from_every_kind() -> None:
    x, y = samples()
    options: Any = {"steps": 1, "epochs": None}
    expected = train(network(), (x, y), steps=1, validation=(x, y)).history[0].validation_loss
    for data in (TensorDataset(x, y), Rows(x, y), DataLoader(Rows(x, y), batch_size=120)):
        assert train(network(), (x, y), validation=data, **options).history[0].validation_loss == expected
    with pytest.raises(ValueError, match=r"^validation: expected at least 1 batch, got 0"):
        train(network(), (x, y), validation=DataLoader(Stream(x[:0], y[:0])), **options)
