"""Whole paths: spectra with labels in, a posterior with error bars out.

`build_start` makes the network, `run_adam` trains it, `finish` takes it to the minimum and inverts
the Hessian; `validate` does all of it again for each part of the stars, held out in turn.
`select` tries networks, linear, wider and wider, and takes the one that predicts stars held out
best. `symspec.fitting.estimator` holds all of it for scikit-learn: `SpectraRegressor`.
`adopt_network(net, theta, stars)` does without training: a network of another program, as it is,
becomes a `LaplacePosterior`; how it scales its labels is found by comparing them
(`find_label_scaling`), noise and prior by the evidence of the network linearised at its weights.
Flux errors count beyond those of its training spectra (`count_beyond_training`).
`fit_starts` trains networks of the same layers from several first weights, `train_again` one that
was adopted, and `adopt_networks` takes those of an ensemble: mixtures, see `symspec.mixtures`.
"""

from symspec.fitting.adoption import (
    Adopted,
    adopt_network,
    adopt_networks,
    count_beyond_training,
)
from symspec.fitting.fit import FitOptions, finish, fit_network, run_adam
from symspec.fitting.label_scaling import LabelScaling, find_label_scaling
from symspec.fitting.selection import Selection, select
from symspec.fitting.start import build_start
from symspec.fitting.starts import fit_starts, train_again
from symspec.fitting.validation import Validation, validate

__all__ = [
    "Adopted",
    "FitOptions",
    "LabelScaling",
    "Selection",
    "Validation",
    "adopt_network",
    "adopt_networks",
    "build_start",
    "count_beyond_training",
    "find_label_scaling",
    "finish",
    "fit_network",
    "fit_starts",
    "run_adam",
    "select",
    "train_again",
    "validate",
]
