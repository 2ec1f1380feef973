"""The section on single training stars: those that move predictions most, and suspicious ones."""

from __future__ import annotations

import numpy as np

from symspec.errors import OptionError
from symspec.mixtures.identity import name_each
from symspec.mixtures.left_out import AnyLeftOut
from symspec.mixtures.posterior import AnyPosterior, list_posteriors
from symspec.reports.influence import describe_unknown
from symspec.reports.pages.figures.parts import Block, Cell, Paragraph, Section, Table
from symspec.reports.pages.figures.samples import Sample
from symspec.reports.pages.figures.words import Words, number, numbers
from symspec.reports.tables import format_with_error
from symspec.spectra.selections import pick_evenly
from symspec.spectra.spectra import Spectra, with_unit
from symspec.validation.influence import find_suspects, find_unknown

MOST_ROWS = 10
MOST_MOVED = 100  # stars whose predictions are looked at


def influence_section(
    laplace: AnyPosterior,
    training: Spectra | None,
    left_out: AnyLeftOut | None,
    of_left_out: Sample | None,
    stars: Spectra | None,
    words: Words,
) -> Section:
    """Two tables of training stars, or what it takes to have them.

    Parameters
    ----------
    laplace : LaplacePosterior
    training : Spectra, optional
        The training stars, filled.
    left_out : LeftOut or CombinedLeftOut, optional
        These, each left out in turn.
    of_left_out : Sample, optional
        Their predictions.
    stars : Spectra, optional
        Stars whose predictions are moved; by default the training stars.
    words : Words
    """
    blocks: list[Block]
    if training is None:
        blocks = [
            Paragraph(
                f"A model does not hold the {words.many} that it was trained on. With '--training"
                f" SPECTRA' this section lists those that move predictions most, and those whose"
                " labels contradict all others."
            )
        ]
    elif left_out is None or of_left_out is None:
        each = list_posteriors(laplace)
        blocks = [
            Paragraph(
                f"Training {words.many} cannot be left out in turn: that takes the Gauss-Newton"
                " matrix of all of them, and this inverse Hessian is"
                f" {name_each([f'{one.structure}, curvature {one.curvature}' for one in each])}."
            )
        ]
    else:
        blocks = [
            _list_suspicious(of_left_out, words),
            *_show_moved(laplace, left_out, training, stars, words),
        ]
    return Section("influence", f"Most influential {words.many}", blocks)


def _list_suspicious(left_out: Sample, words: Words) -> Table:
    """Training labels farthest from what all other stars say of them."""
    prediction = left_out.prediction
    found = find_suspects(prediction, np.asarray(left_out.true_labels), n_worst=MOST_ROWS)
    rows: list[list[Cell]] = []
    for i, (star, c) in enumerate(zip(found.star, found.label, strict=True)):
        title = with_unit(prediction.label_names[c], prediction.label_units[c])
        predicted = format_with_error(float(found.predicted[i]), float(found.error[i]))
        value = number(float(found.value[i]))
        rows.append([left_out.name(star), title, value, predicted, number(float(found.z[i]))])
    return Table(
        caption=f"Training labels that contradict all other {words.many}",
        columns=[words.one, "label", "its label", f"predicted without the {words.one}", "z"],
        rows=rows,
        note="z: predicted, less the label, over the error. Of normal errors a z beyond 5 hardly"
        " ever comes of chance.",
    )


def _show_moved(
    laplace: AnyPosterior,
    left_out: AnyLeftOut,
    training: Spectra,
    stars: Spectra | None,
    words: Words,
) -> list[Block]:
    """Training stars by how far they move the predictions of some stars."""
    moved = training if stars is None else stars
    some = moved[pick_evenly(len(moved), MOST_MOVED)]
    try:
        changes = left_out.find_influence(some)
    except OptionError as error:
        return [Paragraph(f"What each of them moves is not known: {error}")]
    errors = laplace.predict(some, progress=False).errors
    names = [str(i) for i in range(len(training))] if training.ids is None else training.ids
    unknown = find_unknown(changes)
    share = changes / errors[:, :, None]
    share[:, :, unknown] = 0.0
    rms = np.sqrt(np.nanmean(share**2, axis=0))  # (label, training star)
    rms[:, unknown] = -1.0  # they rank last
    order = np.argsort(-rms.max(axis=0), kind="stable")[: min(MOST_ROWS, len(names) - len(unknown))]
    rows: list[list[Cell]] = []
    for star in order:
        most = np.nanmax(np.abs(share[:, :, star]))
        rows.append([str(names[star]), *numbers([*rms[:, star], most])])
    unsaid = describe_unknown([str(names[star]) for star in unknown])
    whose = f"{words.count(len(some))}" + (" of the training set" if stars is None else "")
    return [
        Table(
            caption=f"Training {words.many} that move predictions most",
            columns=[words.one, *laplace.net.label_names, "largest"],
            rows=rows,
            note=f"How far labels would move without the {words.one}, in units of their total"
            f" error: root mean square over {whose}, and the largest of any label{unsaid}.",
        )
    ]
