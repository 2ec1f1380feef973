"""Models of Keras that symspec cannot read, damaged or hostile, are refused in words."""

import contextlib
import os
import struct
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from network_files import (
    NAMES,
    SIZES,
    WRITERS,
    chain,
    dense_config,
    functional,
    input_config,
    layer_config,
    sequential,
    write_groups,
    write_h5,
    write_keras,
    write_layers,
)
from reference_networks import N, draw, draw_layers, refuse, run_python

from symspec.errors import (
    FileFormatError,
)
from symspec.files.importers.descriptions import describe_file
from symspec.files.importers.read import import_network
from symspec.networks.network import mlp


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def layers(rng):
    return draw_layers(rng)


@pytest.fixture
def net():
    return mlp(list(SIZES), activation="tanh")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.bin"  # a name that says nothing


REFUSED = {
    "lambda": (
        layer_config("Lambda", function="import os"),
        ["(Lambda)", "Lambda layers hold code, which is never run"],
    ),
    "unknown": (
        layer_config("LSTM", units=4),
        ["(LSTM) is no layer of symspec's: build the network of symspec's layers"],
    ),
    "groups": (
        [
            layer_config("Reshape", target_shape=[7, 1]),
            layer_config("Conv1D", filters=4, kernel_size=3, groups=2),
        ],
        ["(Conv1D) cannot be built, as groups should divide the 1 channels that come in"],
    ),
    "vector": (
        layer_config("Conv1D", filters=4, kernel_size=3),
        ["takes an array (position, channel)", "Reshape"],
    ),
    "window": (
        [
            layer_config("Reshape", target_shape=[7, 1]),
            layer_config("MaxPooling1D", pool_size=8, padding="valid"),
        ],
        ["a window of 8 positions should fit in 7"],
    ),
    "padding": (
        [
            layer_config("Reshape", target_shape=[7, 1]),
            layer_config("AveragePooling1D", padding="reflect"),
        ],
        ["padding should be one of", "reflect"],
    ),
    "reshape": (
        layer_config("Reshape", target_shape=[2, 4]),
        ["(Reshape) cannot be built", "the sizes differ"],
    ),
    "permute": (layer_config("Permute", dims=[1, 3, 2]), ["puts axes into the order [1, 3, 2]"]),
    "local": (
        layer_config("LocallyConnected1D", filters=2, kernel_size=3, implementation=3),
        ["has implementation 3, padding 'valid' and data_format 'channels_last'", "use 1, 'valid'"],
    ),
    "rms": (layer_config("LayerNormalization", rms_scaling=True), ["has rms_scaling"]),
    "norm-axis": (
        layer_config("LayerNormalization", axis=2),
        ["has axis 2, where a star's array has 1 axes"],
    ),
    "multiply": (layer_config("Multiply"), ["(Multiply) multiplies by a constant: use Rescaling"]),
    "softmax": (
        layer_config("Dense", units=4, activation="softmax"),
        ["has the activation 'softmax': symspec has"],
    ),
    "constant": (layer_config("TFOpLambda", function="__operators__.add"), ["adds a constant"]),
    "operator": (layer_config("TFOpLambda", function="math.exp"), ["calls 'math.exp'"]),
    "operation": (
        layer_config("Exp") | {"module": "keras.src.ops.numpy"},
        ["(ops.Exp) is no layer of symspec's"],
    ),
    "own": (
        layer_config("Dense") | {"module": "my.module"},
        [
            "(my.module>Dense) is of a class that is not Keras's own",
            "whose code is not in the file and is never run",
        ],
    ),
    "registered": (layer_config("Dense") | {"registered_name": "mine>Dense"}, ["mine>Dense"]),
    "disguised": (
        layer_config("Add") | {"module": "ops"},
        ["(ops>Add) is of a class that is not Keras's own"],
    ),
    "activation-class": (
        layer_config("Activation", activation=layer_config("ReLU") | {"module": "mine"}),
        ["the activation 'mine>ReLU'"],
    ),
    "function": (
        layer_config("Activation", activation={"class_name": "function", "config": "evil"}),
        ["'evil'"],
    ),
    "hard-sigmoid": (
        layer_config("Activation", activation="hard_sigmoid"),
        ["'hard_sigmoid'", "symspec has linear"],
    ),
    "gelu": (layer_config("Activation", activation="gelu_tanh"), ["activation 'gelu_tanh'"]),
    "threshold": (layer_config("ReLU", threshold=1.0), ["threshold 1.0"]),
    "slope-and-max": (
        layer_config("ReLU", negative_slope=0.1, max_value=6.0),
        ["negative_slope 0.1"],
    ),
    "axis": (layer_config("Normalization", axis=[0], mean=1.0, variance=1.0), ["axis"]),
    "negative-scale": (layer_config("Rescaling", scale=-1.0, offset=0.0), ["positive scale"]),
    "no-number": (layer_config("ELU", alpha="a"), ["a number as alpha"]),
    "no-rate": (layer_config("Dropout", rate=1.5), ["rate should be at least 0 and below 1"]),
    "lengths": (
        layer_config("Rescaling", scale=[1.0, 2.0], offset=0.0),
        ["1 or 7 numbers as scale, got 2"],
    ),
    "variance": (
        layer_config("Normalization", mean=0.0, variance=-1.0),
        ["variances of at least 0"],
    ),
    "statistics": (
        layer_config("Normalization"),
        ["should have the arrays mean and variance, got fewer"],
    ),
    "infinite": (
        layer_config("LeakyReLU", negative_slope=float("inf")),
        ["a number as negative_slope, got inf"],
    ),
    "no-arrays": (dense_config("lost", 5), ["shapes [(7, 5), (5,)], got nothing"]),
    "units": (dense_config("lost", "5"), ["(Dense)"]),
}


@pytest.mark.parametrize(("layer", "words"), REFUSED.values(), ids=REFUSED)
def test_layers_that_symspec_has_not_are_refused_by_name(path, layers, layer, words):
    listed = layer if isinstance(layer, list) else [layer]
    write_h5(
        path,
        sequential(input_config(7), *listed, *chain()[1:]),
        dict(zip(NAMES, layers, strict=True)),
    )
    with pytest.raises(FileFormatError) as error:
        import_network(path)
    assert [word for word in words if word not in str(error.value)] == []


def test_models_whose_layers_hang_together_otherwise_are_refused(path, layers):
    arrays = dict(zip(NAMES, layers, strict=True))

    def refusal(change, version=3):
        model = functional(*chain(), version=version)
        change(model["config"], model["config"]["layers"])
        write_h5(path, model, arrays)
        with pytest.raises(FileFormatError) as error:
            import_network(path)
        return str(error.value)

    def node(layer):
        return layer["inbound_nodes"][0]

    twice = functional(*chain(), sources={"alpha": ["dense_2", "dense_10"]})["config"]["layers"][4]
    assert "'alpha' (Dense) takes 2 inputs" in refusal(lambda config, la: la[4].update(twice))
    assert "outputs zeta, got dense_10" in refusal(
        lambda config, la: config.update(output_layers=["zeta", 0, 0])
    )
    assert "'second' (InputLayer) takes its input from nothing" in refusal(
        lambda config, la: la.append(input_config(3, name="second"))
    )
    assert "takes its input from input" in refusal(
        lambda config, la: (la.pop(0), config.update(input_layers=[]))
    )
    assert "from its own output" in refusal(
        lambda config, la: la[1].update(inbound_nodes=la[4]["inbound_nodes"])
    )
    assert "should have inputs and outputs" in refusal(
        lambda config, la: config.update(output_layers=["gone", 0, 0])
    )
    assert "output 1 of layer" in refusal(
        lambda config, la: config.update(output_layers=["alpha", 0, 1])
    )
    assert "random at every call" in refusal(
        lambda config, la: node(la[2])["kwargs"].update(training=True)
    )
    assert "random at every call" in refusal(
        lambda config, la: node(la[2])[0][3].update(training=True), 2
    )
    write_h5(path, {"class_name": "MyModel", "config": {}}, arrays)
    with pytest.raises(
        FileFormatError, match=r"type Sequential, Functional, Model, got 'MyModel'.*give net="
    ):
        import_network(path)
    for shape in ([None], [None, None], [None, None, 1], [None, "7"], [None, 0]):
        write_h5(
            path, sequential(layer_config("InputLayer", batch_shape=shape), *chain()[1:]), arrays
        )
        with pytest.raises(
            FileFormatError,
            match=r"inputs of shape \(star, pixel\) or .* with known lengths, got \[",
        ):
            import_network(path)


def test_nothing_outside_an_hdf5_file_is_opened(path, tmp_path, layers, net):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        write_layers(file, layers)
    for link in (
        h5py.ExternalLink(str(tmp_path / "secret.h5"), "/zeta"),
        h5py.SoftLink("/dense_10"),
    ):
        with h5py.File(path, "w") as file:
            write_layers(file, layers)
            del file["zeta"]
            file["zeta"] = link
        refuse(
            path, r"'zeta'.* should be in this file, got a link to .*links are not followed", net
        )
    name = "zeta/zeta_2/kernel:0"
    with h5py.File(path, "w") as file:
        write_layers(file, layers)
        del file[name]
        (tmp_path / "secret.bin").write_bytes(bytes(4 * 35))
        file.create_dataset(
            name, (7, 5), "f4", external=[(str(tmp_path / "secret.bin"), 0, h5py.h5f.UNLIMITED)]
        )
    refuse(path, "should be in this file, got values in other files", net)
    with h5py.File(path, "w") as file:
        write_layers(file, layers)
        del file[name]
        layout = h5py.VirtualLayout((7, 5), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), name, (7, 5))
        file.create_virtual_dataset(name, layout)
    refuse(path, "should be in this file, got values in other files", net)


def test_arrays_that_claim_more_than_the_file_holds_are_refused(path, layers, net):
    name = "zeta/zeta_2/kernel:0"
    for options, words in {
        "chunked": (
            {"shape": (2**20, 2**20), "dtype": "f4", "chunks": (1024, 1024)},
            r"should fit 64 MiB, got a declared shape \(1048576, 1048576\)",
        ),
        "packed": (
            {"data": np.zeros((2**12, 2**11), "f4"), "compression": "gzip"},
            "bytes at most, got shape",
        ),
        "text": ({"data": np.array([b"a"])}, "should be an array of numbers"),
        "references": ({"shape": (3,), "dtype": h5py.ref_dtype}, "should be a plain array"),
        "whole": ({"data": np.ones((7, 5), np.int32)}, "should hold floats, got int32"),
        "nan": ({"data": np.full((7, 5), np.nan)}, "should be finite"),
    }.values():
        with h5py.File(path, "w") as file:
            write_layers(file, layers)
            del file[name]
            file.create_dataset(name, **options)
        refuse(path, words, net)


def test_words_of_an_hdf5_file_are_checked_before_they_are_read(path, layers, net):
    for value, words in {
        "number": (7, r"layer_names.* should be a text or a list of names, got shape \(\)"),
        "floats": (np.ones(3), "should be text, got float64"),
        "table": (np.ones((2, 2)), r"a text or a list of names, got shape \(2, 2\)"),
    }.values():
        with h5py.File(path, "w") as file:
            write_layers(file, layers)
            file.attrs["layer_names"] = value
        refuse(path, words, net)
    with h5py.File(path, "w") as file:
        write_layers(file, layers)
        file.attrs["layer_names"] = ["zeta", "missing"]
    refuse(path, "'missing' should be in the file, got nothing", net)


def test_a_heap_of_words_that_runs_in_a_circle_is_refused(path, layers, net):
    with h5py.File(path, "w") as file:
        write_layers(file, layers)
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    for place, value in ((heap + 8, 2**40), (heap + 8, 8), (heap + 16 + 8, 2**50)):
        broken = bytearray(content)
        struct.pack_into("<Q", broken, place, value)
        path.write_bytes(broken)
        refuse(path, "a damaged heap of strings", net)
    # free space of no size: HDF5 would never leave it
    struct.pack_into("<HHIQ", content, heap + 16, 0, 0, 0, 0)
    path.write_bytes(content)
    refuse(path, "a damaged heap of strings", net)


def test_broken_descriptions_of_keras_are_refused(path, layers):
    arrays = dict(zip(NAMES, layers, strict=True))
    for model in (
        None,
        [],
        {"class_name": "Sequential"},
        {"class_name": "Sequential", "config": {"layers": 3}},
        {"class_name": "Sequential", "config": {"layers": []}},
        {"class_name": "Sequential", "config": {"layers": [None]}},
        sequential(
            layer_config("InputLayer", batch_shape=[None, 10**15]),
            layer_config("Rescaling", scale=1, offset=0),
        ),
        sequential(input_config(7), dense_config("zeta", 10**12)),
        sequential(input_config(7), dense_config("zeta", -5)),
    ):
        write_h5(path, model, arrays)
        refuse(path, str(path))
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = "[" * 5000
    refuse(path, "damaged one")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    refuse(path, r"should hold model\.weights\.h5, got config\.json")


TINY = (draw(3, 1, 3), draw(3))


def huge(*layers):
    return sequential(
        input_config(N, 1), *layers, layer_config("Flatten", "flat"), dense_config("last", 2)
    )


CLAIMS = {
    "filters": huge(layer_config("Conv1D", "a", filters=10**9, kernel_size=3)),
    "kernel": huge(layer_config("Conv1D", "a", filters=3, kernel_size=10**12, padding="same")),
    "dilation": huge(
        layer_config("Conv1D", "a", filters=3, kernel_size=3, dilation_rate=10**15, padding="same")
    ),
    "causal": huge(layer_config("Conv1D", "a", filters=3, kernel_size=10**12, padding="causal")),
    "filters-without-end": huge(layer_config("Conv1D", "a", filters=10**40, kernel_size=3)),
    "units": huge(layer_config("Dense", "a", units=10**9)),
    "pool": huge(layer_config("MaxPooling1D", "a", pool_size=10**12, padding="same")),
    "average": huge(
        layer_config("AveragePooling1D", "a", pool_size=10**12, padding="same", strides=1)
    ),
    "zeros": huge(layer_config("ZeroPadding1D", "a", padding=[10**12, 10**12])),
    "zeros-scaled": huge(
        layer_config("ZeroPadding1D", "a", padding=[2**26, 0]),
        layer_config("Rescaling", "b", scale=2.0, offset=0.0),
    ),
    "reshape": huge(layer_config("Reshape", "a", target_shape=[10**15, -1])),
    "reshape-nothing": huge(layer_config("Reshape", "a", target_shape=[0, -1])),
    "crop": huge(layer_config("Cropping1D", "a", cropping=[10**12, -(10**13)])),
    "norm": huge(
        layer_config("ZeroPadding1D", "a", padding=10**8),
        layer_config("LayerNormalization", "b", axis=[1, 2]),
    ),
    "batch": huge(
        layer_config("ZeroPadding1D", "a", padding=10**8),
        layer_config("BatchNormalization", "b", axis=1),
    ),
    "input": sequential(
        input_config(10**12, 10**12), layer_config("Flatten", "flat"), dense_config("last", 2)
    ),
    "scaled-input": sequential(
        input_config(2**26), layer_config("Rescaling", scale=2.0, offset=0.0)
    ),
    "doubled": huge(
        *(layer_config("ZeroPadding1D", f"z{i}", padding=[0, 2**24]) for i in range(20))
    ),
}


@pytest.mark.parametrize("model", CLAIMS.values(), ids=CLAIMS)
@WRITERS
def test_layers_that_claim_to_be_huge_are_refused_before_anything_is_made(path, write, model):
    names = {layer["config"]["name"] for layer in model["config"]["layers"]}
    arrays = {"a": TINY, "last": (draw(36, 2), draw(2))}
    write(path, model, {name: own for name, own in arrays.items() if name in names})
    refuse(path, str(path))
    begin = time.process_time()
    with contextlib.suppress(FileFormatError):
        describe_file(path)
    assert time.process_time() - begin < 5


def test_hundreds_of_models_inside_each_other_are_read_or_refused_soon(path):
    model = sequential(input_config(3), dense_config("last", 2))
    for i in range(300):
        model = sequential(
            input_config(3), model | {"config": {**model["config"], "name": f"m{i}"}}
        )
    arrays = {"m299": (draw(3, 2), draw(2))}
    write_h5(path, model, arrays)
    begin = time.process_time()
    with contextlib.suppress(FileFormatError):
        import_network(path)
    assert time.process_time() - begin < 5


def test_layers_that_refer_to_many_others_take_no_time(path):
    names = [f"n{i}" for i in range(2000)]
    layers = [layer_config("Add", name) for name in names]
    sources = {
        name: ["input"] * 2 if i == 0 else [names[i - 1]] * 2 for i, name in enumerate(names)
    }
    model = functional(input_config(3), *layers, sources=sources)  # 2^2000 paths
    write_h5(path, model, {"gone": ()})
    begin = time.process_time()
    net, theta = import_network(path)
    assert theta.size == 0
    assert len(net.layers) == 2001
    assert time.process_time() - begin < 5


def test_groups_that_hold_themselves_end(path):
    with h5py.File(path, "w") as file:
        write_groups(file, sequential(dense_config("a", 2)), {"a": (draw(3, 2), draw(2))})
        for i in range(6):
            file["layers"][f"loop_{i}"] = file["layers"]
    refuse(
        path, r"expected dense_0/kernel \(3, 4\), found layers/dense/vars/0 \(3, 2\)", mlp([3, 4])
    )
    import_network(path, net=mlp([3, 2]))


def test_names_of_a_zip_file_that_lead_elsewhere_write_nothing(path, tmp_path):
    write_keras(
        path, sequential(input_config(3), dense_config("a", 2)), {"a": (draw(3, 2), draw(2))}
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../evil.txt", "evil")
        archive.writestr("/tmp/evil_of_symspec.txt", "evil")
    before = sorted(os.listdir(tmp_path.parent))
    import_network(path)
    assert sorted(os.listdir(tmp_path.parent)) == before
    assert not Path("/tmp/evil_of_symspec.txt").exists()


def test_ten_megabytes_of_description_take_little_time_and_memory(path):
    """Asked of a process of its own, whose memory can be limited."""
    layers = [layer_config("ReLU", f"relu_{i}") for i in range(20_000)]
    write_h5(
        path,
        sequential(input_config(3), *layers, dense_config("last", 2)),
        {"last": (draw(3, 2), draw(2))},
    )
    program = """
import sys, time
from symspec.files.importers import import_network
begin = time.process_time()
net, theta = import_network(sys.argv[1])
assert time.process_time() - begin < 5, time.process_time() - begin
# ru_maxrss would be that of the process that started this one
most = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))
assert int(most.split()[1]) < 2**20, most
print(len(net.layers))
"""
    assert run_python(program, path) == ["20001"]
