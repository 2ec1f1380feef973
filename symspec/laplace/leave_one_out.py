r"""Training stars as if they had been left out of training, without training again.

With W_n the curvature of star n's noise and s_n the gradient of its log density, V the covariance
of the group's labels that comes from the weights, and C that between a new star and the group, one
Newton step of the linearised network takes the group g away:

.. math::
    z_g &= (1 - W_g V_{gg})^{-1} s_g, \qquad f_{-g}(x) = f(x) - C_{xg} z_g \\
    V_{-g} &= V_{gg} (1 - W_g V_{gg})^{-1}

For normal noise, :math:`s_g = S_g^{-1} r_g`, it is exact: the residuals become :math:`S_g (S_g -
V_{gg})^{-1} r_g` (Cook & Weisberg 1982, Residuals and Influence in Regression). For other noise it
is the one-step approximation of Pregibon 1981, doi:10.1214/aos/1176345513.

Where noise S is next to nothing beside what the prior lets labels vary, nothing is left of
:math:`S - V` but rounding. The dual has it as :math:`S B S`, with blocks B of :math:`M^{-1}`; other
structures give NaN where a bound of V leaves it open whether anything is left.

Of a network with hidden layers it is the network linearised, by the Gauss-Newton matrix. On MILES,
8 tanh units, real trainings without a star correlate with it by 0.96 and more in the star's own
labels, and by 0.81 to 0.99 in those of others (`tests/bench/leave_one_out.py`). At a minimum these
go by the exact Hessian, see `symspec.laplace.exact_influence`: 0.97 and more under Student's t.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives.functions import check_stars
from symspec.derivatives.tangents import Tangents
from symspec.errors import DataError, OptionError, ShapeError
from symspec.laplace.budget import Choices, begin, complete, sum_up, threads_for
from symspec.laplace.exact_influence import ExactInfluence, takes_hessian
from symspec.laplace.flags import FlagOptions
from symspec.laplace.prediction import Prediction, standard_deviations
from symspec.networks.noise.star_noise import StarNoise
from symspec.safety.label_errors import Labels
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import as_flux, as_stars
from symspec.spectra.spectra import Spectra

if TYPE_CHECKING:
    from symspec.laplace.posterior import LaplacePosterior

LEAST_LEFT = 1e-9  # of the noise, of a star that alone determines weights: no digit is left
BLOCK_BYTES = 2**27  # of the products with a block's tangents
MAX_BLOCK_STARS = 512


@dataclass(frozen=True, eq=False)
class TrainingStars:
    """What a posterior was fitted to.

    Attributes
    ----------
    flux : numpy.ndarray, shape (star, pixel)
    labels : numpy.ndarray, shape (star, label), or LabelsWithErrors
    """

    flux: np.ndarray
    labels: Labels


@dataclass(frozen=True, eq=False, kw_only=True)
class LeftOut:
    """Training stars, each predicted as if its group had been left out.

    Attributes
    ----------
    laplace : LaplacePosterior
    stars : TrainingStars
    members : list of numpy.ndarray, or None
        Stars of each group; None where each stands alone.
    state : dict of numpy.ndarray
        What `sum_up` takes, around the weights.
    steps : numpy.ndarray, shape (star, output)
        What a Newton step changes.
    pulls : numpy.ndarray, shape (star, output)
        z.
    """

    laplace: LaplacePosterior
    stars: TrainingStars
    members: list[np.ndarray] | None
    state: dict[str, np.ndarray]
    steps: np.ndarray
    pulls: np.ndarray

    @classmethod
    def of(
        cls,
        laplace: LaplacePosterior,
        groups: ArrayLike | None,
        X: ArrayLike | Spectra | Resampled | None,
        Y: ArrayLike | None = None,
        label_errors: ArrayLike | None = None,
        ivar: ArrayLike | None = None,
    ) -> LeftOut:
        """Of the training stars as given, or of those that the posterior holds."""
        stars = _find_training(laplace, X, Y, label_errors, ivar)
        members = _find_members(groups, len(stars.flux))
        with threads_for(laplace):
            return _leave_out(laplace, stars, members)

    def predict(self, center: str = "weights", options: FlagOptions | None = None) -> Prediction:
        """The stars' labels; their noise is that of these, with the errors that they came with."""
        state = dict(self.state)
        if center == "linearized":
            state["outputs"] = state["outputs"] + self.steps
            state["labels"] = state["outputs"][:, : state["labels"].shape[1]]
        how = Choices(center=center)
        labels = self.stars.labels
        return sum_up(
            self.laplace, self.stars.flux, None, state, how, options or FlagOptions(), labels
        )

    def find_influence(
        self,
        X_new: ArrayLike | Spectra | Resampled,
        *,
        curvature: str = "auto",
        progress: bool | Progress = True,
    ) -> np.ndarray:
        """By how much each group moves each label of new stars (star, label, group), in its units.

        Parameters
        ----------
        X_new, curvature, progress
            As for `LaplacePosterior.influence`.
        """
        laplace = self.laplace
        laplace.inverse_hessian.cross_covariance()  # or a refusal
        by_hessian = takes_hessian(laplace, curvature, len(self.stars.flux))
        X = complete_flux(laplace, X_new)
        with threads_for(laplace), show_progress(progress) as show:
            if by_hessian:
                show("inverting the exact Hessian", 0, None)
                moved = self._exact.find(X, show)
            else:
                moved = self._find_influence(X, show)
        if self.members is None:
            return moved
        return np.stack([moved[:, :, group].sum(axis=2) for group in self.members], axis=2)

    @cached_property
    def _exact(self) -> ExactInfluence:
        return ExactInfluence(self.laplace, self.stars, self.members, self.pulls)

    def _find_influence(self, X: np.ndarray, show: Progress) -> np.ndarray:
        laplace = self.laplace
        flux = self.stars.flux
        cross_covariance = laplace.inverse_hessian.cross_covariance()
        moved = np.zeros((len(X), laplace.reg.net.n_labels, len(flux)))
        size = find_block_size(laplace)
        for train, others in laplace.output_tangents(flux, size):
            show("what training stars move", train.start, len(flux))
            for rows, tangents in laplace.tangents(X, stars_at_once=size):
                C = cross_covariance(tangents, others)
                moved[rows, :, train] = np.einsum("ncmd,md->ncm", C, self.pulls[train])
        return moved


def complete_flux(
    laplace: LaplacePosterior,
    X: ArrayLike | Spectra | Resampled,
    ivar: ArrayLike | None = None,
) -> np.ndarray:
    """Flux (star, pixel) of new stars, missing pixels filled as for a prediction."""
    flux, ivar, _ = as_flux(laplace.reg.net, X, ivar)
    if ivar is None:
        return flux
    return complete(laplace, flux, ivar).flux


def find_joint_covariance(
    laplace: LaplacePosterior, X_new: ArrayLike | Spectra | Resampled
) -> np.ndarray:
    """Covariance (star, label, star, label) of labels that comes from the weights."""
    X = complete_flux(laplace, X_new)
    cross_covariance = laplace.inverse_hessian.cross_covariance()
    n_labels = laplace.reg.net.n_labels
    V = np.empty((len(X), n_labels, len(X), n_labels))
    size = find_block_size(laplace)
    with threads_for(laplace):
        for rows, tangents in laplace.tangents(X, stars_at_once=size):
            for columns, others in laplace.tangents(X[: rows.stop], stars_at_once=size):
                block = cross_covariance(tangents, tangents if columns == rows else others)
                V[rows, :, columns] = block
                V[columns, :, rows] = block.transpose(2, 3, 0, 1)
    return V


def find_block_size(laplace: LaplacePosterior) -> int:
    """Stars whose cross covariances are computed at once."""
    bytes_a_star = 8 * laplace.reg.net.n_outputs * laplace.inverse_hessian.n_rows
    return int(np.clip(BLOCK_BYTES // bytes_a_star, 1, MAX_BLOCK_STARS))


def _find_training(
    laplace: LaplacePosterior,
    X: ArrayLike | Spectra | Resampled | None,
    Y: ArrayLike | None,
    label_errors: ArrayLike | None,
    ivar: ArrayLike | None,
) -> TrainingStars:
    if X is not None:
        net = laplace.reg.net
        return TrainingStars(*check_stars(net, *as_stars(net, X, Y, label_errors, ivar)))
    if laplace.training_stars is None:
        raise DataError(
            "the training stars should be given, as fit_laplace had them: a posterior that was read"
            " from a file does not hold them."
        )
    return laplace.training_stars


def _find_members(groups: ArrayLike | None, n_stars: int) -> list[np.ndarray] | None:
    """Stars of each group, in the order of the groups' names; None where each stands alone."""
    if groups is None:
        return None
    names = check_groups(groups, n_stars, "training star", "that are left out together")
    unique, which = np.unique(names, return_inverse=True)
    return [np.flatnonzero(which == group) for group in range(len(unique))]


def check_groups(groups: ArrayLike, n_stars: int, star: str, together: str) -> np.ndarray:
    """Names (star,) of groups; the error says of what stars, and which of them are together."""
    names = np.asarray(groups)
    if names.shape != (n_stars,):
        raise ShapeError(
            f"groups should have shape ({n_stars},), a name for each {star}, got {names.shape}:"
            f" give equal names to stars {together}."
        )
    if names.dtype.kind == "f" and np.isnan(names).any():
        raise DataError("groups should be names or numbers, got NaN: give each star a group.")
    return names


def _leave_out(
    laplace: LaplacePosterior, stars: TrainingStars, members: list[np.ndarray] | None
) -> LeftOut:
    _check(laplace)
    C = laplace.reg.net.n_labels
    state = begin(len(stars.flux), C, laplace.reg.net.n_outputs)
    steps = np.zeros_like(state["outputs"])
    z = np.zeros_like(state["outputs"])
    noise = laplace.reg.noise
    of_stars = noise.of_stars(stars.labels, lambda: laplace.predict_outputs(stars.flux))
    for rows, tangents, own in _walk_groups(laplace, stars, members, of_stars):
        outputs = laplace.predict_outputs(stars.flux[rows])
        step = tangents.matvec(laplace.newton_step)
        score = noise.score(outputs + step, stars.labels[rows])
        z[rows], moved = own.release(score)
        outputs = outputs - moved
        covariance, *ends = own.spread(outputs.shape)
        state["outputs"][rows] = outputs
        state["variances"][rows] = np.einsum("ncc->nc", covariance)
        state["labels"][rows] = outputs[:, :C]
        state["model"][rows] = covariance[:, :C, :C]
        state["interval"][rows] = np.stack(list(map(standard_deviations, ends)), axis=-1)[:, :C]
        state["step"][rows] = step[:, :C]
        steps[rows] = step
    return LeftOut(laplace=laplace, stars=stars, members=members, state=state, steps=steps, pulls=z)


def _check(laplace: LaplacePosterior) -> None:
    if laplace.curvature != "ggn" or not laplace.inverse_hessian.is_complete:
        raise OptionError(
            'leaving stars out should be asked of a posterior of curvature="ggn" from all training'
            f' stars, got curvature="{laplace.curvature}", {laplace.reason}: call fit_laplace again'
            " without these options."
        )


def _walk_groups(
    laplace: LaplacePosterior,
    stars: TrainingStars,
    members: list[np.ndarray] | None,
    noise: StarNoise,
) -> Iterator[tuple[slice | np.ndarray, Tangents, _Covariances | _Blocks]]:
    """Stars, their tangents, and what is known of their groups; stars alone are some at once."""
    inverse = laplace.inverse_hessian
    blocks = inverse.own_blocks(members) if stars is laplace.training_stars else None
    if members is None:
        for rows, tangents in laplace.output_tangents(stars.flux):
            if blocks is None:
                found = inverse.enclose(tangents)
                T = noise.whiteners[rows]
                yield rows, tangents, _Covariances(found.value, found.lower, found.upper, T)
            else:
                yield rows, tangents, _Blocks.of(np.stack(blocks[rows]), noise, rows)
        return
    cross_covariance = inverse.cross_covariance()
    for g, group in enumerate(members):
        ((_, tangents),) = laplace.output_tangents(stars.flux[group], len(group))
        if blocks is not None:
            yield group, tangents, _Blocks.of(blocks[g][None], noise, group)
            continue
        V = cross_covariance(tangents, tangents)
        V = V.reshape(1, len(group) * V.shape[1], -1)
        found = inverse.enclose(tangents)
        unknown = np.diag(np.einsum("ncc->nc", found.upper - found.lower).ravel())
        T = _on_diagonal(noise.whiteners[group], V.shape)
        yield group, tangents, _Covariances(V, V, V + unknown, T)


@dataclass(frozen=True, eq=False)
class _Covariances:
    """V of groups, its bounds, and the whiteners of their noise (group, row, row)."""

    V: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    T: np.ndarray

    def release(self, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """z, and V z (star, output) of scores at the minimum (star, output)."""
        V, T = self.V, self.T
        s = score.reshape(*V.shape[:-1], 1)
        z = s + T.transpose(0, 2, 1) @ (self._invert(V) @ (V @ s))  # (1 - W V)^-1 s
        return z.reshape(score.shape), (V @ z).reshape(score.shape)

    def spread(self, shape: tuple[int, int]) -> list[np.ndarray]:
        """V (1 - W V)^-1 of each star (star, output, output), and of its bounds, as it grows."""
        return [_take_own(self._spread(V), shape) for V in (self.V, self.lower, self.upper)]

    def _spread(self, V: np.ndarray) -> np.ndarray:
        return V + V @ self.T.transpose(0, 2, 1) @ self._invert(V) @ V

    def _invert(self, V: np.ndarray) -> np.ndarray:
        """(1 - T V T^T)^-1 T of each group, NaN where nothing that is known is left without it."""
        T = self.T
        M = T @ V @ T.transpose(0, 2, 1)
        unknown = T @ (self.upper - self.lower) @ T.transpose(0, 2, 1)
        # approximations have no bounds
        least = np.fmax(LEAST_LEFT, np.linalg.norm(unknown, axis=(1, 2), keepdims=True))
        known = np.isfinite(M).all(axis=(1, 2), keepdims=True)
        leverages, vectors = np.linalg.eigh(np.where(known, M, np.eye(M.shape[1])))
        left = np.where(1 - leverages > least[:, 0], 1 - leverages, np.nan)
        return (vectors / left[:, None, :]) @ (vectors.transpose(0, 2, 1) @ T)


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Inverses of blocks B of M^-1, where V = S - S B S, and S of the stars of a group.

    What is left of S where the others say nothing, B S, is not a difference: its digits are there
    where noise is very small beside what the prior lets a label vary.
    """

    inverse: np.ndarray
    S: np.ndarray

    @classmethod
    def of(cls, B: np.ndarray, noise: StarNoise, rows: slice | np.ndarray) -> _Blocks:
        """Of blocks (group, row, row) of the stars at `rows`."""
        n_stars, n_outputs = noise.observed.shape
        S = np.broadcast_to(noise.covariance, (n_stars, n_outputs, n_outputs))[rows]
        return cls(np.linalg.inv(B), _on_diagonal(S, B.shape))

    def release(self, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As of V: z = (B S)^-1 s, and V z = B^-1 s - S s."""
        s = score.reshape(*self.S.shape[:-1], 1)
        moved = self.inverse @ s
        z = np.linalg.solve(self.S, moved)
        return z.reshape(score.shape), (moved - self.S @ s).reshape(score.shape)

    def spread(self, shape: tuple[int, int]) -> list[np.ndarray]:
        """B^-1 - S of each star (star, output, output), three times."""
        return [_take_own(self.inverse - self.S, shape)] * 3


def _on_diagonal(T: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Matrices (star, label, label) as they are, or as blocks of one matrix of this shape."""
    if T.shape == shape:
        return T
    n_stars, n_labels, _ = T.shape
    blocks = np.zeros((n_stars, n_labels, n_stars, n_labels))
    each = np.arange(n_stars)
    blocks[each, :, each] = T
    return blocks.reshape(shape)


def _take_own(V: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Covariances of each star (star, label, label) among those of groups; `_on_diagonal` back."""
    n_stars, n_labels = shape
    if V.shape == (n_stars, n_labels, n_labels):
        return V
    each = np.arange(n_stars)
    return V.reshape(n_stars, n_labels, n_stars, n_labels)[each, :, each]
