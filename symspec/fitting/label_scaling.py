"""How a network scales its labels, found by comparing what it gives with the labels of stars.

Files of networks seldom say it. Most networks learn labels divided by their standard deviation
after the mean is taken off, or taken between their ends to 0 and 1, or in their own units; which of
these fits is tried first, and any straight line after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import theilslopes

from symspec.errors import DataError
from symspec.validation.calibration import MAD_TO_SIGMA, sigma_mad

MIN_STARS = 10
MAX_STARS = 1000  # through which a line is laid: pairs of them are compared
WORST_SCATTER = 0.7  # of the labels' own: beyond, the outputs do not tell the label
FOLLOWS = 0.5  # rank correlation of an output with the label that it tells
NEAR = 0.3  # of the scatter, that a rule may be from the best straight line: 4 % more scatter
ROUNDING = 1e-6  # of the labels' spread
CLIP = 4.0  # robust standard deviations, beyond which a star does not count for the line
CLIPS = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelScaling:
    """Labels are `mean` plus `scale` times what the network gives.

    Attributes
    ----------
    mean, scale : numpy.ndarray, shape (label,)
    rule : str
        Where they come from, in words.
    scatter : numpy.ndarray, shape (label,)
        Robust scatter of the residuals, in the labels' units.
    """

    mean: np.ndarray
    scale: np.ndarray
    rule: str
    scatter: np.ndarray

    @property
    def is_none(self) -> bool:
        """Whether the network gives labels in their own units."""
        return bool((self.mean == 0).all() and (self.scale == 1).all())

    def describe(self) -> str:
        """How outputs become labels, in words, with the numbers in the order of the labels."""
        if self.is_none:
            return self.rule
        means = ", ".join(f"{mean:.5g}" for mean in self.mean)
        scales = ", ".join(f"{scale:.5g}" for scale in self.scale)
        return f"{self.rule} (mean {means}; scale {scales})"


def find_label_scaling(
    outputs: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> LabelScaling:
    """Find the scaling of the labels that a network learnt.

    Parameters
    ----------
    outputs : numpy.ndarray, shape (star, label)
        Of the network, for stars that it was trained on, or like them.
    labels : numpy.ndarray, shape (star, label)
        Theirs; NaN where missing.
    names : sequence of str
        Of the labels.

    Raises
    ------
    DataError
        A label is known of few stars, or the outputs do not follow the labels in this order.
    """
    _check_counts(outputs, labels, names)
    line = _fit_lines(outputs, labels)
    _check_order(outputs, labels, names, line)
    for rule in _list_rules(labels):
        apart = rule.mean - line.mean + (rule.scale - line.scale) * outputs
        near = NEAR * line.scatter + ROUNDING * _find_spread(labels)
        if (np.median(np.abs(apart), axis=0) <= near).all():
            scatter = find_scatter(outputs, labels, rule.mean, rule.scale)
            return LabelScaling(mean=rule.mean, scale=rule.scale, rule=rule.rule, scatter=scatter)
    return line


def _check_counts(outputs: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    known = np.count_nonzero(~np.isnan(labels), axis=0)
    if known.min() < MIN_STARS:
        raise DataError(
            f"the scaling of the labels takes at least {MIN_STARS} stars with each label, got"
            f" {known.tolist()} of {', '.join(names)}: give more stars, or the scaling itself."
        )
    if not np.isfinite(outputs).all():
        raise DataError(
            "the network should give finite numbers for these spectra, got NaN or infinity: check"
            " how their flux is scaled."
        )


def _check_order(
    outputs: np.ndarray, labels: np.ndarray, names: Sequence[str], line: LabelScaling
) -> None:
    """Refuse outputs that do not follow their labels, and say which labels they do follow."""
    share = line.scatter / _find_spread(labels)
    if (share <= WORST_SCATTER).all():
        return
    follows = _find_ranks(outputs, labels)
    _, order = linear_sum_assignment(-np.abs(follows))
    best = np.abs(follows[np.arange(len(order)), order])
    if (order != np.arange(len(order))).any() and best.min() > FOLLOWS:
        listed = ", ".join(names[label] for label in order)
        raise DataError(
            f"the network's outputs should follow the labels in the order {', '.join(names)}, but"
            f" they follow {listed} better: give the labels in that order (--label NAME for each)."
        )
    worst = int(np.argmax(share))
    raise DataError(
        f"the network's output {worst} should follow {names[worst]}, but the best straight line"
        f" leaves {share[worst]:.0%} of the label's scatter: are these the spectra that it was"
        " trained on, with their flux scaled as it was, and the labels in its order?"
    )


def _find_ranks(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rank correlation (output, label)."""
    n_outputs = outputs.shape[1]
    found = np.zeros((n_outputs, n_outputs))
    for label in range(n_outputs):
        known = ~np.isnan(labels[:, label])
        ranks = np.argsort(np.argsort(labels[known, label]))
        for output in range(n_outputs):
            others = np.argsort(np.argsort(outputs[known, output]))
            found[output, label] = np.corrcoef(others, ranks)[0, 1]
    return found


def _list_rules(labels: np.ndarray) -> list[LabelScaling]:
    """The scalings that people use, from the labels of the training stars."""
    n_labels = labels.shape[1]
    low = np.nanmin(labels, axis=0)
    high = np.nanmax(labels, axis=0)
    mean = np.nanmean(labels, axis=0)
    rules = [
        ("labels in their own units", np.zeros(n_labels), np.ones(n_labels)),
        ("z-scores of these labels", mean, np.nanstd(labels, axis=0)),
        ("these labels, their range taken to 0 to 1", low, high - low),
        ("these labels, their range taken to -1 to 1", (low + high) / 2, (high - low) / 2),
        ("these labels, their range taken to -0.5 to 0.5", (low + high) / 2, high - low),
        ("these labels, their mean taken off", mean, np.ones(n_labels)),
    ]
    unknown = np.full(n_labels, np.nan)
    return [LabelScaling(mean=m, scale=s, rule=rule, scatter=unknown) for rule, m, s in rules]


def _fit_lines(outputs: np.ndarray, labels: np.ndarray) -> LabelScaling:
    """Straight lines from outputs to labels, which outliers do not bend."""
    lines = [_fit_line(f, y) for f, y in zip(outputs.T, labels.T, strict=True)]
    mean, scale = (np.array(part) for part in zip(*lines, strict=True))
    scatter = find_scatter(outputs, labels, mean, scale)
    return LabelScaling(
        mean=mean, scale=scale, rule="the straight line nearest to these labels", scatter=scatter
    )


def _fit_line(f: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Intercept and slope: Theil and Sen's, then least squares without what is far from it."""
    known = np.flatnonzero(~np.isnan(y))
    some = known[:: -(-len(known) // MAX_STARS)]
    if np.ptp(f[some]) == 0:
        return float(np.median(y[known])), 0.0
    slope, intercept = theilslopes(y[some], f[some])[:2]
    for _ in range(CLIPS):
        r = y[known] - intercept - slope * f[known]
        near = known[np.abs(r - np.median(r)) <= CLIP * sigma_mad(r[:, None])[0]]
        if len(near) < MIN_STARS:
            break
        slope, intercept = np.polyfit(f[near], y[near], 1)
    return float(intercept), float(slope)


def find_scatter(
    outputs: np.ndarray, labels: np.ndarray, mean: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """Robust scatter (label,) around zero, so that an offset counts."""
    r = labels - mean - scale * outputs
    return MAD_TO_SIGMA * np.nanmedian(np.abs(r), axis=0)


def _find_spread(labels: np.ndarray) -> np.ndarray:
    """Robust scatter (label,) of the labels themselves; the plain one where most are equal."""
    robust = sigma_mad(labels)
    return np.where(robust > 0, robust, np.nanstd(labels, axis=0))
