"""One file a format, one contract: named arrays."""

from symspec.spectra.readers.read import open_spectra, read_spectra

__all__ = ["open_spectra", "read_spectra"]
