"""Figures of Hamiltonian Monte Carlo show each star's own numbers, in the units that they name."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm

from symspec.errors import OptionError, ShapeError
from symspec.hmc.comparison import PROBABILITIES, HmcComparison
from symspec.reports.hmc_plots import (
    MAX_INTERVALS,
    plot_hmc_densities,
    plot_hmc_intervals,
    plot_hmc_traces,
)

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection

NAMES, UNITS = ("TEFF", "LOGG", "FE_H"), ("K", "dex", "dex")
N_STARS, N_CHAINS, N_DRAWS = 7, 4, 60
LAST_LAYER = "the last layer's weights, the others held fixed"


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def build_comparison(f, mean, sd):
    """As `compare_hmc` would, with convergence made up: that of the last label fails."""
    pooled, one = f.reshape(-1, *mean.shape), np.ones_like(mean)
    rhat = one * [1.001, 1.002, 1.3] + 1e-4 * np.arange(len(mean))[:, None]
    return HmcComparison(
        hmc_mean=pooled.mean(axis=0),
        hmc_sd=pooled.std(axis=0, ddof=1),
        laplace_mean=mean,
        laplace_sd=sd,
        sd_error=0.01 * sd,
        mean_error=0.01 * sd,
        quantiles=np.quantile(pooled, PROBABILITIES, axis=0),
        rhat=rhat,
        ess_bulk=1500 * one,
        ess_tail=1200 * one,
        divergences=0,
        n_draws=f.shape[0] * f.shape[1],
        pareto_k=0.4,
        label_names=NAMES,
        label_units=UNITS,
        structure="ggn primal",
        varied="all weights",
    )


def build_case(n_stars=N_STARS):
    """A comparison and its draws, twice as wide as Laplace in the first label."""
    rng = np.random.default_rng(0)
    mean = rng.uniform([4000, 1, -2], [7000, 5, 0.5], size=(n_stars, 3))
    sd = np.array([50.0, 0.1, 0.04]) * rng.uniform(0.5, 2, size=mean.shape)
    f = mean + [2.0, 1.0, 1.0] * sd * rng.normal(size=(N_CHAINS, N_DRAWS, *mean.shape))
    coords = {"chain": range(N_CHAINS), "draw": range(N_DRAWS)}
    posterior = xr.Dataset(
        {"f": (("chain", "draw", "check_star", "label"), f)},
        coords={**coords, "check_star": range(n_stars), "label": list(NAMES)},
    )
    diverging = np.zeros(f.shape[:2], bool)
    diverging[1, [5, 9]] = True
    stats = xr.Dataset({"diverging": (("chain", "draw"), diverging)}, coords=coords)
    return build_comparison(f, mean, sd), xr.DataTree.from_dict(
        {"posterior": posterior, "sample_stats": stats}
    )


@pytest.fixture(scope="module")
def case():
    return build_case()


def bars(panel):
    """Ends (2, star) and x (star,) of the bars: Laplace's thin and thick, then HMC's."""
    segments = [
        np.array(c.get_segments()) for c in panel.collections if isinstance(c, LineCollection)
    ]
    return [(s[:, :, 1].T, s[:, 0, 0]) for s in segments]


def legend_of(axes):
    (legend,) = [panel.get_legend() for panel in np.ravel(axes) if panel.get_legend() is not None]
    return legend


# --- intervals


def test_both_intervals_of_a_star_are_side_by_side_and_relative_to_its_laplace_mean(case):
    comparison, _ = case
    axes = plot_hmc_intervals(comparison)
    assert len(axes) == 3
    for c, panel in enumerate(axes):
        order = np.argsort(comparison.laplace_mean[:, c])
        mean, sd = comparison.laplace_mean[order, c], comparison.laplace_sd[order, c]
        hmc = comparison.quantiles[:, order, c] - mean
        laplace = norm.ppf(PROBABILITIES)[:, None] * sd
        expected = [laplace[[0, 4]], laplace[[1, 3]], hmc[[0, 4]], hmc[[1, 3]]]
        drawn = bars(panel)
        for (ends, _), wanted in zip(drawn, expected, strict=True):
            np.testing.assert_allclose(
                ends, wanted, rtol=1e-9, atol=1e-12
            )  # means of 5,000 are taken off
        (_, left), _, (_, right), _ = drawn
        assert (left < right).all()
        assert (right[:-1] < left[1:]).all()
        assert (
            right - left < left[1] - right[0]
        ).all()  # nearer to each other than to the next star


def test_panels_name_labels_units_and_verdicts(case):
    axes = plot_hmc_intervals(case[0])
    assert [panel.get_title(loc="left") for panel in axes] == [
        "TEFF: Laplace too small",
        "LOGG: agree",
        "FE_H: HMC not converged",
    ]
    assert [panel.get_ylabel().splitlines()[-1] for panel in axes] == ["[K]", "[dex]", "[dex]"]
    assert axes[0].get_xlabel() == "stars in the order of Laplace's mean of TEFF [K]"
    words = [text.get_text() for text in legend_of(axes).get_texts()]
    assert words == ["Laplace\n(ggn primal)", "HMC"]


def test_the_legend_gives_both_their_colours(case):
    axes = plot_hmc_intervals(case[0])
    laplace, hmc = [
        matplotlib.colors.to_rgb(line.get_color()) for line in legend_of(axes).get_lines()
    ]
    drawn = [
        tuple(c.get_color()[0][:3]) for c in axes[0].collections if isinstance(c, LineCollection)
    ]
    assert drawn == [laplace, laplace, hmc, hmc]
    panel = plot_hmc_densities(*case, 0)[0, 0]
    assert matplotlib.colors.to_rgb(panel.lines[0].get_color()) == laplace
    assert panel.patches[0].get_facecolor()[:3] == hmc


def test_ticks_tell_the_laplace_means_of_the_stars_at_them(case):
    comparison, _ = case
    for c, panel in enumerate(plot_hmc_intervals(comparison)):
        told = [float(label.get_text()) for label in panel.get_xticklabels()]
        wanted = np.sort(comparison.laplace_mean[:, c])[panel.get_xticks().astype(int)]
        np.testing.assert_allclose(
            told, wanted, atol=0.005 * np.ptp(wanted)
        )  # of their last decimal
        assert len(set(told)) == len(told)


def test_of_many_stars_some_are_drawn_and_the_figure_says_so():
    comparison, _ = build_case(500)
    axes = plot_hmc_intervals(comparison)
    for panel in axes:
        assert {len(x) for _, x in bars(panel)} == {MAX_INTERVALS}
        assert panel.get_xlabel().endswith(f"({MAX_INTERVALS} of 500, evenly spaced)")
    lowest, highest = np.argsort(comparison.laplace_mean[:, 0])[[0, -1]]
    thin = bars(axes[0])[0][0]
    half = norm.ppf(0.975) * comparison.laplace_sd[[lowest, highest], 0]
    np.testing.assert_allclose(thin[1, [0, -1]], half, rtol=1e-9)


def test_a_star_alone_is_drawn(case):
    axes = plot_hmc_intervals(case[0].select([3]))
    axes[0].figure.canvas.draw()
    assert [len(x) for _, x in bars(axes[0])] == [1] * 4


# --- densities


def test_densities_are_of_the_stars_asked_for_in_units_of_the_labels(case):
    comparison, draws = case
    stars = [4, 1]
    axes = plot_hmc_densities(comparison, draws, stars)
    assert axes.shape == (2, 3)
    f = draws["posterior"]["f"].values
    for row, star in enumerate(stars):
        assert axes[row, 0].get_ylabel().startswith(f"star {star}\n")
        for c, panel in enumerate(axes[row]):
            (histogram,) = panel.patches
            corners = histogram.get_xy()
            np.testing.assert_allclose(corners[:, 0].min(), f[:, :, star, c].min(), rtol=1e-9)
            np.testing.assert_allclose(corners[:, 0].max(), f[:, :, star, c].max(), rtol=1e-9)
            x, y = corners.T
            area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
            assert area == pytest.approx(1, rel=1e-6)  # differences of numbers near 5,000
            (curve,) = panel.lines
            mean, sd = comparison.laplace_mean[star, c], comparison.laplace_sd[star, c]
            x, y = curve.get_data()
            np.testing.assert_allclose(
                y, np.exp(-(((x - mean) / sd) ** 2) / 2) / sd / np.sqrt(2 * np.pi), rtol=1e-9
            )
            assert f"sd ratio {comparison.sd_ratio[star, c]:.2f}" in panel.get_title()
            assert panel.get_xlim()[0] <= f[:, :, star, c].min()
    assert [panel.get_xlabel() for panel in axes[-1]] == ["TEFF [K]", "LOGG [dex]", "FE_H [dex]"]


@pytest.mark.parametrize(
    ("stars", "expected"),
    [
        (3, [3]),
        (-1, [6]),
        (slice(0, 2), [0, 1]),
        ((5, 2, 5), [5, 2]),
        (np.arange(N_STARS) == 2, [2]),
    ],
    ids=["number", "from-the-end", "slice", "one-twice", "mask"],
)
def test_stars_are_chosen_as_numpy_would(case, stars, expected):
    axes = plot_hmc_densities(*case, stars)
    assert [panel.get_ylabel().split("\n")[0] for panel in axes[:, 0]] == [
        f"star {i}" for i in expected
    ]


# --- what both share


@pytest.mark.parametrize(
    "plot",
    [plot_hmc_intervals, lambda comparison: plot_hmc_densities(comparison, build_case()[1], 0)],
    ids=["intervals", "densities"],
)
def test_a_subset_of_weights_is_told_in_the_figure(case, plot):
    assert legend_of(plot(case[0])).get_title().get_text() == ""
    axes = plot(replace(case[0], varied=LAST_LAYER))
    legend = legend_of(axes)
    assert " ".join(legend.get_title().get_text().split()) == f"What varies: {LAST_LAYER}."
    figure = np.ravel(axes)[0].figure
    figure.canvas.draw()
    box, panels = (
        legend.get_window_extent(),
        [panel.get_window_extent() for panel in np.ravel(axes)],
    )
    assert not any(box.overlaps(panel) for panel in panels)
    assert box.x1 <= figure.bbox.x1


def test_panels_given_are_drawn_into(case):
    _, given = plt.subplots(3, 1)
    assert list(plot_hmc_intervals(case[0], axes=given)) == list(given)
    _, given = plt.subplots(2, 3)
    assert (plot_hmc_densities(*case, [0, 1], axes=given) == given).all()
    assert plot_hmc_densities(*case, 0, axes=given[0]).shape == (1, 3)
    assert plt.get_fignums() == [1, 2]


def test_shapes_that_do_not_fit_are_refused_with_advice(case):
    comparison, draws = case
    with pytest.raises(ShapeError, match="axes should be 3 Axes, one a label, got 1"):
        plot_hmc_intervals(comparison, axes=plt.subplots()[1])
    with pytest.raises(
        ShapeError, match=r"axes should be \(2, 3\) Axes, a row a star .* got \(3,\)"
    ):
        plot_hmc_densities(comparison, draws, [0, 1], axes=plt.subplots(3)[1])
    for refused in (
        lambda: plot_hmc_densities(comparison.select(slice(2)), draws, 0),
        lambda: plot_hmc_traces(draws, 0, comparison=comparison.select(slice(2))),
    ):
        with pytest.raises(
            ShapeError,
            match=r"of the comparison's \(2, 3\) stars and labels, got \(7, 3\): compare",
        ):
            refused()


@pytest.mark.parametrize(
    ("stars", "words"),
    [
        (7, "stars should be among the 7, 0 to 6, NumPy says: .*out of bounds"),
        ([0.5], "stars should be among the 7, .*integer"),
        (slice(0), "stars should be 1 to 20 of the 7, got 0: choose some"),
    ],
    ids=["beyond", "fraction", "none"],
)
def test_stars_that_are_not_there_are_refused(case, stars, words):
    with pytest.raises(OptionError, match=words):
        plot_hmc_densities(*case, stars)
    with pytest.raises(OptionError, match=words):
        plot_hmc_traces(case[1], stars)


def test_too_many_stars_and_draws_without_outputs_are_refused():
    comparison, draws = build_case(21)
    with pytest.raises(OptionError, match="stars should be 1 to 20 of the 21, got 21"):
        plot_hmc_densities(comparison, draws, slice(None))
    only_theta = xr.DataTree.from_dict(
        {"posterior": xr.Dataset({"theta": (("chain", "draw", "param"), np.ones((2, 5, 3)))})}
    )
    with pytest.raises(
        OptionError, match=r"draws should hold f.* got none: give run_hmc\(\.\.\., X_check=X\)"
    ):
        plot_hmc_traces(only_theta, 0)


# --- traces


def test_traces_and_ranks_have_a_row_a_star_and_label(case):
    comparison, draws = case
    figure = plot_hmc_traces(draws, [4, 1], comparison=comparison)
    panels = np.reshape(figure.axes, (6, 2))
    f = draws["posterior"]["f"].values
    for row, (star, c) in enumerate([(star, c) for star in (4, 1) for c in range(3)]):
        trace, rank = panels[row]
        title = trace.get_title(loc="left")
        assert title == f"star {star}, {NAMES[c]}: R-hat {comparison.rhat[star, c]:.3f}, ESS 1,200"
        assert trace.get_ylabel() == f"{NAMES[c]} [{UNITS[c]}]"
        assert len(trace.lines) == N_CHAINS
        for line, chain in zip(trace.lines, f[:, :, star, c], strict=True):
            np.testing.assert_array_equal(line.get_xdata(), np.arange(N_DRAWS))
            np.testing.assert_array_equal(line.get_ydata(), chain)
        diverged = np.concatenate([points.get_offsets()[:, 0] for points in trace.collections])
        assert sorted(diverged) == [5, 9]
        assert len(rank.lines) == N_CHAINS
    words = [text.get_text() for text in legend_of(panels).get_texts()]
    assert words == [str(chain) for chain in range(N_CHAINS)]
    for line, other, handle in zip(
        panels[0, 0].lines, panels[5, 1].lines, legend_of(panels).get_lines(), strict=True
    ):
        assert line.get_color() == other.get_color() == handle.get_color()
    assert [bool(panel.get_xlabel()) for panel in panels[:, 0]] == [False] * 5 + [True]


def test_ranks_tell_a_chain_that_is_elsewhere(case):
    _, draws = case
    f = draws["posterior"]["f"].copy()
    f[2, :, 0, 0] += 1e4
    figure = plot_hmc_traces(xr.DataTree.from_dict({"posterior": f.to_dataset()}), 0)
    shifted, fine = figure.axes[1], figure.axes[3]
    depth = [np.abs(line.get_ydata()).max() for line in shifted.lines]
    # all its ranks are in the last quarter, where a uniform ECDF is at 3/4
    assert depth[2] == pytest.approx(0.75, abs=2 / N_DRAWS)
    assert max(np.abs(line.get_ydata()).max() for line in fine.lines) < 0.3
    assert figure.axes[0].get_title(loc="left") == "star 0, TEFF"
    assert figure.axes[0].get_ylabel() == "TEFF"


def test_as_many_panels_as_the_stars_allow_are_drawn():
    _, draws = build_case(8)
    assert (
        len(plot_hmc_traces(draws, slice(None)).axes) == 8 * 3 * 2
    )  # more than ArviZ's own limit of 40
