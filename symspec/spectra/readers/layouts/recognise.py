"""Which layout a FITS file has: that of a survey, a pipeline or a program, else images and tables.

A new layout is a module with two functions, and a row of `LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from symspec.errors import FileFormatError, OptionError
from symspec.safety.named_arrays import NamedArrays
from symspec.spectra.names import FLUX, NamedByCaller, is_pixel_name
from symspec.spectra.readers.fits.file import (
    FitsFile,
    FitsOptions,
    Hdu,
    describe_hdu,
    find_hdu,
    find_image_shape,
    is_table,
    is_tiled,
    list_hdus,
    list_others,
    open_fits_file,
    reading_fits,
)
from symspec.spectra.readers.fits.images import arrange_images
from symspec.spectra.readers.fits.tables import arrange_table
from symspec.spectra.readers.layouts.apstar import arrange_apstar, is_apstar
from symspec.spectra.readers.layouts.apvisit import arrange_apvisit, is_apvisit
from symspec.spectra.readers.layouts.boss import arrange_boss, is_boss
from symspec.spectra.readers.layouts.desi import arrange_desi, is_desi
from symspec.spectra.readers.layouts.eso import arrange_phase3, is_phase3
from symspec.spectra.readers.layouts.iraf import arrange_iraf, is_iraf
from symspec.spectra.readers.layouts.lamost import (
    arrange_lamost_image,
    arrange_lamost_table,
    is_lamost_image,
    is_lamost_table,
)
from symspec.spectra.readers.layouts.orders import arrange_orders, is_orders
from symspec.spectra.readers.layouts.sdss_v import arrange_mwm, is_mwm
from symspec.spectra.readers.layouts.xshooter import arrange_xshooter, is_xshooter


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Layout of FITS files.

    Attributes
    ----------
    name : str
    recognises : callable
        Whether an open file has this layout, by what marks it.
    arrange : callable
        Its arrays, under the names of `symspec.spectra.names`.
    takes_hdu : bool
        Whether it knows what to do with the option `hdu`; else that HDU is taken as an image or a
        table like any other.
    takes_arm : bool
        Whether the option `arm` applies.
    is_survey : bool
        Whether its other HDUs and columns are known not to be missed.
    """

    name: str
    recognises: Callable[[FitsFile], bool]
    arrange: Callable[[FitsFile, FitsOptions], NamedArrays]
    takes_hdu: bool = False
    takes_arm: bool = False
    is_survey: bool = True


_UNNAMED = ("", "COMPRESSED_IMAGE")  # as astropy and fpack name tiled images by themselves
# the first that recognises a file
LAYOUTS = (
    Layout(name="APOGEE apVisit", recognises=is_apvisit, arrange=arrange_apvisit),
    Layout(name="APOGEE apStar", recognises=is_apstar, arrange=arrange_apstar),
    Layout(
        name="SDSS-V mwmStar or mwmVisit",
        recognises=is_mwm,
        arrange=arrange_mwm,
        takes_hdu=True,
        takes_arm=True,
    ),
    Layout(name="DESI", recognises=is_desi, arrange=arrange_desi, takes_hdu=True, takes_arm=True),
    Layout(name="LAMOST image", recognises=is_lamost_image, arrange=arrange_lamost_image),
    Layout(
        name="LAMOST table",
        recognises=is_lamost_table,
        arrange=arrange_lamost_table,
        takes_hdu=True,
        takes_arm=True,
    ),
    Layout(name="SDSS BOSS coadd", recognises=is_boss, arrange=arrange_boss, takes_hdu=True),
    Layout(name="X-shooter", recognises=is_xshooter, arrange=arrange_xshooter),
    Layout(name="ESO phase 3", recognises=is_phase3, arrange=arrange_phase3),
    Layout(
        name="table of orders",
        recognises=is_orders,
        arrange=arrange_orders,
        takes_arm=True,
        is_survey=False,
    ),
    Layout(name="IRAF", recognises=is_iraf, arrange=arrange_iraf, takes_arm=True),
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
    OptionError
        An arm is asked for, and its layout has none.
    """
    with open_fits_file(path) as file:
        with reading_fits(path):
            arrays = _arrange(file, options)
        yield arrays


def _arrange(file: FitsFile, options: FitsOptions) -> NamedArrays:
    _refuse_tiled(file)
    layout = next((one for one in LAYOUTS if one.recognises(file)), None)
    if options.named.flux is not None or (layout and options.hdu is not None):
        layout = layout if options.named.flux is None and layout and layout.takes_hdu else None
    if options.arm is not None and not (layout and layout.takes_arm):
        raise OptionError(
            f"arm={options.arm!r} should go with a file of several arms or orders, got"
            f" {layout.name if layout else 'images and tables'} in {file.path}: leave arm out."
        )
    if layout is not None:
        arrays = layout.arrange(file, options)
        contents = replace(arrays.contents, layout=layout.name, is_known=layout.is_survey)
        return replace(arrays, contents=contents)
    if options.hdu is not None:
        return _arrange_hdu(file, options.hdu, options)
    main = _find_main(file, options.named)
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
    arrays = arrange_images(replace(file, hdus=fitting), main, options)
    others = list_others(file, fitting)
    return replace(
        arrays, contents=replace(arrays.contents, left_out=(*arrays.contents.left_out, *others))
    )


def _find_main(file: FitsFile, named: NamedByCaller) -> Hdu:
    """Find the HDU of the flux: an image of that name, another unnamed, or a table with flux."""
    images = [hdu for hdu in file.hdus if find_image_shape(hdu)]
    called = [hdu for hdu in images if named.is_flux(hdu.name)]
    plain = [hdu for hdu in images if not is_pixel_name(hdu.name) and named.flux is None]
    tables = [
        hdu for hdu in file.hdus if is_table(hdu) and any(map(named.is_flux, hdu.columns.names))
    ]
    if tables and plain and not called:
        if plain[0] is file.hdus[0]:
            column = next(filter(named.is_flux, tables[0].columns.names))
            raise FileFormatError(
                f"{file.path} should have one place for the flux, got the image"
                f" {describe_hdu(file, plain[0])} and the column {column} of"
                f" {describe_hdu(file, tables[0])}: say which it is, hdu=."
            )
        plain = []  # the name of a column says more than that of an image which says nothing
    if not called and len(plain) > 1 and plain[0] is not file.hdus[0]:
        raise FileFormatError(
            f"{file.path} should name the image that holds the flux, got several of other names,"
            f" {', '.join(describe_hdu(file, hdu) for hdu in plain)}: say which it is, hdu=."
        )
    if found := [*called, *plain, *tables]:
        return found[0]
    raise FileFormatError(
        f"{file.path} should hold the flux as an image, or as a column named"
        f" {', '.join([named.flux] if named.flux else FLUX)} of a"
        f" table, got HDUs {list_hdus(file)}: say which it is, flux=, or hdu=."
    )
