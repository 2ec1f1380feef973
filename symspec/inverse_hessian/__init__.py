"""The inverse Hessian: one file a structure, one interface, the choice between them.

`symspec.fit_laplace(..., structure=...)` builds it and `laplace.inverse_hessian` holds it, a SciPy
`LinearOperator` with `@`, `.diagonal()`, `.to_dense()`, `.logdet()`. ``structure="auto"`` takes the
cheapest exact structure that fits in ``memory="8GB"``; `laplace.reason` says in one line what it
took and why. A is the Hessian or Gauss-Newton matrix of U, J = df/dtheta, Lambda the prior
precision, S the noise, X the training stars and * new ones.

``"primal"``
    Cholesky factor of A; up to some 15,000 parameters. Exact.
``"dual"``
    The same in the space of the data. J's rows are outer products, layer by layer, so that K = J
    Lambda^-1 J^T costs matrix products of the widths, and J A^-1 J^T = K** - K*X (K_XX + S)^-1
    K_X*. Up to some 20,000 observed labels. Exact; upper bounds with ``options={"subset": n}``.
    Beyond, the same numbers in tiles on disk, with ``options={"scratch": FOLDER}``: 8 bytes x
    (labels)^2 / 2 there, and one row of tiles in memory. The time and the disk are estimated before
    anything is done (``"max_hours": 24``); after an interruption, or kill -9, the same call goes
    on, and ``"subset": n`` takes the stars that are done. The folder belongs to the result.
``"krylov"``
    Conjugate gradients on streamed products, preconditioned by the dual of a subset: any number of
    parameters and stars. An interval that is proved to hold the error bars, as narrow as asked for.
    If it stays wide, give a larger `subset` or more seconds; its upper end is safe to publish.
    With ``options={"scratch": FOLDER}`` the kernel of all stars goes to disk, 8 bytes x
    (labels)^2 / 2 or half of it with ``dtype="float32"``: each product reads it once for up to 64
    stars, so that many stars take little more than one. That folder is resumed as dual's is.
``"low_rank"``
    Leading directions of the curvature, and the prior in the others. Upper bounds.
``"kronecker"``, ``"ekfac"``
    Independent layers, each a Kronecker product; the second corrects its eigenvalues. Approximate.
``"diagonal"``, ``"last_layer"``
    Independent weights; all layers but the last without error. Approximate.

Predictions carry `model_interval`, between whose ends the model's standard deviation is proved to
be, and flag 16 where that is unknown or wide. For exact structures it is as wide as rounding may
make it, and flagged beyond 1e-3. The less the prior and the more the data say, the more digits
cancel: where that shows and the tangents fit in 64 MiB, primal factorises them without summing
products, and dual and krylov sum squares (`symspec.inverse_hessian.numerics.digits`);
`laplace.reason` then says so.

Look at what an approximation does to your own stars before you use it: `symspec.audit_structures`,
or `symspec audit`, divides every structure's standard deviations by the exact ones, among the
training stars and outside. Medians for the gap problem (1-20-20-1 tanh, 150 points at
1 <= |x| <= 3, noise 0.1):

=================  ======  =========  =====  ========  ==========  ============  =============
sd / exact sd      krylov  kronecker  ekfac  diagonal  last_layer  low_rank, 10  dual, half of
                                                                                 the points
=================  ======  =========  =====  ========  ==========  ============  =============
among the data       1.00       1.43   1.41       6.7        0.65          1.19           1.47
in the gap           1.00       0.15   0.15      0.32        0.12          1.52           1.22
=================  ======  =========  =====  ========  ==========  ============  =============

Full, Kronecker, diagonal and last-layer numbers equal those of laplace-torch 0.3 to 1e-13 in the
tests, but for Kronecker with biases: symspec joins them to their kernels, laplace-torch keeps them
apart.

`memory` limits the factorisation. Where none fits, krylov works by products, which take no more
memory, but time for every star.

>>> import symspec as ss
>>> from symspec.inverse_hessian import choose_structure
>>> choose_structure(ss.mlp([7213, 2048, 32, 3]), n_rows=3 * 3000).structure
'dual'
"""

from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.choice import CURVATURES, INVERSES, STRUCTURES, choose_structure
from symspec.inverse_hessian.dual import DualInverse
from symspec.inverse_hessian.interface import InverseHessian
from symspec.inverse_hessian.kronecker import EkfacInverse, KroneckerInverse
from symspec.inverse_hessian.krylov import KrylovInverse
from symspec.inverse_hessian.last_layer import LastLayerInverse
from symspec.inverse_hessian.layerwise import DiagonalInverse, LayerwiseInverse
from symspec.inverse_hessian.low_rank import LowRankInverse
from symspec.inverse_hessian.primal import PrimalInverse
from symspec.inverse_hessian.tiled import TiledDualInverse

__all__ = [
    "CURVATURES",
    "INVERSES",
    "STRUCTURES",
    "DiagonalInverse",
    "DualInverse",
    "EkfacInverse",
    "InverseBuilder",
    "InverseHessian",
    "KroneckerInverse",
    "KrylovInverse",
    "LastLayerInverse",
    "LayerwiseInverse",
    "LowRankInverse",
    "PrimalInverse",
    "TiledDualInverse",
    "choose_structure",
]
