"""Networks of other programs, of which nothing is run."""

from symspec.files.importers.descriptions import (
    FileDescription,
    FileRow,
    describe_file,
    is_foreign_network,
)
from symspec.files.importers.payne import import_payne
from symspec.files.importers.read import import_network, read_network

__all__ = [
    "FileDescription",
    "FileRow",
    "describe_file",
    "import_network",
    "import_payne",
    "is_foreign_network",
    "read_network",
]
