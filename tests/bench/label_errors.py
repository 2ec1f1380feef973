"""What errors of the labels cost the network of full size: `fit_laplace` with and without them.

    OPENBLAS_NUM_THREADS=1 python tests/bench/label_errors.py [N_STARS [TURNS]]

3,000 stars take a few minutes and 8 GiB. The network 7213-2048-1024-512-256-128-32-3 (ReLU, 17.6
million weights) as drawn, generated spectra, the dual structure in float32, certificate left out.
The two take turns, and seconds are those of the processor, which other work changes little.
"""

import sys
import time

import numpy as np

import symspec as ss

SIZES = [7213, 2048, 1024, 512, 256, 128, 32, 3]
SCATTER = np.array([50.0, 0.1, 0.05])  # K, dex, dex


def build(n_stars):
    rng = np.random.default_rng(0)
    stars = ss.datasets.generated_stars(n_stars, n_pixels=SIZES[0], rng=rng)
    net = ss.standardized(ss.mlp(SIZES), stars.flux, stars.labels)
    reg = ss.Regression(net, sigma_noise=SCATTER, prior_precision=ss.scaled_prior(net, 1.0))
    errors = SCATTER * np.exp(rng.uniform(-1, 1, size=stars.labels.shape))
    theta = net.init_params(rng)
    return reg, theta, stars.flux.astype(np.float32), stars.labels, errors


def time_fit(reg, theta, X, Y, errors):
    begin = time.process_time()
    ss.fit_laplace(
        reg, theta, X, Y, label_errors=errors, structure="dual", dtype="float32", memory="14GB",
        require_minimum=False, progress=False,
    )  # fmt: skip
    return time.process_time() - begin


def main(n_stars=3000, turns=3):
    *problem, errors = build(n_stars)
    seconds = {"none": [], "one a label": []}
    print("| label errors | seconds |\n|---|---:|")
    for _ in range(turns):
        for name, given in (("none", None), ("one a label", errors)):
            seconds[name].append(time_fit(*problem, given))
            print(f"| {name} | {seconds[name][-1]:.1f} |", flush=True)
    ratio = np.median(seconds["one a label"]) / np.median(seconds["none"])
    print(
        f"\nratio of the medians: {ratio:.3f}, of the shortest:"
        f" {min(seconds['one a label']) / min(seconds['none']):.3f}"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
