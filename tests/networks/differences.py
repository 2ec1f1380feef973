"""Central differences, which derivatives of whole networks are held against."""

import numpy as np
from numpy.testing import assert_allclose

import symspec as ss


def differentiate(function, at, step=1e-6):
    unit = np.eye(at.shape[-1]) * step
    return np.stack([(function(at + u) - function(at - u)) / (2 * step) for u in unit], axis=-1)


def check_flux_jacobian(net, theta, X):
    predict, jacobian = ss.compile_predict(net), ss.compile_jacobian(net)
    assert_allclose(
        jacobian(theta, X), differentiate(lambda x: predict(theta, x), X), rtol=1e-6, atol=1e-7
    )
