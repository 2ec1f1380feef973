"""A call that is resumed gives its own numbers, or is refused: whichever of its arguments changed.

Each table has an entry for every argument of its call, with values to change it to: a new argument
needs one as well.
"""

import inspect
import os
from contextlib import suppress
from dataclasses import fields, replace

import h5py
import numpy as np
import pytest

import symspec as ss
from symspec.errors import DataError, OptionError
from symspec.files.jacobians import write_jacobian
from symspec.files.partial_runs import PartialRun
from symspec.files.surveys import predict_survey
from symspec.safety.checkpoint import Checkpoint, find_fingerprint
from symspec.spectra.flux_prior import FluxPrior, fit_flux_prior
from symspec.spectra.readers.options import ReadOptions

N_STARS, N_PIXELS = 40, 6
GRID = np.linspace(4000.0, 4100.0, N_PIXELS)
SHIFTED = np.linspace(3990.0, 4110.0, 9)
RNG = np.random.default_rng(0)
X, X_NEW = RNG.normal(size=(2, N_STARS, N_PIXELS))
Y = RNG.normal(size=(N_STARS, 2))
IVAR = np.full(X.shape, 50.0)
BLOCKS = {  # structures that keep finished blocks, and options that make several of them
    "kronecker": {},
    "ekfac": {},
    "diagonal": {},
    "last_layer": {},
    "low_rank": {"rank": 5},
    "krylov": {"subset": 4, "tolerance": 1e-6},
}


def build_network(activation="tanh", *, mean=0.1, names=("a", "b"), wavelength=GRID, **options):
    layers = [
        ss.Standardize(np.full(N_PIXELS, mean), np.ones(N_PIXELS)),
        ss.Dense(4),
        ss.Activation(activation, options),
        ss.Dense(2),
    ]
    return ss.Network(layers, N_PIXELS, label_names=names, wavelength=wavelength)


def build_regression(net=None, *, sigma=0.3, prior=2.0, covariance=None):
    noise = {"sigma_noise": sigma} if covariance is None else {"noise_covariance": covariance}
    return ss.Regression(net or build_network(), prior_precision=prior, **noise)


REG = build_regression()
THETA = REG.net.init_params(np.random.default_rng(1))
REGRESSIONS = [
    build_regression(build_network("relu")),
    build_regression(build_network("leaky_relu")),
    build_regression(build_network("leaky_relu", negative_slope=0.4)),
    build_regression(build_network(mean=0.2)),
    build_regression(build_network(names=("a", "c"))),
    build_regression(build_network(wavelength=GRID + 1)),
    build_regression(sigma=0.6),
    build_regression(sigma=[0.3, 0.31]),
    build_regression(covariance=[[0.09, 0.01], [0.01, 0.09]]),
    build_regression(prior=100.0),
    build_regression(prior={"dense_0": 2.0, "dense_1": 2.1}),
    build_regression(prior=np.append(np.full(REG.net.n_params - 1, 2.0), 3.0)),
]


def names_of(call, *, without=()):
    return set(inspect.signature(call).parameters) - {"self", *without}


REFUSALS = (
    "needs what training spectra tell of missing pixels",
    "ivar beside flux_covariance should be 0 at bad pixels",
    "flux_covariance should be left out with Spectra",
    "got that of another one",
    "got those of another one",
    "Kronecker structures take one prior precision a block",
    'structure="kronecker" inverts the Gauss-Newton matrix',
)


def check_table(table, call, *, without=()):
    """Every argument of the call is in the table, and nothing else."""
    assert set(table) == set(inspect.signature(call).parameters) - {"self", *without}


def changes_of(table):
    return [
        pytest.param({name: value}, id=f"{name}-{i}")
        for name, values in table.items()
        for i, value in enumerate(values)
    ]


def call_or_refuse(call):
    """Its result, or None if it is refused: for what the folder holds, or for itself."""
    try:
        return call()
    except (DataError, OptionError) as error:
        if any(words in str(error) for words in REFUSALS):
            return None
        raise


# --- fits


def fit(folder=None, **changed):
    words = {"reg": REG, "theta": THETA, "X": X, "Y": Y, "structure": "kronecker"}
    words |= {"require_minimum": False, "progress": False} | changed
    return ss.fit_laplace(**words, resume=folder)


FITS = {
    "reg": REGRESSIONS,
    "theta": [THETA * 1.01],
    "X": [X_NEW, X.astype(np.float32), ss.Spectra(flux=X_NEW, labels=Y, wavelength=GRID)],
    "Y": [Y * 2, np.where(Y > 1, np.nan, Y)],
    "label_errors": [np.full(Y.shape, 0.1), np.tile(0.01 * np.eye(Y.shape[1]), (len(Y), 1, 1))],
    "ivar": [np.where(X > 1, 0.0, 4.0)],
    "curvature": ["hessian"],
    "structure": ["diagonal", "ekfac"],
    "backend": ["c"],
    "dtype": ["float32"],
    "memory": ["7GB"],
    "options": [],  # kronecker has none: those of other structures are changed below
    # without a part in what is kept
    "require_minimum": [],
    "resume": [],
    "progress": [],
    "scheduler": [],
}


def test_every_argument_of_a_fit_is_in_the_table():
    check_table(FITS, ss.fit_laplace)


@pytest.fixture(scope="module")
def kept_fit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    fit(folder)
    return folder


@pytest.mark.parametrize("changed", changes_of(FITS))
def test_a_fit_is_never_resumed_from_that_of_other_arguments(kept_fit, changed):
    if isinstance(changed.get("X"), ss.Spectra):
        changed |= {"Y": None, "reg": build_regression(build_network(names=("label_0", "label_1")))}
    kept = {path: path.read_bytes() for path in kept_fit.iterdir()}
    laplace = call_or_refuse(lambda: fit(kept_fit, **changed))
    if laplace is not None:
        right = fit(**changed).label_covariance(X_NEW)
        np.testing.assert_array_equal(laplace.label_covariance(X_NEW), right)
    assert {path: path.read_bytes() for path in kept} == kept


def test_the_same_fit_is_resumed(kept_fit, monkeypatch):
    monkeypatch.setattr(Checkpoint, "save", lambda *_, **__: pytest.fail("computed again"))
    fit(kept_fit, progress=lambda *_, **__: None)


@pytest.mark.parametrize("structure", BLOCKS)
def test_every_structure_keeps_the_blocks_of_one_fit_alone(structure, tmp_path, monkeypatch):
    monkeypatch.setattr("symspec.safety.checkpoint.SECONDS_BETWEEN", 0.0)
    words = {"structure": structure, "options": BLOCKS[structure]}

    def find_covariance(folder=None, **changed):
        return fit(folder, **words | changed).label_covariance(X_NEW[:3])

    first = find_covariance(tmp_path)
    assert list(tmp_path.iterdir())
    np.testing.assert_array_equal(find_covariance(tmp_path), first)
    changes = [{"reg": REGRESSIONS[0]}, {"reg": REGRESSIONS[-3]}]
    changes += [{"options": {name: 2 * value}} for name, value in BLOCKS[structure].items()]
    for changed in changes:
        other = call_or_refuse(lambda changed=changed: find_covariance(tmp_path, **changed))
        if other is not None:
            np.testing.assert_array_equal(other, find_covariance(**changed))


@pytest.mark.parametrize("structure", ["kronecker", "krylov"])
def test_another_network_with_the_same_weights_gets_its_own_error_bars(
    structure, tmp_path, monkeypatch
):
    monkeypatch.setattr("symspec.safety.checkpoint.SECONDS_BETWEEN", 0.0)
    relu, tanh = (build_regression(build_network(name)) for name in ("relu", "tanh"))
    words = {"structure": structure, "options": BLOCKS[structure]}
    fit(tmp_path, reg=relu, **words).predict(X_NEW, progress=False)
    call = lambda: fit(tmp_path, reg=tanh, **words).predict(X_NEW, progress=False)  # noqa: E731
    prediction = call_or_refuse(call)
    right = fit(reg=tanh, **words).predict(X_NEW, progress=False)
    assert prediction is None or np.array_equal(prediction.errors, right.errors)


# --- predictions


@pytest.fixture(scope="module")
def laplace():
    return fit(structure="dual")


SPECTRA = ss.Spectra(flux=X_NEW, ivar=IVAR, wavelength=GRID)
OTHER_GRID = ss.Spectra(
    flux=RNG.normal(size=(N_STARS, 9)), ivar=np.full((N_STARS, 9), 20.0), wavelength=SHIFTED
)
RESAMPLED = ss.resample(OTHER_GRID, GRID)
PREDICTIONS = {
    "X": [
        X,
        X_NEW[:-1],
        SPECTRA,
        RESAMPLED,
        ss.resample(OTHER_GRID, GRID, kind="linear"),
        replace(RESAMPLED, source_ivar=RESAMPLED.source_ivar * 2),
        replace(RESAMPLED, source_ivar=None),
        replace(RESAMPLED, matrices=(RESAMPLED.matrix * 2,)),
    ],
    "ivar": [IVAR, IVAR * 2, np.where(X_NEW > 1, 0, IVAR)],
    "center": ["weights", "linearized"],
    "flux_covariance": [0.04 * np.eye(N_PIXELS)],
    "fill": ["mean"],
    "flux": ["sampled"],
    "flag_options": [ss.FlagOptions(edge=0.3), ss.FlagOptions(min_snr=1e3)],  # may change
    # without a part in what is kept
    "resume": [],
    "progress": [],
}
# of the posterior; the first are not predicted from, and may change
NOT_PREDICTED_FROM = ("reason", "negative_log_posterior", "training_stars")
POSTERIORS = {
    "reg": lambda laplace: [replace(laplace, reg=reg) for reg in REGRESSIONS],
    "theta": lambda laplace: [replace(laplace, theta=THETA * 1.01)],
    "inverse_hessian": lambda laplace: (
        [
            replace(laplace, inverse_hessian=fit(structure=name).inverse_hessian)
            for name in ("primal", "kronecker", "diagonal")
        ]
        + [fit(structure="dual", reg=reg) for reg in REGRESSIONS[-3:]]
    ),
    # without a gradient it decides on the flags
    "certificate": lambda laplace: [
        replace(
            laplace,
            gradient=None,
            certificate=ss.Certificate(
                gradient_norm=1.0, newton_decrement=decrement, newton_shift=np.zeros(2)
            ),
        )
        for decrement in (0.0, 1.0)
    ],
    "gradient": lambda laplace: [
        replace(laplace, gradient=laplace.gradient * 2),
        replace(laplace, gradient=None),
    ],
    "negative_log_posterior": lambda laplace: [replace(laplace, negative_log_posterior=0.0)],
    "curvature": lambda laplace: [replace(laplace, curvature="hessian")],
    "structure": lambda laplace: [replace(laplace, structure="kronecker")],
    "reason": lambda laplace: [replace(laplace, reason="another")],
    "flux_mean": lambda laplace: [replace(laplace, flux_mean=laplace.flux_mean + 1)],
    "label_range": lambda laplace: [replace(laplace, label_range=laplace.label_range / 4)],
    "backend": lambda laplace: [replace(laplace, backend="numpy")],
    "dtype": lambda laplace: [replace(laplace, dtype="float32")],
    "hmc_verdict": lambda laplace: [replace(laplace, hmc_verdict=("agree", "Laplace too small"))],
    "training_space": lambda laplace: [replace(laplace, training_space=None)],
    "flux_prior": lambda laplace: [
        replace(laplace, flux_prior=FluxPrior.of_mean(laplace.flux_mean)),
        *(
            replace(laplace, flux_prior=replace(laplace.flux_prior, **{name: array * 1.1}))
            for name, array in vars(laplace.flux_prior).items()
            if array.size
        ),
    ],
    "label_spread": lambda laplace: [replace(laplace, label_spread=laplace.label_spread / 9)],
    "training_flux_cov": lambda laplace: [
        replace(laplace, training_flux_cov=np.stack([np.eye(laplace.net.n_labels)] * 2))
    ],
    "exact_step": lambda laplace: [replace(laplace, exact_step=np.ones_like(laplace.theta))],
    "training_stars": lambda laplace: [replace(laplace, training_stars=None)],
}


def assert_same_prediction(found, expected):
    for field in fields(expected):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(b, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        else:
            assert a == b, field.name


def check_prediction(kept, call):
    """Refused, or that of the call without a folder."""
    prediction = call_or_refuse(lambda: call(resume=kept, progress=False))
    if prediction is not None:
        assert_same_prediction(prediction, call(progress=False))
    return prediction


def test_every_argument_and_field_of_a_prediction_is_in_a_table():
    check_table(PREDICTIONS, ss.LaplacePosterior.predict)
    assert set(POSTERIORS) == {field.name for field in fields(ss.LaplacePosterior)}


BASES = {
    "flux": {"X": X_NEW},
    "ivar": {"X": X_NEW, "ivar": np.where(X_NEW > 2, 0, IVAR / 3)},
    "resampled": {"X": RESAMPLED},
}


@pytest.mark.parametrize("base", BASES)
def test_a_prediction_is_never_resumed_from_that_of_other_arguments(laplace, base, tmp_path):
    first = laplace.predict(**BASES[base], resume=tmp_path, progress=False)
    again = laplace.predict(**BASES[base], resume=tmp_path, progress=False)
    assert_same_prediction(again, first)
    n_refused = 0
    for changed in changes_of(PREDICTIONS):
        words = BASES[base] | changed.values[0]
        if not isinstance(words["X"], np.ndarray) or len(words["X"]) < N_STARS:
            words.pop("ivar", None)
        call = lambda words=words, **more: laplace.predict(**words, **more)  # noqa: E731
        n_refused += check_prediction(tmp_path, call) is None
    assert n_refused >= 7


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_prediction_is_never_resumed_from_that_of_another_posterior(laplace, name, tmp_path):
    words = BASES["ivar"]
    laplace.predict(**words, resume=tmp_path, progress=False)
    for other in POSTERIORS[name](laplace):
        refused = check_prediction(tmp_path, lambda o=other, **more: o.predict(**words, **more))
        assert (refused is None) == (name not in NOT_PREDICTED_FROM)


def test_a_prediction_with_another_prior_gets_its_own_error_bars(tmp_path):
    narrow, wide = (fit(reg=build_regression(prior=prior)) for prior in (100.0, 1.0))
    wide.predict(X_NEW, resume=tmp_path, progress=False)
    with pytest.raises(DataError, match="another network, weights, stars or options"):
        narrow.predict(X_NEW, resume=tmp_path, progress=False)
    assert not np.allclose(narrow.predict(X_NEW).errors, wide.predict(X_NEW).errors, rtol=0.01)


@pytest.mark.parametrize("structure", ["primal", "dual", *BLOCKS])
def test_a_posterior_that_was_written_and_read_goes_on(structure, tmp_path, monkeypatch):
    laplace = fit(structure=structure, options=BLOCKS.get(structure, {}))
    ss.write_laplace(tmp_path / "model.h5", laplace)
    first = laplace.predict(X_NEW, resume=tmp_path / "kept", progress=False)
    again = ss.read_laplace(tmp_path / "model.h5")
    monkeypatch.setattr(Checkpoint, "save", lambda *_, **__: pytest.fail("computed again"))
    prediction = again.predict(X_NEW, resume=tmp_path / "kept", progress=False)
    assert_same_prediction(prediction, first)


def test_krylov_is_known_by_all_that_it_is_made_of():
    words = {"structure": "krylov", "options": BLOCKS["krylov"]}
    inverse = fit(**words).inverse_hessian
    others = [
        fit(**words, **change).inverse_hessian for change in ({"X": X_NEW}, {"theta": THETA / 2})
    ]
    for name in ("tolerance", "max_iterations", "max_seconds", "max_bytes"):
        other = fit(**words).inverse_hessian
        other.limits = replace(other.limits, **{name: 7})
        others.append(other)
    others.append(fit(**words | {"options": BLOCKS["krylov"] | {"subset": 5}}).inverse_hessian)
    assert find_fingerprint(fit(**words).inverse_hessian) == find_fingerprint(inverse)
    assert len({find_fingerprint(one) for one in (inverse, *others)}) == len(others) + 1


# --- catalogues and derivatives


def write_stars(path, flux=X_NEW, ivar=IVAR, labels=Y):
    with h5py.File(path, "w") as file:
        file["flux"], file["ivar"], file["labels"], file["wavelength"] = flux, ivar, labels, GRID
        file["label_names"] = ["a", "b"]
    os.utime(path, ns=(1, 1))  # all have one size and time
    return path


def keep_pieces(call, monkeypatch):
    """Run until all pieces are finished, and die."""

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(PartialRun, "finish", die)
        call()


def read_file(path):
    """All that an HDF5 file holds."""
    held = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: held.update({name: item[()]}) if hasattr(item, "shape") else None
        )
    return held


def check_run(folder, call, *, may_change):
    """The output of the call in the folder of another, which is refused, or right."""
    kept, anew = folder / "out.h5", folder / "anew.h5"
    is_refused = call_or_refuse(lambda: (call(kept), "done")) is None
    assert is_refused != may_change
    if not is_refused:
        call(anew)
        assert kept.read_bytes() == anew.read_bytes()


SURVEYS = {
    "laplace": [],  # below, field by field
    "spectra": [
        ss.Spectra(flux=X),
        SPECTRA,
        replace(SPECTRA, ivar=IVAR * 2),
        RESAMPLED.spectra,
        "changed",
    ],
    "center": ["linearized"],
    "fill": ["mean"],
    "flux_errors": ["sampled"],
    "flag_options": [ss.FlagOptions(edge=0.3)],
    "resample": ["linear", "flux_conserving"],
    "options": [{"uncertainty": "ivar"}, {"bad_error": 10.0}],
    # applied to finished pieces
    "calibration": [ss.ErrorCalibration(factor=np.array([2.0, 3.0]), source="test")],
    "dialect": ["lower"],
    "interval": [0.9],
    # without a part in what is kept
    "path": [],
    "overwrite": [],
    "restart": [],
    "progress": [],
    "show": [],
    "scheduler": [],
}
JACOBIANS = {
    "net": [reg.net for reg in REGRESSIONS[:6]],
    "theta": [THETA * 1.01],
    "spectra": SURVEYS["spectra"],
    "flux_mean": [np.zeros(N_PIXELS)],
    "flux_prior": [fit_flux_prior(X, X.mean(axis=0))],
    "fill": ["conditional"],
    "dtype": ["float32"],
    "backend": ["numpy"],
    "compression": ["none"],
    "resample": SURVEYS["resample"],
    "options": SURVEYS["options"],
    # without a part in what is kept
    "path": [],
    "overwrite": [],
    "restart": [],
    "progress": [],
    "show": [],
    "scheduler": [],
}


def test_every_argument_of_a_run_is_in_a_table():
    check_table(SURVEYS, predict_survey)
    check_table(JACOBIANS, write_jacobian)


def change_words(words, changed, folder):
    """The words of a call with one of them changed."""
    (name, value), *_ = changed.items()
    if name == "options":
        return words | value
    if isinstance(value, str) and value == "changed":  # with size and time kept
        before = (folder / "stars.h5").stat()
        write_stars(folder / "stars.h5", flux=np.where(X_NEW > 2, 1.0, X_NEW))
        after = (folder / "stars.h5").stat()
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        return words
    return words | changed


@pytest.mark.parametrize("changed", changes_of(SURVEYS))
def test_a_catalogue_is_never_made_of_the_pieces_of_other_arguments(
    laplace, changed, tmp_path, monkeypatch
):
    words = {"laplace": laplace, "spectra": write_stars(tmp_path / "stars.h5"), "progress": False}
    keep_pieces(lambda: predict_survey(tmp_path / "out.h5", **words), monkeypatch)
    words = change_words(words, changed, tmp_path)
    may_change = changed.keys() <= {"dialect", "calibration", "interval"}
    check_run(tmp_path, lambda path: predict_survey(path, **words), may_change=may_change)


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_catalogue_is_never_made_of_the_pieces_of_another_posterior(
    laplace, name, tmp_path, monkeypatch
):
    stars = write_stars(tmp_path / "stars.h5")
    keep_pieces(
        lambda: predict_survey(tmp_path / "out.h5", laplace, stars, progress=False), monkeypatch
    )
    for other in POSTERIORS[name](laplace):
        check_run(
            tmp_path,
            lambda path, other=other: predict_survey(path, other, stars, progress=False),
            may_change=name in NOT_PREDICTED_FROM,
        )


@pytest.mark.parametrize("changed", changes_of(JACOBIANS))
def test_derivatives_are_never_made_of_the_pieces_of_other_arguments(
    changed, tmp_path, monkeypatch
):
    words = {"net": REG.net, "theta": THETA, "spectra": write_stars(tmp_path / "stars.h5")}
    words |= {"progress": False}
    keep_pieces(lambda: write_jacobian(tmp_path / "out.h5", **words), monkeypatch)
    words = change_words(words, changed, tmp_path)
    check_run(tmp_path, lambda path: write_jacobian(path, **words), may_change=False)


def test_every_option_of_reading_is_in_the_plan():
    changed = {
        "label_names": ["TEFF"],
        "uncertainty": "std",
        "bad_error": 9.0,
        "mask_bits": (1,),
        "wavelength_unit": "nm",
        "wavelength_medium": "air",
        "flux": "F",
        "wavelength": "W",
        "hdu": 1,
        "arm": "B",
        "apstar": "visits",
        "label_errors": "none",
        "missing_label_error": "infer",
        "group": "STAR",
        "separator": ";",
        "decimal": ",",
        "orientation": "columns",
        "encoding": "cp1252",
        "sheet": "Data",
        "labels": "labels.csv",
    }
    check_table(changed, ss.read_spectra, without=["source"])
    identities = [ReadOptions.parse({name: value}).identity() for name, value in changed.items()]
    assert len({str(identity) for identity in [{}, *identities]}) == len(changed) + 1
