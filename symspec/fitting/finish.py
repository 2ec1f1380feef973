"""From trained weights to error bars at a minimum."""

from __future__ import annotations

import numpy as np

from symspec.laplace.fit import fit_laplace
from symspec.laplace.posterior import LaplacePosterior
from symspec.networks.regression import Regression
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.spectra import Spectra
from symspec.training.evidence import tune as tune_by_evidence
from symspec.training.newton import polish


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
