"""How far each structure of the inverse Hessian is from the exact one, on a sample of stars."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives.functions import check_stars
from symspec.derivatives.tangents import Tangents
from symspec.errors import OptionError, TooLargeError
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.choice import INVERSES
from symspec.inverse_hessian.interface import Cost, InverseHessian
from symspec.laplace.prediction import standard_deviations
from symspec.networks.network import Network
from symspec.networks.regression import Regression
from symspec.networks.theta import check_theta
from symspec.safety.label_errors import Labels, find_observed
from symspec.safety.memory import parse_memory
from symspec.safety.options import check_choice
from symspec.safety.progress import Progress, show_progress
from symspec.safety.stars import check_flux
from symspec.spectra.selections import as_stars
from symspec.spectra.spectra import Spectra
from symspec.validation.neighbours import find_distances

# structures built from some of the training stars: their names here, and the option that says so
PARTIAL = {
    f"{name}_{option}": (name, option)
    for name, inverse in INVERSES.items()
    for option in inverse.partial_options
}
KNOWN = (*INVERSES, *PARTIAL)
AUDITED = (*(name for name in INVERSES if INVERSES[name].accuracy != "exact"), *PARTIAL)
SUBSET = "subset"  # option of structures of intervals: the stars that are factorised
INSIDE = 0.95  # largest quantile of a star that counts as inside the training set
EXACT_TOLERANCE = 1e-3  # of the intervals, where no factorisation fits in memory
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
        Structures audited. "dual_subset" is the dual of a subset of the training stars, half of
        them by default.
    accuracy : tuple of str
        Of each: "exact", "interval" (the upper end is taken), "upper bound" or "approximate".
    exact, reason : str
        The structure that the others are held against, and in one line why.
    exact_sd : numpy.ndarray, shape (star, label)
        Model standard deviation by `exact`, in the labels' units.
    exact_interval : numpy.ndarray, shape (star, label, 2)
        Its proved bounds: twice itself unless `exact` is "krylov".
    ratio : numpy.ndarray, shape (structure, star, label)
        Standard deviation by each structure over `exact_sd`.
    distance : numpy.ndarray, shape (star,)
        To the nearest training star, see `symspec.validation.neighbours.find_distances`.
    quantile : numpy.ndarray, shape (star,)
        Fraction of the training stars that have a nearer neighbour of their own.
    seconds : tuple of float
        Time that each structure took, to build and to apply to the sample.
    label_names : tuple of str
    skipped : dict of str to str
        Structures that were left out, with the reason.
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
        """Stars (star,) outside the training set: those of `quantile` > 0.95."""
        return self.quantile > INSIDE

    def summarize(self) -> list[RatioSummary]:
        """Smallest, median and largest ratio by structure, label and group that has stars."""
        rows = []
        for structure, ratio in zip(self.structures, self.ratio, strict=True):
            for c, label in enumerate(self.label_names):
                for group, members in zip(GROUPS, (~self.outside, self.outside), strict=True):
                    if members.any():
                        rows.append(_summarize(structure, label, group, ratio[members, c]))
        return rows


def _summarize(structure: str, label: str, group: str, values: np.ndarray) -> RatioSummary:
    return RatioSummary(
        structure=structure,
        label=label,
        group=group,
        n_stars=len(values),
        minimum=float(np.min(values)),
        median=float(np.median(values)),
        maximum=float(np.max(values)),
    )


def audit_structures(
    reg: Regression,
    theta: ArrayLike,
    X: ArrayLike | Spectra,
    Y: ArrayLike | None = None,
    X_sample: ArrayLike | None = None,
    *,
    label_errors: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
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
        The training set, or `Spectra` alone; NaN labels are missing.
    label_errors, ivar : array_like, optional
        As for `fit_laplace`.
    X_sample : array_like, shape (star, pixel) or (pixel,)
        Stars to compare on, best some like the training stars and some unlike them.
    structures : sequence of str
        Structures of `fit_laplace`, and "dual_subset". By default all approximations, krylov, and
        "dual_subset".
    options : mapping of str to mapping, optional
        Options of each structure, see `fit_laplace`, as in {"krylov": {"subset": 1000}, "low_rank":
        {"rank": 300}}. "dual_subset" takes those of "dual". Subsets are half the training stars by
        default, for krylov only if these fit in memory.
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
        a tolerance of 0.001 (unless `options` say otherwise), whose interval is `exact_interval`.

    Raises
    ------
    OptionError
        A structure that is not known, options of one that is not audited, or no X_sample.
    ShapeError, DataError
        Arguments that are not what is expected.
    """
    theta = np.array(check_theta(theta, reg.net.n_params))
    X, Y = check_stars(reg.net, *as_stars(reg.net, X, Y, label_errors, ivar))
    sample = _check_sample(X_sample, reg.net)
    names, given = _check_names(structures, options)
    compute = _Compute(backend=backend, dtype=dtype, memory=memory)
    run = _Run(reg=reg, theta=theta, X=X, Y=Y, sample=sample, compute=compute, options=given)
    with show_progress(progress) as show:
        steps = _Steps(len(names) + 2, show, callback)
        steps.begin("distances")
        distance, quantile = find_distances(X, sample)
        steps.begin("exact")
        exact = run.measure_exact()
        measured, skipped = run.measure_each(names, steps.begin)
        steps.end()
    exact_sd = exact.interval[..., 1]
    sd = [m.interval[..., 1] for m in measured.values()]
    return StructureAudit(
        structures=tuple(measured),
        accuracy=tuple(m.accuracy for m in measured.values()),
        exact=exact.structure,
        reason=exact.reason,
        exact_sd=exact_sd,
        exact_interval=exact.interval,
        ratio=np.reshape(sd, (-1, *exact_sd.shape)) / exact_sd,
        distance=distance,
        quantile=quantile,
        seconds=tuple(m.seconds for m in measured.values()),
        label_names=reg.net.label_names,
        skipped=skipped,
    )


def _check_sample(X_sample: ArrayLike | None, net: Network) -> np.ndarray:
    if X_sample is None:
        raise OptionError(
            "X_sample should hold the stars to compare on, got None: give flux (star, pixel), as in"
            " audit_structures(reg, theta, stars, X_sample=X)."
        )
    return np.atleast_2d(check_flux(X_sample, net.n_pixels, name="X_sample", dtype=None))


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


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Standard deviations (star, label, 2) by one structure: the lower end and the value."""

    structure: str
    accuracy: str
    reason: str
    interval: np.ndarray
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Compute:
    """Backend and dtype of the passes through the network, and memory of the factorisations."""

    backend: str
    dtype: str
    memory: str


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One regression, training set and sample, measured by one structure after another."""

    reg: Regression
    theta: np.ndarray
    X: np.ndarray
    Y: Labels
    sample: np.ndarray
    compute: _Compute
    options: dict[str, dict[str, Any]]

    def measure_exact(self) -> _Measured:
        """By the exact structure that costs least."""
        chosen = self._builder("auto", {})
        if chosen.inverse.accuracy == "exact":
            return self._apply(chosen)
        options = {"tolerance": EXACT_TOLERANCE} | self.options.get(chosen.structure, {})
        builder = self._builder(chosen.structure, options)
        builder.reason = chosen.reason
        return self._apply(builder)

    def measure_each(
        self, structures: Sequence[str], begin: Callable[[str], object]
    ) -> tuple[dict[str, _Measured], dict[str, str]]:
        """By each structure, and the reasons why some were left out."""
        measured = {}
        skipped = {}
        for name in structures:
            begin(name)
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
        observed = np.tile(find_observed(self.Y), self.reg.noise.outputs_per_label)
        n_stars = int(observed.any(axis=1).sum())
        half = max(1, n_stars // 2)
        structure, partial_option = PARTIAL.get(name, (name, ""))
        inverse = INVERSES[structure]
        if partial_option:
            options.setdefault(partial_option, half)
        elif SUBSET in inverse.options and inverse.accuracy == "interval":
            options = self._find_subset(half) | options
        used = min([n_stars, *(options[o] for o in inverse.partial_options if o in options)])
        cost = inverse.cost(self.reg.net, int(observed.sum() * (used / n_stars)))
        if not self._fits(cost):
            raise TooLargeError(
                f"{name} takes {cost.n_bytes / 2**30:.3g} GiB for matrices of {cost.rows:,} rows,"
                f" and memory={self.compute.memory!r} was given: give more, or leave it out."
            )
        return self._apply(self._builder(structure, options))

    def _find_subset(self, n_stars: int) -> dict[str, int]:
        """The option of so many stars, if their kernel fits in memory."""
        fits = self._fits(Cost(0, n_stars * self.reg.net.n_outputs))
        return {SUBSET: n_stars} if fits else {}

    def _builder(self, structure: str, options: Mapping[str, Any]) -> InverseBuilder:
        return InverseBuilder(
            self.reg,
            self.X,
            self.Y,
            structure=structure,
            backend=self.compute.backend,
            dtype=self.compute.dtype,
            memory=self.compute.memory,
            options=options,
        )

    def _fits(self, cost: Cost) -> bool:
        return cost.n_bytes <= parse_memory(self.compute.memory)

    def _apply(self, builder: InverseBuilder) -> _Measured:
        begin = time.perf_counter()
        inverse = builder.build(self.theta)
        walk = builder.walk(self.theta, self.sample)
        parts = [_find_interval(inverse, tangents) for _, tangents in walk]
        seconds = time.perf_counter() - begin
        return _Measured(
            structure=builder.structure,
            accuracy=inverse.accuracy,
            reason=builder.reason,
            interval=np.concatenate(parts),
            seconds=seconds,
        )


def _find_interval(inverse: InverseHessian, tangents: Tangents) -> np.ndarray:
    """Standard deviations (star, label, 2): bounds if proved, or else the value twice."""
    if inverse.accuracy == "interval":
        ends = inverse.label_covariance_bounds(tangents)
    else:
        ends = (inverse.label_covariance(tangents),) * 2
    return np.stack([standard_deviations(V) for V in ends], axis=-1)


def _check_names(
    structures: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None
) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    structures = (structures,) if isinstance(structures, str) else structures
    names = tuple(dict.fromkeys(check_choice(name, "structures", KNOWN) for name in structures))
    given = {name: dict(values) for name, values in (options or {}).items()}
    # a structure of intervals may stand in for the exact one
    stand_ins = {name for name in INVERSES if INVERSES[name].accuracy == "interval"}
    if unknown := [name for name in given if name not in {*names, *stand_ins}]:
        raise OptionError(
            f"options should be given by structure, of those audited ({', '.join(names)}), got some"
            f" for {', '.join(map(repr, unknown))}: write options={{'low_rank': {{'rank': 300}}}}."
        )
    return names, given
