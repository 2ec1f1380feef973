"""Example stars: those of the MILES library, and generated ones whose true labels are known."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import (
    DataError,
    FileFormatError,
    MissingDependencyError,
    OptionError,
    ShapeError,
)
from symspec.safety.arrays import as_float_array
from symspec.safety.options import check_choice, check_count, check_rng
from symspec.spectra.line_list import LINE_WAVELENGTH, equivalent_widths
from symspec.spectra.spectra import Spectra

LABEL_NAMES = ("TEFF", "LOGG", "FE_H")
LABEL_UNITS = ("K", "dex", "dex")

#: Full width at half maximum of the generated lines [Angstrom], which is that of MILES.
LINE_FWHM = 2.5

# beyond these the line model has no meaning, and its exponentials overflow in the end
_LABEL_LIMITS = {"Teff [K]": (2000.0, 20000.0), "log g": (-2.0, 10.0), "[Fe/H]": (-10.0, 3.0)}
_NOISE_BLOCK = 256  # stars whose noise is drawn at a time
_MILES_FOLDER = "data/spectral_templates/miles"


def miles(
    *,
    complete: bool = True,
    teff_range: tuple[float, float] | None = (3800.0, 7500.0),
    clip: tuple[float, float] | None = None,
) -> Spectra:
    """Read the stars of the MILES library, version 9.1, which the package sdss-mangadap brings.

    Spectra of 2.5 Angstrom resolution (FWHM) from 3540.5 to 7409.6 Angstrom (air), 0.9 Angstrom a
    pixel, in relative flux, each star scaled to about 1 near 5500 Angstrom [1]_ [2]_. Labels are
    those of [3]_: effective temperature [K], log g [dex(cm / s2)], [Fe/H] [dex]. Neither pixels nor
    labels come with errors, so `ivar` is None.

    Parameters
    ----------
    complete : bool, default True
        Leave out stars that lack a label. With False their missing labels are NaN.
    teff_range : (float, float) or None, default (3800.0, 7500.0)
        Keep stars whose effective temperature [K] is strictly between the two, which drops stars
        without one; None keeps all 984.
    clip : (float, float), optional
        Limit the flux to this range, e.g. ``clip=(0.0, 3.0)``. By default the flux is returned as
        published.

    Returns
    -------
    Spectra
        785 stars with the defaults, in order of their MILES number, ids ``m0001`` to ``m0985``.

    Raises
    ------
    MissingDependencyError
        The package sdss-mangadap is not installed.
    OptionError
        A range is not two increasing numbers, or holds no star.
    FileFormatError
        An installed file is not as expected.

    Notes
    -----
    Flux is zero or negative (down to -1.7) somewhere in 25 of the 785 spectra, nearly always noise
    below 3750 Angstrom or in the last pixels above 7400. It exceeds 3 in three, two of which
    (m0940, m0941) look like M stars, against their labels. Outside the default range large flux is
    real: hot stars are bright in the blue, M stars in the red. So flux is changed only by `clip`.

    References
    ----------
    .. [1] Sanchez-Blazquez, P. et al. (2006), MNRAS 371, 703,
       https://doi.org/10.1111/j.1365-2966.2006.10699.x.
    .. [2] Falcon-Barroso, J. et al. (2011), A&A 532, A95,
       https://doi.org/10.1051/0004-6361/201116842.
    .. [3] Cenarro, A. J. et al. (2007), MNRAS 374, 664,
       https://doi.org/10.1111/j.1365-2966.2006.11196.x.
    """
    if clip is not None:
        _check_range(clip, "clip", "(0.0, 3.0)")
    folder = _find_miles()
    labels_of = _read_miles_labels(folder / "paramsMILES_v9.1.txt")
    files = {
        path.stem.rpartition("_")[2].removesuffix("V"): path
        for path in folder.glob("MILES_*_m*V.fits")
    }
    ids = np.array(sorted(files))
    labels = np.array([labels_of.get(star, (np.nan,) * 3) for star in ids])
    keep = np.isfinite(labels).all(axis=1) if complete else np.ones(len(ids), dtype=bool)
    if teff_range is not None:
        low, high = _check_range(teff_range, "teff_range", "(3800.0, 7500.0)")
        keep &= (low < labels[:, 0]) & (labels[:, 0] < high)
    if not keep.any():
        raise OptionError(
            f"teff_range should hold some stars, got {teff_range} K: MILES spans 2,748 to 36,000 K."
        )
    flux, wavelength = _read_one_grid([files[star] for star in ids[keep]])
    return Spectra(
        flux=flux if clip is None else np.clip(flux, *clip),
        wavelength=wavelength,
        labels=labels[keep],
        label_names=LABEL_NAMES,
        label_units=LABEL_UNITS,
        ids=ids[keep],
    )


def generated_stars(
    n_stars: int,
    *,
    n_pixels: int = 7213,
    rng: np.random.Generator,
    snr: float = 100.0,
    teff_range: tuple[float, float] = (4000.0, 7000.0),
    logg_range: tuple[float, float] = (1.0, 5.0),
    fe_h_range: tuple[float, float] = (-2.0, 0.5),
    wavelength_range: tuple[float, float] = (3900.0, 6900.0),
) -> Spectra:
    r"""Generate stars whose true labels, errors and derivatives are known.

    .. math::
        x_n = f(y_n) + \epsilon_n, \qquad \epsilon_{nd} \sim \mathrm{Normal}(0, 1 / \mathrm{snr}),

    with f from `generated_flux` (lines of 13 elements after Saha and Boltzmann, continuum at 1) and
    the labels independent and uniform in their ranges, so that none predicts another.

    Parameters
    ----------
    n_stars : int
    n_pixels : int, default 7213
        Number of pixels, equally spaced in wavelength.
    rng : numpy.random.Generator
        Source of the labels and the noise.
    snr : float, default 100.0
        Signal-to-noise ratio of a pixel of continuum. `generated_flux` has no noise.
    teff_range, logg_range, fe_h_range : (float, float)
        Ranges of effective temperature [K], log g [dex(cm / s2)] and [Fe/H] [dex].
    wavelength_range : (float, float), default (3900.0, 6900.0)
        First and last pixel [Angstrom, air].

    Returns
    -------
    Spectra
        Noisy flux, ``ivar = snr**2`` everywhere, the true labels, ids ``generated_0``, ...

    Raises
    ------
    OptionError
        A number or range makes no sense, or `rng` is no generator.

    Examples
    --------
    >>> import numpy as np
    >>> stars = generated_stars(5, n_pixels=100, rng=np.random.default_rng(0))
    >>> stars.flux.shape, stars.label_names
    ((5, 100), ('TEFF', 'LOGG', 'FE_H'))
    """
    rng = check_rng(rng)
    check_count(n_stars, "n_stars", advice="give e.g. n_stars=100")
    check_count(n_pixels, "n_pixels", least=2, advice="give e.g. n_pixels=100")
    if not (np.ndim(snr) == 0 and 0 < snr < np.inf):
        raise OptionError(
            f"snr should be one positive number, got {snr!r}: for no noise call generated_flux."
        )
    low, high = np.transpose(
        [
            _check_range(teff_range, "teff_range", "(4000.0, 7000.0)", _LABEL_LIMITS["Teff [K]"]),
            _check_range(logg_range, "logg_range", "(1.0, 5.0)", _LABEL_LIMITS["log g"]),
            _check_range(fe_h_range, "fe_h_range", "(-2.0, 0.5)", _LABEL_LIMITS["[Fe/H]"]),
        ]
    )
    wavelength_limits = _check_range(
        wavelength_range, "wavelength_range", "(3900.0, 6900.0)", (0.0, np.inf)
    )
    wavelength = np.linspace(*wavelength_limits, n_pixels)
    labels = rng.uniform(low, high, size=(n_stars, 3))
    flux = generated_flux(labels, wavelength)
    for start in range(0, n_stars, _NOISE_BLOCK):
        block = flux[start : start + _NOISE_BLOCK]
        block += rng.standard_normal(block.shape) / snr
    return Spectra(
        flux=flux,
        ivar=np.full(flux.shape, float(snr) ** 2),
        wavelength=wavelength,
        labels=labels,
        label_names=LABEL_NAMES,
        label_units=LABEL_UNITS,
        ids=np.array([f"generated_{star}" for star in range(n_stars)]),
    )


def generated_flux(
    labels: ArrayLike, wavelength: ArrayLike, *, dtype: str = "float64"
) -> np.ndarray:
    r"""Spectra, without noise, of stars with given labels.

    .. math::
        f(y, \lambda) = \exp\Big(-\sum_l W_l(y)\, \phi(\lambda - \lambda_l)\Big), \qquad
        \phi(\Delta) = \frac{1}{\sqrt{2\pi}\, s} e^{-\Delta^2 / 2 s^2},

    with the equivalent widths :math:`W_l` of `symspec.spectra.line_list.equivalent_widths` and s
    the standard deviation of a Gaussian of ``LINE_FWHM`` (2.5 Angstrom). A weak line's area is its
    equivalent width; a strong one goes black in the middle. The flux is infinitely differentiable
    in the labels, and within (0, 1].

    Parameters
    ----------
    labels : array_like, shape (star, 3)
        Effective temperature [K], log g [dex(cm / s2)], [Fe/H] [dex].
    wavelength : array_like, shape (pixel,)
        Wavelengths [Angstrom, air]. Lines lie between 3829 and 6768.
    dtype : {"float64", "float32"}
        Type of the result, and of the computation on pixels.

    Returns
    -------
    numpy.ndarray, shape (star, pixel)
        Flux over continuum.

    Raises
    ------
    ShapeError
        `labels` or `wavelength` has another shape.
    DataError
        A number is not finite, Teff is outside 2,000 to 20,000 K, log g outside -2 to 10 or [Fe/H]
        outside -10 to 3, or a wavelength is not positive.
    OptionError
        `dtype` is not one of those above.
    """
    check_choice(dtype, "dtype", ("float64", "float32"))
    profiles = _line_profiles(wavelength).astype(dtype, copy=False)
    widths, _ = equivalent_widths(_check_stellar_labels(labels))
    flux = widths.astype(dtype, copy=False) @ profiles
    np.negative(flux, out=flux)
    return np.exp(flux, out=flux)


def generated_flux_jacobian(labels: ArrayLike, wavelength: ArrayLike) -> np.ndarray:
    r"""Exact derivatives of `generated_flux` with respect to the labels.

    .. math::
        \frac{\partial f}{\partial y_i}(y, \lambda) =
            -f(y, \lambda) \sum_l \frac{\partial W_l}{\partial y_i}(y)\, \phi(\lambda - \lambda_l)

    Parameters
    ----------
    labels : array_like, shape (star, 3)
        Effective temperature [K], log g [dex(cm / s2)], [Fe/H] [dex].
    wavelength : array_like, shape (pixel,)
        Wavelengths [Angstrom, air].

    Returns
    -------
    numpy.ndarray, shape (star, pixel, 3)
        Flux over continuum per K, per dex, per dex.

    Raises
    ------
    ShapeError, DataError
        As `generated_flux`.
    """
    profiles = _line_profiles(wavelength)
    widths, d_widths = equivalent_widths(_check_stellar_labels(labels))
    flux = np.exp(-(widths @ profiles))
    jacobian = np.empty((*flux.shape, d_widths.shape[-1]))
    for i in range(d_widths.shape[-1]):
        np.multiply(-flux, d_widths[..., i] @ profiles, out=jacobian[..., i])
    return jacobian


def _line_profiles(wavelength: ArrayLike) -> np.ndarray:
    """Profile of each line [1 / Angstrom], shape (line, pixel), of unit area."""
    wavelength = as_float_array(wavelength, "wavelength", unit="Angstrom")
    if wavelength.ndim != 1:
        raise ShapeError(
            f"wavelength should have shape (pixel,), got {wavelength.shape}: all stars share one"
            " grid, give that."
        )
    if not (np.isfinite(wavelength) & (wavelength > 0)).all():
        raise DataError(
            "wavelength should be finite and positive, got "
            f"{wavelength.min()} to {wavelength.max()}: give Angstrom, not their log."
        )
    sigma = LINE_FWHM / np.sqrt(8 * np.log(2))
    offset = (wavelength - LINE_WAVELENGTH[:, None]) / sigma
    return np.exp(-0.5 * offset**2) / (np.sqrt(2 * np.pi) * sigma)


def _check_stellar_labels(labels: ArrayLike) -> np.ndarray:
    labels = as_float_array(labels, "labels", unit=LABEL_UNITS)
    if labels.ndim != 2 or labels.shape[1] != 3:
        advice = (
            "for one star give labels[None, :]" if labels.shape == (3,) else "give one row a star"
        )
        raise ShapeError(
            f"labels should have shape (star, 3), Teff, log g and [Fe/H], got {labels.shape}:"
            f" {advice}."
        )
    if not np.isfinite(labels).all():
        raise DataError("labels should be finite, got NaN or infinite ones: leave these stars out.")
    for column, (name, (low, high)) in enumerate(_LABEL_LIMITS.items()):
        values = labels[:, column]
        if not ((low <= values) & (values <= high)).all():
            raise DataError(
                f"labels[:, {column}] should be {name} from {low:g} to {high:g}, got"
                f" {values.min():g} to {values.max():g}: give the labels in the order Teff, log g,"
                " [Fe/H], not scaled."
            )
    return labels


def _check_range(
    value: Any, name: str, example: str, limits: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError):
        raise OptionError(
            f"{name} should be two numbers, got {value!r}: write {name}={example}."
        ) from None
    if not (np.isfinite([low, high]).all() and low < high):
        raise OptionError(
            f"{name} should be two finite numbers, the smaller first, got {value!r}: write"
            f" {name}={example}."
        )
    if low < limits[0] or high > limits[1]:
        raise OptionError(
            f"{name} should lie within {limits[0]:g} to {limits[1]:g}, got {value!r}: write"
            f" {name}={example}."
        )
    return low, high


def _find_miles() -> Path:
    spec = importlib.util.find_spec("mangadap")  # found, not imported: that would take seconds
    for package in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(package) / _MILES_FOLDER
        if (folder / "paramsMILES_v9.1.txt").is_file():
            return folder
    raise MissingDependencyError(
        "the MILES stars come with the package sdss-mangadap, which "
        f"{'lacks them' if spec else 'is not installed'}: "
        'pip install "symspec[demo]", or use generated_stars.'
    )


def _read_miles_labels(path: Path) -> dict[str, tuple[float, ...]]:
    """Labels by MILES number; "--" marks a missing one."""
    labels = {}
    for row in path.read_text().splitlines():
        number = row[23:27]
        values = row[50:].split()[:3]
        if number.isdigit() and len(values) == 3:
            labels[f"m{number}"] = tuple(
                np.nan if value == "--" else float(value) for value in values
            )
    return labels


def _read_one_grid(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Flux (star, pixel) of 1-D FITS files, and the wavelengths (pixel,) that they share."""
    from astropy.io import fits

    keys = ("NAXIS1", "CRPIX1", "CRVAL1", "CDELT1")
    flux = []
    grids = []
    for path in paths:
        with fits.open(path, memmap=False) as hdus:
            flux.append(hdus[0].data)
            grids.append(tuple(hdus[0].header[key] for key in keys))
        if grids[-1] != grids[0]:
            raise FileFormatError(
                f"{path} should have {keys} = {grids[0]} like the others, got {grids[-1]}:"
                " reinstall sdss-mangadap."
            )
    n_pixels, reference_pixel, reference_wavelength, step = grids[0]
    offset = np.arange(1, n_pixels + 1) - reference_pixel
    return np.array(flux), reference_wavelength + step * offset
