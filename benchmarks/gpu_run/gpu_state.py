"""The GPU in use, and its clocks, temperature and power at this moment, by NVML."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def used(name: str) -> torch.device:
    """Return the device called `name`, and make it the current one if it is a numbered GPU."""
    device = torch.device(name)
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def read(device: torch.device) -> dict[str, Any]:
    """Return what NVML says of the GPU `device`, in MHz, degrees Celsius and watts; empty on a CPU or without NVML."""
    if device.type != "cuda":
        return {}
    try:
        import pynvml as nvml

        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except Exception as error:  # noqa: BLE001  # its own class of error exists only where it can be imported
        return {"unknown": f"{type(error).__name__}: {error}"}
    asked = {
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "sm_max_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "celsius": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "watts": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "watts_at_most": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        "throttled_by": lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        "driver": nvml.nvmlSystemGetDriverVersion,
    }
    found: dict[str, Any] = {}
    for name, ask in asked.items():
        with contextlib.suppress(Exception):  # not every GPU tells everything
            found[name] = ask()
    return found
