"""Student's t noise: densities, curvature, evidence, intervals, by SciPy and by differences."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate, stats

import symspec as ss
from symspec.derivatives.backends import find_mode
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.networks.noise.crps import find_overlap
from symspec.networks.noise.tails import find_half_width, find_log_density, split_normals
from symspec.safety.label_errors import add_errors
from symspec.training.hyperparameters import Hyperparameters
from symspec.training.marginal_likelihood import MarginalLikelihood

SCALE = np.array([0.3, 0.5])
DOF = np.array([3.0, 6.0])
N = 20
BACKENDS = ("numpy", "c", "numba", "jax")


@pytest.fixture(scope="module", params=[False, True], ids=["alone", "with label errors"])
def problem(request):
    rng = np.random.default_rng(3)
    net = ss.mlp([4, 3, 2], activation="tanh")
    reg = ss.Regression(net, noise=ss.StudentTNoise(SCALE, DOF), prior_precision=2.0)
    X, Y = rng.normal(size=(N, 4)), rng.normal(size=(N, 2))
    Y[1, 0] = Y[4] = np.nan
    errors = np.exp(rng.uniform(-3, 0, size=(N, 2))) if request.param else None
    return reg, 0.7 * rng.normal(size=net.n_params), X, Y, errors


def negative_log_posterior(reg, theta, X, Y, errors):
    f = ss.compile_predict(reg.net)(theta, X)
    noise = reg.noise
    scale = noise.scale if errors is None else np.sqrt(noise.scale**2 + errors**2)
    density = stats.t.logpdf(Y, noise.dof, loc=f, scale=scale)
    (delta,) = set(reg.prior_precision.values())
    return -np.nansum(density) - stats.norm.logpdf(theta, scale=delta**-0.5).sum()


# each costs ten seconds on the backends that compile, where errors of labels are the harder case
@pytest.mark.parametrize(
    ("problem", "backend"),
    [(False, "numpy"), (False, "jax"), *[(True, backend) for backend in BACKENDS]],
    indirect=["problem"],
)
def test_u_and_its_derivatives(problem, backend):
    if backend == "jax":
        pytest.importorskip("jax")
    reg, theta, X, Y, errors = problem
    words = {"label_errors": errors}
    objective = ss.compile_objective(reg, backend=backend)
    value, gradient = objective(theta, X, Y, **words)
    assert_allclose(value, negative_log_posterior(reg, theta, X, Y, errors), rtol=1e-12)
    step = 1e-5
    around = [[objective(theta + s * e, X, Y, **words) for s in (1, -1)] for e in step * np.eye(23)]
    slopes = [(plus[0] - minus[0]) / (2 * step) for plus, minus in around]
    # rounding over the step, and its square times the third derivatives
    assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-7)
    H = ss.compile_hessian(reg, backend=backend)(theta, X, Y, **words)
    columns = [(plus[1] - minus[1]) / (2 * step) for plus, minus in around]
    assert_allclose(H, columns, rtol=1e-6, atol=1e-6)
    v = np.linspace(-1, 1, 23)
    product = ss.compile_hessian_vector_product(reg, backend=backend)(theta, X, Y, v, **words)
    assert_allclose(product, H @ v, rtol=1e-9, atol=1e-9)


def test_the_weights_are_the_expected_information(problem):
    """The mean of the exact second derivative over the noise itself, by quadrature."""
    reg, theta, X, Y, errors = problem
    noise = reg.noise
    scale = np.broadcast_to(SCALE if errors is None else np.hypot(SCALE, errors), (N, 2))
    for c in range(2):
        s = scale[0, c]

        def information(r, nu=DOF[c], s=s):
            slope = (nu + 1) * r / (nu * s**2 + r**2)
            return slope**2 * stats.t.pdf(r / s, nu) / s

        expected = integrate.quad(information, -np.inf, np.inf, epsabs=1e-12)[0]
        labels = add_errors(Y, errors)
        assert_allclose(noise.of_stars(labels).weights[0, c, c], expected, rtol=1e-9)
    J = ss.compile_jacobian(reg.net, "theta")(theta, X)
    W = ~np.isnan(Y) * (DOF + 1) / (DOF + 3) / scale**2
    G = np.einsum("nci,nc,ncj->ij", J, W, J) + 2.0 * np.eye(theta.size)
    assert_allclose(
        ss.compile_ggn(reg)(theta, X, Y, label_errors=errors), G, rtol=1e-10, atol=1e-10
    )
    for structure in ("primal", "dual", "krylov"):
        laplace = ss.fit_laplace(
            reg, theta, X, Y, label_errors=errors, structure=structure,
            require_minimum=False, progress=False,
            options={"tolerance": 1e-10} if structure == "krylov" else None,
        )  # fmt: skip
        assert_allclose(laplace.inverse_hessian.to_dense(), np.linalg.inv(G), atol=1e-9)


def test_many_degrees_of_freedom_are_normal_noise(problem):
    _, theta, X, Y, errors = problem
    net = ss.mlp([4, 3, 2], activation="tanh")
    t, normal = (
        ss.Regression(net, noise=noise, prior_precision=2.0)
        for noise in (ss.StudentTNoise(3 * SCALE, 1e7), ss.GaussianNoise(3 * SCALE))
    )
    for one, other in zip(
        ss.compile_objective(t)(theta, X, Y, label_errors=errors),
        ss.compile_objective(normal)(theta, X, Y, label_errors=errors),
        strict=True,
    ):
        assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("structure", ["primal", "dual"])
def test_the_gradient_of_the_evidence_by_differences(problem, structure):
    """Of scales, degrees of freedom and prior; each point at its own minimum."""
    reg, theta, X, Y, errors = problem
    labels = add_errors(Y, errors)
    hyper = Hyperparameters(reg, noise="scale_and_dof", prior="per_layer")
    F = MarginalLikelihood(InverseBuilder(reg, X, labels, structure=structure), hyper)
    here = F.evaluate(theta)
    U = negative_log_posterior(reg, here.theta, X, Y, errors)
    G = ss.compile_ggn(reg)(here.theta, X, Y, label_errors=errors)
    by_hand = -U - 0.5 * np.linalg.slogdet(G)[1] + 0.5 * theta.size * np.log(2 * np.pi)
    assert_allclose(here.log_marginal_likelihood, by_hand, rtol=1e-9)
    step = 1e-4
    differences = [
        (
            F.at(step * e).evaluate(here.theta).log_marginal_likelihood
            - F.at(-step * e).evaluate(here.theta).log_marginal_likelihood
        )
        / (2 * step)
        for e in np.eye(len(hyper))
    ]
    assert_allclose(here.gradient, differences, rtol=1e-5, atol=1e-5)


def test_outliers_move_neither_weights_nor_scale():
    """Six wrong labels among 99, far out; with normal noise they move both."""
    rng = np.random.default_rng(5)
    n = 99
    X = rng.normal(size=(n, 2))
    Y = (X @ [2.0, -1.0] + 0.5 + 0.3 * rng.normal(size=n))[:, None]
    Y[:6] += 25 * np.sign(X[:6, :1])
    net = ss.mlp([2, 1])
    found = {}
    for noise, kind in (
        (ss.StudentTNoise(1.0, 4.0), "per_label"),
        (ss.StudentTNoise(1.0, 4.0), "scale_and_dof"),
        (ss.GaussianNoise(1.0), "per_label"),
    ):
        reg = ss.Regression(net, noise=noise, prior_precision=1e-3)
        tuned, theta = ss.tune(reg, np.zeros(3), X, Y, noise=kind, progress=False)
        residuals = Y - ss.compile_predict(net)(theta, X)
        error = np.abs(theta - [2.0, -1.0, 0.5]).max()
        found[noise.kind, kind] = tuned.noise, error, residuals
    t, error, residuals = found["student_t", "per_label"]
    assert error < 0.1
    assert abs(t.scale[0] - 0.3) < 0.06
    trust = t.trust(residuals, Y)
    assert trust[:6].max() < 0.01 < 0.5 < np.median(trust)
    assert_allclose(trust, 1 / (1 + (residuals / t.scale) ** 2 / 4.0))
    t, error, _ = found["student_t", "scale_and_dof"]
    assert error < 0.1
    assert 0.8 < t.dof[0] < 2  # the tails of what lies so far out
    assert t.sigma[0] < 0.5  # but what most labels scatter by
    normal, error, residuals = found["gaussian", "per_label"]
    assert error > 0.5
    assert normal.sigma[0] > 5
    assert (normal.trust(residuals, Y) == 1).all()


# --- intervals


@pytest.mark.parametrize("dof", [0.5, 2.0, 4.0, 30.0, 1e7])
@pytest.mark.parametrize("level", [0.5, 0.68, 0.95, 0.997])
def test_intervals_are_those_of_the_sum_of_a_normal_and_a_t_variate(dof, level):
    alone, normal = find_half_width(np.array([0.0, 1e12]), dof, level)
    assert_allclose(alone, stats.t.ppf(0.5 + level / 2, dof), rtol=1e-11)
    if dof > 2:  # lower, t's tails are beyond any normal variate's
        assert_allclose(normal, 1e6 * stats.norm.ppf(0.5 + level / 2), rtol=1e-5)
    v = 0.7
    x = find_half_width(np.array([v]), dof, level)[0]

    def density_beyond(y):
        return stats.norm.pdf(y, scale=v**0.5) * (
            stats.t.cdf(x - y, dof) - stats.t.cdf(-x - y, dof)
        )

    inside = integrate.quad(density_beyond, -40 * v**0.5, 40 * v**0.5, points=[-x, 0, x])[0]
    assert_allclose(inside, level, atol=1e-9)  # of the quadrature


def test_the_intervals_of_a_prediction_have_the_tails_of_the_noise(problem):
    """Half of the simulated labels of each star are inside, and 95 %."""
    reg, theta, X, Y, errors = problem
    laplace = ss.fit_laplace(
        reg, theta, X, Y, label_errors=errors, require_minimum=False, progress=False
    )
    prediction = laplace.predict(X, progress=False)
    rng = np.random.default_rng(8)
    n = 20_000
    model = np.linalg.cholesky(prediction.model_cov)
    z = rng.normal(size=(n, N, 2))
    f = prediction.labels + np.einsum("ncd,knd->knc", model, z)
    drawn = reg.noise.draw(f, rng)
    for level in (0.5, 0.95):
        low, high = np.moveaxis(prediction.interval(level), 2, 0)
        assert_allclose((low + high) / 2, prediction.labels)
        inside = np.mean((drawn >= low) & (drawn <= high), axis=0)
        # five standard errors
        assert_allclose(inside, level, atol=5 * np.sqrt(level * (1 - level) / n))
        # normal intervals of the same errors are not these
        normal = stats.norm.ppf(0.5 + level / 2) * prediction.errors
        assert np.abs((high - low) / 2 / normal - 1).max() > 0.03
    half = np.diff(prediction.interval(0.68))[..., 0] / 2
    share = np.mean(np.abs(drawn[0] - prediction.labels) <= half, axis=0)
    assert_allclose(ss.coverage(prediction, drawn[0], [0.68])[0], share)


@pytest.mark.parametrize("dof", [0.1, 1.0, 2.0, 4.0, 1000.0, 1e7])
def test_the_log_density_is_that_of_the_sum_of_a_normal_and_a_t_variate(dof):
    far = 1e3 if dof < 1e4 else 5.0
    y = np.array([0.0, 0.3, -2.0, far])
    alone = find_log_density(y, np.zeros(4), dof)
    assert_allclose(alone, stats.t.logpdf(y, dof), rtol=1e-9, atol=1e-9)
    v = 0.7
    for x in y[:3]:
        ends = x + 12 * v**0.5 * np.array([-1, 1])

        def density(f, x=x):
            return stats.norm.pdf(f, x, v**0.5) * stats.t.pdf(f, dof)

        expected = integrate.quad(density, *ends, points=[0.0, x], epsabs=1e-13, limit=200)[0]
        found = find_log_density(np.array([x]), np.array([v]), dof)[0]
        assert_allclose(found, np.log(expected), rtol=1e-8)


@pytest.mark.parametrize("dof", [0.6, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("decades", [(-20, 4), (-1, 1), (0, 0)])
def test_overlaps_of_many_stars_are_those_of_all_pairs_of_normals(dof, decades):
    variance = np.logspace(*decades, 1500)
    variance[::500] = 0.0
    some = np.r_[0:1500:100, 1, 1499]
    scale, nu = np.full((2, 1500), [[0.3], [dof]])
    (_, normals), *others = split_normals(0.3**2 * variance, scale, nu)
    assert not others
    expected = find_overlap(normals.take(some)._replace(overlap=None), normals.take(some))
    assert_allclose(normals.overlap[some], expected, rtol=1e-11)  # of rounding over 24 decades
    few = next(split_normals(0.3**2 * variance[some], scale[some], nu[some]))[1]
    assert_allclose(few.overlap, expected, rtol=1e-12)


def test_the_density_of_a_prediction_belongs_to_its_intervals(problem):
    """Its integral over an interval is the level; missing labels have none."""
    reg, theta, X, Y, errors = problem
    for noise in (reg.noise, ss.GaussianNoise([0.3, 0.5])):
        laplace = ss.fit_laplace(
            reg.with_noise(noise), theta, X, Y, label_errors=errors, require_minimum=False,
            progress=False,
        )  # fmt: skip
        prediction = laplace.predict(X[:1], progress=False)
        low, high = np.moveaxis(prediction.interval(0.9)[0], 1, 0)
        nodes, weights = np.polynomial.legendre.leggauss(60)
        y = (low + high) / 2 + nodes[:, None] * (high - low) / 2
        p = np.exp([prediction.log_density(row[None])[0] for row in y])
        assert_allclose(weights @ p * (high - low) / 2, 0.9, rtol=1e-9)
        assert np.isnan(prediction.log_density([[np.nan, 0.0]])).tolist() == [[True, False]]
        with pytest.raises(ss.ShapeError, match="labels should have the shape of those predicted"):
            prediction.log_density(np.zeros((2, 2)))


# --- HMC, archives, errors


def test_pymc_has_the_same_density_and_draws(problem):
    import pymc as pm

    reg, theta, X, Y, errors = problem
    model = ss.pymc_model(reg, X, Y, label_errors=errors)
    mode = find_mode("numpy", "float64")
    logp = model.compile_logp(mode=mode)({"theta": theta})
    assert_allclose(logp, -negative_log_posterior(reg, theta, X, Y, errors), rtol=1e-12)
    draws = pm.draw(model["y"], draws=3, random_seed=1, mode=mode)
    assert draws.shape == (3, N, 2)
    assert np.isfinite(draws).all()


def test_archives_keep_the_noise(problem, tmp_path):
    reg, theta, X, Y, errors = problem
    laplace = ss.fit_laplace(
        reg, theta, X, Y, label_errors=errors, require_minimum=False, progress=False
    )
    ss.write_laplace(tmp_path / "t.h5", laplace)
    again = ss.read_laplace(tmp_path / "t.h5")
    assert_array_equal(again.reg.noise.scale, SCALE)
    assert_array_equal(again.reg.noise.dof, DOF)
    one, other = (lap.predict(X, progress=False) for lap in (laplace, again))
    assert_array_equal(one.total_cov, other.total_cov)
    half_widths = SCALE * stats.t.ppf(stats.norm.cdf(1), DOF)
    assert_allclose(one.noise_cov, np.tile(np.diag(half_widths**2), (N, 1, 1)))


BAD = {
    "scale zero": ({"scale": 0.0}, ss.DataError, "scale should be finite and positive, got 0.0"),
    "dof zero": ({"scale": 1.0, "dof": 0.0}, ss.DataError, "dof should be finite and positive"),
    "dof negative": ({"scale": 1.0, "dof": -3}, ss.DataError, "dof should be finite and positive"),
    "matrix": ({"scale": np.eye(2)}, ss.ShapeError, r"have shape \(label,\), one a label"),
}


@pytest.mark.parametrize(("words", "error", "text"), BAD.values(), ids=BAD)
def test_numbers_that_are_no_noise_are_refused(words, error, text):
    with pytest.raises(error, match=text):
        ss.StudentTNoise(**words)


def test_what_does_not_go_with_it_is_refused(problem):
    reg, theta, X, Y, _ = problem
    with pytest.raises(ss.ShapeError, match=r"scale should be a number or have shape \(2,\)"):
        ss.Regression(reg.net, noise=ss.StudentTNoise([1.0, 1.0, 1.0]), prior_precision=1.0)
    covariances = np.tile(np.eye(2), (N, 1, 1))
    with pytest.raises(ss.OptionError, match="takes errors of labels that are standard deviations"):
        ss.fit_laplace(reg, theta, X, Y, label_errors=covariances)
    with pytest.raises(ss.OptionError, match="noise='full' goes with normal noise"):
        ss.tune(reg, theta, X, Y, noise="full")
    normal = reg.with_noise(ss.GaussianNoise(1.0))
    with pytest.raises(ss.OptionError, match="noise='scale_and_dof' goes with Student's"):
        ss.tune(normal, theta, X, Y, noise="scale_and_dof")
