"""HDF5 files of strangers: what would take for ever, or all the memory, is refused at once."""

import struct
import tracemalloc

import h5py
import numpy as np
import pytest

from symspec import read_network, read_spectra
from symspec.errors import FileFormatError
from symspec.safety import hdf5_files
from symspec.safety.hdf5_files import MOST_NESTED, open_hdf5_file

NAMES = ["TEFF", "LOGG", "FE_H"]
LAYOUTS = {
    "contiguous": {},
    "chunks": {"chunks": (2,)},
    "packed": {"chunks": (2,), "compression": "gzip", "shuffle": True},
    "an unknown filter": {"chunks": (2,), "compression": "lzf"},
}


def write_names(path, strings=NAMES, **layout):
    with h5py.File(path, "w") as file:
        file["flux"] = np.ones((4, 9))
        file.create_dataset("label_names", data=strings, dtype=h5py.string_dtype(), **layout)
        file["labels"] = np.ones((4, 3))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strings_of_any_length_are_read(tmp_path, layout):
    write_names(tmp_path / "x.h5", **LAYOUTS[layout])
    with open_hdf5_file(tmp_path / "x.h5") as file:
        assert [name.decode() for name in file.load("label_names")] == NAMES
    assert read_spectra(tmp_path / "x.h5").label_names == tuple(NAMES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_damaged_heap_is_refused_before_it_is_read(tmp_path, layout):
    """Zeros there are an object of no length, on which HDF5 would stay for ever."""
    path = tmp_path / "x.h5"
    write_names(path, **LAYOUTS[layout])
    content = bytearray(path.read_bytes())
    place = content.index(b"GCOL")
    content[place + 16 : place + 32] = bytes(16)
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="got a damaged heap of strings"):
        read_spectra(path)


def test_one_string_that_many_refer_to_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "x.h5"
    write_names(path, ["a" * 10**6] + ["b"] * 5000)
    with h5py.File(path) as file:
        start = file["label_names"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[start : start + 16 * 5001] = 5001 * content[start : start + 16]
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"'label_names' should fit .* got a declared shape"):
        read_spectra(path)


@pytest.mark.parametrize("size", [2**63, 15, 0])
def test_a_heap_that_reaches_beyond_the_file_is_refused(tmp_path, size):
    path = tmp_path / "x.h5"
    write_names(path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<Q", content, content.index(b"GCOL") + 8, size)
    path.write_bytes(content)
    with pytest.raises(FileFormatError):
        read_spectra(path)


def test_a_chunk_much_larger_than_its_dataset_is_refused(tmp_path):
    """Twelve stars in one chunk that unpacks to 1.5 GB."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "flux", shape=(12, 40), dtype="f8", maxshape=(None, None), chunks=(14_000, 14_000),
            compression="gzip",
        )  # fmt: skip
    tracemalloc.start()
    with pytest.raises(FileFormatError, match=r"chunks of 64 MiB at most, got .*, 1495 MiB each"):
        read_spectra(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_chunks_that_reach_beyond_their_dataset_are_read(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("flux", data=np.ones((3, 40)), maxshape=(None, None), chunks=(256, 512))
    assert read_spectra(tmp_path / "x.h5").flux.shape == (3, 40)


def nest(path, depth):
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(depth):
            group = group.create_group("layers")
        group.create_group("vars")["0"] = np.ones((3, 2))


def test_groups_nested_too_deeply_are_refused(tmp_path):
    nest(tmp_path / "x.h5", 3000)
    with pytest.raises(FileFormatError, match=f"nested {MOST_NESTED} groups deep at most"):
        read_network(tmp_path / "x.h5")
    with open_hdf5_file(tmp_path / "x.h5") as file:  # noqa: SIM117
        with pytest.raises(FileFormatError, match=f"nested {MOST_NESTED} groups deep at most"):
            list(file.walk())


def test_a_walk_ends_where_links_run_in_a_circle_or_are_too_many(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/b"] = 1.0
        file["a/again"] = file["/"]
    with open_hdf5_file(tmp_path / "x.h5") as file:
        assert sorted(name for name, _ in file.walk()) == ["/", "/a", "/a/b"]
    monkeypatch.setattr(hdf5_files, "MOST_OBJECTS", 2)
    with open_hdf5_file(tmp_path / "x.h5") as file:  # noqa: SIM117
        with pytest.raises(FileFormatError, match="of 2 objects at most"):
            list(file.walk())
