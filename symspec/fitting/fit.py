"""From a start to a network with error bars: Adam, Newton, the inverse Hessian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.fitting.start import build_start
from symspec.laplace.fit import fit_laplace
from symspec.laplace.posterior import LaplacePosterior
from symspec.networks.noise import GaussianNoise
from symspec.networks.regression import Regression
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.spectra import Spectra
from symspec.training.epochs import train
from symspec.training.evidence import tune as tune_by_evidence
from symspec.training.newton import polish

PRIORS = {  # what of the prior is tuned, in words
    "scale": "",
    "per_layer": ", prior by layer",
    "per_block": ", prior by block",
    "fixed": ", prior fixed",
}
_SATURATING = ("tanh", "sigmoid")


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a network is built and trained, as `build_start`, `run_adam` and `finish` take it."""

    hidden: Sequence[int] = (32,)
    activation: str = "tanh"
    preprocess: str = ""
    sigma_noise: ArrayLike | None = None
    prior_precision: float = 1.0
    dof: float | None = None
    predicts_noise: bool = False
    epochs: int = 200
    batch_size: int = 64
    learning_rate: float = 1e-3
    tune: bool = True
    prior: str = "scale"
    starts: int = 1
    structure: str = "auto"
    memory: str = "8GB"

    @property
    def name(self) -> str:
        """The network in words: "linear", "8 tanh", "64-16 relu, prior by layer"."""
        if not self.hidden:
            return "linear"
        widths = "-".join(map(str, self.hidden))
        return f"{widths} {self.activation}{PRIORS[self.prior]}"


def fit_network(
    spectra: Spectra,
    options: FitOptions,
    *,
    seed: int = 0,
    held_out: Spectra | None = None,
    decide: bool = True,
    progress: bool | Progress = True,
) -> LaplacePosterior:
    """Train a network on spectra with labels, and find its error bars.

    Parameters
    ----------
    spectra : Spectra
    options : FitOptions
    seed : int
        Of the first weights and of the batches.
    held_out : Spectra, optional
        Stars on which Adam's best epoch is chosen.
    decide : bool, default True
        Whether to look at once whether the weights are at a minimum.
    progress : bool or Progress, default True
    """
    start = build_start(
        spectra,
        options.hidden,
        options.activation,
        sigma_noise=options.sigma_noise,
        prior_precision=options.prior_precision,
        dof=options.dof,
        predicts_noise=options.predicts_noise,
        preprocess=options.preprocess,
    )
    theta = find_first_weights(
        start, spectra, options, seed=seed, held_out=held_out, progress=progress
    )
    return finish(
        start,
        theta,
        spectra,
        tune=options.tune,
        prior=options.prior,
        starts=options.starts,
        structure=options.structure,
        memory=options.memory,
        decide=decide,
        progress=progress,
    )


def find_first_weights(
    reg: Regression,
    spectra: Spectra,
    options: FitOptions,
    *,
    seed: int = 0,
    held_out: Spectra | None = None,
    progress: bool | Progress = True,
) -> np.ndarray:
    """Weights (param,) for Newton's steps to start from: those of `run_adam`.

    Without hidden layers and with normal noise U has one minimum, and zeros do.
    """
    if not options.hidden and isinstance(reg.noise, GaussianNoise):
        return np.zeros(reg.net.n_params)
    return run_adam(
        reg,
        spectra,
        held_out,
        seed=seed,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        progress=progress,
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
    noise: str = "per_label",
    prior: str = "scale",
    starts: int = 1,
    decide: bool = True,
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
    noise, prior : str
        What of them is set, see `symspec.tune`.
    starts : int
        Weights that `tune` starts from, `theta` among them.
    decide : bool, default True
        As of `fit_network`.
    progress : bool or Progress, default True
    """
    with show_progress(progress) as show:
        if tune:
            reg, theta = tune_by_evidence(
                reg, theta, spectra,
                noise=noise, prior=prior, starts=starts,
                structure=structure, memory=memory, progress=show,
            )  # fmt: skip
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
        if decide:
            show("looking whether it is a minimum", 0, None)
            laplace.certificate.decide()
    return laplace
