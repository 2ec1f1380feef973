"""How labels predicted for held-out stars compare with the truth, as chemometrics reports it."""

from __future__ import annotations

import numpy as np
from rich.markup import escape
from rich.table import Table

from symspec.laplace.prediction import Prediction
from symspec.reports.tables import format_number, new_table
from symspec.spectra.spectra import with_unit
from symspec.validation.calibration import coverage
from symspec.validation.scores import find_mean_scores


def validation_table(prediction: Prediction, true_labels: np.ndarray, *, title: str) -> Table:
    """One row a label: RMSE, bias, R2 and RPD against the truth, how error bars hold, and scores.

    RMSE is the root of the mean squared residual and bias its mean; R2 is one minus the residuals'
    sum of squares over that of the labels about their mean, RPD the labels' standard deviation over
    RMSE. Scores are those of `find_mean_scores`.

    Parameters
    ----------
    prediction : Prediction
        Of stars held out.
    true_labels : numpy.ndarray, shape (star, label)
        NaN where the truth is not known.
    title : str
    """
    columns = ["label", "n", "RMSE", "bias", "R2", "RPD", "error", "in 68 %", "in 95 %"]
    columns += ["CRPS", "log score"]
    table = new_table(title, columns)
    table.caption = (
        "error: median error bar; RPD: spread of the labels over RMSE; CRPS: continuous ranked"
        " probability score, in the label's unit, smaller is better; log score: mean log density of"
        " the labels in nats, larger is better"
    )
    covered = coverage(prediction, true_labels)
    errors = prediction.errors
    scores = find_mean_scores(prediction, true_labels)
    for c, name in enumerate(prediction.label_names):
        known = ~np.isnan(true_labels[:, c])
        residuals = prediction.labels[known, c] - true_labels[known, c]
        rmse = np.sqrt(np.mean(residuals**2)) if known.any() else np.nan
        spread = np.std(true_labels[known, c]) if known.any() else np.nan
        cells = [
            f"{np.count_nonzero(known):,}",
            format_number(rmse),
            format_number(residuals.mean() if known.any() else np.nan),
            f"{1 - (rmse / spread) ** 2:.3f}" if spread > 0 else "-",
            f"{spread / rmse:.2f}" if rmse > 0 else "-",
            format_number(np.median(errors[known, c]) if known.any() else np.nan),
            *(f"{100 * share:.0f} %" for share in covered[:, c]),
            format_number(scores.crps[c]),
            f"{scores.log_score[c]:.3f}",
        ]
        table.add_row(escape(with_unit(name, prediction.label_units[c])), *cells)
    return table
