"""From data to weights, noise and prior: Adam, SciPy, Newton, evidence.

All take a `Regression`, and `Spectra` with labels, or flux X (star, pixel) and labels Y (star,
label; NaN: missing). ``progress=False`` hides the bar of what takes more than three seconds; a
callable is called as ``progress(stage, done, total, **news)``, see `symspec.safety.progress`.
Labels that came with errors are weighed by them: `Spectra` bring theirs, ``label_errors=`` stands
beside Y. ``Regression(noise=ss.StudentTNoise(scale, dof))`` keeps outliers from pulling.

- `train`: Adam on mini-batches, with Keras's initialisations, validation and early stopping. It
  leaves weights near a minimum, not at one.
- `minimize`: SciPy's minimisers with the exact gradient and Hessian products. The `hess_inv` that
  they return is a by-product of their search, and no covariance.
- `polish`: trust-region Newton to the minimum itself, where error bars are valid.
- `tune`: noise and prior of the largest evidence, then weights polished there. It sets the noise of
  each label (or with ``noise="full"`` its covariance) and the prior: one scale, or with
  ``prior="per_block"`` one for each block. Its gradient is complete: the minimum moves with the
  hyperparameters, and so does the Hessian there. The usual fixed-point updates leave this out, and
  on the MILES stars walk past the maximum into overfitting. Its `callback` receives how many
  parameters of each block the data determine; a value that runs to the edge of its range gives an
  `EdgeOfRangeWarning` that says what it means. Only minima count; ``starts=5`` tries other weights,
  too, and ``move=False`` leaves the weights where they are, with the evidence of the network
  linearised there.

If `fit_laplace` warns "not at a minimum": ``theta = ss.polish(reg, theta, X, Y).theta``, or `tune`.
A network that was stopped early to keep it from overfitting wants a stronger prior instead, which
is what `tune` finds, or ``tune(..., move=False)``.

>>> import numpy as np
>>> import symspec as ss
>>> stars = ss.datasets.generated_stars(50, n_pixels=20, rng=np.random.default_rng(0))
>>> net = ss.standardized(ss.mlp([20, 2, 3], activation="tanh"), stars.flux, stars.labels)
>>> reg = ss.Regression(net, sigma_noise=[200.0, 0.4, 0.2], prior_precision=1.0)
>>> rng = np.random.default_rng(1)
>>> theta = ss.train(reg, stars, epochs=20, rng=rng, progress=False).theta
>>> ss.polish(reg, theta, stars).converged
True
"""

from symspec.training.epochs import TrainResult, train
from symspec.training.evidence import tune
from symspec.training.minimization import minimize
from symspec.training.newton import PolishResult, polish

__all__ = ["PolishResult", "TrainResult", "minimize", "polish", "train", "tune"]
