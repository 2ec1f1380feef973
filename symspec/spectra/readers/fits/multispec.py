r"""IRAF's multispec coordinates: one dispersion for each aperture, in the cards WAT2_001, ...

``spec3 = "3 57 2 5000. 0.1 2048 0. 10.2 14.8 1. 0. 1 3 1. 2048. ..."`` stands for aperture, beam,
type, first wavelength, step, number of pixels, redshift z, two limits of the aperture, and for
nonlinear dispersions functions f of the pixel with weights w and offsets:

.. math:: \lambda(p) = \frac{\sum_f w_f (\lambda_f + f(p))}{(1 + z) \sum_f w_f}

(`specwcs` of IRAF's onedspec package, and its driver `wfmspec`, which divides by the weights;
Valdes 1993, ASP Conf. Ser. 52, 467.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from symspec.errors import DataError
from symspec.spectra.readers.fits.file import Header
from symspec.spectra.readers.fits.headers import parse_wat

_SPEC = re.compile(r"spec(\d+)")
_LINEAR, _LOGARITHMIC, _NONLINEAR = 0, 1, 2
_CHEBYSHEV, _LEGENDRE, _CUBIC_SPLINE, _LINEAR_SPLINE = 1, 2, 3, 4
_N_LEADING = 9  # numbers before the functions


@dataclass(frozen=True, kw_only=True)
class Aperture:
    """Wavelengths of one aperture or order.

    Attributes
    ----------
    number : int
        IRAF's number of the aperture.
    wavelength : numpy.ndarray, shape (pixel,)
        Of its own pixels, which may be fewer than those of the image.
    """

    number: int
    wavelength: np.ndarray


def read_apertures(header: Header, n_apertures: int, n_pixels: int) -> list[Aperture]:
    """Wavelengths of the apertures of an image, in their order.

    Raises
    ------
    DataError
        An aperture has no dispersion, or one that is not known.
    """
    attributes = parse_wat(header, 2)
    specs = {int(m[1]): text for name, text in attributes.items() if (m := _SPEC.fullmatch(name))}
    if missing := [i for i in range(1, n_apertures + 1) if i not in specs]:
        raise DataError(
            f"cards WAT2_001, ... should have a dispersion for each of the {n_apertures} apertures,"
            f" got none for number {missing[0]}: give the image with its whole header."
        )
    pixels = _find_physical_pixels(header, n_pixels)
    return [_read_aperture(specs[i], pixels) for i in range(1, n_apertures + 1)]


def _find_physical_pixels(header: Header, n_pixels: int) -> np.ndarray:
    """Coordinates of pixels in the image that a section was cut from, of which functions are."""
    scale = float(header.get("LTM1_1", 1.0))
    return (np.arange(1, n_pixels + 1) - float(header.get("LTV1", 0.0))) / scale


def _read_aperture(text: str, pixels: np.ndarray) -> Aperture:
    try:
        numbers = [float(word) for word in text.split()]
        kind = int(numbers[2])
        start, step, n_valid, redshift = numbers[3:7]
    except (ValueError, IndexError):
        raise DataError(
            "a card of multispec coordinates should hold nine numbers or more, got"
            f" {text[:60]!r}: give the image with its whole header."
        ) from None
    pixels = pixels[: int(n_valid)] if n_valid > 0 else pixels
    if kind in (_LINEAR, _LOGARITHMIC):
        values = start + step * (pixels - 1)
        values = 10.0**values if kind == _LOGARITHMIC else values
    elif kind == _NONLINEAR:
        values = _add_functions(numbers[_N_LEADING:], pixels)
    else:
        raise DataError(
            "an aperture should have a linear, logarithmic or nonlinear dispersion (0, 1, 2), got"
            f" type {kind}, which stands for pixels without wavelengths: calibrate it first."
        )
    return Aperture(number=int(numbers[0]), wavelength=values / (1 + redshift))


def _add_functions(numbers: Sequence[float], pixels: np.ndarray) -> np.ndarray:
    total = np.zeros(pixels.size)
    weights = 0.0
    rest = list(numbers)
    while rest:
        weight, offset, kind = rest[:3]
        n_coefficients = _count_coefficients(int(kind), int(rest[3]))
        low, high = rest[4:6]
        coefficients = np.array(rest[6 : 6 + n_coefficients])
        if coefficients.size < n_coefficients:
            raise DataError(
                f"a nonlinear dispersion should have {n_coefficients} coefficients, got"
                f" {coefficients.size}: give the image with its whole header."
            )
        total += weight * (offset + _evaluate(int(kind), coefficients, pixels, low, high))
        weights += weight
        rest = rest[6 + n_coefficients :]
    return total / weights


def _count_coefficients(kind: int, order: int) -> int:
    extra = {_CHEBYSHEV: 0, _LEGENDRE: 0, _CUBIC_SPLINE: 3, _LINEAR_SPLINE: 1}
    if kind not in extra:
        raise DataError(
            "a nonlinear dispersion should be a Chebyshev or Legendre polynomial or a spline (1 to"
            f" 4), got IRAF's function {kind}: resample the spectra to a linear grid (dispcor)."
        )
    return order + extra[kind]


def _evaluate(
    kind: int, coefficients: np.ndarray, pixels: np.ndarray, low: float, high: float
) -> np.ndarray:
    if kind in (_CHEBYSHEV, _LEGENDRE):
        x = (pixels - (high + low) / 2) / ((high - low) / 2)
        sums = {
            _CHEBYSHEV: np.polynomial.chebyshev.chebval,
            _LEGENDRE: np.polynomial.legendre.legval,
        }
        return np.asarray(sums[kind](x, coefficients))
    degree = 3 if kind == _CUBIC_SPLINE else 1
    n_pieces = coefficients.size - degree
    place = (pixels - low) / (high - low) * n_pieces
    piece = np.clip(place.astype(int), 0, n_pieces - 1)
    b = place - piece
    a = 1 - b
    parts = [a, b]
    if kind == _CUBIC_SPLINE:
        parts = [a**3, 1 + 3 * a * (1 + a * b), 1 + 3 * b * (1 + a * b), b**3]
    return np.asarray(sum(coefficients[piece + i] * part for i, part in enumerate(parts)))
