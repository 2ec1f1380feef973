r"""Spectra on another grid of wavelengths, with the errors of the flux propagated exactly.

Resampling is a linear map R (new pixel, old pixel): the new flux is R x, and its covariance R
diag(1/ivar) R^T, which has entries off the diagonal, for neighbouring new pixels share old ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from symspec.errors import DataError, ShapeError
from symspec.safety.arrays import as_float_array, check_finite
from symspec.safety.options import check_choice
from symspec.safety.stars import check_medium
from symspec.spectra.covariances.interface import find_variance
from symspec.spectra.resampling_matrices import build_resampling_matrix
from symspec.spectra.spectra import Spectra
from symspec.spectra.wavelengths import (
    convert_medium,
    convert_wavelength,
    find_pixel_order,
    is_same_unit,
    shift_to_rest_frame,
)

KINDS = ("flux_conserving", "linear")
_NO_ERRORS = "spectra should come with ivar for a covariance of their flux, got none: give ivar."


@dataclass(frozen=True, eq=False, kw_only=True)
class Resampled:
    r"""Spectra on a new grid, with the linear map from the old one.

    Attributes
    ----------
    spectra : Spectra
        Flux R x; ``ivar`` is one over the diagonal of
        :math:`R\,\mathrm{diag}(1/\mathrm{ivar})\,R^T`, and 0 where a new pixel reaches out of the
        old grid or depends on an old one without information.
    matrices : tuple of scipy.sparse.csr_array, shape (new pixel, old pixel)
        R, one for all stars, or one a star if they were shifted by velocities of their own. Rows of
        new pixels that reach out of the old grid are empty.
    source_ivar : numpy.ndarray, shape (star, old pixel), or None
        Inverse variance before resampling.
    """

    spectra: Spectra
    matrices: tuple[sparse.csr_array, ...]
    source_ivar: np.ndarray | None

    @property
    def matrix(self) -> sparse.csr_array:
        """R, if it is the same for all stars.

        Raises
        ------
        DataError
            It is not.
        """
        if len(self.matrices) > 1:
            raise DataError(
                "spectra should share one map to the new grid, got one a star, as they were shifted"
                " by velocities of their own: take matrices[star]."
            )
        return self.matrices[0]

    def identity(self) -> dict[str, Any]:
        """All that the spectra and the map are, for fingerprints."""
        described = [(R.shape, R.data, R.indices, R.indptr) for R in self.matrices]
        matrix = described[0] if len(described) == 1 else tuple(described)
        return {"spectra": self.spectra, "matrix": matrix, "source_ivar": self.source_ivar}

    def propagate(self, J_x: np.ndarray, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Covariance of labels due to the errors of the flux of stars `rows`.

        Parameters
        ----------
        J_x : numpy.ndarray, shape (star, label, new pixel)
            Derivatives of the labels of these stars.
        rows : slice, or numpy.ndarray of int

        Returns
        -------
        numpy.ndarray, shape (star, label, label)
            As `propagate_through`.

        Raises
        ------
        DataError
            The errors of the flux are unknown.
        """
        if self.source_ivar is None:
            raise DataError(_NO_ERRORS)
        ivar = self.source_ivar[rows]
        if len(self.matrices) == 1:
            return propagate_through(J_x, self.matrix, ivar)
        maps = self._maps(rows)
        stars = range(len(ivar))
        parts = [propagate_through(J_x[i : i + 1], maps[i], ivar[i : i + 1]) for i in stars]
        return np.concatenate(parts)

    def map_errors(self, errors: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Errors (star, new pixel) of stars `rows`, from those of their old pixels."""
        if len(self.matrices) == 1:
            return (self.matrix @ errors.T).T
        return np.array([R @ e for R, e in zip(self._maps(rows), errors, strict=True)])

    def _maps(self, rows: slice | np.ndarray) -> list[sparse.csr_array]:
        return [self.matrices[i] for i in np.arange(len(self.matrices))[rows]]

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
            raise DataError(_NO_ERRORS)
        matrix = self.matrices[star if len(self.matrices) > 1 else 0]
        sigma = np.sqrt(find_variance(self.source_ivar[star]))
        good = (self.spectra.ivar[star] > 0).astype(float)
        return sparse.csr_array(sparse.diags_array(good) @ matrix @ sparse.diags_array(sigma))


def resample(
    spectra: Spectra,
    wavelength: ArrayLike,
    *,
    kind: str = "flux_conserving",
    wavelength_unit: str | None = None,
    wavelength_medium: str | None = None,
    radial_velocity: ArrayLike = 0.0,
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
        Unit of `wavelength`, as astropy writes it; by default its own, or that of `spectra`.
    wavelength_medium : {"air", "vacuum"}, optional
        Medium of `wavelength`, to which the spectra are converted if theirs is the other
        (`symspec.spectra.wavelengths.convert_medium` has the formula); by default that of
        `spectra`.
    radial_velocity : float or array_like, shape (star,), default 0.0
        Velocities in km/s, positive for stars that recede, from whose Doppler shift the spectra are
        freed: `wavelength` is of the stars' rest frame then.

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
        not stated, its medium is asked for and not known, or new pixels have no flux and the
        spectra have no `ivar` to mark them.
    ShapeError
        The new grid has not one axis.
    OptionError
        `kind` is not one of those above, or a star is as fast as light.

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
    check_medium(wavelength_medium)
    _refuse_covariance(spectra)
    unit = _find_unit(wavelength, wavelength_unit, spectra.wavelength_unit)
    given = as_float_array(wavelength, "wavelength", unit=unit)
    old, new = _match_grids(spectra, given, unit)
    medium = wavelength_medium or spectra.wavelength_medium
    matrices = tuple(
        build_resampling_matrix(_shift(spectra, old, medium, velocity, new), new, kind)
        for velocity in _find_velocities(radial_velocity, spectra.n_stars)
    )
    flux, ivar = _apply_each(matrices, spectra)
    resampled = replace(  # labels with their errors, ids and groups are as they were
        spectra,
        flux=flux,
        ivar=ivar,
        wavelength=given,
        wavelength_unit=unit,
        wavelength_medium=medium,
    )
    return Resampled(spectra=resampled, matrices=matrices, source_ivar=spectra.ivar)


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
    return np.matmul(J_old * find_variance(ivar)[:, None, :], J_old.transpose(0, 2, 1))


def _refuse_covariance(spectra: Spectra) -> None:
    if spectra.flux_covariance is not None:
        raise DataError(
            "spectra should have independent errors to be resampled, got a flux_covariance: leave"
            " it out, and give R @ covariance @ R.T with the result, R = Resampled.matrix."
        )


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
    return spectra.wavelength, convert_wavelength(wavelength, unit, spectra.wavelength_unit)


def _shift(
    spectra: Spectra, old: np.ndarray, medium: str | None, velocity: float, new: np.ndarray
) -> np.ndarray:
    """The old grid in the medium of the new one and in the rest frame; it has to overlap `new`.

    Wavelengths are shifted in vacuum where it is known what they are.
    """
    stored = spectra.wavelength_medium
    unit = spectra.wavelength_unit
    if medium is not None and stored is None:
        raise DataError(
            f"spectra should say whether their wavelengths are of air or of vacuum, to be taken to"
            f" {medium}, got wavelength_medium=None: give Spectra(wavelength_medium=...), or leave"
            " the option out."
        )
    if velocity or medium != stored:
        old = convert_medium(old, unit, stored, stored and "vacuum")
        old = shift_to_rest_frame(old, velocity)
        old = convert_medium(old, unit, stored and "vacuum", medium)
        if find_pixel_order(old, "spectra.wavelength") != slice(None):
            raise DataError("spectra.wavelength should rise, got a grid that falls: turn it round.")
    if new.size == 0 or new[-1] < old[0] or new[0] > old[-1]:
        got = f"{new[0]:.6g} to {new[-1]:.6g}" if new.size else "no pixel at all"
        raise DataError(
            f"wavelength should overlap the grid of the spectra, {old[0]:.6g} to {old[-1]:.6g}"
            f" {unit}, got {got}: if the units differ, say that of the new grid, wavelength_unit=."
        )
    return old


def _find_velocities(radial_velocity: ArrayLike, n_stars: int) -> np.ndarray:
    """Velocities of all stars (star,), or the one that all have (1,)."""
    velocities = as_float_array(radial_velocity, "radial_velocity", unit="km/s")
    if velocities.shape not in ((), (n_stars,)):
        raise ShapeError(
            f"radial_velocity should be one number, or have shape ({n_stars},), got"
            f" {velocities.shape}: give one a star, in km/s."
        )
    check_finite(velocities, "radial_velocity", ("star",), "give 0 for what should not be shifted")
    velocities = np.atleast_1d(velocities)
    return velocities[:1] if velocities.size and (velocities == velocities[0]).all() else velocities


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


def _apply_each(
    matrices: tuple[sparse.csr_array, ...], spectra: Spectra
) -> tuple[np.ndarray, np.ndarray | None]:
    """New flux, and one over the diagonal of its covariance, by the one map or by each star's."""
    if len(matrices) == 1:
        return _apply(matrices[0], spectra)
    parts = [_apply(R, spectra[star]) for star, R in enumerate(matrices)]
    flux = np.concatenate([flux for flux, _ in parts])
    errors = [ivar for _, ivar in parts if ivar is not None]
    return flux, np.concatenate(errors) if errors else None


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
    variance = (R.power(2) @ find_variance(spectra.ivar).T).T
    return flux, np.divide(1.0, variance, out=np.zeros(good.shape), where=good)


def _find_good(R: sparse.csr_array, ivar: np.ndarray) -> np.ndarray:
    """Whether new pixels (star, new pixel) depend on old ones, and on none of ivar = 0."""
    bad = (abs(R) @ (ivar == 0).T.astype(float)).T > 0
    return ~bad & (np.diff(R.indptr) > 0)
