"""Broken and hostile files are read or refused, in little time and memory; none writes."""

import gzip
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from astropy.io import fits

from symspec.errors import DataError, FileFormatError
from symspec.spectra.readers.read import read_spectra

N_STARS, N_PIXELS = 12, 40
RNG = np.random.default_rng(0)
ARRAYS = {
    "flux": 1 + RNG.normal(scale=0.1, size=(N_STARS, N_PIXELS)),
    "sigma": RNG.uniform(0.01, 0.1, size=(N_STARS, N_PIXELS)),
    "wavelength": np.linspace(5000.0, 5100.0, N_PIXELS),
    "TEFF": RNG.uniform(4000, 7000, size=N_STARS),
    "ids": np.array([b"star %d" % i for i in range(N_STARS)]),
}

# run apart, so that a file that crashes, hangs or eats memory fails a test instead of ending all of
# them
PROGRAM = """
import json, os, resource, signal, sys, time, warnings
import symspec.spectra.readers.read, symspec.errors, astropy.io.fits, astropy.units, h5py
warnings.simplefilter("error")
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**30, held + 2**30))
signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("5 s")))
for path in json.load(sys.stdin):
    signal.alarm(5)
    try:
        spectra = symspec.spectra.readers.read.read_spectra(path)
        answer = "read " + str(spectra.flux.shape)
    except symspec.errors.SymspecError as error:
        answer = "refused " + type(error).__name__ + " " + str(error)
    except BaseException as error:
        answer = "FAILED " + repr(error)
    signal.alarm(0)
    print(json.dumps(answer), flush=True)
"""


def read_apart(paths):
    """What becomes of each file in another process, with 5 s and 1 GiB for each."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([str(path) for path in paths]),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(answers) == len(paths), (paths[len(answers)], ran.returncode, ran.stderr[-2000:])
    return answers


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        for name, array in ARRAYS.items():
            file.create_dataset(
                name, data=array, **({"compression": "gzip"} if array.ndim == 2 else {})
            )


def write_npz(path):
    with path.open("wb") as stream:
        np.savez(stream, **ARRAYS)


def write_table(path):
    forms = {"flux": f"{N_PIXELS}D", "sigma": f"{N_PIXELS}D", "TEFF": "D", "ids": "8A"}
    columns = [fits.Column(name, form, array=ARRAYS[name]) for name, form in forms.items()]
    grid = fits.ImageHDU(ARRAYS["wavelength"], name="WAVELENGTH")
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns), grid]).writeto(path)


def write_image(path):
    hdus = [fits.PrimaryHDU(ARRAYS["flux"]), fits.ImageHDU(ARRAYS["sigma"], name="SIGMA")]
    hdus[0].header.update({"CRVAL1": 3.6, "CD1_1": 1e-4, "CRPIX1": 1, "DC-FLAG": 1})
    fits.HDUList(hdus).writeto(path)


def write_gzip(path):
    write_image(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


WRITERS = {
    "hdf5": write_hdf5,
    "npz": write_npz,
    "table": write_table,
    "image": write_image,
    "gzip": write_gzip,
}


def cut(content, rng):
    """The first bytes of a file."""
    return content[: int(rng.integers(1, len(content) - 1))]


def flip(content, rng, within=None):
    """A file with one to three bits turned."""
    flipped = bytearray(content)
    for place in rng.integers(
        0, min(within or len(content), len(content)), size=rng.integers(1, 4)
    ):
        flipped[place] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def flip_header(content, rng):
    """Where it hurts most: the first kilobytes, which say what and how much there is."""
    return flip(content, rng, within=2000)


DAMAGE = {"cut": cut, "flipped": flip, "flipped in the header": flip_header}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Fifty broken files of each format and damage, their fates, and their folder afterwards."""
    (folder := tmp_path_factory.mktemp("spectra") / "broken").mkdir()
    of = {}
    for name, write in WRITERS.items():
        write(whole := folder.parent / name)
        for damage, do in DAMAGE.items():
            rng, paths = np.random.default_rng(1), []
            for i in range(50):
                paths.append(folder / f"{name} {damage} {i}")
                paths[-1].write_bytes(do(whole.read_bytes(), rng))
            of[name, damage] = paths
    everything = [path for paths in of.values() for path in paths]
    answers = dict(zip(everything, read_apart(everything), strict=True))
    return of, answers, set(folder.iterdir())


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("form", WRITERS)
def test_broken_files_are_refused_or_read(broken, form, damage):
    of, answers, left = broken
    for path in of[form, damage]:
        assert answers[path].startswith(
            "refused FileFormatError" if damage == "cut" else ("refused ", "read ")
        ), path
    assert left == set(answers)  # nothing else was written there


# --- files that lie about their size


def fits_header(**cards):
    header = fits.Header({"SIMPLE": True, "BITPIX": -64, **cards})
    return header.tostring(sep="", endcard=True, padding=True).encode()


def zip_of(name, content, claim=None):
    """A zip of one stored member, which may claim to be larger than it is."""
    size = len(content) if claim is None else claim
    crc = zlib.crc32(content)
    sizes = struct.pack("<III", crc, min(size, 2**32 - 1), min(size, 2**32 - 1))
    local = (
        b"PK\3\4"
        + struct.pack("<HHHHH", 20, 0, 0, 0, 0)
        + sizes
        + struct.pack("<HH", len(name), 0)
        + name
    )
    central = b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, 0, 0, 0) + sizes
    central += struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0) + name
    end = b"PK\5\6" + struct.pack(
        "<HHHHIIH", 0, 0, 1, 1, len(central), len(local) + len(content), 0
    )
    return local + content + central + end


def npy_header(shape):
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


LIES = {
    "NAXIS1": fits_header(NAXIS=1, NAXIS1=10**9) + bytes(2880),
    "NAXIS2": fits_header(NAXIS=2, NAXIS1=8575, NAXIS2=10**12) + bytes(2880),
    "NAXIS": fits_header(NAXIS=999) + bytes(2880),
    "negative": fits_header(NAXIS=1, NAXIS1=-10) + bytes(2880),
    "no end": b"SIMPLE  =                    T".ljust(80) + b"COMMENT".ljust(80) * 20000,
    "npy shape": zip_of(b"flux.npy", npy_header((10**5, 10**5)) + bytes(800)),
    "npy claim": zip_of(b"flux.npy", npy_header((10**4, 10**5)) + bytes(800), claim=10 * 10**9),
    "gzip of zeros": gzip.compress(bytes(10**8)),
    "gzip of FITS": gzip.compress(fits_header(NAXIS=1, NAXIS1=10**8) + bytes(8 * 10**7)),
    "gzip of gzip": gzip.compress(gzip.compress(fits_header(NAXIS=0))),
    "gzip of text": gzip.compress(b"5000,5001\n1,2\n"),
    "magic alone": b"SIMPLE  =",
    "wrong magic": b"\x89HDF\r\n\x1a\n" + fits_header(NAXIS=0),
    "table row": (
        fits_header(NAXIS=0)
        + fits.Header(
            {
                **{
                    "XTENSION": "BINTABLE",
                    "BITPIX": 8,
                    "NAXIS": 2,
                    "NAXIS1": 8,
                    "NAXIS2": 5,
                    "PCOUNT": 0,
                    "GCOUNT": 1,
                },
                **{"TFIELDS": 1, "TTYPE1": "flux", "TFORM1": "1000000000D"},
            }
        )
        .tostring()
        .encode()
        + bytes(2880)
    ),
}


def test_files_that_lie_about_their_size_are_refused(tmp_path):
    packer, zeros = zlib.compressobj(9, wbits=31), bytes(2**24)
    bomb = packer.compress(fits_header(NAXIS=2, NAXIS1=8575, NAXIS2=145_000))  # ten gigabytes
    for _ in range(10):  # of which twice as much as is unpacked shows that it stops
        bomb += packer.compress(zeros)
    lies = LIES | {"bomb": bomb + packer.flush()}
    for name, content in lies.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in lies]
    for path, answer in zip(paths, read_apart(paths), strict=True):
        assert answer.startswith("refused FileFormatError"), (path, answer)
        assert str(path) in answer
        assert "got" in answer
    assert "should unpack to no more than 67 MiB, got more out of its" in answer


def test_members_of_a_zip_are_not_written_anywhere(tmp_path):
    (folder := tmp_path / "in" / "here").mkdir(parents=True)
    for name in ("../../flux.npy", "/tmp/flux.npy", "..\\flux.npy"):
        path = folder / "x.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, npy_header((1, 3)) + bytes(24))
        with pytest.raises(FileFormatError, match="should hold the flux under one of the names"):
            read_spectra(path)
        assert [item.name for item in tmp_path.rglob("*")] == ["in", "here", "x.npz"]


def test_arrays_of_other_hdf5_files_are_not_fetched_for_a_mask_either(tmp_path):
    write_hdf5(other := tmp_path / "other")
    for name in ("mask", "ivar", "wavelength"):
        with h5py.File(tmp_path / "x", "w") as file:
            file["flux"] = ARRAYS["flux"]
            file[name] = h5py.ExternalLink(other, "flux")
        with pytest.raises(FileFormatError, match="links are not followed, copy it in"):
            read_spectra(tmp_path / "x")


def test_what_is_after_the_last_hdu_is_not_passed_over(tmp_path):
    """A second header that cannot be read would lose the errors of the flux without a word."""
    write_image(path := tmp_path / "x")
    content = path.read_bytes()
    at = content.index(b"XTENSION")
    path.write_bytes(content[:at] + b"?" + content[at + 1 :])
    with pytest.raises(
        FileFormatError, match=r"HDU 1 should begin with XTENSION .*: the file is damaged"
    ):
        read_spectra(path)
    path.write_bytes(content[:at] + bytes(range(1, 81)) + content[at + 80 :])
    with pytest.raises(FileFormatError):
        read_spectra(path)
    path.write_bytes(content + b"?" * 2880)
    with pytest.raises(FileFormatError):
        read_spectra(path)


def test_an_npz_file_damaged_in_rows_that_are_not_read_is_refused(tmp_path):
    from symspec.spectra.readers.read import open_spectra

    write_npz(path := tmp_path / "x")
    content = bytearray(path.read_bytes())
    content[content.index(ARRAYS["flux"].tobytes()) + 8 * N_PIXELS * 9] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="Bad CRC-32"), open_spectra(path) as file:
        file.read(slice(0, 2))


@pytest.mark.parametrize(
    "values", [np.array([3, 2, 2, 1.0]), np.array([1, 3, 2, 4.0]), np.array([1, np.inf, 3, 4])]
)
def test_grids_out_of_order_are_refused_in_every_format(tmp_path, values):
    flux = np.ones((2, 4))
    np.savez(tmp_path / "a.npz", flux=flux, wavelength=values)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["flux"], file["wavelength"] = flux, values
    columns = [
        fits.Column("flux", "D", array=flux[0]),
        fits.Column("wavelength", "D", array=values),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "c.fits")
    for name in ("a.npz", "b.h5", "c.fits"):
        with pytest.raises(DataError, match=r"wavelength should (rise or fall|be finite)"):
            read_spectra(tmp_path / name)
