"""Steps that several commands share: from spectra with labels to a network with error bars."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console

from symspec.cli.signals import going_on
from symspec.errors import DataError, DiskFullError
from symspec.laplace.fit import fit_laplace
from symspec.laplace.posterior import LaplacePosterior
from symspec.networks.layers import Standardize, Unstandardize
from symspec.networks.network import Network, mlp
from symspec.networks.noise import GaussianNoise, Noise, PredictedNoise, StudentTNoise
from symspec.networks.prior import scaled_prior
from symspec.networks.regression import Regression
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.pixels import fill_flux
from symspec.spectra.readers.read import read_spectra
from symspec.spectra.spectra import Spectra
from symspec.training.epochs import train
from symspec.training.evidence import tune as tune_by_evidence
from symspec.training.newton import polish

START_NOISE = 0.3  # of the standard deviation of each label
_SATURATING = ("tanh", "sigmoid")


def say(text: str) -> None:
    """Print a line with rich's markup on stderr."""
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)


def read_labelled_spectra(
    path: Path, label_names: Sequence[str] | None, options: dict[str, Any]
) -> Spectra:
    """Read spectra, which should have labels.

    Parameters
    ----------
    path : Path
    label_names : sequence of str, optional
        Labels to read, in this order; by default all that are known.
    options : dict
        Options of `symspec.read_spectra`.

    Raises
    ------
    DataError
        The file has no labels.
    """
    stars = read_spectra(path, label_names=label_names or None, **options)
    if stars.labels is None:
        raise DataError(
            f"{path} should hold labels to train on, got none under the names known: name them in"
            " the file, labels with label_names, or TEFF, LOGG, FE_H; or say which to read,"
            " --label NAME."
        )
    return stars


def build_start(
    spectra: Spectra,
    hidden: Sequence[int],
    activation: str,
    *,
    sigma_noise: ArrayLike | None = None,
    prior_precision: float = 1.0,
    dof: float | None = None,
    predicts_noise: bool = False,
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
    """
    X = fill_flux(spectra)
    Y = np.asarray(spectra.labels)
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
        [Standardize.of(X, constant="keep"), *dense.layers, scaling],
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


def finish(
    reg: Regression,
    theta: np.ndarray,
    spectra: Spectra,
    *,
    tune: bool,
    memory: str,
    structure: str = "auto",
    progress: bool | Progress = True,
) -> LaplacePosterior:
    """Go to the minimum, with `tune` at the noise and prior of largest evidence, and invert.

    Parameters
    ----------
    reg : Regression
    theta : numpy.ndarray, shape (param,)
        Start.
    spectra : Spectra
        Training stars with labels.
    tune : bool
        Whether to set noise and prior, or to keep those of `reg`.
    memory : str
        Memory that a factorisation may take, such as "8GB".
    structure : str
        Structure of the inverse Hessian, see `fit_laplace`.
    progress : bool or Progress, default True
    """
    with show_progress(progress) as show:
        if tune:
            reg, theta = tune_by_evidence(
                reg, theta, spectra, structure=structure, memory=memory, progress=show
            )
        else:
            polished = polish(
                reg, theta, spectra, structure=structure, memory=memory, progress=show
            )
            theta = polished.theta
        show("inverting the Hessian", 0, None)
        laplace = fit_laplace(
            reg,
            theta,
            spectra,
            structure=structure,
            memory=memory,
            require_minimum=False,
            progress=show,
        )
        show("looking whether it is a minimum", 0, None)
        laplace.certificate.decide()
    return laplace


def offer_to_resume(output: Path) -> AbstractContextManager[None]:
    """Say on Ctrl-C where the finished pieces of an output are."""
    folder = output.with_name(f"{output.name}.partial")

    def find_advice() -> str:
        if folder.is_dir():
            return f"finished pieces are kept in {folder}; the same command resumes from there."
        return "no piece was finished; the same command starts again."

    return going_on(find_advice)


def write_or_keep(write: Callable[[Path], object], path: Path) -> None:
    """Write the result of long work; where its disk is full, keep it elsewhere.

    Parameters
    ----------
    write : callable
        Writes the result to a given path.
    path : Path

    Raises
    ------
    DiskFullError
        The disk of `path` is full; a note says where the result is kept.
    """
    try:
        write(path)
    except DiskFullError as error:
        kept = _keep(write, path.name)
        if kept is None:
            error.add_note("Nor is there space in the folder of temporary files or in your own.")
        else:
            error.add_note(f"It is kept as {kept}: move it once there is space.")
        raise


def _keep(write: Callable[[Path], object], name: str) -> Path | None:
    """Write a file where there is space; None if there is none anywhere."""
    for folder in (tempfile.gettempdir(), Path.home()):
        with suppress(OSError):
            own = Path(tempfile.mkdtemp(prefix="symspec-", dir=folder))
            try:
                write(own / name)
            except OSError:
                own.rmdir()
                raise
            return own / name
    return None
