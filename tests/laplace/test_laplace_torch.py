r"""Structures of the inverse Hessian against laplace-torch 0.3 (reference/laplace_torch.json).

The numbers were made by reference/laplace_torch.py from three small networks in float64; neither
package imports the other. What follows are laplace-torch's conventions; each is also computed below
in plain NumPy.

- Its log marginal likelihood is :math:`\log p(Y|\theta) + \tfrac12 (\log\det\Lambda - \log\det A -
  \theta^T\Lambda\theta)` with all constants of the likelihood; those of prior and volume, P log(2
  pi) / 2 each, cancel. That is our :math:`-U - \tfrac12 \log\det A + \tfrac P2 \log 2\pi`, away
  from the minimum, too. (Its loss is 1/2 sum (y - f)^2, and `_H_factor` is 1 / sigma^2.) For the
  last layer both leave all other weights out of the prior.
- Its prior has mean 0 by default, and its "layers" are arrays: kernels and biases each have a
  precision of their own, as our blocks have. sigma_noise is a standard deviation, one number for
  all labels, by default 1.
- "full" and "diag" are the exact Gauss-Newton matrix and its diagonal: no Monte Carlo unless
  stochastic=True.
- "kron" is :math:`\tfrac1N Q \otimes R + \delta` for a kernel, with the sum over outputs exact, and
  so is ours. But it takes a bias as a block of its own, whose curvature is R, and drops what joins
  it to its kernel; ours has kernel and bias in one block, with inputs [a, s] (Martens & Grosse
  2015). Without biases the two are the same; with biases they are two approximations, and this file
  computes the numbers of both with dense matrices.
"""

import json
from functools import cache
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import symspec as ss
from symspec.networks.layers import Activation, Dense
from symspec.networks.network import Network

STORED = json.loads((Path(__file__).parent / "reference" / "laplace_torch.json").read_text())[
    "problems"
]
WITH_BIAS = [name for name in STORED if "with-bias" in name]
WITHOUT_BIAS = [name for name in STORED if "without-bias" in name]
SAME = {
    "primal": "full",
    "dual": "full",
    "diagonal": "diag",
    "last_layer": "last_layer",
}  # ours: theirs
LOG_2PI = np.log(2 * np.pi)

# float64 rounding, 1e-16, times condition numbers of up to 1e5 (eigenvalues of 1e4 beside priors of
# 0.4), and a margin
SOLVED = 1e-9
# log determinants and sums of squares, of order 100, are added with either sign: so many nats,
# whatever is left
NATS = 1e-9
# no two structures come as near as this
APART = 1e-2


def arrays(entries):
    return {name: np.array(value) for name, value in entries.items()}


@cache
def read(name):
    """The problem of this name as numbers, and as our regression."""
    stored = STORED[name]
    layers, bias = [], "dense_0/bias" in stored["params"]
    for units in stored["sizes"][1:]:
        layers += [Dense(units, use_bias=bias), Activation(stored["activation"])]
    net = Network(layers[:-1], stored["sizes"][0])
    params = arrays(stored["params"])
    prior = stored["prior_precision"]
    return SimpleNamespace(
        params=params,
        prior=prior,
        sigma=stored["sigma_noise"],
        activation=stored["activation"],
        **arrays({key: stored[key] for key in ("X", "Y", "X_test")}),
        results={
            key: SimpleNamespace(**arrays(values)) for key, values in stored["results"].items()
        },
        reg=ss.Regression(net, sigma_noise=stored["sigma_noise"], prior_precision=prior),
        theta=net.pack(params),
    )


@cache
def fit(name, structure, curvature="ggn"):
    problem = read(name)
    data, words = (problem.X, problem.Y), {"structure": structure, "curvature": curvature}
    return ss.fit_laplace(problem.reg, problem.theta, *data, **words, require_minimum=False)


def assert_same(laplace, problem, theirs):
    """Covariances of the test stars, log marginal likelihood and log determinant."""
    largest = np.abs(theirs.label_covariance).max()
    found = laplace.label_covariance(problem.X_test)
    assert_allclose(found, theirs.label_covariance, rtol=SOLVED, atol=1e-3 * SOLVED * largest)
    assert_allclose(
        laplace.log_marginal_likelihood(), theirs.log_marginal_likelihood, rtol=0, atol=NATS
    )
    assert_allclose(
        -laplace.inverse_hessian.logdet(), theirs.log_det_posterior_precision, rtol=0, atol=NATS
    )


# -------------------------------------------------------------------------------------------
# NumPy's account of both


def layer_factors(problem, X):
    """Of each layer inputs a (star, in) and df/dz (star, label, out), and f (star, label)."""
    n_layers = sum(name.endswith("kernel") for name in problem.params)
    inputs, slopes, a = [], [], X
    for i in range(n_layers):
        inputs.append(a)
        z = a @ problem.params[f"dense_{i}/kernel"] + problem.params.get(f"dense_{i}/bias", 0.0)
        a = np.tanh(z) if problem.activation == "tanh" else np.maximum(z, 0)
        slopes.append(1 - a**2 if problem.activation == "tanh" else (z > 0).astype(float))
    g, cotangents = np.broadcast_to(np.eye(z.shape[1]), (len(X), z.shape[1], z.shape[1])), []
    for i in reversed(range(n_layers)):
        cotangents.insert(0, g)
        if i:
            g = (g @ problem.params[f"dense_{i}/kernel"].T) * slopes[i - 1][:, None, :]
    return inputs, cotangents, z


def blocks(problem, X, *, joined):
    """Inputs, cotangents, prior precision, log det of the change of variables of every block.

    A bias is a weight whose input is 1: in a block of its own as laplace-torch has it, or `joined`
    to its kernel with the input s, which stands for the bias over s.
    """
    found = []
    for i, (a, g) in enumerate(zip(*layer_factors(problem, X)[:2], strict=True)):
        delta, bias = problem.prior[f"dense_{i}/kernel"], problem.prior.get(f"dense_{i}/bias")
        one = np.ones((len(X), 1))
        if bias is not None and joined:
            s = np.sqrt(delta / bias)
            found.append((np.hstack([a, s * one]), g, delta, -2 * g.shape[2] * np.log(s)))
            continue
        found.append((a, g, delta, 0.0))
        if bias is not None:
            found.append((one, g, bias, 0.0))
    return found


def solve_kronecker(problem, *, joined, divisor=None):
    """Label covariances and log det A of Kronecker blocks Q (x) R / N + delta, all dense."""
    n_labels = problem.Y.shape[1]
    divisor = len(problem.X) if divisor is None else divisor
    V, log_det = np.zeros((len(problem.X_test), n_labels, n_labels)), 0.0
    at_training = blocks(problem, problem.X, joined=joined)
    for (a, g, delta, change), (a_test, g_test, *_) in zip(
        at_training, blocks(problem, problem.X_test, joined=joined), strict=True
    ):
        Q, R = a.T @ a, np.einsum("nci,ncj->ij", g, g) / problem.sigma**2
        A = np.kron(Q, R) / divisor + delta * np.eye(len(Q) * len(R))
        J = np.einsum("ni,ncj->ncij", a_test, g_test).reshape(len(V), n_labels, -1)
        V += J @ np.linalg.inv(A) @ J.transpose(0, 2, 1)
        log_det += np.linalg.slogdet(A)[1] + change
    return V, log_det


def evidence(problem, log_det, names=None):
    """Log of Gaussian likelihood and prior at theta, times the volume of Normal(0, A^-1)."""
    residuals = problem.Y - layer_factors(problem, problem.X)[2]
    total = -0.5 * np.sum(residuals**2 / problem.sigma**2 + 2 * np.log(problem.sigma) + LOG_2PI)
    for name in problem.params if names is None else names:
        w, delta = problem.params[name], problem.prior[name]
        total += (
            np.sum(-0.5 * delta * w**2 + 0.5 * np.log(delta) - 0.5 * LOG_2PI)
            + 0.5 * w.size * LOG_2PI
        )
    return total - 0.5 * log_det


# ------------------------------------------------------------------------------------------------
# ours against theirs


@pytest.mark.parametrize("structure", SAME)
@pytest.mark.parametrize("name", STORED)
def test_structure_agrees_with_laplace_torch(name, structure):
    problem = read(name)
    assert_same(fit(name, structure), problem, problem.results[SAME[structure]])


@pytest.mark.parametrize("name", WITH_BIAS)
def test_exact_hessian_agrees_with_laplace_torch(name):
    # only for the smooth networks: the script took those to their minimum, where the Hessian is
    # positive definite
    problem = read(name)
    laplace = fit(name, "primal", curvature="hessian")
    assert laplace.certificate.is_minimum
    assert_same(laplace, problem, problem.results["hessian"])


@pytest.mark.parametrize("name", WITHOUT_BIAS)
def test_kronecker_agrees_with_laplace_torch_where_there_is_no_bias(name):
    # laplace-torch was given batches of 8 of the 25 stars, which its division by N allows for
    problem = read(name)
    assert_same(fit(name, "kronecker"), problem, problem.results["kron"])


@pytest.mark.parametrize("name", WITH_BIAS)
def test_kronecker_joins_the_bias_to_its_kernel(name):
    problem = read(name)
    V, log_det = solve_kronecker(problem, joined=True)
    joined = SimpleNamespace(
        label_covariance=V,
        log_marginal_likelihood=evidence(problem, log_det),
        log_det_posterior_precision=log_det,
    )
    assert_same(fit(name, "kronecker"), problem, joined)
    theirs = problem.results["kron"]  # another approximation of the same matrix
    assert np.abs(V / theirs.label_covariance - 1).max() > APART
    assert abs(log_det - theirs.log_det_posterior_precision) > APART


@pytest.mark.parametrize("name", STORED)
def test_labels_and_objective_agree_with_laplace_torch(name):
    problem = read(name)
    theirs = problem.results["full"]
    laplace = fit(name, "primal")
    # the network's output is a few products and tanh, of order one
    assert_allclose(laplace.predict(problem.X_test).labels, theirs.labels, rtol=0, atol=1e-12)
    log_det_prior = problem.reg.log_det_prior_precision()
    U = -theirs.log_likelihood + 0.5 * (
        theirs.scatter - log_det_prior + problem.theta.size * LOG_2PI
    )
    assert_allclose(laplace.negative_log_posterior, U, rtol=0, atol=NATS)


# -------------------------------------------------------------------------------------- theirs
# against plain NumPy


@pytest.mark.parametrize("name", STORED)
def test_kron_of_laplace_torch_has_biases_in_blocks_of_their_own(name):
    problem = read(name)
    theirs = problem.results["kron"]
    V, log_det = solve_kronecker(problem, joined=False)
    assert_allclose(theirs.label_covariance, V, rtol=SOLVED)
    assert_allclose(theirs.log_det_posterior_precision, log_det, rtol=0, atol=NATS)
    # without the division by N nothing would agree
    assert np.abs(solve_kronecker(problem, joined=False, divisor=1)[0] / V - 1).max() > APART


@pytest.mark.parametrize("structure", ["full", "hessian", "kron", "diag", "last_layer"])
@pytest.mark.parametrize("name", STORED)
def test_log_marginal_likelihood_of_laplace_torch_has_all_constants(name, structure):
    problem = read(name)
    if structure not in problem.results:
        assert problem.activation == "relu"
        return
    theirs = problem.results[structure]
    last = list(problem.params)[-1].partition("/")[0]
    names = [n for n in problem.params if structure != "last_layer" or n.startswith(last)]
    expected = evidence(problem, theirs.log_det_posterior_precision, names)
    assert_allclose(theirs.log_marginal_likelihood, expected, rtol=0, atol=NATS)


@pytest.mark.parametrize("name", STORED)
def test_structures_are_far_enough_apart_to_be_told_from_one_another(name):
    results = read(name).results
    for one, other in combinations(results, 2):
        V, W = results[one].label_covariance, results[other].label_covariance
        assert np.abs(V - W).max() > APART * np.abs(V).max(), (one, other)
        assert (
            abs(results[one].log_marginal_likelihood - results[other].log_marginal_likelihood)
            > APART
        ), (one, other)
