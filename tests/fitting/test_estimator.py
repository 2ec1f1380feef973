"""The scikit-learn estimator keeps scikit-learn's rules, and equals what it stands on."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import symspec as ss
from symspec.errors import DataError, NotAtMinimumWarning, OptionError
from symspec.fitting import estimator
from symspec.fitting.fit import FitOptions, fit_network
from symspec.fitting.weights import as_weights, weigh

LINEAR = {"hidden": (), "progress": False, "random_state": 0}
# of the many that check_estimator runs
EXPECTED_TO_FAIL = {
    "check_sample_weight_equivalence_on_dense_data": (
        "weights are those of label errors, not counts: a weight of 2 halves the variance of a"
        " label, and two samples tell of the noise by how they differ"
    ),
}


def make_data(n=60, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    Y = X[:, :2] @ [[2.0, 0.5], [-1.0, 1.0]] + 5 + 0.3 * rng.normal(size=(n, 2))
    return X, Y


class Plane:
    """Least squares in place of a network, which would take a second to compile for each fit."""

    def __init__(self, stars, weights):
        self.mean = stars.flux.mean(axis=0)
        root = np.sqrt(weights)[:, None]
        features = np.c_[stars.flux - self.mean, np.ones(len(stars))]
        self.coefficients = np.linalg.lstsq(root * features, root * stars.labels)[0]

    def predict_labels(self, X):
        return (X - self.mean) @ self.coefficients[:-1] + self.coefficients[-1]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.EstimatorCheckFailedWarning")
def test_it_passes_the_checks_of_scikit_learn(monkeypatch):
    """With other fits than its own, which `tests/bench/check_estimator.py` leaves in."""
    monkeypatch.setattr(estimator, "fit_network", lambda stars, *_, **__: Plane(stars, np.ones(1)))
    monkeypatch.setattr(estimator, "fit_weighted", lambda stars, w, *_, **__: Plane(stars, w))
    results = check_estimator(
        ss.SpectraRegressor(hidden=(2,)), expected_failed_checks=EXPECTED_TO_FAIL, on_skip=None
    )
    by_status = {}
    for result in results:
        by_status.setdefault(result["status"], set()).add(result["check_name"])
    assert by_status.get("failed", set()) == set()
    assert by_status.get("xfail", set()) <= set(EXPECTED_TO_FAIL)
    assert len(by_status["passed"]) > 40


def test_it_is_the_functions_that_it_stands_on():
    X, Y = make_data()
    Y[3, 1] = np.nan
    given = {"hidden": (2,), "epochs": 5, "tune": False}
    model = ss.SpectraRegressor(random_state=3, progress=False, **given).fit(X, Y)
    seed = np.random.RandomState(3).randint(2**31 - 1)
    options = FitOptions(starts=2, **given)
    laplace = fit_network(ss.Spectra(flux=X, labels=Y), options, seed=seed, progress=False)
    prediction = laplace.predict(X[:9], progress=False)
    labels, std = model.predict(X[:9], return_std=True)
    again, cov = model.predict(X[:9], return_cov=True)
    # the same computation
    assert_allclose(labels, prediction.labels, rtol=1e-12)
    assert_allclose(model.predict(X[:9]), prediction.labels, rtol=1e-12)
    assert_array_equal(again, labels)
    assert_allclose(std, prediction.errors, rtol=1e-12)
    assert_allclose(cov, prediction.total_cov, rtol=1e-12)
    assert model.selection_ is None


def test_one_label_has_one_axis_and_pickles_keep_it():
    X, Y = make_data()
    model = ss.SpectraRegressor(**LINEAR).fit(X, Y[:, 0])
    labels, std = model.predict(X, return_std=True)
    assert labels.shape == std.shape == (60,)
    assert model.predict(X, return_cov=True)[1].shape == (60, 1, 1)
    # residuals of the noise 0.3 that was drawn; 0.3 / sqrt(2 * 60) is its standard error
    assert np.std(labels - Y[:, 0]) == pytest.approx(0.3, abs=0.1)
    assert model.score(X, Y[:, 0]) > 0.95
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict(X), labels)
    assert again.get_params() == model.get_params()
    with pytest.raises(OptionError, match="return_std or return_cov, got both"):
        model.predict(X, return_std=True, return_cov=True)


def test_auto_is_select():
    X, Y = make_data(40)
    with pytest.MonkeyPatch.context() as patch:
        asked = {}

        def select(stars, **options):
            asked.update(options)
            return ss.select(stars, hidden=[()], folds=2, **options)

        patch.setattr("symspec.fitting.estimator.select", select)
        model = ss.SpectraRegressor(random_state=0, n_jobs=1, tune=False, progress=False)
        model.fit(X, Y, groups=np.repeat(np.arange(20), 2))
    assert asked["n_workers"] == 1
    assert model.selection_.chosen.name == "linear"
    assert_array_equal(model.predict(X), model.selection_.laplace.predict_labels(X))


def test_pipelines_and_folds_take_it():
    X, Y = make_data()
    groups = np.repeat(np.arange(20), 3)
    pipeline = make_pipeline(StandardScaler(), ss.SpectraRegressor(**LINEAR))
    pipeline.set_params(spectraregressor__tune=False)
    scores = cross_val_score(pipeline, X, Y, cv=GroupKFold(2), groups=groups)
    # noise 0.3 of a spread of 2.3 and 1.2, of thirty samples
    assert (scores > 0.8).all()


# --- weights


@pytest.fixture(scope="module")
def weighted():
    """Labels of noise 0.3 / sqrt(weight), and 20 without any weight that are far off."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(400, 3))
    w = rng.choice([1.0, 4.0, 16.0], size=400)
    y = X @ [2.0, -1.0, 0.5] + 1 + rng.normal(size=400) * 0.3 / np.sqrt(w)
    w[:20] = 0
    y[:20] += 100
    return X, y, w


def test_weights_divide_the_variance(weighted):
    """At a noise that is given, by the closed form of weighted ridge regression."""
    X, y, w = weighted
    options = {"sigma_noise": 0.075, "prior_precision": 2.0, "tune": False}
    model = ss.SpectraRegressor(**LINEAR, **options).fit(X, y, sample_weight=w)
    some = w > 0
    layers = model.laplace_.reg.net.layers
    scale = layers[-1].scale[0]
    Z = np.c_[(X - layers[0].mean) / layers[0].scale, np.ones(400)]
    precision = w[some] / 16 * (scale / 0.075) ** 2
    A = (Z[some].T * precision) @ Z[some] + np.diag([6.0, 6.0, 6.0, 2.0])
    t = (y[some] - layers[-1].mean[0]) / scale
    coefficients = np.linalg.solve(A, Z[some].T @ (precision * t))
    # weights to 1e-6 nats of decrement
    predicted, std = model.predict(X, return_std=True)
    assert_allclose(predicted, layers[-1].mean + scale * Z @ coefficients, rtol=1e-6, atol=1e-6)
    V = np.einsum("ni,ij,nj->n", Z, np.linalg.inv(A), Z) * scale**2
    assert_allclose(std, np.sqrt(V + 0.075**2), rtol=1e-8)


def test_the_noise_is_that_of_the_largest_weight(weighted):
    """It is found to 1 / sqrt(2 * 380) = 4 % of itself; other labels have S / w, within 1 %."""
    X, y, w = weighted
    laplace = ss.SpectraRegressor(**LINEAR).fit(X, y, sample_weight=w).laplace_
    S = laplace.reg.sigma_noise[0] ** 2
    assert np.sqrt(S) == pytest.approx(0.3 / 4, rel=0.12)
    own = laplace.training_stars.labels.errors[:, 0]
    assert_allclose(S + own, S * 16 / w[w > 0], rtol=0.01)


def test_only_ratios_of_weights_count():
    w = np.array([1.0, 0.0, 2.0])
    assert_array_equal(as_weights(w, 3), [0.5, 0, 1])
    assert_array_equal(as_weights(1e3 * w, 3), as_weights(w, 3))
    X, Y = make_data(3)
    stars = weigh(ss.Spectra(flux=X, labels=Y), np.array([0.5, 0.25, 1.0]), np.array([4.0, 9.0]))
    assert_allclose(stars.label_errors, [[2, 3], [12**0.5, 27**0.5], [np.nan, np.nan]])


def test_noise_that_does_not_settle_is_told(weighted, monkeypatch):
    X, y, w = (part[::10] for part in weighted)
    monkeypatch.setattr("symspec.fitting.weights.MAX_ROUNDS", 1)
    with pytest.warns(NotAtMinimumWarning, match="the noise should agree with the weights"):
        ss.SpectraRegressor(**LINEAR).fit(X, y, sample_weight=w)


# --- what is refused


@pytest.mark.parametrize(
    ("options", "fit", "error", "words"),
    [
        ({"hidden": "wide"}, {}, OptionError, "hidden, if it is a word, should be one of 'auto'"),
        ({}, {"sample_weight": -np.ones(60)}, DataError, "none negative and not all of them zero"),
        ({}, {"sample_weight": np.ones(59)}, ValueError, r"shape \(60,\), got \(59,\)"),
        ({"dof": 4.0}, {"sample_weight": np.ones(60)}, OptionError, "weights go with normal noise"),
    ],
)
def test_mistakes_are_refused(options, fit, error, words):
    X, Y = make_data()
    with pytest.raises(error, match=words):
        ss.SpectraRegressor(**LINEAR | options).fit(X, Y, **fit)


def test_it_wants_to_be_fitted():
    with pytest.raises(NotFittedError):
        ss.SpectraRegressor().predict(make_data()[0])


def test_without_scikit_learn_only_it_is_missing():
    program = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import symspec as ss\n"
        "try: ss.SpectraRegressor\n"
        "except ss.MissingDependencyError as error: print(error)\n"
        "print(hasattr(ss, 'nothing'))"
    )
    folder = Path(ss.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=folder
    )
    assert done.stdout.splitlines() == [
        'SpectraRegressor needs scikit-learn: pip install "symspec[sklearn]".',
        "False",
    ]
