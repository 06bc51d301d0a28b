"""On a GPU: native against float64 on the CPU, and the Triton kernels against native. `nox -s gpu` runs these.

The rule is that of the interpreter's tests: three times the error of a same-precision baseline, which here is native on the CPU
for native, and native on the GPU, in the same mode of float32, for the kernels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from efficient_kan import KAN, SampleL1, SampleStd
from efficient_kan.kernels import LayerInputs, native, report

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("torch finds no CUDA GPU", allow_module_level=True)
pytest.importorskip("triton", reason="triton is not installed")

from efficient_kan.kernels import cuda
from efficient_kan.kernels.cuda import check, model, products, shares, support
from tests.efficient_kan.interpreted_cuda import PRODUCT, UNITS, double, excess, make, results

orders = pytest.mark.parametrize("k", [1, 2, 3, 4, 5], ids="k{}".format)
kinds = pytest.mark.parametrize("kind", ["uniform", "adapted", "repeated"])
# A result of one number errs by chance; the interpreter's tests have such sizes.
SIZES = [(70, 5, 3), (1000, 33, 65), (5000, 70, 200), (256, 64, 64), (1024, 256, 256), (9000, 32, 256)]


def moved(inputs: LayerInputs, device: str) -> LayerInputs:
    x, base, knots, weight, k = inputs
    return LayerInputs(x.to(device), None if base is None else base.to(device), knots.to(device), weight.to(device), k)


def on_cpu(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: part.cpu() for name, part in found.items()}


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if on else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_kernels_are_in_use() -> None:
    assert cuda.unavailable() is None
    assert report().auto["cuda"] == "cuda"


@orders
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_native_against_float64_on_the_cpu(dtype: torch.dtype, k: int) -> None:
    inputs = make(300, 11, 17, k, "adapted", torch.float32 if dtype == torch.float64 else dtype)
    truth = results(native, double(inputs))
    if dtype == torch.float64:
        got = on_cpu(results(native, moved(double(inputs), "cuda")))
        assert all(float((got[n] - truth[n]).abs().max() / truth[n].abs().max()) <= 1e-12 for n in truth)
        return
    got, baseline = on_cpu(results(native, moved(inputs, "cuda"))), results(native, inputs)
    assert excess(got, baseline, truth, UNITS[dtype] * torch.finfo(dtype).eps) == {}


@orders
@kinds
@pytest.mark.parametrize("precision", ["ieee", "tf32", "bfloat16", "float16"])
def test_kernels_against_native(precision: str, kind: str, k: int) -> None:
    dtype = getattr(torch, precision, torch.float32)
    for number, (B, I, O) in enumerate(SIZES):
        inputs = make(B, I, O, k, kind, dtype, silu=number % 2 == 0)
        on_gpu = moved(inputs, "cuda")
        assert cuda.takes(on_gpu)
        with tf32(precision == "tf32"):
            got, baseline = results(cuda, on_gpu), results(native, on_gpu)
        truth = results(native, moved(double(inputs), "cuda"))
        unit = 2.0**-11 if precision == "tf32" else UNITS[dtype] * torch.finfo(dtype).eps
        assert excess(got, baseline, truth, unit) == {}, (B, I, O)


@orders
@kinds
def test_local_support_against_native_and_bit_by_bit(kind: str, k: int) -> None:
    inputs = make(3000, 20, 80, k, kind, G=100, silu=True)
    assert all(support.pays(name, 80, 100 + k + 1, k, "float32") for name in model.KERNELS)
    on_gpu = moved(inputs, "cuda")
    with tf32(False):
        got, again, baseline = (results(kernel, on_gpu, PRODUCT) for kernel in (cuda, cuda, native))
    truth = results(native, moved(double(inputs), "cuda"), PRODUCT)
    assert excess(got, baseline, truth, UNITS[torch.float32] * torch.finfo(torch.float32).eps) == {}
    assert all(torch.equal(got[name], again[name]) for name in got)


@orders
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_first_use_check_passes_without_a_warning(dtype: torch.dtype, k: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for on in (False, True) if dtype == torch.float32 else (False,):
            with tf32(on):
                assert check.failure(torch.device("cuda", torch.cuda.current_device()), k, dtype) is None


def test_results_repeat_bit_by_bit() -> None:
    inputs = moved(make(9000, 20, 30, 3, "adapted"), "cuda")
    assert shares.of_weight_grad(9000, torch.Size((8, 20, 30)))[0] > 1
    first, second = results(cuda, inputs), results(cuda, inputs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_offsets_beyond_32_bits() -> None:
    I, B = 64, 2**25 + 70
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("takes 40 GiB of the GPU's memory")
    small = make(70, I, 2, 3, "adapted", silu=True)
    x = torch.zeros(B, I, device="cuda")
    x[-70:] = small.x.cuda()
    large = moved(small, "cuda")._replace(x=x)
    y = cuda.spline_linear(large)[-70:]
    torch.testing.assert_close(y, cuda.spline_linear(moved(small, "cuda")), rtol=0, atol=0)
    grad = torch.zeros(B, 2, device="cuda")
    grad[-70:] = 1.0
    weight = large.weight.permute(2, 1, 0).contiguous()
    of_x, _ = products.input_grad(x, None, large.knots, weight, grad, 3)
    expected, _ = products.input_grad(x[-70:].contiguous(), None, large.knots, weight, grad[-70:].contiguous(), 3)
    torch.testing.assert_close(of_x[-70:], expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's doing, on native's functions
@pytest.mark.parametrize("penalty", [SampleL1(), SampleStd()], ids=["l1", "std"])
@pytest.mark.parametrize("amp", [False, True], ids=["float32", "autocast"])
def test_networks_by_auto_native_and_compiled(amp: bool, penalty: SampleL1 | SampleStd) -> None:
    x = torch.randn(600, 7, generator=torch.Generator().manual_seed(0)).cuda()

    def step(kernel: str, compiled: bool = False) -> list[Tensor]:
        kan = KAN([7, 40, 3], kernel=kernel, generator=torch.Generator().manual_seed(1)).cuda()

        def run(x: Tensor) -> Tensor:
            y, value = kan.forward_with_penalty(x, penalty)
            return y.float().square().mean() + value

        with torch.autocast("cuda", torch.bfloat16, enabled=amp):
            loss = (torch.compile(run) if compiled else run)(x)
        loss.backward()
        return [loss.detach(), *(parameter.grad for parameter in kan.parameters() if parameter.grad is not None)]

    wide = 3e-2 if amp else 1e-4
    expected = step("native")
    for got in (step("auto"), step("auto", compiled=True)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert float((one - other).abs().max()) <= wide * float(other.abs().max())
