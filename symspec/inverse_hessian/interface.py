"""The interface of every structure of the inverse Hessian; each structure has one file beside this.

A structure is a subclass of `InverseHessian`. Its class says what it is called, how accurate it is,
which options it takes and what it costs; class methods build it and read it from arrays. What only
some structures can do is a method that says no in words by default.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
from scipy.sparse.linalg import LinearOperator

from symspec.derivatives.tangent_stream import TangentStream
from symspec.derivatives.tangents import Tangents
from symspec.errors import OptionError
from symspec.inverse_hessian.numerics.digits import Enclosure
from symspec.inverse_hessian.numerics.square_roots import Factor
from symspec.networks.network import Network
from symspec.networks.noise.star_noise import StarNoise
from symspec.networks.regression import Regression
from symspec.safety.checkpoint import Checkpoint
from symspec.safety.label_errors import Labels

if TYPE_CHECKING:
    from symspec.inverse_hessian.last_layer import LastLayer
    from symspec.inverse_hessian.low_rank import LowRankInverse
    from symspec.inverse_hessian.primal import PrimalInverse

Groups = Sequence[np.ndarray] | None  # of training stars, by their indices
CrossCovariance = Callable[[Tangents, Tangents], np.ndarray]


class Problem(Protocol):
    """A regression and its training stars, from which a structure is built: see `InverseBuilder`.

    Attributes
    ----------
    reg : Regression
    X, Y : numpy.ndarray, shapes (star, pixel), (star, label)
    observed : numpy.ndarray of bool, shape (star, label)
    labelled : numpy.ndarray of int
        Stars with a label.
    curvature : {"ggn", "hessian"}
    options : dict
        Of the structure.
    memory : float
        Bytes that the factorisation may take.
    dtype : {"float64", "float32"}
        Of passes through the network.
    checkpoint : Checkpoint
    """

    reg: Regression
    X: np.ndarray
    Y: Labels
    observed: np.ndarray
    curvature: str
    options: dict[str, Any]
    memory: float
    dtype: str
    checkpoint: Checkpoint

    @property
    def labelled(self) -> np.ndarray: ...

    def noise(self, theta: np.ndarray, stars: Any = slice(None)) -> StarNoise:
        """Noise of the training stars, or of some of them, around what the network says."""
        ...

    def tangents(self, theta: np.ndarray, X: np.ndarray | None = None) -> Tangents:
        """Tangents of the stars X, the training stars by default."""
        ...

    def stream(self, theta: np.ndarray, stars: np.ndarray | None = None) -> TangentStream:
        """Whitened tangents of the labelled training stars, or of some of them."""
        ...

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        """Exact Hessian of the negative log posterior (param, param)."""
        ...

    def identity(self, theta: np.ndarray) -> str:
        """Digest of all that the curvature at `theta` depends on."""
        ...

    def pick_stars(self, n: int) -> np.ndarray:
        """Indices of n labelled training stars, the same at each call."""
        ...


class ArrayReader(Protocol):
    """Reads what `InverseHessian.arrays` gave from a file that may be damaged or hostile."""

    def array(
        self, name: str, shape: tuple[int | None, ...], *, kind: type = float, finite: bool = False
    ) -> np.ndarray:
        """One array of this shape, in which None stands for any length."""
        ...

    def find(self, name: str) -> Collection[str]:
        """Names in a group."""
        ...

    def refusal(self, name: str, expected: str, got: str) -> Exception:
        """Error about one array, to be raised."""
        ...


@dataclass(frozen=True)
class Cost:
    """Cost of a factorisation: its operations, and the rows of the matrix factorised."""

    flops: float
    rows: int

    @property
    def n_bytes(self) -> int:
        """Bytes of the matrix, its factor and work space."""
        return 3 * 8 * self.rows**2


class InverseHessian(LinearOperator, ABC):
    r"""The inverse :math:`A^{-1}` of a positive definite curvature matrix (param, param).

    It is a SciPy LinearOperator: `@` multiplies it with a vector (param,) or a matrix (param, k).

    Attributes
    ----------
    structure : str
        Its name, unique.
    accuracy : {"exact", "interval", "upper bound", "approximate"}
        Label covariances are those of A^-1, bracketed, never too small, or neither.
    options : dict of str to type
        The options that `build` takes.
    partial_options, fixed_options : tuple of str
        Those that leave training stars out, and those that keep one factorisation.
    curvatures : tuple of str
        The matrices that it inverts: "ggn", "hessian".
    has_evidence_gradient : bool
        Whether `compile_log_det_gradient` and `differentiate_log_det` are there.
    has_span : bool
        Whether `in_span` is there, and costs no factorisation.
    linear_space : {"products", "data", "parameters", ""}
        Where the evidence of a linearised network is computed; empty: nowhere, as weights are held.
    stars_a_piece : int or None
        Stars after which results are worth keeping, where a star takes minutes.
    is_complete : bool
        Whether all training stars went into it.
    training_tangents : Tangents or None
        Of all training stars, where they are kept.
    widest : float
        Relative width of a standard deviation's interval beyond which predictions are flagged.
    free : slice
        The parameters that vary; the others are held fixed, with zero variance.
    """

    structure: str
    accuracy: str = "exact"
    options: ClassVar[Mapping[str, type]] = {}
    partial_options: ClassVar[tuple[str, ...]] = ()
    fixed_options: ClassVar[tuple[str, ...]] = ()
    curvatures: ClassVar[tuple[str, ...]] = ("ggn",)
    has_evidence_gradient: ClassVar[bool] = False
    has_span: ClassVar[bool] = False
    linear_space: ClassVar[str] = "products"
    stars_a_piece: int | None = None
    is_complete: bool = True
    training_tangents: Tangents | None = None
    widest: float = 0.05

    def __init__(self, n_params: int, free: slice | None = None):
        super().__init__(np.dtype(np.float64), (n_params, n_params))
        self.free = slice(0, n_params) if free is None else free

    # --- how it is made

    @classmethod
    def cost(cls, net: Network, n_rows: int) -> Cost:
        """Cost for `n_rows` outputs of observed labels; by default it fits but takes for ever."""
        return Cost(math.inf, 0)

    @classmethod
    def form(cls, names: Collection[str]) -> type[InverseHessian]:
        """The class that takes these options, or is made of these arrays."""
        return cls

    @classmethod
    @abstractmethod
    def build(cls, problem: Problem, theta: np.ndarray) -> Self:
        """Inverse of the curvature of a problem at `theta`."""

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays that make up the operator, for saving."""

    def identity(self) -> Any:
        """What tells the operator from others, for fingerprints; no larger than it is in memory."""
        return self.arrays()

    @classmethod
    @abstractmethod
    def from_arrays(cls, reader: ArrayReader, place: str, reg: Regression) -> Self:
        """The operator of which the arrays stand under `place`."""

    @property
    def remark(self) -> str:
        """What scales that are far apart made of it, in one line; empty if they are not."""
        return ""

    # --- what every structure can do

    @abstractmethod
    def diagonal(self) -> np.ndarray:
        """Diagonal of A^-1 (param,): the variances of the weights."""

    def find_step(self, theta: np.ndarray, score: Callable[[], np.ndarray]) -> np.ndarray | None:
        """Newton step from the stars' score (star, output); None where the gradient does it."""
        return None

    def own_blocks(self, members: Groups = None) -> list[np.ndarray] | None:
        """M^-1 of each training star, or group, with itself, where V loses digits.

        Its rows are the (star, label) of a group.
        """
        return None

    @abstractmethod
    def logdet(self) -> float:
        """Log det A^-1 over the parameters that vary."""

    def logdet_standard_error(self) -> float:
        """Standard error of `logdet` where it is an estimate, otherwise 0."""
        return 0.0

    @abstractmethod
    def draw(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        """Draws from Normal(0, A^-1): (draw, param)."""

    @abstractmethod
    def label_covariance(self, tangents: Tangents) -> np.ndarray:
        """J A^-1 J^T of each star (star, label, label)."""

    def enclose(self, tangents: Tangents) -> Enclosure:
        """`label_covariance` of each star, with bounds of the exact one; NaN where unknown."""
        V = self.label_covariance(tangents)
        unknown = np.full_like(V, np.nan)
        return Enclosure(value=V, lower=unknown, upper=unknown)

    def label_covariance_bounds(self, tangents: Tangents) -> tuple[np.ndarray, np.ndarray]:
        """Bounds (star, label, label) of J A^-1 J^T in Loewner order; NaN where none is known."""
        enclosure = self.enclose(tangents)
        return enclosure.lower, enclosure.upper

    def cheap(self) -> LinearOperator:
        """An operator like this one whose products cost little, for preconditioning."""
        return self

    def to_dense(self) -> np.ndarray:
        """A^-1 as an array (param, param), for few parameters."""
        return self @ np.eye(self.shape[0])

    def count_effective(
        self, reg: Regression, diagonal: np.ndarray | None = None
    ) -> dict[str, float]:
        r"""Effective parameters of each block: those that the data determine.

        They are :math:`P_b - \delta_b \mathrm{tr}(A^{-1})_{bb}`, without those that are held
        fixed. `diagonal` (param,) is that of A^-1, if it is known already.
        """
        diagonal = self.diagonal() if diagonal is None else diagonal
        share = np.zeros_like(diagonal)
        share[self.free] = 1 - (reg.prior_precision_vector() * diagonal)[self.free]
        return {name: float(part.sum()) for name, part in reg.net.layout.unpack(share).items()}

    def _adjoint(self) -> InverseHessian:
        return self

    # --- what some structures can do

    @property
    def n_rows(self) -> int:
        """Length of the vectors that `cross_covariance` works on, one a star and label."""
        return self.shape[0]

    def cross_covariance(self) -> CrossCovariance:
        """Function of the tangents of two sets of stars, J A^-1 J'^T (star, label, star, label).

        Raises
        ------
        OptionError
            The structure has none, or training stars are left out.
        """
        raise OptionError(
            'covariances between stars should come from structure="primal" or "dual" and all'
            f' training stars, got "{self.structure}" ({self.accuracy}): use'
            ' fit_laplace(..., structure="dual").'
        )

    def whitening(self, reg: Regression) -> Factor:
        """Square root of A^-1 over all parameters, which a sampler whitens by.

        Where the data curve few directions, it is the prior's but for these: two thin products in
        place of two square ones.

        Raises
        ------
        OptionError
            The structure has no such factor.
        TooLargeError
            It does not fit in memory.
        """
        raise OptionError(
            "whitening should be given a Laplace posterior over all weights, got"
            f' structure="{self.structure}": fit one with structure="low_rank" or "kronecker", or'
            ' sample subset="last_layer".'
        )

    def directions(self, reg: Regression, n: int | None = None) -> LowRankInverse:
        r"""Leading eigenpairs of :math:`\Lambda^{-1/2} (A - \Lambda) \Lambda^{-1/2}`.

        They are the curvature's in units of the prior. `n` is their number; by default all beyond
        0.01 in size, which are often few.

        Raises
        ------
        OptionError
            The structure does not know them, or fewer than `n`.
        TooLargeError
            They do not fit in memory.
        """
        raise OptionError(
            'leading directions should come from structure="primal", "dual" or "low_rank", got'
            f' "{self.structure}": fit_laplace(..., structure="low_rank", options={{"rank": k}})'
            " finds the first k."
        )

    def of_last_layer(self, reg: Regression) -> PrimalInverse:
        """A^-1 of the last layer's parameters, given all others.

        Raises
        ------
        OptionError
            The structure does not hold the last layer's curvature.
        """
        raise OptionError(
            'the last layer\'s inverse Hessian should come from structure="last_layer", "primal" or'
            f' "dual", got "{self.structure}": fit_laplace(..., structure="last_layer").'
        )

    def head(self, reg: Regression, theta: np.ndarray) -> LastLayer | None:
        """The regression of the parameters that vary on features that do not; None if all vary."""
        return None

    def in_span(self, problem: Problem, theta: np.ndarray) -> InverseHessian:
        """The inverse of the same problem on the span of its training spectra, from this one."""
        raise NotImplementedError(f"{self.structure} knows nothing of the span.")

    @classmethod
    def compile_log_det_gradient(cls, net: Network, *, backend: str) -> Callable[..., np.ndarray]:
        """Compile what `differentiate_log_det` needs."""
        raise NotImplementedError(f"{cls.structure} has no gradient of the evidence.")

    def differentiate_log_det(
        self,
        derivative: Callable[..., np.ndarray],
        reg: Regression,
        theta: np.ndarray,
        X: np.ndarray,
        Y: np.ndarray,
        weights: np.ndarray,
        tangents: Tangents,
    ) -> tuple[np.ndarray, dict[str, float], np.ndarray]:
        r"""Gradient of :math:`\tfrac12 \log\det A` (param,), effective parameters by block, and V.

        `derivative` is of `compile_log_det_gradient`; X, Y, weights (star, output, output) and
        tangents are the training set's. V (star, output, output) is that of its observed labels.
        """
        raise NotImplementedError(f"{self.structure} has no gradient of the evidence.")
