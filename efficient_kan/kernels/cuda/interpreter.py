"""Triton's interpreter, which runs kernels in Python on CPU tensors: whether the installed one can."""

from __future__ import annotations

import re
from importlib.metadata import version


def fault() -> str | None:
    """Why the installed interpreter cannot run the kernels, or ``None``."""
    return fault_of(version("triton"), version("numpy"))


def fault_of(triton: str, numpy: str) -> str | None:
    """The same of versions.

    Before triton 3.7 it converts arrays of one element to numbers, in every loop whose length is a tensor; numpy refuses that
    from 2.4 on.
    """
    if _numbers(triton) < (3, 7) and _numbers(numpy) >= (2, 4):
        return f"the interpreter of triton {triton} does not run on numpy {numpy}: it takes triton 3.7 or numpy below 2.4"
    return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])
