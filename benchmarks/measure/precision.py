"""In which precision float32 products are computed: the `matmul` of a point.

- `ieee`: every product in float32, torch's float32 matmul precision "highest".
- `tf32`: on a GPU matrix products round their float32 factors to 11 significant bits and add up in float32, torch's precision
  "high". Tensors stay float32. This package's kernels ask torch for it and follow.
- `bf16`: the forward pass runs under `torch.autocast` to bfloat16, and so do loss and penalty; backward outside, as torch
  advises. Parameters, their gradients and the optimiser stay float32. What becomes of an arm is up to torch and the arm:
  every matrix product, batched product and einsum takes bfloat16, so an arm that multiplies features (`cox_de_boor`, `inkan`,
  `efficient_kan`, an MLP) gives bfloat16 outputs; element-wise work on float32 tensors, such as a B-spline recursion and
  pykan's sums over edges, stays float32. `gemm_bound` has features and weights ready in bfloat16: it casts nothing.

An element of a product is off by `UNIT` relative to its factors.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from benchmarks.schema.cases import Matmul, Point
from reference.arm import Unsupported

UNIT: dict[Matmul, float] = {"ieee": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8}
_AMPERE = (8, 0)  # the first compute capability with products in tf32 and bfloat16


def choose(point: Point) -> None:
    """Set the precision of this process's float32 products; bfloat16 is chosen by `products` call by call.

    Raises `Unsupported` where the device would compute them in another one, which torch does without a word.
    """
    device = torch.device(point.device)
    if point.matmul == "tf32" and device.type != "cuda":
        raise Unsupported(f"matmul tf32: torch computes float32 products on {device.type} in float32")
    if point.matmul != "ieee" and device.type == "cuda" and torch.cuda.get_device_capability(device) < _AMPERE:
        found = ".".join(map(str, torch.cuda.get_device_capability(device)))
        raise Unsupported(f"matmul {point.matmul}: this GPU has compute capability {found}, its products need 8.0")
    torch.set_float32_matmul_precision("high" if point.matmul == "tf32" else "highest")


def products(matmul: Matmul, device: torch.device) -> AbstractContextManager[object]:
    """Return a context, to be entered again and again, in which a forward pass computes its products so."""
    return torch.autocast(device.type, torch.bfloat16) if matmul == "bf16" else nullcontext()
