"""Efficient Kolmogorov-Arnold networks: exact B-spline KANs without a value per sample and edge."""

import importlib
from typing import TYPE_CHECKING, Any

from efficient_kan.conv import KANConv2d as KANConv2d
from efficient_kan.linear import KANLinear as KANLinear
from efficient_kan.network import KAN as KAN
from efficient_kan.penalties import SampleL1 as SampleL1
from efficient_kan.penalties import SampleStd as SampleStd
from efficient_kan.penalties import WeightL1 as WeightL1
from efficient_kan.resnet import ResNetKAN as ResNetKAN
from efficient_kan.training import Trained as Trained
from efficient_kan.training import train as train

if TYPE_CHECKING:
    from efficient_kan.estimators import KANClassifier as KANClassifier
    from efficient_kan.estimators import KANRegressor as KANRegressor

# Names that need an extra, which is imported when they are first asked for.
_EXTRAS = {"KANClassifier": "efficient_kan.estimators", "KANRegressor": "efficient_kan.estimators"}

__all__ = ["KAN", "KANConv2d", "KANLinear", "ResNetKAN", "SampleL1", "SampleStd", "Trained", "WeightL1", "train"]
__version__ = "0.6.0.dev0"


def __getattr__(name: str) -> Any:
    if name not in _EXTRAS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXTRAS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXTRAS})
