"""Laplace's error bars against Hamiltonian Monte Carlo, among the data and in a gap between them.

python examples/04_hmc_check.py                  # 1-20-20-1: a quarter of an hour
python examples/04_hmc_check.py --small          # a smaller network: a minute
python examples/04_hmc_check.py --plots figures  # and draw what was found
"""

import argparse
from pathlib import Path

import numpy as np

import symspec as ss
from symspec.reports import (
    comparison_table,
    open_console,
    plot_hmc_intervals,
    plot_hmc_traces,
    print_comparison,
    save_figure,
)

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--small", action="store_true", help="a network of one hidden layer")
parser.add_argument("--plots", type=Path, help="folder for figures")
options = parser.parse_args()

# A wave seen from -3 to -1 and from 1 to 3; nothing is known in between.
rng = np.random.default_rng(0)
x = np.concatenate([rng.uniform(-3, -1, 75), rng.uniform(1, 3, 75)])[:, None]
y = np.cos(2 * x) + 0.1 * rng.normal(size=x.shape)

sizes, precision = ([1, 4, 1], 4.0) if options.small else ([1, 20, 20, 1], 1.0)
net = ss.mlp(sizes, activation="tanh", label_names=["y"])
reg = ss.Regression(net, sigma_noise=0.1, prior_precision=precision)
theta = ss.train(
    reg,
    x,
    y,
    init="glorot_uniform",
    epochs=1000,
    learning_rate=0.005,
    rng=np.random.default_rng(1),
    progress=False,
).theta
theta = ss.polish(reg, theta, x, y, max_iterations=1000).theta

# Two Laplace posteriors at the same minimum: Gauss-Newton, and the exact Hessian.
laplace = ss.fit_laplace(reg, theta, x, y, structure="primal")
exact = ss.fit_laplace(reg, theta, x, y, structure="primal", curvature="hessian")
print(f"certificate: {laplace.certificate.message}")

# The chains start at draws of the first, and find the posterior wherever they start.
data = np.concatenate([np.linspace(-3, -1, 21), np.linspace(1, 3, 21)])
x_check = np.concatenate([data, np.linspace(-0.8, 0.8, 17)])[:, None]
draws = ss.run_hmc(reg, x, y, laplace=laplace, X_check=x_check, seed=1, progress=False)
seconds = draws["posterior"].attrs["sampling_time"]
print(f"sampled by {draws.attrs['sampler']} in {seconds:.0f} s")

# What the network says is compared, star by star, never its weights.
others = {"exact Hessian": exact, "sandwich": ss.sandwich_covariance(laplace, x, y, x_check)}
comparison = ss.compare_hmc(laplace, draws, x_check, others=others)
in_data, in_gap = comparison.select(slice(0, 42)), comparison.select(slice(42, None))
console = open_console()
console.print(comparison_table(in_data, title="Where there are data (42 points)"))
console.print(comparison_table(in_gap, title="In the gap (17 points)"))
print_comparison(console, comparison)

ratio = np.median(in_data.sd_ratio)
print(f"check: among the data the median ratio is within 20 % of 1: {0.8 < ratio < 1.25}")
wider = np.median(in_gap.hmc_sd) > 2 * np.median(in_data.hmc_sd)
print(f"check: in the gap HMC's error is more than twice that among the data: {wider}")

# The verdict travels with the model: its predictions say so if HMC contradicts them.
marked = comparison.mark(laplace)
flagged = bool((marked.predict(x_check).flags & ss.Flag.ERROR_UNRELIABLE).all())
print(
    "check: predictions are flagged if and only if HMC contradicts:"
    f" {flagged == marked.contradicted.any()}"
)

if options.plots is not None:
    options.plots.mkdir(parents=True, exist_ok=True)
    save_figure(plot_hmc_intervals(comparison)[0].figure, options.plots / "intervals.png")
    save_figure(
        plot_hmc_traces(draws, [10, 50], comparison=comparison), options.plots / "traces.png"
    )
