"""Exact derivatives and honest error bars for regression networks on spectra, written as PyTensor graphs."""

from symspec import datasets
from symspec.activations import ACTIVATIONS
from symspec.archives import read_laplace, read_regression, write_laplace, write_network
from symspec.audit import StructureAudit, audit_structures
from symspec.calibration import ErrorCalibration, calibrate_errors, coverage, sigma_mad, studentized_residuals
from symspec.certificate import Certificate
from symspec.compiled import (
    compile_ggn_vector_product,
    compile_hessian_vector_product,
    compile_jacobian,
    compile_objective,
    compile_predict,
)
from symspec.convolutions import (
    AveragePool1D,
    Conv1D,
    GlobalAveragePool1D,
    LocallyConnected1D,
    MaxPool1D,
    ZeroPadding1D,
)
from symspec.errors import (
    DataError,
    DivergedError,
    EdgeOfRangeWarning,
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
from symspec.evidence import tune
from symspec.flags import Flag, FlagOptions
from symspec.folding import fold_batch_norm
from symspec.hmc import run_hmc
from symspec.hmc_comparison import HmcComparison, compare_hmc
from symspec.importers import import_network, import_payne, read_network
from symspec.jacobian_files import write_jacobian
from symspec.laplace import fit_laplace
from symspec.laplace_posterior import LaplacePosterior
from symspec.layers import Activation, Dense, Dropout, Layer, Standardize, Unstandardize
from symspec.matrices import compile_ggn, compile_hessian
from symspec.minimization import minimize
from symspec.networks import Network, mlp, standardized
from symspec.normalizations import BatchNorm, ContinuumNormalize, LayerNorm, MedianNormalize
from symspec.polish import PolishResult, polish
from symspec.prediction import Prediction
from symspec.pymc_models import pymc_model
from symspec.readers import open_spectra, read_spectra
from symspec.regression import Regression, prior_precision_from_weight_decay, scaled_prior
from symspec.resampling import Resampled, resample
from symspec.sandwich import sandwich_covariance
from symspec.shaping import Add, Concatenate, Flatten, From, Identity, Permute, Reshape, Slice
from symspec.spectra import Spectra
from symspec.surveys import predict_survey
from symspec.training import TrainResult, train
from symspec.version import __version__ as __version__
from symspec.writers import FileKeptError, catalogue_dataset, write_catalogue

__all__ = [name for name in dir() if not name.startswith("_")]
