"""The command `symspec hmc`: a model's error bars against Hamiltonian Monte Carlo."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from symspec.cli.shared.files import write_or_keep
from symspec.cli.shared.models import OneNetwork, read_one_network
from symspec.cli.shared.options import (
    MODEL_SUFFIXES,
    Fill,
    ModelFile,
    ObjectName,
    Overwrite,
    Reading,
    ReportPage,
    SpectraFile,
    TrainSeed,
    Uncertainty,
    Validation,
    check_output,
    check_report,
    parse_reading,
)
from symspec.cli.shared.pages import write_page
from symspec.cli.shared.signals import going_on
from symspec.cli.shared.training import read_training_stars
from symspec.files.archives import write_laplace
from symspec.hmc.comparison import HmcComparison, compare_hmc
from symspec.hmc.sampling import run_hmc
from symspec.laplace.posterior import LaplacePosterior
from symspec.reports.hmc_plots import plot_hmc_densities, plot_hmc_intervals, plot_hmc_traces
from symspec.reports.hmc_tables import print_comparison
from symspec.reports.plots import save_figure
from symspec.reports.star_tables import (
    DRAWS_SUFFIXES,
    STAR_TABLE_SUFFIXES,
    check_star_table,
    write_comparison,
    write_draws,
)
from symspec.reports.tables import open_console, print_written
from symspec.safety.interrupts import raise_if_interrupted
from symspec.spectra.flux_prior import FILL_WORDS, FluxPrior
from symspec.spectra.grids import check_grid
from symspec.spectra.readers.read import read_spectra
from symspec.spectra.selections import pick_evenly
from symspec.spectra.spectra import Spectra

if TYPE_CHECKING:
    from rich.console import Console
    from xarray import DataTree

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
SubsetName = Annotated[
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


NCheck = Annotated[int, typer.Option(min=1, help="Stars to compare on, at most.")]
NDraws = Annotated[int, typer.Option(help="Draws kept of each chain.")]
NTune = Annotated[int, typer.Option(help="Draws for adaptation, of each chain.")]
NChains = Annotated[int, typer.Option(help="Chains, side by side.")]
Sampler = Annotated[
    str, typer.Option(help="nutpie, pymc, numpyro, blackjax; auto: nutpie if there.")
]
TargetAccept = Annotated[
    float | None,
    typer.Option(min=0.5, max=0.999, help="Nearer 1: fewer divergences. By default 0.95."),
]
ThetaEvery = Annotated[
    int,
    typer.Option(min=0, help="Thinning of the weights kept: 10 keeps every tenth draw; 0 none."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the chains.")]
MaxHours = Annotated[float, typer.Option(help="Refuse what would take longer.")]


def hmc(
    model: ModelFile,
    spectra: SpectraFile,
    output: Draws,
    network: OneNetwork = None,
    check: Check = None,
    n_check: NCheck = 200,
    fill: Fill = "conditional",
    subset: SubsetName = "all",
    draws: NDraws = 1000,
    tune: NTune = 1000,
    chains: NChains = 4,
    sampler: Sampler = "auto",
    target_accept: TargetAccept = None,
    theta_every: ThetaEvery = 1,
    seed: Seed = 0,
    validation: Validation = 0.1,
    train_seed: TrainSeed = 0,
    table: Table = None,
    plots: Plots = None,
    checked_model: CheckedModel = None,
    max_hours: MaxHours = 24.0,
    uncertainty: Uncertainty = None,
    read: Reading = None,
    report: ReportPage = None,
    object_name: ObjectName = "star",
    overwrite: Overwrite = False,
) -> None:
    """Check a model's error bars by Hamiltonian Monte Carlo, which assumes no normal posterior.

    SPECTRA are the stars that the model was trained on, with their labels.
    """
    outputs = _Outputs(output, table, plots, checked_model, report, object_name, overwrite)
    outputs.check([path for path in (model, spectra, check) if path is not None])
    reading = parse_reading(uncertainty, read)
    laplace = read_one_network(model, network, "chains explore the posterior of one network")
    found = read_training_stars(laplace, spectra, reading, validation, train_seed)
    sample = found.compared
    if check is not None:
        sample = read_spectra(check, **reading)
        check_grid(laplace.reg.net, sample, str(check))
    some = sample[pick_evenly(len(sample), n_check)]
    if table is not None:
        check_star_table(table, some.ids, laplace.reg.net.label_names)
    how, flux = _fill(laplace, some, fill)
    with going_on(outputs.describe):
        sampled = run_hmc(
            laplace.reg, found.training, laplace=laplace, X_check=flux,
            subset=int(subset) if subset.isdigit() else subset, n_draws=draws, n_tune=tune,
            n_chains=chains, seed=seed, sampler=sampler, target_accept=target_accept,
            theta_every=theta_every, max_hours=max_hours,
        )  # fmt: skip
        sampled.attrs["fill"] = how
        outputs.write(laplace, sampled, flux, some.ids, found.training)


def _fill(laplace: LaplacePosterior, stars: Spectra, fill: str) -> tuple[str, np.ndarray]:
    """Words for how missing pixels are filled, and the flux (star, pixel)."""
    if stars.ivar is None:
        return "no pixels were missing", stars.flux
    prior = laplace.flux_prior
    if prior is None:  # of symspec 0.1
        fill = "mean"
        prior = FluxPrior.of_mean(laplace.flux_mean)
    return FILL_WORDS[fill], prior.complete(stars.flux, stars.ivar, fill).flux


@dataclass(frozen=True)
class _Outputs:
    """Files to write; `write` begins with the draws, which took longest."""

    draws: Path
    table: Path | None
    plots: Path | None
    model: Path | None
    report: Path | None
    object_name: str
    overwrite: bool

    def check(self, inputs: list[Path]) -> None:
        check_output(self.draws, self.overwrite, DRAWS_SUFFIXES, *inputs)
        if self.table is not None:
            check_output(self.table, self.overwrite, STAR_TABLE_SUFFIXES, *inputs)
        if self.model is not None:
            check_output(self.model, self.overwrite, MODEL_SUFFIXES, *inputs)
        check_report(self.report, self.overwrite, self.draws, self.table, self.model, *inputs)
        if self.plots is not None and self.plots.is_file():
            raise FileExistsError(
                f"{self.plots} should be a folder for figures, got a file: give another name."
            )

    def describe(self) -> str:
        """What an interrupt left, and how to go on."""
        if self.draws.exists():
            return f"the draws until then are in {self.draws}; other outputs were not written."
        return "the draws were not written; the same command starts again."

    def write(
        self,
        laplace: LaplacePosterior,
        draws: DataTree,
        flux: np.ndarray,
        ids: np.ndarray | None,
        training: Spectra,
    ) -> None:
        write_or_keep(partial(write_draws, draws=draws, overwrite=self.overwrite), self.draws)
        raise_if_interrupted()  # while the chains ran, which keep what they have
        comparison = compare_hmc(laplace, draws, flux)
        console = open_console()
        print_comparison(console, comparison)
        print_written(console, "draws", self.draws)
        if self.table is not None:
            write_comparison(self.table, comparison, ids, overwrite=self.overwrite)
            print_written(console, "comparison", self.table)
        if self.plots is not None:
            _plot(self.plots, comparison, draws, console)
        if self.model is not None:
            write_laplace(self.model, comparison.mark(laplace), overwrite=self.overwrite)
            print_written(console, "model with the verdict", self.model)
        write_page(
            self.report, comparison.mark(laplace), comparison=comparison, training=training,
            files={"draws": self.draws}, object_name=self.object_name, overwrite=self.overwrite,
        )  # fmt: skip


def _plot(folder: Path, comparison: HmcComparison, draws: DataTree, console: Console) -> None:
    """Figures of all stars, and of those of smallest, median and largest ratio."""
    folder.mkdir(parents=True, exist_ok=True)
    order = np.argsort(comparison.sd_ratio.mean(axis=1))
    stars = order[np.unique([0, len(order) // 2, len(order) - 1])]
    figures: dict[str, Any] = {
        "intervals": plot_hmc_intervals(comparison)[0].figure,
        "densities": plot_hmc_densities(comparison, draws, stars)[0, 0].figure,
        "traces": plot_hmc_traces(draws, stars, comparison=comparison),
    }
    for name, figure in figures.items():
        path = save_figure(figure, folder / f"hmc_{name}.png")
        print_written(console, "figure", path)
