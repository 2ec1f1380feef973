"""Structures of the inverse Hessian: one file each, one interface, and the choice between them."""

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
from symspec.safety.memory import parse_memory

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
    "choose_structure",
    "parse_memory",
]
