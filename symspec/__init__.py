"""Exact derivatives and honest error bars for regression networks on spectra, written as PyTensor graphs."""

from symspec import datasets
from symspec.activations import ACTIVATIONS
from symspec.compiled import (
    compile_ggn,
    compile_ggn_vector_product,
    compile_hessian,
    compile_hessian_vector_product,
    compile_jacobian,
    compile_objective,
    compile_predict,
)
from symspec.errors import (
    DataError,
    DivergedError,
    FileFormatError,
    MissingDependencyError,
    NotAtMinimumError,
    NotAtMinimumWarning,
    NotPositiveDefiniteError,
    OptionError,
    ShapeError,
    SymspecError,
    TooLargeError,
)
from symspec.laplace import LaplacePosterior, fit_laplace
from symspec.layers import Activation, Dense, Dropout, Layer, Standardize, Unstandardize
from symspec.minimization import minimize
from symspec.networks import Network, mlp, standardized
from symspec.polish import PolishResult, polish
from symspec.prediction import Flag, Prediction
from symspec.readers import read_spectra
from symspec.regression import Regression, prior_precision_from_weight_decay
from symspec.spectra import Spectra
from symspec.training import TrainResult, train

__version__ = "0.1.0"

__all__ = [name for name in dir() if not name.startswith("_")]
