"""Exact derivatives and honest error bars for regression networks on spectra.

A network takes a spectrum and gives a few labels, such as effective temperature, surface gravity
and metallicity. symspec writes it as a PyTensor graph over one flat vector of weights, `theta`,
compiles its derivatives, inverts the Hessian of its loss, and reports for every star which part of
each error comes from the model, from the flux and from the noise.

Six steps lead from spectra to a catalogue:

1. Spectra: `read_spectra` (or `datasets`) gives flux, its inverse variance and the known labels.
2. Network and regression: `mlp` or `Network` stacks layers, `standardized` lets flux and labels
   keep their own units, `Regression` adds the noise of the labels and the prior of the weights.
3. `train` runs Adam.
4. `tune` sets noise and prior by the evidence and takes the weights to the minimum.
5. `fit_laplace` inverts the Hessian there and certifies that it is a minimum.
6. `laplace.predict` gives labels with their error budget, `write_catalogue` writes them.

`select` takes steps 2 to 5 for a linear network, and wider and wider ones, and keeps the one that
predicts stars held out best. `SpectraRegressor` is all of it as an estimator of scikit-learn's.

Examples
--------
Fifty generated stars get labels and error bars from a network trained on 150 others:

>>> import numpy as np
>>> import symspec as ss
>>> stars = ss.datasets.generated_stars(
...     200, n_pixels=30, snr=300, wavelength_range=(5150, 5300), rng=np.random.default_rng(0)
... )
>>> known, new = stars[:150], stars[150:]
>>> names, units = stars.label_names, stars.label_units
>>> net = ss.mlp([30, 3, 3], activation="tanh", label_names=names, label_units=units)
>>> net = ss.standardized(net, known.flux, known.labels)
>>> noise, prior = 0.1 * known.labels.std(axis=0), ss.scaled_prior(net, 1.0)
>>> reg = ss.Regression(net, sigma_noise=noise, prior_precision=prior)
>>> fit = ss.train(reg, known, epochs=100, rng=np.random.default_rng(1), progress=False)
>>> reg, theta = ss.tune(reg, fit.theta, known)
>>> laplace = ss.fit_laplace(reg, theta, known)
>>> laplace.certificate.is_minimum
True
>>> prediction = laplace.predict(new)
>>> print(f"TEFF = {prediction.labels[0, 0]:.0f} +- {prediction.errors[0, 0]:.0f} K")
TEFF = 6341 +- 492 K
>>> ss.write_catalogue("catalogue.fits", prediction, new.ids)

Where to read on
----------------
Each room has a help of its own: `help(symspec.networks)` (layers and networks), `.spectra` and
`.spectra.readers` (formats, uncertainties, bad pixels), `.derivatives` (compiled functions and
backends), `.training`, `.inverse_hessian` (which structure), `.laplace` (how to read the error
budget), `.mixtures` (several networks), `.validation` (whether it is true), `.hmc` (the check by
Hamiltonian Monte Carlo),
`.files` (archives, catalogues, long runs), `.files.importers` (networks of other programs),
`.workers` (all cores, and clusters), `.reports` (figures and tables), `.cli`.
"""

from symspec.safety import interrupts as interrupts  # first: the others take seconds

# isort: split
from typing import TYPE_CHECKING, Any

from symspec.derivatives import (
    compile_ggn,
    compile_ggn_vector_product,
    compile_hessian,
    compile_hessian_vector_product,
    compile_jacobian,
    compile_objective,
    compile_predict,
)
from symspec.errors import (
    AssumedUnitWarning,
    DataError,
    DiskFullError,
    DivergedError,
    EdgeOfRangeWarning,
    FileFormatError,
    FileKeptError,
    MissingDependencyError,
    MissingPixelsWarning,
    NotAtMinimumError,
    NotAtMinimumWarning,
    NotPositiveDefiniteError,
    OptionError,
    SeveralMaximaWarning,
    ShapeError,
    SymspecError,
    TooLargeError,
    UnfinishedEvidenceWarning,
    UnsettledEvidenceWarning,
    UnusedDataWarning,
    ValuesDroppedWarning,
    WorkersError,
)
from symspec.files import (
    catalogue_dataset,
    predict_survey,
    read_laplace,
    read_regression,
    write_catalogue,
    write_jacobian,
    write_laplace,
    write_network,
)
from symspec.files.importers import import_network, import_payne, read_network
from symspec.fitting import Selection, Validation, select, validate
from symspec.hmc import HmcComparison, compare_hmc, pymc_model, run_hmc
from symspec.laplace import (
    Certificate,
    Flag,
    FlagOptions,
    GroupMeans,
    LaplacePosterior,
    Prediction,
    fit_laplace,
)
from symspec.mixtures import CombinedPosterior, CombinedPrediction, combine, predict_means
from symspec.networks import (
    ACTIVATIONS,
    MSC,
    SNV,
    Absorbance,
    Activation,
    Add,
    AveragePool1D,
    BatchNorm,
    Concatenate,
    ContinuumNormalize,
    Conv1D,
    Dense,
    Dropout,
    Flatten,
    From,
    GlobalAveragePool1D,
    Identity,
    Layer,
    LayerNorm,
    LocallyConnected1D,
    MaxPool1D,
    MedianNormalize,
    Multiply,
    Network,
    Permute,
    PReLU,
    Regression,
    Reshape,
    SavitzkyGolay,
    Slice,
    Standardize,
    Unstandardize,
    ZeroPadding1D,
    fold_batch_norm,
    mlp,
    prior_precision_from_weight_decay,
    scaled_prior,
    standardized,
)
from symspec.networks.noise import GaussianNoise, PredictedNoise, StudentTNoise
from symspec.spectra import Resampled, Spectra, datasets, resample
from symspec.spectra.covariances import BandedCovariance, LowRankCovariance
from symspec.spectra.readers import open_spectra, read_spectra
from symspec.training import PolishResult, TrainResult, minimize, polish, train, tune
from symspec.validation import (
    ErrorCalibration,
    Outliers,
    StructureAudit,
    audit_structures,
    calibrate_errors,
    coverage,
    find_outliers,
    fit_noise,
    jackknife_intervals,
    sandwich_covariance,
    sigma_mad,
    studentized_residuals,
)
from symspec.version import __version__ as __version__

if TYPE_CHECKING:
    from symspec.reports.pages import write_report

__all__ = [
    # networks
    "Network",
    "mlp",
    "standardized",
    "ACTIVATIONS",
    "Layer",
    "Standardize",
    "StudentTNoise",
    "Unstandardize",
    "Dense",
    "Conv1D",
    "LocallyConnected1D",
    "ZeroPadding1D",
    "MaxPool1D",
    "AveragePool1D",
    "GlobalAveragePool1D",
    "Flatten",
    "Reshape",
    "Permute",
    "Slice",
    "Identity",
    "From",
    "Add",
    "Multiply",
    "Concatenate",
    "BatchNorm",
    "LayerNorm",
    "MedianNormalize",
    "ContinuumNormalize",
    "SNV",
    "MSC",
    "SavitzkyGolay",
    "Absorbance",
    "Dropout",
    "PReLU",
    "Activation",
    "fold_batch_norm",
    # the model
    "Regression",
    "GaussianNoise",
    "PredictedNoise",
    "scaled_prior",
    "prior_precision_from_weight_decay",
    # compiled functions
    "compile_predict",
    "compile_jacobian",
    "compile_objective",
    "compile_hessian_vector_product",
    "compile_ggn_vector_product",
    "compile_hessian",
    "compile_ggn",
    # training
    "train",
    "TrainResult",
    "minimize",
    "polish",
    "PolishResult",
    "tune",
    # error bars
    "fit_laplace",
    "combine",
    "predict_means",
    "GroupMeans",
    "CombinedPosterior",
    "CombinedPrediction",
    "LaplacePosterior",
    "Certificate",
    "Prediction",
    "Flag",
    "FlagOptions",
    "audit_structures",
    "StructureAudit",
    "sandwich_covariance",
    "validate",
    "Validation",
    "select",
    "Selection",
    "coverage",
    "jackknife_intervals",
    "calibrate_errors",
    "ErrorCalibration",
    "sigma_mad",
    "studentized_residuals",
    "find_outliers",
    "fit_noise",
    "Outliers",
    # HMC
    "pymc_model",
    "run_hmc",
    "compare_hmc",
    "HmcComparison",
    # spectra
    "Spectra",
    "read_spectra",
    "open_spectra",
    "BandedCovariance",
    "LowRankCovariance",
    "resample",
    "Resampled",
    "datasets",
    # files
    "read_network",
    "write_network",
    "import_network",
    "import_payne",
    "read_regression",
    "read_laplace",
    "write_laplace",
    "write_catalogue",
    "catalogue_dataset",
    "predict_survey",
    "write_jacobian",
    # reports
    "write_report",
    # errors and warnings
    "SymspecError",
    "ShapeError",
    "DataError",
    "OptionError",
    "FileFormatError",
    "FileKeptError",
    "MissingDependencyError",
    "TooLargeError",
    "DiskFullError",
    "DivergedError",
    "NotAtMinimumError",
    "NotPositiveDefiniteError",
    "WorkersError",
    "NotAtMinimumWarning",
    "MissingPixelsWarning",
    "EdgeOfRangeWarning",
    "SeveralMaximaWarning",
    "UnfinishedEvidenceWarning",
    "UnsettledEvidenceWarning",
    "UnusedDataWarning",
    "AssumedUnitWarning",
    "ValuesDroppedWarning",
]


def __getattr__(name: str) -> Any:
    """Import what takes more packages along when it is first asked for.

    Reports take figures and templates, `SpectraRegressor` scikit-learn.
    """
    if name == "write_report":
        from symspec.reports.pages import write_report

        return write_report
    if name == "SpectraRegressor":
        return _import_estimator()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _import_estimator() -> Any:
    try:
        from symspec.fitting.estimator import SpectraRegressor
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            'SpectraRegressor needs scikit-learn: pip install "symspec[sklearn]".'
        ) from error
    return SpectraRegressor
