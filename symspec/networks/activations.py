"""Elementwise activations as PyTensor graphs, exact to every derivative that exists.

All constants take the dtype of the input, so that a float32 graph stays float32. Piecewise
functions are `switch`es, so that their derivative at a knot is that of one piece: the flat one for
relu and clip, as Keras and PyTorch have it.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
import pytensor.tensor as pt

from symspec.errors import OptionError
from symspec.networks.params import Symbol
from symspec.safety.options import check_choice

# Klambauer et al. (2017), "Self-Normalizing Neural Networks", arXiv:1706.02515
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


def _like(x: Symbol, value: float) -> Symbol:
    return pt.constant(np.asarray(value, dtype=x.dtype))


def linear(x: Symbol) -> Symbol:
    """Identity."""
    return x


def relu(x: Symbol) -> Symbol:
    """max(x, 0), as a product with the 0-1 mask, which NumPy computes faster than a selection."""
    return x * pt.cast(x > 0, x.dtype)


def leaky_relu(x: Symbol, negative_slope: float = 0.3) -> Symbol:
    """X where positive, negative_slope * x elsewhere (default 0.3 in Keras 2, 0.01 in PyTorch)."""
    return pt.switch(x > 0, x, _like(x, negative_slope) * x)


def elu(x: Symbol, alpha: float = 1.0) -> Symbol:
    """X where positive, alpha (exp(x) - 1) elsewhere."""
    negative = pt.minimum(x, _like(x, 0))
    return pt.switch(x > 0, x, _like(x, alpha) * pt.expm1(negative))


def selu(x: Symbol) -> Symbol:
    """Scaled elu with the constants of self-normalising networks."""
    return _like(x, SELU_SCALE) * elu(x, SELU_ALPHA)


def tanh(x: Symbol) -> Symbol:
    """Hyperbolic tangent."""
    return pt.tanh(x)


def sigmoid(x: Symbol) -> Symbol:
    """1 / (1 + exp(-x))."""
    return pt.sigmoid(x)


def softplus(x: Symbol) -> Symbol:
    """log(1 + exp(x))."""
    return pt.softplus(x)


def gelu(x: Symbol) -> Symbol:
    """X Phi(x) with the exact normal distribution function, as Keras and PyTorch default to."""
    return _like(x, 0.5) * x * (_like(x, 1) + pt.erf(x * _like(x, np.sqrt(0.5))))


def silu(x: Symbol) -> Symbol:
    """X sigmoid(x), also called swish."""
    return x * pt.sigmoid(x)


def clip(x: Symbol, minimum: float = 0.0, maximum: float = 9999.0) -> Symbol:
    """X limited to [minimum, maximum], flat outside."""
    low = _like(x, minimum)
    high = _like(x, maximum)
    return pt.switch(x > low, pt.switch(x < high, x, high), low)


ACTIVATIONS: dict[str, Callable[..., Symbol]] = {
    f.__name__: f
    for f in (linear, relu, leaky_relu, elu, selu, tanh, sigmoid, softplus, gelu, silu, clip)
}


PIECEWISE = ("relu", "leaky_relu", "selu", "clip")  # and elu, whose pieces join smoothly at alpha 1


def is_smooth_activation(name: str, options: dict[str, Any]) -> bool:
    """Whether the function has a continuous derivative."""
    if name == "elu":
        return bool(options.get("alpha", 1.0) == 1.0)
    return name not in PIECEWISE


def check_activation(name: str, options: dict[str, Any]) -> None:
    """Refuse an unknown activation, or an option that it does not have.

    Raises
    ------
    OptionError
        With the words that are understood.
    """
    function = ACTIVATIONS[check_choice(name, "activation", tuple(ACTIVATIONS))]
    _, *known = signature(function).parameters  # after x
    for key in options:
        if key not in known:
            raise OptionError(
                f"activation {name!r} takes {', '.join(known) or 'no options'}, got {key!r}: leave"
                " it out."
            )
