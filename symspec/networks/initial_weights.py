"""Weights to start training from: Keras's initialisers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from symspec.networks.params import ParamLayout
from symspec.safety.options import check_choice

# Keras's initialisers: (mode of the fan, gain, distribution)
INITIALIZERS = {
    "he_normal": ("in", 2.0, "truncated_normal"),
    "he_uniform": ("in", 2.0, "uniform"),
    "glorot_normal": ("mean", 1.0, "truncated_normal"),
    "glorot_uniform": ("mean", 1.0, "uniform"),
    "lecun_normal": ("in", 1.0, "truncated_normal"),
    "lecun_uniform": ("in", 1.0, "uniform"),
}
TRUNCATED_NORMAL_STD = 0.87962566103423978  # of a unit normal cut at +-2, as Keras divides it out


def draw_weights(
    layout: ParamLayout, fans: Mapping[str, tuple[int, int]], rng: np.random.Generator, init: str
) -> np.ndarray:
    """Draw `theta` (param,), see `Network.init_params`; `fans` are in and out of each kernel."""
    fan_mode, gain, shape = INITIALIZERS[check_choice(init, "init", tuple(INITIALIZERS))]
    theta = np.zeros(layout.n_params)
    for block in layout.blocks:
        if block.name.endswith("/gamma"):
            theta[block.slice] = 1
        elif block.name in fans:
            fan_in, fan_out = fans[block.name]
            std = np.sqrt(gain / (fan_in if fan_mode == "in" else (fan_in + fan_out) / 2))
            theta[block.slice] = std * _draw_unit(rng, block.size, shape)
    return theta


def _draw_unit(rng: np.random.Generator, size: int, shape: str) -> np.ndarray:
    """Numbers of zero mean and unit variance."""
    if shape == "uniform":
        return rng.uniform(-np.sqrt(3), np.sqrt(3), size)
    draws = rng.normal(size=size)
    while (outside := np.abs(draws) > 2).any():
        draws[outside] = rng.normal(size=int(outside.sum()))
    return draws / TRUNCATED_NORMAL_STD
