"""Files of Keras, PyTorch, safetensors and The Payne, written without these programs."""

import io
import itertools
import json
import re
import struct
import zipfile

import h5py
import numpy as np
import pytest

# neither alphabetical nor numbered in the order of the layers
NAMES = ("zeta", "dense_10", "dense_2", "alpha")
# equal shapes in the middle: an order by name or by shape alone would not do
SIZES = (7, 5, 5, 5, 2)
KINDS = ("kernel", "bias", "moving_mean", "moving_variance", "fifth", "sixth", "seventh", "eighth")


def write_layers(group, layers, names=NAMES, suffix=":0", inner="{0}_2"):
    """Layout of Keras's `.h5`: attributes name layers and weights in the order of the network."""
    group.attrs["layer_names"] = ["input_1", *names]
    group.create_group("input_1").attrs["weight_names"] = np.zeros(0)
    for name, arrays in zip(names, layers, strict=True):
        words = [f"{inner.format(name)}/{kind}{suffix}" for kind in KINDS[: len(arrays)]]
        group.create_group(name).attrs["weight_names"] = words
        for word, array in zip(words, arrays, strict=True):
            group[name][word] = array


def write_vars(file, layers, stem="dense", container="layers", names=None):
    """Layout of Keras 3: groups by class and number."""
    for i, arrays in enumerate(layers):
        group = file.create_group(
            f"{container}/{stem}_{i}/vars" if i else f"{container}/{stem}/vars"
        )
        if names:
            group.attrs["name"] = names[i]
        for key, array in enumerate(arrays):
            group[str(key)] = array


def layer_config(class_name, name="a_layer", **config):
    return {"module": "keras.layers", "class_name": class_name, "config": {"name": name} | config}


def dense_config(name, units, activation="linear", use_bias=True):
    return layer_config("Dense", name, units=units, activation=activation, use_bias=use_bias)


def input_config(*shape, name="input"):
    return layer_config("InputLayer", name, batch_shape=[None, *shape])


def sequential(*layers):
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "sequential", "layers": list(layers)},
    }


def functional(*layers, version=3, sources=None, outputs=None):
    """Layers whose inputs are those of `sources`, by default the layer before each."""
    sources, listed, inputs = sources or {}, [], []
    for before, layer in zip((None, *layers), layers, strict=False):
        name = layer["config"]["name"]
        if layer["class_name"] == "InputLayer":
            inputs.append([name, 0, 0])
            nodes = []
        else:
            histories = [
                [source, 0, 0]
                for source in sources.get(name, [before and before["config"]["name"]])
            ]
            nodes = (
                [call_of_keras_3(histories)]
                if version == 3
                else [[[*history, {}] for history in histories]]
            )
        listed.append(layer | {"name": name, "inbound_nodes": nodes})
    ends = [[name, 0, 0] for name in outputs or [listed[-1]["name"]]]
    config = {"name": "functional", "layers": listed, "input_layers": inputs}
    config["output_layers"] = ends[0] if version == 3 and len(ends) == 1 else ends
    return {"class_name": "Functional", "config": config}


def call_of_keras_3(histories):
    tensors = [
        {"class_name": "__keras_tensor__", "config": {"shape": [None, 1], "keras_history": history}}
        for history in histories
    ]
    return {"args": tensors if len(tensors) == 1 else [tensors], "kwargs": {}}


def write_h5(path, model, arrays):
    """Whole model as `.h5`; `arrays` of each layer by name."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(model)
        file.attrs["keras_version"] = "2.11.0"
        write_layers(file.create_group("model_weights"), arrays.values(), tuple(arrays))


def write_keras(path, model, arrays):
    """Whole model as `.keras`: groups by class and number, in the order of `arrays`."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        write_groups(file, model, arrays)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.8.0"}))
        archive.writestr("config.json", json.dumps(model))
        archive.writestr("model.weights.h5", content.getvalue())


def write_groups(file, model, arrays):
    """Layout of Keras 3; layers of models inside the model are named "inner/layer"."""
    stems, groups, counts = find_stems(model), {"": ""}, {}
    for place, own in arrays.items():
        outer, _, name = place.rpartition("/")
        if outer not in groups:
            groups[outer] = f"layers/{stems[outer]}/"
        stem = f"{groups[outer]}layers/{stems[place]}"
        n = counts[stem] = counts.get(stem, -1) + 1
        group = file.create_group(f"{stem}_{n}/vars" if n else f"{stem}/vars")
        group.attrs["name"] = name
        for key, array in enumerate(own):
            group[str(key)] = array


def find_stems(model, outer=""):
    """Names of Keras 3's groups by the places of the layers."""
    stems = {}
    for layer in model["config"]["layers"]:
        place = f"{outer}{layer['config']['name']}"
        stems[place] = re.sub("(?<=[a-z])(?=[A-Z])", "_", layer["class_name"]).lower()
        if "layers" in layer["config"]:
            stems |= find_stems(layer, f"{place}/")
    return stems


def tensor(array, key, kind="FloatStorage", size=None, offset=0, strides=None):
    """Pickle of one tensor as torch.save writes it (protocol 2, without the memo)."""
    shape = array.shape
    if strides is None:
        strides = tuple(step // array.itemsize for step in np.asarray(array, order="C").strides)
    storage = (
        b"(" + word("storage") + b"ctorch\n" + kind.encode() + b"\n" + word(str(key)) + word("cpu")
    )
    storage += number(array.size if size is None else size) + b"tQ"
    view = number(offset) + numbers(shape) + numbers(strides)
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + hooks + b"tR"


def word(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def number(value):
    return (
        b"J" + struct.pack("<i", value) if value < 2**31 else b"\x8a\x08" + struct.pack("<q", value)
    )


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def state_dict(items, metadata=True):
    content = (
        b"\x80\x02ccollections\nOrderedDict\n)R("
        + b"".join(word(k) + v for k, v in items.items())
        + b"u"
    )
    return content + (b"}" + word("_metadata") + b"}sb" if metadata else b"") + b"."


def write_torch(path, content, storages, byteorder=b"little", **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("model/data.pkl", content)
        archive.writestr("model/byteorder", byteorder)
        for key, numbers_ in storages.items():
            archive.writestr(f"model/data/{key}", numbers_)
        archive.writestr("model/version", b"3\n")


def torch_arrays(layers, names=None):
    names = names or [str(2 * i) for i in range(len(layers))]
    return {
        f"{name}.{kind}": np.ascontiguousarray(array)
        for name, (kernel, bias) in zip(names, layers, strict=True)
        for kind, array in (("weight", kernel.T), ("bias", bias))
    }


SAFE = {np.dtype("f4"): "F32", np.dtype("f8"): "F64", np.dtype("f2"): "F16"}


def write_safetensors(path, arrays, metadata=True):
    """Tensors sorted by name, as the format's own writer does; values may be (type, array)."""
    header, data = ({"__metadata__": {"format": "pt"}} if metadata else {}), b""
    for name, array in sorted(arrays.items()):
        kind, array = array if isinstance(array, tuple) else (SAFE[array.dtype], array)
        span = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": span}
        data += array.tobytes()
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)
    path.write_bytes(struct.pack("<Q", len(words)) + words + data)


WRITERS = pytest.mark.parametrize("write", [write_h5, write_keras], ids=["h5", "keras"])


def chain(names=NAMES, activation="tanh"):
    """Layers of a network of dense ones; the last one is linear."""
    last = len(names) - 1
    dense = [
        dense_config(name, SIZES[i + 1], "linear" if i == last else activation)
        for i, name in enumerate(names)
    ]
    return [input_config(SIZES[0]), *dense]


def inner_model(kind, version=3):
    """Model to put inside another, whose first layer is not trained."""
    layers = [
        dense_config("dense", 4),
        layer_config("BatchNormalization", "norm"),
        layer_config("ReLU", "act"),
    ]
    frozen = {**layers[0], "config": {**layers[0]["config"], "trainable": False, "name": "held"}}
    layers = [input_config(6, name="inner_input"), frozen, *layers]
    model = sequential(*layers) if kind == "sequential" else functional(*layers, version=version)
    return model | {"config": {**model["config"], "name": "inner"}}


def write_pt(path, state):
    """State_dict of arrays as torch.save writes it, each with a storage of its own."""
    kinds = {"f": "FloatStorage", "i": "LongStorage"}
    items = {
        name: tensor(array, i, kinds[array.dtype.kind])
        for i, (name, array) in enumerate(state.items())
    }
    write_torch(
        path, state_dict(items), {i: array.tobytes() for i, array in enumerate(state.values())}
    )


def write_safe(path, state):
    """The same state_dict in a file of safetensors."""
    write_safetensors(
        path, {name: ("I64", a) if a.dtype.kind == "i" else a for name, a in state.items()}
    )


def payne_arrays(rng, sizes=(3, 6, 5, 8)):
    arrays = {"x_min": np.array([4000.0, 0.0, -2.0]), "x_max": np.array([7000.0, 5.0, 0.5])}
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        arrays[f"w_array_{i}"] = rng.normal(size=(n_out, n_in)).astype(np.float32)
        arrays[f"b_array_{i}"] = rng.normal(size=n_out).astype(np.float32)
    return arrays
