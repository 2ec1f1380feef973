"""Derivatives of network and posterior: as graphs, as callables, as numbers."""

from symspec.derivatives.compiled import (
    compile_ggn_vector_product,
    compile_hessian_vector_product,
    compile_jacobian,
    compile_objective,
    compile_predict,
)
from symspec.derivatives.matrices import compile_ggn, compile_hessian

__all__ = [
    "compile_ggn",
    "compile_ggn_vector_product",
    "compile_hessian",
    "compile_hessian_vector_product",
    "compile_jacobian",
    "compile_objective",
    "compile_predict",
]
