"""Options of reading spectra, checked before any file is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Self

from symspec.errors import OptionError
from symspec.safety.options import check_choice
from symspec.spectra.pixels import UNCERTAINTY_KINDS, check_mask_bits
from symspec.spectra.readers.fits.apstar import APSTAR_ROWS
from symspec.spectra.wavelengths import parse_unit


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options of `symspec.read_spectra`, which says what each does.

    Attributes
    ----------
    given : mapping of str to object
        Those that the caller gave, as they were given.
    """

    label_names: Sequence[str] | None = None
    uncertainty: str | None = None
    bad_error: float = 999.0
    mask_bits: Sequence[int] | None = None
    wavelength_unit: str | None = None
    hdu: int | str | None = None
    apstar: str = "combined"
    given: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """Check the options that a caller gave."""
        return cls(**options, given=options)

    def __post_init__(self) -> None:
        if self.uncertainty is not None:
            check_choice(self.uncertainty, "uncertainty", UNCERTAINTY_KINDS)
        if not (isinstance(self.bad_error, Real) and self.bad_error > 0):
            raise OptionError(
                f"bad_error should be above 0, got {self.bad_error!r}: give numpy.inf to keep every"
                " error."
            )
        names = self.label_names
        if isinstance(names, str) or not all(isinstance(name, str) for name in names or ()):
            raise OptionError(
                f"label_names should be a sequence of strings, got {names!r}: write them like"
                ' ["TEFF", "LOGG"].'
            )
        check_mask_bits(self.mask_bits)
        if self.wavelength_unit is not None:
            parse_unit(self.wavelength_unit)
        check_choice(self.apstar, "apstar", APSTAR_ROWS)
        is_hdu = isinstance(self.hdu, int | str) and not isinstance(self.hdu, bool)
        if self.hdu is not None and not is_hdu:
            raise OptionError(
                f"hdu should be the number or the name of an HDU, got {self.hdu!r}: numbers start"
                " at 0."
            )

    def identity(self) -> dict[str, str | None]:
        """Strings that differ if the options given do."""
        return {name: None if value is None else str(value) for name, value in self.given.items()}
