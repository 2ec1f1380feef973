"""The exception tree: every error of symspec is a `SymspecError` and the fitting builtin.

A message says what was expected, what came, and what to do. Numbers that a program may want are
attributes.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from symspec.laplace.certificate import Certificate


class SymspecError(Exception):
    """Base of every error symspec raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Words and attributes, for other processes, whatever the class takes to be made."""
        return _restore, (type(self), self.args, vars(self))


class ShapeError(SymspecError, ValueError):
    """An array has the wrong number of axes or the wrong length along one."""


class DataError(SymspecError, ValueError):
    """An array has unusable values (NaN flux, negative ivar, ragged rows, ...)."""


class OptionError(SymspecError, ValueError):
    """An option is not one of the words, or out of the range, allowed."""


class FileFormatError(SymspecError, ValueError):
    """A file is truncated, foreign, or incomplete."""


class MissingDependencyError(SymspecError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


class TooLargeError(SymspecError, MemoryError):
    """The problem does not fit in the memory given."""


class NotPositiveDefiniteError(SymspecError, ArithmeticError):
    """A Hessian has a negative eigenvalue, so that its inverse is no covariance.

    Attributes
    ----------
    smallest_eigenvalue : float
        The smallest eigenvalue of the matrix.
    """

    def __init__(self, message: str, smallest_eigenvalue: float):
        super().__init__(message)
        self.smallest_eigenvalue = smallest_eigenvalue


class NotAtMinimumError(SymspecError, ArithmeticError):
    """The weights are not at a minimum of the negative log posterior, and one was required.

    Attributes
    ----------
    certificate : Certificate
        The numbers that say so.
    """

    def __init__(self, message: str, certificate: Certificate):
        super().__init__(message)
        self.certificate = certificate


class NotAtMinimumWarning(UserWarning):
    """The weights are not at a minimum of the negative log posterior; error bars carry a flag."""


class MissingPixelsWarning(UserWarning):
    """Missing pixels are filled in a way that error bars know nothing of."""


class EdgeOfRangeWarning(UserWarning):
    """A hyperparameter ended at the edge of its range: the evidence has no maximum inside."""


class SeveralMaximaWarning(UserWarning):
    """The evidence has several maxima; which one is found depends on rounding, so on units."""


class UnsettledEvidenceWarning(NotAtMinimumWarning, SeveralMaximaWarning):
    """No minimum was reached at which the evidence holds: rounding decides where it ended."""


class UnfinishedEvidenceWarning(UserWarning):
    """The evaluations that were allowed ended while the evidence still rose."""


class UnusedDataWarning(UserWarning):
    """A file holds arrays, HDUs or columns that were not read; the message names them."""


class ValuesDroppedWarning(UserWarning):
    """Values were taken for flags and lost their weight, though they may be numbers."""


class AssumedUnitWarning(UserWarning):
    """Wavelengths without a unit were taken for Angstrom."""


class DivergedError(SymspecError, ArithmeticError):
    """The loss or the weights became infinite or NaN: the steps were too long.

    Attributes
    ----------
    epoch : int or None
        The epoch, counted from 1, in which it happened; None outside `train`.
    """

    def __init__(self, message: str, epoch: int | None = None):
        super().__init__(message)
        self.epoch = epoch


class FileKeptError(SymspecError, FileExistsError):
    """There is a file where another should be written, and it may not be overwritten."""


class DiskFullError(SymspecError, OSError):
    """A disk has no space for a file, of which nothing is left there."""


class WorkersError(SymspecError, RuntimeError):
    """Processes died, or workers of a cluster cannot be reached or have other versions."""


def _restore(kind: type[SymspecError], args: tuple[Any, ...], held: dict[str, Any]) -> SymspecError:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(held)
    return error


def tell_without_places() -> None:
    """Print warnings of symspec as their name and words, without the place in the code.

    It is for commands and the processes behind them: whoever reads there sees no code.
    """
    others = warnings.formatwarning

    def format_warning(message: Any, category: type[Warning], *place: Any, **line: Any) -> str:
        if category.__module__ == __name__:
            return f"{category.__name__}: {message}\n"
        return others(message, category, *place, **line)

    warnings.formatwarning = format_warning
