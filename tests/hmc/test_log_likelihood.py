"""The log density of each star's labels, of any noise; `test_hmc` has it beside draws."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

import symspec as ss
from symspec.derivatives.backends import find_mode

N = 60
DOF = 3.0


def build_problem():
    """A linear network, wrong labels among the others, and stars that lack one or all of theirs."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 3))
    Y = X @ rng.normal(size=(3, 2)) + [0.3, 0.5] * rng.normal(size=(N, 2))
    Y[[5, 20, 40]] += 6.0
    Y[3, 1] = Y[7] = np.nan
    noise = ss.StudentTNoise([0.2, 0.4], DOF)
    return ss.Regression(ss.mlp([3, 2]), noise=noise, prior_precision=0.7), X, Y


def densities(theta, X, Y, logpdf):
    """Sum over the labels of each star that are there, of each draw (chain, draw, star)."""
    kernel = theta[..., :6].reshape(*theta.shape[:2], 3, 2)
    f = np.einsum("np,cdpl->cdnl", X, kernel) + theta[:, :, None, 6:]
    return np.nansum(logpdf(Y - f), axis=-1)


@pytest.mark.parametrize("errors", [None, 0.1], ids=["alone", "with label errors"])
@pytest.mark.parametrize("kind", ["normal", "t"])
def test_a_model_has_it_for_any_noise(kind, errors):
    reg, X, Y = build_problem()
    given = None if errors is None else np.full(Y.shape, errors)
    reg = reg if kind == "t" else reg.with_noise(ss.GaussianNoise([0.2, 0.4]))
    model = ss.pymc_model(reg, X, Y, label_errors=given, log_likelihood=True)
    theta = np.linspace(-1, 1, 8)
    compute = model.compile_fn(
        model["log_likelihood"], inputs=[model["theta"]], mode=find_mode("numpy", "float64"),
        point_fn=False,
    )  # fmt: skip
    scale = np.hypot([0.2, 0.4], 0.0 if errors is None else errors)

    def logpdf(r):
        return (
            stats.norm.logpdf(r, scale=scale)
            if kind == "normal"
            else stats.t.logpdf(r, DOF, scale=scale)
        )

    expected = densities(theta[None, None], X, Y, logpdf)[0, 0]
    assert_allclose(np.squeeze(compute(theta)), expected, rtol=1e-9)
