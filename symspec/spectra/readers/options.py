"""Options of reading spectra, checked before any file is opened."""

from __future__ import annotations

import codecs
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Self

from symspec.errors import OptionError
from symspec.safety.label_errors import MISSING, REFUSE
from symspec.safety.options import check_choice
from symspec.safety.stars import check_medium
from symspec.spectra.names import NamedByCaller
from symspec.spectra.pixels import UNCERTAINTY_KINDS, check_mask_bits
from symspec.spectra.readers.layouts.apstar import APSTAR_ROWS
from symspec.spectra.readers.tables.cells import SEPARATORS
from symspec.spectra.readers.tables.numerals import DECIMALS, Decimal
from symspec.spectra.readers.tables.orientation import ORIENTATIONS
from symspec.spectra.spectral_axis import parse_spectral_unit

LABEL_ERRORS = ("auto", "none")
OF_LABELS = ("labels", "label_names", "group")  # that a table of labels takes
_TABLE_CHOICES = {
    "separator": (*SEPARATORS, *SEPARATORS.values()),
    "decimal": DECIMALS,
    "orientation": ORIENTATIONS,
}


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
    wavelength_medium: str | None = None
    flux: str | None = None
    wavelength: str | None = None
    hdu: int | str | None = None
    arm: str | int | None = None
    group: str | None = None
    separator: str | None = None
    decimal: Decimal | None = None
    orientation: str | None = None
    encoding: str = "utf-8"
    sheet: str | None = None
    labels: str | os.PathLike[str] | None = None
    apstar: str = "combined"
    label_errors: str = "auto"
    missing_label_error: str = REFUSE
    given: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """Check the options that a caller gave."""
        return cls(**options, given=options)

    @property
    def named(self) -> NamedByCaller:
        """Names of arrays that the caller states."""
        return NamedByCaller.parse(self.flux, self.wavelength, self.uncertainty)

    def __post_init__(self) -> None:
        self._check_table()
        if self.uncertainty is not None:
            kind = self.uncertainty.partition(":")[0]
            check_choice(kind, "uncertainty", UNCERTAINTY_KINDS)
        for name in ("flux", "wavelength"):
            _check_name(getattr(self, name), name)
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
        check_choice(self.label_errors, "label_errors", LABEL_ERRORS)
        check_choice(self.missing_label_error, "missing_label_error", MISSING)
        check_mask_bits(self.mask_bits)
        if self.wavelength_unit is not None:
            parse_spectral_unit(self.wavelength_unit)
        check_medium(self.wavelength_medium)
        check_choice(self.apstar, "apstar", APSTAR_ROWS)
        is_hdu = isinstance(self.hdu, int | str) and not isinstance(self.hdu, bool)
        if self.hdu is not None and not is_hdu:
            raise OptionError(
                f"hdu should be the number or the name of an HDU, got {self.hdu!r}: numbers start"
                " at 0."
            )

        is_arm = isinstance(self.arm, int | str) and not isinstance(self.arm, bool)
        if self.arm is not None and not is_arm:
            raise OptionError(
                f"arm should be the name or the number of an arm or an order, got {self.arm!r}:"
                ' write it like "B" or 57.'
            )

    def _check_table(self) -> None:
        """Check what goes with tables."""
        if self.labels is not None and not isinstance(self.labels, str | os.PathLike):
            raise OptionError(
                f"labels should be the path of a table, got {type(self.labels).__name__}: labels in"
                " memory go into symspec.Spectra."
            )
        for name in ("group", "sheet", "encoding"):
            _check_name(getattr(self, name), name)
        _check_encoding(self.encoding)
        for name, choices in _TABLE_CHOICES.items():
            if (choice := getattr(self, name)) is not None:
                check_choice(choice, name, choices)

    def identity(self) -> dict[str, str | None]:
        """Strings that differ if the options given do."""
        return {name: None if value is None else str(value) for name, value in self.given.items()}


def _check_encoding(encoding: str) -> None:
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise OptionError(
            f"encoding should be one that Python knows, got {encoding!r}: write it like"
            ' "utf-8", "cp1252" or "utf-16".'
        ) from None


def _check_name(value: object, option: str) -> None:
    if value is not None and not isinstance(value, str):
        raise OptionError(
            f"{option} should be the name of an array, a column or an HDU, got"
            f" {type(value).__name__}: arrays in memory go into symspec.Spectra."
        )
