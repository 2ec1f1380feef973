"""Layers, the network, and the regression around it: symbols in, symbols out.

`Network(layers, n_pixels)` stacks layers over one flat vector of weights, `theta`; `mlp` builds a
stack of dense ones; `standardized` lets flux and labels keep their own units. `Regression(net,
sigma_noise=, prior_precision=)` adds the noise of the labels (a standard deviation, or a covariance
between labels) and the prior of the weights (a precision, one over a variance); `scaled_prior`
gives kernels a precision in proportion to their fan-in. `noise=StudentTNoise(scale, dof)` has wider
tails, for labels with outliers. `noise=PredictedNoise()` has a scatter that depends on the
spectrum: the network's last layer gives twice as many numbers, the labels and then the logarithms
of their standard deviations, `mlp([..., 2 * n], n_labels=n)`. Everything else in the package takes
a `Network` or a `Regression`.

`net(theta, x)` is an ordinary PyTensor expression, so `pytensor.gradient.jacobian(net(theta, x),
x)` and `pytensor.gradient.hessian(reg.negative_log_posterior(theta, X, Y), theta)` work as they
stand, and the same graph goes under a PyMC model. U = `negative_log_posterior` is a sum over stars,
never a mean, with all its constants.

Layers: dense ones, convolutions, pools, batch and layer normalisation, normalisation by a continuum
or a median, what chemometrics does first (`SNV`, `MSC`, `SavitzkyGolay`, `Absorbance`), and
branches that meet in `Add`, `Multiply` or `Concatenate`, which are given the layer that they join.
All are exact to the second derivative, and work under every structure of the inverse Hessian.
`fold_batch_norm` takes a batch normalisation into the weights before it. `Add(start)` is a residual
connection:

>>> import symspec as ss
>>> start = ss.Activation("relu")
>>> layers = [ss.Reshape((500, 1)), ss.Conv1D(8, 8, padding="same"), start]  # (pixel, channel)
>>> layers += [ss.Conv1D(8, 8, padding="same"), ss.Add(start), ss.MaxPool1D(4), ss.Flatten()]
>>> net = ss.Network([*layers, ss.Dense(16), ss.Activation("relu"), ss.Dense(3)], n_pixels=500)
>>> net.n_params, net.n_labels
(16659, 3)

Optimisers and derivatives see one flat vector. `net.pack` makes it from named blocks and
`net.unpack` gives these back. Kernels are (in, out) as in Keras; PyTorch's need `.T`.

>>> import numpy as np
>>> net = ss.mlp([500, 3])
>>> {name: block.shape for name, block in net.unpack(np.zeros(net.n_params)).items()}
{'dense_0/kernel': (500, 3), 'dense_0/bias': (3,)}

A pixel of zero variance cannot be standardised: drop it, or build `Standardize.of(flux,
constant="keep")`, which divides it by its own size.
"""

from symspec.networks.activations import ACTIVATIONS
from symspec.networks.convolutions import (
    AveragePool1D,
    Conv1D,
    GlobalAveragePool1D,
    LocallyConnected1D,
    MaxPool1D,
    ZeroPadding1D,
)
from symspec.networks.layers import (
    Activation,
    Dense,
    Dropout,
    Layer,
    PReLU,
    Standardize,
    Unstandardize,
)
from symspec.networks.network import Network, mlp, standardized
from symspec.networks.normalizations import (
    BatchNorm,
    ContinuumNormalize,
    LayerNorm,
    MedianNormalize,
    fold_batch_norm,
)
from symspec.networks.preprocessing import MSC, SNV, Absorbance, SavitzkyGolay
from symspec.networks.prior import prior_precision_from_weight_decay, scaled_prior
from symspec.networks.regression import Regression
from symspec.networks.shaping import (
    Add,
    Concatenate,
    Flatten,
    From,
    Identity,
    Multiply,
    Permute,
    Reshape,
    Slice,
)

__all__ = [
    "ACTIVATIONS",
    "MSC",
    "SNV",
    "Absorbance",
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
    "GlobalAveragePool1D",
    "Identity",
    "Layer",
    "LayerNorm",
    "LocallyConnected1D",
    "MaxPool1D",
    "MedianNormalize",
    "Multiply",
    "Network",
    "PReLU",
    "Permute",
    "Regression",
    "Reshape",
    "SavitzkyGolay",
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
