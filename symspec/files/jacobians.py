"""Derivatives of every label with respect to every pixel into an HDF5 file, for any number of stars."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from symspec.derivatives.compiled import compile_jacobian
from symspec.derivatives.functions import DTYPES
from symspec.errors import DataError
from symspec.files.partial_runs import PartialRun, encode_words, open_run
from symspec.files.provenance import find_versions, hash_network, join_hashes
from symspec.files.surveys import Show, find_piece_size, show_pieces
from symspec.networks.layers import Standardize
from symspec.networks.network import Network
from symspec.safety.checkpoint import find_fingerprint
from symspec.safety.checks import check_choice
from symspec.safety.progress import Progress
from symspec.safety.whole_files import replace_when_complete
from symspec.spectra.grids import check_grid, fit_to_network
from symspec.spectra.pixels import fill_bad_pixels
from symspec.spectra.readers.sources import SpectraSource, hash_spectra, open_source
from symspec.spectra.resampling import Resampled
from symspec.spectra.spectra import Spectra

CHUNK_BYTES = 2**20  # of HDF5, which reads whole ones
COMPRESSIONS: dict[str, dict[str, Any]] = {  # not lzf, whose bytes are others each time
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "none": {},
}
Grid = tuple[np.ndarray | None, str]  # wavelengths and their unit
_COPIED = ("jacobian", "bad_pixel")  # too large to be held for all stars


@dataclass(frozen=True, eq=False)
class JacobianSummary:
    """What a file of derivatives holds on average.

    Attributes
    ----------
    n_stars : int
    mean : numpy.ndarray, shape (label, pixel)
        Of the derivatives, in units of the label per unit of the flux.
    flux : numpy.ndarray, shape (pixel,)
        Mean flux of the good pixels; 0 where there is none.
    wavelength : numpy.ndarray, shape (pixel,), or None
    wavelength_unit : str
    """

    n_stars: int
    mean: np.ndarray
    flux: np.ndarray
    wavelength: np.ndarray | None
    wavelength_unit: str


def write_jacobian(
    path: str | os.PathLike[str],
    net: Network,
    theta: Any,
    spectra: Any,
    *,
    flux_mean: Any = None,
    dtype: str = "float64",
    backend: str = "auto",
    compression: str = "gzip",
    resample: str | None = None,
    overwrite: bool = False,
    restart: bool = False,
    progress: bool | Progress = True,
    show: Show | None = None,
    **options: Any,
) -> JacobianSummary:
    r"""Write :math:`J_x = \partial f / \partial x` of every star, in the memory of some hundred stars.

    The file holds `jacobian` (star, label, pixel), in units of the label per unit of the flux, in
    chunks of a few stars, `label_names`, `label_units`, and of the spectra what they have:
    `wavelength`, `ids`, and `bad_pixel` (star, pixel), where ivar is 0: such a pixel is replaced by
    its training mean before derivatives are taken. The file appears under its name once it is
    complete; `symspec.files.partial_runs` says what lies beside it meanwhile.

    Parameters
    ----------
    path : str or path
    net : Network
    theta : array_like, shape (param,)
    spectra : path, Spectra, or what else `symspec.read_spectra` takes
        A file of any length, or spectra in memory.
    flux_mean : array_like, shape (pixel,), optional
        Mean training spectrum; by default that of the network's first layer if it is a
        `Standardize`.
    dtype : {"float64", "float32"}
        Of the passes and of the file.
    backend : str
        As for `compile_jacobian`.
    compression : {"gzip", "none"}
        Without loss. Derivatives of dense layers hold little that repeats itself: "gzip" saves a
        tenth of the room and takes several times as long as the derivatives themselves.
    resample : {"flux_conserving", "linear"}, optional
        Take the spectra to the network's wavelengths, on which the derivatives then are, see
        `symspec.resample`.
    overwrite : bool, default False
        Replace an existing file.
    restart : bool, default False
        Begin anew where the pieces of an earlier run lie.
    progress : bool or Progress, default True
        As for `predict_survey`.
    show : callable, optional
        As for `predict_survey`.
    **options
        Of `symspec.open_spectra`: how the spectra are read.

    Returns
    -------
    JacobianSummary

    Raises
    ------
    FileKeptError
        There is a file at `path` and `overwrite` is False, or another process is at work on it.
    ShapeError
        The spectra have another number of pixels than the network takes.
    DataError
        Pixels are bad and no mean spectrum is known, or there are pieces of another run.
    """
    check_choice(dtype, "dtype", DTYPES)
    packing = COMPRESSIONS[check_choice(compression, "compression", tuple(COMPRESSIONS))]
    flux_mean = _find_flux_mean(net, flux_mean)
    keep = {"overwrite": overwrite}
    jacobian = compile_jacobian(net, "flux", backend=backend, dtype=dtype)
    with open_source(spectra, **options) as source:
        if resample is None:
            check_grid(net, source, source.name)
        size = find_piece_size(8 * net.n_labels * net.n_pixels)
        plan = _plan(net, theta, flux_mean, source) | {
            "dtype": dtype,
            "backend": backend,
            "compression": compression,
        }
        plan |= {"resample": resample}
        find = partial(_differentiate, partial(jacobian, theta), flux_mean)
        with open_run(path, plan, source.n_stars, size, restart=restart, **keep) as run:
            layouts = _find_layouts(run, net, packing)
            read = partial(_read, source, net, resample)
            with show_pieces(progress, show, run) as follow:
                run.compute(read, find, stage="differentiating", progress=follow, layouts=layouts)
            totals = _sum_pieces(run)
            of = source if resample is None else net
            grid = of.wavelength, of.wavelength_unit
            run.finish(lambda whole: _assemble(whole, run, net, grid, plan), **keep)
    mean = totals["jacobian_sum"] / source.n_stars
    flux = totals["flux_sum"] / np.maximum(totals["flux_count"], 1)
    return JacobianSummary(source.n_stars, mean, flux, *grid)


def _read(source: SpectraSource, net: Network, kind: str | None, rows: slice) -> Spectra:
    fitted = fit_to_network(net, source.read(rows), kind)
    return fitted.spectra if isinstance(fitted, Resampled) else fitted


def _find_flux_mean(net: Network, flux_mean: Any) -> np.ndarray | None:
    if flux_mean is None and isinstance(net.layers[0], Standardize):
        flux_mean = net.layers[0].mean
    return None if flux_mean is None else np.asarray(flux_mean)


def _plan(
    net: Network, theta: Any, flux_mean: np.ndarray | None, source: SpectraSource
) -> dict[str, Any]:
    network = hash_network(net, theta)
    mean = None if flux_mean is None else find_fingerprint(flux_mean)
    return {
        "run": "jacobian",
        "network": network,
        "flux_mean": mean,
        **source.identity,
        **find_versions(),
    }


def _differentiate(
    jacobian: Callable[[np.ndarray], np.ndarray], flux_mean: np.ndarray | None, stars: Spectra
) -> dict[str, np.ndarray]:
    """Arrays of one piece; sums have an axis for the pieces."""
    bad = np.zeros(stars.flux.shape, bool) if stars.ivar is None else stars.ivar == 0
    if bad.any() and flux_mean is None:
        raise DataError(
            "pixels with ivar = 0 need the mean training spectrum in their place, got none: give"
            " flux_mean, or a network that starts with Standardize."
        )
    J = jacobian(
        stars.flux if flux_mean is None else fill_bad_pixels(stars.flux, stars.ivar, flux_mean)
    )
    arrays = {"jacobian": J, "jacobian_sum": J.sum(axis=0, dtype=np.float64)[None]}
    arrays |= {
        "flux_sum": np.where(bad, 0.0, stars.flux).sum(axis=0)[None],
        "flux_count": (~bad).sum(axis=0)[None],
    }
    arrays |= {"bad_pixel": bad} if stars.ivar is not None else {}
    arrays |= {"ids": stars.ids} if stars.ids is not None else {}
    return arrays | {"data_hash": np.array([hash_spectra(stars)])}


def _find_layouts(
    run: PartialRun, net: Network, packing: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """How HDF5 stores what is large: in pieces and in the whole alike, so that chunks move without being unpacked."""
    n = find_piece_size(
        8 * net.n_labels * net.n_pixels, CHUNK_BYTES // (8 * net.n_labels * net.n_pixels) or 1
    )
    n = min(n, run.n_stars)
    room = {
        "maxshape": (None, net.n_labels, net.n_pixels)
    }  # the last piece may be smaller than a chunk
    return {
        "jacobian": {"chunks": (n, net.n_labels, net.n_pixels), **room, **packing},
        "bad_pixel": {
            "chunks": (n, net.n_pixels),
            "maxshape": (None, net.n_pixels),
            **COMPRESSIONS["gzip"],
        },
    }


def _sum_pieces(run: PartialRun) -> dict[str, np.ndarray]:
    totals = {"jacobian_sum": 0.0, "flux_sum": 0.0, "flux_count": 0}
    for _, file in run.open_pieces():
        totals = {name: total + file[name][0] for name, total in totals.items()}
    return totals


def _assemble(
    path: Path, run: PartialRun, net: Network, grid: Grid, plan: Mapping[str, Any]
) -> None:
    """The whole file from its pieces, whose chunks are copied as they are."""
    import h5py

    with replace_when_complete(path) as temporary, h5py.File(temporary, "x") as file:
        hashes = []
        ids = []
        for rows, piece in run.open_pieces():
            for name in (name for name in _COPIED if name in piece):
                if rows.start == 0:
                    _create_like(file, name, piece[name], run.n_stars)
                _copy_chunks(piece[name], file[name], rows.start)
            hashes.append(piece["data_hash"].asstr()[0])
            ids += [piece["ids"].asstr()[()]] if "ids" in piece else []
        _describe(file, net, grid, np.concatenate(ids) if ids else None)
        file.attrs.update({"network_hash": plan["network"], "data_hash": join_hashes(hashes)})
        file.attrs.update({f"{name}_version": version for name, version in find_versions().items()})


def _create_like(file: Any, name: str, dataset: Any, n_stars: int) -> None:
    layout = {
        key: getattr(dataset, key)
        for key in ("dtype", "chunks", "compression", "compression_opts", "shuffle")
    }
    created = file.create_dataset(
        name, (n_stars, *dataset.shape[1:]), maxshape=dataset.maxshape, **layout
    )
    created.attrs["axes"] = ["star", "label", "pixel"] if dataset.ndim == 3 else ["star", "pixel"]


def _copy_chunks(source: Any, target: Any, start: int) -> None:
    """Move chunks, each of all pixels, to stars from `start` on."""
    for first in range(0, len(source), source.chunks[0]):
        rest = (0,) * (source.ndim - 1)
        mask, packed = source.id.read_direct_chunk((first, *rest))
        target.id.write_direct_chunk((start + first, *rest), packed, mask)


def _describe(file: Any, net: Network, grid: Grid, ids: np.ndarray | None) -> None:
    file.attrs["content"] = "d(label)/d(flux), in units of the label per unit of the flux"
    words = {"label_names": net.label_names, "label_units": net.label_units, "ids": ids}
    for name, values in words.items():
        if values is not None:
            file[name] = encode_words(np.asarray(values, dtype=str))
    wavelength, unit = grid
    if wavelength is not None:
        file["wavelength"] = wavelength
        file["wavelength"].attrs["unit"] = unit
