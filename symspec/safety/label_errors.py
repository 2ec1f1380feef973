"""Labels that came with errors of their own, which differ from star to star."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from symspec.errors import DataError, ShapeError
from symspec.safety.arrays import as_float_array, describe_bad

AXES = ("star", "label")
SYMMETRY = 1e-10  # of covariances, relative to their largest variance; rounding of correlations


@dataclass(frozen=True, eq=False)
class LabelsWithErrors:
    """Labels of stars, and the covariance of the errors that they came with.

    Stars are selected by ``labels[rows]``. As an array, for compiled functions, each star has its
    labels, then their variances, or their covariance row by row.

    Attributes
    ----------
    labels : numpy.ndarray, shape (star, label)
        NaN where missing.
    errors : numpy.ndarray, shape (star, label) or (star, label, label)
        Variances, or covariances; zero where a label is missing.
    """

    labels: np.ndarray
    errors: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | np.ndarray) -> LabelsWithErrors:
        return LabelsWithErrors(self.labels[rows], self.errors[rows])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._columns, dtype, copy=copy)

    @cached_property
    def _columns(self) -> np.ndarray:
        return np.hstack([self.labels, self.errors.reshape(len(self), -1)])

    @property
    def covariance(self) -> np.ndarray:
        """E_n (star, label, label)."""
        if self.errors.ndim == 3:
            return self.errors
        return self.errors[:, :, None] * np.eye(self.errors.shape[1])


Labels = np.ndarray | LabelsWithErrors

REFUSE = "refuse"
MISSING = (REFUSE, "infer")  # what an error that is missing beside its label means


def add_errors(
    labels: np.ndarray, label_errors: ArrayLike | None, *, missing: str = "refuse"
) -> Labels:
    """Labels together with the errors that they came with, if these are given.

    Parameters
    ----------
    labels : numpy.ndarray, shape (star, label)
        NaN where missing.
    label_errors : array_like, shape (star, label) or (star, label, label), optional
        Standard deviations, or covariances, in the labels' units. Those of missing labels are
        ignored.
    missing : {"refuse", "infer"}
        What an error means that is NaN while the label is there: a mistake, or that the noise of
        the regression stands for all of the label's error.

    Raises
    ------
    ShapeError
        The shape is another one.
    DataError
        An error of a label that is there is not a positive number, or a covariance is not one.
    """
    if label_errors is None:
        return labels
    errors = as_float_array(label_errors, "label_errors")
    n_stars, n_labels = labels.shape
    expected = {2: (n_stars, n_labels), 3: (n_stars, n_labels, n_labels)}
    if errors.shape != expected.get(errors.ndim):
        raise ShapeError(
            f"label_errors should have shape {expected[2]}, standard deviations, or {expected[3]},"
            f" covariances, got {errors.shape}: give one row for each row of the labels."
        )
    observed = ~np.isnan(labels)
    if errors.ndim == 3:
        known = observed if missing == REFUSE else observed & ~np.isnan(errors).any(axis=2)
        return LabelsWithErrors(labels, _check_covariances(errors, known))
    known = observed if missing == REFUSE else observed & ~np.isnan(errors)
    return LabelsWithErrors(labels, _check_deviations(errors, known) ** 2)


def find_labels_alone(labels: Labels) -> np.ndarray:
    """Labels (star, label), without their errors."""
    return labels.labels if isinstance(labels, LabelsWithErrors) else labels


def find_observed(labels: Labels) -> np.ndarray:
    """Which labels are there, of bool (star, label)."""
    return ~np.isnan(find_labels_alone(labels))


def _check_deviations(errors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Standard deviations, zero where they are not known."""
    _refuse_unknown(known & np.isnan(errors), errors)
    bad = known & ~((errors > 0) & np.isfinite(errors))
    if bad.any():
        raise DataError(
            "label_errors should be positive standard deviations, got"
            f" {describe_bad(bad, errors, AXES)}: write NaN where the label or its error is"
            " missing, or leave them out (of files by label_errors='none')."
        )
    return np.where(known, errors, 0.0)


def _check_covariances(errors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Covariances, zero in rows and columns of labels whose errors are not known."""
    E = np.where(known[:, :, None] & known[:, None, :], errors, 0.0)
    _refuse_unknown(np.isnan(E).any(axis=2), np.einsum("ncc->nc", errors))
    bad = ~(np.isfinite(E).all(axis=(1, 2)))
    E[bad] = 0.0
    scale = np.einsum("ncc->nc", E).max(axis=1, initial=0.0)
    bad |= np.abs(E - E.transpose(0, 2, 1)).max(axis=(1, 2), initial=0.0) > SYMMETRY * scale
    with_ones = E + np.eye(E.shape[1]) * ~known[:, None, :]
    bad |= _find_lowest_eigenvalues(with_ones) < -SYMMETRY
    if bad.any():
        star = int(np.flatnonzero(bad)[0])
        raise DataError(
            "label_errors should be covariances (star, label, label), finite, symmetric, with"
            " positive variances, and not indefinite, got"
            f" {np.count_nonzero(bad)} that are not (first: star {star}, {errors[star].tolist()}):"
            " give (star, label) standard deviations if they do not belong together."
        )
    return (E + E.transpose(0, 2, 1)) / 2


def _find_lowest_eigenvalues(E: np.ndarray) -> np.ndarray:
    """Of the correlations of covariances (star, label, label); -1 where a variance is not one."""
    variance = np.einsum("ncc->nc", E)
    positive = (variance > 0).all(axis=1)
    scale = np.sqrt(np.where(positive[:, None], variance, 1.0))
    lowest = np.linalg.eigvalsh(E / scale[:, :, None] / scale[:, None, :]).min(axis=1)
    return np.where(positive, lowest, -1.0)


def _refuse_unknown(bad: np.ndarray, errors: np.ndarray) -> None:
    if bad.any():
        raise DataError(
            "label_errors should be known where the label is, got"
            f" {describe_bad(bad, errors, AXES)}: give Spectra(..., missing_label_error='infer'),"
            " by which the noise of the regression stands for all of the error of these labels, or"
            " write NaN for the labels."
        )
