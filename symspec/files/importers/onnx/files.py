"""Files of ONNX, to which PyTorch, TensorFlow and others export models; no code is run."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from symspec.errors import FileFormatError
from symspec.files.importers.onnx.arrays import Output, Signal
from symspec.files.importers.onnx.constants import fold
from symspec.files.importers.onnx.description import OnnxNode, read_graph
from symspec.files.importers.onnx.layers import BUILDERS
from symspec.files.importers.onnx.patterns import build_pattern
from symspec.files.importers.onnx.protobuf import import_onnx_package, read_model
from symspec.files.importers.onnx.shapes import is_column_of_labels
from symspec.files.importers.onnx.translation import Translation
from symspec.files.matching import FileArray, Heads, fill_network, naming_outputs, reading
from symspec.networks.layers import Shape
from symspec.networks.network import Network

_WHAT = "an ONNX model"
# the weights of each operation that has any: its inputs after the first
_WEIGHTS = {
    "Gemm": ("kernel", "bias"),
    "MatMul": ("kernel",),
    "Conv": ("kernel", "bias"),
    "BatchNormalization": ("gamma", "beta", "mean", "variance"),
    "LayerNormalization": ("gamma", "beta"),
    "PRelu": ("alpha",),
}
# operations between a product with a kernel and the sum with its bias
_BETWEEN = ("Squeeze", "Unsqueeze", "Reshape", "Transpose", "Cast", "Identity")
_MOST_LABELS = 2**20
_BEHIND = "perhaps; a node before it is not read"


def import_onnx(
    path: str | os.PathLike[str], net: Network | None = None, heads: Heads | None = None
) -> tuple[Network, np.ndarray]:
    """Read a model in an ONNX file.

    Several inputs become one flat vector in the graph's order, the last axis of each varying
    fastest; several outputs are joined in the same way. Standardisations by constants become fixed
    layers.

    Parameters
    ----------
    path : str or path
    net : Network, optional
        Layers to read the weights into, in the order of the graph's nodes, whose operations are
        then ignored.
    heads : Heads, optional
        The graph's outputs that are read; all by default.

    Returns
    -------
    Network
    theta : numpy.ndarray, shape (param,)

    Raises
    ------
    FileFormatError
        The file is damaged, its weights are in another file, or it has operations that symspec
        lacks.
    MissingDependencyError
        The package onnx is not installed.
    """
    import_onnx_package()
    path = Path(path)
    # numbers that are not finite are refused as weights
    with reading(path, _WHAT), np.errstate(all="ignore"):
        translation = _translate(path)
        if net is not None:
            return fill_network(path, net, _list_weights(translation))
        known = list(translation.graph.outputs)
        names = known
        n_heads = len(known)
        if heads is not None:
            chosen, n_heads = heads.find(path, known)
            names = [known[i] for i in chosen]
        with naming_outputs(known):
            ends = _find_ends(translation, names)
            built, found = translation.layers.finish(translation.layers.join(ends))
        n_labels = sum(end.shape[0] for end in ends[:n_heads])
        return fill_network(path, built.with_n_labels(n_labels), found)


def _translate(path: Path) -> Translation:
    """Read the graph of a file; nodes that symspec lacks make errors instead of arrays."""
    translation = Translation(read_graph(path, read_model(path)))
    translation.run(BUILDERS, (build_pattern, fold))
    return translation


def list_nodes(
    path: str | os.PathLike[str],
) -> list[tuple[str, str, tuple[Shape, ...], Shape | None, str]]:
    """List the operations of a file and whether symspec reads them.

    Nodes that make constants are left out.

    Returns
    -------
    list of tuple
        For each node its name, its operation, the shapes of its weights, the shape of one star's
        output or None, and the reason why it is not read, empty if it is.
    """
    import_onnx_package()
    path = Path(path)
    with reading(path, _WHAT), np.errstate(all="ignore"):
        translation = _translate(path)
    rows = []
    parts: set[str] = set()  # inputs of the nodes that are read
    for node in translation.graph.nodes[::-1]:
        made = translation.values.get(node.outputs[0]) if node.outputs else None
        if isinstance(made, np.ndarray):
            continue
        is_read = isinstance(made, Signal) or bool(parts.intersection(node.outputs))
        if is_read:  # so are its inputs, perhaps as parts of the same layer
            parts.update(node.inputs)
        constants = [translation.values.get(name) for name in node.inputs]
        shapes = tuple(
            array.shape
            for array in constants
            if isinstance(array, np.ndarray) and array.dtype.kind == "f"
        )
        shape = made.shape if isinstance(made, Signal) else None
        reason = "" if is_read else _explain(translation, node)
        rows.append((node.name, node.op, shapes, shape, reason))
    return rows[::-1]


def _explain(translation: Translation, node: OnnxNode) -> str:
    """Say why a node is not read, unless that is due to a node before it."""
    error = translation.errors.get(node.outputs[0]) if node.outputs else None
    message = str(error)
    if message.startswith(node.introduction) or _is_of_constant(translation, node, error):
        return message.removeprefix(node.introduction).removeprefix(f"{node.path}: ")
    return _BEHIND


def _is_of_constant(
    translation: Translation, node: OnnxNode, error: FileFormatError | None
) -> bool:
    """Whether the error is that of a constant that a node takes."""
    unreadable = translation.graph.unreadable
    return any(error is unreadable[name] for name in node.inputs if name in unreadable)


def _find_ends(translation: Translation, names: Sequence[str]) -> list[Output]:
    """The graph's outputs of these names, each flattened."""
    graph = translation.graph
    ends = []
    for name in names:
        declared = graph.outputs[name]
        node = OnnxNode(
            path=graph.path, op="output", name=name, inputs=(name,), outputs=(), attributes={}
        )
        translation.check_order(node)
        signal = translation.signal(node)
        maker = translation.makers.get(name)
        is_column = maker is not None and is_column_of_labels(translation, maker)
        if declared is not None and declared != signal.shape and not is_column:
            raise node.refusal(
                f"is declared to be {declared} a star, and comes out as {signal.shape}"
            )
        output = translation.flush(node, signal)
        ends.append(translation.layers.view(output, (math.prod(signal.shape),)))
    n_labels = sum(end.shape[0] for end in ends)
    if not 0 < n_labels <= _MOST_LABELS:
        raise FileFormatError(
            f"{graph.path} should give 1 to {_MOST_LABELS:,} numbers a star, got {n_labels:,}:"
            " damaged."
        )
    return ends


def _list_weights(translation: Translation) -> list[FileArray]:
    """List the weights of the nodes in their order, with symspec's order of axes."""
    unreadable = translation.graph.unreadable
    found = []
    for node in translation.graph.nodes:
        if node.op == "Add" and _follows_kernel(translation, node):
            values = [translation.values.get(name) for name in node.inputs]
            bias = next((value for value in values if isinstance(value, np.ndarray)), None)
            if bias is not None:
                found.append(FileArray.of(f"{node.name} bias", bias.ravel()))
            continue
        for block, name in zip(_WEIGHTS.get(node.op, ()), node.inputs[1:], strict=False):
            if name in unreadable:
                raise unreadable[name]
            value = translation.values.get(name)
            if isinstance(value, np.ndarray):
                found.append(FileArray.of(f"{node.name} {block}", _turn(node, block, value)))
    return found


def _turn(node: OnnxNode, block: str, array: np.ndarray) -> np.ndarray:
    """Convert weights to those of a layer, with kernels (in, out) or (position, in, out)."""
    if node.op == "Conv" and block == "kernel":
        return array.reshape(*array.shape[:2], -1).transpose(2, 1, 0)
    if node.op != "Gemm":
        return array
    factor = node.number("alpha" if block == "kernel" else "beta", 1.0)
    array = array if factor == 1 else factor * array
    return array.T if block == "kernel" and node.count("transB", 0) else array


def _follows_kernel(translation: Translation, node: OnnxNode) -> bool:
    """Whether a sum adds the bias of a product before it, which has none itself."""
    maker = next(
        (translation.makers[name] for name in node.inputs if name in translation.makers), None
    )
    while maker is not None and maker.op in _BETWEEN:
        maker = translation.makers.get(maker.inputs[0])
    return maker is not None and maker.op in ("MatMul", "Conv") and len(maker.inputs) == 2
