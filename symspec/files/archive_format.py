"""symspec's own HDF5 files: named arrays, numbers and strings, with a format name and version.

Nothing is pickled or executed and no link is followed. Arrays carry checksums and come back in
their memory layout: a dataset with an attribute ``axes`` holds ``array.transpose(axes)``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import FileFormatError, SymspecError
from symspec.safety.array_files import open_hdf5
from symspec.safety.arrays import check_finite
from symspec.safety.file_formats import describe_start, is_hdf5, read_start
from symspec.safety.whole_files import replace_when_complete
from symspec.version import __version__

FORMAT_VERSION = 1
_AGAIN = "the file is damaged or incomplete, so write or copy it again"
_KINDS: dict[type, str] = {str: "S", int: "iu", bool: "b", float: "f"}  # of NumPy dtypes
_DTYPES: dict[type, tuple[str, ...]] = {float: ("float32", "float64"), bool: ("bool",)}


@contextmanager
def create_archive(
    path: str | os.PathLike[str], file_format: str, *, overwrite: bool
) -> Iterator[Any]:
    """Open an `h5py.File` to write into, which replaces `path` once it is complete.

    Raises
    ------
    FileKeptError
        There is a file already, and `overwrite` is False.
    """
    import h5py

    # with the format of HDF5 1.10 the file's own structures carry checksums, too
    with (
        replace_when_complete(path, overwrite=overwrite) as temporary,
        h5py.File(temporary, "x", libver=("v110", "v110")) as file,
    ):
        write_attribute(file, "format", file_format)
        write_attribute(file, "format_version", FORMAT_VERSION)
        write_attribute(file, "symspec_version", __version__)
        yield file


def write_attribute(group: Any, key: str, value: str | float) -> None:
    """Write one number or string, where the checksum of the group covers it.

    Strings are UTF-8 of fixed length: HDF5 keeps strings of variable length in a heap without a
    checksum, and a damaged heap may keep it busy for ever.
    """
    import h5py

    if isinstance(value, str):
        content = value.encode()
        group.attrs.create(key, content, dtype=h5py.string_dtype("utf-8", max(1, len(content))))
    else:
        group.attrs[key] = value


def write_strings(group: Any, name: str, strings: Sequence[str]) -> None:
    """Write a dataset of strings, UTF-8 of fixed length."""
    import h5py

    encoded = [string.encode() for string in strings]
    dtype = h5py.string_dtype("utf-8", max(1, *map(len, encoded)))
    group.create_dataset(name, data=np.array(encoded, dtype=dtype), fletcher32=True)


def write_array(group: Any, name: str, array: Any) -> None:
    """Write a dataset with checksums, without a copy in any memory layout."""
    import h5py

    array = np.asarray(array)
    axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    stored = array.transpose(axes)
    if stored.ndim == 0 or stored.size == 0:
        # no chunks, but room in the header, which has a checksum of its own
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_layout(h5py.h5d.COMPACT)
        dataset = group.create_dataset(name, data=stored, dcpl=layout)
    else:
        dataset = group.create_dataset(name, data=stored, fletcher32=True)
    if axes != sorted(axes):
        dataset.attrs["axes"] = axes


@contextmanager
def open_archive(path: str | os.PathLike[str], formats: tuple[str, ...]) -> Iterator[Archive]:
    """Open a file of one of these formats; errors while it is read become `FileFormatError`.

    Raises
    ------
    FileNotFoundError
        There is nothing at `path`.
    FileFormatError
        The file is foreign, damaged, or of another version.
    """
    import h5py

    path = Path(path)
    wanted = " or ".join(repr(f) for f in formats)
    start = read_start(path, f"an HDF5 file of {wanted}")
    if not is_hdf5(start):
        raise FileFormatError(
            f"{path} should be an HDF5 file of {wanted}, got {describe_start(start)}: give a file"
            " that symspec wrote."
        )
    try:
        with open_hdf5(path) as arrays, h5py.File(path, "r") as tree:
            archive = Archive(path, tree, arrays.load)
            _check_format(archive, formats, wanted)
            yield archive
    except FileFormatError:
        raise
    # what a damaged file claims may break a layer's rules, or make HDF5 raise anything at all
    except Exception as error:
        what = str(error) if isinstance(error, SymspecError) else f"{type(error).__name__}: {error}"
        raise FileFormatError(
            f"{path} should be a {wanted} in good order, got a damaged one ({what}): write or copy"
            " it again."
        ) from error


def _check_format(archive: Archive, formats: tuple[str, ...], wanted: str) -> None:
    if "format" not in archive.tree.attrs:
        raise FileFormatError(
            f"{archive.path} should be an HDF5 file of {wanted}, got a foreign one, without"
            " symspec's attribute 'format': give a file that symspec wrote."
        )
    if (found := archive.attribute("/", "format", str)) not in formats:
        raise FileFormatError(
            f"{archive.path} should be a file of {wanted}, got one of {found!r}: give another file."
        )
    if (version := archive.attribute("/", "format_version", int)) != FORMAT_VERSION:
        raise FileFormatError(
            f"{archive.path} should be of format version {FORMAT_VERSION}, got {version}: it was"
            f" written by symspec {archive.attribute('/', 'symspec_version', str)}; install that"
            " version or a newer one."
        )


@dataclass(frozen=True)
class Archive:
    """An open file, read by full names such as "params/dense_0/kernel".

    Attributes
    ----------
    path : pathlib.Path
    tree : h5py.File
    load : callable
        Reads a dataset safely, see `open_hdf5`; `find` refuses links on the way to it.
    """

    path: Path
    tree: Any
    load: Callable[[str], np.ndarray]

    def refusal(self, name: str, expected: str, got: str, advice: str = _AGAIN) -> FileFormatError:
        """Error about one part of the file, to be raised."""
        return FileFormatError(f"{self.path}: {name!r} should be {expected}, got {got}: {advice}.")

    def find(self, name: str) -> Any:
        """Group or dataset; no part of its name may be a link."""
        import h5py

        node = self.tree
        for part in name.strip("/").split("/") if name.strip("/") else ():
            link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
            if link is None:
                raise self.refusal(name, "in the file", "nothing")
            if not isinstance(link, h5py.HardLink):
                target = getattr(link, "filename", None) or getattr(link, "path", "elsewhere")
                raise self.refusal(
                    name,
                    "in this file",
                    f"a link to {target}",
                    "links are not followed, copy it in",
                )
            node = node[part]
        return node

    def attribute(self, name: str, key: str, kind: type) -> Any:
        """One number or string of a group, of type str, int, bool or float."""
        value = self._attribute(name, key, (), _KINDS[kind], f"one {kind.__name__}")
        return value.decode() if kind is str else kind(value)

    def _attribute(
        self, name: str, key: str, shape: tuple[int, ...], kinds: str, expected: str
    ) -> Any:
        attributes = self.find(name).attrs
        where = f"{name}@{key}"
        if key not in attributes:
            raise self.refusal(where, "an attribute", "nothing")
        # its type is checked before it is read: a damaged file could keep the reader busy for ever
        declared = attributes.get_id(key)
        if (
            declared.shape != shape
            or declared.dtype.kind not in kinds
            or declared.dtype.itemsize > 2**16
        ):
            raise self.refusal(where, expected, f"{declared.dtype} of shape {declared.shape}")
        return attributes[key]

    def array(
        self, name: str, shape: tuple[int | None, ...], *, kind: type = float, finite: bool = False
    ) -> np.ndarray:
        """One dataset of floats or booleans, in the memory layout that it was written from.

        Parameters
        ----------
        name : str
        shape : tuple of int or None
            The shape expected; None takes any length.
        kind : {float, bool}
            float32 and float64 stay as they are.
        finite : bool, default False
            Whether to refuse values that are not finite.
        """
        axes = self._axes(name, len(shape))
        found = getattr(self.find(name), "shape", None) or ()
        if len(found) == len(shape):
            found = tuple(found[axes.index(i)] for i in range(len(shape)))
        if not _fits(found, shape):
            expected = tuple("any" if n is None else n for n in shape)
            advice = "it does not belong to the layers beside it, so write the file again"
            raise self.refusal(name, f"an array of shape {expected}", f"{found}", advice)
        array = self.load(name)
        if array.dtype not in _DTYPES[kind]:
            raise self.refusal(name, f"an array of {' or '.join(_DTYPES[kind])}", f"{array.dtype}")
        array = array.transpose(np.argsort(axes))
        if finite:
            check_finite(array, name, ("entry",) * array.ndim, _AGAIN)
        return array

    def _axes(self, name: str, ndim: int) -> list[int]:
        if "axes" not in self.find(name).attrs:
            return list(range(ndim))
        stored = self._attribute(name, "axes", (ndim,), "iu", f"{ndim} whole numbers")
        axes = [int(axis) for axis in stored]
        if sorted(axes) != list(range(ndim)):
            raise self.refusal(f"{name}@axes", "an order of the axes", f"{axes}")
        return axes

    def strings(self, name: str) -> list[str]:
        """One dataset of strings."""
        dtype = getattr(self.find(name), "dtype", None)
        if dtype is None or dtype.kind != "S" or self.find(name).ndim != 1:
            raise self.refusal(name, "a list of strings of fixed length", f"{dtype}")
        return [string.decode() for string in self.load(name)]


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    """Whether a shape is the one expected, in which None stands for any length."""
    return len(found) == len(shape) and all(
        want is None or want == n for want, n in zip(shape, found, strict=True)
    )
