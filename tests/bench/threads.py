"""Two BLAS threads allowed, or one: no call should take longer with two.

    python tests/bench/threads.py [FEW]        # ten minutes on an idle machine; FEW sizes: less

Networks with one hidden layer (ReLU, three labels) of thirty sizes, from 10 x 10 to 7,213 x 2,048,
and what users call of them, one by one on stderr, and in sum. The two take turns; times are medians
of five. What seems slower with two is measured twice more, and the median of the three counts: of
230 comparisons of what takes the same time, a few are off by 5 %.
"""

import sys
import time
from itertools import product

import numpy as np
from threadpoolctl import threadpool_limits

import symspec as ss

PIXELS, HIDDEN, STARS = (10, 100, 713, 2000, 7213), (10, 64, 2048), (64, 1000)
REPEATS, SECONDS = 5, 0.1
LIMIT = 1.05


def build(n_pixels, hidden, n_stars):
    rng = np.random.default_rng(0)
    net = ss.mlp([n_pixels, hidden, 3])
    reg = ss.Regression(net, sigma_noise=0.1, prior_precision=1.0)
    theta, v = net.init_params(rng), rng.normal(size=net.n_params)
    X, Y = rng.normal(size=(n_stars, n_pixels)), rng.normal(size=(n_stars, 3))
    single = {"dtype": "float32"}
    half = theta.astype(np.float32), X.astype(np.float32)
    calls = {
        "predict": (ss.compile_predict(net), (theta, X)),
        "predict, float32": (ss.compile_predict(net, **single), half),
        "gradient": (ss.compile_objective(reg), (theta, X, Y)),
        "gradient, float32": (ss.compile_objective(reg, **single), (*half, Y)),
        "Hessian product": (ss.compile_hessian_vector_product(reg), (theta, X, Y, v)),
        "flux Jacobian": (ss.compile_jacobian(net), (theta, X)),
    }
    found = {name: lambda fn=fn, args=args: fn(*args) for name, (fn, args) in calls.items()}
    found["an epoch"] = lambda: ss.train(
        reg, X, Y, theta=theta, epochs=1, rng=np.random.default_rng(1), progress=False
    )
    if net.n_params * 3 * n_stars < 2e8:
        found["fit_laplace"] = lambda: ss.fit_laplace(
            reg, theta, X, Y, require_minimum=False, progress=False
        )
    return found


def time_once(call, n):
    begin = time.perf_counter()
    for _ in range(n):
        call()
    return (time.perf_counter() - begin) / n


def compare(call):
    """Seconds with one thread allowed and with two."""
    call()
    n = max(1, int(SECONDS / max(time_once(call, 1), 1e-6)))
    one, two = [], []
    for _ in range(REPEATS):
        with threadpool_limits(1):
            one.append(time_once(call, n))
        with threadpool_limits(2):
            two.append(time_once(call, n))
    return np.median(one), np.median(two)


def compare_surely(call):
    """As `compare`, of three comparisons the middle one where the first says slower."""
    found = [compare(call)]
    if find_ratio(found[0]) > LIMIT:
        found += [compare(call), compare(call)]
    return sorted(found, key=find_ratio)[len(found) // 2]


def find_ratio(times):
    one, two = times
    return two / one


def main(few):
    sizes = list(product(PIXELS, HIDDEN, STARS))
    if few:
        sizes = sizes[:: max(1, len(sizes) // few)]
    head = (
        "| network, spectra | call | one thread [ms] | two [ms] | ratio |\n|---|---|---:|---:|---:|"
    )
    print(head, file=sys.stderr)
    ratios = []
    for n_pixels, hidden, n_stars in sizes:
        for name, call in build(n_pixels, hidden, n_stars).items():
            one, two = compare_surely(call)
            ratios.append(two / one)
            row = f"{1e3 * one:.2f} | {1e3 * two:.2f} | {two / one:.2f}"
            print(f"| {n_pixels}-{hidden}-3, {n_stars} | {name} | {row} |", file=sys.stderr)
    n_slow = int(np.sum(np.array(ratios) > LIMIT))
    print(
        "\n| calls, two threads allowed against one |"
        f" slower by more than {LIMIT - 1:.0%} | worst | median | best |"
        "\n|---:|---:|---:|---:|---:|"
    )
    print(
        f"| {len(ratios)} | {n_slow} | {max(ratios):.2f} | {np.median(ratios):.2f} |"
        f" {min(ratios):.2f} |"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
