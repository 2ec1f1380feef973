"""The command line: symspec demo | train | errors | audit | hmc | jacobian | info. It parses, calls and prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from symspec.cli_hmc import HMC_EXAMPLES, hmc
from symspec.cli_options import (
    MODEL_SUFFIXES,
    AnyFile,
    AuditOutput,
    AuditPlot,
    DemoFolder,
    Hidden,
    Labels,
    ModelFile,
    ModelOutput,
    Overwrite,
    PriorPrecision,
    Reading,
    SampleFile,
    SigmaNoise,
    SpectraFile,
    Structures,
    Tune,
    Uncertainty,
    Validation,
    check_output,
    escape,
    one_line,
    parse_reading,
    read_labelled_spectra,
    say,
)
from symspec.cli_survey import ERRORS_EXAMPLES, JACOBIAN_EXAMPLES, errors, jacobian

if TYPE_CHECKING:
    from symspec.networks import Network
    from symspec.spectra import Spectra

RIDGE_BASELINE = {"TEFF": 95.0, "LOGG": 0.26, "FE_H": 0.138}  # K, dex, dex


class _Commands(TyperGroup):
    """Turns errors that a user can mend into one line and exit code 1, and Ctrl-C into 130."""

    def invoke(self, ctx: Any) -> Any:
        from symspec.errors import SymspecError

        try:
            return super().invoke(ctx)
        except (SymspecError, OSError) as error:
            say(f"[bold red]Error:[/] {escape(one_line(error))}")
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            say("Interrupted: the output was not written.")
            raise typer.Exit(130) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the command `symspec`."""
    app(prog_name="symspec")


def _print_version(wanted: bool) -> None:
    if wanted:
        from symspec.version import __version__

        typer.echo(f"symspec {__version__}")
        raise typer.Exit


@app.callback()
def symspec(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Exact derivatives and honest error bars for regression networks on spectra."""


@app.command(epilog="Example: [bold]symspec demo --output symspec-demo[/]")
def demo(
    output: DemoFolder = Path("symspec-demo"),
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds and the first weights.")] = 0,
) -> None:
    """Train on real stars, and predict each of them, with error bars, by a network that never saw it."""
    from symspec import tables
    from symspec.demo import run_demo

    result = run_demo(output, folds=folds, seed=seed, progress=True)
    console, truth = tables.open_console(), result.spectra.labels
    title = f"{len(result.spectra):,} stars, each predicted while held out"
    console.print(tables.summary_table(result.prediction, truth, title=title, baseline=RIDGE_BASELINE))
    console.print(tables.fold_table(result.certificates, result.regressions))
    console.print(tables.star_table(result.prediction, result.spectra.ids, truth))
    for name, path in result.files.items():
        tables.tell_written(console, name, path)
    console.print(f"Done in {result.seconds:.0f} s.")


@app.command(
    epilog="Examples: [bold]symspec train stars.h5 model.h5[/]\n\n"
    "[bold]symspec train stars.npz model.h5 --hidden 64 --hidden 16 --label TEFF --label LOGG[/]"
)
def train(
    spectra: SpectraFile,
    output: ModelOutput,
    hidden: Hidden = [32],  # noqa: B006
    activation: Annotated[str, typer.Option(help="tanh, relu, softplus, gelu, ...")] = "tanh",
    epochs: Annotated[int, typer.Option(min=1, help="Passes of Adam through the stars.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, help="Stars in a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of Adam.")] = 1e-3,
    validation: Validation = 0.1,
    tune: Tune = True,
    sigma_noise: SigmaNoise = None,
    prior_precision: PriorPrecision = 1.0,
    label: Labels = None,
    uncertainty: Uncertainty = None,
    read: Reading = None,
    seed: Annotated[int, typer.Option(min=0, help="Of first weights, shares and batches.")] = 0,
    structure: Annotated[str, typer.Option(help="Of the inverse Hessian: auto is exact; kronecker, ...")] = "auto",
    memory: Annotated[str, typer.Option(help="What a factorisation may take.")] = "8GB",
    overwrite: Overwrite = False,
) -> None:
    """Train a network on spectra with labels, and keep it with its error bars.

    Adam first, then Newton steps to the minimum (with --tune at the noise and prior of largest evidence),
    then the inverse Hessian with its certificate. The noise starts at 0.3 of each label's spread.
    """
    check_output(output, overwrite, MODEL_SUFFIXES, spectra)
    from symspec import fitting, tables
    from symspec.archives import write_laplace
    from symspec.inverse_hessian.choice import check_structure

    check_structure(structure, "ggn", {})
    stars = read_labelled_spectra(spectra, label, parse_reading(uncertainty, read))
    rest, held_out = fitting.split_stars(stars, validation, seed)
    assumed = {"sigma_noise": sigma_noise or None, "prior_precision": prior_precision}
    start = fitting.build_start(rest, hidden, activation, **assumed)
    if tune:
        fitting.check_tunable(start, rest, structure, memory)
    adam = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    theta = fitting.run_adam(start, rest, held_out, **adam)
    with tables.show_spinner() as spin:
        laplace = fitting.finish(start, theta, rest, tune=tune, structure=structure, memory=memory, tell=spin)
    write_laplace(output, laplace, overwrite=overwrite)
    console = tables.open_console()
    tables.print_trained(console, laplace, held_out)
    tables.tell_written(console, "model", output)


app.command(epilog=ERRORS_EXAMPLES)(errors)


@app.command(
    epilog="Examples: [bold]symspec audit model.h5 stars.h5 --sample new.h5 --plot audit.png[/]\n\n"
    "[bold]symspec audit model.h5 stars.h5 --structure kronecker --structure last_layer[/]"
)
def audit(
    model: ModelFile,
    spectra: SpectraFile,
    sample: SampleFile = None,
    n_sample: Annotated[int, typer.Option(min=1, help="Training stars to compare on, without --sample.")] = 200,
    structure: Structures = None,
    plot: AuditPlot = None,
    output: AuditOutput = None,
    uncertainty: Uncertainty = None,
    read: Reading = None,
    memory: Annotated[str, typer.Option(help="What a factorisation may take.")] = "8GB",
    overwrite: Overwrite = False,
) -> None:
    """Hold the error bars of every structure of the inverse Hessian against the exact ones.

    SPECTRA are the stars that the model was trained on, with their labels.
    """
    from symspec import fitting, star_tables, tables
    from symspec.archives import read_regression
    from symspec.audit_files import write_audit
    from symspec.plots import plot_structure_audit, save_figure

    inputs = [path for path in (model, spectra, sample, plot) if path is not None]
    if output is not None:
        check_output(output, overwrite, star_tables.STAR_TABLE_SUFFIXES, *inputs)
    if plot is not None:
        check_output(plot, overwrite, None, *inputs[:-1])
    reg, theta = read_regression(model)
    stars, others = _read_audited(reg.net, spectra, sample, parse_reading(uncertainty, read))
    with tables.show_spinner() as spin:
        words = {"n_sample": n_sample, "structures": structure or (), "memory": memory, "tell": spin}
        result, ids = fitting.audit_spectra(reg, theta, stars, others, **words)
    console = tables.open_console()
    tables.print_audit(console, result)
    if output is not None:
        write_audit(output, result, ids, overwrite=overwrite)
        tables.tell_written(console, "audit", output)
    if plot is not None:
        save_figure(plot_structure_audit(result)[0].figure, plot)
        tables.tell_written(console, "figure", plot)


def _read_audited(
    net: Network, spectra: Path, sample: Path | None, reading: dict[str, Any]
) -> tuple[Spectra, Spectra | None]:
    """The training stars, and those to compare on if they are others."""
    from symspec.grids import check_grid
    from symspec.readers import read_spectra

    stars = read_labelled_spectra(spectra, list(net.label_names), reading)
    check_grid(net, stars, str(spectra))
    if sample is None:
        return stars, None
    others = read_spectra(sample, **reading)
    check_grid(net, others, str(sample))
    return stars, others


app.command(epilog=HMC_EXAMPLES)(hmc)
app.command(epilog=JACOBIAN_EXAMPLES)(jacobian)


@app.command(epilog="Example: [bold]symspec info model.h5[/]")
def info(
    file: AnyFile,
    uncertainty: Uncertainty = None,
    read: Reading = None,
) -> None:
    """Tell what a file is: a model with error bars, a network, also of another program, or spectra."""
    import h5py

    from symspec import archives, tables
    from symspec.importers import describe_file, is_foreign_network
    from symspec.readers import read_spectra

    console, kind, has_regression = tables.open_console(), None, False
    if file.is_file() and h5py.is_hdf5(file):
        with h5py.File(file, "r") as opened:
            kind, has_regression = opened.attrs.get("format"), "regression" in opened
        kind = kind.decode() if isinstance(kind, bytes) else kind
    if kind == archives.LAPLACE:
        tables.print_laplace(console, archives.read_laplace(file), str(file))
    elif kind == archives.NETWORK:
        reg = archives.read_regression(file)[0] if has_regression else None
        net = archives.read_network(file)[0] if reg is None else reg.net
        tables.print_network(console, net, reg, str(file))
    elif is_foreign_network(file):
        tables.print_foreign_network(console, describe_file(file), str(file))
    else:
        tables.print_spectra(console, read_spectra(file, **parse_reading(uncertainty, read)), str(file))


if __name__ == "__main__":
    main()
