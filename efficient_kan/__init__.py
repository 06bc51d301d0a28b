"""Efficient Kolmogorov-Arnold networks: exact B-spline KANs in the reformulated form."""

if "<torch_package_" in __name__:  # whose modules dataclasses, and kernels that are loaded by name, do not find
    raise ImportError("torch.package: efficient_kan cannot be interned; use exporter.extern('efficient_kan.**') and install it")

from efficient_kan.linear import KANLinear as KANLinear
from efficient_kan.network import KAN as KAN
from efficient_kan.penalties import SampleL1 as SampleL1
from efficient_kan.penalties import SampleStd as SampleStd
from efficient_kan.penalties import WeightL1 as WeightL1
from efficient_kan.resnet import ResNetKAN as ResNetKAN

__all__ = ["KAN", "KANLinear", "ResNetKAN", "SampleL1", "SampleStd", "WeightL1"]
__version__ = "0.1.0"
