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
its layers symspec has. `symspec.fold_batch_norm` takes normalizations into the weights before them.

A PyTorch network of two dense layers, saved as safetensors (kernels are (out, in) there):

>>> import json, numpy as np
>>> import symspec as ss
>>> shapes = {"0.weight": (4, 20), "0.bias": (4,), "2.weight": (3, 4), "2.bias": (3,)}
>>> header, end = {}, 0
>>> for name, shape in shapes.items():
...     start, end = end, end + 4 * int(np.prod(shape))
...     header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
>>> header = json.dumps(header).encode()
>>> numbers = np.random.default_rng(0).normal(size=end // 4).astype("<f4")
>>> with open("network.safetensors", "wb") as file:
...     _ = file.write(len(header).to_bytes(8, "little") + header + numbers.tobytes())
>>> net, theta = ss.read_network("network.safetensors", net=ss.mlp([20, 4, 3]))
>>> theta.shape
(99,)
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
