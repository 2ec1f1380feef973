"""The command symspec hmc: a model's error bars against Hamiltonian Monte Carlo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from symspec.cli.options import (
    MODEL_SUFFIXES,
    ModelFile,
    Overwrite,
    Reading,
    SpectraFile,
    Uncertainty,
    Validation,
    check_output,
    parse_reading,
    read_labelled_spectra,
)

if TYPE_CHECKING:
    from rich.console import Console

    from symspec.hmc.comparison import HmcComparison
    from symspec.laplace.posterior import LaplacePosterior

EXAMPLES = (
    "Examples: [bold]symspec hmc model.h5 stars.h5 draws.nc --plots figures[/]\n\n"
    "[bold]symspec hmc model.h5 stars.h5 draws.nc --subset last_layer --checked-model checked.h5[/]"
)
Draws = Annotated[
    Path, typer.Argument(metavar="OUTPUT", help="Draws to write, .nc.", show_default=False)
]
Check = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Stars to compare on; by default those that train set aside, or its own.",
    ),
]
SubsetWord = Annotated[
    str,
    typer.Option(help="What varies: all, last_layer, or a number of directions of the curvature."),
]
Table = Annotated[
    Path | None, typer.Option(help="Table by star, .ecsv or .csv.", show_default=False)
]
Plots = Annotated[
    Path | None, typer.Option(help="Folder for figures: intervals, densities, traces.")
]
CheckedModel = Annotated[
    Path | None,
    typer.Option(help="The model with the verdict on it, .h5: its catalogues are flagged by it."),
]


def hmc(
    model: ModelFile,
    spectra: SpectraFile,
    output: Draws,
    check: Check = None,
    n_check: Annotated[int, typer.Option(min=1, help="Stars to compare on, at most.")] = 200,
    subset: SubsetWord = "all",
    draws: Annotated[int, typer.Option(help="Draws kept of each chain.")] = 1000,
    tune: Annotated[int, typer.Option(help="Draws for adaptation, of each chain.")] = 1000,
    chains: Annotated[int, typer.Option(help="Chains, side by side.")] = 4,
    sampler: Annotated[
        str, typer.Option(help="nutpie, pymc, numpyro, blackjax; auto: nutpie if there.")
    ] = "auto",
    target_accept: Annotated[
        float | None,
        typer.Option(min=0.5, max=0.999, help="Nearer 1: fewer divergences. By default 0.95."),
    ] = None,
    theta_every: Annotated[
        int, typer.Option(min=0, help="Keep weights of every so manieth draw; 0: none.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the chains.")] = 0,
    validation: Validation = 0.1,
    train_seed: Annotated[
        int, typer.Option(min=0, help="The --seed of 'symspec train', which set stars aside.")
    ] = 0,
    table: Table = None,
    plots: Plots = None,
    checked_model: CheckedModel = None,
    max_hours: Annotated[float, typer.Option(help="Refuse what would take longer.")] = 24.0,
    uncertainty: Uncertainty = None,
    read: Reading = None,
    overwrite: Overwrite = False,
) -> None:
    """Check a model's error bars against Hamiltonian Monte Carlo, which makes no normal approximation.

    SPECTRA are the stars that the model was trained on, with their labels.
    """
    from symspec.cli import steps

    outputs = _Outputs(output, table, plots, checked_model, overwrite)
    outputs.check([path for path in (model, spectra, check) if path is not None])
    split = {"validation": validation, "seed": train_seed}
    laplace, training, sample = _read(
        model, spectra, check, parse_reading(uncertainty, read), split
    )
    words = {
        "sampler": sampler,
        "target_accept": target_accept,
        "theta_every": theta_every,
        "max_hours": max_hours,
    }
    words |= {"n_draws": draws, "n_tune": tune, "n_chains": chains, "seed": seed}
    words["subset"] = int(subset) if subset.isdigit() else subset
    outputs.write(laplace, *steps.sample_by_hmc(laplace, training, sample, n_check, **words))


@dataclass(frozen=True)
class _Outputs:
    """Where results go; `write` begins with the draws, which took longest."""

    draws: Path
    table: Path | None
    plots: Path | None
    model: Path | None
    overwrite: bool

    def check(self, inputs: list[Path]) -> None:
        from symspec.reports.star_tables import DRAWS_SUFFIXES, STAR_TABLE_SUFFIXES

        check_output(self.draws, self.overwrite, DRAWS_SUFFIXES, *inputs)
        for path, suffixes in ((self.table, STAR_TABLE_SUFFIXES), (self.model, MODEL_SUFFIXES)):
            if path is not None:
                check_output(path, self.overwrite, suffixes, *inputs)
        if self.plots is not None and self.plots.is_file():
            raise FileExistsError(
                f"{self.plots} should be a folder for figures, got a file: give another name."
            )

    def write(
        self, laplace: LaplacePosterior, draws: Any, flux: np.ndarray, ids: np.ndarray | None
    ) -> None:
        from symspec.files.archives import write_laplace
        from symspec.hmc.comparison import compare_hmc
        from symspec.reports import hmc_tables, star_tables, tables

        star_tables.write_draws(self.draws, draws, overwrite=self.overwrite)
        comparison = compare_hmc(laplace, draws, flux)
        console = tables.open_console()
        hmc_tables.print_comparison(console, comparison)
        tables.tell_written(console, "draws", self.draws)
        if self.table is not None:
            star_tables.write_comparison(self.table, comparison, ids, overwrite=self.overwrite)
            tables.tell_written(console, "comparison", self.table)
        if self.plots is not None:
            _plot(self.plots, comparison, draws, console)
        if self.model is not None:
            write_laplace(self.model, comparison.mark(laplace), overwrite=self.overwrite)
            tables.tell_written(console, "model with the verdict", self.model)


def _read(
    model: Path, spectra: Path, check: Path | None, reading: dict[str, Any], split: dict[str, Any]
) -> tuple:
    """The Laplace posterior, its training stars, and those to compare on."""
    from symspec.cli import steps
    from symspec.files.archives import read_laplace
    from symspec.spectra.grids import check_grid
    from symspec.spectra.readers.read import read_spectra

    laplace = read_laplace(model)
    net = laplace.reg.net
    stars = read_labelled_spectra(spectra, list(net.label_names), reading)
    check_grid(net, stars, str(spectra))
    training, others = steps.find_training_stars(laplace, stars, **split)
    if check is None:
        return laplace, training, training if others is None else others
    sample = read_spectra(check, **reading)
    check_grid(net, sample, str(check))
    return laplace, training, sample


def _plot(folder: Path, comparison: HmcComparison, draws: Any, console: Console) -> None:
    """Figures of all stars, and of those of smallest, median and largest ratio."""
    from symspec.reports import hmc_plots, tables
    from symspec.reports.plots import save_figure

    folder.mkdir(parents=True, exist_ok=True)
    order = np.argsort(comparison.sd_ratio.mean(axis=1))
    stars = order[np.unique([0, len(order) // 2, len(order) - 1])]
    figures = {
        "intervals": hmc_plots.plot_hmc_intervals(comparison)[0].figure,
        "densities": hmc_plots.plot_hmc_densities(comparison, draws, stars)[0, 0].figure,
        "traces": hmc_plots.plot_hmc_traces(draws, stars, comparison=comparison),
    }
    for name, figure in figures.items():
        tables.tell_written(console, "figure", save_figure(figure, folder / f"hmc_{name}.png"))
