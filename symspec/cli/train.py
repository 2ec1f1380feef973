"""The command symspec train: from spectra with labels to a model with error bars."""

from __future__ import annotations

from typing import Annotated

import typer

from symspec.cli.options import (
    MODEL_SUFFIXES,
    Hidden,
    Labels,
    ModelOutput,
    Overwrite,
    PriorPrecision,
    Reading,
    SigmaNoise,
    SpectraFile,
    Tune,
    Uncertainty,
    Validation,
    check_output,
    parse_reading,
    read_labelled_spectra,
)

EXAMPLES = (
    "Examples: [bold]symspec train stars.h5 model.h5[/]\n\n"
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
    structure: Annotated[
        str, typer.Option(help="Of the inverse Hessian: auto is exact; kronecker, ...")
    ] = "auto",
    memory: Annotated[str, typer.Option(help="What a factorisation may take.")] = "8GB",
    overwrite: Overwrite = False,
) -> None:
    """Train a network on spectra with labels, and keep it with its error bars.

    Adam first, then Newton steps to the minimum (with --tune at the noise and prior of largest
    evidence), then the inverse Hessian with its certificate. The noise starts at 0.3 of each
    label's spread.
    """
    check_output(output, overwrite, MODEL_SUFFIXES, spectra)
    from symspec.cli import steps
    from symspec.files.archives import write_laplace
    from symspec.inverse_hessian.choice import check_structure
    from symspec.reports import tables

    check_structure(structure, "ggn", {})
    stars = read_labelled_spectra(spectra, label, parse_reading(uncertainty, read))
    rest, held_out = steps.split_stars(stars, validation, seed)
    assumed = {"sigma_noise": sigma_noise or None, "prior_precision": prior_precision}
    start = steps.build_start(rest, hidden, activation, **assumed)
    if tune:
        steps.check_tunable(start, rest, structure, memory)
    adam = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    theta = steps.run_adam(start, rest, held_out, **adam)
    with tables.show_spinner() as spin:
        laplace = steps.finish(
            start, theta, rest, tune=tune, structure=structure, memory=memory, tell=spin
        )
    write_laplace(output, laplace, overwrite=overwrite)
    console = tables.open_console()
    tables.print_trained(console, laplace, held_out)
    tables.tell_written(console, "model", output)
