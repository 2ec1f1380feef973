"""Error bars of any number of stars into one catalogue, in the memory of a few, going on where a run was killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from symspec.files.catalogues import check_catalogue, write_catalogue
from symspec.files.partial_runs import PartialRun, open_run
from symspec.files.provenance import find_versions, hash_laplace, hash_network, join_hashes
from symspec.laplace.calibration import ErrorCalibration
from symspec.laplace.flags import FlagOptions
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.prediction import OPTIONAL_PER_STAR, PER_STAR, Prediction
from symspec.spectra.grids import check_grid, fit_to_network
from symspec.spectra.readers.sources import hash_spectra, open_source
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import match_labels
from symspec.spectra.spectra import Spectra

PIECE_BYTES = 2**26  # of flux in a piece
MOST_STARS = 4096  # in a piece

Show = Callable[[int, int], AbstractContextManager[Callable[[int], object]]]


@dataclass(frozen=True)
class Survey:
    """What a catalogue was written of.

    Attributes
    ----------
    prediction : Prediction
    ids : numpy.ndarray of str, shape (star,), or None
    true_labels : numpy.ndarray, shape (star, label), or None
        Labels that the spectra came with.
    """

    prediction: Prediction
    ids: np.ndarray | None
    true_labels: np.ndarray | None


def predict_survey(
    path: str | os.PathLike[str],
    laplace: LaplacePosterior,
    spectra: Any,
    *,
    flag_options: FlagOptions | None = None,
    calibration: ErrorCalibration | None = None,
    dialect: str = "upper",
    resample: str | None = None,
    overwrite: bool = False,
    restart: bool = False,
    show: Show = lambda n_stars, n_done: nullcontext(int),
    **options: Any,
) -> Survey:
    """Predict the stars of a file into a catalogue; `symspec.files.partial_runs` says what lies beside it meanwhile.

    Memory is that of some thousand spectra, and of the catalogue itself: half a kilobyte a star for
    three labels. Labels that the spectra have under the network's names go along as known ones.

    Parameters
    ----------
    path : str or path
        The catalogue, see `write_catalogue`.
    laplace : LaplacePosterior
    spectra : path, Spectra, or what else `symspec.read_spectra` takes
        A file of any length, or spectra in memory.
    flag_options : FlagOptions, optional
        Limits beyond which stars are flagged, in place of the usual ones.
    calibration : ErrorCalibration, optional
    dialect : {"upper", "lower"}
        As for `write_catalogue`.
    resample : {"flux_conserving", "linear"}, optional
        Take the spectra to the network's wavelengths, see `symspec.resample`.
    overwrite : bool, default False
        Replace an existing catalogue.
    restart : bool, default False
        Begin anew where the pieces of an earlier run lie.
    show : callable, optional
        Called with the number of stars, and of those that are done already; gives a context manager
        of a function that is called with the number of stars after each piece.
    **options
        Of `symspec.open_spectra`: how the spectra are read.

    Raises
    ------
    ShapeError
        The spectra have another number of pixels than the network takes.
    DataError
        They have other wavelengths; or there are pieces of another run: with another model, other
        spectra, options or versions.
    FileKeptError
        There is a file at `path` and `overwrite` is False, or another process is at work on it.
    SymspecError
        As `write_catalogue` and `open_spectra`.
    """
    net = laplace.reg.net
    limits = flag_options or FlagOptions()
    keep = {"overwrite": overwrite}
    check_catalogue(path, net.label_names, net.label_units, dialect=dialect)
    with open_source(spectra, **options) as source:
        if resample is None:
            check_grid(net, source, source.name)
        plan = {
            "run": "errors",
            "model": hash_laplace(laplace),
            **source.identity,
            **asdict(limits),
            **find_versions(),
        }
        plan |= {"resample": resample}
        most_stars = laplace.inverse_hessian.stars_a_piece or MOST_STARS
        size = find_piece_size(8 * net.n_pixels, most_stars)

        def read(rows: slice) -> tuple[Spectra, Spectra | Resampled, str]:
            stars = source.read(rows)
            check_catalogue(path, net.label_names, ids=() if stars.ids is None else stars.ids)
            return stars, fit_to_network(net, stars, resample), hash_spectra(stars)

        with open_run(path, plan, source.n_stars, size, restart=restart, **keep) as run:
            with show(source.n_stars, run.n_done) as advance:
                run.compute(read, partial(_predict_piece, laplace, limits), advance=advance)
            survey, meta = _join_pieces(run, laplace, limits, plan)
            words = {
                "true_labels": survey.true_labels,
                "calibration": calibration,
                "dialect": dialect,
                "meta": meta,
            }
            run.finish(
                lambda whole: write_catalogue(whole, survey.prediction, survey.ids, **words), **keep
            )
    return survey


def find_piece_size(bytes_a_star: int, most: int = MOST_STARS) -> int:
    """Stars in a piece: a power of two, which depends on the size of their data alone."""
    return 2 ** (min(most, max(1, PIECE_BYTES // bytes_a_star)).bit_length() - 1)


def _predict_piece(
    laplace: LaplacePosterior, limits: FlagOptions, data: tuple[Spectra, Spectra | Resampled, str]
) -> dict[str, np.ndarray]:
    """Arrays of one piece: those of a prediction, and of the spectra what a catalogue takes from them."""
    stars, fitted, digest = data
    prediction = laplace.predict(fitted, flag_options=limits, progress=False)
    truth = match_labels(stars, laplace.reg.net.label_names)
    arrays = {name: getattr(prediction, name) for name in (*PER_STAR, *OPTIONAL_PER_STAR)}
    arrays |= {"ids": stars.ids, "true_labels": truth, "data_hash": np.array([digest])}
    arrays["has_flux_errors"] = np.array([prediction.has_flux_errors])
    return {name: array for name, array in arrays.items() if array is not None}


def _join_pieces(
    run: PartialRun, laplace: LaplacePosterior, limits: FlagOptions, plan: Mapping[str, Any]
) -> tuple[Survey, dict[str, Any]]:
    """The whole survey, and for the header where it comes from."""
    arrays = run.load()
    net = laplace.reg.net
    hashes = arrays.pop("data_hash")
    ids = arrays.pop("ids", None)
    truth = arrays.pop("true_labels", None)
    known = bool(arrays.pop("has_flux_errors").all())
    words = {"label_names": net.label_names, "label_units": net.label_units, "flag_options": limits}
    survey = Survey(Prediction(has_flux_errors=known, **arrays, **words), ids, truth)
    meta = {"STRUCT": laplace.structure, "CURVAT": laplace.curvature, "N_PIXELS": net.n_pixels}
    if plan["resample"] is not None:
        meta["RESAMPLE"] = plan["resample"]
    meta |= {"NETHASH": hash_network(net, laplace.theta), "MODHASH": plan["model"]}
    meta |= {"DATAHASH": join_hashes(hashes), "PIECE": run.stars_a_piece}
    return survey, meta | {"UNCERT": plan.get("uncertainty") or "as the spectra say"}
