"""Where batches come from: tensors, a ``Dataset`` or a ``DataLoader``.

Shape legend: ``N`` samples, ``B`` samples of a batch. Inputs are ``(N, ...)``, targets ``(N, ...)``, weights ``(N,)``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from efficient_kan import _checks

_EXPECTED = "tensors (x, y), a Dataset or a DataLoader"


class Batch(NamedTuple):
    """Samples to compute a loss of, on the device of the network."""

    x: Tensor
    y: Tensor
    weight: Tensor | None


class Source(Protocol):
    """Batches, as often as asked for."""

    batches: int | None  # of an epoch; None if unknown

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of one pass over the data."""
        ...

    def inputs(self, count: int) -> Tensor:
        """About ``count`` samples' inputs to place knots by, fewer if there are not so many. Called within an epoch."""
        ...


class Tensors:
    """Batches of tensors: all samples at once, or shuffled by ``generator``, or in their order.

    An epoch has ``ceil(N / batch_size)`` batches, whose sizes differ by one at most.
    """

    def __init__(
        self, batch: Batch, batch_size: int | None, device: torch.device, shuffle: bool, generator: torch.Generator | None
    ) -> None:
        count = batch.x.shape[0]
        self.batches: int | None = 1 if batch_size is None else -(-count // batch_size)
        self._all = _on(device, batch) if self.batches == 1 else batch
        self._device, self._shuffle, self._generator = device, shuffle, generator

    @property
    def x(self) -> Tensor:
        """The inputs of all samples, on any device."""
        return self._all.x

    def epoch(self, number: int) -> Iterator[Batch]:
        if self.batches == 1:
            yield self._all
            return
        assert self.batches is not None
        order = self._permutation() if self._shuffle else torch.arange(self._all.x.shape[0], device="cpu")
        for chosen in torch.tensor_split(order, self.batches):
            yield self._take(chosen)

    def inputs(self, count: int) -> Tensor:
        x = self._all.x
        return (x if x.shape[0] <= count else x[self._permutation()[:count].to(x.device)]).to(self._device)

    def _permutation(self) -> Tensor:
        source = "cpu" if self._generator is None else self._generator.device
        return torch.randperm(self._all.x.shape[0], generator=self._generator, device=source)

    def _take(self, chosen: Tensor) -> Batch:
        x, y, weight = (tensor if tensor is None else tensor[chosen.to(tensor.device)] for tensor in self._all)
        assert x is not None and y is not None
        return _on(self._device, Batch(x, y, weight))


class Loader:
    """Batches of a ``DataLoader``. Inputs of the latest ``keep`` samples stay, to place knots by."""

    def __init__(self, loader: DataLoader[Any], device: torch.device, name: str, keep: int = 0) -> None:
        self.batches: int | None = None if isinstance(loader.dataset, IterableDataset) else len(loader)
        self._loader, self._device, self._name, self._keep = loader, device, name, keep
        self._seen: deque[Tensor] = deque()
        self._ahead: deque[Batch] = deque()
        self._rest: Iterator[Any] = iter(())

    def epoch(self, number: int) -> Iterator[Batch]:
        shuffled = getattr(self._loader.sampler, "set_epoch", None)  # of a DistributedSampler
        if shuffled is not None:
            shuffled(number)
        self._rest = iter(self._loader)
        while (batch := self._ahead.popleft() if self._ahead else self._next()) is not None:
            if self._keep:
                self._seen.append(batch.x.detach())
                while _count(self._seen) - self._seen[0].shape[0] >= self._keep:
                    self._seen.popleft()
            yield batch

    def inputs(self, count: int) -> Tensor:
        """Of the latest batches; before there were enough, also of the next ones of this epoch."""
        while _count(self._seen) + sum(batch.x.shape[0] for batch in self._ahead) < count:
            batch = self._next()
            if batch is None:
                break
            self._ahead.append(batch)
        return torch.cat([*self._seen, *(batch.x for batch in self._ahead)])[-count:]

    def _next(self) -> Batch | None:
        item = next(self._rest, None)
        if item is None:
            return None
        return _on(self._device, _batch(item, self._name, "batches"))


def source_of(
    data: Any,
    name: str,
    *,
    device: torch.device,
    batch_size: int | None = None,
    sample_weight: Tensor | None = None,
    shuffle: bool = True,
    generator: torch.Generator | None = None,
    keep: int = 0,
) -> Source:
    """The batches of ``data``, the argument called ``name``.

    Raises:
        ValueError: if it is none of the kinds that are known, has no samples, or does not go with the other arguments.
    """
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, DataLoader):
        for value, argument in ((batch_size, "batch_size"), (generator, "generator")):
            _checks.require(value is None, argument, f"None, since {name} is a DataLoader with one of its own", value)
        _no_weights(sample_weight, name)
        return Loader(data, device, name, keep)
    if isinstance(data, Dataset):
        _no_weights(sample_weight, name)
        return Loader(_loader(data, name, batch_size, shuffle, generator), device, name, keep)
    _checks.require(isinstance(data, (tuple, list)), name, _EXPECTED, type(data))
    if sample_weight is not None:
        _checks.require(len(data) == 2, name, "(x, y) beside sample_weight", f"{len(data)} tensors")
        data = (*data, sample_weight)
    batch = _batch(data, name, "tensors")
    _check_tensors(batch, name)
    return Tensors(batch, batch_size, device, shuffle, generator)


def _loader(
    data: Dataset[Any], name: str, batch_size: int | None, shuffle: bool, generator: torch.Generator | None
) -> DataLoader[Any]:
    if isinstance(data, IterableDataset):
        _checks.require(
            batch_size is not None, "batch_size", "a number, since an IterableDataset is endless or not known", None
        )
        return DataLoader(data, batch_size, generator=generator)
    count = len(data)  # type: ignore[arg-type]
    _checks.require(count >= 1, name, "at least 1 sample", count)
    whole = batch_size is None or batch_size >= count
    return DataLoader(data, count if whole else batch_size, shuffle=shuffle and not whole, generator=generator)


def _batch(item: Any, name: str, what: str) -> Batch:
    expected = f"{what} (x, y) or (x, y, weight)"
    _checks.require(isinstance(item, (tuple, list)) and len(item) in (2, 3), name, expected, type(item))
    for tensor, part in zip(item, ("x", "y", "weight"), strict=False):
        _checks.require(isinstance(tensor, Tensor), f"{name}: {part}", "a tensor", type(tensor))
        _checks.require(tensor.dim() >= 1, f"{name}: {part}", "one entry a sample", tuple(tensor.shape))
        same = tensor.shape[0] == item[0].shape[0]
        _checks.require(same, f"{name}: {part}", f"{item[0].shape[0]} samples, as x", tensor.shape[0])
    weight = item[2] if len(item) == 3 else None
    if weight is not None:
        _checks.require(weight.dim() == 1, f"{name}: weight", "shape (N,)", tuple(weight.shape))
    return Batch(item[0], item[1], weight)


def _check_tensors(batch: Batch, name: str) -> None:
    _checks.require(batch.x.shape[0] >= 1, name, "at least 1 sample", batch.x.shape[0])
    for tensor, part in zip(batch, ("x", "y", "weight"), strict=True):
        if tensor is not None and tensor.is_floating_point():
            _checks.finite(tensor, f"{name}: {part}")
    if batch.weight is not None and _checks.has_values(batch.weight):
        usable = bool((batch.weight >= 0).all()) and bool((batch.weight > 0).any())
        _checks.require(usable, f"{name}: weight", "none negative and not all zero", batch.weight)
        dtype = torch.promote_types(batch.x.dtype, torch.float32)  # losses of samples have that of the outputs
        low, high = torch.finfo(dtype).tiny / torch.finfo(dtype).eps, torch.finfo(dtype).max * torch.finfo(dtype).eps
        largest = float(batch.weight.max())
        expected = f"a largest one in [{low:.0e}, {high:.0e}], which {dtype} can sum (divide them by the largest)"
        _checks.require(low <= largest <= high, f"{name}: weight", expected, largest)


def _no_weights(sample_weight: Tensor | None, name: str) -> None:
    expected = f"None, since {name} is no pair of tensors: let it give weights as third items"
    _checks.require(sample_weight is None, "sample_weight", expected, type(sample_weight))


def _on(device: torch.device, batch: Batch) -> Batch:
    x, y, weight = batch
    return Batch(x.to(device), y.to(device), None if weight is None else weight.to(device))


def _count(tensors: deque[Tensor]) -> int:
    return sum(tensor.shape[0] for tensor in tensors)
