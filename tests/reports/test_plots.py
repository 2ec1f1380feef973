"""Figures show the numbers given, with units, and no two names of lines touch."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest

from symspec.errors import OptionError, ShapeError
from symspec.laplace.prediction import Prediction
from symspec.reports.plots import (
    plot_predicted_against_true,
    plot_structure_audit,
    save_figure,
)
from symspec.reports.sensitivity import plot_sensitivity
from symspec.spectra.line_list import strong_lines
from symspec.validation.audit import StructureAudit
from symspec.validation.calibration import coverage, sigma_mad

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NAMES, UNITS = ("TEFF", "LOGG", "[Fe/H]"), ("K", "dex", "")
WAVELENGTH = np.linspace(3700.0, 7300.0, 400)
WORDS = {"label_names": NAMES, "label_units": UNITS}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def jacobian():
    return np.random.default_rng(0).normal(size=(3, WAVELENGTH.size)) * [[1e4], [3.0], [1.0]]


@pytest.fixture
def stars():
    rng, n = np.random.default_rng(1), 50
    truth = rng.uniform([4000, 1, -2], [7000, 5, 0.5], size=(n, 3))
    errors = np.array([90.0, 0.25, 0.14]) * rng.uniform(0.5, 2, size=(n, 3))
    total = errors[:, :, None] * np.eye(3) * errors[:, None, :]
    labels = truth + errors * rng.normal(size=truth.shape)
    nothing = np.zeros(n, int)
    truth[:4, 1] = np.nan
    prediction = Prediction(
        labels=labels,
        model_cov=total,
        flux_cov=total,
        noise_cov=total,
        total_cov=total,
        flags=nothing,
        n_bad_pixels=nothing,
        has_flux_errors=True,
        label_names=NAMES,
        label_units=UNITS,
    )
    return prediction, truth


def names_of_lines(axes):
    return [child for child in axes.get_children() if isinstance(child, matplotlib.text.Annotation)]


@pytest.mark.parametrize("with_flux", [False, True], ids=["derivatives-only", "spectrum-on-top"])
def test_each_label_has_its_panel_with_its_derivatives_and_units(jacobian, with_flux):
    flux = np.cos(WAVELENGTH / 300) if with_flux else None
    axes = plot_sensitivity(jacobian, WAVELENGTH, flux=flux, **WORDS)
    assert len(axes) == 3 + with_flux
    for panel, row, name in zip(axes[with_flux:], jacobian, NAMES, strict=True):
        drawn = max(panel.lines, key=lambda line: len(line.get_xdata()))
        np.testing.assert_array_equal(drawn.get_xdata(), WAVELENGTH)
        np.testing.assert_array_equal(drawn.get_ydata(), row)
        assert panel.get_ylabel().startswith(f"d {name} / d flux")
    assert axes[int(with_flux)].get_ylabel().endswith("[K per unit of flux]")
    assert axes[-1].get_xlabel() == "wavelength [Angstrom]"
    assert axes[0].get_shared_x_axes().joined(axes[0], axes[-1])
    if with_flux:
        np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), flux)


@pytest.mark.parametrize(
    ("medium", "expected"), [(None, 6562.79), ("air", 6562.79), ("vacuum", 6564.60)]
)
def test_lines_are_marked_in_the_medium_of_the_wavelengths(medium, expected):
    """H alpha is at 6562.79 Angstrom in air, and at 6564.60 in vacuum."""
    wavelength = np.linspace(6540, 6590, 300)
    words = WORDS | {"wavelength_medium": medium}
    axes = plot_sensitivity(np.zeros((3, 300)), wavelength, **words)
    text = next(one for one in names_of_lines(axes[0]) if one.get_text() == "H-alpha")
    assert 6540 + 50 * text.xy[0] == pytest.approx(expected, abs=0.01)  # a share of the axis


@pytest.mark.parametrize("limits", [(3700.0, 7300.0), (3900.0, 9000.0), (5150.0, 5200.0)], ids=str)
def test_names_of_lines_are_whole_and_do_not_touch(limits):
    wavelength = np.linspace(*limits, 300)
    axes = plot_sensitivity(np.zeros((3, 300)), wavelength, flux=np.ones(300), **WORDS)
    figure = axes[0].figure
    figure.canvas.draw()
    texts = names_of_lines(axes[0])
    assert {text.get_text() for text in texts} == set(strong_lines(*limits))
    # of the words alone: the box of an annotation has its pointer in it
    boxes = [matplotlib.text.Text.get_window_extent(text) for text in texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    for box in boxes:
        assert box.y1 <= figure.bbox.y1
        assert box.x1 <= figure.bbox.x1
        assert box.y0 > axes[0].get_window_extent().y1


def test_lines_are_marked_where_they_are_and_only_within_the_range(jacobian):
    axes = plot_sensitivity(jacobian, WAVELENGTH, lines={"mine": 5000.0, "beyond": 9000.0}, **WORDS)
    (text,) = names_of_lines(axes[0])
    assert text.get_text() == "mine"
    assert text.xy[0] == pytest.approx((5000 - 3700) / 3600, rel=1e-12)
    for panel in axes:
        assert [
            line.get_xdata()[0] for line in panel.lines if list(line.get_ydata()) == [0, 1]
        ] == [5000.0]


@pytest.mark.parametrize(
    ("wavelength", "options", "label"),
    [(None, {}, "pixel"), (WAVELENGTH, {"wavelength_unit": "nm"}, "wavelength [nm]")],
    ids=["no-wavelength", "nanometres"],
)
def test_no_line_is_marked_where_the_wavelength_is_not_in_angstrom(
    jacobian, wavelength, options, label
):
    axes = plot_sensitivity(jacobian, wavelength, **options, **WORDS)
    assert names_of_lines(axes[0]) == []
    assert axes[-1].get_xlabel() == label


def test_panels_given_are_drawn_into(jacobian, stars):
    _, given = plt.subplots(3, 1)
    assert list(plot_sensitivity(jacobian, WAVELENGTH, axes=given, **WORDS)) == list(given)
    _, given = plt.subplots(1, 3)
    assert list(plot_predicted_against_true(*stars, axes=given)) == list(given)
    assert plt.get_fignums() == [1, 2]


def test_predicted_against_true_shows_points_bars_and_the_verdict(stars):
    prediction, truth = stars
    axes = plot_predicted_against_true(prediction, truth)
    scatter, covered = sigma_mad(prediction.labels - truth), coverage(prediction, truth)
    for c, panel in enumerate(axes):
        known = ~np.isnan(truth[:, c])
        points, identity = panel.lines
        np.testing.assert_array_equal(points.get_xdata(), truth[known, c])
        np.testing.assert_array_equal(points.get_ydata(), prediction.labels[known, c])
        np.testing.assert_array_equal(identity.get_xdata(), identity.get_ydata())
        (bars,) = panel.collections
        for (bottom, top), y, error in zip(
            [segment[:, 1] for segment in bars.get_segments()],
            prediction.labels[known, c],
            np.sqrt(prediction.total_cov[known, c, c]),
            strict=True,
        ):
            assert (bottom, top) == (pytest.approx(y - error), pytest.approx(y + error))
        (verdict,) = [text.get_text() for text in panel.texts]
        assert f"= {scatter[c]:.3g}" in verdict
        assert f"within 68 %: {100 * covered[0, c]:.0f} %" in verdict
        assert f"within 95 %: {100 * covered[1, c]:.0f} %" in verdict
    assert [panel.get_xlabel() for panel in axes] == [
        "true TEFF [K]",
        "true LOGG [dex]",
        "true [Fe/H]",
    ]


def test_a_label_without_any_truth_is_an_empty_panel(stars):
    prediction, truth = stars
    truth[:, 0] = np.nan
    axes = plot_predicted_against_true(prediction, truth)
    axes[0].figure.canvas.draw()
    assert "nan" in axes[0].texts[0].get_text()


def test_shapes_that_do_not_fit_are_refused_with_advice(jacobian, stars):
    with pytest.raises(
        ShapeError, match=r"got \(2, 3, 400\): for many stars give one, jacobian\[0\]"
    ):
        plot_sensitivity(np.stack([jacobian] * 2), WAVELENGTH, **WORDS)
    with pytest.raises(ShapeError, match=r"wavelength should have shape \(400,\)"):
        plot_sensitivity(jacobian, WAVELENGTH[1:], **WORDS)
    with pytest.raises(ShapeError, match="axes should be 4 Axes, got 3"):
        plot_sensitivity(jacobian, WAVELENGTH, flux=WAVELENGTH, axes=plt.subplots(3)[1], **WORDS)
    with pytest.raises(ShapeError, match="true_labels should have the shape"):
        plot_predicted_against_true(stars[0], stars[1][1:])
    with pytest.raises(ShapeError, match="axes should be 3 Axes, one a label, got 1"):
        plot_predicted_against_true(*stars, axes=plt.subplots()[1])


@pytest.fixture
def audit():
    """Two training stars, three among them, three farther out, the last of these nearest."""
    rng, shape = np.random.default_rng(2), (2, 8, 2)
    distance = np.array([0, 0, 0.1, 0.2, 0.3, 7, 8, 6.0])
    quantile = np.array([0, 0, 0.2, 0.5, 0.96, 1, 1, 1])
    sd = rng.uniform(1, 2, (8, 2))
    words = {
        "exact": "primal",
        "reason": "primal: as chosen.",
        "seconds": (1.0, 2.0),
        "label_names": NAMES[:2],
    }
    arrays = {
        "exact_sd": sd,
        "exact_interval": np.stack([sd, sd], axis=-1),
        "distance": distance,
        "quantile": quantile,
    }
    ratio = np.exp(rng.normal(size=shape))
    return StructureAudit(
        structures=("kronecker", "diagonal"),
        accuracy=("approximate",) * 2,
        ratio=ratio,
        **words,
        **arrays,
    )


def test_an_audit_has_a_panel_a_label_and_a_line_at_one(audit):
    axes = plot_structure_audit(audit)
    assert [panel.get_title() for panel in axes] == list(NAMES[:2])
    assert axes[0].get_ylabel() == "standard deviation / exact (primal)"
    for c, panel in enumerate(axes):
        assert panel.get_yscale() == "log"
        points = {
            line.get_label(): line
            for line in panel.lines
            if line.get_marker() not in (None, "None", "")
        }
        assert list(points) == ["kronecker", "diagonal"]
        assert len({line.get_color() for line in points.values()}) == 2
        for i, line in enumerate(points.values()):
            np.testing.assert_array_equal(line.get_ydata(), audit.ratio[i, :, c])
            x = line.get_xdata()
            np.testing.assert_array_equal(x[2:5], audit.quantile[2:5])
            assert (x[:2] < 0).all()
            assert (
                x[4] < 1 < x[7] < x[5] < x[6] < panel.get_xlim()[1]
            )  # in the order of their distances
        assert any(list(line.get_ydata()) == [1, 1] for line in panel.lines)
    (legend,) = [panel.get_legend() for panel in axes if panel.get_legend() is not None]
    assert [text.get_text() for text in legend.get_texts()] == ["kronecker", "diagonal"]


@pytest.mark.parametrize(
    ("distance", "quantile", "name"), [(0, 0, "training\nstars"), (7, 1, "farther\nthan all")]
)
def test_a_strip_alone_fills_the_panel(audit, distance, quantile, name):
    audit = replace(audit, distance=np.full(8, 1.0 * distance), quantile=np.full(8, 1.0 * quantile))
    panel = plot_structure_audit(audit)[0]
    assert [label.get_text() for label in panel.get_xticklabels()] == [name]
    left, right = panel.get_xlim()
    assert right - left < 0.4
    assert all(left < x < right for x in panel.lines[1].get_xdata())


def test_the_legend_of_an_audit_lies_beside_the_panels_and_in_the_figure(audit):
    axes = plot_structure_audit(audit)
    figure = axes[0].figure
    figure.canvas.draw()
    box = axes[-1].get_legend().get_window_extent()
    assert box.x0 >= axes[-1].get_window_extent().x1
    assert box.x1 <= figure.bbox.x1


def test_an_audit_without_such_stars_has_no_strips_and_goes_into_panels_given(audit):
    audit = replace(audit, distance=audit.distance + 1, quantile=np.linspace(0, 0.9, 8))
    _, given = plt.subplots(1, 2)
    axes = plot_structure_audit(audit, axes=given)
    assert list(axes) == list(given)
    assert plt.get_fignums() == [1]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == [
        "0",
        "0.25",
        "0.5",
        "0.75",
        "1",
    ]
    with pytest.raises(ShapeError, match="axes should be 2 Axes, one a label, got 1"):
        plot_structure_audit(audit, axes=given[0])


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".PDF", b"%PDF")], ids=str)
def test_a_figure_is_saved_under_its_name_alone(tmp_path, suffix, magic):
    path = tmp_path / f"figure{suffix}"
    path.write_text("an older one")
    assert save_figure(plt.figure(), path) == path
    assert path.read_bytes().startswith(magic)
    assert list(tmp_path.iterdir()) == [path]


def test_a_figure_that_fails_leaves_the_older_one_and_nothing_else(tmp_path, monkeypatch):
    path, figure = tmp_path / "figure.png", plt.figure()
    path.write_text("an older one")

    def fail(target, **_):
        target.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["an older one"]
    with pytest.raises(
        OptionError, match=r"figure\.what should end in one of .*\.png.*: rename it"
    ):
        save_figure(figure, tmp_path / "figure.what")
