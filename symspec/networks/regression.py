r"""Regression: a network with noise and prior, and its negative log posterior as a graph.

.. math::
    U(\theta) = -\sum_n \log p(y_n \mid f(\theta, x_n))
                + \tfrac12 \sum_i \left[\delta_i \theta_i^2 - \log\delta_i + \log 2\pi\right]

With normal noise of covariance S_n of the C_n labels that star n has (NaN = missing),

.. math::
    -\log p(y_n \mid f) = \tfrac12 \left[|T_n (y_n - f)|^2 + \log\det S_n + C_n \log 2\pi\right],
    \qquad T_n^T T_n = S_n^{-1},

and delta_i is the prior precision of parameter i. Sums, never means, and all constants: U is minus
PyMC's logp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike

from symspec.errors import OptionError, ShapeError
from symspec.networks.layers import Layer
from symspec.networks.network import Network
from symspec.networks.noise import LOG_2PI, GaussianNoise, Noise
from symspec.networks.params import Compilable, Symbol
from symspec.networks.prior import NormalPrior, Precision
from symspec.networks.theta import as_theta
from symspec.safety.label_errors import Labels


class Regression(Compilable):
    """Likelihood and prior around a network.

    Parameters
    ----------
    net : Network
    noise : Noise, optional
        `GaussianNoise`, `StudentTNoise` or `PredictedNoise`.
    sigma_noise : float or array_like, shape (label,), optional
        In place of `noise`: standard deviation of normal noise of each label, in the label's units.
    noise_covariance : array_like, shape (label, label), optional
        In place of `noise`: full covariance of normal noise.
    prior_precision : float, array_like (param,), or dict of str to float or array
        Precision (1 / variance) of the zero-mean normal prior: one number, one a parameter, or one
        a block. A dict's keys are names of blocks ("dense_0/kernel") or of layers ("dense_0"), and
        cover all of them.

    Attributes
    ----------
    net : Network
        With as many labels as the noise makes of its outputs.
    noise : Noise
    prior : NormalPrior
    noise_covariance : numpy.ndarray, shape (label, label)
        NaN where it differs from star to star.
    sigma_noise : numpy.ndarray, shape (label,)
        Square root of its diagonal.
    has_full_noise : bool
        Whether labels share noise.
    prior_precision : dict of str to float or numpy.ndarray
        By block.

    Raises
    ------
    OptionError
        More or less than one noise is given, the prior names blocks that the network does not
        have, or the network has no weights.
    ShapeError, DataError
        Wrong number of sigmas, a last layer that the noise does not go with, a value that is not
        positive, a covariance that is not one.
    """

    def __init__(
        self,
        net: Network,
        *,
        noise: Noise | None = None,
        sigma_noise: ArrayLike | None = None,
        noise_covariance: ArrayLike | None = None,
        prior_precision: ArrayLike | Mapping[str, Any],
    ):
        if not net.n_params:
            raise OptionError(
                f"net should have weights to train, got {net!r}, which is the same function"
                " whatever the stars: put Dense among its layers."
            )
        noise = _choose_noise(noise, sigma_noise, noise_covariance)
        self.net = _count_labels(net, noise)
        self.noise = noise.for_labels(self.net.n_labels)
        self.prior = NormalPrior(prior_precision, net.layout)

    def __repr__(self) -> str:
        return (
            f"Regression({self.net!r},"
            f" sigma_noise={np.array2string(self.sigma_noise, precision=4)})"
        )

    def with_network(self, net: Network) -> Regression:
        """The same noise and prior around another network with the same blocks."""
        return Regression(net, noise=self.noise, prior_precision=self.prior_precision)

    def with_noise(self, noise: Noise) -> Regression:
        """The same network and prior with another noise."""
        return Regression(self.net, noise=noise, prior_precision=self.prior_precision)

    @property
    def noise_covariance(self) -> np.ndarray:
        """Covariance (label, label) of the noise."""
        return self.noise.covariance

    @property
    def sigma_noise(self) -> np.ndarray:
        """Standard deviation (label,) of the noise."""
        return self.noise.sigma

    @property
    def has_full_noise(self) -> bool:
        """Whether the noise was given as a covariance."""
        return isinstance(self.noise, GaussianNoise) and self.noise.is_full

    @property
    def prior_precision(self) -> dict[str, Precision]:
        """Precision of the prior by block."""
        return self.prior.precision

    def prior_precision_vector(self) -> np.ndarray:
        """Prior precision of each parameter (param,)."""
        return self.prior.vector()

    def log_det_prior_precision(self) -> float:
        """Sum of the logarithms of all prior precisions."""
        return self.prior.log_det

    def negative_log_posterior(self, theta: Any, flux: Any, labels: Any) -> Symbol:
        """Symbolic U(theta), a scalar summed over stars with all its constants.

        Parameters
        ----------
        theta : symbolic vector (param,)
        flux : symbolic (star, pixel) or (pixel,)
        labels : symbolic (star, label) or (label,)
            NaN = missing: that entry alone leaves the likelihood. With the variances of errors of
            their own behind them they are (star, 2 label), with covariances
            (star, label + label^2), a shape that the symbol has to state.
        """
        params = self.net.layout.unpack(as_theta(theta, self.net.n_params))
        return self.negative_log_likelihood(params, flux, labels) + self.negative_log_prior(params)

    def negative_log_likelihood(
        self, params: Mapping[str, Symbol], flux: Any, labels: Any
    ) -> Symbol:
        """The likelihood's part of U, from named blocks."""
        f = self.net.build(params, flux)
        # logarithms of the noise take the dtype of the labels
        labels = pt.as_tensor_variable(labels).astype(f.dtype)
        if labels.ndim != f.ndim:
            raise ShapeError(
                f"labels should have {f.ndim} axes like the network's output for this flux, got"
                f" {labels.ndim}."
            )
        return -pt.sum(self.noise.log_likelihood(f, labels))

    def negative_log_prior(self, params: Mapping[str, Symbol]) -> Symbol:
        """The prior's part of U, from named blocks."""
        return self.prior.build_negative_log(params)

    def constant(self, labels: Labels) -> float:
        """The part of U that no weights change, of labels (star, label)."""
        prior = self.net.n_params * LOG_2PI - self.log_det_prior_precision()
        return self.noise.constant(labels) + 0.5 * prior

    def add_prior(self, gradient: np.ndarray, theta: np.ndarray, weight: float) -> float:
        """Add `weight` times the prior's gradient to `gradient` (param,); return that part of U."""
        return self.prior.add_gradient(gradient, theta, weight)

    def negative_log_prior_of_held(self, theta: np.ndarray, free: slice) -> float:
        """The prior's part of U at theta (param,) that belongs to the parameters outside `free`."""
        return self.prior.negative_log_of_held(theta, free)


def _count_labels(net: Network, noise: Noise) -> Network:
    """The network with as many labels as the noise makes of its outputs."""
    n_labels, left = divmod(net.n_outputs, noise.outputs_per_label)
    if left == 0 and net.can_have(n_labels):
        return net.with_n_labels(n_labels)
    per_label = noise.outputs_per_label
    many = "one output" if per_label == 1 else f"{per_label} outputs"
    expected = per_label * net.n_labels
    raise ShapeError(
        f"{noise!r} takes {many} a label, got a network whose last layer has {net.n_outputs}"
        f" outputs for {net.n_labels} labels: give it {expected}, with n_labels={net.n_labels}, or"
        " another noise."
    )


def _choose_noise(
    noise: Noise | None, sigma_noise: ArrayLike | None, noise_covariance: ArrayLike | None
) -> Noise:
    if noise is None:
        return GaussianNoise.from_keywords(sigma_noise, noise_covariance)
    if sigma_noise is not None or noise_covariance is not None:
        raise OptionError(
            "noise takes the place of sigma_noise and noise_covariance: give one of the three."
        )
    if not isinstance(noise, Noise):
        raise OptionError(
            f"noise should be one such as GaussianNoise(sigma=0.1), got {noise!r}: a standard"
            " deviation goes into sigma_noise."
        )
    return noise


def describe_network(net: Network) -> dict[str, Any]:
    """All that a network is but for its weights, for `find_fingerprint`."""
    layers = [
        (f"{type(one).__module__}.{type(one).__qualname__}", find_settings(one))
        for one in net.layers
    ]
    return {
        "layers": layers,
        "sources": net.sources,
        "n_pixels": net.n_pixels,
        "label_names": net.label_names,
        "label_units": net.label_units,
        "wavelength": net.wavelength,
        "wavelength_unit": net.wavelength_unit,
        **find_medium(net),
    }


def describe_regression(reg: Regression) -> dict[str, Any]:
    """All that a regression is, for `find_fingerprint`."""
    return {
        "network": describe_network(reg.net),
        "noise": reg.noise,
        "prior": reg.prior_precision,
    }


def find_medium(net: Network) -> dict[str, str]:
    """Medium of the wavelengths; nothing where it is not known, as of the first versions."""
    return {} if net.wavelength_medium is None else {"wavelength_medium": net.wavelength_medium}


def find_settings(layer: Layer) -> dict[str, Any]:
    """Fields of a layer, but for other layers, which the network lists itself.

    A convolution of one group is what it was before there were several.
    """
    values = {field.name: getattr(layer, field.name) for field in fields(layer)}
    if values.get("groups") == 1:
        del values["groups"]
    return {name: value for name, value in values.items() if not _is_layers(value)}


def _is_layers(value: Any) -> bool:
    return isinstance(value, Layer) or (
        isinstance(value, tuple) and any(isinstance(v, Layer) for v in value)
    )
