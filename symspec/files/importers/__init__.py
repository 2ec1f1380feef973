"""Importers: networks of other programs, of which nothing is run and nothing need be installed.

`symspec.read_network(path)` recognises a file by its content and gives ``net, theta``:

- Keras: `.keras`, whole `.h5`, and weights alone (`.h5`, `.weights.h5`);
- PyTorch: a state_dict, `.pt` or `.safetensors`;
- ONNX: `.onnx`, which needs `pip install "symspec[onnx]"`. Weights have to be in the same file:
  export with ``external_data=False``;
- The Payne: npz, from labels to flux, whose Jacobian is (star, pixel, label);
- symspec's own archives.

Files of weights alone do not hold the layers: give them as ``net=``. Layers for PyTorch's weights
are those of PyTorch: ``data_format="channels_first"`` for convolutions and pools, ``axis=0`` and
``epsilon=1e-5`` for a `BatchNorm` after them.

``check=(x, y)`` proves the import on a sample: flux and labels as the other program predicts them.
How flux and labels were scaled for the training is seldom in the file: ``flux_scaling=(mean,
scale)``, ``label_scaling=(mean, scale)``. `symspec info FILE` says what is in a file, and which of
its layers symspec has. `symspec.fold_batch_norm` takes normalisations into the weights before them.

>>> import numpy as np
>>> import symspec as ss
>>> rng = np.random.default_rng(0)
>>> shapes = {"w_array_0": (8, 3), "b_array_0": 8, "w_array_1": (50, 8), "b_array_1": 50}
>>> arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
>>> np.savez("payne.npz", x_min=np.zeros(3), x_max=np.ones(3), **arrays)
>>> net, theta = ss.read_network("payne.npz", activation="leaky_relu")
>>> net.n_pixels, net.n_labels, theta.shape  # three labels in, 50 pixels out
(3, 50, (482,))
"""

from symspec.files.importers.descriptions import (
    FileDescription,
    FileRow,
    describe_file,
    is_foreign_network,
)
from symspec.files.importers.payne import import_payne
from symspec.files.importers.read import import_network, read_network

__all__ = [
    "FileDescription",
    "FileRow",
    "describe_file",
    "import_network",
    "import_payne",
    "is_foreign_network",
    "read_network",
]
