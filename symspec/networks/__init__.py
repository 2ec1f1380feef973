"""Layers, the network, and the regression around it: symbols in, symbols out."""

from symspec.networks.activations import ACTIVATIONS
from symspec.networks.convolutions import (
    AveragePool1D,
    Conv1D,
    GlobalAveragePool1D,
    LocallyConnected1D,
    MaxPool1D,
    ZeroPadding1D,
)
from symspec.networks.folding import fold_batch_norm
from symspec.networks.layers import Activation, Dense, Dropout, Layer, Standardize, Unstandardize
from symspec.networks.network import Network, mlp, standardized
from symspec.networks.noise import GaussianNoise
from symspec.networks.normalizations import (
    BatchNorm,
    ContinuumNormalize,
    LayerNorm,
    MedianNormalize,
)
from symspec.networks.prior import prior_precision_from_weight_decay, scaled_prior
from symspec.networks.regression import Regression
from symspec.networks.shaping import (
    Add,
    Concatenate,
    Flatten,
    From,
    Identity,
    Permute,
    Reshape,
    Slice,
)

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Add",
    "AveragePool1D",
    "BatchNorm",
    "Concatenate",
    "ContinuumNormalize",
    "Conv1D",
    "Dense",
    "Dropout",
    "Flatten",
    "From",
    "GaussianNoise",
    "GlobalAveragePool1D",
    "Identity",
    "Layer",
    "LayerNorm",
    "LocallyConnected1D",
    "MaxPool1D",
    "MedianNormalize",
    "Network",
    "Permute",
    "Regression",
    "Reshape",
    "Slice",
    "Standardize",
    "Unstandardize",
    "ZeroPadding1D",
    "fold_batch_norm",
    "mlp",
    "prior_precision_from_weight_decay",
    "scaled_prior",
    "standardized",
]
