"""Square roots of the inverse Hessian, for numbers and for graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = Mapping[str, Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Factor:
    r"""A square root L of the inverse Hessian, :math:`L L^T = A^{-1}`, for numbers and for graphs.

    Attributes
    ----------
    log_det : float
        Log \|det L\|.
    arrays : dict of str to numpy.ndarray
        The arrays that L is made of.
    colour, uncolour : callable
        L z and L^-1 x of one vector (param,), called with (vector, arrays, module): the module is
        `numpy`, or `pytensor.tensor` with the arrays as symbols.
    """

    log_det: float
    arrays: dict[str, np.ndarray]
    colour: Callable[[Any, Arrays, Any], Any]
    uncolour: Callable[[Any, Arrays, Any], Any]
