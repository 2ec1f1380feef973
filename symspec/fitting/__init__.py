"""From spectra with labels to a network with error bars, and its test by cross-validation.

`build_start` makes the network, `run_adam` trains it, `finish` takes it to the minimum and inverts
the Hessian; `validate` does all of it again for each part of the stars, held out in turn.
"""

from symspec.fitting.fit import FitOptions, finish, fit_network, run_adam
from symspec.fitting.start import build_start
from symspec.fitting.validation import Validation, validate

__all__ = [
    "FitOptions",
    "Validation",
    "build_start",
    "finish",
    "fit_network",
    "run_adam",
    "validate",
]
