"""The share of a head in the time and memory of the whole network."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measure import memory, speed, workload
from benchmarks.schema.cases import Backbone, Case
from benchmarks.schema.images import HeadCost
from efficient_kan.resnet import Head, ResNet
from reference.arm import get_arm


def measure(case: Case) -> HeadCost:
    """Time forward and backward of the head, with the gradient for its inputs, beside those of the whole network, in pairs.

    The head is `case.arm` with the widths of `case.point`, below it lies `case.backbone`, training, on images of noise.
    Memory is measured after the times are taken.
    """
    backbone, point = case.backbone, case.point
    if backbone is None or not backbone.size:
        raise ValueError(f"backbone: expected one with the size of its images in a case of kind head_cost, got {backbone}")
    if backbone.features != point.layers[0]:
        raise ValueError(f"layers: expected {backbone.features} features first, got {point.layers[0]}")
    head_parts = _head(case)
    whole_parts = _whole(case, backbone)
    series = speed.measure(
        _call(*head_parts),
        _call(*whole_parts),
        speed.clock(point.device),
        mode="forward_backward",
        blocks=case.blocks,
        warmup=case.warmup,
        min_sample_ms=case.min_sample_ms,
        budget_s=case.budget_s,
    )
    counts = [sum(p.numel() for p in parts[0].parameters() if p.requires_grad) for parts in (head_parts, whole_parts)]
    del head_parts, whole_parts
    return HeadCost(
        head_ns=series.arm_ns,
        whole_ns=series.baseline_ns,
        head_loops=series.arm_loops,
        whole_loops=series.baseline_loops,
        head_parameters=counts[0],
        whole_parameters=counts[1],
        head_peak_bytes=_peak(lambda: _head(case), point.device),
        whole_peak_bytes=_peak(lambda: _whole(case, backbone), point.device),
        linear_peak_bytes=_peak(lambda: _whole(case, backbone, linear=True), point.device),
    )


Parts = tuple[nn.Module, Tensor, Tensor]


def _head(case: Case) -> Parts:
    """The head, features as a backbone gives them (not negative), and a cotangent."""
    point = case.point
    module = get_arm(case.arm).build(workload.network(point, case.seed))
    data = workload.data(point, case.seed)
    return module, data.x.relu().requires_grad_(), data.target


def _whole(case: Case, backbone: Backbone, *, linear: bool = False) -> Parts:
    point = case.point
    generator = torch.Generator().manual_seed(case.seed)
    below = ResNet(backbone.depth, stem=backbone.stem, width=backbone.width, generator=generator).to(point.device)
    head = Head(point.layers[0], point.layers[-1], "linear").to(point.device) if linear else _head(case)[0]
    images = torch.randn(point.batch, 3, backbone.size, backbone.size, generator=generator).to(point.device)
    return nn.Sequential(below, head), images, workload.data(point, case.seed).target


def _call(module: nn.Module, x: Tensor, cotangent: Tensor) -> Callable[[], None]:
    tensors = [x, *module.parameters()]

    def forward_backward() -> None:
        for tensor in tensors:
            tensor.grad = None
        torch.autograd.backward(module(x), cotangent)

    return forward_backward


def _peak(build: Callable[[], Parts], device: str) -> int:
    if torch.device(device).type == "cuda":
        return memory.cuda_peak(_call(*build()))[0].peak
    with memory.AllocationTrace() as trace:
        call = _call(*build())
        call()
        with trace.window("call"):
            call()
        del call
        gc.collect()
    return trace.peak("call").peak
