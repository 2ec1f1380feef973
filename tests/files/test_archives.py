"""Archives come back as they were written, bit by bit; damaged and foreign files are refused."""

import os
import pickle
from functools import cache

import h5py
import numpy as np
import pytest
from conftest import build_problem

from symspec import fit_laplace, mlp
from symspec.derivatives.compiled import compile_predict
from symspec.errors import DataError, FileFormatError, FileKeptError, OptionError, ShapeError
from symspec.files import archives
from symspec.files.archives import (
    read_laplace,
    read_network,
    read_regression,
    write_laplace,
    write_network,
)
from symspec.files.stored.layers import LAYERS
from symspec.laplace.prediction import Prediction
from symspec.networks.layers import Dense, Layer
from symspec.networks.network import Network
from symspec.networks.regression import Regression

PER_BLOCK = "tanh-1-hidden-2-labels-own-units-missing"
FULL, OWN_UNITS = (
    "tanh-2-hidden-3-labels-full-noise-missing",
    "softplus-3-hidden-2-labels-full-noise-own-units",
)
WITHOUT_BIAS, OPTIONS = "tanh-and-softplus-without-bias-with-dropout", "clip-1-hidden-2-labels"
CASES = [
    FULL,
    OWN_UNITS,
    WITHOUT_BIAS,
    OPTIONS,
    "sigmoid-2-hidden-2-labels",
    "silu-1-hidden-1-label-own-units",
]


def describe(net):
    """All that makes up a network, as plain values."""
    layers = [
        (
            type(layer),
            {
                k: np.asarray(v).tolist() if k in ("mean", "scale") else v
                for k, v in vars(layer).items()
            },
        )
        for layer in net.layers
    ]
    return (
        layers,
        net.n_pixels,
        net.label_names,
        net.label_units,
        [(b.name, b.shape) for b in net.layout.blocks],
    )


def named(net):
    """The same network with names and units for its labels."""
    names = ["TEFF", "[Fe/H]", ""][: net.n_labels]
    return Network(
        net.layers,
        net.n_pixels,
        label_names=names,
        label_units=["K", "log(cgs)", ""][: net.n_labels],
    )


def same_bits(a, b):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


@pytest.fixture(params=CASES)
def problem(request):
    return build_problem(request.param)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.h5"


# --- networks


def test_a_network_comes_back_as_it_was(problem, path):
    net = named(problem.net)
    write_network(path, net, problem.theta)
    read, theta = read_network(path)
    assert describe(read) == describe(net)
    same_bits(theta, problem.theta)
    predictions = [
        compile_predict(n, backend="numpy")(problem.theta, problem.X) for n in (net, read)
    ]
    np.testing.assert_array_equal(*predictions)


def test_a_regression_comes_back_as_it_was(problem, path):
    write_network(path, problem.net, problem.theta, reg=problem.reg)
    reg, theta = read_regression(path)
    assert reg.has_full_noise == problem.reg.has_full_noise
    same_bits(reg.noise_covariance, problem.reg.noise_covariance)
    same_bits(reg.sigma_noise, problem.reg.sigma_noise)
    assert list(reg.prior_precision) == list(problem.reg.prior_precision)
    for name, precision in problem.reg.prior_precision.items():
        assert np.shape(reg.prior_precision[name]) == np.shape(precision)
        np.testing.assert_array_equal(reg.prior_precision[name], precision)
    same_bits(theta, problem.theta)


def test_the_order_of_many_layers_is_kept(path):
    """Names sorted as words would put layer 10 before layer 2."""
    net = Network([Dense(i + 1) for i in range(12)], 3)
    theta = np.random.default_rng(1).normal(size=net.n_params)
    write_network(path, net, theta)
    read, back = read_network(path)
    assert [layer.units for layer in read.layers] == list(range(1, 13))
    same_bits(back, theta)


def test_blocks_are_plain_datasets_to_other_readers(path):
    net = mlp([4, 3, 2], label_names=["TEFF", "LOGG"], label_units=["K", "dex"])
    theta = np.arange(net.n_params, dtype=float)
    write_network(path, net, theta)
    with h5py.File(path) as file:
        assert (file.attrs["format"], file.attrs["format_version"]) == (b"symspec network", 2)
        np.testing.assert_array_equal(file["params/dense_0/kernel"], theta[:12].reshape(4, 3))
        np.testing.assert_array_equal(file["params/dense_1/bias"], theta[-2:])
        assert file["label_names"].asstr()[:].tolist() == ["TEFF", "LOGG"]
        assert len(file["params/dense_0/kernel"].attrs["digest"]) == 32
        assert dict(file["layers/1"].attrs) == {"kind": b"activation", "function": b"relu"}


def test_theta_that_does_not_fit_is_refused_before_anything_is_written(path):
    net = mlp([4, 3, 2])
    with pytest.raises(ShapeError, match="theta should be"):
        write_network(path, net, np.zeros(3))
    with pytest.raises(DataError, match="theta should be finite"):
        write_network(path, net, np.full(net.n_params, np.nan))
    assert not path.exists()


def test_a_layer_that_no_reader_knows_is_refused(path):
    class Doubled(Dense):
        pass

    class Dropout(Dense):  # takes the name of one of ours
        pass

    for layer in (Doubled(2), Dropout(2)):
        net = Network([layer], 3)
        with pytest.raises(
            OptionError, match=f"layers should be of Dense, .*got {type(layer).__name__}"
        ):
            write_network(path, net, np.zeros(net.n_params))


def test_a_regression_of_another_network_is_refused(path):
    net, other = mlp([4, 2]), mlp([4, 2])
    reg = Regression(other, sigma_noise=1.0, prior_precision=1.0)
    with pytest.raises(OptionError, match=r"give net=reg\.net"):
        write_network(path, net, np.zeros(net.n_params), reg=reg)


def test_a_network_alone_has_no_regression(path):
    net = mlp([4, 2])
    write_network(path, net, np.zeros(net.n_params))
    with pytest.raises(FileFormatError, match=r"'regression' should be in the file.*reg=reg"):
        read_regression(path)
    with pytest.raises(FileFormatError, match="or 'symspec mixture', got one of 'symspec network'"):
        read_laplace(path)


# --- Laplace posteriors


@cache
def fit(name, structure, **options):
    p = build_problem(name)
    return p, fit_laplace(
        p.reg,
        p.theta,
        p.X,
        p.Y,
        structure=structure,
        require_minimum=False,
        backend="numpy",
        **options,
    )


OTHERS = {
    **{structure: {} for structure in ("kronecker", "ekfac", "diagonal", "last_layer")},
    "low_rank": {"rank": 4},
    "krylov": {"subset": 3, "max_iterations": 9},
    "dual": {"subset": 3},
}


@pytest.mark.parametrize(
    ("name", "structure", "options"),
    [
        *((name, structure, None) for name in CASES for structure in ("primal", "dual")),
        *((PER_BLOCK, structure, options) for structure, options in OTHERS.items()),
    ],
)
def test_a_laplace_posterior_predicts_the_same_bits(name, structure, options, path):
    p, written = (
        fit(name, structure)
        if options is None
        else fit.__wrapped__(name, structure, options=options)
    )
    write_laplace(path, written)
    read = read_laplace(path)
    X, ivar = p.X + 0.1, np.random.default_rng(2).uniform(50, 100, p.X.shape)
    ivar[1, 2] = 0
    for options in ({}, {"ivar": ivar}):
        predictions = [laplace.predict(X, **options) for laplace in (written, read)]
        for field in Prediction.__dataclass_fields__:
            np.testing.assert_array_equal(
                *(getattr(prediction, field) for prediction in predictions)
            )
    draws = [laplace.sample(3, rng=np.random.default_rng(3)) for laplace in (written, read)]
    np.testing.assert_array_equal(*draws)
    assert read.inverse_hessian.logdet() == written.inverse_hessian.logdet()
    assert read.inverse_hessian.accuracy == written.inverse_hessian.accuracy
    if written.inverse_hessian.accuracy != "upper bound" or structure == "low_rank":
        assert read.log_marginal_likelihood() == written.log_marginal_likelihood()
    np.testing.assert_array_equal(
        read.inverse_hessian.diagonal(), written.inverse_hessian.diagonal()
    )


@pytest.mark.parametrize("structure", ["primal", "dual"])
def test_all_fields_of_a_laplace_posterior_come_back(structure, path):
    _, written = fit(FULL, structure, dtype="float32")
    write_laplace(path, written)
    read = read_laplace(path)
    for name in ("negative_log_posterior", "curvature", "structure", "reason", "backend", "dtype"):
        assert getattr(read, name) == getattr(written, name), name
    for name in ("theta", "flux_mean", "label_range"):
        same_bits(getattr(read, name), getattr(written, name))
    for name, value in vars(written.certificate).items():
        np.testing.assert_array_equal(getattr(read.certificate, name), value)
        assert type(getattr(read.certificate, name)) is type(value), name
    arrays = read.inverse_hessian.arrays()
    assert list(arrays) == list(written.inverse_hessian.arrays())
    for name, array in written.inverse_hessian.arrays().items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].flags.f_contiguous == array.flags.f_contiguous, name
        np.testing.assert_array_equal(arrays[name], array)


def test_an_exact_hessian_comes_back(path):
    p, start = fit("sigmoid-2-hidden-2-labels", "primal")
    theta = start.theta * 0.01
    reg = Regression(
        p.net, sigma_noise=50.0, prior_precision=1.0
    )  # the prior makes it positive definite
    options = {"curvature": "hessian", "require_minimum": False, "backend": "numpy"}
    written = fit_laplace(reg, theta, p.X, p.Y, **options)
    write_laplace(path, written)
    read = read_laplace(path)
    assert read.curvature == "hessian"
    np.testing.assert_array_equal(read.label_covariance(p.X), written.label_covariance(p.X))


def test_network_and_regression_are_read_from_a_laplace_archive(path):
    p, written = fit(WITHOUT_BIAS, "dual")
    write_laplace(path, written)
    net, theta = read_network(path)
    assert describe(net) == describe(p.net)
    same_bits(theta, p.theta)
    reg, _ = read_regression(path)
    same_bits(reg.prior_precision_vector(), p.reg.prior_precision_vector())


def test_large_factors_are_written_without_a_copy(monkeypatch, path):
    """The factors are LAPACK's, Fortran-ordered; HDF5 is handed a view of them."""
    _, laplace = fit(OPTIONS, "primal")
    cholesky = laplace.inverse_hessian.cholesky
    assert cholesky.flags.f_contiguous
    handed, create = {}, h5py.Group.create_dataset

    def spy(group, name, **options):
        handed[name] = options["data"]
        return create(group, name, **options)

    monkeypatch.setattr(h5py.Group, "create_dataset", spy)
    write_laplace(path, laplace)
    view = handed["inverse_hessian/cholesky"]
    assert np.shares_memory(view, cholesky)
    assert view.flags.c_contiguous


# --- nothing is lost


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_existing_file_survives_errors_and_refusals(path, overwrite, monkeypatch):
    net, reg = build_problem(OPTIONS).net, build_problem(OPTIONS).reg
    path.write_bytes(b"an input")
    if overwrite:
        monkeypatch.setattr(archives.networks, "write_regression", lambda file, reg: 1 / 0)
    with pytest.raises(ZeroDivisionError if overwrite else FileKeptError):
        write_network(path, net, np.zeros(net.n_params), reg=reg, overwrite=overwrite)
    assert path.read_bytes() == b"an input"
    assert os.listdir(path.parent) == [path.name]


def test_overwriting_replaces_the_file(path):
    _, laplace = fit(OPTIONS, "primal")
    for _ in range(2):
        write_laplace(path, laplace, overwrite=True)
    assert read_laplace(path).structure == "primal"
    with pytest.raises(FileKeptError, match="overwrite=True"):
        write_laplace(path, laplace)


# --- files that are not what they should be


@pytest.fixture(params=["primal", "dual"])
def archive(request, path):
    write_laplace(path, fit(FULL, request.param)[1])
    return path


def test_a_truncated_archive_is_only_refused(archive):
    content = archive.read_bytes()
    for size in sorted(
        {*range(0, 200, 7), *range(200, len(content), len(content) // 60), len(content) - 1}
    ):
        archive.write_bytes(content[:size])
        with pytest.raises(FileFormatError):
            read_laplace(archive)


def test_flipped_bits_are_refused_or_harmless(archive):
    """Checksums cover arrays, numbers and words; what else may change is padding."""
    content, rng = archive.read_bytes(), np.random.default_rng(4)
    whole, n_refused = read_laplace(archive), 0
    for place in rng.integers(0, len(content), 150):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        archive.write_bytes(damaged)
        try:
            read = read_laplace(archive)
        except FileFormatError:
            n_refused += 1
        else:
            same_bits(read.theta, whole.theta)
            assert describe(read.reg.net) == describe(whole.reg.net)
            same_bits(read.reg.prior_precision_vector(), whole.reg.prior_precision_vector())
            for name, array in whole.inverse_hessian.arrays().items():
                np.testing.assert_array_equal(read.inverse_hessian.arrays()[name], array)
            assert str(read.certificate) == str(whole.certificate)
    assert n_refused > 100


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (pickle.dumps({"theta": 1}), "pickle, which is never opened"),
        (b"SIMPLE  =                    T", "got a file that starts with b'SIMPLE  ': give a file"),
        (b"1,2\n", "an HDF5 file of 'symspec network' or 'symspec laplace', got a file that"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 500, "truncated or damaged"),
    ],
    ids=["empty", "pickle", "fits", "csv", "hdf5"],
)
def test_foreign_files_are_refused(path, content, words):
    path.write_bytes(content)
    for read in (read_network, read_regression):
        with pytest.raises(FileFormatError, match=words):
            read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing there"):
        read_network(tmp_path / "no.h5")


def test_a_foreign_hdf5_file_is_refused(path):
    with h5py.File(path, "w") as file:
        file["model_weights/dense/kernel:0"] = np.zeros((2, 2))
    with pytest.raises(
        FileFormatError, match="got a foreign one, without symspec's attribute 'format'"
    ):
        read_network(path)


def replace(group, name, value):
    del group[name]
    group[name] = value


def link_folder(file):
    del file["params/dense_0"]
    file["params/dense_0"] = h5py.ExternalLink("/etc/other.h5", "/params/dense_0")


def link_dataset(file):
    del file["params/dense_0/kernel"]
    file["params/dense_0/kernel"] = h5py.SoftLink("/params/dense_1/kernel")


def store_elsewhere(file):
    del file["params/dense_0/kernel"]
    file["params/dense_0"].create_dataset(
        "kernel", shape=(5, 4), dtype="f8", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
    )


def plant_pickle(file):
    del file["params/dense_0/bias"]
    file["params/dense_0/bias"] = np.void(pickle.dumps(os.system))


def claim_terabytes(file):
    file["layers/0"].attrs["units"] = 2**40


def widen_everything(file):
    file.attrs["n_pixels"] = 2**40


def add_layer(file):
    file.attrs["n_layers"] = 2**40


def shorten_labels(file):
    replace(file, "label_names", np.array([b"a"]))


DAMAGES = {
    "newer version": (
        lambda f: f.attrs.create("format_version", 3),
        "should be of format version 2, got 3",
    ),
    "unknown layer": (
        lambda f: f["layers/0"].attrs.create("kind", np.bytes_("conv2d")),
        "one of dense, .*got 'conv2d'.*newer",
    ),
    "kind no word": (
        lambda f: f["layers/0"].attrs.create("kind", 3),
        "'layers/0@kind' should be one str, got int64",
    ),
    "wrong shape": (
        lambda f: replace(f, "params/dense_0/kernel", np.zeros((4, 5))),
        r"'params/dense_0/kernel' should be an array of shape \(5, 4\), got \(4, 5\)",
    ),
    "wrong type": (
        lambda f: replace(f, "params/dense_0/bias", np.zeros(4, int)),
        "float64, got int64",
    ),
    "not finite": (
        lambda f: replace(f, "params/dense_0/bias", np.full(4, np.nan)),
        "params/dense_0/bias should be finite",
    ),
    "missing block": (
        lambda f: f.pop("params/dense_0/bias"),
        "'params/dense_0/bias' should be in the file",
    ),
    "missing attribute": (
        lambda f: f["layers/0"].attrs.pop("units"),
        "'layers/0@units' should be an attribute",
    ),
    "no units": (
        lambda f: f["layers/0"].attrs.create("units", 0),
        "units should be a positive integer",
    ),
    "unknown function": (
        lambda f: f["layers/1"].attrs.create("function", np.bytes_("system")),
        "activation should be one of",
    ),
    "an array for a number": (
        lambda f: f["layers/0"].attrs.create("units", np.zeros(9)),
        "should be one int",
    ),
    "fewer labels": (shorten_labels, "label_names should be 3 words"),
    "huge layer": (claim_terabytes, "damaged|should be an array of shape"),
    "huge input": (widen_everything, r"should be an array of shape \(1099511627776, 4\)"),
    "many layers": (add_layer, "should be in the file, got nothing"),
    "word of any length": (
        lambda f: f["layers/0"].attrs.create("kind", "dense"),
        "'layers/0@kind' should be numbers or a string of fixed length, got object",
    ),
    "words of any length": (
        lambda f: replace(f, "label_names", ["a", "b", "c"]),
        "strings of fixed length",
    ),
    "axes": (
        lambda f: f["params/dense_0/kernel"].attrs.create("axes", [0, 0]),
        "an order of the axes",
    ),
    "folder elsewhere": (link_folder, r"a link to /etc/other\.h5"),
    "dataset elsewhere": (link_dataset, "a link to /params/dense_1/kernel"),
    "values elsewhere": (store_elsewhere, "values in other files"),
    "pickle": (plant_pickle, r"'params/dense_0/bias' should be an array of shape \(4,\)"),
}


def damage_file(path, change):
    """As of the version without digests, which would give the damage away before its place."""
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 1
        change(file)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_network_is_refused_with_the_place(path, damage):
    p = build_problem(FULL)
    write_network(path, p.net, p.theta)
    change, words = DAMAGES[damage]
    damage_file(path, change)
    with pytest.raises(FileFormatError, match=words):
        read_network(path)


def rename(file):
    """Two layers of one shape would take each other's weights."""
    file.move("params/dense_0", "params/dense")


def change_inside(file):
    file["params/dense_0/kernel"][0, 0] += 1e-9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f["layers/0"].attrs.create("units", 5), "should be the digest of the file"),
        (lambda f: f.create_group("more"), "should be the digest of the file"),
        (lambda f: f["params/dense_0/kernel"].attrs.pop("digest"), "the digest of the file"),
        (rename, "should be the digest of the file"),
        (change_inside, "'params/dense_0/kernel' should be values of the digest"),
        (
            lambda f: replace(f, "regression/prior_precision/dense_0/bias", 100.0),
            "should be the digest of the file",
        ),
        (
            lambda f: f["regression/prior_precision/dense_0/bias"].write_direct(np.full(4, 100.0)),
            "'regression/prior_precision/dense_0/bias' should be values of the digest",
        ),
        (lambda f: f.attrs.pop("digest"), "'/@digest' should be an attribute"),
    ],
)
def test_nothing_can_be_changed_unseen(path, change, words):
    p = build_problem(FULL)
    write_network(path, p.net, p.theta, reg=p.reg)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(FileFormatError, match=words):
        read_regression(path)


POSTERIOR_DAMAGES = {
    "structure": (
        lambda f: f["laplace"].attrs.create("structure", np.bytes_("kfac")),
        "structure should be one of 'primal', 'dual', 'krylov', 'kronecker'",
    ),
    "dtype": (
        lambda f: f["laplace"].attrs.create("dtype", np.bytes_("float16")),
        "dtype should be one of",
    ),
    "diagonal": (
        lambda f: replace(
            f, "laplace/inverse_hessian/cholesky", -np.array(f["laplace/inverse_hessian/cholesky"])
        ),
        "one whose diagonal is not positive",
    ),
    "prior": (
        lambda f: replace(f, "regression/prior_precision/dense_0/bias", -1.0),
        "should be positive",
    ),
    "noise": (
        lambda f: replace(f, "regression/noise_covariance", -np.eye(3)),
        "should be positive definite",
    ),
    "certificate": (
        lambda f: f.pop("laplace/certificate"),
        "'laplace/certificate' should be in the file",
    ),
    "verdict": (
        lambda f: f["laplace/certificate"].attrs.create("newton_decrement", True),
        "should be one float",
    ),
    "gradient": (
        lambda f: replace(f, "laplace/gradient", np.full(len(f["laplace/gradient"]), np.nan)),
        "should be finite",
    ),
    "range": (
        lambda f: replace(f, "laplace/label_range", np.zeros((3, 2))),
        r"shape \(2, 3\), got \(3, 2\)",
    ),
}


@pytest.mark.parametrize("damage", POSTERIOR_DAMAGES)
def test_a_damaged_posterior_is_refused_with_the_place(archive, damage):
    change, words = POSTERIOR_DAMAGES[damage]
    damage_file(archive, change)
    with pytest.raises(FileFormatError, match=words):
        read_laplace(archive)


def test_every_kind_of_layer_is_in_the_registry():
    """A layer added to the package is added to the archives, too."""

    def concrete(cls):
        own = (
            set()
            if cls.__name__.startswith("_") or not cls.__module__.startswith("symspec.")
            else {cls}
        )
        return own.union(*(concrete(below) for below in cls.__subclasses__()))

    assert {constructor for constructor, _ in LAYERS.values()} == concrete(Layer) - {Layer}
    assert all(constructor.__name__.lower() == kind for kind, (constructor, _) in LAYERS.items())
