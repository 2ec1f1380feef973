"""Exact error bars of the 17.6-million-weight network, against the arithmetic in plain NumPy.

    python -m pytest tests/bench/test_dual.py -q -s

Each side runs in processes of its own (this file, as a script), in turn, so that its peak of memory
is its own. Both do the passes through the network in float32, and Gram matrices, Cholesky and
triangular solve in float64. symspec's side is the user's call, whole: `fit_laplace` with its
certificate, and the covariances.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.linalg import cholesky, solve_triangular

import symspec as ss

SIZES = [7213, 2048, 1024, 512, 256, 128, 32, 3]
N_TRAIN, N_TEST, REPEATS = 3000, 500, 2
SIGMA = np.array([100.0, 0.2, 0.1])


def build_problem(n_train, n_test):
    """Regression, untrained weights (the arithmetic is the same), training stars, new spectra."""
    rng = np.random.default_rng(0)
    stars = ss.datasets.generated_stars(n_train + n_test, n_pixels=SIZES[0], rng=rng)
    X, Y = stars.flux[:n_train], stars.labels[:n_train]
    net = ss.standardized(ss.mlp(SIZES), X, Y)
    reg = ss.Regression(net, sigma_noise=SIGMA, prior_precision=ss.scaled_prior(net, 1.0))
    return reg, net.init_params(rng), X, Y, stars.flux[n_train:]


def covariance_by_symspec(reg, theta, X, Y, X_test, dtype):
    options = {"dtype": dtype, "require_minimum": False, "progress": False}
    laplace = ss.fit_laplace(reg, theta, X, Y, structure="dual", **options)
    return laplace.label_covariance(X_test)


def covariance_by_numpy(reg, theta, X, Y, X_test, dtype):
    """V = K** - K*X (K_XX + S)^-1 KX*, K = sum over layers of (v_W a a^T + v_b) o (g g^T)."""
    standardize, unstandardize = reg.net.layers[0], reg.net.layers[-1]
    blocks = {name: block.astype(dtype) for name, block in reg.net.unpack(theta).items()}
    Ws = [blocks[f"dense_{k}/kernel"] for k in range(len(SIZES) - 1)]
    bs = [blocks[f"dense_{k}/bias"] for k in range(len(SIZES) - 1)]
    v_W = [1 / reg.prior_precision[f"dense_{k}/kernel"] for k in range(len(Ws))]
    v_b = [1 / reg.prior_precision[f"dense_{k}/bias"] for k in range(len(Ws))]

    def passes(X):
        """Each layer's inputs (star, in) and cotangents (star * label, out)."""
        a = (X.astype(dtype) - standardize.mean.astype(dtype)) / standardize.scale.astype(dtype)
        inputs = []
        for W, b in zip(Ws, bs, strict=True):
            inputs.append(a)
            a = np.maximum(a @ W + b, 0)
        g = np.tile(np.diag(unstandardize.scale).astype(dtype), (len(X), 1))
        cotangents = [g]
        for W, a in zip(Ws[:0:-1], inputs[:0:-1], strict=True):
            g = g @ W.T
            g *= np.repeat(a > 0, 3, axis=0)
            cotangents.append(g)
        return inputs, cotangents[::-1]

    def add_kernels(K, rows, columns):
        for a, b, g, h, v, w in zip(
            rows[0], columns[0], rows[1], columns[1], v_W, v_b, strict=True
        ):
            same = rows is columns  # NumPy then does half the work, by SYRK
            a, g = a.astype(np.float64), g.astype(np.float64)
            b, h = (a, g) if same else (b.astype(np.float64), h.astype(np.float64))
            ab = v * (a @ b.T) + w
            gh = (g @ h.T).reshape(len(a), 3, len(b), 3)
            gh *= ab[:, None, :, None]
            K += gh.reshape(K.shape)

    train, test = passes(X), passes(X_test)
    K = np.diag(np.tile(SIGMA**2, len(X)))
    add_kernels(K, train, train)
    L = cholesky(K.T, lower=True, overwrite_a=True, check_finite=False)
    across = np.zeros((3 * len(X), 3 * len(X_test)))
    add_kernels(across, train, test)
    Z = solve_triangular(L, across, lower=True, check_finite=False).reshape(
        3 * len(X), len(X_test), 3
    )
    V = np.zeros((len(X_test), 3, 3))
    for a, g, v, w in zip(*test, v_W, v_b, strict=True):
        g = g.astype(np.float64).reshape(len(X_test), 3, -1)
        a2 = np.sum(a.astype(np.float64) ** 2, axis=1)
        V += (v * a2 + w)[:, None, None] * np.matmul(g, g.transpose(0, 2, 1))
    return V - np.einsum("inc,ind->ncd", Z, Z, optimize=True)


SIDES = {"symspec": covariance_by_symspec, "numpy": covariance_by_numpy}


def run(side, path, repeat):
    """One side in a fresh process: seconds, GiB."""
    path = path / f"{side}_{repeat}.npy"
    command = [sys.executable, __file__, side, str(path)]
    environment = os.environ | {"PYTHONPATH": str(Path(ss.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path, json.loads(done.stdout)


def sd_difference(V, reference):
    """Largest difference of covariances (star, label, label), in units of both deviations."""
    sd = np.sqrt(np.diagonal(reference, axis1=1, axis2=2))
    return np.abs((V - reference) / (sd[:, :, None] * sd[:, None, :])).max()


def test_the_dual_of_the_full_network_costs_what_its_arithmetic_costs(tmp_path):
    runs = {side: [] for side in SIDES}
    for repeat in range(REPEATS):
        for side in SIDES:
            runs[side].append(run(side, tmp_path, repeat))
    seconds = {side: min(told["seconds"] for _, told in of) for side, of in runs.items()}
    peak = {side: max(told["peak_gib"] for _, told in of) for side, of in runs.items()}
    difference = sd_difference(*(np.load(runs[side][0][0]) for side in SIDES))
    what = f"{N_TRAIN} training and {N_TEST} test stars, 17.6 million weights"
    print(f"\n\n| {what} | time [s] | peak memory [GiB] |")
    print("|---|---:|---:|")
    for side, name in [("symspec", "symspec"), ("numpy", "the same arithmetic in NumPy")]:
        print(f"| {name} | {seconds[side]:.1f} | {peak[side]:.2f} |")
    ratio = seconds["symspec"] / seconds["numpy"]
    print(
        f"\nratio of times {ratio:.2f}; covariances agree to {difference:.1e} of the standard"
        " deviations'"
    )
    assert ratio <= 1.5
    assert peak["symspec"] < 6
    assert difference < 1e-4  # float32 passes, summed in another order


def test_the_dual_is_exact_in_double_precision():
    problem = build_problem(200, 50)
    V = covariance_by_symspec(*problem, "float64")
    assert sd_difference(V, covariance_by_numpy(*problem, "float64")) < 1e-8


def peak_memory():
    """Peak memory of this process in GiB; `resource.getrusage` would count its parent's, too."""
    line = next(
        t for t in Path("/proc/self/status").read_text().splitlines() if t.startswith("VmHWM")
    )
    return int(line.split()[1]) / 2**20


if __name__ == "__main__":
    problem = build_problem(N_TRAIN, N_TEST)
    begin = time.perf_counter()
    np.save(sys.argv[2], SIDES[sys.argv[1]](*problem, "float32"))
    print(json.dumps({"seconds": time.perf_counter() - begin, "peak_gib": peak_memory()}))
