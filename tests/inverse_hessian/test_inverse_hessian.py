"""Two exact inverses of the curvature agree with each other and with `numpy.linalg.inv`.

The references are the forward-mode derivatives of conftest.py and dense algebra. Draws are held
against the Wishart standard errors of their covariance, and the same statistic is shown to notice
the usual slips.
"""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import assert_entries
from numpy.testing import assert_allclose

import symspec as ss
from symspec.derivatives.compiled import compile_tangent_factors
from symspec.derivatives.matrices import compile_ggn
from symspec.derivatives.tangents import compute_tangents
from symspec.inverse_hessian import primal
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.choice import choose_structure
from symspec.inverse_hessian.dual import DualInverse
from symspec.inverse_hessian.numerics.inverse_kernels import (
    InverseKernel,
    factorize_kernel,
    find_trace,
)
from symspec.inverse_hessian.primal import PrimalInverse
from symspec.networks.noise.star_noise import StarNoise
from symspec.safety.memory import parse_memory

TANH, TANH_FULL = (
    "tanh-1-hidden-2-labels-own-units-missing",
    "tanh-2-hidden-3-labels-full-noise-missing",
)
RELU, RELU_FULL = "relu-3-hidden-2-labels-own-units-missing", "relu-2-hidden-3-labels-full-noise"
NO_BIAS = "tanh-and-softplus-without-bias-with-dropout"
PER_PARAMETER = "linear-1-hidden-2-labels"
NETWORKS = [TANH, TANH_FULL, RELU, RELU_FULL, NO_BIAS, PER_PARAMETER]

# float64 rounding, 1e-16, times condition numbers of up to 1e6 (labels in K beside dex), and a
# margin
SOLVED = 1e-8
# the two inverses differ by the roundings of both; the project promises this much
AGREED = 1e-7
# a handful of products without any solve
EXACT = 1e-11

N_DRAWS = 20_000


@pytest.fixture(scope="module")
def inverses(problem):
    """Both inverses of one problem of the table, the tangents of its stars, and NumPy's inverse."""
    built = {}
    for structure in ("primal", "dual"):
        builder = InverseBuilder(problem.reg, problem.X, problem.Y, structure=structure)
        built[structure] = builder.build(problem.theta)
    return SimpleNamespace(
        **built,
        both=built,
        tangents=builder.tangents(problem.theta),
        expected=np.linalg.inv(problem.ggn(problem.theta)),
        J=problem.theta_jacobian(problem.theta),
    )


@pytest.fixture(params=["primal", "dual"])
def structure(request):
    return request.param


over_networks = pytest.mark.parametrize("problem", NETWORKS, indirect=True)


@pytest.fixture(scope="module")
def small():
    """A network of 26 parameters and its two inverses, for draws."""
    rng = np.random.default_rng(11)
    net = ss.mlp([3, 4, 2], activation="tanh")
    S = np.array([[0.3, 0.12], [0.12, 0.2]])
    reg = ss.Regression(net, noise_covariance=S, prior_precision={"dense_0": 0.7, "dense_1": 2.0})
    theta, X, Y = rng.normal(size=net.n_params), rng.normal(size=(9, 3)), rng.normal(size=(9, 2))
    Y[2, 0] = Y[5, 1] = Y[6] = np.nan
    built = {s: InverseBuilder(reg, X, Y, structure=s).build(theta) for s in ("primal", "dual")}
    return SimpleNamespace(**built, A=compile_ggn(reg)(theta, X, Y), both=built)


# --- the operators ---


@over_networks
def test_the_dense_inverse_is_numpys(inverses, structure):
    assert_entries(inverses.both[structure].to_dense(), inverses.expected, SOLVED)


@over_networks
def test_the_dense_inverse_is_numpys_of_the_compiled_matrix(problem, inverses, structure):
    G = compile_ggn(problem.reg)(problem.theta, problem.X, problem.Y)
    assert_entries(inverses.both[structure].to_dense(), np.linalg.inv(G), SOLVED)


@over_networks
def test_primal_and_dual_are_one_operator(problem, inverses):
    V = np.random.default_rng(1).normal(size=(problem.theta.size, 4))
    primal, dual = inverses.primal, inverses.dual
    assert_entries(dual.to_dense(), primal.to_dense(), AGREED)
    assert_entries(dual @ problem.v, primal @ problem.v, AGREED)
    assert_entries(dual @ V, primal @ V, AGREED)
    assert_allclose(dual.diagonal(), primal.diagonal(), rtol=AGREED)
    assert_allclose(dual.logdet(), primal.logdet(), rtol=0, atol=AGREED)
    assert_entries(
        dual.label_covariance(inverses.tangents), primal.label_covariance(inverses.tangents), AGREED
    )


@over_networks
def test_products_with_vectors_and_matrices_are_those_of_the_dense_inverse(
    problem, inverses, structure
):
    inverse, expected = inverses.both[structure], inverses.expected
    V = np.random.default_rng(2).normal(size=(problem.theta.size, 3))
    assert_entries(inverse @ problem.v, expected @ problem.v, SOLVED)
    assert_entries(inverse @ problem.v[:, None], expected @ problem.v[:, None], SOLVED)
    assert_entries(inverse @ V, expected @ V, SOLVED)
    assert_entries(inverse.T @ V, expected @ V, SOLVED)
    assert inverse.shape == expected.shape
    assert inverse.structure == structure


@over_networks
def test_the_diagonal_is_that_of_the_dense_inverse(inverses, structure):
    assert_allclose(inverses.both[structure].diagonal(), np.diag(inverses.expected), rtol=SOLVED)


@over_networks
def test_the_log_determinant_is_that_of_the_inverse_and_not_of_the_matrix(
    problem, inverses, structure
):
    sign, expected = np.linalg.slogdet(problem.ggn(problem.theta))
    assert sign == 1
    assert abs(expected) > 1
    assert_allclose(inverses.both[structure].logdet(), -expected, rtol=0, atol=SOLVED)


@over_networks
def test_the_label_covariance_is_that_of_the_jacobian_star_by_star(inverses, structure):
    expected = [J @ inverses.expected @ J.T for J in inverses.J]
    assert_entries(
        inverses.both[structure].label_covariance(inverses.tangents), np.array(expected), SOLVED
    )


@over_networks
def test_inverting_leaves_the_operands_as_they_were(problem, inverses, structure):
    before = problem.v.copy()
    inverse = inverses.both[structure]
    first = inverse @ problem.v
    inverse.diagonal(), inverse.logdet(), inverse.to_dense()
    np.testing.assert_array_equal(inverse @ problem.v, first)
    np.testing.assert_array_equal(problem.v, before)


@pytest.mark.parametrize("problem", [TANH_FULL, RELU], indirect=True)
def test_the_kernels_inverse_is_numpys_and_zero_where_labels_are_missing(problem, inverses):
    seen = ~np.isnan(problem.Y)
    N, C = seen.shape
    J = inverses.J.reshape(N * C, -1)[seen.ravel()]
    S = np.kron(np.eye(N), problem.noise_covariance)[np.ix_(seen.ravel(), seen.ravel())]
    expected = np.zeros((N * C, N * C))
    expected[np.ix_(seen.ravel(), seen.ravel())] = np.linalg.inv(
        J @ np.diag(1 / problem.prior_precision) @ J.T + S
    )
    star_major = inverses.dual.kernel_inverse().transpose(1, 0, 3, 2).reshape(N * C, N * C)
    assert_entries(star_major, expected, SOLVED)


@pytest.mark.parametrize("problem", [RELU], indirect=True)
def test_a_star_without_labels_changes_nothing(problem, structure):
    assert np.isnan(problem.Y[-1]).all()
    with_it = InverseBuilder(problem.reg, problem.X, problem.Y, structure=structure).build(
        problem.theta
    )
    without = InverseBuilder(
        problem.reg, problem.X[:-1], problem.Y[:-1], structure=structure
    ).build(problem.theta)
    assert_entries(with_it.to_dense(), without.to_dense(), EXACT)
    assert_allclose(with_it.logdet(), without.logdet(), rtol=EXACT)


def test_an_indefinite_matrix_is_refused_with_its_smallest_eigenvalue():
    rng = np.random.default_rng(3)
    Q, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    A = (Q * np.r_[-0.37, rng.uniform(0.5, 9, 11)]) @ Q.T
    with pytest.raises(
        ss.NotPositiveDefiniteError, match=r"smallest eigenvalue is -0\.37: .*polish.*ggn"
    ) as caught:
        PrimalInverse.factorize((A + A.T) / 2)
    assert_allclose(caught.value.smallest_eigenvalue, np.linalg.eigvalsh(A)[0], rtol=1e-12)


@pytest.mark.parametrize("problem", [TANH_FULL], indirect=True)
def test_an_indefinite_hessian_is_refused_with_its_smallest_eigenvalue(problem):
    expected = np.linalg.eigvalsh(problem.hessian(problem.theta))[0]
    assert expected < 0
    builder = InverseBuilder(
        problem.reg, problem.X, problem.Y, structure="primal", curvature="hessian"
    )
    with pytest.raises(ss.NotPositiveDefiniteError) as caught:
        builder.build(problem.theta)
    assert_allclose(caught.value.smallest_eigenvalue, expected, rtol=1e-9)


@pytest.mark.parametrize("n_missing", [0, 5])
def test_the_inverse_of_a_kernel_is_that_of_its_observed_rows(n_missing):
    rng = np.random.default_rng(0)
    N, C = 7, 3
    observed = np.ones((N, C), bool)
    observed.flat[rng.permutation(N * C)[:n_missing]] = False
    root = rng.normal(size=(C * N, C * N))
    K = root @ root.T
    noise = StarNoise(observed, np.diag([0.3, 0.5, 0.7]) + 0.1)
    rows = np.flatnonzero(observed.T)
    M = noise.add_to(K.copy())[np.ix_(rows, rows)]
    inverse = InverseKernel.of(K.copy(), noise)
    assert_allclose(inverse.log_det, np.linalg.slogdet(M)[1], rtol=1e-12)
    dense = np.zeros((C * N, C * N))
    dense[np.ix_(rows, rows)] = np.linalg.inv(M)
    assert_entries(inverse.solve(np.eye(C * N)), dense, EXACT)
    blocks = np.einsum("cndn->ncd", dense.reshape(C, N, C, N))
    assert_entries(inverse.find_blocks(), blocks, EXACT)
    lower = inverse.find_inverse()
    assert_entries(lower, np.tril(np.linalg.inv(M)), EXACT)
    other = K[np.ix_(rows, rows)]
    assert_allclose(find_trace(lower, other), np.trace(np.linalg.solve(M, other)), rtol=1e-9)


def test_a_kernel_that_is_not_finite_is_refused():
    K = np.full((4, 4), np.nan)
    with pytest.raises(
        ss.DataError,
        match="tangent kernel is not finite or not positive definite: theta has diverged",
    ):
        factorize_kernel(K, StarNoise(np.ones((2, 2), bool), np.eye(2)))


# --- draws ---


def z_scores(draws, covariance):
    """Errors of the draws' second moments and means, in units of their standard errors.

    For n normal draws of mean zero the variance of mean(x_i x_j) is (A_ij^2 + A_ii A_jj) / n
    (Wishart).
    """
    n, variance = len(draws), np.diag(covariance)
    error = np.sqrt((covariance**2 + np.outer(variance, variance)) / n)
    return (draws.T @ draws / n - covariance) / error, draws.mean(axis=0) / np.sqrt(variance / n)


def test_draws_have_the_inverse_as_their_covariance_and_mean_zero(small, structure):
    A_inverse = np.linalg.inv(small.A)
    draws = small.both[structure].draw(N_DRAWS, np.random.default_rng(5))
    assert draws.shape == (N_DRAWS, len(small.A))
    of_covariance, of_mean = z_scores(draws, A_inverse)
    # 26 * 27 / 2 = 351 different entries and 26 means: the chance that a correct one exceeds 4.5 is
    # 0.003
    assert np.abs(of_covariance).max() < 4.5
    assert np.abs(of_mean).max() < 4.5
    # and they scatter as they should: a root mean square of 1, itself uncertain by about 1 / sqrt(2
    # * 26)
    assert 0.6 < np.sqrt(np.mean(of_covariance**2)) < 1.4


@pytest.mark.parametrize(
    "slip",
    ["wrong-triangle", "not-inverted", "factor-2", "factor-1.1", "diagonal-only", "shifted"],
)
def test_the_statistic_for_draws_notices_slips(small, slip):
    A_inverse = np.linalg.inv(small.A)
    L = np.linalg.cholesky(small.A)
    z = np.random.default_rng(6).normal(size=(len(L), N_DRAWS))
    right = np.linalg.solve(L.T, z).T
    wrong = {
        "wrong-triangle": np.linalg.solve(L, z).T,
        "not-inverted": (L @ z).T,
        "factor-2": np.sqrt(2) * right,
        "factor-1.1": np.sqrt(1.1) * right,
        "diagonal-only": (np.sqrt(np.diag(A_inverse))[:, None] * z).T,
        "shifted": right + 0.1 * np.sqrt(np.diag(A_inverse)),
    }[slip]
    assert max(np.abs(part).max() for part in z_scores(right, A_inverse)) < 4.5
    assert max(np.abs(part).max() for part in z_scores(wrong, A_inverse)) > 6


def test_draws_come_from_the_generator_given_and_from_nothing_else(small, structure):
    inverse = small.both[structure]
    first, again = (inverse.draw(3, np.random.default_rng(8)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, inverse.draw(3, np.random.default_rng(9))).any()
    assert not np.isclose(first[0], first[1]).any()


# --- the Jacobian in factors ---


@pytest.fixture(scope="module")
def factored(problem):
    net = problem.net
    tangents = compute_tangents(net, compile_tangent_factors(net), problem.theta, problem.X)
    return SimpleNamespace(tangents=tangents, J=problem.theta_jacobian(problem.theta))


@over_networks
def test_tangents_multiply_like_the_jacobian(problem, factored):
    rng = np.random.default_rng(4)
    tangents, J = factored.tangents, factored.J
    V, u = rng.normal(size=(J.shape[2], 3)), rng.normal(size=J.shape[:2])
    assert (tangents.n_stars, tangents.n_labels) == J.shape[:2]
    assert_entries(tangents.dense(), J, EXACT)
    assert_entries(tangents.matvec(problem.v), np.einsum("ncp,p->nc", J, problem.v), EXACT)
    assert_entries(tangents.matvec(V), np.einsum("ncp,pk->nck", J, V), EXACT)
    assert_entries(tangents.rmatvec(u), np.einsum("ncp,nc->p", J, u), EXACT)


@over_networks
def test_the_transposed_product_is_the_adjoint(problem, factored):
    u = np.random.default_rng(5).normal(size=factored.J.shape[:2])
    left = np.sum(u * factored.tangents.matvec(problem.v))
    right = problem.v @ factored.tangents.rmatvec(u)
    size = np.linalg.norm(u) * np.linalg.norm(factored.J) * np.linalg.norm(problem.v)
    assert abs(left - right) <= EXACT * size


@over_networks
@pytest.mark.parametrize(
    "prior", ["of-the-problem", "per-block", "per-parameter", "kernel-number", "bias-number"]
)
def test_the_gram_matrix_is_the_tangent_kernel_label_major(problem, factored, prior):
    rng = np.random.default_rng(6)
    layout, J = problem.net.layout, factored.J
    variance = {
        "of-the-problem": {
            name: 1 / np.asarray(p) for name, p in problem.reg.prior_precision.items()
        },
        "per-block": {b.name: rng.uniform(0.5, 2) for b in layout.blocks},
        "per-parameter": {b.name: rng.uniform(0.5, 2, b.shape) for b in layout.blocks},
        "kernel-number": {
            b.name: rng.uniform(0.5, 2, b.shape if len(b.shape) == 1 else ()) for b in layout.blocks
        },
        "bias-number": {
            b.name: rng.uniform(0.5, 2, b.shape if len(b.shape) == 2 else ()) for b in layout.blocks
        },
    }[prior]
    V = np.concatenate([np.broadcast_to(variance[b.name], b.shape).ravel() for b in layout.blocks])
    K = np.einsum("ncp,p,mdp->cndm", J, V, J)
    N, C = J.shape[:2]
    tangents, few = factored.tangents, factored.tangents[1:4]
    assert_entries(tangents.gram(tangents, variance), K.reshape(C * N, C * N), EXACT)
    assert_entries(tangents.gram(few, variance), K[:, :, :, 1:4].reshape(C * N, C * 3), EXACT)
    assert_entries(few.gram(tangents, variance), K[:, 1:4].reshape(C * 3, C * N), EXACT)
    for block in layout.blocks:
        alone = dict.fromkeys(variance, 0.0) | {block.name: variance[block.name]}
        own = np.einsum(
            "ncp,p,mdp->cndm", J[:, :, block.slice], V[block.slice], J[:, :, block.slice]
        )
        assert_entries(tangents.gram(tangents, alone), own.reshape(C * N, C * N), EXACT)
    assert_entries(tangents.own_gram(variance), np.einsum("cndn->ncd", K), EXACT)


# --- which structure, and whether it fits ---


@pytest.mark.parametrize(
    ("sizes", "n_rows", "expected"),
    [
        ([3, 4, 2], 100_000, "primal"),
        ([10, 5, 3], 2_000, "primal"),
        ([7213, 64, 3], 300, "dual"),
        ([7213, 2048, 1024, 512, 256, 128, 32, 3], 9_000, "dual"),
    ],
    ids=[
        "tiny-network-many-stars",
        "small-network",
        "wide-network-few-stars",
        "17.6-million-weights",
    ],
)
def test_the_cheaper_structure_is_chosen(sizes, n_rows, expected):
    net = ss.mlp(sizes)
    choice = choose_structure(net, n_rows)
    assert choice.structure == expected
    assert choice.reason.startswith(
        f"{expected}: {net.n_params:,} parameters, {n_rows:,} observed labels; "
    )
    assert choice.reason.endswith("of 8GB.")


def test_memory_overrules_speed():
    """1 MB holds 36 weights squared but not 400 labels; 40 labels but not 15,061 weights."""
    narrow, wide = ss.mlp([3, 4, 4]), ss.mlp([500, 30, 1])
    assert choose_structure(narrow, 400, memory="1MB").structure == "primal"
    assert choose_structure(wide, 40, memory="1MB").structure == "dual"


def test_the_exact_hessian_has_no_dual():
    assert choose_structure(ss.mlp([500, 10, 2]), 20).structure == "dual"
    assert choose_structure(ss.mlp([500, 10, 2]), 20, curvature="hessian").structure == "primal"


def test_the_choice_counts_observed_labels_only():
    rng = np.random.default_rng(0)
    net = ss.mlp([3, 4, 2])
    Y = rng.normal(size=(30, 2))
    Y[:10, 0] = np.nan
    builder = InverseBuilder(
        ss.Regression(net, sigma_noise=1, prior_precision=1), rng.normal(size=(30, 3)), Y
    )
    assert "50 observed labels" in builder.reason


def test_what_fits_no_factor_is_left_to_products_with_the_sizes():
    net = ss.mlp([7213, 2048, 3])
    gib = 3 * 8 / 2**30
    choice = choose_structure(net, 90_000, memory="16GB")
    assert choice.structure == "krylov"
    assert (
        choice.reason == f"krylov: {net.n_params:,} parameters, 90,000 observed labels; primal"
        f" {gib * net.n_params**2:.3g} GiB, dual {gib * 90_000**2:.3g} GiB of 16GB; products"
        " alone, each error bar between two bounds; many stars share the work with"
        ' structure="krylov", options={"scratch": FOLDER}.'
    )


def test_a_hessian_that_does_not_fit_is_refused_with_its_size():
    with pytest.raises(
        ss.TooLargeError, match=r"takes primal [^,]* GiB, and memory='8GB' was given"
    ) as caught:
        choose_structure(ss.mlp([7213, 2048, 3]), 10, curvature="hessian")
    assert isinstance(caught.value, MemoryError)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8GB", 8 * 2**30),
        ("500MB", 500 * 2**20),
        (" 1.5 gb ", 1.5 * 2**30),
        ("2tb", 2 * 2**40),
        ("64kB", 2**16),
    ],
)
def test_memory_is_read_in_binary_units(text, expected):
    assert parse_memory(text) == expected


@pytest.mark.parametrize(
    "text", ["8", "GB", "eight GB", "-1GB", "0GB", "nanGB", "", 8, None, "8 GiB"], ids=repr
)
def test_memory_that_is_no_size_is_refused(text):
    words = f'memory should be a text such as "8GB" or "500MB", got {text!r}.'
    with pytest.raises(ss.OptionError, match=re.escape(words)):
        parse_memory(text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"structure": "duel"},
            "'diagonal', 'last_layer', 'low_rank', got 'duel': did you mean 'dual'?",
        ),
        ({"curvature": "fisher"}, "curvature should be one of 'ggn', 'hessian', got 'fisher': "),
        (
            {"structure": "dual", "curvature": "hessian"},
            'structure="dual" inverts the Gauss-Newton matrix: use ',
        ),
    ],
    ids=["structure", "curvature", "dual-hessian"],
)
def test_words_that_mean_nothing_are_refused(options, words):
    reg = ss.Regression(ss.mlp([3, 2]), sigma_noise=1, prior_precision=1)
    with pytest.raises(ss.OptionError, match=re.escape(words)):
        InverseBuilder(reg, np.zeros((4, 3)), np.zeros((4, 2)), **options)


def test_arrays_are_enough_to_build_the_dual_again(small):
    arrays, dual = small.dual.arrays(), small.dual
    noise = StarNoise(arrays["observed"], dual.noise.covariance)
    again = DualInverse(dual.tangents, dual.variance, noise, cholesky=arrays["cholesky"])
    np.testing.assert_array_equal(again.to_dense(), dual.to_dense())
    np.testing.assert_array_equal(
        PrimalInverse(**small.primal.arrays()).to_dense(), small.primal.to_dense()
    )


@pytest.mark.parametrize("n_bytes", [1, 4000, 2**24], ids=lambda n: f"{n} bytes")
@pytest.mark.parametrize(
    "problem",
    [
        "tanh-2-hidden-3-labels-full-noise-missing",
        "tanh-and-softplus-without-bias-with-dropout",
        "clip-1-hidden-2-labels",
    ],
    indirect=True,
)
def test_the_primal_label_covariance_is_the_same_by_either_route(problem, n_bytes, monkeypatch):
    for block in ("CACHE_BYTES", "BLOCK_BYTES"):
        monkeypatch.setattr(primal, block, n_bytes)
    A = compile_ggn(problem.reg)(problem.theta, problem.X, problem.Y)
    tangents = compute_tangents(
        problem.net, compile_tangent_factors(problem.net), problem.theta, problem.X
    )
    J = tangents.dense()
    expected = J @ np.linalg.inv(A) @ J.transpose(0, 2, 1)
    inverse = PrimalInverse.factorize(A)
    V = inverse.label_covariance(tangents)
    assert_allclose(V, expected, rtol=1e-10)  # rounding, condition of A
    assert (np.linalg.eigvalsh(V) > 0).all()
    assert_allclose(inverse.root @ inverse.cholesky, np.eye(len(A)), atol=1e-12)
    for route in (inverse._solve_root, inverse._multiply_root):
        V = np.zeros_like(expected)
        for stars, Z in route(tangents):
            V[stars] += np.matmul(Z.transpose(0, 2, 1), Z)
        assert_allclose(V, expected, rtol=1e-10)
