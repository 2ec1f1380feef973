"""The checks of `arrays`, `options`, `stars` and `theta` under one name."""

from symspec.safety.arrays import as_float_array, check_finite
from symspec.safety.options import check_choice, check_count, check_number, check_rng
from symspec.safety.stars import check_flux, check_ivar, check_labels, check_not_infinite
from symspec.safety.theta import check_theta

__all__ = [
    "as_float_array",
    "check_choice",
    "check_count",
    "check_finite",
    "check_flux",
    "check_ivar",
    "check_labels",
    "check_not_infinite",
    "check_number",
    "check_rng",
    "check_theta",
]
