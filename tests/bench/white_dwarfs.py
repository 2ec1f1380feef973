"""White dwarfs: how labels scatter around a network, by noises of normal and of wide tails.

    OPENBLAS_NUM_THREADS=1 python tests/bench/white_dwarfs.py FILE       # five minutes

FILE is sdss_parameters.csv of github.com/vedantchandra/wdtools: widths and heights of four Balmer
lines of 5,327 SDSS spectra, with Teff [K] and log g. Of the rows whose widths are below 250
Angstrom, as there, four fifths train a network 8-20-2 (tanh) for log10 Teff and log g, and one
fifth is predicted.
"""

import sys
import time
import warnings

import numpy as np

import symspec as ss

HIDDEN = 20
MAX_WIDTH = 250.0  # Angstrom
NAMES = ("LOG_TEFF", "LOGG")
NOISES = {
    "normal": (None, "per_label"),
    "Student's t, 4": (4.0, "per_label"),
    "Student's t, tuned": (3.0, "scale_and_dof"),
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


def fit(X, Y, dof, kind):
    net = ss.standardized(ss.mlp([8, HIDDEN, 2], activation="tanh", label_names=NAMES), X, Y)
    scale = 0.3 * Y.std(axis=0)
    noise = ss.GaussianNoise(scale) if dof is None else ss.StudentTNoise(scale, dof)
    reg = ss.Regression(net, noise=noise, prior_precision=ss.scaled_prior(net, 1.0))
    theta = net.init_params(np.random.default_rng(0), "glorot_uniform")
    theta = ss.minimize(reg, theta, X, Y, max_iterations=500, progress=False).x
    reg, theta = ss.tune(reg, theta, X, Y, noise=kind, progress=False)
    return ss.fit_laplace(reg, theta, X, Y, progress=False)


def main(path):
    (X, Y), (X_test, Y_test) = read(path)
    print(f"{len(X)} rows to train on, {len(X_test)} to test")
    print("| noise | label | log-likelihood | sigma_MAD | in 68 % | in 95 % | minimum | seconds |")
    print("|---|---|---:|---:|---:|---:|---|---:|")
    for name, (dof, kind) in NOISES.items():
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ss.NotAtMinimumWarning)
            laplace = fit(X, Y, dof, kind)
        prediction = laplace.predict(X_test, progress=False)
        score = prediction.log_density(Y_test).mean(axis=0)
        scatter = ss.sigma_mad(prediction.labels - Y_test)
        inside = 100 * ss.coverage(prediction, Y_test)
        seconds = time.perf_counter() - begin
        for c, label in enumerate(NAMES):
            print(
                f"| {name} | {label} | {score[c]:.3f} | {scatter[c]:.4f} | {inside[0, c]:.1f} |"
                f" {inside[1, c]:.1f} | {laplace.certificate.verdict} | {seconds:.0f} |",
                flush=True,
            )
        print(f"<!-- {laplace.reg.noise.describe()} -->", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
