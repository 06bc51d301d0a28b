"""The GPU in use, and its clocks, temperature and power at this moment."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.schema import nvml


def used(name: str) -> torch.device:
    """Return the device called `name`, and make it the current one if it is a numbered GPU."""
    device = torch.device(name)
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def read(device: torch.device) -> dict[str, Any]:
    """Return what NVML says of the GPU `device`; empty on a CPU or where NVML does not know it."""
    if device.type != "cuda":
        return {}
    with nvml.Gpu(f"GPU-{torch.cuda.get_device_properties(device).uuid}") as gpu:
        reading = gpu.read()
    return {} if reading is None else reading.model_dump(mode="json")
