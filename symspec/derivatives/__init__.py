"""Derivatives of network and posterior: as graphs, as callables, as numbers.

A `compile_` function takes a `Network` or a `Regression` and returns a function of NumPy arrays. It
is kept with the network or regression, which compiles nothing twice:

======================================  =======================  ==================================
`compile_predict(net)`                  ``fn(theta, X)``         labels (star, label)
`compile_jacobian(net, wrt="flux")`     ``fn(theta, X)``         (star, label, pixel)
`compile_jacobian(net, wrt="theta")`    ``fn(theta, X)``         (star, label, param)
`compile_objective(reg)`                ``fn(theta, X, Y)``      U and its gradient (param,)
`compile_hessian_vector_product(reg)`   ``fn(theta, X, Y, v)``   (param,)
`compile_ggn_vector_product(reg)`       ``fn(theta, X, Y, v)``   (param,)
`compile_hessian(reg)`                  ``fn(theta, X, Y)``      (param, param)
`compile_ggn(reg)`                      ``fn(theta, X, Y)``      (param, param)
======================================  =======================  ==================================

X is (star, pixel) or one spectrum (pixel,), for which the star axis is dropped.

>>> import numpy as np
>>> import symspec as ss
>>> rng = np.random.default_rng(0)
>>> net = ss.mlp([20, 4, 3], activation="tanh")
>>> theta, X = net.init_params(rng), rng.normal(size=(5, 20))
>>> jacobian = ss.compile_jacobian(net)
>>> jacobian(theta, X).shape, jacobian(theta, X[0]).shape
((5, 3, 20), (3, 20))

Backends: ``backend="auto"`` is PyTensor's NumPy machine, ready in a fraction of a second, at any
width. ``"numba"`` and ``"c"`` compile for seconds to a minute and pay for small functions called
very often; ``"jax"`` (`pip install "symspec[jax]"`) is the way to a GPU. ``dtype="float32"`` halves
memory and time. The warning "PyTensor could not link to a BLAS" concerns ``backend="c"`` only;
`PYTENSOR_FLAGS=blas__ldflags=-lopenblas` mends it.

Any number of threads may call one function: their calls take turns. How many threads BLAS takes
within a call is chosen by the size of its products, see `symspec.derivatives.threads`; it is never
more than `OPENBLAS_NUM_THREADS` or `threadpoolctl.threadpool_limits` allow.
"""

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
