"""The command line: symspec demo | train | errors | audit | jacobian | info. It parses, calls and prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from symspec.spectra import Spectra

RIDGE_BASELINE = {"TEFF": 95.0, "LOGG": 0.26, "FE_H": 0.138}  # K, dex, dex
_MODEL_SUFFIXES = (".h5", ".hdf5")

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
Uncertainty = Annotated[
    Literal["std", "var", "ivar"] | None,
    typer.Option(help="What the flux's uncertainty in the file is, where its name does not tell."),
]
SpectraFile = Annotated[
    Path, typer.Argument(metavar="SPECTRA", help="HDF5, npz or CSV file of spectra.", show_default=False)
]
ModelFile = Annotated[
    Path, typer.Argument(metavar="MODEL", help="File written by 'symspec train'.", show_default=False)
]
ModelOutput = Annotated[Path, typer.Argument(metavar="OUTPUT", help="The model, .h5.", show_default=False)]
Hidden = Annotated[list[int], typer.Option(min=1, help="Width of a hidden layer; repeat for more.")]
Validation = Annotated[
    float,
    typer.Option(min=0, max=0.9, help="Share of stars never trained on, to test the errors; 0: none."),
]
Tune = Annotated[bool, typer.Option("--tune/--no-tune", help="Set noise and prior by the evidence, or keep them.")]
SigmaNoise = Annotated[
    list[float] | None,
    typer.Option(help="Scatter of the labels: one number, or one a label in turn; by default 0.3 of their spread."),
]
PriorPrecision = Annotated[
    float, typer.Option(help="Precision of the weights' prior; kernels get it times their fan-in.")
]
Labels = Annotated[list[str] | None, typer.Option(help="Label to read, in this order; repeat for more.")]
Catalogue = Annotated[
    Path,
    typer.Argument(metavar="CATALOGUE", help="Table to write: .fits, .ecsv or .h5.", show_default=False),
]
JacobianOutput = Annotated[Path, typer.Argument(metavar="OUTPUT", help="HDF5 file to write.", show_default=False)]
Plot = Annotated[Path | None, typer.Option(help="Figure of the mean over stars, by wavelength.", show_default=False)]
SampleFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Stars to compare on, best unlike the training stars; by default some of these."),
]
Structures = Annotated[list[str] | None, typer.Option(help="What to audit; repeat for more. By default all.")]
AuditPlot = Annotated[Path | None, typer.Option(help="Figure of the ratios, by distance.", show_default=False)]
AuditOutput = Annotated[Path | None, typer.Option(help="Table by star, .ecsv or .csv.", show_default=False)]
AnyFile = Annotated[Path, typer.Argument(metavar="FILE", help="A model, a network, or spectra.", show_default=False)]
DemoFolder = Annotated[Path, typer.Option(help="Folder for the catalogue and the figures.")]


class _Commands(TyperGroup):
    """Turns errors that a user can mend into one line and exit code 1, and Ctrl-C into 130."""

    def invoke(self, ctx: Any) -> Any:
        from symspec.errors import SymspecError

        try:
            return super().invoke(ctx)
        except (SymspecError, OSError) as error:
            _say(f"[bold red]Error:[/] {_escape(_one_line(error))}")
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            _say("Interrupted: the output was not written.")
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
    seed: Annotated[int, typer.Option(min=0, help="Of first weights, shares and batches.")] = 0,
    structure: Annotated[str, typer.Option(help="Of the inverse Hessian: auto is exact; kronecker, ...")] = "auto",
    memory: Annotated[str, typer.Option(help="What a factorisation may take.")] = "8GB",
    overwrite: Overwrite = False,
) -> None:
    """Train a network on spectra with labels, and keep it with its error bars.

    Adam first, then Newton steps to the minimum (with --tune at the noise and prior of largest evidence),
    then the inverse Hessian with its certificate. The noise starts at 0.3 of each label's spread.
    """
    _check_output(output, overwrite, _MODEL_SUFFIXES, spectra)
    from symspec import fitting, tables
    from symspec.archives import write_laplace
    from symspec.inverse_hessian.choice import check_structure

    check_structure(structure, "ggn", {})
    stars = _read_labelled_spectra(spectra, label, uncertainty)
    rest, held_out = fitting.split_stars(stars, validation, seed)
    start = fitting.build_start(
        rest, hidden, activation, sigma_noise=sigma_noise or None, prior_precision=prior_precision
    )
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


@app.command(
    epilog="Examples: [bold]symspec errors model.h5 stars.h5 catalogue.fits[/]\n\n"
    "[bold]symspec errors model.h5 stars.h5 catalogue.ecsv --uncertainty std[/]"
)
def errors(
    model: ModelFile,
    spectra: SpectraFile,
    catalogue: Catalogue,
    uncertainty: Uncertainty = None,
    overwrite: Overwrite = False,
) -> None:
    """Predict the labels of stars with their error bars, one row a star."""
    from symspec import fitting, tables
    from symspec.archives import read_laplace
    from symspec.readers import read_spectra
    from symspec.writers import SUFFIXES, write_catalogue

    _check_output(catalogue, overwrite, tuple(SUFFIXES), model, spectra)

    laplace = read_laplace(model)
    stars = read_spectra(spectra, uncertainty=uncertainty)
    _check_pixels(laplace.reg.net.n_pixels, model, stars, spectra)
    with tables.show_progress("predicting", len(stars)) as advance:
        prediction = fitting.predict_in_parts(laplace, stars, advance)
    truth = fitting.match_labels(stars, laplace.reg.net.label_names)
    write_catalogue(catalogue, prediction, stars.ids, overwrite=overwrite, true_labels=truth)
    console = tables.open_console()
    console.print(tables.star_table(prediction, stars.ids, truth))
    if truth is not None:
        title = f"Against the labels in {spectra.name}, honest if these stars were not trained on"
        console.print(tables.summary_table(prediction, truth, title=title))
    for line in tables.flag_lines(prediction):
        console.print(f"Flags: {_escape(line)}")
    if not prediction.has_flux_errors:
        console.print("The file has no uncertainties of the flux: errors are those of model and noise only.")
    tables.tell_written(console, "catalogue", catalogue)


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
    memory: Annotated[str, typer.Option(help="What a factorisation may take.")] = "8GB",
    overwrite: Overwrite = False,
) -> None:
    """Hold the error bars of every structure of the inverse Hessian against the exact ones.

    SPECTRA are the stars that the model was trained on, with their labels.
    """
    from symspec import fitting, tables
    from symspec.archives import read_regression
    from symspec.audit_files import AUDIT_SUFFIXES, write_audit
    from symspec.plots import plot_structure_audit, save_figure
    from symspec.readers import read_spectra

    inputs = [path for path in (model, spectra, sample, plot) if path is not None]
    if output is not None:
        _check_output(output, overwrite, AUDIT_SUFFIXES, *inputs)
    if plot is not None:
        _check_output(plot, overwrite, None, *inputs[:-1])
    reg, theta = read_regression(model)
    stars = _read_labelled_spectra(spectra, list(reg.net.label_names), uncertainty)
    _check_pixels(reg.net.n_pixels, model, stars, spectra)
    others = None if sample is None else read_spectra(sample, uncertainty=uncertainty)
    if others is not None:
        _check_pixels(reg.net.n_pixels, model, others, sample)
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


@app.command(
    epilog="Examples: [bold]symspec jacobian model.h5 stars.h5 jacobian.h5[/]\n\n"
    "[bold]symspec jacobian model.h5 stars.h5 jacobian.h5 --plot sensitivity.png[/]"
)
def jacobian(
    model: ModelFile,
    spectra: SpectraFile,
    output: JacobianOutput,
    plot: Plot = None,
    dtype: Annotated[Literal["float64", "float32"], typer.Option(help="Of the numbers.")] = "float64",
    uncertainty: Uncertainty = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the derivative of every label with respect to every pixel, for every star."""
    _check_output(output, overwrite, _MODEL_SUFFIXES, model, spectra)
    if plot is not None:
        _check_output(plot, overwrite, None, output, model, spectra)
    from symspec import tables
    from symspec.archives import read_network
    from symspec.jacobian_files import write_jacobian
    from symspec.readers import read_spectra

    net, theta = read_network(model)
    stars = read_spectra(spectra, uncertainty=uncertainty)
    _check_pixels(net.n_pixels, model, stars, spectra)
    with tables.show_progress("differentiating", len(stars)) as advance:
        mean = write_jacobian(output, net, theta, stars, dtype=dtype, overwrite=overwrite, advance=advance)
    console = tables.open_console()
    shape = f"(star {len(stars):,}, label {net.n_labels}, pixel {net.n_pixels:,})"
    tables.tell_written(console, f"jacobian {shape}", output)
    if plot is not None:
        _plot_mean(plot, mean, net, stars)
        tables.tell_written(console, "figure", plot)


@app.command(epilog="Example: [bold]symspec info model.h5[/]")
def info(
    file: AnyFile,
    uncertainty: Uncertainty = None,
) -> None:
    """Tell what a file is: a model with error bars, a network, or spectra."""
    import h5py

    from symspec import archives, tables
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
    else:
        tables.print_spectra(console, read_spectra(file, uncertainty=uncertainty), str(file))


def _check_output(path: Path, overwrite: bool, suffixes: tuple[str, ...] | None, *inputs: Path) -> None:
    """Refuse an output that could not be written, before any work; `suffixes` None means those of figures."""
    from symspec.errors import OptionError

    if suffixes is None:
        from symspec.plots import check_figure_suffix

        check_figure_suffix(path)
    elif not path.name.lower().endswith(suffixes):
        raise OptionError(f"{path} should end in one of {', '.join(suffixes)}: rename the output.")
    if any(path.resolve() == other.resolve() for other in inputs):
        raise OptionError(f"{path} is named twice, and would be overwritten: give the output another name.")
    if path.is_dir() or not path.parent.is_dir():
        raise FileNotFoundError(f"{path} should lie in a folder that exists: create {path.parent} first.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already: give another name, or --overwrite to replace it.")


def _check_pixels(n_pixels: int, model: Path, stars: Spectra, spectra: Path) -> None:
    from symspec.errors import ShapeError

    if stars.n_pixels != n_pixels:
        raise ShapeError(
            f"{model} takes spectra of {n_pixels:,} pixels, got {stars.n_pixels:,} in {spectra}: resample "
            "them to the wavelengths that the model was trained on, or train a model on these."
        )


def _read_labelled_spectra(path: Path, label: list[str] | None, uncertainty: str | None) -> Spectra:
    from symspec.errors import DataError
    from symspec.readers import read_spectra

    stars = read_spectra(path, label_names=label or None, uncertainty=uncertainty)
    if stars.labels is None:
        raise DataError(
            f"{path} should hold labels to train on, got none under the names known: name them in the file, "
            "labels with label_names, or TEFF, LOGG, FE_H; or say which to read, --label NAME."
        )
    return stars


def _plot_mean(path: Path, mean: Any, net: Any, stars: Spectra) -> None:
    from symspec.fitting import fill_flux
    from symspec.plots import plot_sensitivity, save_figure

    words = {"label_names": net.label_names, "label_units": net.label_units}
    flux = fill_flux(stars).mean(axis=0)
    axes = plot_sensitivity(mean, stars.wavelength, flux=flux, wavelength_unit=stars.wavelength_unit, **words)
    save_figure(axes[0].figure, path)


def _say(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, soft_wrap=True)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(" ".join([str(error), *getattr(error, "__notes__", ())]).split())


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
