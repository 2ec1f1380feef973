"""Trained networks out of the files of other programs, without these programs."""

from symspec.importers.descriptions import FileDescription, FileRow, describe_file, is_foreign_network
from symspec.importers.entry import import_network, read_network
from symspec.importers.payne import import_payne

__all__ = [
    "FileDescription",
    "FileRow",
    "describe_file",
    "import_network",
    "import_payne",
    "is_foreign_network",
    "read_network",
]
