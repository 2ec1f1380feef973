"""symspec's own HDF5 files: named arrays, numbers and strings, with a format name and version.

Nothing is pickled or executed and no link is followed. Arrays come back in their memory layout: a
dataset with an attribute ``axes`` holds ``array.transpose(axes)``. Each dataset has a ``digest`` of
its content, and the file one of all names, types, shapes and attributes, those digests among them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import FileFormatError, SymspecError
from symspec.safety.arrays import check_finite
from symspec.safety.file_formats import as_format_error, describe_start, is_hdf5, read_start
from symspec.safety.hdf5_files import AGAIN, Hdf5File, open_hdf5_file
from symspec.safety.interrupts import raise_if_interrupted
from symspec.safety.memory import chunks
from symspec.safety.whole_files import replace_hdf5_when_complete
from symspec.version import __version__

NETWORK = "symspec network"
LAPLACE = "symspec laplace"
MIXTURE = "symspec mixture"
FORMAT_VERSION = 2
_WITHOUT_DIGEST = 1  # the version of symspec 0.1
_DIGEST = "digest"
_HASHED_AT_A_TIME = 2**24  # bytes
_LARGEST_ATTRIBUTE = 2**16  # bytes
_ADVICE = {
    MIXTURE: "it holds several networks, which read_laplace reads; take one of its posteriors"
}
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
        replace_hdf5_when_complete(path, overwrite=overwrite) as stream,
        h5py.File(stream, "w", libver=("v110", "v110")) as file,
    ):
        write_attribute(file, "format", file_format)
        write_attribute(file, "format_version", FORMAT_VERSION)
        write_attribute(file, "symspec_version", __version__)
        yield file
        write_attribute(file, _DIGEST, _find_digest(Hdf5File(Path(path), file)))


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
    _write_dataset(group, name, np.array(encoded, dtype=dtype))


def write_array(group: Any, name: str, array: Any) -> None:
    """Write a dataset, without a copy in any memory layout."""
    array = np.asarray(array)
    axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    dataset = _write_dataset(group, name, array.transpose(axes))
    if axes != sorted(axes):
        dataset.attrs["axes"] = axes


def _write_dataset(group: Any, name: str, array: np.ndarray) -> Any:
    raise_if_interrupted()
    # HDF5 finds damage in chunks by itself, but numbers and empty arrays have none
    dataset = group.create_dataset(name, data=array, fletcher32=array.size > 0 < array.ndim)
    write_attribute(dataset, _DIGEST, _digest_array(array))
    return dataset


def _digest_array(array: np.ndarray) -> str:
    """Digest of type, shape and values, without a copy of more than a part of them."""
    digest = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=16)
    rows = np.atleast_1d(array)
    n_rows = max(1, _HASHED_AT_A_TIME * len(rows) // max(1, array.nbytes))
    for some in chunks(len(rows), n_rows):
        digest.update(rows[some].tobytes())
    return digest.hexdigest()


def _find_digest(file: Hdf5File) -> str:
    """Digest of all names, types, shapes and attributes of a file, but for that of the root."""
    digest = hashlib.blake2b(digest_size=16)
    for name, node in sorted(file.walk()):
        layout = f"{node.dtype.str}{node.shape}" if hasattr(node, "shape") else "group"
        digest.update(f"{name}|{layout}\n".encode())
        for key in sorted(node.attrs):
            if (name, key) != ("/", _DIGEST):
                value = _read_attribute(file, name, key)
                digest.update(f"@{key}|{value.dtype.str}{value.shape}".encode() + value.tobytes())
    return digest.hexdigest()


def _read_attribute(file: Hdf5File, name: str, key: str) -> np.ndarray:
    """Numbers or strings of fixed length; a heap of others might keep HDF5 busy for ever."""
    where = f"{name}@{key}"
    attributes = file.find(name).attrs
    if key not in attributes:
        raise file.refusal(where, "an attribute", "nothing")
    declared = attributes.get_id(key)
    if declared.dtype.kind not in "Siubf" or declared.get_storage_size() > _LARGEST_ATTRIBUTE:
        got = f"{declared.dtype} of shape {declared.shape}"
        raise file.refusal(where, "numbers or a string of fixed length", got)
    return np.asarray(attributes[key])


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
    path = Path(path)
    wanted = " or ".join(repr(f) for f in formats)
    start = read_start(path, f"an HDF5 file of {wanted}")
    if not is_hdf5(start):
        raise FileFormatError(
            f"{path} should be an HDF5 file of {wanted}, got {describe_start(start)}: give a file"
            " that symspec wrote."
        )
    try:
        with open_hdf5_file(path) as file:
            archive = Archive(file)
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


def find_format(file: Hdf5File) -> str | None:
    """The name of an archive's format; None for other files, even with an attribute of its name."""
    attributes = file.tree.attrs
    if "format" not in attributes or attributes.get_id("format").dtype.kind != "S":
        return None
    written = np.asarray(attributes["format"])
    return written.item().decode(errors="replace") if written.shape == () else None


def _check_format(archive: Archive, formats: tuple[str, ...], wanted: str) -> None:
    if "format" not in archive.tree.attrs:
        raise FileFormatError(
            f"{archive.path} should be an HDF5 file of {wanted}, got a foreign one, without"
            " symspec's attribute 'format': give a file that symspec wrote."
        )
    if (found := archive.format) not in formats:
        advice = _ADVICE.get(found, "give another file")
        raise FileFormatError(
            f"{archive.path} should be a file of {wanted}, got one of {found!r}: {advice}."
        )
    version = archive.version
    if version not in (_WITHOUT_DIGEST, FORMAT_VERSION):
        raise FileFormatError(
            f"{archive.path} should be of format version {FORMAT_VERSION}, got {version}: it was"
            f" written by symspec {archive.attribute('/', 'symspec_version', str)}; install that"
            " version or a newer one."
        )
    if version != _WITHOUT_DIGEST:
        digest = archive.attribute("/", _DIGEST, str)
        if digest != (found := _find_digest(archive.file)):
            raise archive.refusal(f"/@{_DIGEST}", f"the digest of the file, {found}", digest)


@dataclass(frozen=True)
class Archive:
    """An open file, read by full names such as "params/dense_0/kernel".

    Attributes
    ----------
    file : Hdf5File
    root : str
        The group that names are in, where it is another than the file's own.
    """

    file: Hdf5File
    root: str = ""

    def inside(self, root: str) -> Archive:
        """The same file, of which a group is read as if it were the file."""
        return Archive(self.file, self._name(root))

    def _name(self, name: str) -> str:
        if not self.root:
            return name
        return self.root if name == "/" else f"{self.root}/{name}"

    @property
    def path(self) -> Path:
        """The file's path, for errors."""
        return self.file.path

    @property
    def tree(self) -> Any:
        """The open group that names are in."""
        return self.find("/")

    @property
    def format(self) -> str:
        """The name of the format."""
        return str(Archive(self.file).attribute("/", "format", str))

    @property
    def version(self) -> int:
        """The version of the format."""
        return int(Archive(self.file).attribute("/", "format_version", int))

    def refusal(self, name: str, expected: str, got: str, advice: str = AGAIN) -> FileFormatError:
        """Error about one part of the file, to be raised."""
        return self.file.refusal(self._name(name), expected, got, advice)

    def find(self, name: str) -> Any:
        """Group or dataset; no part of its name may be a link."""
        return self.file.find(self._name(name))

    def load(self, name: str) -> np.ndarray:
        """One dataset, whose digest is verified."""
        array = self.file.load(self._name(name))
        if self.version != _WITHOUT_DIGEST:
            digest = self.attribute(name, _DIGEST, str)
            if digest != (found := _digest_array(array)):
                raise self.refusal(name, f"values of the digest {digest}", f"those of {found}")
        return array

    def attribute(self, name: str, key: str, kind: type) -> Any:
        """One number or string of a group, of type str, int, bool or float."""
        value = self._attribute(name, key, (), _KINDS[kind], f"one {kind.__name__}")
        return value.decode() if kind is str else kind(value)

    def _attribute(
        self, name: str, key: str, shape: tuple[int, ...], kinds: str, expected: str
    ) -> Any:
        value = _read_attribute(self.file, self._name(name), key)
        if value.shape != shape or value.dtype.kind not in kinds:
            got = f"{value.dtype} of shape {value.shape}"
            raise self.refusal(f"{name}@{key}", expected, got)
        return value if shape else value[()]

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
            check_finite(array, name, ("entry",) * array.ndim, AGAIN)
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


def find_archive_kind(path: str | os.PathLike[str]) -> str | None:
    """Kind of an archive that symspec wrote.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    str or None
        "network"; "regression", a network with noise and prior; "laplace"; "mixture", several of
        these; None for any other file.

    Raises
    ------
    FileFormatError
        An HDF5 file is damaged.
    """
    import h5py

    if not h5py.is_hdf5(path):
        return None
    with open_hdf5_file(path) as file, as_format_error(path, "an HDF5 file"):
        written = find_format(file)
        has_regression = "regression" in file.tree
    if written == NETWORK:
        return "regression" if has_regression else "network"
    return {LAPLACE: "laplace", MIXTURE: "mixture"}.get(written or "")


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether symspec wrote an HDF5 file; True for a damaged one, which its reader then refuses."""
    try:
        return find_archive_kind(path) is not None
    except FileFormatError:
        return True
