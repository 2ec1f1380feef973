"""The network that a training starts from: layers, units, noise and prior out of the spectra."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives.compiled import compile_predict
from symspec.errors import DataError
from symspec.networks.layers import Layer, Standardize, Unstandardize
from symspec.networks.network import Network, mlp
from symspec.networks.noise import GaussianNoise, Noise, PredictedNoise, StudentTNoise
from symspec.networks.preprocessing import make_preprocessing, parse_preprocessing
from symspec.networks.prior import scaled_prior
from symspec.networks.regression import Regression
from symspec.spectra.pixels import fill_flux
from symspec.spectra.spectra import Spectra

START_NOISE = 0.3  # of the standard deviation of each label


def build_start(
    spectra: Spectra,
    hidden: Sequence[int],
    activation: str,
    *,
    sigma_noise: ArrayLike | None = None,
    prior_precision: float = 1.0,
    dof: float | None = None,
    predicts_noise: bool = False,
    preprocess: str = "",
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
        Of predicted noise the one that its prior is around. By default `START_NOISE` times the
        standard deviation of each label.
    prior_precision : float, default 1.0
        See `scaled_prior`.
    dof : float, optional
        Degrees of freedom of Student's t noise, of which `sigma_noise` is the scale; by default
        noise is normal.
    predicts_noise : bool, default False
        Whether the network predicts the noise of each star.
    preprocess : str, default ""
        What is done to spectra first, see `symspec.networks.preprocessing.parse_preprocessing`.
    """
    Y = np.asarray(spectra.labels)
    before = _preprocess(fill_flux(spectra), preprocess)
    scaling = Unstandardize.of(Y)
    sigma = START_NOISE * np.nanstd(Y, axis=0) if sigma_noise is None else np.asarray(sigma_noise)
    sigma = np.squeeze(sigma) if sigma.size == 1 else sigma
    normal = GaussianNoise.from_keywords(sigma, None).for_labels(Y.shape[1])
    noise: Noise = normal if dof is None else StudentTNoise(normal.sigma, dof)
    noise = PredictedNoise() if predicts_noise else noise
    n_outputs = noise.outputs_per_label * Y.shape[1]
    scaling = scaling.for_outputs(n_outputs, np.log(normal.sigma))
    dense = mlp([spectra.n_pixels, *hidden, n_outputs], activation=activation)
    net = Network(
        [*before, *dense.layers, scaling],
        spectra.n_pixels,
        n_labels=Y.shape[1],
        label_names=spectra.label_names,
        label_units=spectra.label_units,
        wavelength=spectra.wavelength,
        wavelength_unit=spectra.wavelength_unit,
        wavelength_medium=spectra.wavelength_medium,
    )
    prior = scaled_prior(net, prior_precision)
    return Regression(net, noise=noise, prior_precision=prior)


def _preprocess(flux: np.ndarray, text: str) -> list[Layer]:
    """Layers of a text, the last of which standardises spectra (star, pixel).

    Raises
    ------
    DataError
        They make something of a spectrum that is no number.
    """
    layers: list[Layer] = []
    for name, numbers in parse_preprocessing(text):
        layer = make_preprocessing(name, numbers, flux)
        layers.append(layer)
        flux = compile_predict(Network([layer], flux.shape[1]))(np.zeros(0), flux)
        if (bad := ~np.isfinite(flux).all(axis=1)).any():
            raise DataError(
                f"preprocessing by {name} should give numbers, got none for"
                f" {np.count_nonzero(bad)} spectra, the first of them star {np.argmax(bad)}: a"
                " spectrum that is the same at all pixels has no scale; leave it out."
            )
    if not (layers and isinstance(layers[-1], Standardize)):
        layers.append(Standardize.of(flux, constant="keep"))
    return layers
