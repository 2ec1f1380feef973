"""Error bars of any number of stars into one catalogue, in little memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from symspec.files.catalogues import check_catalogue, write_catalogue
from symspec.files.partial_runs import MOST_STARS, Show, find_piece_size, open_run, show_pieces
from symspec.files.run_plans import join_hashes
from symspec.laplace.budget import Choices
from symspec.laplace.flags import FlagOptions
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.prediction import Prediction
from symspec.mixtures.identity import describe_model, describe_origin, hash_model, hash_networks
from symspec.mixtures.posterior import AnyPosterior, list_posteriors
from symspec.mixtures.prediction import CombinedPrediction
from symspec.networks.network import Network
from symspec.safety.checkpoint import find_fingerprint
from symspec.safety.progress import Progress
from symspec.spectra.grids import check_grid, fit_to_network
from symspec.spectra.readers.read import SpectraSource, open_spectra
from symspec.spectra.readers.shared_file import SharedFile
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import match_labels
from symspec.spectra.spectra import Spectra, hash_spectra
from symspec.validation.calibration import ErrorCalibration
from symspec.workers.interface import Task
from symspec.workers.versions import find_versions


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The content of a catalogue.

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
    laplace: AnyPosterior,
    spectra: Any,
    *,
    center: str = "weights",
    fill: str = "conditional",
    flux_errors: str = "linear",
    flag_options: FlagOptions | None = None,
    calibration: ErrorCalibration | None = None,
    interval: float | None = None,
    dialect: str = "upper",
    resample: str | None = None,
    overwrite: bool = False,
    restart: bool = False,
    progress: bool | Progress = True,
    show: Show | None = None,
    scheduler: Any = None,
    **options: Any,
) -> Survey:
    """Predict the stars of a file into a catalogue, piece by piece.

    It takes the memory of some thousand spectra, and of the catalogue itself: half a kilobyte a
    star for three labels. Labels of the spectra under the network's names are written as known
    ones. `symspec.files.partial_runs` describes the folder beside an unfinished catalogue.

    Parameters
    ----------
    path : str or path
        The catalogue, see `write_catalogue`.
    laplace : LaplacePosterior or CombinedPosterior
    spectra : path, Spectra, or what else `symspec.read_spectra` takes
        A file of any length, or spectra in memory.
    center : {"weights", "linearized"}
    fill : {"conditional", "mean"}
    flux_errors : {"linear", "sampled"}
        As `center`, `fill` and `flux` of `LaplacePosterior.predict`.
    flag_options : FlagOptions, optional
        Limits beyond which stars are flagged.
    calibration : ErrorCalibration, optional
    interval : float, optional
    dialect : {"upper", "lower"}
        As for `write_catalogue`.
    resample : {"flux_conserving", "linear"}, optional
        Take the spectra to the network's wavelengths, see `symspec.resample`.
    overwrite : bool, default False
        Replace an existing catalogue.
    restart : bool, default False
        Discard the pieces of an earlier run.
    progress : bool or Progress, default True
        True: a bar on stderr if it takes more than three seconds. A callable is called with
        (stage, done, total), in stars, after each piece.
    show : callable, optional
        An older form of `progress`, in its place: called with the number of stars, and of those
        done already, it gives a context manager of a function that is called with the number of
        stars after each piece.
    scheduler : None, "local", str or distributed.Client, optional
        Who works on the pieces, this process by default, see `symspec.workers`. The catalogue is
        the same, but for last digits where this process takes more threads of BLAS than a worker,
        and a run may go on with another one.
    **options
        Of `symspec.open_spectra`: how the spectra are read.

    Raises
    ------
    ShapeError
        The spectra have another number of pixels than the network takes.
    DataError
        They have other wavelengths; or the pieces are those of another run: with another model,
        other spectra, options or versions.
    FileKeptError
        There is a file at `path` and `overwrite` is False, or another process is at work on it.
    WorkersError, MissingDependencyError
        As `symspec.workers.open_workers`.
    SymspecError
        As `write_catalogue` and `open_spectra`.
    """
    net, limits = laplace.net, flag_options or FlagOptions()
    how = Choices(center=center, fill=fill, flux=flux_errors)
    check_catalogue(path, net.label_names, net.label_units, dialect=dialect, interval=interval)
    there = None if scheduler is None else SharedFile.of(spectra, options)
    with open_spectra(spectra, **options) as source:
        if resample is None:
            check_grid(net, source, source.name)
        ids = source.read_ids()
        if ids is not None:
            check_catalogue(path, net.label_names, net.label_units, ids, dialect=dialect)
        plan = _plan(laplace, source, how, limits, resample)
        most = min(o.inverse_hessian.stars_a_piece or MOST_STARS for o in list_posteriors(laplace))
        size = find_piece_size(8 * net.n_pixels, most)
        prepare = partial(_prepare_piece, net, resample)
        find = partial(_predict_piece, laplace, how, limits)
        task = Task(read=source.read, read_there=there, prepare=prepare, find=find)
        again = {"overwrite": overwrite, "restart": restart}
        with open_run(path, plan, source.n_stars, size, **again) as run:
            with show_pieces(progress, show, run) as follow:
                run.compute(task, scheduler=scheduler, stage="predicting", progress=follow)
            arrays = run.load()
            survey = _build_survey(arrays, laplace, limits)
            write = partial(
                write_catalogue, prediction=survey.prediction, ids=survey.ids,
                true_labels=survey.true_labels, calibration=calibration, interval=interval,
                dialect=dialect,
                meta=_describe_origin(laplace, plan, run.stars_a_piece, arrays["data_hash"]),
            )  # fmt: skip
            run.finish(write, overwrite=overwrite)
    return survey


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Stars as they were read, the same on the network's grid, and their digest."""

    stars: Spectra
    fitted: Spectra | Resampled
    digest: str


def _plan(
    laplace: AnyPosterior,
    source: SpectraSource,
    how: Choices,
    limits: FlagOptions,
    resample: str | None,
) -> dict[str, Any]:
    """Everything that the pieces depend on."""
    return {
        "run": "errors",
        "model": find_fingerprint(describe_model(laplace)),
        **source.identity(),
        **asdict(how),
        **asdict(limits),
        **find_versions(),
        "resample": resample,
    }


def _prepare_piece(net: Network, resample: str | None, stars: Spectra) -> _Piece:
    """Some stars, as they are and on the network's grid."""
    fitted = fit_to_network(net, stars, resample)
    return _Piece(stars=stars, fitted=fitted, digest=hash_spectra(stars))


def _predict_piece(
    laplace: AnyPosterior, how: Choices, limits: FlagOptions, piece: _Piece
) -> dict[str, np.ndarray]:
    """Arrays of a prediction, and what a catalogue takes from the spectra."""
    prediction = laplace.predict(piece.fitted, **asdict(how), flag_options=limits, progress=False)
    truth = match_labels(piece.stars, laplace.net)
    arrays = prediction.to_arrays()
    if piece.stars.ids is not None:
        arrays["ids"] = piece.stars.ids
    if truth is not None:
        arrays["true_labels"] = truth
    arrays["data_hash"] = np.array([piece.digest])
    arrays["has_flux_errors"] = np.array([prediction.has_flux_errors])
    for name in ("center", "fill", "flux"):
        arrays[name] = np.array([getattr(prediction, name)])
    return arrays


def _build_survey(
    arrays: Mapping[str, np.ndarray], laplace: AnyPosterior, limits: FlagOptions
) -> Survey:
    """The whole survey from the joined arrays of its pieces."""
    kind = Prediction if isinstance(laplace, LaplacePosterior) else CombinedPrediction
    prediction = kind.from_arrays(
        arrays,
        has_flux_errors=bool(arrays["has_flux_errors"].all()),
        label_names=laplace.net.label_names,
        label_units=laplace.net.label_units,
        flag_options=limits,
        center=str(arrays["center"][0]),
        fill=str(arrays["fill"][0]),
        flux=str(arrays["flux"][0]),
    )
    return Survey(
        prediction=prediction, ids=arrays.get("ids"), true_labels=arrays.get("true_labels")
    )


def _describe_origin(
    laplace: AnyPosterior,
    plan: Mapping[str, Any],
    stars_a_piece: int,
    data_hashes: Iterable[str],
) -> dict[str, str | int]:
    """Entries of a catalogue's header: which model, which spectra, and how they were taken."""
    entries = describe_origin(laplace) | {"N_PIXELS": laplace.net.n_pixels}
    if plan["resample"] is not None:
        entries["RESAMPLE"] = plan["resample"]
    entries["NETHASH"] = hash_networks(laplace)
    entries["MODHASH"] = hash_model(laplace)
    entries["DATAHASH"] = join_hashes(data_hashes)
    entries["PIECE"] = stars_a_piece
    entries["UNCERT"] = plan.get("uncertainty") or "as the spectra say"
    return entries
