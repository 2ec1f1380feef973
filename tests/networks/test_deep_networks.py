"""Networks of all kinds of layers: derivatives, inverse Hessians, training, folding, files."""

import functools

import numpy as np
import pytest
from differences import check_flux_jacobian, differentiate
from numpy.testing import assert_allclose

import symspec as ss
from symspec.derivatives import compiled
from symspec.derivatives.compiled import compile_kernel_trace_gradient
from symspec.inverse_hessian.builder import InverseBuilder

N_STARS, N_POSITIONS, N_CHANNELS = 3, 13, 2
FIRST, LAST = "channels_first", "channels_last"

# --- derivatives


def starnet(n):
    layers = [
        ss.Reshape((n, 1)),
        ss.Conv1D(2, 4, padding="same"),
        ss.Activation("softplus"),
        ss.Conv1D(3, 4),
    ]
    return [
        *layers,
        ss.Activation("tanh"),
        ss.MaxPool1D(4),
        ss.Flatten(),
        ss.Dense(4),
        ss.Activation("tanh"),
        ss.Dense(2),
    ]


def vgg(n):
    block = [
        ss.Conv1D(3, 3, padding="same"),
        ss.BatchNorm(np.full(3, 0.1), np.full(3, 0.8)),
        ss.Activation("softplus"),
    ]
    layers = [
        ss.Reshape((n, 1)),
        *block,
        ss.Conv1D(3, 3, dilation=2, padding="causal"),
        ss.AveragePool1D(3, 2),
    ]
    return [*layers, ss.Dense(3), ss.LayerNorm(), ss.Flatten(), ss.Dense(2)]


def residual(n):
    start = ss.Conv1D(3, 3, data_format=FIRST, padding="same")
    layers = [
        ss.Reshape((1, n)),
        start,
        ss.Activation("tanh"),
        ss.Conv1D(3, 2, data_format=FIRST, padding="same"),
    ]
    return [
        *layers,
        ss.Add(start),
        ss.Activation("tanh"),
        ss.GlobalAveragePool1D(data_format=FIRST),
        ss.Dense(2),
    ]


def normalised(n):
    return [
        ss.MedianNormalize(),
        ss.Slice(1, n),
        ss.Reshape((n - 1, 1)),
        ss.Conv1D(2, 3, strides=2),
        ss.LocallyConnected1D(1, 2),
        ss.Flatten(),
        ss.Dense(2),
    ]


@pytest.fixture(scope="module", autouse=True)
def compile_once():
    """Tangents compiled once a network, rather than for each structure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            compiled, "compile_tangent_factors", functools.cache(compiled.compile_tangent_factors)
        )
        yield


NETWORKS = {"starnet": starnet, "vgg": vgg, "residual": residual, "normalised": normalised}


@pytest.fixture(scope="module", params=NETWORKS)
def problem(request):
    rng, n = np.random.default_rng(7), 18
    net = ss.Network(NETWORKS[request.param](n), n)
    X, Y = rng.normal(size=(6, n)) + 3, rng.normal(size=(6, 2))
    Y[1, 0] = np.nan
    reg = ss.Regression(net, sigma_noise=[0.3, 0.5], prior_precision=ss.scaled_prior(net, 0.7))
    theta = net.init_params(rng) + 0.2 * rng.normal(size=net.n_params)
    return reg, theta, X, Y


def test_first_derivatives_are_those_of_central_differences(problem):
    reg, theta, X, _ = problem
    check_flux_jacobian(reg.net, theta, X)
    predict = ss.compile_predict(reg.net)
    J = ss.compile_jacobian(reg.net, "theta")(theta, X)
    assert_allclose(J, differentiate(lambda t: predict(t, X), theta), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", NETWORKS)
def test_more_labels_than_pixels_are_differentiated_column_by_column(kind):
    rng, n = np.random.default_rng(7), 18
    net = ss.Network([*NETWORKS[kind](n)[:-1], ss.Dense(n + 5)], n)
    assert net.n_labels > net.n_pixels
    check_flux_jacobian(net, rng.normal(size=net.n_params), rng.normal(size=(3, n)) + 3)


def test_a_pixel_that_no_label_depends_on_has_zero_derivatives():
    net = ss.Network([ss.Slice(0, 1), ss.Dense(3)], 2)
    J = ss.compile_jacobian(net)(np.arange(6.0), np.ones((4, 2)))
    assert J.tolist() == [[[0, 0], [1, 0], [2, 0]]] * 4


def test_second_derivatives_are_those_of_central_differences(problem):
    reg, theta, X, Y = problem
    H = ss.compile_hessian(reg)(theta, X, Y)
    objective = ss.compile_objective(reg)
    numbers = differentiate(lambda t: objective(t, X, Y)[1], theta)
    assert_allclose(H, numbers, rtol=1e-5, atol=1e-6 * np.abs(H).max())


@pytest.fixture(scope="module")
def dense(problem):
    """The Gauss-Newton matrix from the Jacobian, its inverse, and J."""
    reg, theta, X, Y = problem
    J = ss.compile_jacobian(reg.net, "theta")(theta, X)
    rows = (J / reg.sigma_noise[:, None])[~np.isnan(Y)]
    G = rows.T @ rows + np.diag(reg.prior_precision_vector())
    return G, np.linalg.inv(G), J


@pytest.mark.parametrize("structure", ["primal", "dual", "krylov", "low_rank"])
def test_exact_structures_cover_every_layer(problem, dense, structure):
    reg, theta, X, Y = problem
    G, inverse, J = dense
    assert_allclose(ss.compile_ggn(reg)(theta, X, Y), G, rtol=1e-10, atol=1e-10 * np.abs(G).max())
    covariance, found = build(problem, structure)
    assert_allclose(covariance, np.einsum("ncp,pq,ndq->ncd", J, inverse, J), rtol=1e-7, atol=1e-9)
    assert_allclose(found.diagonal(), np.diag(inverse), rtol=1e-7)


def build(problem, structure):
    """Label covariances of the training stars (star, label, label), and A^-1."""
    reg, theta, X, Y = problem
    builder = InverseBuilder(reg, X, Y, structure=structure)
    inverse = builder.build(theta)
    return inverse.label_covariance(builder.tangents(theta)), inverse


def blocks_of(net, M):
    """Of a matrix over all parameters the blocks of single layers, the rest zero."""
    out = np.zeros_like(M)
    for layer in net.layout.layers.values():
        out[layer.slice, layer.slice] = M[layer.slice, layer.slice]
    return out


def test_kronecker_has_convolutions_and_norms_exactly_and_diagonal_its_diagonal(problem, dense):
    """Up to 2,048 parameters of a layer that shares its weights are one exact block."""
    reg = problem[0]
    G, _, J = dense
    kronecker = build(problem, "kronecker")[1].to_dense()
    exact = np.linalg.inv(blocks_of(reg.net, G))
    for name, layer in reg.net.layout.layers.items():
        if name not in reg.net.dense_shapes:
            assert_allclose(
                kronecker[layer.slice, layer.slice],
                exact[layer.slice, layer.slice],
                rtol=1e-8,
                atol=1e-10,
            )
    covariance, diagonal = build(problem, "diagonal")
    assert_allclose(diagonal.to_dense(), np.diag(1 / np.diag(G)), rtol=1e-10)
    assert_allclose(covariance, np.einsum("ncp,p,ndp->ncd", J, 1 / np.diag(G), J), rtol=1e-9)


def test_large_convolutions_have_the_kronecker_factors_that_are_promised(
    problem, dense, monkeypatch
):
    monkeypatch.setattr("symspec.inverse_hessian.kronecker.EXACT_BLOCK", 0)
    reg, _, _, Y = problem
    _, _, J = dense
    scale = np.where(np.isnan(Y), 0, 1 / reg.sigma_noise)
    for structure in ("kronecker", "ekfac"):
        covariance, inverse = build(problem, structure)
        inverse = inverse.to_dense()
        for name, layer in reg.net.layout.layers.items():
            if name in reg.net.dense_shapes:
                continue
            n_out = reg.net.layout.of_layer(name).blocks[0].shape[-1]
            prior = reg.prior_precision_vector()[layer.slice]
            unit = np.sqrt(prior[0] / prior)
            rows = (J[:, :, layer.slice] * scale[:, :, None] * unit).reshape(
                -1, layer.n_out // n_out, n_out
            )
            Q, R = (np.einsum(e, rows, rows) for e in ("nij,nkj->ik", "nij,nik->jk"))
            (alpha, U), (beta, V) = np.linalg.eigh(Q), np.linalg.eigh(R)
            values = np.outer(alpha, beta) / np.trace(Q)
            if structure == "ekfac":
                values = np.sum((U.T @ rows @ V) ** 2, axis=0)
            basis = np.einsum("ia,jb->ijab", U, V).reshape(layer.n_out, -1) * unit[:, None]
            expected = basis @ np.diag(1 / (values.ravel() + prior[0])) @ basis.T
            assert_allclose(inverse[layer.slice, layer.slice], expected, rtol=1e-6, atol=1e-9)
        V = np.einsum("ncp,pq,ndq->ncd", J, inverse, J)
        assert_allclose(covariance, V, rtol=1e-8, atol=1e-10)


def test_last_layer_is_the_one_before_the_labels(problem, dense):
    reg = problem[0]
    last = list(reg.net.layout.layers.values())[-1].slice
    G, _, J = dense
    expected = np.einsum(
        "ncp,pq,ndq->ncd", J[..., last], np.linalg.inv(G[last, last]), J[..., last]
    )
    assert_allclose(build(problem, "last_layer")[0], expected, rtol=1e-8, atol=1e-12)


def test_posteriors_are_read_as_they_were_written(tmp_path):
    rng, n = np.random.default_rng(0), 12
    layers = [ss.Reshape((n, 1)), ss.Conv1D(2, 3), ss.Activation("tanh"), ss.Flatten(), ss.Dense(2)]
    reg = ss.Regression(ss.Network(layers, n), sigma_noise=0.5, prior_precision=1.0)
    X, Y, theta = rng.normal(size=(9, n)), rng.normal(size=(9, 2)), reg.net.init_params(rng)
    for structure in ("dual", "kronecker", "krylov"):
        laplace = ss.fit_laplace(reg, theta, X, Y, structure=structure, require_minimum=False)
        ss.write_laplace(tmp_path / "model.h5", laplace, overwrite=True)
        again = ss.read_laplace(tmp_path / "model.h5")
        assert (again.label_covariance(X) == laplace.label_covariance(X)).all()


def test_the_gradient_of_the_tangent_kernel_is_that_of_central_differences():
    """What `tune` follows to the largest evidence."""
    rng, n = np.random.default_rng(2), 10
    layers = [ss.Reshape((n, 1)), ss.Conv1D(2, 3), ss.Activation("tanh"), ss.Flatten(), ss.Dense(2)]
    reg = ss.Regression(ss.Network(layers, n), sigma_noise=0.5, prior_precision=1.0)
    X, theta = rng.normal(size=(3, n)), reg.net.init_params(rng)
    W = rng.normal(size=(2, 3, 2, 3))
    W = (W + W.transpose(2, 3, 0, 1)) / 2
    variance = {
        block.name: v for block, v in zip(reg.net.layout.blocks, (0.5, 2.0, 3.0, 0.7), strict=True)
    }
    jacobian = ss.compile_jacobian(reg.net, "theta")

    def trace(at):
        J = np.array([jacobian(t, X) for t in np.atleast_2d(at)])
        return 0.5 * np.einsum("cndm,tncp,p,tmdp->t", W, J, reg.net.layout.expand(variance), J)

    gradient = compile_kernel_trace_gradient(reg.net)(theta, X, variance, W)
    assert_allclose(gradient, differentiate(trace, theta)[0], rtol=1e-6, atol=1e-7)


# --- training, folding, saving, backends


def test_a_convolutional_network_learns_with_dropout_on_channels():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 16))
    Y = np.stack([np.abs(X[:, 3:7]).sum(axis=1), X[:, 8]], axis=1)
    layers = [
        ss.Reshape((16, 1)),
        ss.Conv1D(8, 3),
        ss.Activation("relu"),
        ss.Dropout(0.05),
        ss.Flatten(),
        ss.Dense(2),
    ]
    reg = ss.Regression(ss.Network(layers, 16), sigma_noise=0.1, prior_precision=0.1)
    fit = ss.train(reg, X, Y, epochs=60, rng=rng, learning_rate=0.01, progress=False)
    residual = Y - ss.compile_predict(reg.net)(fit.theta, X)
    assert (residual.std(axis=0) < 0.3 * Y.std(axis=0)).all()


def test_folded_normalisations_predict_the_same():
    rng = np.random.default_rng(8)
    norms = [
        ss.BatchNorm(rng.normal(size=3), rng.uniform(0.5, 2, 3), center=center)
        for center in (True, False)
    ]
    shared = ss.Conv1D(3, 3, use_bias=False)
    layers = [
        ss.Reshape((20, 1)),
        shared,
        norms[0],
        ss.Activation("tanh"),
        ss.Conv1D(3, 2),
        norms[1],
        ss.Flatten(),
    ]
    layers += [ss.Dense(4), ss.BatchNorm(np.ones(4), np.ones(4), scale=False), ss.Dense(2)]
    net = ss.Network(layers, 20)
    theta, X = net.init_params(rng) + rng.normal(size=net.n_params), rng.normal(size=(4, 20))
    folded, weights = ss.fold_batch_norm(net, theta)
    assert "batchnorm" not in " ".join(block.name for block in folded.layout.blocks)
    assert_allclose(
        ss.compile_predict(folded)(weights, X),
        ss.compile_predict(net)(theta, X),
        rtol=1e-12,
        atol=1e-12,
    )


def test_normalisations_of_what_is_used_elsewhere_stay():
    start = ss.Dense(3)
    norm = ss.BatchNorm(np.ones(3), np.ones(3))
    net = ss.Network([start, norm, ss.Activation("tanh"), ss.Add(start), ss.Dense(1)], 5)
    theta = net.init_params(np.random.default_rng(0))
    folded, weights = ss.fold_batch_norm(net, theta)
    X = np.ones((2, 5))
    assert folded.layout.has("batchnorm_0/gamma")
    assert_allclose(
        ss.compile_predict(folded)(weights, X), ss.compile_predict(net)(theta, X), rtol=1e-13
    )


def test_networks_of_all_layers_are_read_as_they_were_written(problem, tmp_path):
    reg, theta, X, _ = problem
    ss.write_network(tmp_path / "net.h5", reg.net, theta, reg=reg)
    net, again = ss.read_network(tmp_path / "net.h5")
    assert (again == theta).all()
    assert net.sources == reg.net.sources
    assert (ss.compile_predict(net)(again, X) == ss.compile_predict(reg.net)(theta, X)).all()


@pytest.mark.parametrize("backend", ["numba", "jax", "c"])
def test_backends_agree(backend):
    if backend == "jax":
        pytest.importorskip("jax")
    rng, n = np.random.default_rng(7), 18
    layers = [
        ss.Reshape((n, 1)),
        ss.Conv1D(2, 4, padding="same"),
        ss.MaxPool1D(3, 2, padding="same"),
        ss.Flatten(),
    ]
    reg = ss.Regression(ss.Network([*layers, ss.Dense(2)], n), sigma_noise=0.3, prior_precision=1.0)
    theta, X, Y = reg.net.init_params(rng), rng.normal(size=(4, n)), rng.normal(size=(4, 2))
    wide = ss.Network(
        [ss.Reshape((n, 1)), ss.LocallyConnected1D(3, 1), ss.MaxPool1D(2), ss.Flatten()], n
    )
    weights = rng.normal(size=wide.n_params)
    functions = [lambda b: ss.compile_jacobian(wide, backend=b)(weights, X)]
    if backend == "c":
        functions.append(lambda b: ss.compile_jacobian(reg.net, backend=b)(theta, X))
    else:
        functions.append(
            lambda b: ss.compile_hessian_vector_product(reg, backend=b)(theta, X, Y, theta)
        )
    for function in functions:
        assert_allclose(function(backend), function("numpy"), rtol=1e-11, atol=1e-12)
