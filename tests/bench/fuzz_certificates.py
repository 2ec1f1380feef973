"""The sign of the pencil (H, A) by Lanczos against dense eigenvalues, at minima and at saddles.

    .venv/bin/python tests/bench/fuzz_certificates.py [CASES [SEED]]

Networks of 401 to 1,500 parameters, which are sought by Lanczos, at random weights, part of the way
to a minimum, at minima, and at saddles made of two equal hidden units; smooth ones, so that there
are no kinks.
"""

import sys
import warnings
from collections import Counter

import numpy as np
from scipy.linalg import eigh

import symspec as ss

ACTIVATIONS = ("tanh", "softplus", "gelu", "sigmoid", "silu")
KINDS = ("random", "trained", "polished", "equal units")


def draw(rng):
    """A regression of 401 to some 1,500 parameters, and its stars."""
    n_pixels, n_labels = int(rng.integers(3, 40)), int(rng.integers(1, 4))
    hidden = [int(rng.integers(8, 30)) for _ in range(rng.integers(1, 3))]
    net = ss.mlp([n_pixels, *hidden, n_labels], activation=str(rng.choice(ACTIVATIONS)))
    if not 400 < net.n_params <= 1500:
        return draw(rng)
    n = int(rng.integers(30, 300))
    X = rng.normal(size=(n, n_pixels))
    Y = (
        np.tanh(X[:, :n_labels])
        + 0.3 * X[:, -n_labels:] ** 2
        + 0.1 * rng.normal(size=(n, n_labels))
    )
    sigma = float(np.exp(rng.uniform(np.log(0.03), np.log(0.5))))
    prior = float(np.exp(rng.uniform(np.log(0.1), np.log(10))))
    return ss.Regression(net, sigma_noise=sigma, prior_precision=prior), X, Y


def find_weights(kind, reg, X, Y, rng):
    theta = reg.net.init_params(rng, init="glorot_uniform")
    if kind == "random":
        return theta
    theta = ss.minimize(reg, theta, X, Y, max_iterations=300, progress=False).x
    if kind == "trained":
        return theta
    if kind == "polished":
        return ss.polish(reg, theta, X, Y, progress=False, max_iterations=100).theta
    blocks = {name: block.copy() for name, block in reg.net.unpack(theta).items()}
    blocks["dense_0/kernel"][:, 0] = blocks["dense_0/kernel"][:, 1]
    blocks["dense_0/bias"][0] = blocks["dense_0/bias"][1]
    blocks["dense_1/kernel"][0] = blocks["dense_1/kernel"][1]
    return reg.net.pack(blocks)


def main(n_cases=200, seed=0):
    counts = Counter()
    for i in range(seed, seed + n_cases):
        rng = np.random.default_rng(i)
        kind = KINDS[i % len(KINDS)]
        reg, X, Y = draw(rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theta = find_weights(kind, reg, X, Y, rng)
            structure = str(rng.choice(["primal", "dual"]))
            laplace = ss.fit_laplace(reg, theta, X, Y, structure=structure, require_minimum=False)
        ratios = eigh(
            ss.compile_hessian(reg)(theta, X, Y),
            ss.compile_ggn(reg)(theta, X, Y),
            eigvals_only=True,
        )
        certificate = laplace.certificate
        right = "positive" if ratios[0] > 0 else "negative"
        said = certificate.sign
        counts[kind, right, said] += 1
        error = np.abs(ratios - certificate.smallest_ratio).min()
        is_bound = error <= certificate.smallest_ratio_error + 1e-9 * np.abs(ratios).max()
        if said not in (right, "not decided") or not is_bound:
            print(
                f"case {i}, {kind}: {said}, {certificate.smallest_ratio:.3g} +-"
                f" {certificate.smallest_ratio_error:.2g}; it is {ratios[0]:.3g}",
                flush=True,
            )
            counts["wrong"] += 1
    print(f"{'weights':12} | {'sign':9} | {'said':12} | cases")
    for key, n in sorted(counts.items(), key=str):
        if key != "wrong":
            print(f"{key[0]:12} | {key[1]:9} | {key[2]:12} | {n}")
    print(f"wrong: {counts['wrong']} of {n_cases}")
    return counts["wrong"]


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])) > 0)
