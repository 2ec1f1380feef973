"""The structure audit against dense algebra, and on a gap in the data, where structures differ."""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist

import symspec as ss
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.reports import tables
from symspec.reports.star_tables import write_audit
from symspec.validation import neighbours
from symspec.validation.audit import AUDITED
from symspec.validation.neighbours import find_distances

TANH, RELU_FULL = "tanh-1-hidden-2-labels-own-units-missing", "relu-2-hidden-3-labels-full-noise"
# float64 rounding, 1e-16, times condition numbers of up to 1e6 (labels in K beside dex), and a
# margin
SOLVED = 1e-8

over_networks = pytest.mark.parametrize("problem", [TANH, RELU_FULL], indirect=True)


# --- ratios against dense algebra


def dense_sd(J, inverse):
    return np.sqrt(np.einsum("ncp,pq,ncq->nc", J, inverse, J))


@over_networks
@pytest.mark.parametrize("structure", ["primal", "dual", "krylov", "diagonal", "last_layer"])
def test_ratios_are_those_of_dense_inverses(problem, structure):
    audit = ss.audit_structures(
        problem.reg, problem.theta, problem.X, problem.Y, problem.X, structures=[structure]
    )
    A, J = problem.ggn(problem.theta), problem.theta_jacobian(problem.theta)
    exact = dense_sd(J, np.linalg.inv(A))
    last = [
        block
        for block in problem.net.layout.blocks
        if block.name.startswith(problem.net.layout.blocks[-2].name[:7])
    ]
    free = slice(last[0].offset, problem.net.n_params)
    inverse = np.zeros_like(A)
    inverse[free, free] = np.linalg.inv(A[free, free])
    inverse = {"diagonal": np.diag(1 / np.diag(A)), "last_layer": inverse}.get(
        structure, np.linalg.inv(A)
    )
    assert audit.structures == (structure,)
    assert audit.label_names == problem.net.label_names
    assert_allclose(audit.exact_sd, exact, rtol=SOLVED)
    assert_allclose(audit.exact_interval, np.stack([exact, exact], axis=-1), rtol=SOLVED)
    # krylov's default interval is 1 % wide, and its upper end is what is compared
    assert_allclose(
        audit.ratio[0], dense_sd(J, inverse) / exact, rtol=0.01 if structure == "krylov" else SOLVED
    )


@over_networks
def test_upper_bounds_are_never_below_the_exact_answer(problem):
    words = {"structures": ["low_rank", "dual_subset"], "options": {"low_rank": {"rank": 3}}}
    audit = ss.audit_structures(
        problem.reg, problem.theta, problem.X, problem.Y, problem.X, **words
    )
    assert audit.accuracy == ("upper bound", "upper bound")
    assert (audit.ratio >= 1 - SOLVED).all()
    assert (audit.ratio.max(axis=(1, 2)) > 1.01).all()


@pytest.mark.parametrize("problem", [TANH], indirect=True)
def test_the_dual_of_a_subset_of_all_stars_is_the_exact_one_and_one_spectrum_will_do(problem):
    words = {"structures": "dual_subset", "options": {"dual_subset": {"subset": 100}}}
    audit = ss.audit_structures(
        problem.reg, problem.theta, problem.X, problem.Y, problem.X[2], **words
    )
    assert_allclose(audit.ratio, np.ones((1, 1, 2)), rtol=SOLVED)
    assert audit.distance.tolist() == [0.0]
    assert not audit.outside.any()


# --- distances


@pytest.fixture(scope="module")
def cloud():
    rng = np.random.default_rng(3)
    X = rng.normal(
        5, [1, 100, 0.01, 0], size=(60, 4)
    )  # units differ, and the last pixel never varies
    sample = np.concatenate(
        [
            X[[7, 20]],
            rng.normal(5, [1, 100, 0.01, 3], size=(30, 4)),
            X[:3] + np.array([50, 0, 0, 0]),
        ]
    )
    return SimpleNamespace(X=X, sample=sample)


def brute_force(X, sample):
    scale = X[:, :3].std(axis=0) * np.sqrt(3)
    own = cdist(X[:, :3] / scale, X[:, :3] / scale)
    np.fill_diagonal(own, np.inf)
    distance = cdist(sample[:, :3] / scale, X[:, :3] / scale).min(axis=1)
    return distance, (own.min(axis=1)[None] < distance[:, None]).mean(axis=1)


@pytest.mark.parametrize("block_bytes", [2**26, 8 * 1000 * 7], ids=["one-block", "blocks-of-seven"])
def test_distances_and_quantiles_are_those_of_all_pairs(cloud, monkeypatch, block_bytes):
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", block_bytes)
    distance, quantile = find_distances(cloud.X, cloud.sample)
    expected = brute_force(cloud.X, cloud.sample)
    # differences of numbers near 5 and 5 +- 0.01, so that 1e-16 becomes 1e-13
    assert_allclose(distance, expected[0], rtol=1e-10, atol=1e-12)
    assert_allclose(quantile, expected[1], rtol=0, atol=1e-12)
    assert distance[:2].tolist() == quantile[:2].tolist() == [0.0, 0.0]
    assert quantile[-3:].tolist() == [1.0, 1.0, 1.0]
    assert 0.3 < quantile[2:-3].mean() < 0.7  # drawn as the training stars were


def test_some_training_stars_stand_for_all_where_there_are_many(cloud, monkeypatch):
    monkeypatch.setattr(neighbours, "REFERENCE_STARS", 40)
    distance, quantile = find_distances(cloud.X, cloud.sample)
    expected = brute_force(cloud.X, cloud.sample)
    assert_allclose(distance, expected[0], rtol=1e-10, atol=1e-12)
    assert_allclose(quantile * 40, np.round(quantile * 40), atol=1e-12)
    # 40 of 60 without replacement: a standard error of at most 0.5 / sqrt(40) * sqrt(20 / 59) =
    # 0.046
    assert np.abs(quantile - expected[1]).max() < 4 * 0.046
    np.testing.assert_array_equal(quantile, find_distances(cloud.X, cloud.sample)[1])


def test_training_stars_that_are_all_alike_are_refused():
    with pytest.raises(ss.DataError, match="X should hold training stars that differ, got 5"):
        find_distances(np.full((5, 3), 0.1, np.float32), np.zeros((2, 3)))


# --- the gap


@pytest.fixture(scope="module")
def gap():
    """A wave seen on both sides of a gap; the sample lies half in the data and half in the gap."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-3, -1, 75), rng.uniform(1, 3, 75)])[:, None]
    y = np.cos(2 * x) + 0.1 * rng.normal(size=x.shape)
    net = ss.mlp([1, 20, 20, 1], activation="tanh", label_names=["y"])
    reg = ss.Regression(net, sigma_noise=0.1, prior_precision=1.0)
    words = {"init": "glorot_uniform", "progress": False, "learning_rate": 0.005}
    theta = ss.train(reg, x, y, epochs=200, rng=np.random.default_rng(1), **words).theta
    theta = ss.polish(reg, theta, x, y, max_iterations=100).theta
    data = np.concatenate([np.linspace(-3, -1, 21), np.linspace(1, 3, 21)])
    sample = np.concatenate([data, np.linspace(-0.8, 0.8, 17)])[:, None]
    options = {"krylov": {"subset": 10, "tolerance": 1e-6}, "low_rank": {"rank": 10}}
    audit = ss.audit_structures(reg, theta, x, y, sample, options=options)
    return SimpleNamespace(
        reg=reg, theta=theta, X=x, Y=y, sample=sample, audit=audit, in_gap=np.arange(59) >= 42
    )


def test_the_gap_lies_outside_and_the_data_inside(gap):
    assert gap.audit.outside[gap.in_gap].all()
    # of the training stars themselves one in twenty is outside
    assert gap.audit.outside[~gap.in_gap].mean() < 0.2
    assert gap.audit.exact == "dual"


def test_every_structure_is_told_in_the_data_and_in_the_gap(gap):
    assert gap.audit.structures == AUDITED
    assert gap.audit.skipped == {}
    ratio = dict(zip(gap.audit.structures, gap.audit.ratio[:, :, 0], strict=True))
    medians = {
        name: (np.median(r[~gap.in_gap]), np.median(r[gap.in_gap])) for name, r in ratio.items()
    }
    for name in ("low_rank", "dual_subset"):  # upper bounds, whatever the problem
        assert (ratio[name] >= 1 - 1e-9).all()
    assert_allclose(ratio["krylov"], 1, rtol=0, atol=2e-6)
    # measured on this problem, and typical: too little in the gap, too much in the data
    assert medians["last_layer"][1] < 0.25 < 0.5 < medians["last_layer"][0]
    assert medians["diagonal"][0] > 3
    assert medians["diagonal"][1] < 0.8
    for name in ("kronecker", "ekfac"):
        assert medians[name][0] > 1.2
        assert medians[name][1] < 0.6


def test_krylov_brackets_the_exact_answer_at_every_iteration(gap):
    options = {"subset": 10, "tolerance": 1e-6}
    builder = InverseBuilder(gap.reg, gap.X, gap.Y, structure="krylov", options=options)
    inverse, tangents = builder.build(gap.theta), builder.tangents(gap.theta, gap.sample)
    exact = gap.audit.exact_sd[:, 0] ** 2
    for star, V in enumerate(exact):
        # alone in its Krylov space, so that there are many iterations; prior variances of up to 1e2
        # lose 1e-16 of
        # themselves on the way to variances of 1e-4
        bounds = np.array(
            [
                (low[0, 0, 0], high[0, 0, 0])
                for low, high in inverse.iterate_bounds(tangents[star : star + 1])
            ]
        )
        low, high = bounds.T
        assert len(bounds) > 5
        assert (low <= V * (1 + 1e-9)).all()
        assert (high >= V * (1 - 1e-9)).all()
        assert (np.diff(high) <= 1e-9 * V).all()
        assert high[0] > 1.05 * V
        assert_allclose(np.sqrt(low[-1]), np.sqrt(high[-1]), rtol=1e-6)


def test_where_no_factor_fits_krylov_is_the_reference_and_tells_its_interval(gap):
    words = {"structures": ["primal", "dual", "dual_subset"], "memory": "400KB"}
    audit = ss.audit_structures(gap.reg, gap.theta, gap.X, gap.Y, gap.sample, **words)
    assert audit.exact == "krylov"
    assert audit.reason.startswith("krylov: 481 parameters, 150 observed labels; primal ")
    low, high = np.moveaxis(audit.exact_interval, -1, 0)
    np.testing.assert_array_equal(high, audit.exact_sd)
    assert (low >= 0.999 * high).all()  # the tolerance
    assert (low <= gap.audit.exact_sd * (1 + 1e-9)).all()
    assert (high >= gap.audit.exact_sd * (1 - 1e-9)).all()
    assert audit.structures == ("dual_subset",)
    assert set(audit.skipped) == {"primal", "dual"}
    assert audit.skipped["dual"].startswith(
        "dual takes 0.000503 GiB for matrices of 150 rows, and memory='400KB'"
    )


# --- summary, words, files


@pytest.fixture(scope="module")
def small():
    """An audit made up: two structures, four stars, two labels, one star outside."""
    ratio = np.arange(1.0, 17.0).reshape(2, 4, 2)
    sd = np.ones((4, 2))
    return ss.StructureAudit(
        structures=("kronecker", "low_rank"),
        accuracy=("approximate", "upper bound"),
        exact="dual",
        reason="dual: as chosen.",
        exact_sd=2 * sd,
        exact_interval=np.stack([sd, 2 * sd], axis=-1),
        ratio=ratio,
        distance=np.array([0.0, 0.5, 1.0, 9.0]),
        quantile=np.array([0.0, 0.5, 0.95, 1.0]),
        seconds=(0.25, 12.5),
        label_names=("TEFF", "[Fe/H]"),
        skipped={"diagonal": "takes too much"},
    )


def test_the_summary_tells_each_structure_label_and_group(small):
    rows = small.summarize()
    assert [(r.structure, r.label, r.group, r.n_stars) for r in rows[:4]] == [
        ("kronecker", "TEFF", "inside", 3),
        ("kronecker", "TEFF", "outside", 1),
        ("kronecker", "[Fe/H]", "inside", 3),
        ("kronecker", "[Fe/H]", "outside", 1),
    ]
    assert [(r.minimum, r.median, r.maximum) for r in rows[4:]] == [
        (9, 11, 13),
        (15, 15, 15),
        (10, 12, 14),
        (16, 16, 16),
    ]
    inside = dataclasses.replace(small, quantile=np.zeros(4))
    assert {row.group for row in inside.summarize()} == {"inside"}


def test_the_table_holds_the_summary_and_what_was_left_out(small, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    tables.print_audit(tables.open_console(), small)
    said = " ".join(capsys.readouterr().out.split())
    assert "Ratio to the exact model error (dual): median (range)" in said
    assert "inside (3 stars) outside (1 stars)" in said
    assert "low_rank upper bound TEFF 11 (9 to 13) 15 (15 to 15) 12" in said
    assert "[Fe/H] 12 (10 to 14) 16 (16 to 16)" in said
    assert "Left out: diagonal: takes too much" in said
    assert "trained on" not in said
    tables.print_audit(
        tables.open_console(), dataclasses.replace(small, distance=np.zeros(4), exact="krylov")
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "All these stars were trained on" in said
    assert "intervals are at most 50.00% of the standard deviation wide" in said


@pytest.mark.parametrize("suffix", [".ecsv", ".csv"])
def test_an_audit_is_written_star_by_star(small, tmp_path, suffix):
    path = tmp_path / f"audit{suffix}"
    write_audit(path, small, ["a", "b", "c", "d"])
    table = Table.read(path, format={".ecsv": "ascii.ecsv", ".csv": "ascii.csv"}[suffix])
    assert list(table["ID"]) == ["a", "b", "c", "d"]
    assert_allclose(table["QUANTILE"], small.quantile, rtol=1e-14)
    assert_allclose(table["DISTANCE"], small.distance, rtol=1e-14)
    assert_allclose(table["[Fe/H]_LOW_RANK"], small.ratio[1, :, 1], rtol=1e-14)
    assert_allclose(table["TEFF_EXACT"], 2, rtol=1e-14)
    assert_allclose(table["TEFF_EXACT_LOW"], 1, rtol=1e-14)
    if suffix == ".ecsv":
        assert table.meta["ACCURACY_low_rank"] == "upper bound"
        assert table.meta["SKIPPED_diagonal"] == "takes too much"
    with pytest.raises(ss.FileKeptError, match="should not exist yet"):
        write_audit(path, small)
    write_audit(path, small, overwrite=True)
    with pytest.raises(ss.ShapeError, match=r"ids should have shape \(4,\)"):
        write_audit(path, small, ["a"], overwrite=True)
    words = "should end in one of .ecsv, .csv, which says the format, got 'audit.txt'"
    with pytest.raises(ss.OptionError, match=re.escape(words)):
        write_audit(tmp_path / "audit.txt", small)


@pytest.mark.parametrize("problem", [TANH], indirect=True)
def test_structures_that_refuse_are_left_out_with_their_reason(problem):
    words = {"structures": ["kronecker", "diagonal"], "options": {"kronecker": {"rank": 3}}}
    told = []
    audit = ss.audit_structures(
        problem.reg, problem.theta, problem.X, problem.Y, problem.X, callback=told.append, **words
    )
    assert audit.structures == ("diagonal",)
    assert audit.ratio.shape == (1, len(problem.X), 2)
    assert "should be given options among none, got 'rank'" in audit.skipped["kronecker"]
    assert told == ["distances", "exact", "kronecker", "diagonal"]


@pytest.mark.parametrize("problem", [TANH], indirect=True)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"structures": ["kroneker"]}, "got 'kroneker': did you mean 'kronecker'?"),
        ({"structures": ["auto"]}, "structures should be one of 'primal', 'dual', 'krylov'"),
        (
            {"structures": ["diagonal"], "options": {"low_rank": {}}},
            "audited (diagonal), got some for 'low_rank'",
        ),
    ],
    ids=["slip", "auto", "options-of-another"],
)
def test_words_that_mean_nothing_are_refused(problem, words, message):
    with pytest.raises(ss.OptionError, match=re.escape(message)):
        ss.audit_structures(problem.reg, problem.theta, problem.X, problem.Y, problem.X, **words)


@pytest.mark.parametrize("problem", [TANH], indirect=True)
def test_a_sample_of_another_length_is_refused_by_its_name(problem):
    with pytest.raises(ss.ShapeError, match=r"X_sample should have shape \(star, 5\)"):
        ss.audit_structures(problem.reg, problem.theta, problem.X, problem.Y, problem.X[:, 1:])


# --- spectra in place of arrays


@pytest.mark.parametrize("problem", [TANH], indirect=True)
def test_spectra_stand_for_flux_and_labels(problem):
    """The labels come under the network's names, in whatever order the spectra have them."""
    names = problem.net.label_names[::-1]
    stars = ss.Spectra(flux=problem.X, labels=problem.Y[:, ::-1], label_names=names)
    arguments = problem.reg, problem.theta
    words = {"structures": ["diagonal"], "progress": False}
    audit = ss.audit_structures(*arguments, stars, X_sample=problem.X[:3], **words)
    plain = ss.audit_structures(*arguments, problem.X, problem.Y, problem.X[:3], **words)
    np.testing.assert_array_equal(audit.ratio, plain.ratio)
    np.testing.assert_array_equal(audit.exact_sd, plain.exact_sd)
    with pytest.raises(ss.OptionError, match="X_sample should hold the stars to compare on, got N"):
        ss.audit_structures(*arguments, stars)
