"""The largest batch that fits into a given memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

LIMIT = 2**31


@dataclass(frozen=True)
class Largest:
    """The largest `batch` of which the peak fits, and the peaks there (None if 0) and at one more (None at the limit)."""

    batch: int
    peak_bytes: int | None
    next_peak_bytes: int | None


def largest_batch(
    peak: Callable[[int], int], capacity_bytes: int, limit: int = LIMIT, asked: dict[int, int] | None = None
) -> Largest:
    """Return the largest batch up to `limit` with `peak(batch)` at most `capacity_bytes`.

    `peak` must not fall as the batch grows. Peaks are nearly affine in it, so steps follow the line through two known batches,
    and every other one halves the bracket in case they are not. `peak` is asked at the result and at one more, which proves it.
    `asked` has the peaks that are known already, of batches up to `limit`, and keeps those asked for.

    Raises ValueError if `capacity_bytes` or `limit` is below 1.
    """
    if capacity_bytes < 1 or limit < 1:
        raise ValueError(f"capacity_bytes, limit: expected at least 1, got {capacity_bytes} and {limit}")
    known = {} if asked is None else asked

    def fits(batch: int) -> bool:
        if batch not in known:
            known[batch] = peak(batch)
        return known[batch] <= capacity_bytes

    fits(1)
    low = max((batch for batch in known if fits(batch)), default=0)
    high = min((batch for batch in known if batch > low), default=None)
    while high is None:
        if low == limit:
            return Largest(low, known[low], None)
        step = min(limit, max(low + 1, _beyond(known, low, capacity_bytes)))
        if fits(step):
            low = step
        else:
            high = step
    secant = True
    while high - low > 1:
        middle = (low + high) // 2
        if secant and low and known[high] > known[low]:
            line = low + (high - low) * (capacity_bytes - known[low]) // (known[high] - known[low])
            middle = min(max(line, low + 1), high - 1)
        secant = not secant
        for batch in (middle, middle + 1):  # on a line the crossing lies between these two
            if low < batch < high:
                if fits(batch):
                    low = batch
                else:
                    high = batch
    return Largest(low, known[low] if low else None, known[high])


def _beyond(known: Mapping[int, int], low: int, capacity_bytes: int) -> int:
    """Return the first batch that should not fit any more, on the line through `low` and a batch of at most half of it."""
    before = max((batch for batch in known if 2 * batch <= low), default=0)
    if not before:
        return max(2 * low, low * capacity_bytes // (2 * known[low]))
    if known[low] == known[before]:
        return 8 * low
    return low + (capacity_bytes - known[low]) * (low - before) // (known[low] - known[before]) + 1
