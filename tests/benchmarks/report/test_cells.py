"""Texts of cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.report.cells import csv


def test_csv_does_not_show_what_differs_between_processors() -> None:
    values = [0.024940068070190072, 356.472264, 2.5e-12, float("nan"), float("inf"), 15.0]
    others = [np.nextafter(value, 0) if np.isfinite(value) else value for value in values]
    assert (
        csv(pd.DataFrame({"a": values}))
        == csv(pd.DataFrame({"a": others}))
        == (b'a\n0.02494006807\n356.472264\n2.5e-12\n""\ninf\n15\n')
    )


def test_csv_keeps_whole_numbers_and_columns_of_several_kinds() -> None:
    frame = pd.DataFrame({"bytes": [2_670_000_000_001.0, 18_874_368.0], "count": [1, 2**53], "mixed": ["a", 1 / 3]})
    assert csv(frame) == b"bytes,count,mixed\n2670000000001,1,a\n18874368,9007199254740992,0.3333333333\n"


@pytest.mark.parametrize(("values", "shown"), [(["ieee", "ieee"], False), (["ieee", "bf16"], True), (["bf16", "bf16"], True)])
def test_a_later_column_is_written_where_it_says_something(values: list[str], shown: bool) -> None:
    frame = pd.DataFrame({"arm": ["a", "b"], "matmul": values})
    assert csv(frame).decode().splitlines()[0] == ("arm,matmul" if shown else "arm")
