"""Intervals whose coverage holds whatever the noise is, from training stars left out in turn."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from symspec.laplace.leave_one_out import complete_flux
from symspec.mixtures.left_out import leave_out
from symspec.mixtures.posterior import AnyPosterior, list_posteriors
from symspec.safety.label_errors import find_labels_alone
from symspec.safety.options import check_number
from symspec.spectra.resampling import Resampled
from symspec.spectra.spectra import Spectra


def jackknife_intervals(
    laplace: AnyPosterior,
    X_new: ArrayLike | Spectra | Resampled,
    X: ArrayLike | Spectra | Resampled | None = None,
    Y: ArrayLike | None = None,
    *,
    label_errors: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
    level: float = 0.68,
) -> np.ndarray:
    r"""Intervals of new labels by the jackknife+, which takes no noise to be true.

    With :math:`f_{-n}` the labels without training star n, and :math:`R_n = |y_n - f_{-n}(x_n)|`,
    they reach from the :math:`\lfloor \alpha (N + 1) \rfloor`-th smallest of :math:`f_{-n}(x) -
    R_n` to the :math:`\lceil (1 - \alpha) (N + 1) \rceil`-th smallest of :math:`f_{-n}(x) + R_n`,
    :math:`\alpha = 1 - level`. If the stars, new and old, come from one population, and leaving out
    is exact, a new label lies inside with a probability of at least 2 level - 1, and mostly of
    about `level` (Barber et al. 2021, doi:10.1214/20-AOS1965). Leaving out is that of
    `LaplacePosterior.leave_one_out`: exact for a linear network with normal noise.

    Parameters
    ----------
    laplace : LaplacePosterior or CombinedPosterior
        With structure="primal" or "dual".
    X_new : array_like, shape (star, pixel), Spectra or Resampled
        The stars to predict, with flux as noisy as that of the training stars.
    X, Y, label_errors, ivar
        The training stars, as for `LaplacePosterior.leave_one_out`.
    level : float, default 0.68

    Returns
    -------
    numpy.ndarray, shape (star, label, 2)
        Infinite where there are too few training stars for the level.

    Raises
    ------
    OptionError
        `level` is not between 0 and 1; another structure.
    ShapeError, DataError
        The stars are not what is expected.
    """
    check_number(level, "level", "between 0 and 1", lambda x: 0 < x < 1)
    left_out = leave_out(laplace, X, Y, label_errors=label_errors, ivar=ivar)
    flux = complete_flux(list_posteriors(laplace)[0], X_new)  # all were trained on the same stars
    labels = find_labels_alone(left_out.stars.labels)
    known = ~np.isnan(labels)
    residuals = np.abs(labels - left_out.predict().labels)
    without = laplace.predict_labels(flux)[:, :, None] - left_out.find_influence(
        flux, curvature="ggn"
    )
    ends = np.empty((*without.shape[:2], 2))
    for c, stars_with in enumerate(known.T):
        R = residuals[stars_with, c]
        f = without[:, c, stars_with]
        ends[:, c, 0] = -_find_end(R - f, level)
        ends[:, c, 1] = _find_end(R + f, level)
    return ends


def _find_end(values: np.ndarray, level: float) -> np.ndarray:
    """The ceil(level (N + 1))-th smallest along the last axis, infinite beyond the largest."""
    n = values.shape[-1]
    place = int(np.ceil(level * (n + 1) - 1e-9))
    if place > n:
        return np.full(values.shape[:-1], np.inf)
    return np.partition(values, place - 1, axis=-1)[..., place - 1]
