"""Every structure of the inverse Hessian against its definition in dense algebra, entry by entry.

The definitions are written out over the Jacobians of conftest.py; structures never see a Jacobian,
only its factors.
"""

import re
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import REFERENCE_ACTIVATIONS, assert_entries, build_problem
from numpy.testing import assert_allclose
from scipy.linalg import block_diag

import symspec as ss
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.numerics.krylov_space import estimate_log_det
from symspec.networks.layers import Dense
from symspec.networks.network import Network
from symspec.safety.checkpoint import Checkpoint

TANH, TANH_FULL = (
    "tanh-1-hidden-2-labels-own-units-missing",
    "tanh-2-hidden-3-labels-full-noise-missing",
)
RELU, RELU_FULL = "relu-3-hidden-2-labels-own-units-missing", "relu-2-hidden-3-labels-full-noise"
NO_BIAS, FOUR = "tanh-and-softplus-without-bias-with-dropout", "tanh-4-hidden-3-labels-own-units"
PER_BLOCK = [
    TANH,
    RELU,
    NO_BIAS,
    FOUR,
]  # one prior precision a block, as Kronecker products want it
ALL = [*PER_BLOCK, TANH_FULL, RELU_FULL]

# float64 rounding, 1e-16, times condition numbers of up to 1e6 (labels in K beside dex), and a
# margin
SOLVED = 1e-8
APPROXIMATE = {"kronecker", "ekfac", "diagonal", "last_layer", "low_rank"}
OPTIONS = {"krylov": {"subset": 2, "tolerance": 1e-9}, "low_rank": {"rank": 4}}
N_DRAWS = 4_000


def build(problem, structure, **options):
    chosen = OPTIONS.get(structure, {}) | options
    return InverseBuilder(problem.reg, problem.X, problem.Y, structure=structure, options=chosen)


# --- the definitions


def whitened_jacobian(problem):
    """T_n J_n (star, label, param) of the stars with labels, by one Cholesky factor a star."""
    rows = []
    for J, y in zip(problem.theta_jacobian(problem.theta), problem.Y, strict=True):
        seen, out = np.flatnonzero(~np.isnan(y)), np.zeros_like(J)
        if seen.size:
            root = np.linalg.cholesky(problem.noise_covariance[np.ix_(seen, seen)])
            out[seen] = np.linalg.solve(root, J[seen])
            rows.append(out)
    return np.array(rows)


def layer_slices(net):
    """(kernel, bias or None) of each layer, as slices of theta."""
    places = {b.name: b.slice for b in net.layout.blocks}
    return [
        (places[f"{k}/kernel"], places.get(f"{k}/bias"), shape)
        for k, shape in net.dense_shapes.items()
    ]


def layer_inputs(problem):
    """Each layer's input (star, in) by a forward pass, of the stars with labels."""
    x_mean, x_scale, *_ = problem.standardization
    a = ((problem.X - x_mean) / x_scale)[~np.isnan(problem.Y).all(axis=1)]
    activations = [(name, options) for _, name, options in problem.case.hidden]
    for (kernel, bias, shape), (name, options) in zip(
        layer_slices(problem.net), [*activations, ("linear", {})], strict=True
    ):
        yield a
        z = a @ problem.theta[kernel].reshape(shape) + (0 if bias is None else problem.theta[bias])
        a = REFERENCE_ACTIVATIONS[name][0](z, **options)


def layer_factors(problem, J):
    """Inputs with the bias's constant (star, in), and cotangents (star, label, out) out of J."""
    d = problem.prior_precision
    for a, (kernel, bias, shape) in zip(
        layer_inputs(problem), layer_slices(problem.net), strict=True
    ):
        JW = J[:, :, kernel].reshape(*J.shape[:2], *shape)
        g = np.einsum("ni,ncio->nco", a, JW) / np.sum(a**2, axis=1)[:, None, None]
        scale = None if bias is None else np.sqrt(d[kernel.start] / d[bias.start])
        yield (a if bias is None else np.hstack([a, np.full((len(a), 1), scale)])), g, scale


def kronecker_matrix(problem, *, corrected):
    """Blocks Q (x) R / N + delta of each layer, its bias in coordinates b / s, put back to b."""
    J, blocks = whitened_jacobian(problem), []
    for (a, g, scale), (kernel, _, (_, n_out)) in zip(
        layer_factors(problem, J), layer_slices(problem.net), strict=True
    ):
        Q, R = a.T @ a, np.einsum("nci,ncj->ij", g, g)
        block = np.kron(Q, R) / len(J)
        if corrected:
            U = np.kron(np.linalg.eigh(Q)[1], np.linalg.eigh(R)[1])
            rows = np.einsum("ni,ncj->ncij", a, g).reshape(-1, len(block))
            block = U @ np.diag(np.sum((rows @ U) ** 2, axis=0)) @ U.T
        block += problem.prior_precision[kernel.start] * np.eye(len(block))
        if scale is not None:
            D = np.ones(len(block))
            D[-n_out:] = 1 / scale
            block *= np.outer(D, D)
        blocks.append(block)
    return block_diag(*blocks)


def low_rank_matrix(problem, rank):
    J, d = whitened_jacobian(problem), problem.prior_precision
    J = J.reshape(-1, d.size) / np.sqrt(d)
    values, vectors = np.linalg.eigh(J.T @ J)
    values, vectors = values[-rank:], vectors[:, -rank:]
    root = np.sqrt(d)[:, None]
    return root * (np.eye(d.size) + vectors @ np.diag(values) @ vectors.T) * root.T


def definition(problem, structure):
    """A structure's inverse (param, param), and its log determinant over what varies."""
    G = problem.ggn(problem.theta)
    if structure == "last_layer":
        kernel, _, _ = layer_slices(problem.net)[-1]
        free, inverse = slice(kernel.start, len(G)), np.zeros_like(G)
        inverse[free, free] = np.linalg.inv(G[free, free])
        return inverse, -np.linalg.slogdet(G[free, free])[1]
    A = {
        "diagonal": lambda: np.diag(np.diag(G)),
        "kronecker": lambda: kronecker_matrix(problem, corrected=False),
        "ekfac": lambda: kronecker_matrix(problem, corrected=True),
        "low_rank": lambda: low_rank_matrix(problem, OPTIONS["low_rank"]["rank"]),
    }.get(structure, lambda: G)()
    return np.linalg.inv(A), -np.linalg.slogdet(A)[1]


CASES = [
    *((name, s) for s in ("krylov", "diagonal", "last_layer", "low_rank") for name in ALL),
    *((name, s) for s in ("kronecker", "ekfac") for name in PER_BLOCK),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[1]}-{case[0]}")
def case(request):
    """A structure of one problem of the table, beside its definition."""
    name, structure = request.param
    problem = build_problem(name)
    builder = build(problem, structure)
    inverse, log_det = definition(problem, structure)
    return SimpleNamespace(
        problem=problem,
        structure=structure,
        inverse=builder.build(problem.theta),
        tangents=builder.tangents(problem.theta),
        expected=inverse,
        log_det=log_det,
    )


def test_a_structure_is_its_definition(case):
    assert case.inverse.structure == case.structure
    assert_entries(case.inverse.to_dense(), case.expected, SOLVED)


def test_products_are_those_of_the_dense_inverse(case):
    V = np.random.default_rng(2).normal(size=(len(case.expected), 3))
    assert_entries(case.inverse @ V, case.expected @ V, SOLVED)
    assert_entries(case.inverse @ V[:, 0], case.expected @ V[:, 0], SOLVED)
    assert_entries(case.inverse.T @ V, case.expected @ V, SOLVED)


def test_the_diagonal_is_that_of_the_dense_inverse(case):
    assert_allclose(case.inverse.diagonal(), np.diag(case.expected), rtol=SOLVED, atol=1e-300)


def test_the_log_determinant_is_that_of_what_varies(case):
    assert_allclose(case.inverse.logdet(), case.log_det, rtol=0, atol=1e-7)
    assert case.inverse.logdet_standard_error() == 0


def test_the_label_covariance_is_that_of_the_jacobian(case):
    J = case.problem.theta_jacobian(case.problem.theta)
    assert_entries(
        case.inverse.label_covariance(case.tangents),
        np.array([j @ case.expected @ j.T for j in J]),
        SOLVED,
    )


def test_bounds_hold_and_say_what_is_known(case):
    J = case.problem.theta_jacobian(case.problem.theta)
    exact = np.linalg.inv(case.problem.ggn(case.problem.theta))
    exact = np.array([j @ exact @ j.T for j in J])
    lower, upper = case.inverse.label_covariance_bounds(case.tangents)
    if case.inverse.accuracy == "approximate":
        assert np.isnan(lower).all()
        assert np.isnan(upper).all()
        return
    slack = 1e-8 * np.linalg.norm(exact, axis=(1, 2))
    assert (np.linalg.eigvalsh(upper - exact)[:, 0] > -slack).all()
    assert (np.linalg.eigvalsh(exact - lower)[:, 0] > -slack).all()


def test_draws_have_the_covariance_of_the_inverse(case):
    """For n normal draws the variance of mean(x_i x_j) is (C_ij^2 + C_ii C_jj) / n (Wishart)."""
    draws = case.inverse.draw(N_DRAWS, np.random.default_rng(5))
    C, free = case.expected, case.inverse.free
    fixed = np.setdiff1d(np.arange(len(C)), np.arange(len(C))[free])
    assert not draws[:, fixed].any()
    draws, C = draws[:, free], C[free, free]
    error = np.sqrt((C**2 + np.outer(np.diag(C), np.diag(C))) / N_DRAWS)
    z = (draws.T @ draws / N_DRAWS - C) / error
    assert np.abs(z).max() < 5.5  # of some thousand entries; 1e-4 by chance
    assert np.abs(z[np.tril_indices(len(C))]).mean() < 1.1  # 0.8 for normal scores


# --- exactness where theory says so


def fit_both(net, X, Y, structure, **noise):
    reg = ss.Regression(net, prior_precision={"dense_0/kernel": 2.0, "dense_0/bias": 0.5}, **noise)
    theta = np.random.default_rng(4).normal(size=net.n_params)
    return [
        InverseBuilder(reg, X, Y, structure=s).build(theta).to_dense()
        for s in (structure, "primal")
    ]


@pytest.mark.parametrize("structure", ["kronecker", "ekfac"])
def test_kronecker_is_exact_for_a_linear_network_with_one_label(structure):
    rng = np.random.default_rng(3)
    approximate, exact = fit_both(
        Network([Dense(1)], 6),
        rng.normal(size=(30, 6)),
        rng.normal(size=(30, 1)),
        structure,
        sigma_noise=0.3,
    )
    assert_entries(approximate, exact, SOLVED)


@pytest.mark.parametrize("structure", ["kronecker", "ekfac"])
def test_kronecker_is_exact_for_a_linear_network_with_any_labels_none_missing(structure):
    rng = np.random.default_rng(3)
    S = np.array([[0.3, 0.12], [0.12, 0.2]])
    approximate, exact = fit_both(
        Network([Dense(2)], 4),
        rng.normal(size=(30, 4)),
        rng.normal(size=(30, 2)),
        structure,
        noise_covariance=S,
    )
    assert_entries(approximate, exact, SOLVED)


def test_kronecker_is_exact_layer_by_layer_for_one_star():
    rng = np.random.default_rng(6)
    net = ss.mlp([4, 3, 2], activation="tanh")
    prior = {"dense_0/kernel": 2.0, "dense_0/bias": 0.5, "dense_1": 1.0}
    reg = ss.Regression(net, sigma_noise=[0.1, 0.3], prior_precision=prior)
    theta, X, Y = rng.normal(size=net.n_params), rng.normal(size=(1, 4)), rng.normal(size=(1, 2))
    G = ss.compile_ggn(reg)(theta, X, Y)
    blocks = block_diag(*(G[s, s] for s in (slice(0, 15), slice(15, None))))
    for structure in ("kronecker", "ekfac"):
        assert_entries(
            InverseBuilder(reg, X, Y, structure=structure).build(theta).to_dense(),
            np.linalg.inv(blocks),
            SOLVED,
        )


def test_ekfac_is_nearer_to_the_curvature_than_kronecker():
    """In the Frobenius norm, layer by layer, by its definition (George et al. 2018)."""
    problem = build_problem(FOUR)
    G, errors = problem.ggn(problem.theta), {}
    for corrected in (False, True):
        A = kronecker_matrix(problem, corrected=corrected)
        errors[corrected] = np.linalg.norm(np.where(A != 0, A - G, 0))
    assert errors[True] < errors[False]


@pytest.mark.parametrize("problem", [TANH], indirect=True)
def test_low_rank_of_all_directions_is_exact(problem):
    exact = np.linalg.inv(problem.ggn(problem.theta))
    assert_entries(
        build(problem, "low_rank", rank=10**6).build(problem.theta).to_dense(), exact, 1e-7
    )


@pytest.mark.parametrize("problem", [TANH], indirect=True)
def test_a_dual_of_a_subset_and_of_a_larger_one_are_falling_upper_bounds(problem):
    builder = build(problem, "primal")
    tangents, exact = builder.tangents(problem.theta), builder.build(problem.theta)
    bounds = [
        build(problem, "dual", subset=n).build(problem.theta).label_covariance(tangents)
        for n in (1, 2, 4, 6, 100)
    ]
    bounds.append(exact.label_covariance(tangents))
    for wider, narrower in pairwise(bounds):
        assert (np.linalg.eigvalsh(wider - narrower) > -1e-9 * np.abs(wider).max()).all()
    assert_entries(bounds[-2], bounds[-1], SOLVED)
    assert build(problem, "dual", subset=3).build(problem.theta).accuracy == "upper bound"
    assert build(problem, "dual", subset=100).build(problem.theta).accuracy == "exact"


# --- krylov


@pytest.fixture(scope="module")
def middling():
    """500 stars and 500 parameters: enough for conjugate gradients to take several steps."""
    rng = np.random.default_rng(8)
    net = ss.mlp([12, 20, 10, 2], activation="tanh")
    reg = ss.Regression(net, sigma_noise=[0.1, 0.2], prior_precision=ss.scaled_prior(net, 1.0))
    X, Y = rng.normal(size=(400, 12)), rng.normal(size=(400, 2))
    Y[5, 0] = Y[9] = np.nan
    theta, X_new = net.init_params(rng), 2 * rng.normal(size=(6, 12))
    exact = InverseBuilder(reg, X, Y, structure="primal")
    tangents = exact.tangents(theta, X_new)
    primal = exact.build(theta)
    return SimpleNamespace(
        reg=reg, X=X, Y=Y, theta=theta, X_new=X_new, tangents=tangents, primal=primal,
        exact=primal.label_covariance(tangents),
    )  # fmt: skip


def krylov(middling, *, checkpoint=None, **options):
    builder = InverseBuilder(
        middling.reg,
        middling.X,
        middling.Y,
        structure="krylov",
        options=options,
        checkpoint=checkpoint,
    )
    return builder.build(middling.theta)


@pytest.mark.parametrize("subset", [1, 30, 200])
def test_the_bounds_bracket_the_covariance_at_every_iteration_and_close(middling, subset):
    inverse = krylov(middling, subset=subset, tolerance=1e-6)
    widths, slack = [], 1e-8 * np.linalg.norm(middling.exact, axis=(1, 2))
    for lower, upper in inverse.iterate_bounds(middling.tangents):
        assert (np.linalg.eigvalsh(upper - middling.exact)[:, 0] > -slack).all()
        assert (np.linalg.eigvalsh(middling.exact - lower)[:, 0] > -slack).all()
        widths.append(np.abs(upper - lower).max())
    assert len(widths) > 3
    assert (np.diff(widths) <= 0).all()
    assert_entries(upper, middling.exact, 1e-5)  # an interval of 1e-6 in the standard deviation


def test_one_star_alone_is_bracketed_by_lanczos_itself(middling):
    """One star has the Krylov space of its own right-hand side: dozens of steps, each a proof."""
    inverse, n = krylov(middling, subset=3, tolerance=1e-8), 0
    for lower, upper in inverse.iterate_bounds(middling.tangents[:1]):
        assert (
            np.linalg.eigvalsh(upper - middling.exact[:1]) > -1e-9 * np.abs(middling.exact[0]).max()
        ).all()
        assert (
            np.linalg.eigvalsh(middling.exact[:1] - lower) > -1e-9 * np.abs(middling.exact[0]).max()
        ).all()
        n += 1
    assert n > 10


def test_it_stops_at_the_width_asked_for(middling):
    low, high = krylov(middling, subset=30, tolerance=0.1).label_covariance_bounds(
        middling.tangents
    )
    low, high = (np.sqrt(np.diagonal(V, axis1=1, axis2=2)) for V in (low, high))
    assert (low >= 0.9 * high).all()
    assert (low < 0.999 * high).any()  # and not much later


def test_iterations_seconds_and_memory_end_it_with_the_bounds_so_far(middling):
    bounds = list(krylov(middling, subset=30, max_iterations=2).iterate_bounds(middling.tangents))
    assert len(bounds) == 3
    bounds = list(krylov(middling, subset=30).iterate_bounds(middling.tangents, max_seconds=1e-9))
    assert len(bounds) == 1


def test_stochastic_quadrature_states_its_error():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(700, 300)) * np.geomspace(1, 30, 300)
    K = A @ A.T / 300
    expected = np.linalg.slogdet(np.eye(700) + K)[1]
    estimate, error = estimate_log_det(lambda U: K @ U, 700, 512)
    assert 0 < error < 0.05 * expected
    assert abs(estimate - expected) < 4 * error
    assert estimate_log_det(lambda U: K @ U, 700, 700) == (pytest.approx(expected, rel=1e-10), 0.0)


def test_the_diagonal_of_many_parameters_is_estimated_between_zero_and_the_subsets(middling):
    inverse = krylov(middling, subset=200)
    estimate, exact = inverse.diagonal(n_probes=300), middling.primal.diagonal()
    assert (estimate >= 0).all()
    assert (estimate <= inverse.subset.diagonal()).all()
    # of the standard errors sqrt(2 sum_j!=i X_ij^2 / n) of probes of random signs, X = the subset's
    # A^-1 less A^-1
    X = inverse.subset.to_dense() - middling.primal.to_dense()
    error = np.sqrt(((X**2).sum(axis=1) - np.diag(X) ** 2) / 300)
    assert (np.abs(estimate - exact) < 5.5 * error).all()


# --- interruption


class Interrupted(Exception):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("structure", ["kronecker", "ekfac", "diagonal", "last_layer", "low_rank"])
def test_an_interrupted_fit_goes_on_from_its_last_block(middling, structure, tmp_path, monkeypatch):
    monkeypatch.setattr("symspec.derivatives.tangent_stream.BLOCK_STARS", 64)
    monkeypatch.setattr("symspec.safety.checkpoint.SECONDS_BETWEEN", 0.0)
    args = (middling.reg, middling.X, middling.Y)
    options = {"options": {"rank": 8} if structure == "low_rank" else {}}
    whole = InverseBuilder(*args, structure=structure, **options).build(middling.theta)
    walked = []

    def stop_at(done):
        def tell(stage, now, total):
            walked.append(now)
            if now == done:
                raise Interrupted

        return tell

    if structure != "low_rank":  # ARPACK is one block
        with pytest.raises(Interrupted):
            InverseBuilder(
                *args,
                structure=structure,
                checkpoint=Checkpoint(tmp_path, "same", stop_at(256)),
                **options,
            ).build(middling.theta)
        assert walked == [64, 128, 192, 256]
    again = InverseBuilder(
        *args, structure=structure, checkpoint=Checkpoint(tmp_path, "same", stop_at(-1)), **options
    )
    inverse = again.build(middling.theta)
    if structure != "low_rank":
        assert (
            walked[4] == 256
        )  # the block after the last one kept: what it told of was not kept yet
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(inverse.arrays()[name], array)


def test_an_interrupted_krylov_space_is_grown_again_without_its_products(
    middling, tmp_path, monkeypatch
):
    monkeypatch.setattr("symspec.safety.checkpoint.SECONDS_BETWEEN", 0.0)
    options = {"subset": 5, "tolerance": 1e-6}
    whole = krylov(middling, **options).label_covariance_bounds(middling.tangents)
    stopped = krylov(middling, checkpoint=Checkpoint(tmp_path, "same"), **options)
    bounds = stopped.iterate_bounds(middling.tangents)
    for _ in range(5):
        next(bounds)
    again = krylov(middling, checkpoint=Checkpoint(tmp_path, "same"), **options)
    products, multiply = [], again._products.multiply
    monkeypatch.setattr(
        again._products, "multiply", lambda U: products.append(U.shape) or multiply(U)
    )
    resumed = again.label_covariance_bounds(middling.tangents)
    np.testing.assert_array_equal(resumed, whole)
    n_all = len(list(krylov(middling, **options).iterate_bounds(middling.tangents))) - 1
    assert len(products) == n_all - 4


def test_progress_of_something_else_is_refused(middling, tmp_path):
    args = (middling.reg, middling.X, middling.Y)
    InverseBuilder(*args, structure="diagonal", checkpoint=Checkpoint(tmp_path, "one")).build(
        middling.theta
    )
    with pytest.raises(
        ss.DataError, match=r"should hold the progress of this computation, got that of another one"
    ):
        InverseBuilder(*args, structure="diagonal", checkpoint=Checkpoint(tmp_path, "two")).build(
            middling.theta
        )


# --- words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"structure": "diagonal", "options": {"rank": 3}}, "options among none, got 'rank'"),
        (
            {"structure": "low_rank", "options": {"rank": 0}},
            "rank should be a positive integer, got 0",
        ),
        (
            {"structure": "krylov", "options": {"subset": 2.5}},
            "subset should be a positive integer, got 2.5",
        ),
        (
            {"structure": "krylov", "options": {"tolerance": -1}},
            "tolerance should be a positive number, got -1",
        ),
        (
            {"structure": "krylov", "curvature": "hessian"},
            'structure="krylov" inverts the Gauss-Newton matrix',
        ),
    ],
    ids=["unknown", "zero", "fraction", "negative", "hessian"],
)
def test_options_that_mean_nothing_are_refused(options, words):
    reg = ss.Regression(ss.mlp([3, 2]), sigma_noise=1, prior_precision=1)
    with pytest.raises(ss.OptionError, match=re.escape(words)):
        InverseBuilder(reg, np.zeros((4, 3)), np.zeros((4, 2)), **options)


@pytest.mark.parametrize("problem", [TANH_FULL], indirect=True)
def test_kronecker_refuses_one_precision_a_parameter(problem):
    with pytest.raises(ss.OptionError, match=r"one prior precision a block, got one a parameter"):
        build(problem, "kronecker").build(problem.theta)


@pytest.mark.parametrize("structure", ["krylov", "kronecker", "diagonal", "last_layer", "low_rank"])
def test_predictions_say_how_far_their_model_errors_can_be_trusted(middling, structure):
    fit = ss.fit_laplace(
        middling.reg,
        middling.theta,
        middling.X,
        middling.Y,
        structure=structure,
        require_minimum=False,
    )
    prediction, sd = (
        fit.predict(middling.X_new),
        np.sqrt(np.diagonal(middling.exact, axis1=1, axis2=2)),
    )
    low, high = np.moveaxis(prediction.model_interval, -1, 0)
    inexact = (prediction.flags & ss.Flag.MODEL_ERROR_INEXACT).astype(bool)
    if structure == "krylov":
        assert ((low <= sd) & (sd <= high)).all()
        assert (low >= 0.99 * high).all()
        assert not inexact.any()
    elif structure == "low_rank":
        assert (low == 0).all()
        assert (sd <= high).all()
        assert inexact.all()
    else:
        assert np.isnan(low).all()
        assert inexact.all()


def test_the_evidence_of_the_last_layer_is_that_of_a_linear_model_on_fixed_features(middling):
    """Given the features, Y is normal with covariance Phi Phi^T / delta + S: no Laplace needed."""
    reg, theta = middling.reg, middling.theta
    theta = theta.copy()
    last = slice(theta.size - 22, None)
    X, Y = middling.X[10:60], middling.Y[10:60]
    features = ss.compile_jacobian(reg.net, "theta")(theta, X)[:, :, last]
    G = ss.compile_ggn(reg)(theta, X, Y)[last, last]
    theta[last] -= np.linalg.solve(
        G, ss.compile_objective(reg)(theta, X, Y)[1][last]
    )  # quadratic: one step
    fit = ss.fit_laplace(reg, theta, X, Y, structure="last_layer", require_minimum=True)
    Phi = features.reshape(100, 22)
    C = Phi / reg.prior_precision_vector()[last] @ Phi.T + np.kron(
        np.eye(50), np.diag(reg.sigma_noise**2)
    )
    y = Y.ravel()
    expected = -0.5 * (y @ np.linalg.solve(C, y) + np.linalg.slogdet(2 * np.pi * C)[1])
    assert_allclose(fit.log_marginal_likelihood(), expected, rtol=1e-9)


def test_the_evidence_of_a_subset_is_refused(middling):
    fit = ss.fit_laplace(
        middling.reg, middling.theta, middling.X, middling.Y,
        structure="dual", options={"subset": 10}, require_minimum=False,
    )  # fmt: skip
    with pytest.raises(ss.OptionError, match=r"needs all training stars"):
        fit.log_marginal_likelihood()
