"""What NVIDIA's management library says of GPUs: no process is started for it, and CUDA is not initialised.

The package is `nvidia-ml-py`, whose module is called `pynvml`. Without it, or without a driver, nothing is known.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any, Self

from benchmarks.schema.rows import GpuReading

# Bits of NVML's reasons for clocks below the highest, by nvml.h.
_REASONS = {
    0x1: "idle",
    0x2: "clocks set by the user",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal limit (software)",
    0x40: "thermal limit (hardware)",
    0x80: "power brake",
    0x100: "display clocks",
}


class Gpu:
    """One GPU, to be read again and again; `read` gives None where NVML does not know it. Close it, or use `with`."""

    def __init__(self, uuid: str) -> None:
        self._library, self._handle = _loaded(), None
        if self._library is not None:
            with contextlib.suppress(self._library.NVMLError):
                self._handle = self._library.nvmlDeviceGetHandleByUUID(uuid)

    def read(self) -> GpuReading | None:
        """Return clocks, temperature, power and what holds the clocks down, at this moment."""
        return None if self._library is None or self._handle is None else _read(self._library, self._handle)

    def close(self) -> None:
        """Let go of the library; nothing can be read afterwards."""
        library, self._library = self._library, None
        if library is not None:
            library.nvmlShutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def describe() -> str | None:
    """Return name, driver and memory of each GPU, one a line; None where NVML knows none."""
    lines = [
        f"{_text(library.nvmlDeviceGetName(handle))}, {_text(library.nvmlSystemGetDriverVersion())}, "
        f"{library.nvmlDeviceGetMemoryInfo(handle).total // 2**20} MiB"
        for library, handle in _each()
    ]
    return "\n".join(lines) or None


def readings() -> list[GpuReading]:
    """Return what `Gpu.read` gives of each GPU."""
    return [_read(library, handle) for library, handle in _each()]


def _each() -> Iterator[tuple[Any, Any]]:
    library = _loaded()
    if library is None:
        return
    try:
        for index in range(library.nvmlDeviceGetCount()):
            yield library, library.nvmlDeviceGetHandleByIndex(index)
    except library.NVMLError:
        return
    finally:
        library.nvmlShutdown()


def _loaded() -> Any | None:
    """The library, ready for use; None where there is none."""
    try:
        library = importlib.import_module("pynvml")
        library.nvmlInit()
    except ImportError:
        return None
    except library.NVMLError:
        return None
    return library


def _read(library: Any, handle: Any) -> GpuReading:
    def asked(question: Callable[[], Any]) -> Any:
        try:
            return question()
        except (library.NVMLError, AttributeError):  # what this GPU, or this version of the library, does not tell
            return None

    power = asked(lambda: library.nvmlDeviceGetPowerUsage(handle))
    bits = asked(lambda: library.nvmlDeviceGetCurrentClocksEventReasons(handle))
    if bits is None:  # its former name
        bits = asked(lambda: library.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    return GpuReading(
        sm_mhz=asked(lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM)),
        memory_mhz=asked(lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_MEM)),
        temperature_c=asked(lambda: library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU)),
        power_w=None if power is None else power / 1000,
        throttle=None if bits is None else _reasons(bits),
    )


def _reasons(bits: int) -> tuple[str, ...]:
    named = [words for bit, words in _REASONS.items() if bits & bit]
    unknown = bits & ~sum(_REASONS)
    return (*named, *([hex(unknown)] if unknown else []))


def _text(value: str | bytes) -> str:
    """Older versions of the library give bytes."""
    return value.decode() if isinstance(value, bytes) else value
