"""A page on a cross-validation: how labels predicted for held-out stars compare with the truth."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from symspec.errors import DataError
from symspec.laplace.certificate import Certificate
from symspec.laplace.prediction import Prediction
from symspec.networks.regression import Regression
from symspec.reports.contents import list_layers
from symspec.reports.pages.figures.images import page_style
from symspec.reports.pages.figures.parts import Block, Cell, Page, Paragraph, Section, Table
from symspec.reports.pages.figures.samples import Sample
from symspec.reports.pages.figures.words import Words, number
from symspec.reports.pages.sample_sections import (
    budget_section,
    calibration_section,
    flag_section,
    residual_section,
    summarize,
)
from symspec.reports.pages.write import check_report, save_page
from symspec.reports.tables import format_noise, name_networks
from symspec.spectra.selections import find_groups
from symspec.spectra.spectra import Spectra
from symspec.workers.versions import find_versions


def write_validation_report(
    path: str | os.PathLike[str],
    prediction: Prediction,
    stars: Spectra,
    certificates: Sequence[Certificate],
    regressions: Sequence[Regression],
    *,
    n_networks: int = 1,
    object_name: str = "star",
    title: str = "",
    remark: str = "",
    about: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write what `symspec.validate` found as one HTML page, as `symspec.write_report` does.

    Parameters
    ----------
    path : str or path
        The page, .html.
    prediction : Prediction
        Of each star, while it was held out.
    stars : Spectra
        These stars, with their labels.
    certificates, regressions : sequences of Certificate and Regression
        One a network.
    n_networks : int, default 1
        Networks a fold, which predict together.
    object_name, title, about, overwrite
        As of `symspec.write_report`.
    remark : str, optional
        A sentence on how the predictions were made, beyond what each fold did.

    Raises
    ------
    OptionError
        The suffix is another one, or `object_name` is no word.
    DataError
        The stars have no labels.
    FileKeptError
        There is a file already, and `overwrite` is False.
    """
    path = Path(path)
    check_report(path, overwrite=overwrite)
    words = Words.of(object_name)
    if stars.labels is None:
        raise DataError("stars should have the labels that were predicted, got none.")
    networks, together = "network", ""
    if n_networks > 1:
        networks, together = f"{n_networks} networks", ", together"
    sample = Sample(
        heading=f"{words.many.capitalize()} held out",
        origin=f"Each {words.one} is predicted by the {networks} of the fold in which it and its"
        f" group were held out{together}.{f' {remark}' if remark else ''}",
        prediction=prediction,
        true_labels=np.asarray(stars.labels),
        ids=stars.ids,
    )
    samples = [sample]
    n_folds = len(certificates) // n_networks
    with page_style():
        page = Page(
            title or f"Cross-validation of {', '.join(prediction.label_names)}",
            [
                _summary_section(sample, stars, n_folds, words),
                budget_section(samples, words),
                residual_section(samples, words),
                calibration_section(samples, words),
                _fold_section(certificates, regressions, name_networks(n_folds, n_networks)),
                flag_section(samples, words),
                _provenance_section(about or {}),
            ],
        )
    return save_page(path, page, overwrite=overwrite)


def _summary_section(sample: Sample, stars: Spectra, n_folds: int, words: Words) -> Section:
    n_groups = np.unique(find_groups(stars)).size
    groups = "" if n_groups == len(stars) else f", of {n_groups:,} groups which were never parted,"
    return Section(
        "summary",
        "What was done",
        [
            Paragraph(
                f"{words.count(len(stars))}{groups} were divided into {n_folds} folds. Each was"
                f" held out once, and its {words.many} predicted, with error bars, by what was"
                " built and trained on the others alone."
            ),
            *summarize(sample),
        ],
    )


def _fold_section(
    certificates: Sequence[Certificate], regressions: Sequence[Regression], names: Sequence[str]
) -> Section:
    rows: list[list[Cell]] = [
        [
            name,
            certificate.verdict,
            number(certificate.newton_decrement),
            number(certificate.smallest_ratio),
            number(certificate.smallest_ratio_error),
            format_noise(reg),
        ]
        for name, certificate, reg in zip(names, certificates, regressions, strict=True)
    ]
    columns = ["fold", "the weights are", "Newton decrement [nats]", "lowest curvature ratio"]
    table = Table(
        caption="Certificate and noise of each fold",
        columns=[*columns, "its error bound", "sigma_noise"],
        rows=rows,
        note="At a minimum the decrement is at most 0.01 nats, and the ratio of the Hessian to the"
        " matrix that gives the error bars is above its error bound.",
    )
    layer_columns, layers = list_layers(regressions[0].net)
    blocks: list[Block] = [
        Table(caption="Layers of each", columns=layer_columns, rows=layers),
        table,
    ]
    return Section("folds", "Networks of the folds", blocks)


def _provenance_section(about: Mapping[str, str]) -> Section:
    versions = {f"version of {name}": number for name, number in find_versions().items()}
    rows = [[name, value] for name, value in (dict(about) | versions).items()]
    table = Table(caption="Where these numbers come from", columns=["what", "is"], rows=rows)
    return Section("provenance", "Provenance", [table])
