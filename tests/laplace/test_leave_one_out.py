"""Stars left out without training again, against training again; and covariances between stars."""

import pickle

import numpy as np
import pytest
from conftest import assert_entries
from scipy import linalg, stats

import symspec as ss
from symspec.laplace import exact_influence
from symspec.laplace.leave_one_out import LeftOut
from symspec.reports.influence import Influence, influence_table
from symspec.training.steps.hessian_solves import HessianSolver
from symspec.validation.influence import find_movers, find_unknown

N, N_NEW = 24, 3
GROUPS = np.arange(N) % 7
# float64 rounding, 1e-16, times condition numbers of up to 1e5
SOLVED = 1e-10

over_structures = pytest.mark.parametrize("structure", ["primal", "dual"])


class Case:
    """A linear network on stars with missing labels and errors of labels, one without a label."""

    def __init__(self, structure, noise):
        rng = np.random.default_rng(3)
        self.structure = structure
        self.X = rng.normal(size=(N + N_NEW, 6))
        self.Y = self.X[:N] @ rng.normal(size=(6, 2)) + 0.3 * rng.normal(size=(N, 2))
        self.Y[3, 0] = self.Y[8, 1] = np.nan
        self.Y[5] = np.nan
        self.errors = rng.uniform(0.05, 0.5, size=(N, 2))
        net = ss.mlp([6, 2])
        self.reg = ss.Regression(net, noise=noise, prior_precision=0.4)
        self.laplace = self.fit(np.ones(N, bool))

    @property
    def new(self):
        return self.X[N:]

    def fit(self, kept):
        X, Y, errors = self.X[:N][kept], self.Y[kept], self.errors[kept]
        theta = np.zeros(self.reg.net.n_params)
        theta = ss.polish(self.reg, theta, X, Y, label_errors=errors, tolerance=1e-25).theta
        return ss.fit_laplace(
            self.reg, theta, X, Y, label_errors=errors, structure=self.structure, progress=False
        )


@pytest.fixture(scope="module", params=["primal", "dual"])
def case(request):
    return Case(request.param, ss.GaussianNoise(covariance=[[0.09, 0.03], [0.03, 0.25]]))


@pytest.mark.parametrize("star", [0, 3, 5, 8])
def test_a_star_left_out_is_as_if_it_had_not_been_there(case, star):
    refit = case.fit(np.arange(N) != star)
    found, expected = case.laplace.leave_one_out(), refit.predict(case.X[[star]])
    assert_entries(found.labels[star], expected.labels[0], SOLVED)
    assert_entries(found.model_cov[star], expected.model_cov[0], SOLVED)
    with_errors = expected.noise_cov[0] + np.diag(
        np.where(np.isnan(case.Y[star]), 0.0, case.errors[star] ** 2)
    )
    assert_entries(found.noise_cov[star], with_errors, SOLVED)
    assert_entries(found.total_cov[star], expected.model_cov[0] + with_errors, SOLVED)
    moved = case.laplace.predict_labels(case.new) - refit.predict_labels(case.new)
    # the refit ends within 1e-12 of the labels' errors, which are below 1
    influence = case.laplace.influence(case.new)[:, :, star]
    np.testing.assert_allclose(influence, moved, rtol=SOLVED, atol=1e-12)


def test_bad_pixels_are_filled_in_arrays_as_in_spectra(case):
    ivar = np.ones((N, 6))
    ivar[4, 2] = ivar[7, 1] = 0.0
    flux = np.where(ivar == 0, np.nan, case.X[:N])
    given = {"label_errors": case.errors, "ivar": ivar}
    spectra = ss.Spectra(flux=flux, ivar=ivar, labels=case.Y, label_errors=case.errors)
    found = case.laplace.leave_one_out(flux, case.Y, **given)
    expected = case.laplace.leave_one_out(spectra)
    assert_entries(found.labels, expected.labels, SOLVED)
    assert np.abs(found.labels[4] - case.laplace.leave_one_out().labels[4]).max() > 1e-3
    assert_entries(
        case.laplace.influence(case.new, flux, case.Y, **given),
        case.laplace.influence(case.new, spectra),
        SOLVED,
    )
    assert_entries(
        ss.jackknife_intervals(case.laplace, case.new, flux, case.Y, **given),
        ss.jackknife_intervals(case.laplace, case.new, spectra),
        SOLVED,
    )


@pytest.mark.parametrize("group", [2, 5])
def test_stars_of_a_group_are_left_out_together(case, group):
    refit = case.fit(group != GROUPS)
    of_group = np.flatnonzero(group == GROUPS)
    found = case.laplace.leave_one_out(groups=GROUPS)
    expected = refit.predict(case.X[of_group])
    assert_entries(found.labels[of_group], expected.labels, SOLVED)
    assert_entries(found.model_cov[of_group], expected.model_cov, SOLVED)
    moved = case.laplace.predict_labels(case.new) - refit.predict_labels(case.new)
    influence = case.laplace.influence(case.new, groups=GROUPS)
    assert influence.shape == (N_NEW, 2, 7)
    assert_entries(influence[:, :, group], moved, SOLVED)


@pytest.mark.parametrize("structure", ["primal", "dual"])
def test_groups_are_left_out_whatever_the_units_of_the_labels(structure):
    """The rounding of a label in K is no rounding of one in dex."""
    rng = np.random.default_rng(4)
    X, Y = rng.normal(size=(N, 6)), rng.normal(size=(N, 2))
    found = []
    for unit in ([1.0, 1.0], [1e7, 1e-3]):
        net = ss.Network([ss.Dense(2), ss.Unstandardize(np.zeros(2), unit)], 6)
        reg = ss.Regression(net, sigma_noise=0.3 * np.array(unit), prior_precision=0.4)
        laplace = ss.fit_laplace(
            reg, np.zeros(net.n_params), X, Y * unit, structure=structure, require_minimum=False,
            progress=False,
        )  # fmt: skip
        left_out = laplace.leave_one_out(groups=GROUPS, center="linearized")
        found.append([left_out.labels / unit, left_out.model_cov / np.outer(unit, unit)])
    for expected, scaled in zip(*found, strict=True):
        assert_entries(scaled, expected, SOLVED)


def test_residuals_are_those_of_cook_and_weisberg(case):
    laplace = case.laplace
    V = laplace.label_covariance(case.X[:N])
    S = laplace.reg.noise.covariance + case.errors[:, :, None] ** 2 * np.eye(2)
    found = laplace.leave_one_out()
    seen = ~np.isnan(case.Y).any(axis=1)
    r = case.Y - laplace.predict_labels(case.X[:N])
    left = np.linalg.solve(S - V, r[:, :, None])
    assert_entries((case.Y - found.labels)[seen], (S @ left)[seen, :, 0], SOLVED)
    covariance = S @ np.linalg.solve(S - V, S)
    assert_entries(found.total_cov[seen], covariance[seen], SOLVED)


def test_joint_covariances_are_dense_ones_whatever_the_blocks(case, monkeypatch):
    laplace = case.laplace
    dense = np.concatenate([t.dense() for _, t in laplace.tangents(case.X)])
    A_inverse = laplace.inverse_hessian.to_dense()
    expected = np.einsum("ncp,pq,mdq->ncmd", dense, A_inverse, dense)
    assert_entries(laplace.joint_covariance(case.X), expected, SOLVED)
    monkeypatch.setattr("symspec.laplace.leave_one_out.MAX_BLOCK_STARS", 10)
    assert_entries(laplace.joint_covariance(case.X), expected, SOLVED)
    assert_entries(laplace.influence(case.new), laplace.influence(case.new, case.X[:N], case.Y,
                   label_errors=case.errors), SOLVED)  # fmt: skip


def test_both_centres_leave_out_of_the_linearised_network(case):
    theta = case.laplace.theta + 0.1
    early = ss.fit_laplace(
        case.reg, theta, case.X[:N], case.Y, label_errors=case.errors,
        structure=case.structure, require_minimum=False, progress=False,
    )  # fmt: skip
    expected = case.laplace.leave_one_out()
    found = early.leave_one_out(center="linearized")
    assert_entries(found.labels, expected.labels, SOLVED)
    shift = early.predict_labels(case.X[:N]) - case.laplace.predict_labels(case.X[:N])
    assert_entries(early.leave_one_out().labels, expected.labels + shift, SOLVED)


@over_structures
def test_a_label_far_out_hardly_moves_students_t(structure):
    noise = ss.StudentTNoise([0.3, 0.5], dof=4)
    case = Case(structure, noise)
    case.Y[1, 0] += 30
    laplace = case.fit(np.ones(N, bool))
    refit = case.fit(np.arange(N) != 1)
    moved = laplace.predict_labels(case.new) - refit.predict_labels(case.new)
    a_tenth = 0.1 * noise.scale.min()
    assert np.abs(laplace.influence(case.new, curvature="ggn")[:, :, 1]).max() < a_tenth
    # what the star's own noise curves is by its expected information, which doubles what is left
    assert np.abs(laplace.influence(case.new, curvature="hessian")[:, :, 1]).max() < 2 * a_tenth
    assert np.abs(moved).max() < a_tenth


@over_structures
def test_students_t_takes_a_newton_step_of_its_expected_information(structure):
    noise = ss.StudentTNoise([0.3, 0.5], dof=[3, 6])
    case = Case(structure, noise)
    V = case.laplace.label_covariance(case.X[:N])
    tau = noise.scale**2 + case.errors**2
    r = case.Y - case.laplace.predict_labels(case.X[:N])
    score = (noise.dof + 1) * r / (noise.dof * tau + r**2)
    W = ((noise.dof + 1) / (noise.dof + 3) / tau)[:, :, None] * np.eye(2)
    seen = ~np.isnan(case.Y).any(axis=1)
    found = case.laplace.leave_one_out()
    left = np.linalg.inv(np.eye(2) - W @ V)
    moved = (V @ left @ score[:, :, None])[:, :, 0]
    expected = case.laplace.predict_labels(case.X[:N]) - moved
    assert_entries(found.labels[seen], expected[seen], SOLVED)
    assert_entries(found.model_cov[seen], (V @ left)[seen], SOLVED)
    variances = tau * stats.t(noise.dof).ppf(stats.norm.cdf(1)) ** 2
    assert_entries(np.einsum("ncc->nc", found.noise_cov)[seen], variances[seen], SOLVED)


def test_approximate_structures_leave_single_stars_out(case):
    laplace = ss.fit_laplace(
        case.reg, case.laplace.theta, case.X[:N], case.Y, label_errors=case.errors,
        structure="kronecker", progress=False,
    )  # fmt: skip
    found = laplace.leave_one_out()
    assert np.isfinite(found.labels).all()
    assert (found.label_flags & ss.Flag.MODEL_ERROR_INEXACT).all()
    for ask in (
        lambda: laplace.leave_one_out(groups=GROUPS),
        lambda: laplace.influence(case.new),
        lambda: laplace.joint_covariance(case.new),
    ):
        with pytest.raises(ss.OptionError, match="covariances between stars should come from"):
            ask()


@pytest.fixture(scope="module", params=[3, 50], ids=["few pixels", "fewer stars than pixels"])
def bent(request):
    """A network of two tanh units at a minimum, whose labels it fits badly; and other stars."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(40 + N_NEW, request.param))
    Y = np.c_[np.sin(2 * X[:40, 0]) + X[:40, 1], X[:40, 2] ** 2] + 0.3 * rng.normal(size=(40, 2))
    reg = ss.Regression(
        ss.mlp([request.param, 2, 2], activation="tanh"),
        sigma_noise=[0.4, 0.6],
        prior_precision=0.5,
    )
    theta = ss.polish(reg, reg.net.init_params(rng), X[:40], Y, tolerance=1e-20, progress=False)
    laplace = ss.fit_laplace(reg, theta.theta, X[:40], Y, structure="dual", progress=False)
    return laplace, X[40:], Y


def refit_noise(laplace, Y, noise):
    """The posterior at a minimum with another noise, from the weights of this one."""
    X = laplace.training_stars.flux
    net = laplace.reg.net
    reg = ss.Regression(net, noise=noise, prior_precision=laplace.reg.prior_precision)
    theta = ss.polish(reg, laplace.theta, X, Y, tolerance=1e-20, progress=False).theta
    return ss.fit_laplace(reg, theta, X, Y, structure="dual", progress=False)


def find_steps(laplace, Y, groups, new):
    """What Newton steps without each group change, by dense matrices, and second differences."""
    X = laplace.training_stars.flux
    H = ss.compile_hessian(laplace.reg)(laplace.theta, X, Y)
    J, J_new = (
        np.concatenate([t.dense() for _, t in walk(x)])
        for x, walk in ((X, laplace.output_tangents), (new, laplace.tangents))
    )
    f = laplace.predict_outputs(X)
    noise = laplace.reg.noise
    scores = noise.score(f, Y)
    W = np.zeros((*f.shape, f.shape[1]))
    for c, unit in enumerate(1e-3 * np.eye(f.shape[1])):
        near, far = (noise.score(f - k * unit, Y) - noise.score(f + k * unit, Y) for k in (1, 2))
        W[:, :, c] = (8 * near - far) / 12e-3
    moved = []
    for group in (np.flatnonzero(groups == g) for g in np.unique(groups)):
        J_g = J[group].reshape(-1, len(H))
        left = H - J_g.T @ linalg.block_diag(*W[group]) @ J_g
        if np.linalg.eigvalsh(left)[0] <= 0:
            moved.append(np.full((len(new), 2), np.nan))
        else:
            moved.append(J_new @ np.linalg.solve(left, J_g.T @ scores[group].ravel()))
    return np.stack(moved, axis=2)


def check_influence(laplace, Y, new):
    """Against dense matrices, stars alone and in pairs; NaN where nothing is left."""
    assert laplace.certificate.is_minimum
    for groups in (np.arange(40), np.arange(40) // 2):
        found, expected = laplace.influence(new, groups=groups), find_steps(laplace, Y, groups, new)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        # fourth-order differences of scores: 1e-11 of W, times up to 1e4 where little is left
        assert_entries(np.nan_to_num(found), np.nan_to_num(expected), 1e-6)


@pytest.mark.parametrize(
    "noise",
    [
        ss.GaussianNoise(covariance=[[0.16, 0.05], [0.05, 0.36]]),
        ss.StudentTNoise([0.4, 0.6], dof=4),
    ],
    ids=["normal", "student"],
)
def test_influence_at_a_minimum_is_by_the_exact_hessian(bent, noise):
    laplace, new, Y = bent
    Y = Y.copy()
    Y[4, 0] = Y[9, 1] = np.nan
    check_influence(refit_noise(laplace, Y, noise), Y, new)


@pytest.mark.parametrize("bent", [3], indirect=True)
def test_influence_by_the_exact_hessian_under_predicted_noise(bent):
    laplace, new, Y = bent
    X = laplace.training_stars.flux
    net = ss.mlp([3, 2, 4], activation="tanh", n_labels=2)
    reg = ss.Regression(net, noise=ss.PredictedNoise(), prior_precision=0.5)
    theta = reg.net.init_params(np.random.default_rng(0))
    theta = ss.polish(reg, theta, X, Y, tolerance=1e-20, progress=False).theta
    there = ss.fit_laplace(reg, theta, X, Y, structure="dual", progress=False)
    check_influence(there, Y, new)
    assert np.isnan(there.influence(new)).any()


def test_influence_of_larger_networks_is_by_products_with_the_hessian(bent, monkeypatch):
    laplace, new, Y = bent
    X = laplace.training_stars.flux
    by_ggn = laplace.influence(new, curvature="ggn")
    monkeypatch.setattr(exact_influence, "DENSE_PARAMS", 10)
    np.testing.assert_array_equal(laplace.influence(new), by_ggn)
    H = ss.compile_hessian(laplace.reg)(laplace.theta, X, Y)
    J, J_new = (np.concatenate([t.dense() for _, t in laplace.tangents(x)]) for x in (X, new))
    V = laplace.label_covariance(X)
    weights = np.diag(1 / laplace.reg.sigma_noise**2)
    scores = (Y - laplace.predict_labels(X)) @ weights
    pulls = np.linalg.solve(np.eye(2) - weights @ V, scores[:, :, None])
    steps = np.linalg.solve(H, (J.transpose(0, 2, 1) @ pulls)[:, :, 0].T)
    found = laplace.influence(new, curvature="hessian")
    # conjugate gradients end within 1e-8 in the norm of A^-1
    assert_entries(found, np.einsum("ncp,pm->ncm", J_new, steps), 1e-5)
    groups = np.arange(40) // 2
    by_group = laplace.influence(new, groups=groups, curvature="hessian")
    assert by_group.shape == (N_NEW, 2, 20)


@pytest.mark.parametrize("bent", [3], indirect=True)
def test_the_exact_hessian_is_nearer_to_refits(bent):
    laplace, new, Y = bent
    X = laplace.training_stars.flux
    found = laplace.influence(new)
    refits = [
        ss.polish(laplace.reg, laplace.theta, X[kept], Y[kept], progress=False).theta
        for kept in (np.arange(40) != k for k in range(10))
    ]
    predict = ss.compile_predict(laplace.reg.net)
    moved = np.stack([predict(laplace.theta, new) - predict(t, new) for t in refits], axis=2)
    rough = laplace.influence(new, curvature="ggn")
    error, rough_error = (np.linalg.norm(x[:, :, :10] - moved) for x in (found, rough))
    assert error < 0.7 * rough_error
    assert np.corrcoef(found[:, :, :10].ravel(), moved.ravel())[0, 1] > 0.95


def test_the_exact_hessian_is_for_minima(bent):
    laplace, new, Y = bent
    X = laplace.training_stars.flux
    away = ss.fit_laplace(
        laplace.reg, laplace.theta + 0.1, X, Y, require_minimum=False, progress=False
    )
    with pytest.raises(ss.OptionError, match=r"asked for at a minimum .* not at a minimum"):
        away.influence(new, curvature="hessian")
    np.testing.assert_array_equal(away.influence(new), away.influence(new, curvature="ggn"))
    with pytest.raises(ss.OptionError, match="curvature should be"):
        away.influence(new, curvature="exact")


@pytest.mark.parametrize("apart", [1e-6, 1e-7])
def test_where_float64_does_not_hold_the_hessians_inverse_influence_is_by_products(apart):
    """Two pixels that are nearly one, and next to no prior; of a linear network H is A."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(43, 3))
    X[:, 2] = X[:, 1] + apart * rng.normal(size=43)
    Y = np.c_[np.sin(2 * X[:40, 0]) + X[:40, 1], X[:40, 0] ** 2] + 0.3 * rng.normal(size=(40, 2))
    reg = ss.Regression(ss.mlp([3, 2]), sigma_noise=[0.4, 0.6], prior_precision=100 * apart**2)
    theta = np.zeros(reg.net.n_params)
    theta = ss.polish(reg, theta, X[:40], Y, tolerance=1e-20, progress=False).theta
    laplace = ss.fit_laplace(reg, theta, X[:40], Y, structure="primal", progress=False)
    assert laplace.certificate.is_minimum
    assert LeftOut.of(laplace, None, None)._exact._invert() is None
    by_ggn = laplace.influence(X[40:], curvature="ggn")
    # the primal structure takes QR there, which leaves seven digits
    assert_entries(laplace.influence(X[40:]), by_ggn, 1e-5)


@pytest.mark.parametrize("bent", [50], indirect=True)
def test_a_star_that_a_minimum_stands_on_has_no_influence_that_is_known(bent):
    laplace, new, Y = bent
    far = refit_noise(laplace, Y, ss.StudentTNoise(laplace.reg.sigma_noise, dof=4))
    unknown = np.isnan(far.influence(new)).all(axis=(0, 1))
    assert 0 < unknown.sum() < 10
    assert np.isfinite(far.influence(new, curvature="ggn")).all()
    prediction = far.predict(new)
    left_out = LeftOut.of(far, None, None)
    spectra = ss.Spectra(flux=new, ids=["a", "b", "c"])
    movers = find_movers(left_out, spectra, prediction, n_most=40, progress=False)
    np.testing.assert_array_equal(movers.unknown, np.flatnonzero(unknown))
    n_known = 40 - unknown.sum()
    assert np.isfinite(movers.shares[:, :n_known]).all()
    assert unknown[movers.group[:, n_known:]].all()
    names = [f"S{star}" for star in range(40)]
    found = Influence(
        movers=movers, prediction=prediction, ids=spectra.ids, group_names=names, unit="star"
    )
    caption = influence_table(found, "a", 0).caption
    assert f"not known of S{movers.unknown[0]}" in caption
    assert "without it no minimum is left" in caption


def test_a_new_star_without_influence_leaves_the_training_stars_known():
    influence = np.zeros((3, 2, 4))
    influence[1] = np.nan  # a new star
    influence[:, :, 2] = np.nan  # a training star
    np.testing.assert_array_equal(find_unknown(influence), [2])


def test_solving_with_a_hessian_that_curves_down_is_refused():
    H = np.diag([1.0, -0.5, 2.0])
    with pytest.raises(ss.NotPositiveDefiniteError, match="along one direction its curvature is -"):
        HessianSolver(H.dot, np.eye(3)).solve(np.array([1.0, 2.0, 0.1]))
    x = HessianSolver(H.dot, np.eye(3)).solve(np.array([1.0, 0.0, 4.0]))
    assert_entries(x, np.array([1.0, 0.0, 2.0]), SOLVED)


def test_a_star_that_alone_determines_a_label_is_flagged():
    X, Y = np.eye(4), np.arange(8.0).reshape(4, 2)
    reg = ss.Regression(ss.mlp([4, 2]), sigma_noise=1e-8, prior_precision=1.0)
    theta = ss.polish(reg, np.zeros(10), X, Y, progress=False).theta
    laplace = ss.fit_laplace(reg, theta, X, Y, structure="primal", require_minimum=False)
    found = laplace.leave_one_out()
    assert np.isnan(found.labels).all()
    assert (found.label_flags & ss.Flag.FAILED).all()


def test_a_posterior_of_a_file_or_another_process_takes_its_stars_again(case, tmp_path):
    ss.write_laplace(tmp_path / "model.h5", case.laplace)
    for other in (ss.read_laplace(tmp_path / "model.h5"), pickle.loads(pickle.dumps(case.laplace))):
        with pytest.raises(ss.DataError, match="training stars should be given"):
            other.leave_one_out()
        found = other.leave_one_out(case.X[:N], case.Y, label_errors=case.errors)
        np.testing.assert_array_equal(found.labels, case.laplace.leave_one_out().labels)


@pytest.mark.parametrize(
    ("groups", "error", "words"),
    [
        (np.zeros((N, 1)), ss.ShapeError, "a name for each training star"),
        (np.zeros(N - 1), ss.ShapeError, "a name for each training star"),
        (np.full(N, np.nan), ss.DataError, "got NaN"),
    ],
    ids=["matrix", "short", "nan"],
)
def test_wrong_groups_are_refused(case, groups, error, words):
    with pytest.raises(error, match=words):
        case.laplace.leave_one_out(groups=groups)


def test_a_subset_and_the_exact_hessian_are_refused(case):
    of_subset = ss.fit_laplace(
        case.reg, case.laplace.theta, case.X[:N], case.Y, structure="dual", options={"subset": 9},
        require_minimum=False,
    )  # fmt: skip
    exact = ss.fit_laplace(
        case.reg, case.laplace.theta, case.X[:N], case.Y, label_errors=case.errors,
        curvature="hessian",
    )  # fmt: skip
    for laplace in (of_subset, exact):
        with pytest.raises(ss.OptionError, match="leaving stars out should be asked of"):
            laplace.leave_one_out()


def test_missing_pixels_of_new_stars_are_filled_as_for_a_prediction(case):
    ivar = np.ones(case.new.shape)
    ivar[0, 2] = 0
    filled = case.laplace.flux_prior.complete(case.new, ivar).flux
    spectra = ss.Spectra(flux=np.where(ivar > 0, case.new, 1e6), ivar=ivar)
    assert_entries(case.laplace.influence(spectra), case.laplace.influence(filled), SOLVED)
    assert_entries(
        case.laplace.joint_covariance(spectra), case.laplace.joint_covariance(filled), SOLVED
    )
    training = {"label_errors": case.errors}
    intervals = [
        ss.jackknife_intervals(case.laplace, X, case.X[:N], case.Y, **training)
        for X in (spectra, filled)
    ]
    assert_entries(*intervals, SOLVED)
