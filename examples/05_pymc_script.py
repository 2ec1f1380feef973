"""A PyMC script around a network: own priors, hierarchical noise, posterior predictive, ArviZ.

python examples/05_pymc_script.py                  # minutes
python examples/05_pymc_script.py --small          # fewer draws
python examples/05_pymc_script.py --plots figures  # and draw traces and ranks
"""

import argparse
from pathlib import Path

import arviz as az
import numpy as np
import pymc as pm

import symspec as ss
from symspec.reports import plot_hmc_traces, save_figure

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--small", action="store_true", help="fewer draws")
parser.add_argument("--plots", type=Path, help="folder for figures")
options = parser.parse_args()

# Labels are what a network gives the spectra, with a scatter that the script has to find.
rng = np.random.default_rng(5)
stars = ss.datasets.generated_stars(260, n_pixels=40, rng=rng)
X, X_new = stars.flux[:200], stars.flux[200:]
names, units = stars.label_names, stars.label_units
net = ss.mlp([40, 2, 3], activation="tanh", label_names=names, label_units=units)
net = ss.standardized(net, X, stars.labels[:200])
reg = ss.Regression(net, sigma_noise=[90.0, 0.18, 0.09], prior_precision=ss.scaled_prior(net, 1.0))
theta_true = ss.train(reg, X, stars.labels[:200], epochs=300, rng=rng, progress=False).theta
true_sigma, predict = np.array([60.0, 0.12, 0.06]), ss.compile_predict(net)  # K, dex, dex
Y = predict(theta_true, X) + true_sigma * rng.normal(size=(200, 3))
Y[7, 1] = np.nan  # a label that was never measured
truth = predict(theta_true, X_new)

# The trained network and its Laplace posterior: the coordinates in which the chains will move.
theta = ss.train(reg, X, Y, epochs=300, rng=rng, progress=False).theta
theta = ss.polish(reg, theta, X, Y).theta
laplace = ss.fit_laplace(reg, theta, X, Y, structure="primal")

# From here on it is PyMC. The noise of the labels varies around a common level, in units of each
# label's spread.
spread = np.nanstd(Y, axis=0)
with pm.Model() as model:
    level = pm.Normal("level", np.log(0.1), 1.0)
    between = pm.HalfNormal("between", 0.5)
    log_sigma = pm.Normal("log_sigma", level, between, shape=3)
    sigma = pm.Deterministic("sigma", spread * pm.math.exp(log_sigma))
    ss.pymc_model(reg, X, Y, laplace=laplace, sigma_noise=sigma, X_check=X_new)
    print(f"free variables: {', '.join(v.name for v in model.free_RVs)}")
    n_draws, n_chains = (300, 2) if options.small else (1000, 4)
    draws = pm.sample(
        draws=n_draws,
        tune=n_draws,
        chains=n_chains,
        nuts={"target_accept": 0.9},
        random_seed=6,
        # all free variables: predictive draws would take those left out from their priors
        var_names=["level", "between", "log_sigma", "theta_whitened", "sigma", "theta", "f"],
        progressbar=False,
        quiet=True,
    )

print(az.summary(draws, var_names=["sigma", "level", "between"]).to_string())
found = draws["posterior"]["sigma"].mean(("chain", "draw")).values
near = np.abs(found / true_sigma - 1) < 0.3
print(f"check: the scatter that was put in is found to 30 %: {bool(near.all())}")

# New stars: swap the data, and draw their labels, network and noise together.
with model:
    pm.set_data({"flux": X_new})
    predictive = pm.sample_posterior_predictive(
        draws, var_names=["y"], predictions=True, random_seed=7, progressbar=False
    )
y = predictive["predictions"]["y"].values.reshape(-1, *truth.shape)
low, high = np.quantile(y, [0.025, 0.975], axis=0)
noisy = truth + true_sigma * rng.normal(size=truth.shape)
covered = np.mean((low < noisy) & (noisy < high))
print(f"95 % predictive intervals hold {100 * covered:.0f} % of {truth.size} new labels")
print(f"check: that is at least 85 %: {covered >= 0.85}")

# The draws hold f of the new stars, which is compared with Laplace's error bars.
comparison = ss.compare_hmc(laplace, draws, X_new)
ratio = ", ".join(f"{r:.2f}" for r in np.median(comparison.sd_ratio, axis=0))
print(f"median sd ratio to Laplace, whose noise was 1.5 times too large: {ratio}")

if options.plots is not None:
    options.plots.mkdir(parents=True, exist_ok=True)
    save_figure(plot_hmc_traces(draws, [0, 1], comparison=comparison), options.plots / "traces.png")
