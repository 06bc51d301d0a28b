"""The largest batch that fits into a given memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

LIMIT = 2**31


@dataclass(frozen=True)
class Largest:
    """The largest `batch` of which the peak fits, and the peaks there (None if 0) and at one more (None at the limit)."""

    batch: int
    peak_bytes: int | None
    next_peak_bytes: int | None


def largest_batch(peak: Callable[[int], int], capacity_bytes: int, limit: int = LIMIT) -> Largest:
    """Return the largest batch up to `limit` with `peak(batch)` at most `capacity_bytes`.

    `peak` must not fall as the batch grows. Peaks are nearly affine in it, so steps follow the line through the two ends of the
    bracket, and every other one halves it in case they are not. `peak` is asked at the result and at one more, which proves it.

    Raises ValueError if `capacity_bytes` or `limit` is below 1.
    """
    if capacity_bytes < 1 or limit < 1:
        raise ValueError(f"capacity_bytes, limit: expected at least 1, got {capacity_bytes} and {limit}")
    low, low_peak = 0, 0
    high, high_peak = 1, peak(1)
    while high_peak <= capacity_bytes:
        if high == limit:
            return Largest(high, high_peak, None)
        low, low_peak = high, high_peak
        # A peak of which batch 1 is a hundredth of the capacity suggests about a hundred samples; go somewhat beyond.
        high = min(limit, max(2 * high, high * capacity_bytes // max(1, 2 * high_peak)))
        high_peak = peak(high)
    secant = True
    while high - low > 1:
        middle = (low + high) // 2
        if secant and high_peak > low_peak:
            line = low + (high - low) * (capacity_bytes - low_peak) // (high_peak - low_peak)
            middle = min(max(line, low + 1), high - 1)
        secant = not secant
        for batch in (middle, middle + 1):  # on a line the crossing lies between these two
            if low < batch < high:
                at = peak(batch)
                if at <= capacity_bytes:
                    low, low_peak = batch, at
                else:
                    high, high_peak = batch, at
    return Largest(low, low_peak if low else None, high_peak)
