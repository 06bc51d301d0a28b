"""scikit-learn's estimators of KANs. They need scikit-learn: ``pip install 'efficient-kan-bench[sklearn]'``."""

try:
    import sklearn as _sklearn
except ImportError as error:
    raise ImportError(
        "efficient_kan.estimators: expected scikit-learn, which is missing; use pip install 'efficient-kan-bench[sklearn]'"
    ) from error

from efficient_kan.estimators.classifier import KANClassifier as KANClassifier
from efficient_kan.estimators.regressor import KANRegressor as KANRegressor

del _sklearn
__all__ = ["KANClassifier", "KANRegressor"]
