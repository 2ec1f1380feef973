"""Files of ONNX, into which PyTorch, TensorFlow and others export whole models; nothing in them is run."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import FileFormatError
from symspec.files.importers.onnx.arrays import Output, Signal
from symspec.files.importers.onnx.constants import fold
from symspec.files.importers.onnx.description import OnnxNode, read_graph
from symspec.files.importers.onnx.layers import BUILDERS
from symspec.files.importers.onnx.patterns import build_pattern
from symspec.files.importers.onnx.protobuf import import_onnx_package, read_model
from symspec.files.importers.onnx.translation import Translation
from symspec.files.matching import UnreadArray, fill_network, reading
from symspec.networks.layers import Shape
from symspec.networks.network import Network

_WHAT = "an ONNX model"
# the weights among the inputs of each operation that has any, behind what it acts on
_WEIGHTS = {
    "Gemm": ("kernel", "bias"),
    "MatMul": ("kernel",),
    "Conv": ("kernel", "bias"),
    "BatchNormalization": ("gamma", "beta", "mean", "variance"),
    "LayerNormalization": ("gamma", "beta"),
}
# what may stand between a kernel and the sum with its bias
_BETWEEN = ("Squeeze", "Unsqueeze", "Reshape", "Transpose", "Cast", "Identity")
_MOST_LABELS = 2**20
_BEHIND = "perhaps; a node before it is not read"


def import_onnx(
    path: str | os.PathLike[str], net: Network | None = None
) -> tuple[Network, np.ndarray]:
    """Read a model in an ONNX file.

    Several inputs become one flat vector in the order of the graph's inputs, the last axis of each
    varying fastest; several outputs follow each other in the same way. Standardisations by
    constants become fixed layers.

    Parameters
    ----------
    path : str or path
    net : Network, optional
        Layers to read the weights into, in the order of the graph's nodes, whose operations are
        then left unread.

    Returns
    -------
    Network
    theta : numpy.ndarray, shape (param,)

    Raises
    ------
    FileFormatError
        The file is damaged, its weights are in another file, or it has operations that symspec has
        no layers for.
    MissingDependencyError
        The package onnx is not installed.
    """
    import_onnx_package()
    path = Path(path)
    with (
        reading(path, _WHAT),
        np.errstate(all="ignore"),
    ):  # what is not finite is refused where it ends up
        translation = _translate(path)
        if net is not None:
            return fill_network(path, net, _list_weights(translation))
        built, found = translation.layers.finish(_find_end(translation))
        return fill_network(path, built, found)


def _translate(path: Path) -> Translation:
    """Go through the graph of a file; what symspec has no layers for stands there as an error."""
    translation = Translation(read_graph(path, read_model(path)))
    translation.run(BUILDERS, (build_pattern, fold))
    return translation


def list_nodes(
    path: str | os.PathLike[str],
) -> list[tuple[str, str, tuple[Shape, ...], Shape | None, str]]:
    """Tell which operations of a file symspec reads.

    Returns
    -------
    list of tuple
        Of each node but those that make constants its name, its operation, the shapes of the
        numbers that it has, the shape of one star's array that comes out or None, and why it is not
        read; empty where it is.
    """
    import_onnx_package()
    path = Path(path)
    with reading(path, _WHAT), np.errstate(all="ignore"):
        translation = _translate(path)
    rows = []
    parts = set()
    for node in translation.graph.nodes[::-1]:
        taken = [translation.values.get(name) for name in node.inputs]
        made = translation.values[node.outputs[0]] if node.outputs else None
        if isinstance(made, np.ndarray):
            continue
        is_read = isinstance(made, Signal) or bool(parts.intersection(node.outputs))
        if is_read:  # so is what it takes, as a part of the same layer if not by itself
            parts.update(node.inputs)
        shapes = tuple(
            array.shape
            for array in taken
            if isinstance(array, np.ndarray) and array.dtype.kind == "f"
        )
        shape = made.shape if isinstance(made, Signal) else None
        rows.append(
            (
                node.name,
                node.op,
                shapes,
                shape,
                "" if is_read else _explain(translation, node, made),
            )
        )
    return rows[::-1]


def _explain(translation: Translation, node: OnnxNode, error: Any) -> str:
    """Words of an error without those that tell where it is; of that of another node that it is one."""
    is_own = str(error).startswith(node.introduction) or _is_of_constant(translation, node, error)
    return (
        str(error).removeprefix(node.introduction).removeprefix(f"{node.path}: ")
        if is_own
        else _BEHIND
    )


def _is_of_constant(translation: Translation, node: OnnxNode, error: Any) -> bool:
    """Whether an error is that of numbers which a node takes and which cannot be read."""
    return any(error is translation.graph.constants.get(name) for name in node.inputs)


def _find_end(translation: Translation) -> Output:
    """The graph's outputs, one flat vector after the other."""
    graph = translation.graph
    ends = []
    for name, declared in graph.outputs.items():
        node = OnnxNode(graph.path, "output", name, (name,), (), {})
        translation.check_order(node)
        signal = translation.signal(node)
        if declared is not None and declared != signal.shape:
            raise node.refusal(
                f"is declared to be {declared} a star, and comes out as {signal.shape}"
            )
        ends.append(
            translation.layers.view(translation.flush(node, signal), (math.prod(signal.shape),))
        )
    n_labels = sum(end.shape[0] for end in ends)
    if not 0 < n_labels <= _MOST_LABELS:
        raise FileFormatError(
            f"{graph.path} should give 1 to {_MOST_LABELS:,} numbers a star, got {n_labels:,}:"
            " damaged."
        )
    return translation.layers.join(ends)


def _list_weights(translation: Translation) -> list[UnreadArray]:
    """Weights of the nodes that have any, in their order, turned as symspec has them."""
    found = []
    for node in translation.graph.nodes:
        constants = [translation.values.get(name) for name in node.inputs]
        if node.op == "Add" and _follows_kernel(translation, node):
            constants = [a.ravel() for a in constants if isinstance(a, np.ndarray)]
            words = ("bias",)
        else:
            constants = constants[1:]
            words = _WEIGHTS.get(node.op, ())
        for word, array in zip(words, constants, strict=False):
            if isinstance(array, FileFormatError) and _is_of_constant(translation, node, array):
                raise array
            if isinstance(array, np.ndarray):
                array = _turn(node, word, array)
                found.append(
                    UnreadArray(f"{node.name} {word}", array.shape, lambda array=array: array)
                )
    return found


def _turn(node: OnnxNode, word: str, array: np.ndarray) -> np.ndarray:
    """Weights as layers have them: kernels (in, out) or (position, in, out), and what a product multiplies them by."""
    if node.op == "Conv" and word == "kernel":
        return array.reshape(*array.shape[:2], -1).transpose(2, 1, 0)
    if node.op != "Gemm":
        return array
    factor = node.number("alpha" if word == "kernel" else "beta", 1.0)
    array = array if factor == 1 else factor * array
    return array.T if word == "kernel" and node.count("transB", 0) else array


def _follows_kernel(translation: Translation, node: OnnxNode) -> bool:
    """Whether a sum adds the bias that the kernel before it has not itself."""
    maker = next(
        (translation.makers[name] for name in node.inputs if name in translation.makers), None
    )
    while maker is not None and maker.op in _BETWEEN:
        maker = translation.makers.get(maker.inputs[0])
    return maker is not None and maker.op in ("MatMul", "Conv") and len(maker.inputs) == 2
