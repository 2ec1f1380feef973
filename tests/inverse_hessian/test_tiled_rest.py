"""Krylov with its kernel in tiles on disk: the numbers of the streamed one, and of brute force."""

import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import symspec as ss
from symspec.inverse_hessian import krylov
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.numerics import costs, tile_folder, tiled_rest
from symspec.networks.noise import PredictedNoise
from symspec.safety.checkpoint import Checkpoint

# the same sums in other orders: rounding, times condition numbers of up to 1e4
AGREED = 1e-10
N_STARS, N_PIXELS, N_LABELS, TILE, SUBSET = 23, 6, 2, 5, 6  # four blocks, fourteen tiles

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N_STARS, N_PIXELS)), RNG.normal(size=(N_STARS, N_LABELS))
Y[3, 0] = Y[11, 1] = Y[7] = np.nan
X_NEW = RNG.normal(size=(4, N_PIXELS))
NET = ss.mlp([N_PIXELS, 4, N_LABELS], activation="tanh")
THETA = RNG.normal(size=NET.n_params)
REG = ss.Regression(NET, sigma_noise=[0.6, 0.8], prior_precision=1.3)
OPTIONS = {"subset": SUBSET, "tolerance": 1e-8}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(costs, "MOST_ROWS", TILE * N_LABELS)


def build(folder=None, *, theta=THETA, checkpoint=None, options=None, **changed):
    words = {"reg": REG, "X": X, "Y": Y, "structure": "krylov"} | changed
    options = OPTIONS | ({} if folder is None else {"scratch": folder}) | (options or {})
    return InverseBuilder(**words, options=options, checkpoint=checkpoint).build(theta)


def read_all(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished folder, its inverse, the streamed one, and tangents of new stars."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "MOST_ROWS", TILE * N_LABELS)
        tiled = build(folder)
    tangents = InverseBuilder(REG, X, Y, structure="primal").tangents(THETA, X_NEW)
    return SimpleNamespace(folder=folder, tiled=tiled, streamed=build(), tangents=tangents)


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of the finished folder."""
    return shutil.copytree(whole.folder, tmp_path / "tiles")


# --- the numbers


CASES = [
    "tanh-2-hidden-3-labels-full-noise-missing",
    "relu-3-hidden-2-labels-own-units-missing",
    "linear-1-hidden-2-labels",  # a prior precision for each parameter
    "tanh-and-softplus-without-bias-with-dropout",
]


@pytest.mark.parametrize("subset", [1, 3])
@pytest.mark.parametrize("problem", CASES, indirect=True)
def test_products_are_those_of_the_stream_and_of_dense_matrices(
    problem, subset, tmp_path, monkeypatch
):
    monkeypatch.setattr(costs, "MOST_ROWS", problem.net.n_labels)  # a star a tile
    monkeypatch.setattr(tiled_rest, "MOST_ROWS", problem.net.n_labels)
    words = {"reg": problem.reg, "X": problem.X, "Y": problem.Y, "theta": problem.theta}
    options = {"subset": subset}
    tiled = build(tmp_path, options=options, **words)
    streamed = build(options=options, **words)
    J = np.concatenate([t.dense() for _, t in tiled.rest.blocks()]).reshape(tiled._n_rows, -1)
    Sigma = tiled.subset.to_dense()
    K = J @ Sigma @ J.T
    size = np.abs(K).max()
    U = np.random.default_rng(1).normal(size=(tiled._n_rows, 4))
    tangents = InverseBuilder(problem.reg, problem.X, problem.Y, structure="dual").tangents(
        problem.theta
    )[:3]
    new = tangents.dense()
    k = np.einsum("rp,pq,ncq->rnc", J, Sigma, new)
    for products in (tiled._products, streamed._products):
        assert_allclose(products.multiply(U), K @ U, atol=AGREED * size)
        assert_allclose(products.find_columns(tangents), k, atol=AGREED * np.abs(k).max())
        assert not products.find_rounding(tangents, k).any()
    assert len(tiled._products._sizes) == tiled.rest.n_stars


def test_bounds_are_those_of_the_stream_and_hold_the_inverse_that_numpy_has(whole):
    J = InverseBuilder(REG, X, Y, structure="primal").tangents(THETA).dense()
    A = 1.3 * np.eye(NET.n_params)
    for row, y in zip(J, Y, strict=True):
        seen = ~np.isnan(y)
        A += (row[seen] / np.array([[0.6], [0.8]])[seen] ** 2).T @ row[seen]
    new = whole.tangents.dense()
    exact = np.einsum("ncp,pq,ndq->ncd", new, np.linalg.inv(A), new)
    low, high = whole.tiled.label_covariance_bounds(whole.tangents)
    slack = AGREED * np.abs(exact).max()
    assert (np.linalg.eigvalsh(high - exact) > -slack).all()
    assert (np.linalg.eigvalsh(exact - low) > -slack).all()
    assert_allclose(high, exact, rtol=3e-8)  # twice the tolerance, which is of deviations
    streamed = list(whole.streamed.iterate_bounds(whole.tangents))
    for (low, high), bounds in zip(
        whole.tiled.iterate_bounds(whole.tangents), streamed, strict=True
    ):
        assert_allclose([low, high], bounds, atol=1e-9 * np.abs(exact).max())


def test_what_else_an_inverse_is_asked_for_is_that_of_the_stream(whole):
    for ask in (
        lambda inverse: inverse.logdet(),
        lambda inverse: inverse @ np.ones(NET.n_params),
        lambda inverse: inverse.draw(3, np.random.default_rng(2)),
        lambda inverse: inverse.diagonal(),
        lambda inverse: inverse.condition,
    ):
        expected = ask(whole.streamed)
        assert_allclose(ask(whole.tiled), expected, atol=1e-8 * np.abs(expected).max())


def test_noise_that_differs_from_star_to_star_goes_with_its_star(tmp_path):
    net = ss.mlp([N_PIXELS, 4, 2 * N_LABELS], activation="tanh")
    reg = ss.Regression(net, noise=PredictedNoise(), prior_precision=1.3)
    errors = np.linspace(0.1, 0.9, Y.size).reshape(Y.shape)
    theta = RNG.normal(size=net.n_params)
    found = [
        ss.fit_laplace(
            reg,
            theta,
            X,
            Y,
            label_errors=errors,
            structure=structure,
            options=options,
            require_minimum=False,
            progress=False,
        ).label_covariance(X_NEW)
        for structure, options in (("krylov", OPTIONS | {"scratch": tmp_path}), ("primal", {}))
    ]
    assert_allclose(*found, rtol=3e-8)


@pytest.fixture
def problem_in_single():
    """Float32 passes of 120 stars whose kernel is up to 1e6 times the noise."""
    rng = np.random.default_rng(8)
    net = ss.mlp([12, 20, 10, 2], activation="tanh")
    prior = ss.scaled_prior(net, 1.0)
    reg = ss.Regression(net, sigma_noise=[0.005, 0.01], prior_precision=prior)
    words = {"X": rng.normal(size=(120, 12)), "Y": rng.normal(size=(120, 2))}
    theta, X_new = net.init_params(rng), 2 * rng.normal(size=(6, 12))
    single = InverseBuilder(reg, **words, structure="primal", dtype="float32")
    return SimpleNamespace(
        words={"reg": reg, "theta": theta, "dtype": "float32"} | words,
        tangents=single.tangents(theta, X_new),
        exact=single.build(theta).label_covariance(single.tangents(theta, X_new)),
    )


@pytest.mark.parametrize("n_stars", [1, 6])
@pytest.mark.parametrize("tiles", [True, False], ids=["tiles", "stream"])
def test_intervals_in_float32_hold_what_float64_makes_of_the_same_tangents(
    problem_in_single, tiles, n_stars, tmp_path, monkeypatch
):
    monkeypatch.setattr(krylov, "fits_densely", lambda *_: False)  # which would do without products
    p = problem_in_single
    inverse = build(tmp_path if tiles else None, **p.words, options={"subset": 10})
    tangents = p.tangents[:n_stars]
    p.exact = p.exact[:n_stars]
    bounds = [*inverse.iterate_bounds(tangents)][-1], inverse.label_covariance_bounds(tangents)
    inside = []
    for low, high in bounds:
        slack = 1e-9 * np.abs(p.exact).max()  # of float64
        above = np.linalg.eigvalsh(high - p.exact)[:, 0] > -slack
        inside.append(above & (np.linalg.eigvalsh(p.exact - low)[:, 0] > -slack))
    assert not inside[0].all()  # products in float32 are wrong by more than 1e-8
    assert inside[1].all()
    low, high = (np.sqrt(np.diagonal(V, axis1=1, axis2=2)) for V in bounds[1])
    assert (high / low < 1.01).all()


def test_tiles_in_float32_take_half_the_disk_and_round_once(problem_in_single, tmp_path):
    p = problem_in_single
    single, double = (
        build(tmp_path / dtype, **p.words | {"dtype": dtype}, options={"subset": 10})._products
        for dtype in ("float32", "float64")
    )
    ratio = [r._count_bytes(r._tiles) for r in (single, double)]
    assert ratio[1] == 2 * ratio[0]
    U = np.random.default_rng(1).normal(size=(single.n_rows, 3))
    found, expected = single.multiply(U), double.multiply(U)
    assert_allclose(found, expected, atol=3e-6 * np.linalg.norm(expected))
    assert 1e-8 < single._epsilon < 2e-7  # rounding to float32 is 3e-8 in the root mean square


def test_a_kernel_in_float32_is_that_in_float64_but_for_rounding(whole):
    single = InverseBuilder(REG, X, Y, structure="dual", dtype="float32").tangents(THETA)
    variance = whole.tiled.subset.variance
    for other in (single, single[:4]):
        found = single.gram(other, variance, np.float32)
        assert found.dtype == np.float32
        assert_allclose(found, single.gram(other, variance), atol=1e-5)


# --- going on


class Stop(Exception):
    """What ends a run in the middle."""


@pytest.mark.parametrize("n_tiles", [0, 1, 5, 13])
def test_a_run_goes_on_where_it_was_ended_and_ends_with_the_same_bytes(whole, tmp_path, n_tiles):
    told = []

    def follow(stage, done, total, **news):
        told.append((done, total))
        if len(told) > n_tiles:  # the first call is made before the first tile
            raise Stop

    with pytest.raises(Stop):
        build(tmp_path, checkpoint=Checkpoint(progress=follow))
    kept = read_all(tmp_path)
    assert sum(name.startswith("tile") for name in kept) == n_tiles
    build(tmp_path)
    assert read_all(tmp_path).items() >= kept.items()
    assert read_all(tmp_path) == read_all(whole.folder)


@pytest.mark.parametrize("name", ["tile_00002_00001", "tile_subset_00003", "stars_00001", "layout"])
def test_what_is_damaged_is_computed_again(whole, folder, name):
    (path,) = folder.glob(f"{name}.*")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(RuntimeWarning, match=f"{path} should hold"):
        tiled = build(folder)
    assert read_all(folder) == read_all(whole.folder)
    for found, expected in zip(
        tiled.label_covariance_bounds(whole.tangents),
        whole.tiled.label_covariance_bounds(whole.tangents),
        strict=True,
    ):
        assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "changed",
    [
        {"theta": THETA * (1 + 1e-12)},
        {"X": X[::-1]},
        {"reg": ss.Regression(NET, sigma_noise=[0.6, 0.9], prior_precision=1.3)},
        {"dtype": "float32"},
        {"options": {"subset": SUBSET + 1}},
        {"structure": "dual", "options": {"stars_a_tile": TILE}},
    ],
    ids=["theta", "stars", "noise", "dtype", "subset", "structure"],
)
def test_tiles_of_another_kernel_are_refused_and_kept(folder, changed):
    kept = read_all(folder)
    options = {"scratch": folder} | changed.pop("options", {})
    words = {"reg": REG, "X": X, "Y": Y, "structure": "krylov"} | changed
    theta = words.pop("theta", THETA)
    if words["structure"] == "krylov":
        options = OPTIONS | options
    with pytest.raises(ss.DataError, match="should hold tiles of this kernel, got those of anoth"):
        InverseBuilder(**words, options=options).build(theta)
    assert read_all(folder) == kept


def test_another_tolerance_or_limit_uses_the_same_tiles(whole, folder, monkeypatch):
    monkeypatch.setattr(
        tile_folder.TileFolder, "write_matrix", lambda *_: pytest.fail("computed again")
    )
    tiled = build(folder, memory="2GB", options={"tolerance": 0.1, "max_hours": 3})
    high = tiled.label_covariance_bounds(whole.tangents)[1]
    assert_allclose(high, whole.tiled.label_covariance_bounds(whole.tangents)[1], rtol=0.25)


def test_a_saved_posterior_finds_its_tiles_or_does_without(tmp_path, monkeypatch):
    words = {"structure": "krylov", "require_minimum": False, "progress": False}
    options = OPTIONS | {"scratch": tmp_path / "tiles"}
    laplace = ss.fit_laplace(REG, THETA, X, Y, options=options, **words)
    ss.write_laplace(tmp_path / "laplace.h5", laplace)
    again = ss.read_laplace(tmp_path / "laplace.h5")
    assert type(again.inverse_hessian._products) is type(laplace.inverse_hessian._products)
    expected = laplace.label_covariance_bounds(X_NEW)
    assert_array_equal(again.label_covariance_bounds(X_NEW), expected)
    shutil.rmtree(tmp_path / "tiles")
    with pytest.warns(RuntimeWarning, match="should hold the tiles of this posterior, got no fol"):
        streamed = ss.read_laplace(tmp_path / "laplace.h5")
    assert_allclose(streamed.label_covariance_bounds(X_NEW), expected, rtol=1e-7)


# --- before anything is done


def test_options_that_do_not_go_together_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ss.OptionError, match="max_hours goes with tiles on disk"):
        build(options={"max_hours": 3.0})
    (tmp_path / "file").write_text("a")
    with pytest.raises(ss.OptionError, match=r"scratch should be a folder, got .*file, which is"):
        build(tmp_path / "file")
    with pytest.raises(ss.OptionError, match="tuning inverts at many weights"):
        ss.tune(
            REG, THETA, X, Y, structure="krylov", options=OPTIONS | {"scratch": tmp_path / "new"}
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_would_take_too_long_or_too_much_is_refused_with_the_estimate(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "UNMEASURED", 0.0)
    monkeypatch.setattr(costs, "measure_rate", lambda: 2.0)
    with pytest.raises(ss.TooLargeError, match=r"hours more .* and max_hours=0\.5 was given"):
        build(tmp_path, options={"max_hours": 0.5})
    monkeypatch.setattr(costs.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(ss.TooLargeError, match=r"0\.00 GiB are free .* or leave scratch out"):
        build(tmp_path, options={"max_hours": 1e6})
    assert not list(tmp_path.glob("tile*"))


def test_more_stars_share_what_is_read(whole):
    assert whole.tiled.stars_a_piece > whole.streamed.stars_a_piece
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(whole.tiled.label_covariance(whole.tangents)) == len(X_NEW)
