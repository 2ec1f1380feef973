"""From spectra with labels to a network with error bars, and on to predictions: the command line's steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from symspec.errors import DataError, TooLargeError
from symspec.hmc.sampling import run_hmc
from symspec.inverse_hessian.choice import choose_structure
from symspec.laplace.audit import AUDITED, StructureAudit, audit_structures
from symspec.laplace.fit import fit_laplace
from symspec.laplace.posterior import LaplacePosterior
from symspec.networks.layers import Standardize, Unstandardize
from symspec.networks.network import Network, mlp
from symspec.networks.prior import scaled_prior
from symspec.networks.regression import Regression
from symspec.spectra.pixels import fill_bad_pixels, fill_flux
from symspec.spectra.selections import match_labels, pick_evenly, split_stars
from symspec.spectra.spectra import Spectra
from symspec.training.epochs import train
from symspec.training.evidence import tune as tune_by_evidence
from symspec.training.newton import polish

if TYPE_CHECKING:
    from xarray import DataTree

START_NOISE = 0.3  # of the standard deviation of each label
_SATURATING = ("tanh", "sigmoid")

Tell = Callable[[str], object]


def find_training_stars(
    laplace: LaplacePosterior, spectra: Spectra, validation: float, seed: int
) -> tuple[Spectra, Spectra | None]:
    """The stars of a file that a model was trained on, and those set aside.

    They are known by their mean spectrum: all with labels, or those that `split_stars` leaves.

    Raises
    ------
    DataError
        They are others.
    """
    for fraction in (0.0, validation):
        training, others = split_stars(spectra, fraction, seed)
        if np.allclose(
            fill_flux(training).mean(axis=0, dtype=np.float64), laplace.flux_mean, rtol=1e-9, atol=0
        ):
            return training, others
    raise DataError(
        f"the spectra should be those that the model was trained on, got {len(spectra)} stars of"
        " another mean spectrum: give that file, and --validation and --train-seed as they were"
        " for 'symspec train'."
    )


def build_start(
    spectra: Spectra,
    hidden: Sequence[int],
    activation: str,
    *,
    sigma_noise: Any = None,
    prior_precision: float = 1.0,
) -> Regression:
    """Regression of a multilayer perceptron that takes flux and gives labels in their own units.

    Parameters
    ----------
    spectra : Spectra
        Training stars. A pixel that never varies is left as it is, rather than scaled.
    hidden : sequence of int
        Widths of the hidden layers.
    activation : str
    sigma_noise : float or sequence of float, optional
        By default `START_NOISE` times the standard deviation of each label.
    prior_precision : float, default 1.0
        See `scaled_prior`.
    """
    X = fill_flux(spectra)
    words = {"label_names": spectra.label_names, "label_units": spectra.label_units}
    net = mlp([spectra.n_pixels, *hidden, spectra.n_labels], activation=activation)
    mean = X.mean(axis=0)
    scale = X.std(axis=0)
    scale[scale <= 1e-12 * np.abs(mean)] = 1.0
    layers = [Standardize(mean, scale), *net.layers, Unstandardize.of(spectra.labels)]
    grid = {"wavelength": spectra.wavelength, "wavelength_unit": spectra.wavelength_unit}
    net = Network(layers, spectra.n_pixels, **words, **grid)
    if sigma_noise is None:
        sigma_noise = START_NOISE * np.nanstd(spectra.labels, axis=0)
    elif np.size(sigma_noise) == 1:
        sigma_noise = float(np.squeeze(sigma_noise))
    return Regression(
        net, sigma_noise=sigma_noise, prior_precision=scaled_prior(net, prior_precision)
    )


def run_adam(
    reg: Regression, spectra: Spectra, held_out: Spectra | None, *, seed: int, **options: Any
) -> np.ndarray:
    """Weights (param,) of the best epoch of `train`, watched on the stars held out.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C was pressed meanwhile.
    """
    X = fill_flux(spectra)
    activation = next(
        (layer.function for layer in reg.net.layers if hasattr(layer, "function")), ""
    )
    init = "glorot_uniform" if activation in _SATURATING else "he_normal"
    if held_out is not None:
        options["validation"] = (
            fill_bad_pixels(held_out.flux, held_out.ivar, X.mean(axis=0)),
            held_out.labels,
        )
    fit = train(reg, X, spectra.labels, init=init, rng=np.random.default_rng(seed), **options)
    if fit.stopped == "interrupted":
        raise KeyboardInterrupt
    return fit.theta


def check_tunable(reg: Regression, spectra: Spectra, structure: str, memory: str) -> None:
    """Refuse, before any training, to tune by products alone: that takes hours to days.

    Raises
    ------
    TooLargeError
        "auto" would take krylov for so many stars and weights.
    """
    n_rows = int(np.count_nonzero(~np.isnan(spectra.labels)))
    if (
        structure == "auto"
        and choose_structure(reg.net, n_rows, memory=memory).structure == "krylov"
    ):
        raise TooLargeError(
            f"tuning takes an exact inverse Hessian, which should fit in {memory}, but"
            f" {reg.net.n_params:,} weights and {n_rows:,} labels do not: give more --memory,"
            " --no-tune with a --sigma-noise of your own, or an approximation such as --structure"
            " kronecker."
        )


def finish(
    reg: Regression,
    theta: np.ndarray,
    spectra: Spectra,
    *,
    tune: bool,
    memory: str,
    structure: str = "auto",
    tell: Tell = str,
) -> LaplacePosterior:
    """Go to the minimum, at the noise and prior of largest evidence with `tune`, and invert the Hessian.

    Parameters
    ----------
    reg : Regression
    theta : numpy.ndarray, shape (param,)
        Where to start.
    spectra : Spectra
        Training stars.
    tune : bool
        Whether to set noise and prior, or to keep those of `reg`.
    memory : str
        What a factorisation may take, such as "8GB".
    structure : str
        Of the inverse Hessian, see `fit_laplace`.
    tell : callable, optional
        Called with what is being done, in words.
    """
    X = fill_flux(spectra)
    Y = spectra.labels
    words = {"structure": structure, "memory": memory}
    tell("starting Newton steps")
    if tune:
        count = iter(range(1, 10**9))

        def tell_evidence(reg: Regression, evidence: Any) -> None:
            evidence = f"{evidence.log_marginal_likelihood:,.1f} nats"
            tell(f"tuning noise and prior: evaluation {next(count)}, log evidence {evidence}")

        reg, theta = tune_by_evidence(reg, theta, X, Y, **words, callback=tell_evidence)
    else:

        def tell_step(i: int, U: float, decrement: float) -> None:
            tell(f"Newton step {i}, decrement {decrement:.3g} nats")

        theta = polish(reg, theta, X, Y, **words, callback=tell_step).theta
    tell("inverting the Hessian")
    return fit_laplace(reg, theta, X, Y, **words, require_minimum=False, progress=False)


def audit_spectra(
    reg: Regression,
    theta: np.ndarray,
    spectra: Spectra,
    sample: Spectra | None = None,
    *,
    n_sample: int = 200,
    structures: Sequence[str] = (),
    memory: str = "8GB",
    tell: Tell = str,
) -> tuple[StructureAudit, np.ndarray | None]:
    """Hold every structure's error bars against the exact ones.

    Parameters
    ----------
    reg : Regression
    theta : numpy.ndarray, shape (param,)
    spectra : Spectra
        Training stars, with the labels of the network under their names.
    sample : Spectra, optional
        Stars to compare on; by default `n_sample` of the training stars, at random but always the
        same.
    n_sample : int
    structures : sequence of str
        By default all of `symspec.laplace.audit.AUDITED`.
    memory : str
    tell : callable, optional
        Called with what is being done, in words.

    Returns
    -------
    StructureAudit
    ids : numpy.ndarray of str, shape (star,), or None
        Of the sample.

    Raises
    ------
    DataError
        The spectra lack labels that the network was trained on.
    """
    Y = match_labels(spectra, reg.net.label_names)
    X = fill_flux(spectra)
    if Y is None or np.isnan(Y).all(axis=0).any():
        raise DataError(
            f"the spectra should have the labels {', '.join(reg.net.label_names)} that the network"
            f" was trained on, got {', '.join(spectra.label_names) or 'none'}: give the file that"
            " it was trained on."
        )
    if sample is None:
        chosen = np.sort(np.random.default_rng(0).permutation(len(spectra))[:n_sample])
        sample = spectra[chosen]
        flux = X[chosen]
    else:
        flux = fill_bad_pixels(sample.flux, sample.ivar, X.mean(axis=0))
    words = {"structures": tuple(structures) or AUDITED, "memory": memory}
    audit = audit_structures(
        reg, theta, X, Y, flux, callback=lambda name: tell(f"auditing: {name}"), **words
    )
    return audit, sample.ids


def sample_by_hmc(
    laplace: LaplacePosterior, training: Spectra, sample: Spectra, n_sample: int, **options: Any
) -> tuple[DataTree, np.ndarray, np.ndarray | None]:
    """Draws of `run_hmc` for at most `n_sample` stars of a sample, with their flux (star, pixel) and ids."""
    sample = sample[pick_evenly(len(sample), n_sample)]
    flux = fill_bad_pixels(sample.flux, sample.ivar, laplace.flux_mean)
    words = {"laplace": laplace, "X_check": flux, **options}
    return run_hmc(laplace.reg, fill_flux(training), training.labels, **words), flux, sample.ids
