"""Several networks as one: mixtures of posteriors.

One network's error bars are those of one basin of the posterior. `combine` takes the posteriors of
several, from other starts, say, whose labels differ where the training stars leave gaps:

>>> import numpy as np
>>> import symspec as ss
>>> stars = ss.datasets.generated_stars(60, n_pixels=20, rng=np.random.default_rng(0))
>>> known, new = stars[:50], stars[50:]
>>> net = ss.standardized(ss.mlp([20, 2, 3], activation="tanh"), known.flux, known.labels)
>>> reg = ss.Regression(net, sigma_noise=[200.0, 0.4, 0.2], prior_precision=1.0)
>>> starts = [net.init_params(np.random.default_rng(seed)) for seed in range(2)]
>>> minima = [ss.polish(reg, theta, known).theta for theta in starts]
>>> both = ss.combine([ss.fit_laplace(reg, theta, known) for theta in minima])
>>> prediction = both.predict(new)
>>> bool((prediction.between_cov[:, 0, 0] < prediction.model_cov[:, 0, 0]).all())
True

`model_cov` is the covariance within the networks and between them, by the law of total covariance,
and `between_cov` the latter alone. Intervals, densities and scores are those of the mixture, which
is no normal distribution. `write_laplace` and `read_laplace` keep all of it in one file, which the
commands take like that of one network.
"""

from symspec.mixtures.means import predict_means
from symspec.mixtures.posterior import AnyPosterior, CombinedPosterior, combine
from symspec.mixtures.prediction import CombinedPrediction

__all__ = ["AnyPosterior", "CombinedPosterior", "CombinedPrediction", "combine", "predict_means"]
