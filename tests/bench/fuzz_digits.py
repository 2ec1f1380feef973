"""Error bars of linear networks against closed forms in 150 digits.

`python tests/bench/fuzz_digits.py [CASES] [SEED]` draws priors from 1e-12 to 1e12, noise from 1e-8
to 1e8, flux from 1e-17 to 1e12, up to 300 stars and 400 pixels, and fits every exact structure. An
error bar is right within 1e-6; beyond it has to be flagged, with an interval that holds the exact
one, or the fit refused. What the two have in common is the design matrix in float64.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

import symspec as ss

sys.path.insert(0, str(Path(__file__).parents[1] / "inverse_hessian"))
from closed_forms import find_exact_sd

RIGHT = 1e-6  # relative
STRUCTURES = {"auto": {}, "primal": {}, "dual": {}, "krylov": {"tolerance": 1e-7}}


def draw_case(rng, most_stars=300, most_pixels=400):
    """Flux, flux of new stars, labels, noise and prior."""
    n, pixels = (
        int(np.exp(rng.uniform(0, np.log(most + 0.99)))) for most in (most_stars, most_pixels)
    )
    sizes = {"prior": 10 ** rng.uniform(-12, 12), "sigma": 10 ** rng.uniform(-8, 8)}
    scale = 10 ** rng.uniform(-17, 12)
    X = rng.normal(size=(n, pixels))
    kind = rng.choice(["normal", "spectra", "collinear", "scales"])
    if kind == "spectra":
        X = 1 + 0.1 * X
    elif kind == "collinear":
        X = X[:, :1] + 10 ** rng.uniform(-9, -1) * X
    elif kind == "scales":
        X = X * 10 ** rng.uniform(-6, 6, size=pixels)
    new = np.vstack([X[:2], rng.normal(size=(2, pixels)) * np.std(X, axis=0) + X.mean(axis=0)])
    return X * scale, new * scale, rng.normal(size=(n, 1)), sizes


def judge(structure, X, X_new, Y, sizes, exact):
    """What became of the error bars of one structure: a word for each star."""
    reg = ss.Regression(
        ss.mlp([X.shape[1], 1]), sigma_noise=sizes["sigma"], prior_precision=sizes["prior"]
    )
    words = {"structure": structure, "options": STRUCTURES[structure]}
    try:
        theta = np.zeros(reg.net.n_params)
        fit = ss.fit_laplace(reg, theta, X, Y, require_minimum=False, progress=False, **words)
        prediction = fit.predict(X_new, progress=False)
    except ss.SymspecError:
        return ["refused"]
    found = np.sqrt(prediction.model_cov[:, 0, 0])
    low, high = prediction.model_interval[:, 0].T
    flagged = (prediction.flags & (ss.Flag.MODEL_ERROR_INEXACT | ss.Flag.FAILED)) > 0
    holds = (low <= exact * (1 + 1e-9)) & (exact <= high * (1 + 1e-9))
    right = np.abs(found / exact - 1) <= RIGHT
    return np.select(
        [right & ~flagged, right, flagged & holds], ["right", "right, flagged", "flagged"], "FAILED"
    )


def main(n_cases=500, seed=0):
    counts = {structure: Counter() for structure in STRUCTURES}
    begin = time.perf_counter()
    for case in range(n_cases):
        X, X_new, Y, sizes = draw_case(np.random.default_rng([seed, case]))
        exact = find_exact_sd(X, X_new, sizes["sigma"], sizes["prior"])
        for structure in STRUCTURES:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                words = judge(structure, X, X_new, Y, sizes, exact)
            counts[structure].update(words)
            if "FAILED" in words:
                print(case, structure, X.shape, sizes, f"flux {np.abs(X).max():.1e}", *words)
    print(f"{n_cases} cases in {time.perf_counter() - begin:.0f} s")
    for structure, count in counts.items():
        print(f"{structure:8}", *(f"{word}: {n}" for word, n in sorted(count.items())), sep="  ")
    return sum(count["FAILED"] for count in counts.values())


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])) > 0)
