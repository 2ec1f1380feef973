"""Do the error bars tell the truth? Held against labels, other structures, and other noise.

Against labels
    `coverage` is the share of true labels inside their intervals, `sigma_mad` the robust scatter of
    residuals, `calibrate_errors` the factor by which the errors of each label are too small,
    `fit_noise` the noise with tails that their labels have. They take predictions of stars that the
    network was not trained on, with their known labels. `studentized_residuals` finds wrong labels
    in the training set, `find_outliers` those that noise with wide tails made little of.
    `find_mean_scores` is the mean log density of known labels, and their mean continuous ranked
    probability score, by which predictions are compared.
Without other stars
    `laplace.leave_one_out()` predicts each training star as if it had not been trained on, for all
    of these; `jackknife_intervals` need no noise to be true, `laplace.influence` tells what each
    training star does to a prediction: `find_movers` ranks them, `find_suspects` the labels that
    contradict all others.
Against the exact inverse Hessian
    `audit_structures` compares the error bars of every structure on a sample of stars, inside the
    training set and outside.
Against noise that is not what the regression says
    `sandwich_covariance(laplace, X, Y, X_new)` is J A^-1 B A^-1 J^T with B from the residuals.
Against the posterior itself
    `symspec.compare_hmc` holds Laplace against Hamiltonian Monte Carlo.
"""

from symspec.validation.audit import StructureAudit, audit_structures
from symspec.validation.calibration import (
    ErrorCalibration,
    calibrate_errors,
    coverage,
    fit_noise,
    sigma_mad,
    studentized_residuals,
)
from symspec.validation.influence import Movers, Suspects, find_movers, find_suspects
from symspec.validation.jackknife import jackknife_intervals
from symspec.validation.outliers import Outliers, find_outliers
from symspec.validation.sandwich import sandwich_covariance
from symspec.validation.scores import MeanScores, find_mean_scores

__all__ = [
    "ErrorCalibration",
    "MeanScores",
    "Movers",
    "Outliers",
    "StructureAudit",
    "Suspects",
    "audit_structures",
    "calibrate_errors",
    "coverage",
    "find_mean_scores",
    "find_movers",
    "find_outliers",
    "find_suspects",
    "fit_noise",
    "jackknife_intervals",
    "sandwich_covariance",
    "sigma_mad",
    "studentized_residuals",
]
