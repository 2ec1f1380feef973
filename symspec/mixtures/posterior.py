"""Several networks as one: the mixture of their posteriors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from symspec.errors import DataError, OptionError
from symspec.laplace.flags import FlagOptions
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.prediction import Prediction
from symspec.mixtures.left_out import leave_out
from symspec.mixtures.prediction import CombinedPrediction, find_spread, mix_predictions
from symspec.networks.network import Network
from symspec.safety.options import check_choice
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.resampling import Resampled
from symspec.spectra.spectra import Spectra

WEIGHTS = ("equal", "evidence")
ALIKE = ("n_pixels", "label_names", "label_units")  # in all networks of a mixture
GRID = ("wavelength", "wavelength_unit", "wavelength_medium")  # where they are known


@dataclass(frozen=True, eq=False)
class CombinedPosterior:
    """A mixture of the posteriors of several networks, each around its own weights.

    Attributes
    ----------
    posteriors : tuple of LaplacePosterior
        Of the same pixels and labels; `combine` says what it raises if they are not.
    weights : numpy.ndarray, shape (network,)
    """

    posteriors: tuple[LaplacePosterior, ...]
    weights: np.ndarray

    def __post_init__(self) -> None:
        if not self.posteriors:
            raise OptionError("combine takes at least one posterior, got none.")
        for one in self.posteriors[1:]:
            _check_alike(self.net, one.reg.net)

    if not TYPE_CHECKING:  # which would believe in every attribute

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"a mixture of networks has no {name!r}, which each has for itself: take one of its"
                " posteriors, .posteriors[0] for example."
            )

    @property
    def net(self) -> Network:
        """The first network, for what all have in common: pixels, wavelengths and labels."""
        return self.posteriors[0].reg.net

    def predict_labels(self, X: ArrayLike, *, center: str = "weights") -> np.ndarray:
        """Labels (star, label) or (label,), the weighted mean of the networks'."""
        each = [one.predict_labels(X, center=center) for one in self.posteriors]
        return np.tensordot(self.weights, each, 1)

    def label_covariance(self, X: ArrayLike) -> np.ndarray:
        """Covariance (star, label, label) of the labels within the networks and between them."""
        within = np.tensordot(self.weights, [one.label_covariance(X) for one in self.posteriors], 1)
        labels = np.array([one.predict_labels(X) for one in self.posteriors])
        return within + find_spread(labels, self.weights)

    def predict(
        self,
        X: ArrayLike | Spectra | Resampled,
        *,
        ivar: ArrayLike | None = None,
        flag_options: FlagOptions | None = None,
        resume: str | os.PathLike[str] | None = None,
        progress: bool | Progress = True,
        **options: Any,
    ) -> CombinedPrediction:
        """Labels with the error budget of the mixture.

        Parameters
        ----------
        X, ivar, flag_options, progress, **options
            As for `LaplacePosterior.predict`, which is called for each network.
        resume : path, optional
            A folder, in which each network has one of its own.

        Returns
        -------
        CombinedPrediction
            A star has the flags that any network gives it, the widest distance and shift.
        """
        folders = [None if resume is None else Path(resume) / f"network_{k}" for k in self._numbers]
        with show_progress(progress) as show:
            parts = [
                one.predict(
                    X, ivar=ivar, flag_options=flag_options, resume=folder, progress=show, **options
                )
                for one, folder in zip(self.posteriors, folders, strict=True)
            ]
        return mix_predictions(parts, self.weights)

    @property
    def _numbers(self) -> range:
        return range(len(self.posteriors))

    def leave_one_out(self, *stars: Any, center: str = "weights", **options: Any) -> Prediction:
        """Predict each training star as if it had been left out of the training of every network.

        Parameters
        ----------
        *stars, center, **options
            As for `LaplacePosterior.leave_one_out`. The weights of the mixture stay.
        """
        flag_options = options.pop("flag_options", None)
        return leave_out(self, *stars, **options).predict(center, flag_options)

    def influence(
        self,
        X_new: ArrayLike | Spectra | Resampled,
        *stars: Any,
        curvature: str = "auto",
        progress: bool | Progress = True,
        **options: Any,
    ) -> np.ndarray:
        """By how much each training star moves each label of new stars, in the labels' units.

        Parameters
        ----------
        X_new, *stars, curvature, progress, **options
            As for `LaplacePosterior.influence`. The weights of the mixture stay.
        """
        left_out = leave_out(self, *stars, **options)
        return left_out.find_influence(X_new, curvature=curvature, progress=progress)


AnyPosterior = LaplacePosterior | CombinedPosterior


def list_posteriors(laplace: AnyPosterior) -> tuple[LaplacePosterior, ...]:
    """Those of a mixture, or the one that stands alone."""
    return (laplace,) if isinstance(laplace, LaplacePosterior) else laplace.posteriors


def find_weights(laplace: AnyPosterior) -> np.ndarray:
    """Those of a mixture (network,), or 1 of the network that stands alone."""
    return np.ones(1) if isinstance(laplace, LaplacePosterior) else laplace.weights


def combine(
    posteriors: Sequence[LaplacePosterior], *, weights: str | ArrayLike = "equal"
) -> CombinedPosterior:
    """Take several networks together: trained from other starts, or of other sizes.

    One network's error bars are those of one basin; between the training stars, several starts
    differ by more (Lakshminarayanan et al. 2017, arXiv:1612.01474; Eschenhagen et al. 2021,
    arXiv:2111.03577, for mixtures of Laplace approximations). They have to end in different minima
    for that: where all lead to the same one, up to signs and order of units, `between_cov` is zero
    and the mixture is one network again.

    Parameters
    ----------
    posteriors : sequence of LaplacePosterior
        Of the same pixels and labels.
    weights : {"equal", "evidence"} or array_like (network,)
        "evidence": proportional to the marginal likelihood, of posteriors of the same training set;
        a few nats make one of them count alone. Numbers are divided by their sum.

    Raises
    ------
    DataError
        They differ in their pixels or labels, or the weights are no positive numbers.
    OptionError
        Fewer than one posterior, or a name of weights that there is not.
    """
    each = tuple(posteriors)
    combined = CombinedPosterior(each, np.full(len(each), np.nan))
    return replace(combined, weights=_weigh(each, weights))


def _check_alike(first: Network, other: Network) -> None:
    """Refuse networks of other pixels, wavelengths or labels."""
    for name in (*ALIKE, *GRID):
        wanted = getattr(first, name)
        found = getattr(other, name)
        is_known = wanted is not None and found is not None
        if is_known and not np.array_equal(wanted, found):
            raise DataError(
                f"the networks should have the same {name}, got {wanted} and {found}: combine"
                " networks of the same spectra and labels."
            )


def _weigh(posteriors: tuple[LaplacePosterior, ...], weights: str | ArrayLike) -> np.ndarray:
    n = len(posteriors)
    if isinstance(weights, str):
        if check_choice(weights, "weights", WEIGHTS) == "equal":
            return np.full(n, 1 / n)
        return softmax([one.log_marginal_likelihood() for one in posteriors])
    found = np.asarray(weights, float)
    if found.shape != (n,) or not (np.isfinite(found) & (found >= 0)).all() or not found.any():
        raise DataError(
            f"weights should be {n} numbers of at least 0, one for each posterior, got {weights}."
        )
    return found / found.sum()
