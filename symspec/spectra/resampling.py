r"""Spectra on another grid of wavelengths, with the errors of the flux propagated exactly.

Resampling is a linear map R (new pixel, old pixel): the new flux is R x, and its covariance R
diag(1/ivar) R^T, which has entries off the diagonal, for neighbouring new pixels share old ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from symspec.errors import DataError, ShapeError
from symspec.safety.arrays import as_float_array
from symspec.safety.options import check_choice
from symspec.spectra.spectra import Spectra
from symspec.spectra.wavelengths import convert_wavelength, find_pixel_order, is_same_unit

KINDS = ("flux_conserving", "linear")
_NEGLIGIBLE = 1e-6  # share of a pixel below which an overlap is rounding
_UNCOVERED = 1e-5  # share of a new pixel that may lie out of the old grid, for the same reason
_GAP = 3.0  # a step this many times those beside it is a gap between detectors, not a wide pixel


@dataclass(frozen=True, eq=False, kw_only=True)
class Resampled:
    r"""Spectra on a new grid, with the linear map from the old one.

    Attributes
    ----------
    spectra : Spectra
        Flux R x; ``ivar`` is one over the diagonal of
        :math:`R\,\mathrm{diag}(1/\mathrm{ivar})\,R^T`, and 0 where a new pixel reaches out of the
        old grid or depends on an old one without information.
    matrix : scipy.sparse.csr_array, shape (new pixel, old pixel)
        R. Rows of new pixels that reach out of the old grid are empty.
    source_ivar : numpy.ndarray, shape (star, old pixel), or None
        Inverse variance before resampling.
    """

    spectra: Spectra
    matrix: sparse.csr_array
    source_ivar: np.ndarray | None

    def identity(self) -> dict[str, Any]:
        """All that the spectra and the map are, for fingerprints."""
        R = self.matrix
        matrix = (R.shape, R.data, R.indices, R.indptr)
        return {"spectra": self.spectra, "matrix": matrix, "source_ivar": self.source_ivar}

    def covariance_factor(self, star: int) -> sparse.csr_array:
        r"""Factor of the covariance of one star's new flux.

        .. math:: L L^T = R \, \mathrm{diag}(1 / \mathrm{ivar}) \, R^T

        Parameters
        ----------
        star : int

        Returns
        -------
        scipy.sparse.csr_array, shape (new pixel, old pixel)
            Rows of new pixels without information are empty.

        Raises
        ------
        DataError
            The errors of the flux are unknown.
        """
        if self.source_ivar is None or self.spectra.ivar is None:
            raise DataError(
                "spectra should come with ivar for a covariance of their flux, got none: give ivar."
            )
        sigma = np.sqrt(_invert(self.source_ivar[star]))
        good = (self.spectra.ivar[star] > 0).astype(float)
        return sparse.csr_array(sparse.diags_array(good) @ self.matrix @ sparse.diags_array(sigma))


def resample(
    spectra: Spectra,
    wavelength: ArrayLike,
    *,
    kind: str = "flux_conserving",
    wavelength_unit: str | None = None,
) -> Resampled:
    r"""Resample spectra to another grid of wavelengths, such as that of a network.

    - ``"flux_conserving"``: pixels reach half way to their neighbours (but not into gaps, steps of
      more than three times those beside them), and a new pixel is the mean of the old ones that it
      overlaps, weighted by the overlap. It conserves the integral of flux per unit of wavelength.
      Take it when new pixels are as wide as old ones, or wider.
    - ``"linear"``: flux at the centres of new pixels, interpolated between the two nearest old
      ones. It skips pixels in between, and averages no noise. Take it when new pixels are narrower.

    Neither changes the resolution: for a network trained at another resolution, convolve the
    spectra first.

    Parameters
    ----------
    spectra : Spectra
        On a rising grid, as `symspec.read_spectra` gives them.
    wavelength : array_like or astropy Quantity, shape (new pixel,)
        The new, rising grid.
    kind : {"flux_conserving", "linear"}, default "flux_conserving"
    wavelength_unit : str, optional
        Unit of `wavelength`, as astropy writes it; by default its own, or that of `spectra`. Vacuum
        and air wavelengths are not told apart.

    Returns
    -------
    Resampled
        The spectra on the new grid in its unit, the map R, and the old inverse variances. A new
        pixel has ``ivar = 0`` where it reaches out of the old grid or into a gap of it, and where
        more than a millionth of it depends on an old pixel with ``ivar = 0``.

    Raises
    ------
    DataError
        The spectra have no wavelengths, the grids do not overlap, one does not rise, its unit is
        not stated, or new pixels have no flux and the spectra have no `ivar` to mark them.
    ShapeError
        The new grid has not one axis.
    OptionError
        `kind` is not one of those above.

    Examples
    --------
    >>> import numpy as np
    >>> import symspec
    >>> stars = symspec.datasets.generated_stars(3, n_pixels=300, rng=np.random.default_rng(0))
    >>> resampled = symspec.resample(stars, np.linspace(400.0, 680.0, 90), wavelength_unit="nm")
    >>> resampled.spectra
    Spectra(3 stars, 90 pixels, ivar, wavelength in nm, labels TEFF [K], LOGG [dex], FE_H [dex])

    `LaplacePosterior.predict` takes `resampled` itself, with its covariance.
    """
    check_choice(kind, "kind", KINDS)
    unit = _find_unit(wavelength, wavelength_unit, spectra.wavelength_unit)
    given = as_float_array(wavelength, "wavelength", unit=unit)
    old, new = _match_grids(spectra, given, unit)
    R = build_resampling_matrix(old, new, kind)
    flux, ivar = _apply(R, spectra)
    resampled = Spectra(
        flux=flux,
        ivar=ivar,
        wavelength=given,
        labels=spectra.labels,
        label_names=spectra.label_names,
        label_units=spectra.label_units,
        ids=spectra.ids,
        wavelength_unit=unit,
    )
    return Resampled(spectra=resampled, matrix=R, source_ivar=spectra.ivar)


def build_resampling_matrix(
    old: np.ndarray, new: np.ndarray, kind: str = "flux_conserving"
) -> sparse.csr_array:
    """Linear map R from flux on one grid to flux on another.

    Parameters
    ----------
    old : numpy.ndarray, shape (old pixel,)
        Rising wavelengths.
    new : numpy.ndarray, shape (new pixel,)
        Rising wavelengths in the same unit.
    kind : {"flux_conserving", "linear"}
        As in `resample`.

    Returns
    -------
    scipy.sparse.csr_array, shape (new pixel, old pixel)
        Rows sum to 1; those of new pixels that reach out of the old grid or into a gap are empty.
    """
    build = {"flux_conserving": _build_conserving, "linear": _build_linear}[kind]
    rows, columns, weights = build(old, new)
    covered = np.bincount(rows, weights, minlength=new.size)[rows]
    keep = covered > 1 - _UNCOVERED
    return sparse.csr_array(
        ((weights / covered)[keep], (rows[keep], columns[keep])), shape=(new.size, old.size)
    )


def propagate_through(J_x: np.ndarray, R: sparse.csr_array, ivar: np.ndarray) -> np.ndarray:
    r"""Covariance of labels due to the errors of resampled flux.

    .. math:: J_x R \, \mathrm{diag}(1 / \mathrm{ivar}) \, R^T J_x^T

    Parameters
    ----------
    J_x : numpy.ndarray, shape (star, label, new pixel)
        Derivative of each label with respect to each pixel of the new grid.
    R : scipy.sparse.csr_array, shape (new pixel, old pixel)
        The map between the grids, `Resampled.matrix`.
    ivar : numpy.ndarray, shape (star, old pixel)
        Inverse variance before resampling, `Resampled.source_ivar`.

    Returns
    -------
    numpy.ndarray, shape (star, label, label)
        In the units of the labels. New pixels without information contribute nothing, whatever
        their J_x: the network is given their training mean, which has no error.

    Raises
    ------
    ShapeError
        The arrays do not fit together.
    """
    n_new, n_old = R.shape
    if J_x.ndim != 3 or J_x.shape[2] != n_new or ivar.shape != (J_x.shape[0], n_old):
        raise ShapeError(
            f"J_x and ivar should have shapes (star, label, {n_new}) and (star, {n_old}) for R of"
            f" shape {R.shape}, got {J_x.shape} and {ivar.shape}: ivar is that of the flux before"
            " it was resampled."
        )
    good = _find_good(R, ivar)
    J_old = (np.where(good[:, None, :], J_x, 0.0).reshape(-1, n_new) @ R).reshape(
        *J_x.shape[:2], n_old
    )
    return np.matmul(J_old * _invert(ivar)[:, None, :], J_old.transpose(0, 2, 1))


def _match_grids(
    spectra: Spectra, wavelength: np.ndarray, unit: str
) -> tuple[np.ndarray, np.ndarray]:
    """Both grids in the unit of the old one, the one of `wavelength` being `unit`."""
    if spectra.wavelength is None:
        raise DataError(
            "spectra should have wavelengths to be resampled, got none: give"
            " Spectra(wavelength=...)."
        )
    if not spectra.wavelength_unit:
        raise DataError(
            "spectra should state the unit of their wavelengths, got wavelength_unit='': give "
            'Spectra(wavelength_unit="Angstrom"), or what it is.'
        )
    for name, grid in (("spectra.wavelength", spectra.wavelength), ("wavelength", wavelength)):
        if find_pixel_order(grid, name) != slice(None):
            raise DataError(
                f"{name} should rise, got a grid that falls: turn it and the flux round, [...,"
                " ::-1]."
            )
    old = spectra.wavelength
    new = convert_wavelength(wavelength, unit, spectra.wavelength_unit)
    if new.size == 0 or new[-1] < old[0] or new[0] > old[-1]:
        got = f"{new[0]:.6g} to {new[-1]:.6g}" if new.size else "no pixel at all"
        raise DataError(
            f"wavelength should overlap the grid of the spectra, {old[0]:.6g} to {old[-1]:.6g}"
            f" {spectra.wavelength_unit}, got {got}: if the units differ, say that of the new grid,"
            " wavelength_unit=."
        )
    return old, new


def _find_unit(wavelength: ArrayLike, wavelength_unit: str | None, default: str) -> str:
    """Unit of the new grid: as given, else of an astropy Quantity, else of the old grid."""
    stated = getattr(wavelength, "unit", None)
    if stated is None:
        return wavelength_unit or default
    if wavelength_unit is not None and not is_same_unit(wavelength_unit, str(stated)):
        raise DataError(
            f"wavelength_unit={wavelength_unit!r} should agree with the unit of wavelength, got"
            f" {stated}: leave it out."
        )
    return str(stated)


def _apply(R: sparse.csr_array, spectra: Spectra) -> tuple[np.ndarray, np.ndarray | None]:
    """New flux, NaN without information, and one over the diagonal of its covariance."""
    if spectra.ivar is None:
        if (empty := np.diff(R.indptr) == 0).any():
            raise DataError(
                "wavelength should lie within the grid of spectra without ivar, got"
                f" {np.count_nonzero(empty)} pixels out of it (first: pixel {np.argmax(empty)}):"
                " cut the grid, or give ivar, which can say so."
            )
        return np.ascontiguousarray((R @ spectra.flux.T).T), None
    good_old = spectra.ivar > 0
    good = _find_good(R, spectra.ivar)
    flux = np.full(good.shape, np.nan)
    np.copyto(flux, (R @ np.where(good_old, spectra.flux, 0.0).T).T, where=good)
    variance = (R.power(2) @ _invert(spectra.ivar).T).T
    return flux, np.divide(1.0, variance, out=np.zeros(good.shape), where=good)


def _find_good(R: sparse.csr_array, ivar: np.ndarray) -> np.ndarray:
    """Whether new pixels (star, new pixel) depend on old ones, and on none of ivar = 0."""
    bad = (abs(R) @ (ivar == 0).T.astype(float)).T > 0
    return ~bad & (np.diff(R.indptr) > 0)


def _invert(ivar: np.ndarray) -> np.ndarray:
    return np.divide(1.0, ivar, out=np.zeros(ivar.shape), where=ivar > 0)


def _find_gaps(grid: np.ndarray) -> np.ndarray:
    """Whether steps of a grid are gaps (step,)."""
    steps = np.diff(grid)
    if steps.size < 2:
        return np.zeros(steps.size, dtype=bool)
    beside = np.pad(steps, 1, mode="reflect")  # at the ends there is one step only
    return steps > _GAP * np.maximum(beside[:-2], beside[2:])


def _find_edges(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges of each pixel: half way to its neighbours; at ends and gaps as on the other side."""
    if grid.size == 1:
        raise ShapeError(
            "wavelength should have two pixels or more, got one, which has no width: interpolate,"
            " linear."
        )
    half = np.where(_find_gaps(grid), np.nan, np.diff(grid) / 2)
    left = np.insert(half, 0, np.nan)
    right = np.append(half, np.nan)
    has_left = ~np.isnan(left)
    has_right = ~np.isnan(right)
    lower = np.where(has_left, left, right)
    upper = np.where(has_right, right, left)
    alone = ~(has_left | has_right)  # between two gaps
    lower[alone] = np.nanmedian(half)
    upper[alone] = lower[alone]
    return grid - lower, grid + upper


def _build_conserving(
    old: np.ndarray, new: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlaps of new pixels with old ones as shares of the new: rows, columns, weights."""
    low, high = _find_edges(old)
    start, stop = _find_edges(new)
    first = np.searchsorted(high, start, side="right")
    last = np.maximum(np.searchsorted(low, stop, side="left"), first)
    counts = last - first
    rows = np.repeat(np.arange(new.size), counts)
    columns = (
        np.arange(counts.sum())
        - np.repeat(np.cumsum(counts) - counts, counts)
        + np.repeat(first, counts)
    )
    overlap = np.minimum(stop[rows], high[columns]) - np.maximum(start[rows], low[columns])
    width = (stop - start)[rows]
    keep = overlap > _NEGLIGIBLE * np.minimum(width, (high - low)[columns])
    return rows[keep], columns[keep], (overlap / width)[keep]


def _build_linear(old: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of the two old pixels beside each new centre: rows, columns, weights."""
    if old.size == 1:
        raise ShapeError(
            "spectra should have two pixels or more to interpolate between, got one: give more."
        )
    left = np.clip(np.searchsorted(old, new, side="right") - 1, 0, old.size - 2)
    share = (new - old[left]) / np.diff(old)[left]
    # rounding may put the ends just outside
    inside = (share > -_NEGLIGIBLE) & (share < 1 + _NEGLIGIBLE)
    inside &= ~_find_gaps(old)[left] | (np.minimum(abs(share), abs(1 - share)) < _NEGLIGIBLE)
    rows = np.flatnonzero(inside)
    share = np.clip(share[inside], 0.0, 1.0)
    left = left[inside]
    rows = np.tile(rows, 2)
    columns = np.append(left, left + 1)
    weights = np.append(1 - share, share)
    keep = weights > _NEGLIGIBLE
    return rows[keep], columns[keep], weights[keep]
