"""From spectra with labels to a network that is trained, by Adam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.networks.layers import Standardize, Unstandardize
from symspec.networks.network import Network, mlp
from symspec.networks.noise import StudentTNoise
from symspec.networks.prior import scaled_prior
from symspec.networks.regression import Regression
from symspec.spectra.pixels import fill_flux
from symspec.spectra.spectra import Spectra
from symspec.training.epochs import train

START_NOISE = 0.3  # of the standard deviation of each label
_SATURATING = ("tanh", "sigmoid")


def build_start(
    spectra: Spectra,
    hidden: Sequence[int],
    activation: str,
    *,
    sigma_noise: ArrayLike | None = None,
    prior_precision: float = 1.0,
    dof: float | None = None,
) -> Regression:
    """Regression of a multilayer perceptron from flux to labels in their own units.

    Parameters
    ----------
    spectra : Spectra
        Training stars with labels. A pixel that never varies is divided by its own size.
    hidden : sequence of int
        Widths of the hidden layers.
    activation : str
    sigma_noise : float or sequence of float, optional
        By default `START_NOISE` times the standard deviation of each label.
    prior_precision : float, default 1.0
        See `scaled_prior`.
    dof : float, optional
        Degrees of freedom of Student's t noise, of which `sigma_noise` is the scale; by default
        noise is normal.
    """
    X = fill_flux(spectra)
    Y = np.asarray(spectra.labels)
    dense = mlp([spectra.n_pixels, *hidden, Y.shape[1]], activation=activation)
    net = Network(
        [Standardize.of(X, constant="keep"), *dense.layers, Unstandardize.of(Y)],
        spectra.n_pixels,
        label_names=spectra.label_names,
        label_units=spectra.label_units,
        wavelength=spectra.wavelength,
        wavelength_unit=spectra.wavelength_unit,
        wavelength_medium=spectra.wavelength_medium,
    )
    if sigma_noise is None:
        sigma_noise = START_NOISE * np.nanstd(Y, axis=0)
    elif np.size(sigma_noise) == 1:
        sigma_noise = float(np.squeeze(sigma_noise))
    prior = scaled_prior(net, prior_precision)
    if dof is not None:
        return Regression(net, noise=StudentTNoise(sigma_noise, dof), prior_precision=prior)
    return Regression(net, sigma_noise=sigma_noise, prior_precision=prior)


def run_adam(
    reg: Regression, spectra: Spectra, held_out: Spectra | None, *, seed: int, **options: Any
) -> np.ndarray:
    """Weights (param,) of the best epoch of `train`, watched on the stars held out.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C was pressed meanwhile.
    """
    functions = [layer.function for layer in reg.net.layers if hasattr(layer, "function")]
    saturates = bool(functions) and functions[0] in _SATURATING
    fit = train(
        reg,
        spectra,
        init="glorot_uniform" if saturates else "he_normal",
        validation=held_out,
        rng=np.random.default_rng(seed),
        **options,
    )
    if fit.stopped == "interrupted":
        raise KeyboardInterrupt
    return fit.theta
