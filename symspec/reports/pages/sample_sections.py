"""Sections of a page on predicted stars: error budget, residuals, calibration, flags."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from symspec.laplace.flags import Flag
from symspec.reports.pages.figures.calibration_figures import coverage_figure, pit_figure
from symspec.reports.pages.figures.parts import Block, Cell, Number, Paragraph, Part, Section, Table
from symspec.reports.pages.figures.sample_figures import (
    budget_figure,
    residual_figure,
    snr_figure,
    z_figure,
)
from symspec.reports.pages.figures.samples import (
    Sample,
    find_coverage,
    find_median,
    find_scatter,
)
from symspec.reports.pages.figures.words import Words, count, number, numbers, percent
from symspec.reports.tables import describe_flags, format_to
from symspec.spectra.spectra import with_unit
from symspec.validation.calibration import find_binomial_error
from symspec.validation.scores import find_mean_scores

ASKED = (0.68, 0.95)  # levels that everybody asks for
MOST_LISTED = 100  # stars in a table
MOST_CELLS = 3000  # of numbers in it
_SCORES = (
    " Noises and networks are compared by their scores: the log score is the mean log density of"
    " the known labels, larger is better; CRPS the mean continuous ranked probability score, in the"
    " label's unit, smaller is better, which makes less of single outliers."
)


def summarize(sample: Sample) -> list[Block]:
    """What a reader wants to know first, one row a label."""
    return [*_warn(sample), _summary_table(sample)]


def _warn(sample: Sample) -> list[Block]:
    return [Paragraph(sample.warning, "warning")] if sample.warning else []


def _summary_table(sample: Sample) -> Table:
    columns = ["label", *sample.find_budget()]
    tested = [*_test_columns(sample)] if sample.is_tested else []
    rows: list[list[Cell]] = []
    for c, name in enumerate(_titles(sample)):
        cells = [number(find_median(error[:, c])) for error in sample.find_budget().values()]
        rows.append([name, *cells, *_test_label(sample, c)] if tested else [name, *cells])
    flux = " flux: what errors of the spectrum do;" if sample.prediction.has_flux_errors else ""
    return Table(
        caption=f"{sample.heading}: median errors"
        + (", and residuals against known labels" if tested else ""),
        columns=[*columns, *tested],
        rows=rows,
        note=f"{_explain_model(sample)};{flux} noise: the scatter of training labels, with what"
        " errors of the training flux did to them; total: the error bar.",
    )


def _explain_model(sample: Sample) -> str:
    if sample.between_cov is None:
        return "model: what the training set leaves open of the weights"
    return (
        "within: what the training set leaves open of the weights of each network; between: how far"
        " the networks are apart; both are errors of the model"
    )


def _test_columns(sample: Sample) -> list[str]:
    levels = _find_levels(sample)
    return ["known", "scatter", *(f"in {100 * level:g} %" for level in levels)]


def _test_label(sample: Sample, c: int) -> list[Cell]:
    residuals = sample.find_residuals()[:, c]
    n = int(np.isfinite(np.asarray(sample.true_labels)[:, c]).sum())
    covered = find_label_coverage(sample, c)
    return [count(n), number(find_scatter(residuals)), *map(percent, covered)]


def _find_levels(sample: Sample) -> Sequence[float]:
    """Levels whose intervals are known."""
    if sample.has_tails:
        return ASKED
    return () if sample.level is None else (sample.level,)


def find_label_coverage(sample: Sample, c: int) -> np.ndarray:
    """Shares (level,) of the known values of a label within their intervals."""
    truth = np.asarray(sample.true_labels)[:, c]
    known = ~np.isnan(truth)
    if sample.has_tails:
        return find_coverage(sample.find_pit()[:, c], known, ASKED)
    if sample.interval is None or not known.any():
        return np.full(len(_find_levels(sample)), np.nan)
    low, high = sample.interval[known, c].T
    return np.array([np.mean((low <= truth[known]) & (truth[known] <= high))])


def budget_section(samples: Sequence[Sample], words: Words) -> Section:
    """Each part of the error, label by label."""
    section = Section(
        "budget",
        "Error budget by label",
        [
            Paragraph(
                f"All errors are standard deviations in the label's unit{_explain_tails(samples)}."
                f" That of the flux is independent from {words.one} to {words.one}; that of the"
                f" model is shared by similar {words.many}, and does not average out over them."
            )
        ],
        [Part(sample.heading, _show_budget(sample, words)) for sample in samples],
    )
    return section if samples else _without(section, _advise(words))


def _explain_tails(samples: Sequence[Sample]) -> str:
    """What the errors are of noise with wide tails, where there is such."""
    wide = any(not one.has_tails or one.prediction.noise_dof is not None for one in samples)
    return ", and of noise with wide tails half widths of 68.27 %" if wide else ""


def _show_budget(sample: Sample, words: Words) -> list[Block]:
    budget = sample.find_budget()
    rows: list[list[Cell]] = []
    for c, title in enumerate(_titles(sample)):
        variance = np.nanmean(budget["total"][:, c] ** 2) if len(sample) else np.nan
        for part, error in budget.items():
            values = error[np.isfinite(error[:, c]), c]
            ends = np.quantile(values, [0.16, 0.5, 0.84]) if values.size else [np.nan] * 3
            share = np.mean(values**2) / variance if values.size else np.nan
            rows.append([title, part, *numbers(map(float, ends)), percent(float(share))])
    flux = "" if sample.prediction.has_flux_errors else (
        " Errors of the flux are unknown, so that the total is that of model and noise only."
    )  # fmt: skip
    return [
        Paragraph(f"{words.count(len(sample))}. {sample.origin}{flux}"),
        Table(
            caption="Errors by their part",
            columns=["label", "part", "16 %", "median", "84 %", "share of the variance"],
            rows=rows,
            note=f"16 %, 84 %: quantiles over the {words.many}.",
        ),
        budget_figure(sample, words),
        _list_stars(sample, words),
    ]


def _list_stars(sample: Sample, words: Words) -> Table:
    """Labels and errors of the first stars."""
    prediction = sample.prediction
    n_cells = (3 if sample.is_tested else 2) * len(prediction.label_names)
    n = min(len(sample), MOST_LISTED, max(1, MOST_CELLS // n_cells))
    columns = [words.one]
    for title in _titles(sample):
        columns += [title, "error", *(["known"] if sample.is_tested else [])]
    rows: list[list[Cell]] = []
    for star in range(n):
        cells: list[Cell] = [sample.name(star)]
        for c in range(len(prediction.label_names)):
            error = float(prediction.errors[star, c])
            cells += [_to(prediction.labels[star, c], error), _to(error, error)]
            if sample.is_tested:
                cells.append(_to(np.asarray(sample.true_labels)[star, c], error))
        rows.append([*cells, describe_flags(prediction.flags[star])])
    title = words.count(len(sample)) if n == len(sample) else f"The first {n} of {len(sample):,}"
    return Table(
        caption=f"{title}: labels and total errors",
        columns=[*columns, "flags"],
        rows=rows,
        is_folded=True,
    )


def _to(value: float, error: float) -> Cell:
    return Number(float(value), format_to(float(value), error))


def residual_section(samples: Sequence[Sample], words: Words) -> Section:
    """Residuals and z against labels and signal-to-noise ratio."""
    section = Section(
        "residuals",
        "Residuals",
        [],
        [Part(one.heading, _show_residuals(one, words)) for one in samples if one.is_tested],
    )
    return section if section.parts else _without(section, _advise_labels(words))


def _show_residuals(sample: Sample, words: Words) -> list[Block]:
    residuals = sample.find_residuals()
    z = residuals / sample.find_deviations()
    rows: list[list[Cell]] = []
    for c, title in enumerate(_titles(sample)):
        known = residuals[np.isfinite(residuals[:, c]), c]
        of_z = z[np.isfinite(z[:, c]), c]
        moments = [np.nan] * 3
        if known.size:
            moments = [known.mean(), known.std(), np.sqrt(np.mean(known**2))]
        listed = [find_median(known), find_scatter(known), *moments, find_scatter(of_z)]
        beyond = np.mean(np.abs(of_z) > 3) if of_z.size else np.nan
        rows.append([title, count(known.size), *numbers(listed), percent(float(beyond), 1)])
    columns = ["label", "known", "median", "scatter"]
    blocks: list[Block] = [
        Table(
            caption="Predicted less known labels",
            columns=[*columns, "mean", "std", "RMS", "scatter of z", "|z| > 3"],
            rows=rows,
            note="scatter: robust, from the median absolute deviation. z: residual over the half"
            " width of the interval of 68.27 %, of normal errors the standard deviation; 0.3 % of"
            " normal z are beyond 3.",
        ),
        residual_figure(sample, words),
        z_figure(sample, words),
    ]
    return blocks if sample.snr is None else [*blocks, snr_figure(sample, words)]


def calibration_section(samples: Sequence[Sample], words: Words) -> Section:
    """Coverage, PIT and scores."""
    section = Section(
        "calibration",
        "Are the error bars true?",
        [],
        [Part(one.heading, _show_calibration(one, words)) for one in samples if one.is_tested],
    )
    return section if section.parts else _without(section, _advise_labels(words))


def _show_calibration(sample: Sample, words: Words) -> list[Block]:
    levels = _find_levels(sample)
    columns = ["label", "known"]
    for level in levels:
        columns += [f"in {100 * level:g} %", "+-"]
    rows: list[list[Cell]] = []
    scores = _list_scores(sample)
    for c, title in enumerate(_titles(sample)):
        n = int(np.isfinite(np.asarray(sample.true_labels)[:, c]).sum())
        cells: list[Cell] = [title, count(n)]
        for level, share in zip(levels, find_label_coverage(sample, c), strict=True):
            cells += [percent(share, 1), percent(find_binomial_error(level, n), 1)]
        rows.append([*cells, *(number(float(means[c])) for means in scores.values())])
    table = Table(
        caption="Shares of known labels within their intervals",
        columns=[*columns, *scores],
        rows=rows,
        note="+-: binomial error of the share, if the error bars are true."
        + (_SCORES if scores else ""),
    )
    if sample.has_tails:
        return [table, coverage_figure(sample), pit_figure(sample, words)]
    known = "" if levels else " Nor does it hold intervals: 'symspec errors' writes them."
    return [
        Paragraph(
            "The noise is not normal, or has wide tails, or several networks are mixed, of which a"
            " catalogue holds intervals of one level only: coverage at other levels and the PIT"
            " take the spectra in place of the catalogue." + known,
            "warning",
        ),
        table,
    ]


def _list_scores(sample: Sample) -> dict[str, np.ndarray]:
    """Mean scores (label,) of known labels, where the distribution of labels is known."""
    if not sample.has_tails:
        return {}
    found = find_mean_scores(sample.prediction, np.asarray(sample.true_labels))
    return {"mean log score [nats]": found.log_score, "mean CRPS": found.crps}


def flag_section(samples: Sequence[Sample], words: Words) -> Section:
    """How many stars have each flag, and what it means."""
    section = Section(
        "flags", "Flags", [], [Part(one.heading, [_tabulate_flags(one, words)]) for one in samples]
    )
    return section if samples else _without(section, _advise(words))


def _tabulate_flags(sample: Sample, words: Words) -> Table:
    flags = sample.prediction.flags
    counts = [(flag, int(np.count_nonzero(flags & flag))) for flag in Flag]
    free = int(np.count_nonzero(flags == 0))
    rows: list[list[Cell]] = [
        [str(flag.name), count(n), percent(n / max(len(flags), 1), 1), flag.meaning]
        for flag, n in counts
    ]
    rows.append(
        [
            "none",
            count(free),
            percent(free / max(len(flags), 1), 1),
            "nothing is known against them",
        ]
    )
    return Table(
        caption=f"{words.many.capitalize()} with each flag",
        columns=["flag", words.many, "share", "meaning"],
        rows=rows,
        note=_describe_limits(sample),
    )


def _describe_limits(sample: Sample) -> str:
    options = sample.prediction.flag_options
    if options is None:
        return ""
    listed = ", ".join(f"{name} {value:g}" for name, value in vars(options).items())
    return f"Limits: {listed}."


def _titles(sample: Sample) -> list[str]:
    prediction = sample.prediction
    listed = zip(prediction.label_names, prediction.label_units, strict=True)
    return [with_unit(name, unit) for name, unit in listed]


def _without(section: Section, advice: str) -> Section:
    return Section(section.name, section.heading, [Paragraph(advice)])


def _advise(words: Words) -> str:
    return (
        f"No {words.many} were given. Name their spectra, or the catalogue that 'symspec errors'"
        " wrote: 'symspec report MODEL SPECTRA report.html'."
    )


def _advise_labels(words: Words) -> str:
    return (
        f"No {words.many} with known labels were given. Name spectra with labels that were not"
        " trained on, 'symspec report MODEL SPECTRA report.html', or the training spectra,"
        f" '--training SPECTRA', of which each {words.one} is then left out in turn."
    )
