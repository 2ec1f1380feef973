"""The command `symspec train`: from spectra with labels to a model with error bars."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from symspec.cli.shared.files import read_labelled_spectra, write_or_keep
from symspec.cli.shared.options import (
    MODEL_SUFFIXES,
    Group,
    Memory,
    ObjectName,
    Overwrite,
    Reading,
    ReportPage,
    SpectraFile,
    Starts,
    Uncertainty,
    Validation,
    Weights,
    check_output,
    check_report,
    parse_reading,
)
from symspec.cli.shared.pages import write_page
from symspec.errors import OptionError, TooLargeError
from symspec.files.archives import write_laplace
from symspec.fitting.fit import FitOptions
from symspec.fitting.selection import HIDDEN, select
from symspec.fitting.start import build_start
from symspec.fitting.starts import fit_starts, has_one_minimum
from symspec.inverse_hessian.choice import INVERSES, check_structure, choose_structure
from symspec.laplace.posterior import LaplacePosterior
from symspec.mixtures.posterior import AnyPosterior
from symspec.networks.preprocessing import parse_preprocessing
from symspec.reports.contents import print_trained
from symspec.reports.tables import open_console, outlier_table, print_written, selection_table
from symspec.safety.options import check_choice
from symspec.spectra.selections import split_stars
from symspec.spectra.spectra import Spectra
from symspec.validation.outliers import find_outliers

AUTO = "auto"
LINEAR = "linear"
WIDEST = max(HIDDEN)
VARIED = ("hidden", "prior", "starts")  # by auto
NOISES = ("gaussian", "student-t", "predicted")
N_WORST = 10  # training labels shown, of those that count least

EXAMPLES = (
    "Examples: [bold]symspec train stars.h5 model.h5[/]\n\n"
    "[bold]symspec train stars.npz model.h5 --hidden 64 --hidden 16 --label TEFF --label LOGG[/]"
)

ModelOutput = Annotated[
    Path, typer.Argument(metavar="OUTPUT", help="The model, .h5.", show_default=False)
]
Hidden = Annotated[
    list[str],
    typer.Option(
        metavar="auto|linear|WIDTH",
        help="auto tries several networks, linear, then 4 to 32 units wide, and takes the smallest"
        " that predicts stars held out as well as the best. Or the width of a hidden layer; repeat"
        " for more.",
    ),
]
Activation = Annotated[str, typer.Option(help="tanh, relu, softplus, gelu, ...")]
Epochs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Passes of Adam through the stars; by default 200, or some 2,000 steps of each"
        " network that auto tries.",
        show_default=False,
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Stars in a step.")]
LearningRate = Annotated[float, typer.Option(min=0, help="Learning rate of Adam.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of first weights, split and batches.")]
Structure = Annotated[
    str, typer.Option(help="Structure of the inverse Hessian: auto is exact; kronecker, ...")
]
Tune = Annotated[
    bool,
    typer.Option("--tune/--no-tune", help="Set noise and prior by the evidence, or keep them."),
]
SigmaNoise = Annotated[
    list[float] | None,
    typer.Option(
        help=(
            "Scatter of the labels: one number, or one a label in turn; by default 0.3 of their"
            " spread."
        )
    ),
]
NoiseName = Annotated[
    str,
    typer.Option(
        metavar="gaussian|student-t|predicted",
        help=(
            "Noise of the labels: normal; with wide tails, where labels may be far out; or normal,"
            " as wide as the network says for each star."
        ),
    ),
]
Dof = Annotated[float, typer.Option(help="Degrees of freedom of --noise student-t; fewer: wider.")]
LabelErrors = Annotated[
    str,
    typer.Option(
        metavar="auto|none",
        help="Errors of the labels, from columns beside them (TEFF_ERR, E_TEFF, ...).",
    ),
]
Preprocess = Annotated[
    str,
    typer.Option(
        metavar="STEPS",
        help="What is done to spectra first, within the network, one after the other: absorbance"
        " (of reflectance; absorbance:100 of per cent), snv, msc, savgol:WINDOW:ORDER:DERIVATIVE,"
        " and last, center: all pixels over one scale, not each over its own; for example"
        " snv,savgol:11:2:1.",
    ),
]
PriorPrecision = Annotated[
    float, typer.Option(help="Precision of the weights' prior; kernels get it times their fan-in.")
]
Labels = Annotated[
    list[str] | None, typer.Option(help="Label to read, in this order; repeat for more.")
]


def train(
    spectra: SpectraFile,
    output: ModelOutput,
    hidden: Hidden = [AUTO],  # noqa: B006
    activation: Activation = "tanh",
    preprocess: Preprocess = "",
    epochs: Epochs = None,
    batch_size: BatchSize = 64,
    learning_rate: LearningRate = 1e-3,
    validation: Validation = 0.1,
    tune: Tune = True,
    noise: NoiseName = NOISES[0],
    dof: Dof = 4.0,
    sigma_noise: SigmaNoise = None,
    prior_precision: PriorPrecision = 1.0,
    label: Labels = None,
    label_errors: LabelErrors = "auto",
    group: Group = None,
    uncertainty: Uncertainty = None,
    read: Reading = None,
    seed: Seed = 0,
    starts: Starts = 1,
    weights: Weights = "equal",
    structure: Structure = "auto",
    memory: Memory = "8GB",
    report: ReportPage = None,
    object_name: ObjectName = "star",
    overwrite: Overwrite = False,
) -> None:
    """Train a network on spectra with labels, and keep it with its error bars.

    Adam first, then steps to the minimum (with --tune at the noise and prior of largest evidence),
    then the inverse Hessian with its certificate. The noise starts at 0.3 of each label's spread,
    around which the prior of predicted noise is, too; errors that the labels came with add to it.
    Several networks are tried, linear, wider and wider, and the smallest is kept whose log score on
    stars held out is within its standard error of the best; --hidden 32 trains one.
    With --starts 5 five networks are trained from other first weights, whose labels differ where
    the stars leave gaps: the error bars hold that, too.
    """
    check_output(output, overwrite, MODEL_SUFFIXES, spectra)
    check_report(report, overwrite, spectra, output)
    check_training(structure, preprocess, noise)
    widths = parse_hidden(hidden)
    reading = {"label_errors": label_errors, "group": group} | parse_reading(uncertainty, read)
    rest, held_out = split_stars(read_labelled_spectra(spectra, label, reading), validation, seed)
    options = FitOptions(
        hidden=WIDEST if widths is None else widths, activation=activation, preprocess=preprocess,
        sigma_noise=sigma_noise or None, prior_precision=prior_precision,
        dof=dof if noise == "student-t" else None, predicts_noise=noise == "predicted",
        epochs=epochs or FitOptions.epochs, batch_size=batch_size, learning_rate=learning_rate,
        tune=tune, structure=structure, memory=memory,
    )  # fmt: skip
    check_tunable(rest, options)
    laplace = _fit(rest, held_out, options, seed, starts, weights, widths is None, epochs)
    write_or_keep(partial(write_laplace, laplace=laplace, overwrite=overwrite), output)
    _print(laplace, rest, held_out, output)
    write_page(
        report, laplace, stars=held_out, training=rest, files={"training spectra": spectra},
        object_name=object_name, overwrite=overwrite,
    )  # fmt: skip


def _fit(
    stars: Spectra,
    held_out: Spectra | None,
    options: FitOptions,
    seed: int,
    starts: int,
    weights: str,
    tries_several: bool,
    epochs: int | None,
) -> AnyPosterior:
    """The network asked for, or the best of several, from so many starts."""
    first = None
    if tries_several:
        first, options = _select(stars, options, seed, epochs)
        starts = 1 if has_one_minimum(options) else starts
    return fit_starts(
        stars, options, n_starts=starts, weights=weights, seed=seed, held_out=held_out, first=first
    )


def _select(
    stars: Spectra, options: FitOptions, seed: int, epochs: int | None
) -> tuple[LaplacePosterior, FitOptions]:
    """Try several networks, and print how each of them did; the best, and how it is trained."""
    own = VARIED if epochs is not None else (*VARIED, "epochs")
    names = [field.name for field in fields(options) if field.name not in own]
    tried = select(stars, seed=seed, **{name: getattr(options, name) for name in names})
    open_console().print(selection_table(tried.candidates))
    return tried.laplace, tried.options


def _print(
    laplace: AnyPosterior, trained_on: Spectra, held_out: Spectra | None, output: Path
) -> None:
    console = open_console()
    print_trained(console, laplace, held_out)
    if isinstance(laplace, LaplacePosterior) and laplace.reg.noise.tail_dof is not None:
        outliers = find_outliers(laplace, trained_on, n_worst=N_WORST)
        console.print(outlier_table(outliers, laplace.reg.net, trained_on.ids))
    print_written(console, "model", output)


def check_training(structure: str, preprocess: str, noise: str) -> None:
    """Refuse words for a network that there are not, before any work.

    Raises
    ------
    OptionError
    """
    check_structure(structure, "ggn", {})
    parse_preprocessing(preprocess)
    check_choice(noise, "--noise", NOISES)


def parse_hidden(texts: list[str]) -> tuple[int, ...] | None:
    """Widths of the hidden layers, none for a linear network; None for auto.

    Raises
    ------
    OptionError
        A word that is neither, or beside others.
    """
    if texts == [AUTO]:
        return None
    if texts == [LINEAR]:
        return ()
    if all(text.isdecimal() and int(text) > 0 for text in texts):
        return tuple(map(int, texts))
    raise OptionError(
        "--hidden should be auto, linear, or the width of a hidden layer, a positive integer (again"
        f" for each further layer), got {' '.join(texts)}."
    )


def check_tunable(spectra: Spectra, options: FitOptions) -> None:
    """Refuse, before any training, to tune by products alone: that takes hours to days.

    Raises
    ------
    TooLargeError
        "auto" would take krylov for this many stars and weights.
    """
    if not options.tune or options.structure != "auto":
        return
    net = build_start(
        spectra, options.hidden, options.activation,
        sigma_noise=options.sigma_noise, predicts_noise=options.predicts_noise,
        preprocess=options.preprocess,
    ).net  # fmt: skip
    n_rows = int(np.count_nonzero(~np.isnan(np.asarray(spectra.labels))))
    chosen = choose_structure(net, n_rows, memory=options.memory).structure
    if not INVERSES[chosen].has_evidence_gradient:
        raise TooLargeError(
            f"tuning takes an exact inverse Hessian, which should fit in {options.memory}, but"
            f" {net.n_params:,} weights and {n_rows:,} labels do not: give more --memory,"
            " --no-tune with a --sigma-noise of your own, or an approximation such as --structure"
            " kronecker."
        )
