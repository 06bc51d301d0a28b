"""The kernels' bars compare single calls, however many of them make a sample."""

import time

from benchmarks.dev import bars


def test_a_call_that_takes_four_times_as_long_is_found_so() -> None:
    found = bars._ratio(lambda: time.sleep(0.008), lambda: time.sleep(0.002), blocks=3)
    assert 3 < found.value < 5
