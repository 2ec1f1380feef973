"""From data to weights, noise and prior: Adam, SciPy, Newton, evidence."""

from symspec.training.epochs import TrainResult, train
from symspec.training.evidence import tune
from symspec.training.minimization import minimize
from symspec.training.newton import PolishResult, polish

__all__ = ["PolishResult", "TrainResult", "minimize", "polish", "train", "tune"]
