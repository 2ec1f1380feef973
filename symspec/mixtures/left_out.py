"""Training stars of several networks as if they had been left out of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import OptionError
from symspec.laplace.flags import FlagOptions
from symspec.laplace.leave_one_out import LeftOut, TrainingStars
from symspec.laplace.posterior import LaplacePosterior
from symspec.mixtures.prediction import CombinedPrediction, mix_predictions
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.resampling import Resampled
from symspec.spectra.spectra import Spectra

if TYPE_CHECKING:
    from symspec.mixtures.posterior import AnyPosterior, CombinedPosterior

SAME_MEAN = 1e-9  # relative, of training spectra that are the same for all networks


@dataclass(frozen=True, eq=False)
class CombinedLeftOut:
    """Training stars, each predicted by several networks as if its group had been left out.

    Attributes
    ----------
    parts : tuple of LeftOut
        Of each network.
    weights : numpy.ndarray, shape (network,)
        Of the mixture, which stay.
    """

    parts: tuple[LeftOut, ...]
    weights: np.ndarray

    @property
    def stars(self) -> TrainingStars:
        """The training stars."""
        return self.parts[0].stars

    def predict(
        self, center: str = "weights", options: FlagOptions | None = None
    ) -> CombinedPrediction:
        """The stars' labels; their noise is that of these, with the errors that they came with."""
        return mix_predictions([part.predict(center, options) for part in self.parts], self.weights)

    def find_influence(
        self,
        X_new: ArrayLike | Spectra | Resampled,
        *,
        curvature: str = "auto",
        progress: bool | Progress = True,
    ) -> np.ndarray:
        """By how much each group moves each label of new stars (star, label, group)."""
        with show_progress(progress) as show:
            each = [
                part.find_influence(X_new, curvature=curvature, progress=show)
                for part in self.parts
            ]
        moved: np.ndarray = np.einsum("k,kncg->ncg", self.weights, each)
        return moved


AnyLeftOut = LeftOut | CombinedLeftOut


def leave_out(
    laplace: AnyPosterior,
    X: ArrayLike | Spectra | Resampled | None = None,
    Y: ArrayLike | None = None,
    *,
    label_errors: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> AnyLeftOut:
    """Leave out each training star, or group of them, of one network or of each of a mixture.

    Raises
    ------
    OptionError, ShapeError, DataError
        As `LaplacePosterior.leave_one_out`; the networks were trained on different stars.
    """
    if isinstance(laplace, LaplacePosterior):
        return LeftOut.of(laplace, groups, X, Y, label_errors, ivar)
    find_flux_mean(laplace)
    parts = [LeftOut.of(o, groups, X, Y, label_errors, ivar) for o in laplace.posteriors]
    return CombinedLeftOut(tuple(parts), laplace.weights)


def has_one_training_set(combined: CombinedPosterior) -> bool:
    """Whether all networks were trained on the same stars, as their mean spectra tell."""
    first, *others = (one.flux_mean for one in combined.posteriors)
    return all(np.allclose(other, first, rtol=SAME_MEAN, atol=0) for other in others)


def find_flux_mean(laplace: AnyPosterior) -> np.ndarray:
    """Mean training spectrum (pixel,), which tells stars that a model was trained on.

    Raises
    ------
    OptionError
        The networks were trained on different stars.
    """
    if isinstance(laplace, LaplacePosterior):
        return laplace.flux_mean
    if not has_one_training_set(laplace):
        raise OptionError(
            "the networks should have been trained on the same stars, to be known by these, got"
            " networks of different ones: take each of them alone."
        )
    return laplace.posteriors[0].flux_mean
