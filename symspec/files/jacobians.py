"""Derivatives of labels with respect to flux, for any number of stars, into an HDF5 file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives.compiled import compile_jacobian
from symspec.derivatives.functions import DTYPES
from symspec.errors import DataError, OptionError
from symspec.files.partial_runs import (
    PartialRun,
    Show,
    encode_strings,
    find_piece_size,
    open_run,
    show_pieces,
)
from symspec.files.run_plans import join_hashes
from symspec.laplace.identity import hash_network
from symspec.networks.layers import Standardize
from symspec.networks.network import Network
from symspec.networks.regression import describe_network
from symspec.safety.checkpoint import find_fingerprint
from symspec.safety.options import check_choice
from symspec.safety.progress import Progress
from symspec.safety.whole_files import replace_hdf5_when_complete
from symspec.spectra.flux_prior import FILL_WORDS, FILLS, FluxPrior
from symspec.spectra.grids import Pixels, check_grid, fit_to_network
from symspec.spectra.readers.read import SpectraSource, open_spectra
from symspec.spectra.readers.shared_file import SharedFile
from symspec.spectra.resampling import Resampled
from symspec.spectra.spectra import Spectra, hash_spectra
from symspec.workers.interface import Task
from symspec.workers.versions import find_versions

CHUNK_BYTES = 2**20  # of HDF5, which reads whole ones
COMPRESSIONS: dict[str, dict[str, Any]] = {  # not lzf, whose bytes are others each time
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "none": {},
}
_COPIED = ("jacobian", "bad_pixel")  # too large to be held for all stars
_SUMMED = ("jacobian_sum", "flux_sum", "flux_count")


@dataclass(frozen=True, eq=False, kw_only=True)
class JacobianSummary:
    """Averages over the stars of a file of derivatives.

    Attributes
    ----------
    n_stars : int
    mean : numpy.ndarray, shape (label, pixel)
        Of the derivatives, in units of the label per unit of the flux.
    flux : numpy.ndarray, shape (pixel,)
        Mean flux of the good pixels; 0 where there is none.
    wavelength : numpy.ndarray, shape (pixel,), or None
    wavelength_unit : str
    wavelength_medium : {"air", "vacuum"} or None
    """

    n_stars: int
    mean: np.ndarray
    flux: np.ndarray
    wavelength: np.ndarray | None
    wavelength_unit: str
    wavelength_medium: str | None


def write_jacobian(
    path: str | os.PathLike[str],
    net: Network,
    theta: ArrayLike,
    spectra: Any,
    *,
    flux_mean: Any = None,
    flux_prior: FluxPrior | None = None,
    fill: str | None = None,
    dtype: str = "float64",
    backend: str = "auto",
    compression: str = "gzip",
    resample: str | None = None,
    overwrite: bool = False,
    restart: bool = False,
    progress: bool | Progress = True,
    show: Show | None = None,
    scheduler: Any = None,
    **options: Any,
) -> JacobianSummary:
    r"""Write :math:`J_x = \partial f / \partial x` of every star, piece by piece.

    It takes the memory of some hundred stars. The file holds `jacobian` (star, label, pixel), in
    units of the label per unit of the flux, in chunks of a few stars; `label_names` and
    `label_units`; and from the spectra, if they have them, `wavelength`, `ids`, and `bad_pixel`
    (star, pixel), where ivar is 0. Bad pixels are filled before derivatives are taken, and the
    attribute `fill` says how. The file appears under its name once it is complete;
    `symspec.files.partial_runs` describes the folder beside it until then.

    Parameters
    ----------
    path : str or path
    net : Network
    theta : array_like, shape (param,)
    spectra : path, Spectra, or what else `symspec.read_spectra` takes
        A file of any length, or spectra in memory.
    flux_mean : array_like, shape (pixel,), optional
        Mean training spectrum; by default that of `flux_prior`, or of the network's first layer if
        it is a `Standardize`.
    flux_prior : FluxPrior, optional
        What training spectra tell of missing pixels, `LaplacePosterior.flux_prior`.
    fill : {"conditional", "mean"}, optional
        As for `LaplacePosterior.predict`: bad pixels get their mean given the good ones, by
        `flux_prior`, or `flux_mean`. By default the former where it is given.
    dtype : {"float64", "float32"}
        Of the passes and of the file.
    backend : str
        As for `compile_jacobian`.
    compression : {"gzip", "none"}
        Without loss. Derivatives of dense layers hardly repeat themselves: "gzip" saves a tenth of
        the space and takes several times as long as the derivatives.
    resample : {"flux_conserving", "linear"}, optional
        Take the spectra to the network's wavelengths, on which the derivatives then are, see
        `symspec.resample`.
    overwrite : bool, default False
        Replace an existing file.
    restart : bool, default False
        Discard the pieces of an earlier run.
    progress : bool or Progress, default True
        As for `predict_survey`.
    show : callable, optional
        As for `predict_survey`.
    scheduler : optional
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
        Pixels are bad and no mean spectrum is known, or the pieces are those of another run.
    OptionError
        ``fill="conditional"`` without `flux_prior`.
    """
    check_choice(dtype, "dtype", DTYPES)
    check_choice(compression, "compression", tuple(COMPRESSIONS))
    filling = _Filling.choose(net, flux_mean, flux_prior, fill)
    jacobian = compile_jacobian(net, "flux", backend=backend, dtype=dtype)
    there = None if scheduler is None else SharedFile.of(spectra, options)
    with open_spectra(spectra, **options) as source:
        if resample is None:
            check_grid(net, source, source.name)
        plan = _plan(net, theta, filling, source) | {"dtype": dtype, "backend": backend}
        plan |= {"compression": compression, "resample": resample}
        size = find_piece_size(8 * net.n_labels * net.n_pixels)
        find = partial(_differentiate, partial(jacobian, theta), filling)
        prepare = partial(_fit, net, resample)
        task = Task(read=source.read, read_there=there, prepare=prepare, find=find)
        again = {"overwrite": overwrite, "restart": restart}
        with open_run(path, plan, source.n_stars, size, **again) as run:
            layouts = _find_layouts(run, net, COMPRESSIONS[compression])
            with show_pieces(progress, show, run) as follow:
                stage = "differentiating"
                run.compute(
                    task, scheduler=scheduler, stage=stage, progress=follow, layouts=layouts
                )
            pixels = source if resample is None else net
            summary = _summarize(run, pixels)
            said = {"network_hash": hash_network(net, theta), "fill": FILL_WORDS[filling.how]}
            assemble = partial(_assemble, run=run, net=net, pixels=pixels, attributes=said)
            run.finish(assemble, overwrite=overwrite)
    return summary


def _fit(net: Network, kind: str | None, stars: Spectra) -> Spectra:
    fitted = fit_to_network(net, stars, kind)
    return fitted.spectra if isinstance(fitted, Resampled) else fitted


@dataclass(frozen=True, kw_only=True)
class _Filling:
    """How bad pixels are filled, and by what; `prior` is None where nothing is known of them."""

    how: str
    prior: FluxPrior | None

    @classmethod
    def choose(
        cls, net: Network, flux_mean: Any, flux_prior: FluxPrior | None, fill: str | None
    ) -> _Filling:
        """By what is given, else by what the network's first layer holds."""
        how = check_choice(fill or ("mean" if flux_prior is None else "conditional"), "fill", FILLS)
        if how == "conditional":
            if flux_prior is None:
                raise OptionError(
                    'fill="conditional" needs what training spectra tell of missing pixels, got'
                    ' none: give flux_prior=laplace.flux_prior, or fill="mean".'
                )
            return cls(how=how, prior=flux_prior)
        if flux_mean is None and flux_prior is not None:
            flux_mean = flux_prior.mean
        if flux_mean is None and isinstance(net.layers[0], Standardize):
            flux_mean = net.layers[0].mean
        if flux_mean is None:
            return cls(how=how, prior=None)
        return cls(how=how, prior=FluxPrior.of_mean(np.asarray(flux_mean)))

    def identity(self) -> dict[str, Any]:
        """Entries of a plan; of the mean as those of symspec 0.1."""
        if self.how == "conditional":
            return {"fill": self.how, "flux_prior": find_fingerprint(self.prior)}
        mean = None if self.prior is None else self.prior.mean
        return {"flux_mean": None if mean is None else find_fingerprint(mean)}

    def fill(self, stars: Spectra) -> np.ndarray:
        """Flux (star, pixel) without a bad pixel."""
        if stars.ivar is None or stars.ivar.all():
            return stars.flux
        if self.prior is None:
            raise DataError(
                "pixels with ivar = 0 need the mean training spectrum in their place, got none:"
                " give flux_mean, or a network that starts with Standardize."
            )
        return self.prior.complete(stars.flux, stars.ivar, self.how).flux


def _plan(
    net: Network, theta: ArrayLike, filling: _Filling, source: SpectraSource
) -> dict[str, Any]:
    """Everything that the pieces depend on, except for options."""
    return {
        "run": "jacobian",
        "network": find_fingerprint(describe_network(net), np.asarray(theta)),
        **filling.identity(),
        **source.identity(),
        **find_versions(),
    }


def _differentiate(
    jacobian: Callable[[np.ndarray], np.ndarray], filling: _Filling, stars: Spectra
) -> dict[str, np.ndarray]:
    """Arrays of one piece; sums have an axis for the pieces."""
    bad = np.zeros(stars.flux.shape, bool) if stars.ivar is None else stars.ivar == 0
    J = jacobian(filling.fill(stars))
    arrays = {
        "jacobian": J,
        "jacobian_sum": J.sum(axis=0, dtype=np.float64)[None],
        "flux_sum": np.where(bad, 0.0, stars.flux).sum(axis=0)[None],
        "flux_count": (~bad).sum(axis=0)[None],
    }
    if stars.ivar is not None:
        arrays["bad_pixel"] = bad
    if stars.ids is not None:
        arrays["ids"] = stars.ids
    arrays["data_hash"] = np.array([hash_spectra(stars)])
    return arrays


def _find_layouts(
    run: PartialRun, net: Network, packing: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Layouts in HDF5 of large arrays: the same in every piece, so that chunks move unpacked."""
    bytes_a_star = 8 * net.n_labels * net.n_pixels
    n = find_piece_size(bytes_a_star, max(1, CHUNK_BYTES // bytes_a_star))
    n = min(n, run.n_stars, run.stars_a_piece)  # a power of two, which divides that of a piece
    # maxshape, as the last piece may be smaller than a chunk
    return {
        "jacobian": {
            "chunks": (n, net.n_labels, net.n_pixels),
            "maxshape": (None, net.n_labels, net.n_pixels),
            **packing,
        },
        "bad_pixel": {
            "chunks": (n, net.n_pixels),
            "maxshape": (None, net.n_pixels),
            **COMPRESSIONS["gzip"],
        },
    }


def _summarize(run: PartialRun, pixels: Pixels) -> JacobianSummary:
    totals: dict[str, np.ndarray] = {}
    for _, file in run.open_pieces():
        for name in _SUMMED:
            totals[name] = totals.get(name, 0) + file[name][0]
    return JacobianSummary(
        n_stars=run.n_stars,
        mean=totals["jacobian_sum"] / run.n_stars,
        flux=totals["flux_sum"] / np.maximum(totals["flux_count"], 1),
        wavelength=pixels.wavelength,
        wavelength_unit=pixels.wavelength_unit,
        wavelength_medium=pixels.wavelength_medium,
    )


def _assemble(
    path: Path, run: PartialRun, net: Network, pixels: Pixels, attributes: Mapping[str, str]
) -> None:
    """The whole file from its pieces, whose chunks are copied as they are."""
    import h5py

    with replace_hdf5_when_complete(path) as stream, h5py.File(stream, "w") as file:
        hashes = []
        ids = []
        for rows, piece in run.open_pieces():
            for name in _COPIED:
                if name not in piece:
                    continue
                if rows.start == 0:
                    _create_like(file, name, piece[name], run.n_stars)
                _copy_chunks(piece[name], file[name], rows.start)
            hashes.append(piece["data_hash"].asstr()[0])
            if "ids" in piece:
                ids.append(piece["ids"].asstr()[()])
        _describe(file, net, pixels, np.concatenate(ids) if ids else None)
        file.attrs.update(attributes)
        file.attrs["data_hash"] = join_hashes(hashes)
        for name, version in find_versions().items():
            file.attrs[f"{name}_version"] = version


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


def _describe(file: Any, net: Network, pixels: Pixels, ids: np.ndarray | None) -> None:
    file.attrs["content"] = "d(label)/d(flux), in units of the label per unit of the flux"
    _write_strings(file, "label_names", net.label_names)
    _write_strings(file, "label_units", net.label_units)
    if ids is not None:
        _write_strings(file, "ids", ids)
    if pixels.wavelength is not None:
        file["wavelength"] = pixels.wavelength
        file["wavelength"].attrs["unit"] = pixels.wavelength_unit
        if pixels.wavelength_medium is not None:
            file["wavelength"].attrs["medium"] = pixels.wavelength_medium


def _write_strings(file: Any, name: str, strings: ArrayLike) -> None:
    file[name] = encode_strings(np.asarray(strings, dtype=str))
