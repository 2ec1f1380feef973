"""Commands on a model of several networks: its numbers, or a line that says which take one."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy.optimize import brentq
from scipy.stats import norm
from test_cli import run, write_stars

import symspec as ss
from symspec.cli.commands import fit
from symspec.files import partial_runs
from symspec.files.catalogue_reading import read_catalogue
from symspec.fitting import starts
from symspec.fitting.fit import FitOptions
from symspec.mixtures.identity import hash_model, hash_networks

N_PIXELS = 10


class Work:
    """Two networks and their mixture, in files, with their training stars and new ones."""

    def __init__(self, folder):
        self.folder = folder
        stars = ss.datasets.generated_stars(
            64, n_pixels=N_PIXELS, snr=200, wavelength_range=(5150, 5300),
            rng=np.random.default_rng(0),
        )  # fmt: skip
        self.known = stars[:40]
        self.new = stars[40:]
        write_stars(folder / "stars.h5", self.known)
        write_stars(folder / "new.h5", self.new)
        names = {"label_names": stars.label_names, "label_units": stars.label_units}
        net = ss.mlp([N_PIXELS, 2, 3], activation="tanh", **names)
        net = ss.standardized(net, self.known.flux, self.known.labels)
        noise = 0.3 * self.known.labels.std(axis=0)
        self.reg = ss.Regression(net, sigma_noise=noise, prior_precision=ss.scaled_prior(net, 1.0))
        self.posteriors = [self.fit(seed) for seed in range(3)]
        self.combined = ss.combine(self.posteriors[:2], weights=[0.4, 0.6])
        self.model = folder / "mixture.h5"
        ss.write_laplace(self.model, self.combined)

    def fit(self, seed):
        theta = self.reg.net.init_params(np.random.default_rng(seed))
        options = {"require_minimum": False, "progress": False}
        return ss.fit_laplace(self.reg, theta, self.known, **options)

    def path(self, name):
        return self.folder / name


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return Work(tmp_path_factory.mktemp("mixture"))


@pytest.fixture(scope="module")
def prediction(work):
    return work.combined.predict(work.new, progress=False)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(partial_runs, "PIECE_BYTES", 8 * 8 * N_PIXELS)


@pytest.mark.usefixtures("small_pieces")
def test_a_catalogue_in_pieces_holds_the_mixture(work, prediction, tmp_path):
    out = tmp_path / "out.fits"
    words = ("--interval", 0.9, "--center", "weights")
    said = run("errors", work.model, work.path("new.h5"), out, *words)
    rows = Table.read(out)
    interval = prediction.interval(0.9)
    for c, name in enumerate(prediction.label_names):
        np.testing.assert_allclose(rows[name], prediction.labels[:, c], rtol=1e-12, atol=1e-12)
        ends = np.stack([rows[f"{name}_LO"], rows[f"{name}_HI"]], axis=1)
        np.testing.assert_allclose(ends, interval[:, c], rtol=1e-9, atol=1e-9)
        between = np.sqrt(prediction.between_cov[:, c, c])
        np.testing.assert_allclose(rows[f"{name}_BETWEEN_ERR"], between, rtol=1e-9)
        assert (rows[f"{name}_BETWEEN_ERR"] < rows[f"{name}_MODEL_ERR"]).all()
    np.testing.assert_allclose(rows["COV"], prediction.total_cov, rtol=1e-9, atol=1e-12)
    header = fits.getheader(out, 1)
    assert (header["NETWORKS"], header["WEIGHTS"]) == (2, "0.4, 0.6")
    assert "mixture of 2 networks" in header["ERRTYPE"]
    assert header["NETHASH"] == hash_networks(work.combined)
    assert header["MODHASH"] == hash_model(work.combined)
    share = np.median(prediction.between_share, axis=0)
    assert f"A mixture of 2 networks: what lies between them of the model's variance (median):" \
        f" TEFF {100 * share[0]:.0f} %" in said.stdout  # fmt: skip
    read = read_catalogue(out)
    assert read.n_networks == 2
    assert read.prediction.center == "weights"
    assert read.header["CENTER"].endswith("the mean of all networks")
    np.testing.assert_allclose(read.between_cov, prediction.between_cov, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("small_pieces")
def test_a_survey_is_never_resumed_with_another_mixture(work, prediction, tmp_path):
    a, b, c = work.posteriors
    out = tmp_path / "out.h5"

    def stop(stage, done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ss.predict_survey(out, work.combined, work.new, progress=stop)
    others = [
        ss.combine([a, b], weights=[0.6, 0.4]),
        ss.combine([b, a], weights=[0.4, 0.6]),
        ss.combine([a, c], weights=[0.4, 0.6]),
        ss.combine([a, b, c], weights=[0.4, 0.6, 0.0]),
        a,
    ]
    for other in others:
        with pytest.raises(ss.DataError, match=r"those of another one \(model was"):
            ss.predict_survey(out, other, work.new, progress=False)
    survey = ss.predict_survey(out, ss.read_laplace(work.model), work.new, progress=False)
    np.testing.assert_allclose(survey.prediction.total_cov, prediction.total_cov, rtol=1e-9)
    np.testing.assert_allclose(survey.prediction.cdf(work.new.labels),
                               prediction.cdf(work.new.labels), atol=1e-9)  # fmt: skip


def test_errors_are_calibrated_by_stars_left_out_of_every_network(work, tmp_path):
    out = tmp_path / "out.ecsv"
    words = ("--calibrate-on", work.path("stars.h5"), "--leave-one-out", "--center", "weights")
    run("errors", work.model, work.path("new.h5"), out, *words)
    left_out = work.combined.leave_one_out()
    flux = work.combined.predict(work.known, progress=False)
    parts = [
        (part.labels, np.sqrt(np.einsum("ncc->nc", part.total_cov + more.flux_cov)))
        for part, more in zip(left_out.parts, flux.parts, strict=True)
    ]
    # of a mixture of two normals, the interval of 50 % by halving
    expected = _scatter_over_half_widths(parts, work.combined.weights, work.known.labels)
    rows = Table.read(out)
    found = [float((rows[f"{n}_CAL_ERR"] / rows[f"{n}_ERR"])[0]) for n in left_out.label_names]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def _scatter_over_half_widths(parts, weights, labels):
    centre = sum(w * mean for w, (mean, _) in zip(weights, parts, strict=True))
    half = np.empty_like(labels)
    for star, c in np.ndindex(labels.shape):
        each = [norm(mean[star, c], sd[star, c]) for mean, sd in parts]

        def cdf(x, each=each):
            return sum(w * one.cdf(x) for w, one in zip(weights, each, strict=True))

        low, high = (
            brentq(lambda x, s=s, cdf=cdf: cdf(x) - s, -1e5, 1e5, xtol=1e-10) for s in (0.25, 0.75)
        )
        half[star, c] = (high - low) / 2
    return ss.sigma_mad((labels - centre) / (half / norm.ppf(0.75)))


def test_influence_is_that_of_the_mixture(work, tmp_path):
    out = tmp_path / "moved.ecsv"
    run("influence", work.model, work.path("stars.h5"), work.path("new.h5"), "--output", out)
    rows = Table.read(out)
    moved = work.combined.influence(work.new)
    column = next(name for name in rows.colnames if name.startswith("TEFF_MOVED"))
    first = rows[rows["ID"] == work.new.ids[0]][0]
    star = list(work.known.ids).index(first["WITHOUT"])
    np.testing.assert_allclose(first[column], moved[0, 0, star], rtol=1e-6)


def test_info_lists_the_networks_or_one_of_them(work):
    said = run("info", work.model).stdout
    assert "2 networks with error bars" in said
    for one in work.combined.posteriors:
        assert f"{one.log_marginal_likelihood():,.1f}" in said
    one = run("info", work.model, "--network", 2).stdout
    evidence = work.combined.posteriors[1].log_marginal_likelihood()
    assert f"Log evidence: {evidence:,.1f} nats" in one


COMMANDS = {
    "audit": (("stars.h5",), "an audit inverts the Hessian of one network"),
    "hmc": (("stars.h5", "draws.nc"), "chains explore the posterior of one network"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_on_one_network_say_why_and_how_to_choose_it(work, command, tmp_path):
    files, why = COMMANDS[command]
    paths = [tmp_path / file if "." in file and i else work.path(file)
             for i, file in enumerate(files)]  # fmt: skip
    said = run(command, work.model, *paths, code=1)
    assert f"{why}: choose it, --network 1 to --network 2" in said.stderr
    said = run(command, work.model, *paths, "--network", 3, code=1)
    assert "--network should be at most 2" in said.stderr
    assert not list(tmp_path.iterdir())


def test_derivatives_and_audits_are_of_the_network_that_is_chosen(work, tmp_path):
    out = tmp_path / "jacobian.h5"
    run("jacobian", work.model, work.path("new.h5"), out, "--network", 2)
    theta = work.posteriors[1].theta
    expected = ss.compile_jacobian(work.reg.net)(theta, work.new.flux)
    with h5py.File(out) as file:
        np.testing.assert_allclose(file["jacobian"], expected, rtol=1e-9)
    run("jacobian", work.model, work.path("new.h5"), tmp_path / "mean.h5")
    J = [ss.compile_jacobian(work.reg.net)(one.theta, work.new.flux) for one in work.posteriors[:2]]
    with h5py.File(tmp_path / "mean.h5") as file:
        np.testing.assert_allclose(file["jacobian"], 0.4 * J[0] + 0.6 * J[1], rtol=1e-9)
        assert list(file["label_names"].asstr()) == list(work.reg.net.label_names)
    table = tmp_path / "audit.csv"
    run("audit", work.model, work.path("stars.h5"), "--network", 2, "--structure", "diagonal",
        "--sample", work.path("new.h5"), "--output", table)  # fmt: skip
    audit = ss.audit_structures(
        work.reg, theta, work.known, X_sample=work.new.flux, structures=["diagonal"], progress=False
    )
    found = Table.read(table)
    np.testing.assert_allclose(found["TEFF_EXACT"], audit.exact_sd[:, 0], rtol=1e-4)
    np.testing.assert_allclose(found["TEFF_DIAGONAL"], audit.ratio[0, :, 0], rtol=1e-4)


def test_a_network_without_error_bars_is_sent_to_fit(work, tmp_path):
    path = tmp_path / "net.h5"
    ss.write_network(path, work.reg.net, work.posteriors[0].theta)
    said = run("errors", path, work.path("new.h5"), tmp_path / "out.fits", code=1)
    assert "got a network alone: 'symspec fit net.h5 STARS model.h5' makes one" in said.stderr


# --- several networks become a model


@pytest.fixture(scope="module")
def ensemble(work):
    """Files of two networks which give z-scores, and the labels that they mean (network, ...)."""
    paths = [work.path(f"net_{k}.h5") for k in range(2)]
    labels = []
    for k, path in enumerate(paths):
        net = ss.standardized(
            ss.mlp([N_PIXELS, 3, 3], activation="tanh"), work.known.flux, work.known.labels
        )
        reg = ss.Regression(net, sigma_noise=0.1 * work.known.labels.std(axis=0),
                            prior_precision=1.0)  # fmt: skip
        theta = ss.train(reg, work.known, epochs=400, learning_rate=1e-2, progress=False,
                         rng=np.random.default_rng(k)).theta  # fmt: skip
        ss.write_network(path, ss.Network(net.layers[:-1], N_PIXELS), theta)
        labels.append(ss.compile_predict(net)(theta, work.new.flux))
    return paths, np.array(labels)


def test_networks_of_an_ensemble_go_in_as_one_model(work, ensemble, tmp_path):
    paths, labels = ensemble
    model = tmp_path / "model.h5"
    said = run("fit", *paths, work.path("stars.h5"), model)
    assert "A mixture of 2 networks" in said.stdout
    assert "Outputs of net_1.h5: z-scores of these labels" in said.stdout
    laplace = ss.read_laplace(model)
    np.testing.assert_array_equal(laplace.weights, [0.5, 0.5])
    # as good as the scaling is found, from 40 stars
    spread = work.known.labels.std(axis=0)
    found = laplace.predict(work.new, progress=False)
    assert (np.abs(found.labels - labels.mean(axis=0)) < 0.02 * spread).all()
    apart = (labels[0] - labels[1]) / 2
    expected = np.abs(np.einsum("ncc->nc", found.between_cov) ** 0.5 - np.abs(apart))
    assert (expected < 0.02 * spread).all()
    inside = 100 * ss.coverage(laplace.leave_one_out(work.known), work.known.labels)[:, 0]
    assert f"{inside[0]:.0f} % {inside[1]:.0f} %" in said.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--starts", 3), "--starts is of one NETWORK, got 2"),
        (("--weights", "evidence"), "--weights evidence takes --move minimum"),
    ],
)
def test_what_several_networks_cannot_be_is_refused(work, ensemble, tmp_path, options, words):
    paths, _ = ensemble
    model = tmp_path / "model.h5"
    said = run("fit", *paths, work.path("stars.h5"), model, *options, code=1)
    assert words in said.stderr
    labels = ("--label", "LOGG", "--label", "TEFF", "--label", "FE_H")
    said = run("fit", *paths[::-1], work.path("stars.h5"), model, *labels, code=1)
    assert "It is network 1 of 2." in said.stderr
    said = run("fit", paths[0], work.path("stars.h5"), model, "--starts", 2, code=1)
    assert "--starts takes --move minimum: how NETWORK was trained is not known" in said.stderr
    said = run("fit", paths[0], paths[0], work.path("stars.h5"), model, code=1)
    assert "should be different files, got one of them twice" in said.stderr
    assert not list(tmp_path.iterdir())


def test_a_network_is_trained_again_from_other_starts(work, ensemble, tmp_path, monkeypatch):
    def draw(reg, stars, held_out, *, seed, **options):
        return reg.net.init_params(np.random.default_rng(seed))

    monkeypatch.setattr(starts, "run_adam", draw)
    monkeypatch.setattr(fit, "adopt_networks", lambda *given, move, **more: [
        SimpleNamespace(laplace=work.posteriors[0], label_scaling=SimpleNamespace(describe=str))
    ])  # fmt: skip
    model = tmp_path / "model.h5"
    words = ("--move", "minimum", "--starts", 2, "--weights", "evidence")
    run("fit", ensemble[0][0], work.path("stars.h5"), model, *words)
    found = ss.read_laplace(model)
    one, other = found.posteriors
    np.testing.assert_array_equal(one.theta, work.posteriors[0].theta)
    assert other.certificate.is_stationary
    assert other.net.label_names == one.net.label_names
    logs = [posterior.log_marginal_likelihood() for posterior in found.posteriors]
    assert logs[1] > logs[0]  # a minimum of its own, at noise and prior of the evidence
    np.testing.assert_allclose(found.weights, np.exp(logs - np.logaddexp(*logs)), rtol=1e-9)


def test_train_keeps_several_starts_in_one_model(work, tmp_path, monkeypatch):
    seeds = []

    def fit_network(stars, options, *, seed, **given):
        seeds.append(seed)
        assert options.hidden == (3,)
        return work.posteriors[seed - 4]

    monkeypatch.setattr(starts, "fit_network", fit_network)
    model = tmp_path / "model.h5"
    words = ("--hidden", 3, "--seed", 4, "--starts", 2)
    said = run("train", work.path("stars.h5"), model, *words)
    assert seeds == [4, 5]
    assert "A mixture of 2 networks" in said.stdout
    assert "what lies between them of the model's variance" in said.stdout
    found = ss.read_laplace(model)
    for one, expected in zip(found.posteriors, work.posteriors, strict=False):
        np.testing.assert_array_equal(one.theta, expected.theta)
    said = run("train", work.path("stars.h5"), tmp_path / "no.h5", "--hidden", "linear",
               "--starts", 2, code=1)  # fmt: skip
    assert "a linear network has one minimum, where all of 2 starts would end" in said.stderr


def test_the_network_that_auto_chose_is_the_first_start(work, monkeypatch):
    monkeypatch.setattr(starts, "fit_network", lambda *given, seed, **more: work.posteriors[seed])
    first, second, _ = work.posteriors
    options = FitOptions(hidden=(3,))
    found = starts.fit_starts(work.known, options, n_starts=2, first=first)
    assert found.posteriors == (first, second)
    assert starts.fit_starts(work.known, options, first=first) is first
    with pytest.raises(ss.OptionError, match="a linear network has one minimum"):
        starts.fit_starts(work.known, FitOptions(hidden=()), n_starts=2)
