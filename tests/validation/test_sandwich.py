"""The sandwich covariance against dense algebra, and against refits to other noise than assumed."""

import dataclasses
import re
from functools import cache

import numpy as np
import pytest
from conftest import assert_entries

import symspec as ss
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.laplace import leave_one_out

NETWORKS = [
    "tanh-1-hidden-2-labels-own-units-missing",
    "tanh-2-hidden-3-labels-full-noise-missing",
    "relu-2-hidden-3-labels-full-noise",
    "tanh-and-softplus-without-bias-with-dropout",
    "linear-1-hidden-2-labels",
]
# float64 rounding, 1e-16, times condition numbers of up to 1e6 (labels in K beside dex), and a
# margin
SOLVED = 1e-8

over_networks = pytest.mark.parametrize("problem", NETWORKS, indirect=True)
over_structures = pytest.mark.parametrize("structure", ["primal", "dual"])


@cache
def posterior(problem, structure="auto", subset=None):
    """The result of `fit_laplace` without the certificate, most of the work and of no use here."""
    options = {} if subset is None else {"subset": subset}
    builder = InverseBuilder(
        problem.reg, problem.X, problem.Y, structure=structure, options=options
    )
    inverse = builder.build(problem.theta)
    mean, ends = problem.X.mean(axis=0), np.array([problem.Y.min(axis=0), problem.Y.max(axis=0)])
    return ss.LaplacePosterior(
        reg=problem.reg,
        theta=problem.theta,
        inverse_hessian=inverse,
        certificate=None,
        negative_log_posterior=0.0,
        curvature="ggn",
        structure=builder.structure,
        reason=builder.reason,
        flux_mean=mean,
        label_range=ends,
    )


def dense_sandwich(problem, A):
    """J A^-1 (sum of s s^T) A^-1 J^T, each score written out over the labels that the star has."""
    B = np.zeros_like(A)
    for x, y in zip(problem.X, problem.Y, strict=True):
        f, J, _ = problem.propagate(problem.theta, x)
        seen = np.flatnonzero(~np.isnan(y))
        score = J[seen].T @ np.linalg.solve(
            problem.noise_covariance[np.ix_(seen, seen)], (y - f)[seen]
        )
        B += np.outer(score, score)
    inverse = np.linalg.inv(A)
    return np.array(
        [J @ inverse @ B @ inverse @ J.T for J in problem.theta_jacobian(problem.theta)]
    )


@over_networks
@over_structures
@pytest.mark.parametrize("block_bytes", [2**27, 1], ids=["one-block", "star-by-star"])
def test_it_is_the_dense_formula_entry_by_entry(problem, structure, block_bytes, monkeypatch):
    monkeypatch.setattr(leave_one_out, "BLOCK_BYTES", block_bytes)
    laplace = posterior(problem, structure)
    V = ss.sandwich_covariance(laplace, problem.X, problem.Y, problem.X)
    assert_entries(V, dense_sandwich(problem, problem.ggn(problem.theta)), SOLVED)
    one = ss.sandwich_covariance(laplace, problem.X, problem.Y, problem.X[3])
    assert_entries(one, V[3], SOLVED)


def test_of_students_t_it_is_the_dense_formula_with_its_own_scores():
    rng = np.random.default_rng(1)
    X, net = rng.normal(size=(30, 4)), ss.mlp([4, 2])
    Y = X @ rng.normal(size=(4, 2)) + 0.2 * rng.standard_t(3, size=(30, 2))
    Y[2, 1] = np.nan
    Y[4, 0] += 20  # of hardly any weight
    scale, dof = np.array([0.2, 0.3]), np.array([3.0, 5.0])
    reg = ss.Regression(net, noise=ss.StudentTNoise(scale, dof), prior_precision=0.1)
    theta = ss.polish(reg, np.zeros(net.n_params), X, Y, progress=False).theta
    laplace = ss.fit_laplace(reg, theta, X, Y, structure="primal", progress=False)
    J = np.concatenate([t.dense() for _, t in laplace.tangents(X)])
    r = np.nan_to_num(Y - laplace.predict_labels(X))
    scores = np.einsum("nc,ncp->np", (dof + 1) * r / (dof * scale**2 + r**2), J)
    inverse = np.linalg.inv(ss.compile_ggn(reg)(theta, X, Y))
    expected = J @ inverse @ (scores.T @ scores) @ inverse @ J.transpose(0, 2, 1)
    assert_entries(ss.sandwich_covariance(laplace, X, Y, X), expected, SOLVED)


@pytest.mark.parametrize("problem", NETWORKS[1:2], indirect=True)
def test_with_the_exact_hessian_it_is_whites_own(problem):
    A = problem.hessian(problem.theta)
    A += (1 - np.linalg.eigvalsh(A)[0]) * np.eye(len(A))  # these weights are at no minimum
    laplace = posterior(problem)
    inverse = ss.inverse_hessian.PrimalInverse.factorize(A.copy())
    laplace = dataclasses.replace(
        laplace, inverse_hessian=inverse, curvature="hessian", structure="primal"
    )
    V = ss.sandwich_covariance(laplace, problem.X, problem.Y, problem.X)
    assert_entries(V, dense_sandwich(problem, A), SOLVED)


@over_networks
@over_structures
def test_cross_covariances_are_those_of_the_dense_inverse(problem, structure):
    builder = InverseBuilder(problem.reg, problem.X, problem.Y, structure=structure)
    inverse, tangents = builder.build(problem.theta), builder.tangents(problem.theta)
    J = problem.theta_jacobian(problem.theta)
    expected = np.einsum("ncp,pq,mdq->ncmd", J[:3], np.linalg.inv(problem.ggn(problem.theta)), J)
    cross_covariance = inverse.cross_covariance()
    assert_entries(cross_covariance(tangents[:3], tangents), expected, SOLVED)
    both = cross_covariance(tangents, tangents)
    assert_entries(np.einsum("ncnd->ncd", both), inverse.label_covariance(tangents), SOLVED)


# --- noise that differs from star to star

N_STARS, N_REFITS, N_SANDWICHES = 400, 4000, 12


@pytest.fixture(scope="module")
def refits():
    """Predictions of a linear network refitted to new labels; noise grows along the first pixel."""
    rng = np.random.default_rng(4)
    net = ss.mlp([2, 2])
    sigma, precision = np.array([0.5, 2.0]), 1e-3
    reg = ss.Regression(net, sigma_noise=sigma, prior_precision=precision)
    X, X_new = rng.normal(size=(N_STARS, 2)), np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    scatter = sigma * (0.3 + 1.5 * np.abs(X[:, :1]))
    F, F_new = (np.column_stack([Z, np.ones(len(Z))]) for Z in (X, X_new))
    truth = np.array([[1.0, -2.0], [0.5, 1.0], [3.0, 0.0]])  # two kernel rows, and the biases

    def refit(Y):
        solved = [
            np.linalg.solve(F.T @ F / s**2 + precision * np.eye(3), F.T @ y / s**2)
            for s, y in zip(sigma, Y.T, strict=True)
        ]
        return np.column_stack(solved)

    labels = [F @ truth + scatter * rng.normal(size=(N_STARS, 2)) for _ in range(N_REFITS)]
    weights = np.array([refit(Y) for Y in labels])
    laplace = ss.fit_laplace(reg, weights[0].ravel(), X, labels[0])
    assert laplace.certificate.is_minimum
    found = [
        ss.sandwich_covariance(dataclasses.replace(laplace, theta=w.ravel()), X, Y, X_new)
        for w, Y in zip(weights[:N_SANDWICHES], labels[:N_SANDWICHES], strict=True)
    ]
    return F_new @ weights, np.array(found), laplace.label_covariance(X_new)


def test_it_is_the_scatter_of_refits_where_the_plain_covariance_is_not(refits):
    predictions, found, plain = (
        refits  # (refit, star, label), (sandwich, star, label, label), (star, label, label)
    )
    centred = predictions - predictions.mean(axis=0)
    products = np.einsum("rnc,rnd->rncd", centred, centred)
    empirical, error = products.mean(axis=0), products.std(axis=0) / np.sqrt(N_REFITS)
    of_sandwich = found.std(axis=0, ddof=1) / np.sqrt(N_SANDWICHES)
    # 9 different entries: the chance that a right one exceeds 4 is 6e-4; residuals that are smaller
    # than the noise by
    # the 3 directions of 400 stars lower variances by some 2 %, half a standard error
    z = (found.mean(axis=0) - empirical) / np.hypot(error, of_sandwich)
    assert np.abs(z).max() < 4
    z = (plain - empirical) / error
    diagonal = np.einsum("ncc->nc", z)
    assert (np.abs(diagonal[:2]) > 8).all()
    assert (diagonal[1] < 0).all()  # along the first pixel, where the noise is largest


# --- refusals


@pytest.mark.parametrize("problem", NETWORKS[:1], indirect=True)
@pytest.mark.parametrize(
    ("structure", "subset", "got"),
    [
        ("diagonal", None, '"diagonal" (approximate)'),
        ("krylov", 2, '"krylov" (interval)'),
        ("dual", 2, '"dual" (upper bound)'),
    ],
    ids=["diagonal", "krylov", "subset"],
)
def test_other_structures_are_refused(problem, structure, subset, got):
    laplace = posterior(problem, structure, subset)
    words = (
        f'structure="primal" or "dual" and all training stars, got {got}: use fit_laplace(...,'
        ' structure="dual")'
    )
    with pytest.raises(ss.OptionError, match=re.escape(words)):
        ss.sandwich_covariance(laplace, problem.X, problem.Y, problem.X)


@pytest.mark.parametrize("problem", NETWORKS[:1], indirect=True)
def test_arrays_that_do_not_fit_are_refused(problem):
    laplace = posterior(problem)
    with pytest.raises(ss.ShapeError, match=r"labels should have shape \(7, 2\)"):
        ss.sandwich_covariance(laplace, problem.X, problem.Y[1:], problem.X)
    with pytest.raises(ss.ShapeError, match=r"flux should have shape \(star, 5\)"):
        ss.sandwich_covariance(laplace, problem.X, problem.Y, problem.X[:, 1:])


@pytest.mark.parametrize("problem", NETWORKS[:1], indirect=True)
def test_spectra_stand_for_flux_and_labels(problem):
    laplace = posterior(problem)
    names = problem.net.label_names
    stars = ss.Spectra(flux=problem.X, labels=problem.Y, label_names=names)
    expected = ss.sandwich_covariance(laplace, problem.X, problem.Y, problem.X[:2])
    V = ss.sandwich_covariance(laplace, stars, X_new=problem.X[:2])
    np.testing.assert_array_equal(V, expected)
    for new in ({}, {"X": problem.X, "X_new": problem.X}):
        with pytest.raises(ss.OptionError, match="X should be the stars to predict"):
            ss.sandwich_covariance(laplace, stars, **new)
