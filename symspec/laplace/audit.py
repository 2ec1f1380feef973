"""How far each structure of the inverse Hessian is from the exact one, on a sample of stars."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from symspec.derivatives.functions import check_stars
from symspec.errors import OptionError, TooLargeError
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.choice import APPROXIMATE, EXACT
from symspec.inverse_hessian.interface import InverseHessian
from symspec.laplace.neighbours import find_distances
from symspec.laplace.prediction import standard_deviations
from symspec.networks.regression import Regression
from symspec.safety.memory import parse_memory
from symspec.safety.options import check_choice
from symspec.safety.progress import Progress, show_progress
from symspec.safety.stars import check_flux
from symspec.safety.theta import check_theta

DUAL_SUBSET = "dual_subset"
AUDITED = ("krylov", *APPROXIMATE, DUAL_SUBSET)
INSIDE = 0.95  # largest quantile of a star that counts as inside the training set
EXACT_TOLERANCE = 1e-3  # of the intervals, where neither primal nor dual fits in memory
STARS_AT_ONCE = 256
GROUPS = ("inside", "outside")


@dataclass(frozen=True, kw_only=True)
class RatioSummary:
    """Ratios of one structure for one label, over one group of stars.

    Attributes
    ----------
    structure, label, group : str
        The group is "inside" or "outside" the training set.
    n_stars : int
    minimum, median, maximum : float
    """

    structure: str
    label: str
    group: str
    n_stars: int
    minimum: float
    median: float
    maximum: float


@dataclass(frozen=True, eq=False, kw_only=True)
class StructureAudit:
    """Standard deviations of labels by every structure, over the exact ones.

    Attributes
    ----------
    structures : tuple of str
        Those audited. "dual_subset" is the dual of a subset of the training stars, half of them by
        default.
    accuracy : tuple of str
        Of each: "exact", "interval" (the upper end is taken), "upper bound" or "approximate".
    exact, reason : str
        The structure that the others are held against, and in one line why it.
    exact_sd : numpy.ndarray, shape (star, label)
        Model standard deviation by `exact`, in the labels' units.
    exact_interval : numpy.ndarray, shape (star, label, 2)
        What it is proved to lie between: twice itself unless `exact` is "krylov".
    ratio : numpy.ndarray, shape (structure, star, label)
        Standard deviation by each structure over `exact_sd`.
    distance : numpy.ndarray, shape (star,)
        To the nearest training star, see `symspec.laplace.neighbours.find_distances`.
    quantile : numpy.ndarray, shape (star,)
        Fraction of the training stars that have a nearer neighbour of their own.
    seconds : tuple of float
        What each structure took, to build and to apply to the sample.
    label_names : tuple of str
    skipped : dict of str to str
        Structures that could not be had, with the reason.
    """

    structures: tuple[str, ...]
    accuracy: tuple[str, ...]
    exact: str
    reason: str
    exact_sd: np.ndarray
    exact_interval: np.ndarray
    ratio: np.ndarray
    distance: np.ndarray
    quantile: np.ndarray
    seconds: tuple[float, ...]
    label_names: tuple[str, ...]
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def outside(self) -> np.ndarray:
        """Stars (star,) outside the training set: `quantile` > 0.95, as one in twenty training stars would be."""
        return self.quantile > INSIDE

    def summarize(self) -> list[RatioSummary]:
        """Smallest, median and largest ratio by structure, label and group; groups without stars are left out."""
        rows = []
        for structure, ratio in zip(self.structures, self.ratio, strict=True):
            for c, label in enumerate(self.label_names):
                for group, members in zip(GROUPS, (~self.outside, self.outside), strict=True):
                    if members.any():
                        values = ratio[members, c]
                        summary = RatioSummary(
                            structure=structure,
                            label=label,
                            group=group,
                            n_stars=len(values),
                            minimum=float(np.min(values)),
                            median=float(np.median(values)),
                            maximum=float(np.max(values)),
                        )
                        rows.append(summary)
        return rows


def audit_structures(
    reg: Regression,
    theta: Any,
    X: Any,
    Y: Any,
    X_sample: Any,
    *,
    structures: Sequence[str] = AUDITED,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    backend: str = "auto",
    dtype: str = "float64",
    memory: str = "8GB",
    progress: bool | Progress = True,
    callback: Callable[[str], object] | None = None,
) -> StructureAudit:
    r"""Hold the error bars of every structure against the exact ones, on a sample of stars.

    The ratio for label c of a star is :math:`\sqrt{(J \tilde A^{-1} J^T)_{cc} / (J A^{-1}
    J^T)_{cc}}`, with A the Gauss-Newton matrix and :math:`\tilde A^{-1}` the structure's inverse.
    The weights need not be at a minimum.

    Parameters
    ----------
    reg : Regression
    theta : array_like, shape (param,)
    X, Y : array_like, shapes (star, pixel), (star, label)
        The training set; NaN labels are missing.
    X_sample : array_like, shape (star, pixel) or (pixel,)
        Stars to compare on, best some like the training stars and some unlike them.
    structures : sequence of str
        Words of `fit_laplace`, and "dual_subset". By default all approximations, krylov, and
        "dual_subset".
    options : mapping of str to mapping, optional
        Options of each structure, see `fit_laplace`, as in {"krylov": {"subset": 1000}, "low_rank":
        {"rank": 300}}. Those of "dual_subset" are those of "dual". Subsets are half the training
        stars by default, for krylov only where so many fit in memory.
    backend, dtype, memory : str
        As for `fit_laplace`.
    progress : bool or Progress, default True
        True: a bar on stderr if it takes more than three seconds. A callable is called with
        (stage, done, total, structure=name) before each structure is built.
    callback : callable, optional
        Called with the name of each structure before it is built.

    Returns
    -------
    StructureAudit
        The exact structure is the cheaper of primal and dual that fits in `memory`, or krylov with
        a tolerance of 0.001 (unless `options` say otherwise), whose interval `exact_interval` then
        tells.

    Raises
    ------
    OptionError
        A structure that is not known, or options of one that is not audited.
    ShapeError, DataError
        Arguments that are not what is expected.
    """
    theta = np.array(check_theta(theta, reg.net.n_params))
    X, Y = check_stars(reg.net, X, Y)
    sample = np.atleast_2d(check_flux(X_sample, reg.net.n_pixels, name="X_sample", dtype=None))
    structures, options = _check_words(structures, options)
    run = _Run(
        reg, theta, X, Y, sample, {"backend": backend, "dtype": dtype, "memory": memory}, options
    )
    with show_progress(progress) as show:
        steps = _Steps(len(structures) + 2, show, callback)
        steps.begin("distances")
        distance, quantile = find_distances(X, sample)
        steps.begin("exact")
        exact = run.measure_exact()
        measured, skipped = run.measure_each(structures, steps.begin)
        steps.end()
    sd = np.array([m.interval[..., 1] for m in measured.values()]).reshape(
        -1, *exact.interval.shape[:2]
    )
    return StructureAudit(
        structures=tuple(measured),
        accuracy=tuple(m.accuracy for m in measured.values()),
        exact=exact.structure,
        reason=exact.reason,
        exact_sd=exact.interval[..., 1],
        exact_interval=exact.interval,
        ratio=sd / exact.interval[..., 1],
        distance=distance,
        quantile=quantile,
        seconds=tuple(m.seconds for m in measured.values()),
        label_names=reg.net.label_names,
        skipped=skipped,
    )


@dataclass
class _Steps:
    """The steps of an audit, for those who follow it."""

    total: int
    progress: Progress
    callback: Callable[[str], object] | None
    done: int = 0

    def begin(self, name: str) -> None:
        self.progress("auditing", self.done, self.total, structure=name)
        if self.callback is not None:
            self.callback(name)
        self.done += 1

    def end(self) -> None:
        self.progress("auditing", self.total, self.total)


@dataclass(frozen=True)
class _Measured:
    """What one structure says of the sample: standard deviations (star, label, 2), lower end and value."""

    structure: str
    accuracy: str
    reason: str
    interval: np.ndarray
    seconds: float


@dataclass(frozen=True)
class _Run:
    """One regression, training set and sample, to be measured by one structure after another."""

    reg: Regression
    theta: np.ndarray
    X: np.ndarray
    Y: np.ndarray
    sample: np.ndarray
    words: dict[str, str]
    options: dict[str, dict[str, Any]]

    def measure_exact(self) -> _Measured:
        """By the exact structure that costs least."""
        chosen = InverseBuilder(self.reg, self.X, self.Y, **self.words)
        if chosen.structure != "krylov":
            return self._apply(chosen)
        limits = {"tolerance": EXACT_TOLERANCE} | self.options.get("krylov", {})
        builder = InverseBuilder(
            self.reg, self.X, self.Y, structure="krylov", options=limits, **self.words
        )
        builder.reason = chosen.reason
        return self._apply(builder)

    def measure_each(
        self, structures: Sequence[str], tell: Callable[[str], object]
    ) -> tuple[dict[str, _Measured], dict[str, str]]:
        """By each structure, and why some could not be had."""
        measured = {}
        skipped = {}
        for name in structures:
            tell(name)
            try:
                measured[name] = self.measure(name)
            except (OptionError, TooLargeError) as error:
                skipped[name] = str(error)
        return measured, skipped

    def measure(self, name: str) -> _Measured:
        """By the structure of this name.

        Raises
        ------
        OptionError, TooLargeError
            It does not take its options, or does not fit in memory.
        """
        options = dict(self.options.get(name, {}))
        observed = ~np.isnan(self.Y)
        n_stars = int(observed.any(axis=1).sum())
        structure = "dual" if name == DUAL_SUBSET else name
        half = max(1, n_stars // 2)
        if name == DUAL_SUBSET or (name == "krylov" and self._fits(half * self.reg.net.n_labels)):
            options.setdefault("subset", half)
        share = min(1.0, options.get("subset", n_stars) / n_stars) if structure == "dual" else 1.0
        sizes = {"primal": self.reg.net.n_params, "dual": int(observed.sum() * share)}
        self._check_size(name, sizes.get(structure, 0))
        return self._apply(
            InverseBuilder(
                self.reg, self.X, self.Y, structure=structure, options=options, **self.words
            )
        )

    def _fits(self, n_rows: int) -> bool:
        return 3 * 8 * n_rows**2 <= parse_memory(self.words["memory"])

    def _check_size(self, name: str, n: int) -> None:
        if not self._fits(n):
            size = f"{3 * 8 * n**2 / 2**30:.3g} GiB for matrices of {n:,} rows"
            raise TooLargeError(
                f"{name} takes {size}, and memory={self.words['memory']!r} was given: give more, or"
                " leave it out."
            )

    def _apply(self, builder: InverseBuilder) -> _Measured:
        begin = time.perf_counter()
        inverse = builder.build(self.theta)
        starts = range(0, len(self.sample), STARS_AT_ONCE)
        parts = [self._intervals(builder, inverse, slice(i, i + STARS_AT_ONCE)) for i in starts]
        seconds = time.perf_counter() - begin
        return _Measured(
            builder.structure, inverse.accuracy, builder.reason, np.concatenate(parts), seconds
        )

    def _intervals(
        self, builder: InverseBuilder, inverse: InverseHessian, rows: slice
    ) -> np.ndarray:
        tangents = builder.tangents(self.theta, self.sample[rows])
        if inverse.accuracy == "interval":
            ends = inverse.label_covariance_bounds(tangents)
        else:
            ends = (inverse.label_covariance(tangents),) * 2
        return np.stack([standard_deviations(V) for V in ends], axis=-1)


def _check_words(
    structures: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None
) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    known = (*EXACT, *APPROXIMATE, DUAL_SUBSET)
    structures = (structures,) if isinstance(structures, str) else structures
    names = tuple(dict.fromkeys(check_choice(name, "structures", known) for name in structures))
    given = {name: dict(values) for name, values in (options or {}).items()}
    if unknown := [name for name in given if name not in {*names, "krylov"}]:
        raise OptionError(
            f"options should be given by structure, of those audited ({', '.join(names)}), got some"
            f" for {', '.join(map(repr, unknown))}: write options={{'low_rank': {{'rank': 300}}}}."
        )
    return names, given
