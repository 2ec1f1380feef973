"""Predictions of many threads at once: the bits of one thread, at which rate; and processes.

    .venv/bin/python tests/bench/fuzz_threads.py [CALLS]

`predict` of one posterior is called by 1, 2, 4 and 8 threads, CALLS times in all (default 4,000)
with every backend and structure in turn; then compiled functions are shared among threads, and
posteriors that have predicted go to processes of a pool that spawns them.
"""

import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import cycle, islice
from multiprocessing import get_context

import numpy as np

import symspec as ss

BACKENDS = ("numpy", "c", "numba", "jax")
THREADS = (1, 2, 4, 8)
STRUCTURES = ("primal", "dual", "krylov", "kronecker", "low_rank")
FUNCTIONS = {
    "predict": lambda reg, **words: ss.compile_predict(reg.net, **words),
    "jacobian": lambda reg, **words: ss.compile_jacobian(reg.net, **words),
    "objective": ss.compile_objective,
    "hessian product": ss.compile_hessian_vector_product,
    "ggn product": ss.compile_ggn_vector_product,
    "hessian": ss.compile_hessian,
    "ggn": ss.compile_ggn,
}
N_PIXELS = 40


def build_regression(rng):
    X = 1 + 0.1 * rng.normal(size=(50, N_PIXELS))
    Y = np.c_[X[:, 0], X[:, 1] ** 2] + 0.01 * rng.normal(size=(50, 2))
    net = ss.standardized(ss.mlp([N_PIXELS, 4, 2], activation="tanh"), X, Y)
    return ss.Regression(net, sigma_noise=[0.05, 0.1], prior_precision=1.0), X, Y


def count(function, arguments, expected, n_calls, n_threads):
    """Calls that give other bits and calls that raise, and calls a second."""
    numbers = list(islice(cycle(range(len(arguments))), n_calls))

    def call(i):
        try:
            return "right" if has_bits(function(*arguments[i]), expected[i]) else "wrong"
        except Exception as error:
            return repr(error)[:80]

    start = time.perf_counter()
    with ThreadPoolExecutor(n_threads) as pool:
        ends = list(pool.map(call, numbers))
    rate = n_calls / (time.perf_counter() - start)
    return ends.count("wrong"), sum(end not in ("right", "wrong") for end in ends), rate


def has_bits(result, expected):
    """Whether all arrays are the same to the last bit; NaN is NaN."""
    pairs = zip(as_arrays(result), as_arrays(expected), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def as_arrays(result):
    if isinstance(result, ss.Prediction):
        return list(result.to_arrays().values())
    return [np.asarray(part) for part in (result if isinstance(result, tuple) else (result,))]


def report(kind, backend, n_threads, n_calls, counts):
    wrong, raised, rate = counts
    print(
        f"{kind:16} | {backend:7} | {n_threads:7} | {n_calls:5} | {wrong:5} | {raised:6} |"
        f" {rate:8.0f}",
        flush=True,
    )
    return wrong + raised


def run_posteriors(rng, n_calls):
    """Failures of `predict` of posteriors that threads share."""
    reg, X, Y = build_regression(rng)
    theta = ss.polish(reg, reg.net.init_params(rng), X, Y, progress=False).theta
    stars = [(X[rng.permutation(50)[: 1 + i % 9]],) for i in range(40)]
    combinations = [(b, s, t) for b in BACKENDS for s in STRUCTURES for t in THREADS]
    each = -(-n_calls // len(combinations))
    failed = 0
    for backend in BACKENDS:
        for structure in STRUCTURES:
            words = {"structure": structure, "backend": backend, "progress": False}
            laplace = ss.fit_laplace(reg, theta, X, Y, **words)

            def predict(X, laplace=laplace):
                ivar = np.full(X.shape, 1e4)
                return laplace.predict(X, ivar=ivar, progress=False)

            expected = [predict(*arguments) for arguments in stars]
            for n_threads in THREADS:
                counts = count(predict, stars, expected, each, n_threads)
                failed += report(structure, backend, n_threads, each, counts)
    return failed


def run_functions(rng, n_calls):
    """Failures of compiled functions that threads share."""
    reg, X, Y = build_regression(rng)
    thetas = rng.normal(size=(20, reg.net.n_params))
    failed = 0
    for backend in BACKENDS:
        for name, compile_function in FUNCTIONS.items():
            function = compile_function(reg, backend=backend)
            arguments = [(theta, X[: 5 + i]) for i, theta in enumerate(thetas)]
            if name not in ("predict", "jacobian"):
                arguments = [(theta, stars, Y[: len(stars)]) for theta, stars in arguments]
            if name.endswith("product"):
                arguments = [
                    (*first, theta) for first, theta in zip(arguments, thetas, strict=True)
                ]
            expected = [function(*one) for one in arguments]
            counts = count(function, arguments, expected, n_calls, max(THREADS))
            failed += report(name, backend, max(THREADS), n_calls, counts)
    return failed


def predict_elsewhere(laplace, X):
    return laplace.predict(X, progress=False)


def run_processes(rng):
    """Failures of posteriors that have predicted, in processes of their own."""
    reg, X, Y = build_regression(rng)
    theta = reg.net.init_params(rng)
    failed = 0
    for backend in BACKENDS:
        laplace = ss.fit_laplace(reg, theta, X, Y, backend=backend, require_minimum=False)
        expected = laplace.predict(X, progress=False)
        start = time.perf_counter()
        ends = []
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            for future in [pool.submit(predict_elsewhere, laplace, X) for _ in range(4)]:
                try:
                    ends.append(has_bits(future.result(), expected))
                except Exception:
                    ends.append(None)
        counts = ends.count(False), ends.count(None), 4 / (time.perf_counter() - start)
        failed += report("2 processes", backend, 1, 4, counts)
    return failed


def main(n_calls=4000):
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    print("what             | backend | threads | calls | wrong | raised | calls/s")
    failed = run_posteriors(rng, n_calls) + run_functions(rng, 100) + run_processes(rng)
    print(f"{failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])) > 0)
