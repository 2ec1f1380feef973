"""Layouts of FITS files of spectra: those of surveys, else images and tables.

A new survey's layout is a module with two functions, and a row of `LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from symspec.errors import FileFormatError
from symspec.safety.named_arrays import NamedArrays
from symspec.spectra.names import FLUX, is_flux_name, is_pixel_name
from symspec.spectra.readers.fits.apstar import arrange_apstar, is_apstar
from symspec.spectra.readers.fits.apvisit import arrange_apvisit, is_apvisit
from symspec.spectra.readers.fits.file import (
    FitsFile,
    FitsOptions,
    Hdu,
    find_hdu,
    find_image_shape,
    is_table,
    is_tiled,
    list_hdus,
    open_fits_file,
    reading_fits,
)
from symspec.spectra.readers.fits.images import arrange_images
from symspec.spectra.readers.fits.tables import arrange_table


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Layout of a survey's FITS files.

    Attributes
    ----------
    name : str
    recognises : callable
        Whether an open file has this layout.
    arrange : callable
        Its arrays, under the names of `symspec.spectra.names`.
    """

    name: str
    recognises: Callable[[FitsFile], bool]
    arrange: Callable[[FitsFile, FitsOptions], NamedArrays]


_UNNAMED = ("", "COMPRESSED_IMAGE")  # as astropy and fpack name tiled images by themselves
LAYOUTS = (
    Layout(name="apVisit", recognises=is_apvisit, arrange=arrange_apvisit),
    Layout(name="apStar", recognises=is_apstar, arrange=arrange_apstar),
)


@contextmanager
def open_fits(path: Path, options: FitsOptions) -> Iterator[NamedArrays]:
    """Open a FITS file of spectra, plain or packed by gzip, as named arrays.

    Raises
    ------
    FileFormatError
        The file is damaged, or holds no spectra.
    DataError
        Its wavelengths are missing or ambiguous, or the HDU asked for is not there.
    """
    with open_fits_file(path) as file:
        with reading_fits(path):
            arrays = _arrange(file, options)
        yield arrays


def _arrange(file: FitsFile, options: FitsOptions) -> NamedArrays:
    _refuse_tiled(file)
    if options.hdu is not None:
        return _arrange_hdu(file, options.hdu, options)
    for layout in LAYOUTS:
        if layout.recognises(file):
            return layout.arrange(file, options)
    main = _find_main(file)
    arrange = arrange_table if is_table(main) else arrange_images
    return arrange(file, main, options)


def _refuse_tiled(file: FitsFile) -> None:
    """Refuse images in compressed tiles that may belong to the flux: by name, or without one."""
    for i, hdu in enumerate(file.hdus):
        if is_tiled(hdu) and (hdu.name in _UNNAMED or is_pixel_name(hdu.name)):
            raise FileFormatError(
                f"{file.path} should hold plain images, got compressed tiles in HDU {i} {hdu.name}:"
                " unpack tiled images with funpack first."
            )


def _arrange_hdu(file: FitsFile, hdu: int | str, options: FitsOptions) -> NamedArrays:
    """Take the flux from one HDU; images of another shape belong to other HDUs."""
    main = find_hdu(file, hdu)
    if is_table(main):
        return arrange_table(file, main, options)
    shape = find_image_shape(main)
    fitting = [one for one in file.hdus if find_image_shape(one) in ((), shape, shape[-1:])]
    return arrange_images(replace(file, hdus=fitting), main, options)


def _find_main(file: FitsFile) -> Hdu:
    """Find the HDU of the flux: an image of that name, another unnamed, or a table with flux."""
    images = [hdu for hdu in file.hdus if find_image_shape(hdu)]
    named = [hdu for hdu in images if is_flux_name(hdu.name)]
    plain = [hdu for hdu in images if not is_pixel_name(hdu.name)]
    tables = [
        hdu for hdu in file.hdus if is_table(hdu) and any(map(is_flux_name, hdu.columns.names))
    ]
    if found := [*named, *plain, *tables]:
        return found[0]
    raise FileFormatError(
        f"{file.path} should hold the flux as an image, or as a column named {', '.join(FLUX)} of a"
        f" table, got HDUs {list_hdus(file)}: rename the column,"
        " or say which HDU it is, hdu=."
    )
