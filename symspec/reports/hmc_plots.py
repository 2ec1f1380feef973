"""Figures of Hamiltonian Monte Carlo beside Laplace: Axes in, Axes out."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import norm

from symspec.errors import OptionError, ShapeError
from symspec.hmc.comparison import HmcComparison, find_outputs
from symspec.hmc.subsets import describe_subset
from symspec.reports.plots import COLOURS, GREY, label_axes
from symspec.spectra.spectra import with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import Dataset, DataTree

MAX_INTERVALS = 60  # more would overlap
MAX_STARS = 20  # each takes a row of panels, or several
_HMC, _LAPLACE = COLOURS[:2]
_OFFSET = 0.16  # of the two bars of a star, of the distance between stars
_N_TICKS = 8
_N_BINS = 50
_LEGEND_WIDTH = 22  # letters


def plot_hmc_intervals(
    comparison: HmcComparison, *, axes: Sequence[Axes] | None = None
) -> np.ndarray:
    """Draw the intervals of Laplace and of Hamiltonian Monte Carlo side by side, one panel a label.

    Thick bars reach from the quantile of 16 % to that of 84 %, thin bars from 2.5 % to 97.5 %, and
    points are medians, all relative to the star's Laplace mean. From left to right that mean
    increases; of more than 60 stars 60 are drawn, evenly spaced in this order. Titles give the
    verdict, which is on all stars.

    Parameters
    ----------
    comparison : HmcComparison
    axes : sequence of matplotlib Axes, optional
        One a label; by default a new figure, from top to bottom.

    Returns
    -------
    numpy.ndarray of matplotlib Axes

    Raises
    ------
    ShapeError
        `axes` do not fit the labels.
    """
    n_stars, n_labels = comparison.laplace_mean.shape
    panels = label_axes(axes, n_labels, (11.0, 0.5 + 2.7 * n_labels), stacked=True)
    places = np.unique(np.linspace(0, n_stars - 1, min(n_stars, MAX_INTERVALS)).round().astype(int))
    some = "" if len(places) == n_stars else f" ({len(places)} of {n_stars:,}, evenly spaced)"
    for c, panel in enumerate(panels):
        mean = comparison.laplace_mean[:, c]
        stars = np.argsort(mean, kind="stable")[places]
        x = np.arange(len(stars))
        panel.axhline(0, color=GREY, linewidth=0.6, zorder=1)
        _draw_intervals(
            panel, x - _OFFSET, comparison.laplace_quantiles[:, stars, c] - mean[stars], _LAPLACE
        )
        _draw_intervals(panel, x + _OFFSET, comparison.quantiles[:, stars, c] - mean[stars], _HMC)
        ticks = np.unique(np.linspace(0, len(x) - 1, min(len(x), _N_TICKS)).round().astype(int))
        n_decimals = max(0, 2 - int(np.floor(np.log10(np.ptp(mean) or 1.0))))
        panel.set(
            xlim=(-1, len(x)),
            xticks=ticks,
            xticklabels=[f"{v:.{n_decimals}f}" for v in mean[stars[ticks]]],
        )
        name = comparison.label_names[c]
        unit = comparison.label_units[c]
        panel.set_xlabel(f"stars in the order of Laplace's mean of {with_unit(name, unit)}{some}")
        panel.set_ylabel(f"{name} - Laplace's mean" + (f"\n[{unit}]" if unit else ""))
        panel.set_title(f"{name}: {comparison.verdict[c]}", loc="left", fontsize=10)
    panels[0].figure.align_ylabels(list(panels))
    _add_legend(panels[0], comparison)
    return panels


def plot_hmc_densities(
    comparison: HmcComparison, draws: DataTree, stars: Any, *, axes: Any = None
) -> np.ndarray:
    """Draw histograms of Hamiltonian Monte Carlo's draws with Laplace's normal densities.

    Rows are stars, columns are labels. Titles give `HmcComparison.sd_ratio` and
    `HmcComparison.shift`.

    Parameters
    ----------
    comparison : HmcComparison
    draws : xarray.DataTree
        Draws of `run_hmc`, with f of the comparison's stars.
    stars : int, sequence of int, slice or mask
        At most 20 of the comparison's stars, counted from 0.
    axes : array_like of matplotlib Axes, shape (star, label), optional
        By default a new figure.

    Returns
    -------
    numpy.ndarray of matplotlib Axes, shape (star, label)

    Raises
    ------
    ShapeError
        `draws` are of another number of stars or labels than the comparison, or `axes` do not fit.
    OptionError
        `draws` hold no f, or `stars` are none of the comparison's, or too many.
    """
    f = _select_stars(draws, stars, comparison)
    values = f["f"].transpose("check_star", "label", "chain", "draw").values
    shape = values.shape[:2]
    if axes is None:
        import matplotlib.pyplot as plt

        size = (2.0 + 2.9 * shape[1], 0.4 + 2.0 * shape[0])
        axes = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)[1]
    axes = np.asarray(axes, dtype=object)
    if axes.size != shape[0] * shape[1]:
        raise ShapeError(
            f"axes should be {shape} Axes, a row a star and a column a label, got {axes.shape}."
        )
    axes = axes.reshape(shape)
    for row, star in enumerate(f["check_star"].values):
        for c, panel in enumerate(axes[row]):
            normal = norm(comparison.laplace_mean[star, c], comparison.laplace_sd[star, c])
            _draw_density(panel, values[row, c].ravel(), normal)
            ratio = comparison.sd_ratio[star, c]
            shift = comparison.shift[star, c]
            panel.set_title(f"sd ratio {ratio:.2f}, shift {shift:.2f}", fontsize=9)
            if row == shape[0] - 1:
                panel.set_xlabel(with_unit(comparison.label_names[c], comparison.label_units[c]))
        axes[row, 0].set_ylabel(f"star {star}\ndensity")
    _add_legend(axes[0, -1], comparison)
    return axes


def plot_hmc_traces(
    draws: DataTree, stars: Any, *, comparison: HmcComparison | None = None
) -> Figure:
    """Draw traces and ranks of the network's outputs for some stars, to compare the chains.

    Rows are stars and labels. On the left are the draws, with triangles at divergences. On the
    right are the cumulative distributions of each chain's ranks among all draws, less the uniform
    one that they should follow: chains that agree stay near zero. p is the p-value of ArviZ's test
    for this, and black points contradict it.

    Parameters
    ----------
    draws : xarray.DataTree
        Draws of `run_hmc`.
    stars : int, sequence of int, slice or mask
        At most 20 of the stars that the draws hold f of, counted from 0.
    comparison : HmcComparison, optional
        Comparison on the same stars: adds units, R-hat and effective sample sizes.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ShapeError
        `draws` are of another number of stars or labels than the comparison.
    OptionError
        `draws` hold no f, or `stars` are none of theirs, or too many.

    Notes
    -----
    Vehtari et al. (2021), doi:10.1214/20-BA1221; Säilynoja et al. (2022),
    doi:10.1007/s11222-022-10090-6.
    """
    f = _select_stars(draws, stars, comparison)
    panels = _draw_traces_and_ranks(f, draws)
    rows = [(star, c) for star in f["check_star"].values for c in range(f.sizes["label"])]
    for (star, c), (trace, rank) in zip(rows, panels, strict=True):
        name = str(f["label"].values[c])
        title = f"star {star}, {name}"
        unit = ""
        if comparison is not None:
            unit = comparison.label_units[c]
            title += f": R-hat {comparison.rhat[star, c]:.3f}, ESS {comparison.ess[star, c]:,.0f}"
        trace.set_title(title, loc="left", fontsize=9)
        trace.set_ylabel(with_unit(name, unit), fontsize=9)
        trace.set_xlabel("draw")
        rank.set_ylabel("ECDF - uniform", fontsize=9)
        rank.set_xlabel("rank / number of draws")
    for panel in panels[:-1].flat:
        panel.set_xlabel("")
        panel.tick_params(labelbottom=False)
    figure = panels[0, 0].figure
    figure.align_ylabels(list(panels.flat))
    chains = [str(chain) for chain in f["chain"].values]
    handles = [_line(COLOURS[i % len(COLOURS)], name, 1.5) for i, name in enumerate(chains)]
    panels[0, 1].legend(
        handles=handles, title="chain", loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False
    )
    return figure


def _line(colour: str, name: str, width: float) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linewidth=width, label=name)


def _add_legend(panel: Axes, comparison: HmcComparison) -> None:
    """Legend beside a panel, with the weights that vary where these are not all."""
    handles = [_line(_LAPLACE, f"Laplace\n({comparison.structure})", 3.0), _line(_HMC, "HMC", 3.0)]
    legend = panel.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9
    )
    if comparison.varied != describe_subset("all"):
        from matplotlib.font_manager import FontProperties

        title = textwrap.fill(f"What varies: {comparison.varied}.", _LEGEND_WIDTH)
        legend.set_title(title, prop=FontProperties(size=9))
        legend.set_alignment("left")


def _draw_intervals(panel: Axes, x: np.ndarray, quantiles: np.ndarray, colour: str) -> None:
    """Bars between quantiles (5, star), symmetric pairs around the median."""
    panel.vlines(x, quantiles[0], quantiles[4], color=colour, linewidth=0.9, zorder=2)
    panel.vlines(x, quantiles[1], quantiles[3], color=colour, linewidth=2.6, zorder=3)
    panel.plot(x, quantiles[2], "o", color="white", markersize=1.6, markeredgewidth=0, zorder=4)


def _draw_density(panel: Axes, values: np.ndarray, normal: Any) -> None:
    panel.hist(values, bins=_N_BINS, density=True, color=_HMC, alpha=0.45, histtype="stepfilled")
    mean = normal.mean()
    sd = normal.std()
    low = min(values.min(), mean - 4 * sd)
    high = max(values.max(), mean + 4 * sd)
    x = np.linspace(low, high, 400)
    panel.plot(x, normal.pdf(x), color=_LAPLACE, linewidth=1.5)
    panel.set(xlim=(low, high), ylim=(0, None), yticks=[])
    panel.locator_params(axis="x", nbins=4)
    panel.ticklabel_format(axis="x", useOffset=False)


def _select_stars(draws: DataTree, stars: Any, comparison: HmcComparison | None) -> Dataset:
    """Outputs f of some stars; their coordinate check_star is the index among all."""
    if "f" not in draws["posterior"]:
        raise OptionError(
            "draws should hold f, the network's outputs, got none: give run_hmc(..., X_check=X)."
        )
    f = find_outputs(draws)[["f"]]
    n_stars = f.sizes["check_star"]
    if comparison is not None and comparison.laplace_mean.shape != (n_stars, f.sizes["label"]):
        raise ShapeError(
            f"draws should hold f of the comparison's {comparison.laplace_mean.shape} stars and"
            f" labels, got {(n_stars, f.sizes['label'])}: compare_hmc(laplace, draws, X_check) with"
            " the X_check of run_hmc."
        )
    places = stars if isinstance(stars, slice) else np.asarray(stars)
    try:
        chosen = np.atleast_1d(np.arange(n_stars)[places])
    except IndexError as error:
        raise OptionError(
            f"stars should be among the {n_stars}, 0 to {n_stars - 1}, NumPy says: {error}."
        ) from error
    chosen = np.array(list(dict.fromkeys(chosen.ravel())))  # each once, in the order given
    if not 0 < len(chosen) <= MAX_STARS:
        raise OptionError(
            f"stars should be 1 to {MAX_STARS} of the {n_stars}, got {len(chosen)}: choose some."
        )
    return f.isel(check_star=chosen).assign_coords(check_star=chosen)


def _draw_traces_and_ranks(f: Dataset, draws: DataTree) -> np.ndarray:
    """Panels (star and label, 2) of a new figure."""
    import arviz_plots
    import xarray as xr
    from arviz_base import rc_context

    n_rows = f.sizes["check_star"] * f.sizes["label"]
    groups = {"posterior": f}
    if "sample_stats" in draws:
        groups["sample_stats"] = draws["sample_stats"].to_dataset()
    with rc_context({"plot.max_subplots": None}):
        collection = arviz_plots.PlotCollection.grid(
            f.expand_dims(column=["trace", "rank"]),
            rows=["check_star", "label"],
            cols=["column"],
            aes={"color": ["chain"], "overlay": ["chain"]},
            color=list(COLOURS),
            backend="matplotlib",
            figure_kwargs={"figsize": (11.0, 0.6 + 1.5 * n_rows), "layout": "constrained"},
        )
    tree = xr.DataTree.from_dict(groups)
    collection.coords = {"column": "trace"}
    arviz_plots.plot_trace(
        tree,
        var_names=["f"],
        plot_collection=collection,
        visuals={
            "title": False,
            "trace": {"width": 0.4, "alpha": 0.7},
            "divergence": {"marker": "^", "size": 14},  # the default "|" warns
        },
    )
    collection.coords = {"column": "rank"}
    arviz_plots.plot_rank(
        tree,
        var_names=["f"],
        plot_collection=collection,
        visuals={"title": False, "remove_axis": False, "ecdf_lines": {"width": 1.0}},
    )
    collection.coords = None
    panels = collection.viz["plot"]
    return panels.transpose("check_star", "label", "column").values.reshape(n_rows, 2)
