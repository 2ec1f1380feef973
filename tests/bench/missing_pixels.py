"""Missing pixels of the MILES stars: the errors that are claimed against those that are made.

    python tests/bench/missing_pixels.py [MILES.npz]

A network is trained on four fifths of the stars and predicts the others, five times over. Of each,
1 to 60 % of the pixels are missing, at random or in one block; 1,000 star-masks or more for each
line. `missing` is the part of the error that missing pixels leave: claimed, and actual against the
label of the same star without a missing pixel. As few odd stars make up much of either, their ratio
comes with its standard error, of stars drawn anew with replacement, and with the shares of actual
errors within one and two claimed deviations: 68 and 95 % of normal ones. `total` is against the
label of the catalogue; its ratio without any missing pixel, on the first line, is that of noise and
model alone.
"""

import sys
import warnings

import numpy as np

import symspec as ss

FRACTIONS, N_FOLDS, N_MASKS, SNR = (0.01, 0.05, 0.2, 0.6), 5, 2, 1e4
N_BOOTSTRAPS = 400
KINDS = ("random", "block")


def read_stars(path):
    """Flux between 3600 and 7350 Angstrom, over its median, and complete labels."""
    if path is None:
        stars = ss.datasets.miles(clip=(0.0, 3.0))
        flux, labels = stars.flux, stars.labels
    else:
        file = np.load(path)
        flux, labels = file["flux"].astype(float), file["labels"]
    known = np.isfinite(labels).all(axis=1) & (labels[:, 0] > 3800) & (labels[:, 0] < 7500)
    flux = np.clip(flux[known][:, 60:-60], 0, 3)
    return flux / np.median(flux, axis=1)[:, None], labels[known]


def fit(X, Y, rng):
    net = ss.standardized(ss.mlp([X.shape[1], 32, 3], activation="tanh"), X, Y)
    prior = ss.scaled_prior(net, 10.0)
    reg = ss.Regression(net, sigma_noise=0.3 * Y.std(axis=0), prior_precision=prior)
    theta = ss.train(reg, X, Y, epochs=60, rng=rng, progress=False).theta
    return reg, theta


def hide(kind, fraction, shape, rng):
    if kind == "random":
        return rng.random(shape) < fraction
    first = rng.integers(0, shape[1], size=(shape[0], 1))
    return (np.arange(shape[1]) - first) % shape[1] < fraction * shape[1]


def measure(laplace, X, Y, bad, **options):
    """Squares (star, label) of missing claimed, missing actual, total claimed, total actual."""
    ivar = np.where(bad, 0.0, (SNR / X.clip(0.05)) ** 2)
    found = laplace.predict(np.where(bad, np.nan, X), ivar=ivar, progress=False, **options)
    whole = laplace.predict_labels(X)
    claimed = np.einsum("ncc->nc", found.missing_cov)
    total = np.einsum("ncc->nc", found.total_cov)
    return claimed, (found.labels - whole) ** 2, total, (found.labels - Y) ** 2


def main(path):
    X, Y = read_stars(path)
    rng = np.random.default_rng(0)
    folds = rng.permutation(len(X)) % N_FOLDS
    cases = [("random", 0.0), *((kind, fraction) for fraction in FRACTIONS for kind in KINDS)]
    squares = {(case, fill): [] for case in cases for fill in ("conditional", "mean")}
    for fold in range(N_FOLDS):
        known = folds != fold
        new, truth = X[~known], Y[~known]
        reg, theta = fit(X[known], Y[known], rng)
        scatter = np.std(ss.compile_predict(reg.net)(theta, new) - truth, axis=0)
        reg = ss.Regression(
            reg.net, sigma_noise=scatter, prior_precision=ss.scaled_prior(reg.net, 10.0)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ss.NotAtMinimumWarning)
            laplace = ss.fit_laplace(reg, theta, X[known], Y[known], progress=False)
        for kind, fraction in cases:
            for _ in range(N_MASKS):
                bad = hide(kind, fraction, new.shape, rng)
                for fill in ("conditional", "mean"):
                    found = measure(laplace, new, truth, bad, fill=fill)
                    stars = np.flatnonzero(~known)
                    squares[(kind, fraction), fill].append((stars, *found))
    print("fill        | missing pixels | star-masks | missing: claimed, actual [K, dex, dex]")
    print("            |                |            | ratio of missing, its standard error")
    print("            |                |            | within 1 and 2 deviations | ratio of total")
    for ((kind, fraction), fill), found in squares.items():
        stars, claimed, actual, total, residual = map(np.concatenate, zip(*found, strict=True))
        columns = [show(np.mean(claimed, axis=0) ** 0.5), show(np.mean(actual, axis=0) ** 0.5)]
        if fraction:
            columns += [show(find_ratio(claimed, actual)), show(find_error(stars, claimed, actual))]
            columns += [show(np.mean(actual < n**2 * claimed, axis=0)) for n in (1, 2)]
        columns.append(show(find_ratio(total, residual)))
        print(f"{fill:11} | {fraction:4.0%} {kind:9} | {len(stars):5} |", " | ".join(columns))


def find_ratio(claimed, actual):
    """Of roots of mean squares, (label,)."""
    return np.sqrt(np.sum(claimed, axis=0) / np.sum(actual, axis=0))


def find_error(stars, claimed, actual):
    """Standard error of the ratio, from stars drawn anew with replacement."""
    rng = np.random.default_rng(0)
    sums = [np.add.reduceat(part[np.argsort(stars)], np.arange(0, len(stars), N_MASKS))
            for part in (claimed, actual)]  # fmt: skip
    draws = rng.integers(len(sums[0]), size=(N_BOOTSTRAPS, len(sums[0])))
    return np.std([find_ratio(*(part[draw] for part in sums)) for draw in draws], axis=0)


def show(values):
    return ", ".join(f"{value:.3g}" for value in values)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
