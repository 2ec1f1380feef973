"""Which preconditioner helps conjugate gradients on the Gauss-Newton matrix, and how costs grow.

    python -m pytest tests/bench/test_krylov.py -q -s -o addopts=""

Products to a relative residual of 1e-3, for the tangents of test stars, of networks trained to a
minimum on real stars (MILES, left as they are and in the span of the training spectra) and on
generated ones. Nothing here is timed but the last test, whose exponents are measured in one run.
"""

import time

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, cg

import symspec as ss
from symspec.inverse_hessian.builder import InverseBuilder

RESIDUAL, MAX_PRODUCTS, N_STARS = 1e-3, 3000, 3
PRECONDITIONERS = {
    "the prior alone": ("prior", {}),
    "diagonal": ("diagonal", {}),
    "kronecker": ("kronecker", {}),
    "ekfac": ("ekfac", {}),
    "low_rank, 50": ("low_rank", {"rank": 50}),
    "dual, 1/16 of the stars": ("dual", 16),
    "dual, 1/4 of the stars": ("dual", 4),
}


def miles_problem():
    stars = ss.datasets.miles()
    keep = np.isfinite(stars.labels).all(axis=1)
    X, Y = stars.flux[keep][:, ::8], stars.labels[keep]
    return X[:600], Y[:600], X[600:], 16, "tanh"


def generated_problem():
    stars = ss.datasets.generated_stars(2100, n_pixels=300, rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    Y = stars.labels + [50.0, 0.1, 0.05] * rng.normal(size=stars.labels.shape)
    return stars.flux[:2000], Y[:2000], stars.flux[2000:], 32, "relu"


@pytest.fixture(
    scope="module", params=[miles_problem, generated_problem], ids=["MILES", "generated"]
)
def trained(request):
    X, Y, X_new, width, activation = request.param()
    net = ss.standardized(ss.mlp([X.shape[1], width, width // 2, 3], activation=activation), X, Y)
    reg = ss.Regression(
        net, sigma_noise=0.3 * Y.std(axis=0), prior_precision=ss.scaled_prior(net, 1.0)
    )
    fit = ss.train(reg, X, Y, epochs=60, rng=np.random.default_rng(2), progress=False)
    return reg, fit.theta, X, Y, X_new


def count_products(builder, theta, preconditioner, rows):
    stream, precision = builder.stream(theta), builder.reg.prior_precision_vector()
    products = []

    def multiply(v):
        products.append(1)
        return precision * v.ravel() + stream.rmatvec(stream.matvec(v.ravel()))

    A = LinearOperator((theta.size, theta.size), matvec=multiply, dtype=np.float64)
    for row in rows:
        cg(A, row, rtol=RESIDUAL, maxiter=MAX_PRODUCTS, M=preconditioner)
    return len(products) / len(rows)


def test_preconditioners(trained):
    reg, theta, X, Y, X_new = trained
    builder = InverseBuilder(reg, X, Y, structure="diagonal")
    J = builder.tangents(theta, X_new[:N_STARS]).dense().reshape(-1, theta.size)
    counts = {}
    for name, (structure, options) in PRECONDITIONERS.items():
        if structure == "prior":
            variance = 1 / reg.prior_precision_vector()
            inverse = LinearOperator(
                (theta.size, theta.size), matvec=lambda v, s=variance: s * v.ravel(), dtype=float
            )
        else:
            options = {"subset": len(X) // options} if structure == "dual" else options
            inverse = InverseBuilder(reg, X, Y, structure=structure, options=options).build(theta)
        counts[name] = count_products(builder, theta, inverse, J)
    print(
        f"\n\n{len(X)} stars, {theta.size:,} parameters: products for a relative residual of"
        f" {RESIDUAL:g}"
    )
    for name, count in counts.items():
        print(f"| {name} | {count:.0f} |")
    assert (
        counts["dual, 1/4 of the stars"]
        < counts["dual, 1/16 of the stars"]
        < counts["the prior alone"]
    )


def median_seconds(work, rounds=3):
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def exponent(sizes, work_of):
    """Slope of log seconds over log size."""
    seconds = []
    for size in sizes:
        work = work_of(size)
        work()
        seconds.append(median_seconds(work))
    slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    return slope, seconds


def build_random(n_stars, width, structure, **options):
    rng = np.random.default_rng(0)
    net = ss.mlp([512, width, width, 3])
    reg = ss.Regression(net, sigma_noise=0.1, prior_precision=ss.scaled_prior(net, 1.0))
    X, Y = rng.normal(size=(n_stars, 512)), rng.normal(size=(n_stars, 3))
    builder = InverseBuilder(reg, X, Y, structure=structure, options=options)
    return builder, net.init_params(rng)


def test_costs_grow_as_promised():
    """Exponents are at most those promised, with a tenth for the limited range of sizes."""

    def fit(structure, width=256, **options):
        def work_of(n):
            builder, theta = build_random(n, width, structure, **options)
            return lambda: builder.build(theta)

        return work_of

    def dual_of_width(width):
        builder, theta = build_random(400, width, "dual")
        return lambda: builder.build(theta)

    def krylov_product(n):
        builder, theta = build_random(n, 256, "krylov", subset=100)
        inverse = builder.build(theta)
        U = np.random.default_rng(1).normal(size=(inverse._n_rows, 1))
        return lambda: inverse._products.multiply(U)

    def predict(n):
        builder, theta = build_random(500, 256, "dual")
        inverse, X = builder.build(theta), np.random.default_rng(1).normal(size=(n, 512))
        parts = range(0, n, 256)
        return lambda: [
            inverse.label_covariance(builder.tangents(theta, X[i : i + 256])) for i in parts
        ]

    cases = {
        "dual fit, stars": (fit("dual"), [500, 1000, 2000], 3.1),
        "kronecker fit, stars": (fit("kronecker"), [4000, 8000, 16000], 1.1),
        "krylov product, stars": (krylov_product, [2000, 4000, 8000], 1.1),
        "dual fit, hidden width (parameters grow as its square)": (
            dual_of_width,
            [512, 1024, 2048],
            1.1,
        ),
        "dual error bars, stars predicted": (predict, [512, 1024, 2048], 1.1),
    }
    print("\n\n| cost of | sizes | seconds | exponent |\n|---|---|---|---:|")
    slopes = {}
    for name, (work_of, sizes, _) in cases.items():
        slopes[name], seconds = exponent(sizes, work_of)
        print(
            f"| {name} | {sizes} | {', '.join(f'{s:.3g}' for s in seconds)} | {slopes[name]:.2f} |"
        )
    for name, (_, _, promise) in cases.items():
        assert slopes[name] < promise, name
