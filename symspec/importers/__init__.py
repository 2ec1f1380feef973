"""Trained networks out of the files of other programs, without these programs."""

from symspec.importers.entry import import_network, read_network
from symspec.importers.payne import import_payne

__all__ = ["import_network", "import_payne", "read_network"]
