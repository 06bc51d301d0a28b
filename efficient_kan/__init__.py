"""Efficient Kolmogorov-Arnold networks: exact B-spline KANs in the reformulated form."""

from efficient_kan.conv import KANConv2d as KANConv2d
from efficient_kan.linear import KANLinear as KANLinear
from efficient_kan.network import KAN as KAN
from efficient_kan.penalties import SampleL1 as SampleL1
from efficient_kan.penalties import SampleStd as SampleStd
from efficient_kan.penalties import WeightL1 as WeightL1
from efficient_kan.resnet import ResNetKAN as ResNetKAN
from efficient_kan.training import Trained as Trained
from efficient_kan.training import train as train

__all__ = ["KAN", "KANConv2d", "KANLinear", "ResNetKAN", "SampleL1", "SampleStd", "Trained", "WeightL1", "train"]
__version__ = "0.1.0"
