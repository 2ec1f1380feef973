"""Several starts as one, against Hamiltonian Monte Carlo, among the data and in a gap between them.

    OPENBLAS_NUM_THREADS=1 python tests/bench/gap.py [DRAWS.nc]

The gap problem of `examples/04_hmc_check.py`: 1-20-20-1 tanh, 150 points at 1 <= |x| <= 3, noise
0.1. Five networks are trained from small first weights, as one trains, and ten go to the minimum
from weights that are drawn from the prior. Each has its Laplace posterior, and `symspec.combine`
takes five or ten of them together, with equal weights and by the evidence. Ratios are standard
deviations of HMC over those of each error bar, medians (range). The draws are written to the file,
if one is named, and read from it next time: sampling takes a quarter of an hour, the rest ten
minutes.
"""

import sys
from pathlib import Path

import numpy as np
import xarray as xr

import symspec as ss
from symspec.laplace.prediction import standard_deviations
from symspec.reports.star_tables import write_draws

N_TRAINED = 5
N_DRAWN = 10
N_DATA = 42  # of the points to compare on; the others are in the gap


def make_problem():
    """Points (150, 1), labels (150, 1), and points to compare on (59, 1), as in the example."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-3, -1, 75), rng.uniform(1, 3, 75)])[:, None]
    y = np.cos(2 * x) + 0.1 * rng.normal(size=x.shape)
    data = np.concatenate([np.linspace(-3, -1, 21), np.linspace(1, 3, 21)])
    return x, y, np.concatenate([data, np.linspace(-0.8, 0.8, 17)])[:, None]


def train(reg, x, y, rng):
    """Weights that the example's training leads to."""
    return ss.train(
        reg, x, y,
        init="glorot_uniform", epochs=1000, learning_rate=0.005, rng=rng, progress=False,
    ).theta  # fmt: skip


def draw(reg, _x, _y, rng):
    """Weights of the prior."""
    return rng.normal(size=reg.net.n_params) / np.sqrt(reg.prior_precision_vector())


def fit(reg, x, y, start, seed):
    """Laplace posterior at the minimum that this start leads to."""
    theta = start(reg, x, y, np.random.default_rng(seed))
    theta = ss.polish(reg, theta, x, y, max_iterations=1000, progress=False).theta
    laplace = ss.fit_laplace(reg, theta, x, y, structure="primal", progress=False)
    print(
        f"{start.__name__} {seed}: U {laplace.negative_log_posterior:.2f}, evidence"
        f" {laplace.log_marginal_likelihood():.2f}, decrement"
        f" {laplace.certificate.newton_decrement:.0e}",
        flush=True,
    )
    return laplace


def find_draws(path, laplace, x, y, x_check):
    """The draws of the file, or new ones, which are kept there."""
    if path is not None and path.exists():
        return xr.open_datatree(path, engine="h5netcdf")
    draws = ss.run_hmc(laplace.reg, x, y, laplace=laplace, X_check=x_check, seed=1, progress=False)
    if path is not None:
        write_draws(path, draws)
    return draws


def find_sds(name, posteriors, x_check):
    """Standard deviations (star, label) by name: of the first network, and of several together."""
    sds = {f"the first {name}": posteriors[0]}
    for n in sorted({N_TRAINED, len(posteriors)}):
        for weights in ("equal", "evidence"):
            mixture = ss.combine(posteriors[:n], weights=weights)
            covariance = mixture.label_covariance(x_check)
            sds[f"{n} {name}, {weights} weights"] = standard_deviations(covariance)
    return sds


def describe(ratio):
    return f"{np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})"


def main(path=None):
    x, y, x_check = make_problem()
    net = ss.mlp([1, 20, 20, 1], activation="tanh", label_names=["y"])
    reg = ss.Regression(net, sigma_noise=0.1, prior_precision=1.0)
    trained = [fit(reg, x, y, train, seed) for seed in range(1, N_TRAINED + 1)]
    drawn = [fit(reg, x, y, draw, seed) for seed in range(1, N_DRAWN + 1)]
    draws = find_draws(path and Path(path), trained[0], x, y, x_check)
    others = find_sds("trained", trained, x_check) | find_sds("from the prior", drawn, x_check)
    check = ss.compare_hmc(trained[0], draws, x_check, others=others)
    print(
        f"R-hat {check.rhat.max():.3f}, ESS {check.ess.min():.0f}, {check.divergences} of"
        f" {check.n_draws} draws divergent"
    )
    print("| HMC's sd / sd of | among the data | in the gap | its Monte Carlo error |")
    print("|---|---:|---:|---:|")
    for name, sd in check.others.items():
        ratio = check.hmc_sd / sd
        error = np.median((check.sd_error / sd)[N_DATA:])
        print(f"| {name} | {describe(ratio[:N_DATA])} | {describe(ratio[N_DATA:])} | {error:.2f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
