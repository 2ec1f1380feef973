"""The error bars: certificate, posterior, budget, flags.

`fit_laplace(reg, theta, stars)` gives a `LaplacePosterior`, whose `predict(spectra)` gives a
`Prediction`: labels with their error budget. With weights theta, network f, J = df/dtheta and
J_x = df/dx:

===========  =====================  ============================================================
`model_cov`  J A^-1 J^T             how far the training set leaves the weights open; grows away
                                    from the training stars
`flux_cov`   J_x (Sigma_x+C) J_x^T  what the errors of this spectrum, and its missing pixels, do to
                                    its labels
`noise_cov`  S                      scatter of the training labels around the best network, the
                                    labels' own errors included unless they were given
`total_cov`  their sum              the error bar of a label as the training set defines labels
===========  =====================  ============================================================

All are full covariances between labels, in the labels' units; `prediction.errors` are standard
deviations of the total, `prediction.interval(0.68)` holds a label with that probability, whatever
the tails of the noise, and `prediction.log_density(labels)` is the score of labels that were held
out, as `prediction.crps(labels)` is in their units. A is the Hessian of the negative log posterior
U (a sum over stars, never a mean): the generalised Gauss-Newton matrix by default, the exact
Hessian with ``curvature="hessian"``. How A is inverted: `help(symspec.inverse_hessian)`.

>>> import numpy as np
>>> import symspec as ss
>>> stars = ss.datasets.generated_stars(60, n_pixels=20, rng=np.random.default_rng(0))
>>> known, new = stars[:50], stars[50:]
>>> net = ss.standardized(ss.mlp([20, 2, 3], activation="tanh"), known.flux, known.labels)
>>> reg = ss.Regression(net, sigma_noise=[200.0, 0.4, 0.2], prior_precision=1.0)
>>> theta = net.init_params(np.random.default_rng(1))
>>> theta = ss.polish(reg, theta, known).theta
>>> laplace = ss.fit_laplace(reg, theta, known)
>>> prediction = laplace.predict(new)
>>> parts = prediction.model_cov + prediction.flux_cov + prediction.noise_cov
>>> bool(np.allclose(parts, prediction.total_cov))
True

How to read it
--------------
Errors of the training flux
    A network learns from noisy spectra, so that S, the scatter of the training labels around it,
    holds what that noise did to them. Where the errors of a new spectrum are known, too, they count
    a second time in the total: of spectra as noisy as the training ones, without `ivar`, the total
    is that of `model_cov` and S alone. It is the safe side, as S is often too small where many
    weights fit few stars; a calibration (`symspec.validation`) tells by how much.
Certificate
    A^-1 is a covariance only at a minimum of U. `laplace.certificate` carries |gradient| and the
    Newton decrement in nats; `certificate.is_minimum` looks for a direction in which U curves down,
    in a few products with the exact Hessian, when it is first asked. Weights that were stopped
    early fail it: symspec warns, and `symspec.polish` goes to the minimum. Where they are to stay,
    `prediction.newton_shift` says for each label of each star what the rest of the way would
    change, in units of its model error, flag 8 marks those that it would move by more than half of
    it, and ``predict(..., center="linearized")`` gives the labels of the linearised network at its
    own minimum, around which the error bars are exact. An indefinite exact Hessian
    (``curvature="hessian"`` at a saddle) raises `NotPositiveDefiniteError` with its eigenvalue:
    polish, or use the Gauss-Newton matrix.
``ivar = 0``
    No information: the pixel gets its mean given the good pixels (``fill="conditional"``), as the
    training spectra have it: `laplace.flux_prior` holds components of some of them, as many as
    predict hidden pixels of the others best. What that leaves open, C, is in `flux_cov`, and by
    itself in `missing_cov`: the same pixels are hidden in spectra that were kept aside, and what
    filling them does to the labels is what it costs, times how odd the star's good pixels are
    beside theirs. ``fill="mean"`` takes the training mean, which costs more, and says so. A label
    that is left open by more than half of the training labels' spread carries flag 1024, and so do
    all labels of such stars where the cost is unknown: of files of symspec 0.1, with a
    `MissingPixelsWarning`. Spectra unlike all training spectra may hide anything in a missing
    pixel.
Low signal-to-noise ratio
    Errors of the flux are propagated by the derivatives at the spectrum. Four to sixteen draws
    through the network itself hold against it, see `Prediction.nonlinearity`; where the two are
    apart by more than a fifth, which such few draws tell roughly, the label carries flag 2048.
    Where both are below 2 % of the variance that model and noise leave in the label, neither
    matters, and nothing is flagged: the total deviation is right within 1.4 %.
    ``flux="sampled"`` takes 512 draws in place of the derivatives, with their Monte Carlo error in
    `flux_sampling_error`.
Correlated errors of the flux
    ``predict(X, flux_covariance=...)``, or `Spectra(flux_covariance=...)`: dense, in bands, or some
    factors beside variances, see `help(symspec.spectra.covariances)`. Resampled spectra bring
    theirs.
Flags
    `Flag` has their names and meanings: 1 failed, 2 outside the range of the training labels, 4
    pixels without information, 8 a Newton step would move the label, 16 model error approximate, an
    upper bound, or an interval wider than 5 %, 32 contradicted by Hamiltonian Monte Carlo, 64 near
    the edge of the range, 128 many bad pixels, 256 low signal-to-noise, 512 a spectrum unlike the
    training spectra, 1024 a label that missing pixels leave open, 2048 a flux error that is not
    linear. Those of one label are in `label_flags`, too (`TEFF_FLAGS` in a catalogue).
    The limits are `FlagOptions`, and in the catalogue's header.
Noise and flux errors
    `sigma_noise` as `tune` finds it holds what the training spectra's own flux errors do to the
    labels. For new spectra as noisy as those, `flux_cov` counts that a second time, and the total
    is on the safe side. `symspec.fitting.count_beyond_training(laplace, stars)` has only those
    count that are beyond the training spectra's, as `adopt_network` and `symspec fit` do.
Do they tell the truth?
    `help(symspec.validation)` has what holds them against labels, other structures and other noise.
Stars together
    The weights err for all stars at once, and that part of an error does not average out:
    `symspec.predict_means` has the mean labels of a cluster's stars, `joint_covariance` any others.
Other basins
    The error bars are those of one basin of the posterior. `symspec.combine` takes several networks
    together, from other starts, say, whose labels differ where the training stars leave gaps, see
    `help(symspec.mixtures)`.
What this is not
    They say nothing of stars unlike all training stars, whose features the network has never met.

Long fits and predictions take ``resume="folder"``: interrupted, or killed, the same call goes on
from the last finished block and ends with the same bits (primal and dual, one factorisation each,
start again). ``memory="4GB"`` limits the factorisation, ``dtype="float32"`` the passes through the
network.
"""

from symspec.laplace.certificate import Certificate
from symspec.laplace.fit import fit_laplace
from symspec.laplace.flags import Flag, FlagOptions
from symspec.laplace.means import GroupMeans
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.prediction import Prediction

__all__ = [
    "Certificate",
    "Flag",
    "FlagOptions",
    "GroupMeans",
    "LaplacePosterior",
    "Prediction",
    "fit_laplace",
]
