"""Noise that is next to nothing beside what the prior lets labels vary, as of generated spectra.

The linear network's posterior is found from singular values of the spectra, which have all digits
whatever the noise.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import symspec as ss

SIGMA = np.array([1e-2, 1e-1])
PRECISION = 1e-7
N_STARS, N_PIXELS = 40, 60


@pytest.fixture(scope="module")
def stars():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_STARS, N_PIXELS))
    slopes = rng.normal(size=(N_PIXELS, 2))
    return X, 5000 + 100 * (X @ slopes) + rng.normal(size=(N_STARS, 2))


@pytest.fixture(scope="module", params=["noise", "label errors"])
def laplace(stars, request):
    net = ss.Network([ss.Dense(2)], n_pixels=N_PIXELS)
    # of each label's variance a quarter may have come with it
    errors = np.tile(SIGMA / 2, (N_STARS, 1)) if request.param == "label errors" else None
    sigma = SIGMA if errors is None else np.sqrt(0.75) * SIGMA
    reg = ss.Regression(net, sigma_noise=sigma, prior_precision=PRECISION)
    theta = np.random.default_rng(1).normal(size=net.n_params)
    return ss.fit_laplace(
        reg, theta, *stars, label_errors=errors, structure="dual", require_minimum=False,
        progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def kernel_inverse(stars):
    """Solution a = M^-1 y (star, label) and the diagonal of M^-1 (star, label)."""
    X, Y = stars
    U, d, _ = np.linalg.svd(np.c_[X, np.ones(len(X))], full_matrices=False)
    shares = 1 / (d[:, None] ** 2 / PRECISION + SIGMA**2)
    return U @ (shares * (U.T @ Y)), np.square(U) @ shares


def test_the_linearised_centre_is_the_minimum(laplace, stars, kernel_inverse):
    X, Y = stars
    expected = Y - SIGMA**2 * kernel_inverse[0]
    found = laplace.predict(X, center="linearized", progress=False).labels
    assert_allclose(found, expected, atol=1e-9)  # rounding of 5000; by the gradient 100 are lost
    assert_allclose(
        laplace.certificate.newton_shift,
        np.sqrt(np.mean((expected - laplace.predict_labels(X)) ** 2, axis=0)),
        rtol=1e-9,
    )


@pytest.mark.parametrize("center", ["weights", "linearized"])
def test_a_star_left_out_is_predicted_by_the_others(center, laplace, stars, kernel_inverse):
    X, Y = stars
    a, diagonal = kernel_inverse
    found = laplace.leave_one_out(center=center)
    variances = np.einsum("ncc->nc", found.model_cov)
    assert_allclose(variances, 1 / diagonal - SIGMA**2, rtol=1e-9)
    labels = Y - SIGMA**2 * a if center == "linearized" else laplace.predict_labels(X)
    expected = labels - (1 / diagonal - SIGMA**2) * a
    # residuals of 1e-8 are differences of labels of 5000, with eps of these
    assert_allclose((found.labels - expected) / np.sqrt(variances), 0, atol=5e-3)


def leave_out_group(stars, group):
    """Labels and variances (star, label) of a group by a fit of the other stars."""
    X, Y = stars
    Z = np.c_[X, np.ones(len(X))]
    others = np.delete(np.arange(len(X)), group)
    U, d, Vt = np.linalg.svd(Z[others], full_matrices=True)
    along = Z[group] @ Vt.T  # the weights' directions, of which the last have the prior alone
    d = np.r_[d, np.zeros(len(Vt) - len(d))]
    labels = np.empty((len(group), 2))
    variances = np.empty((len(group), 2))
    for c, sigma in enumerate(SIGMA):
        A = d**2 / sigma**2 + PRECISION
        right = np.zeros(len(d))
        right[: len(others)] = d[: len(others)] * (U.T @ Y[others, c]) / sigma**2
        labels[:, c] = along @ (right / A)
        variances[:, c] = np.square(along) @ (1 / A)
    return labels, variances


def test_groups_left_out_are_predicted_by_the_others(laplace, stars):
    names = np.arange(N_STARS) // 3 + 100  # the last group has one star
    names[[0, 20]] = 7
    found = laplace.leave_one_out(groups=names, center="linearized")
    for name in np.unique(names):
        group = np.flatnonzero(names == name)
        labels, variances = leave_out_group(stars, group)
        assert_allclose(np.einsum("ncc->nc", found.model_cov[group]), variances, rtol=1e-9)
        residuals = (found.labels[group] - labels) / np.sqrt(variances)
        assert_allclose(residuals, 0, atol=5e-3)  # digits of labels of 5000, as of single stars


def test_the_step_is_kept_in_a_file(laplace, stars, tmp_path):
    path = tmp_path / "model.h5"
    ss.write_laplace(path, laplace)
    read = ss.read_laplace(path)
    assert_allclose(read.exact_step, laplace.exact_step, rtol=0)
    assert_allclose(read.newton_step, laplace.newton_step, rtol=0)


def test_the_gradient_does_where_noise_is_not_small(laplace, stars):
    reg = ss.Regression(laplace.net, sigma_noise=1.0, prior_precision=1.0)
    theta = laplace.theta
    usual = ss.fit_laplace(
        reg, theta, *stars, structure="dual", require_minimum=False, progress=False
    )
    assert usual.exact_step is None
    assert usual.inverse_hessian.own_blocks() is None
