"""The dual in tiles on disk: the numbers of the dense one, and never a tile that is not its own."""

import os
import pickle
import shutil
import warnings
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import symspec as ss
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.dual import DualInverse
from symspec.inverse_hessian.numerics import costs, tile_folder
from symspec.inverse_hessian.numerics.costs import StarCosts, TileCosts
from symspec.inverse_hessian.numerics.layout import Layout
from symspec.inverse_hessian.tiled import TiledDualInverse
from symspec.networks.noise import PredictedNoise
from symspec.safety.checkpoint import Checkpoint

# both sum the same products in other orders: rounding, times condition numbers of up to 1e4
AGREED = 1e-10
N_STARS, N_PIXELS, N_LABELS, TILE = 23, 6, 2, 5  # five blocks, fifteen tiles

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N_STARS, N_PIXELS)), RNG.normal(size=(N_STARS, N_LABELS))
Y[3, 0] = Y[11, 1] = Y[7] = np.nan
X_NEW = RNG.normal(size=(4, N_PIXELS))
NET = ss.mlp([N_PIXELS, 4, N_LABELS], activation="tanh")
THETA = RNG.normal(size=NET.n_params)
REG = ss.Regression(NET, sigma_noise=[0.6, 0.8], prior_precision=1.3)


def build(folder, *, theta=THETA, checkpoint=None, options=None, **changed):
    words = {"reg": REG, "X": X, "Y": Y, "structure": "dual"} | changed
    options = {"scratch": folder, "stars_a_tile": TILE} | (options or {})
    return InverseBuilder(**words, options=options, checkpoint=checkpoint).build(theta)


def read_all(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished folder, its inverse, and tangents of new stars."""
    folder = tmp_path_factory.mktemp("whole")
    builder = InverseBuilder(REG, X, Y, structure="dual")
    return SimpleNamespace(
        folder=folder,
        tiled=build(folder),
        dense=builder.build(THETA),
        tangents=builder.tangents(THETA, X_NEW),
        builder=builder,
    )


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


@pytest.mark.parametrize("size", [1, 3, 50])
@pytest.mark.parametrize("problem", CASES, indirect=True)
def test_tiles_are_the_dense_dual_whatever_their_size(problem, size, tmp_path):
    builder = InverseBuilder(problem.reg, problem.X, problem.Y, structure="dual")
    dense = builder.build(problem.theta)
    options = {"stars_a_tile": size}
    words = {"reg": problem.reg, "X": problem.X, "Y": problem.Y}
    tiled = build(tmp_path, theta=problem.theta, options=options, **words)
    assert type(dense) is DualInverse
    assert type(tiled) is TiledDualInverse
    tangents = builder.tangents(problem.theta)
    for found, expected in zip(
        tiled.label_covariance_bounds(tangents),
        dense.label_covariance_bounds(tangents),
        strict=True,
    ):
        assert_allclose(found, expected, rtol=1e-8, atol=AGREED * np.abs(expected).max())
    assert_allclose(tiled.logdet(), dense.logdet(), rtol=AGREED)
    v = problem.v[:, None] * [1.0, -2.0]
    assert_allclose(tiled @ v, dense @ v, atol=AGREED * np.abs(dense @ v).max())
    found = tiled.cross_covariance()(tangents, tangents[:3])
    expected = dense.cross_covariance()(tangents, tangents[:3])
    assert_allclose(found, expected, atol=AGREED * np.abs(expected).max())
    assert tiled.remark == dense.remark


def test_tiles_hold_the_inverse_that_numpy_has(whole):
    J = whole.builder.tangents(THETA).dense()
    A = 1.3 * np.eye(NET.n_params)
    for row, y in zip(J, Y, strict=True):
        seen = ~np.isnan(y)
        A += (row[seen] / np.array([[0.6], [0.8]])[seen] ** 2).T @ row[seen]
    assert_allclose(whole.tiled.to_dense(), np.linalg.inv(A), atol=AGREED)


def test_noise_that_differs_from_star_to_star_goes_with_its_star(tmp_path):
    net = ss.mlp([N_PIXELS, 4, 2 * N_LABELS], activation="tanh")
    reg = ss.Regression(net, noise=PredictedNoise(), prior_precision=1.3)
    words = {"reg": reg, "theta": RNG.normal(size=net.n_params)}
    dense, tiled = (
        ss.fit_laplace(
            **words,
            X=X,
            Y=Y,
            label_errors=np.linspace(0.1, 0.9, Y.size).reshape(Y.shape),
            structure="dual",
            options=options,
            require_minimum=False,
            progress=False,
        )
        for options in ({}, {"scratch": tmp_path / "new", "stars_a_tile": TILE})
    )
    assert_allclose(tiled.label_covariance(X_NEW), dense.label_covariance(X_NEW), rtol=AGREED)
    found, expected = (
        laplace.predict(X_NEW, progress=False).total_cov for laplace in (tiled, dense)
    )
    assert_allclose(found, expected, rtol=1e-8)
    found, expected = (laplace.log_marginal_likelihood() for laplace in (tiled, dense))
    assert_allclose(found, expected, rtol=AGREED)


@pytest.fixture(scope="module")
def posteriors(tmp_path_factory):
    """Laplace posteriors with the dense dual and with tiles."""
    words = {"structure": "dual", "require_minimum": False, "progress": False}
    options = {"scratch": tmp_path_factory.mktemp("fit"), "stars_a_tile": TILE}
    return [ss.fit_laplace(REG, THETA, X, Y, options=o, **words) for o in ({}, options)]


@pytest.mark.parametrize(
    "ask",
    [
        lambda laplace: laplace.leave_one_out().total_cov,
        lambda laplace: laplace.leave_one_out(groups=np.arange(N_STARS) % 9).labels,
        lambda laplace: laplace.influence(X_NEW),
        lambda laplace: laplace.joint_covariance(X_NEW),
        lambda laplace: laplace.newton_step,
        lambda laplace: laplace.predict(X_NEW, center="linearized", progress=False).labels,
    ],
    ids=["left-out", "groups-left-out", "influence", "joint", "newton-step", "linearized"],
)
def test_what_a_posterior_is_asked_for_comes_from_tiles_as_well(posteriors, ask):
    dense, tiled = (ask(laplace) for laplace in posteriors)
    assert_allclose(tiled, dense, atol=1e-9 * np.nanmax(np.abs(dense)))


def test_the_last_layer_given_the_others_comes_from_tiles_as_well(whole):
    found, expected = (
        inverse.of_last_layer(REG).to_dense() for inverse in (whole.tiled, whole.dense)
    )
    assert_allclose(found, expected, atol=AGREED)


def test_whole_numbers_may_be_floats(whole, folder):
    kept = read_all(folder)
    tiled = build(folder, options={"stars_a_tile": float(TILE), "subset": 1e1})
    assert tiled.n_rows == np.isfinite(Y[tiled.stars.layout.stars]).sum()
    assert read_all(folder) == kept
    options = {"subset": 1e1}
    dense = InverseBuilder(REG, X, Y, structure="dual", options=options).build(THETA)
    expected = dense.label_covariance(whole.tangents)
    assert_allclose(tiled.label_covariance(whole.tangents), expected, rtol=AGREED)


def test_a_folder_is_found_again_from_elsewhere(whole, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder.parent)
    tiled = build(folder.name)
    monkeypatch.chdir("/")
    expected = whole.tiled.label_covariance(whole.tangents)
    assert_array_equal(tiled.label_covariance(whole.tangents), expected)


def test_draws_have_the_covariance_of_tiles(whole):
    draws = whole.tiled.draw(4000, np.random.default_rng(1))
    A_inverse = whole.tiled.to_dense()
    # Wishart standard errors of the entries of a covariance of 4,000 draws, five of them
    variances = np.diag(A_inverse)
    error = np.sqrt((np.outer(variances, variances) + A_inverse**2) / 4000)
    assert (np.abs(draws.T @ draws / 4000 - A_inverse) < 5 * error).all()


def test_a_subset_is_the_dual_of_the_same_stars_in_whole_tiles(whole, folder):
    kept = read_all(folder)
    tiled = build(folder, options={"subset": 8})
    builder = InverseBuilder(REG, X, Y, structure="dual", options={"subset": 2 * TILE})
    dense = builder.build(THETA)
    expected = dense.label_covariance(whole.tangents)
    assert_allclose(tiled.label_covariance(whole.tangents), expected, rtol=AGREED)
    assert tiled.accuracy == dense.accuracy == "upper bound"
    assert (expected > 1.001 * whole.dense.label_covariance(whole.tangents))[:, 0, 0].all()
    assert not tiled.label_covariance_bounds(whole.tangents)[0].any()
    assert read_all(folder) == kept


# --- going on


class Stop(Exception):
    """What ends a run in the middle."""


def interrupt(folder, n_tiles):
    """A run that ends when so many tiles are there; what it told."""
    told = []

    def follow(stage, done, total, **news):
        told.append(news["usable_stars"])
        if len(told) > n_tiles:  # the first call is made before the first tile
            raise Stop

    with pytest.raises(Stop):
        build(folder, checkpoint=Checkpoint(progress=follow))
    return told


@pytest.mark.parametrize("n_tiles", [0, 1, 4, 8, 14])
def test_a_run_goes_on_where_it_was_ended_and_ends_with_the_same_bytes(whole, tmp_path, n_tiles):
    told = interrupt(tmp_path, n_tiles)
    kept = read_all(tmp_path)
    assert sum(name.startswith("tile") for name in kept) == n_tiles
    n_rows = [0, 1, 3, 6, 10, 15]  # tiles of the first rows
    assert told[-1] == TILE * max(i for i in range(6) if n_rows[i] <= n_tiles)
    build(tmp_path)
    assert read_all(tmp_path).items() >= kept.items()
    assert read_all(tmp_path) == read_all(whole.folder)


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_kept(whole, folder):
    old, new, other = (
        folder / name
        for name in (".0123456789ab.tile.npy", ".ba9876543210.tile.npy", ".profile.txt")
    )
    for path in (old, new, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (0, 0))
    build(folder)
    assert not old.exists()
    assert new.exists()
    assert other.exists()


def test_stars_that_are_done_give_upper_bounds_without_further_work(whole, tmp_path, monkeypatch):
    told = interrupt(tmp_path, 8)
    monkeypatch.setattr(
        tile_folder.TileFolder, "write_matrix", lambda *_: pytest.fail("computed again")
    )
    bounds = build(tmp_path, options={"subset": told[-1]}).label_covariance(whole.tangents)
    exact = whole.dense.label_covariance(whole.tangents)
    assert (np.linalg.eigvalsh(bounds - exact) > 0).all()


def cut(path, others):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path, others):
    path.write_bytes(b"")


def flip(path, others):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def exchange(path, others):
    """Another tile of the same size takes its place, seal and all."""
    shutil.copy(next(other for other in others if other != path), path)


def remove(path, others):
    path.unlink()


@pytest.mark.parametrize("damage", [cut, empty, flip, exchange, remove])
@pytest.mark.parametrize("name", ["tile_00002_00001", "tile_00003_00003", "stars_00001", "layout"])
def test_what_is_damaged_is_computed_again(whole, folder, name, damage):
    (path,) = folder.glob(f"{name}.*")
    damage(path, sorted(folder.glob(f"{name[:4]}*")) + sorted(folder.glob("stars*")))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tiled = build(folder)
    assert len(told) == (damage is not remove)
    assert all(f"{path} should hold" in str(warning.message) for warning in told)
    assert read_all(folder) == read_all(whole.folder)
    expected = whole.tiled.label_covariance(whole.tangents)
    assert_array_equal(tiled.label_covariance(whole.tangents), expected)


def test_a_folder_in_the_place_of_a_tile_is_refused(folder):
    (folder / "tile_00001_00000.npy").unlink()
    (folder / "tile_00001_00000.npy").mkdir()
    with pytest.raises(ss.DataError, match="should be a file, got a folder: move it away"):
        build(folder)


def test_a_tile_that_goes_while_it_is_needed_is_an_error(whole, folder):
    tiled = build(folder)
    (folder / "tile_00001_00000.npy").unlink()
    with pytest.raises(ss.DataError, match=r"tile_00001_00000\.npy should hold a part of the fact"):
        tiled.label_covariance(whole.tangents)
    (folder / "tile_00001_00000.npy").write_bytes(b"something else of no known format" * 9)
    with pytest.raises(ss.DataError, match=r"tile_00001_00000\.npy should hold a part of the fact"):
        tiled.label_covariance(whole.tangents)


OTHER_NOISE = ss.Regression(NET, sigma_noise=[0.6, 0.9], prior_precision=1.3)
OTHER_PRIOR = ss.Regression(NET, sigma_noise=[0.6, 0.8], prior_precision=1.4)
OTHER_NET = ss.mlp([N_PIXELS, 4, N_LABELS], activation="sigmoid")


@pytest.mark.parametrize(
    "changed",
    [
        {"theta": THETA * (1 + 1e-12)},
        {"X": X[::-1]},
        {"X": X.astype(np.float32)},
        {"Y": np.where(Y > 1.5, np.nan, Y)},
        {"reg": OTHER_NOISE},
        {"reg": OTHER_PRIOR},
        {"reg": ss.Regression(OTHER_NET, sigma_noise=[0.6, 0.8], prior_precision=1.3)},
        {"dtype": "float32"},
        {"options": {"stars_a_tile": TILE + 1}},
    ],
    ids=["theta", "stars", "X", "labels", "noise", "prior", "network", "dtype", "size"],
)
def test_tiles_of_another_kernel_are_refused_and_kept(folder, changed):
    kept = read_all(folder)
    with pytest.raises(ss.DataError, match="should hold tiles of this kernel, got those of anoth"):
        build(folder, **changed)
    assert read_all(folder) == kept


def test_tiles_of_another_kernel_are_not_believed_without_the_layout(whole, folder):
    (folder / "layout.npz").unlink()
    with pytest.warns(RuntimeWarning, match="a damaged file or that of another one"):
        tiled = build(folder, reg=OTHER_NOISE)
    expected = InverseBuilder(OTHER_NOISE, X, Y, structure="dual").build(THETA)
    found = tiled.label_covariance(whole.tangents)
    assert_allclose(found, expected.label_covariance(whole.tangents), rtol=AGREED)


def test_another_memory_or_limit_goes_on_in_the_same_folder(whole, folder):
    kept = read_all(folder)
    build(folder, memory="2GB", options={"max_hours": 3})
    assert read_all(folder) == kept


# --- before anything is done


def test_operations_are_those_of_the_factorisation_and_the_kernel():
    layout = Layout(np.arange(N_STARS), ~np.isnan(Y), TILE)
    found = TileCosts.of(layout, StarCosts(N_LABELS, 0.0, 10))
    n = layout.n_rows
    # a third of n^3, and half of each block's squares times rows, which dsyrk and dtrsm may save
    assert n**3 / 3 <= found.flops.sum() < 1.02 * n**3 / 3 + n**2 * N_LABELS
    assert found.n_bytes.sum() == 8 * sum(
        m * k for i, m in enumerate(layout.sizes) for k in layout.sizes[: i + 1]
    )
    pairs = TileCosts.of(layout, StarCosts(N_LABELS, 7.0, 10)).flops - found.flops
    assert_allclose(pairs.sum(), 7 * N_STARS**2 / 2)


def test_memory_decides_on_the_size_of_tiles_and_is_kept():
    stars = StarCosts(3, 1.0, 8 * 20_000)
    sizes = [stars.choose_block(20_000, 60_000, memory) for memory in (2**30, 2**31, 2**33)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == costs.MOST_ROWS // 3
    for size, memory in zip(sizes, (2**30, 2**31, 2**33), strict=True):
        stars.check_block(size, 60_000, memory)
    with pytest.raises(ss.TooLargeError, match="a kernel of 60,000 rows in tiles of 86 stars"):
        stars.check_block(stars.choose_block(20_000, 60_000, 2**24), 60_000, 2**24)


def test_what_would_take_too_long_is_refused_with_the_estimate(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "UNMEASURED", 0.0)
    monkeypatch.setattr(costs, "measure_rate", lambda: 2.0)
    with pytest.raises(ss.TooLargeError, match=r"about 7\.6 hours more .* and max_hours=0\.5 was"):
        build(tmp_path, options={"max_hours": 0.5})
    assert not list(tmp_path.glob("tile*"))
    build(tmp_path, options={"max_hours": 1e6})
    build(tmp_path, options={"max_hours": 0.5})  # nothing is left to do


def test_what_the_disk_would_not_hold_is_refused_with_the_estimate(tmp_path, monkeypatch):
    usage = SimpleNamespace(free=2**20)
    monkeypatch.setattr(costs.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ss.TooLargeError, match=r"0\.00 GiB of disk .*, and 0\.00 GiB are free"):
        build(tmp_path)
    assert not list(tmp_path.glob("tile*"))


def test_the_rate_of_products_is_measured_in_operations_a_second():
    assert 1e8 < costs.measure_rate() < 1e14


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_hours": 3}, "max_hours goes with tiles on disk"),
        ({"stars_a_tile": 3}, "stars_a_tile goes with tiles on disk"),
        ({"scratch": 3}, "scratch should be the name of a folder, got 3"),
        ({"scratch": ""}, "scratch should be the name of a folder, got ''"),
        ({"scratch": __file__}, "scratch should be a folder, got .*test_tiles.py"),
        ({"scratch": "tiles", "max_hours": 0}, "max_hours should be a positive number, got 0"),
    ],
    ids=["hours-alone", "size-alone", "number", "nothing", "file", "hours"],
)
def test_options_that_do_not_go_together_are_refused(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ss.OptionError, match=words):
        InverseBuilder(REG, X, Y, structure="dual", options=options).build(THETA)


def test_tuning_and_what_takes_the_whole_inverse_are_refused(whole, tmp_path):
    with pytest.raises(ss.OptionError, match="tuning inverts at many weights, noises and priors"):
        ss.tune(REG, THETA, X, Y, structure="dual", options={"scratch": tmp_path}, progress=False)
    with pytest.raises(ss.OptionError, match="variances of single weights take the whole kernel"):
        whole.tiled.diagonal()
    with pytest.raises(ss.OptionError, match="leading directions take the whole kernel"):
        whole.tiled.directions(REG)
    with pytest.raises(ss.OptionError, match=r"square roots of A\^-1 take"):
        whole.tiled.whitening(REG)


# --- there and back


def test_a_model_in_a_file_finds_its_tiles_again(posteriors, tmp_path):
    tiled = posteriors[1]
    scratch = tiled.inverse_hessian.factor.folder.path
    moved = scratch.with_name("elsewhere")
    ss.write_laplace(tmp_path / "model.h5", tiled)
    again = ss.read_laplace(tmp_path / "model.h5")
    copy = pickle.loads(pickle.dumps(tiled))
    for other in (again, copy):
        assert_array_equal(other.label_covariance(X_NEW), tiled.label_covariance(X_NEW))
        assert other.log_marginal_likelihood() == tiled.log_marginal_likelihood()
    scratch.rename(moved)
    try:
        with pytest.raises(ss.FileFormatError, match="a folder with all tiles"):
            ss.read_laplace(tmp_path / "model.h5")
    finally:
        moved.rename(scratch)
    kept = read_all(scratch)
    flip(scratch / "tile_00001_00001.npy", [])
    damaged = read_all(scratch)
    with (
        pytest.warns(RuntimeWarning, match="tile_00001_00001"),
        pytest.raises(ss.FileFormatError, match="a folder with all tiles"),
    ):
        ss.read_laplace(tmp_path / "model.h5")
    assert read_all(scratch) == damaged
    (scratch / "tile_00001_00001.npy").write_bytes(kept["tile_00001_00001.npy"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tiles/folder", np.full(5, np.nan)),
        ("tiles/folder", np.full(5, 300.0)),
        ("tiles/folder", np.zeros(5)),
        ("tiles/key", np.full(5, 65.0)),
        ("tiles/stars_a_block", np.array(TILE + 1.0)),
        ("tiles/stars_a_block", np.array(1e300)),
        ("tiles/stars_a_block", np.array(-1.0)),
        ("observed", np.ones((N_STARS - 1, N_LABELS), bool)),
    ],
    ids=["nan", "no-bytes", "zeros", "key", "size", "huge", "negative", "observed"],
)
@pytest.mark.filterwarnings("ignore:.*should hold a part of this kernel:RuntimeWarning")
def test_a_model_whose_words_on_its_tiles_are_damaged_is_refused(posteriors, tmp_path, name, value):
    path = tmp_path / "model.h5"
    ss.write_laplace(path, posteriors[1])
    with h5py.File(path, "r+") as file:
        place = f"laplace/inverse_hessian/{name}"
        del file[place]
        file[place] = value
    with pytest.raises(ss.FileFormatError, match=r"model\.h5"):
        ss.read_laplace(path)
