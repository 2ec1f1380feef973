"""What a file of spectra holds that is not read, and where that lies which is."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from symspec.safety.named_arrays import Contents, NamedArrays
from symspec.spectra.names import AMBIGUOUS, UNCERTAINTIES
from symspec.spectra.readers.options import ReadOptions

_N_LISTED = 20
_OF_LABELS = ("labels", "label_names", "label_units", "wavelength_unit", "wavelength_medium")


def find_unused(
    arrays: NamedArrays, used: Collection[str], options: ReadOptions, n_stars: int
) -> tuple[str, ...]:
    """Names of arrays that nothing reads, and of what the reader of the format left out.

    Not those that the caller had the choice of: other labels once `label_names` are given, another
    uncertainty than the one asked for, a mask that should not count.
    """
    free = {name for name in arrays.names if name not in used and name.lower() not in _OF_LABELS}
    if options.label_names is not None:
        free = {name for name in free if not _is_of_stars(arrays, name, n_stars)}
    if options.uncertainty is not None:
        free = {name for name in free if name.lower() not in {*UNCERTAINTIES, *AMBIGUOUS}}
    names = tuple(name for name in arrays.names if name in free)
    return (*names, *arrays.contents.left_out)


def describe_contents(
    arrays: NamedArrays,
    used: Mapping[str, str | None],
    unused: tuple[str, ...],
    kind: str | None,
) -> Contents:
    """Where each quantity of `used` lies in the file, and the kind of the uncertainty."""
    known = arrays.contents
    sources = {quantity: known.sources.get(name, name) for quantity, name in used.items() if name}
    if kind is not None:
        sources["uncertainty"] += f", as {kind}"
    return Contents(layout=known.layout, sources=sources, left_out=unused, is_known=known.is_known)


def describe_unused(names: tuple[str, ...]) -> str:
    """The names for a message, the first twenty of them."""
    listed = ", ".join(names[:_N_LISTED])
    others = len(names) - _N_LISTED
    return f"{listed} and {others} others" if others > 0 else listed


def _is_of_stars(arrays: NamedArrays, name: str, n_stars: int) -> bool:
    return arrays.find_shape(name) in ((), (n_stars,), (n_stars, 1))
