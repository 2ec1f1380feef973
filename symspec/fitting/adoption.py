"""A network that another program trained becomes a posterior with error bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives import compiled
from symspec.errors import DataError, OptionError, ShapeError, SymspecError
from symspec.fitting.label_scaling import LabelScaling, find_label_scaling, find_scatter
from symspec.laplace.budget import CENTERS, can_be_linearized, find_flux_covariance
from symspec.laplace.fit import fit_laplace
from symspec.laplace.posterior import LaplacePosterior
from symspec.networks.layers import Layer, Standardize, Unstandardize
from symspec.networks.network import Network
from symspec.networks.prior import scaled_prior
from symspec.networks.regression import Regression
from symspec.networks.theta import check_theta
from symspec.safety.options import check_choice
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.grids import check_grid
from symspec.spectra.pixels import fill_flux
from symspec.spectra.spectra import Spectra
from symspec.training.evidence import tune

MOVES = ("none", "minimum")
COUNTED = ("beyond_training", "all")
N_SAMPLED = 256  # training stars whose flux errors are propagated: their mean is known to some %
SEED = 0
FLUX_SCALINGS = ("none", "zscore")
LEAST_NOISE = 1e-3  # of a label's spread, at the start, where a network meets its labels exactly
START_PRIOR = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Adopted:
    """What `adopt_network` gives.

    Attributes
    ----------
    laplace : LaplacePosterior
        The labels of its network are in their own units.
    label_scaling : LabelScaling
        What was found of how the network scales them.
    """

    laplace: LaplacePosterior
    label_scaling: LabelScaling


def adopt_network(
    net: Network,
    theta: ArrayLike,
    stars: Spectra,
    *,
    move: str = "none",
    flux_scaling: str = "none",
    label_scaling: tuple[ArrayLike, ArrayLike] | None = None,
    count_flux_errors: str = "beyond_training",
    structure: str = "auto",
    memory: str = "8GB",
    progress: bool | Progress = True,
) -> Adopted:
    """Error bars for a network as it is, from the spectra that it was trained on.

    Parameters
    ----------
    net : Network
        As `read_network` gives it. What it does not say, the names and units of its labels and its
        wavelengths, comes from `stars`.
    theta : array_like, shape (param,)
    stars : Spectra
        With labels, in their own units and in the order of the network's outputs; with the errors
        of the labels where they are known.
    move : {"none", "minimum"}
        The weights stay, and noise and prior maximise the evidence of the network linearised there;
        or they go to the minimum of the posterior at the noise and prior of largest evidence, see
        `tune`. A network that was stopped early is far from there, and may get worse.
    flux_scaling : {"none", "zscore"}
        The network takes the flux as it is in `stars`, or each pixel less its mean over them,
        divided by its standard deviation.
    label_scaling : tuple of mean and scale, each a number or (label,), optional
        Labels are mean + scale * output. By default it is found, see `find_label_scaling`.
    count_flux_errors : {"beyond_training", "all"}
        What flux errors of new spectra count. Noise and model errors, as the evidence finds them,
        hold what those of `stars` did to the labels (if their `ivar` is known): new spectra as
        noisy as these have no further ones. With "all", they count a second time.
    structure, memory : str
        As for `fit_laplace`.
    progress : bool or Progress, default True
        True: a bar on stderr if it takes more than three seconds.

    Raises
    ------
    ShapeError, DataError, OptionError
        The spectra are not what the network takes, have no labels, or its outputs do not follow
        these labels.
    """
    check_choice(move, "move", MOVES)
    check_choice(flux_scaling, "flux_scaling", FLUX_SCALINGS)
    check_choice(count_flux_errors, "count_flux_errors", COUNTED)
    weights = np.array(check_theta(theta, net.n_params))
    _check_stars(net, stars)
    X = fill_flux(stars)
    Y = np.asarray(stars.labels)
    layers = [Standardize.of(X, constant="keep")] if flux_scaling == "zscore" else []
    scaled = _complete(net, stars, [*layers, *net.layers])
    outputs = np.asarray(compiled.compile_predict(scaled)(weights, X))
    scaling = _find_scaling(outputs, Y, stars, label_scaling)
    if not scaling.is_none:
        last = Unstandardize(scaling.mean, scaling.scale)
        scaled = _complete(net, stars, [*scaled.layers, last])
    sigma = np.maximum(scaling.scatter, LEAST_NOISE * np.nanstd(Y, axis=0))
    prior = scaled_prior(scaled, START_PRIOR)
    reg = Regression(scaled, sigma_noise=sigma, prior_precision=prior)
    with show_progress(progress) as show:
        reg, weights = tune(
            reg, weights, stars,
            move=move == "minimum", structure=structure, memory=memory, progress=show,
        )  # fmt: skip
        show("inverting the Hessian", 0, None)
        laplace = fit_laplace(
            reg, weights, stars,
            structure=structure, memory=memory, require_minimum=False, progress=show,
        )  # fmt: skip
        if count_flux_errors == "beyond_training":
            laplace = count_beyond_training(laplace, stars)
    return Adopted(laplace=laplace, label_scaling=scaling)


def count_beyond_training(laplace: LaplacePosterior, stars: Spectra) -> LaplacePosterior:
    """The posterior, for which flux errors count beyond those of its training spectra.

    Noise and model errors, as the evidence finds them, hold what these did to the labels.

    Parameters
    ----------
    laplace : LaplacePosterior
    stars : Spectra
        The training stars; without errors of their flux all counts as before.
    """
    if stars.ivar is None:
        return laplace
    some = np.sort(np.random.default_rng(SEED).permutation(stars.n_stars)[:N_SAMPLED])
    centers = CENTERS if can_be_linearized(laplace) else ("weights",)
    means = [find_flux_covariance(laplace, stars[some], c).mean(axis=0) for c in centers]
    # without a linearised centre nobody can ask for its own
    return replace(laplace, training_flux_cov=np.stack([means[0], means[-1]]))


def adopt_networks(
    networks: Sequence[tuple[Network, ArrayLike]], stars: Spectra, **options: Any
) -> list[Adopted]:
    """`adopt_network` for each of several, such as an ensemble, for `symspec.combine`.

    Parameters
    ----------
    networks : sequence of network and weights
    stars, **options
        As for `adopt_network`.

    Raises
    ------
    ShapeError, DataError, OptionError
        As `adopt_network`; before any work where the stars are not what a network takes.
    """
    n = len(networks)
    for k, (net, _) in enumerate(networks, 1):
        with _naming(k, n):
            _check_stars(net, stars)
    found = []
    for k, (net, theta) in enumerate(networks, 1):
        with _naming(k, n):
            found.append(adopt_network(net, theta, stars, **options))
    return found


@contextmanager
def _naming(k: int, n: int) -> Iterator[None]:
    """Say in errors which of several networks they are about."""
    try:
        yield
    except SymspecError as error:
        if n > 1:
            error.add_note(f"It is network {k} of {n}.")
        raise


def _check_stars(net: Network, stars: Spectra) -> None:
    if stars.labels is None:
        raise DataError(
            "stars should have labels, those that the network was trained on, got none: give"
            " Spectra(..., labels=...)."
        )
    if stars.labels.shape[1] != net.n_labels:
        raise ShapeError(
            f"stars should have {net.n_labels} labels, one for each output of the network, got"
            f" {stars.labels.shape[1]} ({', '.join(stars.label_names)}): choose them by name, in"
            " the order of the outputs (--label NAME for each on the command line)."
        )
    check_grid(net, stars, "the stars")


def _complete(net: Network, stars: Spectra, layers: list[Layer]) -> Network:
    """The network of these layers, with the names, units and wavelengths of the stars."""
    return Network(
        layers,
        net.n_pixels,
        label_names=stars.label_names,
        label_units=stars.label_units,
        wavelength=stars.wavelength,
        wavelength_unit=stars.wavelength_unit,
        wavelength_medium=stars.wavelength_medium,
    )


def _find_scaling(
    outputs: np.ndarray,
    labels: np.ndarray,
    stars: Spectra,
    given: tuple[ArrayLike, ArrayLike] | None,
) -> LabelScaling:
    if given is None:
        return find_label_scaling(outputs, labels, stars.label_names)
    try:
        mean, scale = (np.broadcast_to(np.asarray(part, float), outputs.shape[1]) for part in given)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"label_scaling should be a mean and a scale, each a number or one a label, got"
            f" {given!r}."
        ) from error
    scatter = find_scatter(outputs, labels, mean, scale)
    return LabelScaling(mean=mean, scale=scale, rule="as given", scatter=scatter)
