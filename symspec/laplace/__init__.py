"""The error bars: certificate, posterior, budget, flags; audit, sandwich, calibration."""

from symspec.laplace.audit import StructureAudit, audit_structures
from symspec.laplace.calibration import (
    ErrorCalibration,
    calibrate_errors,
    coverage,
    sigma_mad,
    studentized_residuals,
)
from symspec.laplace.certificate import Certificate
from symspec.laplace.fit import fit_laplace
from symspec.laplace.flags import Flag, FlagOptions
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.prediction import Prediction
from symspec.laplace.sandwich import sandwich_covariance

__all__ = [
    "Certificate",
    "ErrorCalibration",
    "Flag",
    "FlagOptions",
    "LaplacePosterior",
    "Prediction",
    "StructureAudit",
    "audit_structures",
    "calibrate_errors",
    "coverage",
    "fit_laplace",
    "sandwich_covariance",
    "sigma_mad",
    "studentized_residuals",
]
