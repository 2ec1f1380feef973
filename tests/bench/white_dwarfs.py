"""White dwarfs: how labels scatter around a network, by noises of normal and of wide tails.

    OPENBLAS_NUM_THREADS=1 python tests/bench/white_dwarfs.py FILE [NOISE ...]  # 15 minutes

FILE is sdss_parameters.csv of github.com/vedantchandra/wdtools: widths and heights of four Balmer
lines of 5,327 SDSS spectra, with Teff [K] and log g. Of the rows whose widths are below 250
Angstrom, as there, four fifths train a network 8-20-2 (tanh) for log10 Teff and log g, and one
fifth is predicted. The evidence has several maxima: of three starts the one of the largest is
taken, and the three together are a line more. Another has the best start's predictions with the
noise of rows held out: those of training, predicted in turn by networks of the other four fifths.
"""

import sys
import time
import warnings

import numpy as np

import symspec as ss
from symspec.laplace.prediction import join_held_out

HIDDEN = 20
SEEDS = (0, 1, 2)  # of the first weights
MAX_WIDTH = 250.0  # Angstrom
NAMES = ("LOG_TEFF", "LOGG")
FOLDS = 5
START_NOISE = 0.09  # of the spread of each label
NOISES = {  # and what of it is tuned
    "normal": (ss.GaussianNoise, "per_label"),
    "Student's t": (lambda scale: ss.StudentTNoise(scale, dof=3), "scale_and_dof"),
    "predicted": (lambda scale: ss.PredictedNoise(), "per_label"),
}


def read(path):
    """Training and test rows, at random: (X, Y) each."""
    table = np.genfromtxt(path, delimiter=",", skip_header=1)[:, 1:]
    widths = table[:, :8:2]
    table = table[np.isfinite(table).all(axis=1) & (widths < MAX_WIDTH).all(axis=1)]
    X = table[:, :8]
    Y = np.c_[np.log10(table[:, 8]), table[:, 9]]
    order = np.random.default_rng(0).permutation(len(X))
    train, test = np.split(order, [int(0.8 * len(X))])
    return (X[train], Y[train]), (X[test], Y[test])


def fit(X, Y, noise, tuned, seed):
    n_outputs = noise.outputs_per_label * len(NAMES)
    net = ss.mlp([8, HIDDEN, n_outputs], activation="tanh", n_labels=2, label_names=NAMES)
    net = ss.standardized(net, X, Y)
    reg = ss.Regression(net, noise=noise, prior_precision=ss.scaled_prior(net, 1.0))
    theta = net.init_params(np.random.default_rng(seed), "glorot_uniform")
    theta = ss.minimize(reg, theta, X, Y, max_iterations=500, progress=False).x
    reg, theta = ss.tune(reg, theta, X, Y, noise=tuned, progress=False)
    return ss.fit_laplace(reg, theta, X, Y, progress=False)


def find_noise(X, Y, noise, tuned, seed):
    """The noise of rows that were held out."""
    fold = np.random.default_rng(1).permutation(len(X)) % FOLDS
    parts = []
    for k in range(FOLDS):
        known = fold != k
        laplace = fit(X[known], Y[known], noise, tuned, seed)
        parts.append(laplace.predict(X[~known], progress=False))
    return ss.fit_noise(join_held_out(parts, fold), Y)


def tell(name, prediction, Y, verdict):
    """Lines of the table."""
    score = prediction.log_density(Y).mean(axis=0)
    scatter = ss.sigma_mad(prediction.labels - Y)
    inside = 100 * ss.coverage(prediction, Y)
    for c, label in enumerate(NAMES):
        print(
            f"| {name} | {label} | {score[c]:.3f} | {scatter[c]:.4f} | {inside[0, c]:.1f} |"
            f" {inside[1, c]:.1f} | {verdict} |",
            flush=True,
        )


def main(path, *names):
    (X, Y), (X_test, Y_test) = read(path)
    print(f"{len(X)} rows to train on, {len(X_test)} to test")
    print("| noise | label | log-likelihood | sigma_MAD | in 68 % | in 95 % | minimum |")
    print("|---|---|---:|---:|---:|---:|---|")
    for name in names or NOISES:
        noise, tuned = NOISES[name]
        begin = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ss.NotAtMinimumWarning)
            start = noise(START_NOISE * Y.std(axis=0))
            each = [fit(X, Y, start, tuned, seed) for seed in SEEDS]
        evidence = [laplace.log_marginal_likelihood() for laplace in each]
        best = each[np.argmax(evidence)]
        found = best.predict(X_test, progress=False)
        tell(name, found, Y_test, best.certificate.verdict)
        together = ss.combine(each).predict(X_test, progress=False)
        tell(f"{name}, {len(each)} starts together", together, Y_test, "-")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ss.NotAtMinimumWarning)
            of_rows = find_noise(X, Y, start, tuned, SEEDS[np.argmax(evidence)])
        tell(f"{name}, noise of rows held out", found.with_noise(of_rows), Y_test, "-")
        print(
            f"<!-- {best.reg.noise.describe()}; evidence {np.round(evidence, 1)};"
            f" {time.process_time() - begin:.0f} s of a processor -->",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
