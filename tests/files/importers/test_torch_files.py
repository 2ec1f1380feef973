"""State dicts of PyTorch fill the layers that are given; nothing in a pickle is run."""

import os
import pickle
import zipfile

import numpy as np
import pytest
from network_files import (
    SIZES,
    numbers,
    state_dict,
    tensor,
    torch_arrays,
    word,
    write_pt,
    write_safe,
    write_safetensors,
    write_torch,
)
from reference_networks import (
    N,
    assert_predicts,
    convolve,
    draw,
    draw_layers,
    forward,
    refuse,
    torch_forward,
    torch_net,
    torch_state,
    turn,
)

from symspec.errors import DataError, FileFormatError, OptionError
from symspec.files.importers.read import import_network
from symspec.networks.convolutions import Conv1D, GlobalAveragePool1D
from symspec.networks.layers import Activation, Dense, PReLU
from symspec.networks.network import Network, mlp
from symspec.networks.shaping import Flatten, Permute, Reshape


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def layers(rng):
    return draw_layers(rng)


@pytest.fixture
def x(rng):
    return rng.normal(size=(6, SIZES[0]))


@pytest.fixture
def net():
    return mlp(list(SIZES), activation="tanh")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.bin"  # a name that says nothing


TYPES = {
    "float": ("FloatStorage", "<f4"),
    "double": ("DoubleStorage", "<f8"),
    "half": ("HalfStorage", "<f2"),
    "big-endian": ("FloatStorage", ">f4"),
}


@pytest.mark.parametrize(("kind", "dtype"), TYPES.values(), ids=TYPES)
def test_a_state_dict_of_pytorch_fills_the_layers_that_are_given(rng, path, net, x, kind, dtype):
    layers = [tuple(a.astype(dtype) for a in pair) for pair in draw_layers(rng)]
    arrays = torch_arrays(layers, ("zeta", "10", "2", "alpha"))  # the order of the file counts
    items = {name: tensor(array, i, kind) for i, (name, array) in enumerate(arrays.items())}
    storages = {i: array.tobytes() for i, array in enumerate(arrays.values())}
    write_torch(path, state_dict(items), storages, b"big" if dtype[0] == ">" else b"little")
    y = forward(layers, x)
    assert_predicts(import_network(path, net=net, check=(x, y)), x, y)


def test_numbers_of_bfloat16_are_widened(rng, path, net):
    layers = draw_layers(rng)
    bits = {
        name: (a.view(np.uint32) >> 16).astype("<u2") for name, a in torch_arrays(layers).items()
    }
    items = {
        name: tensor(array, i, "BFloat16Storage") for i, (name, array) in enumerate(bits.items())
    }
    write_torch(
        path, state_dict(items), {i: array.tobytes() for i, array in enumerate(bits.values())}
    )
    theta = import_network(path, net=net)[1]
    exact = np.concatenate([array.ravel() for pair in layers for array in pair])
    # bfloat16 has 7 bits after the first, and the others are cut off
    np.testing.assert_allclose(theta, exact, rtol=2**-7)
    assert np.abs(theta - exact).max() > 0
    write_safetensors(path, {name: ("BF16", array) for name, array in bits.items()})
    np.testing.assert_array_equal(import_network(path, net=net)[1], theta)


def test_strides_and_offsets_of_tensors_are_followed(rng, path):
    """All tensors in one storage, with kernels turned, a row used twice and unused numbers."""
    storage = rng.normal(size=100).astype(np.float32)
    items = {
        "0.weight": tensor(np.empty((4, 7)), 0, size=100, offset=3, strides=(1, 4)),
        "0.bias": tensor(np.empty(4), 0, size=100, offset=40, strides=(2,)),
        "2.weight": tensor(np.empty((2, 4)), 0, size=100, offset=96, strides=(0, 1)),
        "2.bias": tensor(np.empty(2), 0, size=100, offset=50, strides=(9,)),
    }
    write_torch(path, state_dict(items), {0: storage.tobytes()})
    net = mlp([7, 4, 2])
    blocks = net.unpack(import_network(path, net=net)[1])
    np.testing.assert_array_equal(blocks["dense_0/kernel"], storage[3:31].reshape(7, 4))
    np.testing.assert_array_equal(blocks["dense_0/bias"], storage[40:48:2])
    np.testing.assert_array_equal(blocks["dense_1/kernel"], np.stack([storage[96:100]] * 2).T)
    np.testing.assert_array_equal(blocks["dense_1/bias"], storage[[50, 59]])


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_checkpoint_has_its_state_dict_inside(path, layers, net, x, key):
    arrays = torch_arrays(layers)
    items = {name: tensor(array, i) for i, (name, array) in enumerate(arrays.items())}
    inner = state_dict(items)[2:-1]
    content = (
        b"\x80\x02}("
        + word("epoch")
        + b"K\x03"
        + word(key)
        + inner
        + word("loss")
        + b"G"
        + bytes(8)
        + b"u."
    )
    write_torch(path, content, {i: array.tobytes() for i, array in enumerate(arrays.values())})
    assert_predicts(import_network(path, net=net), x, forward(layers, x))


def test_newer_protocols_of_pickle_are_read(path, layers, net, x):
    """Words with a length of one byte, names on the stack, references to what came before."""
    arrays = torch_arrays(layers)
    items = {name: tensor(array, i) for i, (name, array) in enumerate(arrays.items())}
    content = state_dict(items).replace(b"\x80\x02", b"\x80\x04\x95" + bytes(8))
    named = b"\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94"
    content = content.replace(b"ccollections\nOrderedDict\n", named, 1).replace(
        b"ccollections\nOrderedDict\n", b"h\x02"
    )
    write_torch(path, content, {i: array.tobytes() for i, array in enumerate(arrays.values())})
    assert_predicts(import_network(path, net=net), x, forward(layers, x))


def test_kernels_that_are_not_turned_are_explained(path, layers, net):
    arrays = {name: array.T.copy() for name, array in torch_arrays(layers).items()}
    write_pt(path, arrays)
    with pytest.raises(FileFormatError, match=r"\(out, in\), got 8: .*the other way round"):
        import_network(path, net=net)
    with pytest.raises(OptionError, match=r"net should be given for .* 0\.weight \(7, 5\)"):
        import_network(path)


TORCH = pytest.mark.parametrize("write", [write_pt, write_safe], ids=["pt", "safetensors"])


@TORCH
def test_convolutions_and_normalizations_of_pytorch_fill_the_layers_given(rng, path, write):
    state, x = torch_state(), rng.normal(size=(3, N))
    write(path, state)
    y = torch_forward(state, x)
    net, theta = import_network(path, net=torch_net(), check=(x, y))
    assert_predicts((net, theta), x, y)
    np.testing.assert_array_equal(net.layers[2].variance, state["features.1.running_var"])
    again, weights = import_network(path, net=torch_net())
    np.testing.assert_array_equal(weights, theta)
    assert_predicts((again, weights), x, y)


def test_modules_made_in_another_order_are_told_by_their_shapes(rng, path):
    state, x = torch_state(), rng.normal(size=(3, N))
    last = [name for name in state if name.startswith("last")]
    write_pt(
        path, {name: state[name] for name in [*last, *(name for name in state if name not in last)]}
    )
    assert_predicts(import_network(path, net=torch_net()), x, torch_forward(state, x))


@TORCH
def test_layers_with_positions_first_are_refused_for_pytorch_unless_proved(rng, path, write):
    state = {
        "0.weight": draw(3, 1, 3),
        "0.bias": draw(3),
        "3.weight": draw(2, 30),
        "3.bias": draw(2),
    }
    x = rng.normal(size=(3, N))
    write(path, state)
    last_first = Network(
        [Reshape((N, 1)), Conv1D(3, 3), Activation("relu"), Flatten(), Dense(2)], N
    )
    words = (
        r"net should make vectors of \(channel, position\) as PyTorch does, got flatten_0 of \(10,"
        r" 3\).*channels_first"
    )
    with pytest.raises(OptionError, match=words):
        import_network(path, net=last_first)
    h = np.maximum(convolve(x[..., None], state["0.weight"].transpose(2, 1, 0), state["0.bias"]), 0)
    theirs, permuted = (
        a.reshape(3, -1) @ state["3.weight"].T.astype(float) + state["3.bias"] for a in (turn(h), h)
    )
    with pytest.raises(DataError, match="largest difference"):
        import_network(path, net=last_first, check=(x, theirs))
    assert_predicts(import_network(path, net=last_first, check=(x, permuted)), x, permuted)
    turned = Network(
        [Reshape((N, 1)), Conv1D(3, 3), Activation("relu"), Permute(), Flatten(), Dense(2)], N
    )
    assert_predicts(import_network(path, net=turned), x, theirs)
    pooled = Network([Reshape((N, 1)), Conv1D(3, 3), GlobalAveragePool1D(), Dense(2)], N)
    write(path, state | {"3.weight": draw(2, 3)})
    import_network(path, net=pooled)  # no vector is made of positions and channels


class Planted:
    """A call that Python's own reader of pickles would make."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_planted_call_is_refused_by_its_name_and_not_made(path, tmp_path, net, protocol):
    marker = tmp_path / "executed"
    content = pickle.dumps({"0.weight": Planted(marker)}, protocol)
    write_torch(path, content, {})
    refuse(path, "the (name|step)", net)
    assert not marker.exists()
    pickle.loads(content)
    assert marker.exists()  # so that it would have been


PICKLES = {
    "class": (
        b"\x80\x02c__main__\nNet\n)R.",
        "the name __main__.Net, which is not run.*save .*state_dict",
    ),
    "builtin": (b"\x80\x02c__builtin__\neval\n(" + word("1") + b"tR.", "the name __builtin__.eval"),
    "attribute": (
        b"\x80\x04" + b"\x8c\x02os" + b"\x8c\x06system" + b"\x93.",
        r"the name os\.system",
    ),
    "hidden-torch": (b"\x80\x02ctorch\nload\n.", r"the name torch\.load"),
    "dotted": (b"\x80\x04\x8c\x0ccollections.\x8c\x03abc\x93.", "the name"),
    "instance": (b"(ios\nsystem\n.", "the step INST"),
    "newobj": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "the step NEWOBJ"),
    "extension": (b"\x80\x02\x82\x01.", "the step EXT1"),
    "call-of-a-word": (b"\x80\x02" + word("a") + b")R.", "a call of what is no function"),
    "dict-with-items": (
        b"\x80\x02ccollections\nOrderedDict\n(]tR.",
        "a call of collections.OrderedDict with 1",
    ),
    "empty-stack": (b"\x80\x02R.", "a step without its operand"),
    "no-mark": (b"\x80\x02}u.", "a step without its operands"),
    "memo": (b"\x80\x02h\x05.", "a reference to nothing"),
    "no-end": (b"\x80\x02}", "damaged one"),
    "path": (
        state_dict({"a": tensor(np.ones(1, "f4"), "../../etc/passwd")}),
        "a storage with the key '../../etc",
    ),
    "list": (
        b"\x80\x02].",
        "should be a dict of tensors, or have one under state_dict.*, got list",
    ),
    "numbers": (b"\x80\x02}" + word("a") + b"K\x01s.", "got a: save"),
    "tuple-key": (b"\x80\x02}(K\x01tK\x01s.", "a key of type tuple"),
    "long-memo": (b"\x80\x02}r\xff\xff\xff\x7f.", "should be a dict of tensors"),
    "huge-word": (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged one"),
    "beyond": (
        state_dict({"0.weight": tensor(np.ones((4, 7), "f4"), 0, size=27)}),
        "reaches beyond its storage of 27",
    ),
    "offset": (
        state_dict({"a": tensor(np.ones(4, "f4"), 0, offset=1)}),
        "reaches beyond its storage of 4",
    ),
    "strides": (
        state_dict({"a": tensor(np.ones(4, "f4"), 0, strides=(2,))}),
        "reaches beyond its storage of 4",
    ),
    "negative": (
        state_dict({"a": tensor(np.ones(4, "f4"), 0, offset=-1)}),
        "a tensor without a storage",
    ),
    "negative-stride": (
        state_dict({"a": tensor(np.ones(4, "f4"), 0, strides=(-1,))}),
        "a tensor without a storage",
    ),
    "nested-names": (
        b"\x80\x04)"
        + b"\x94h\x00h\x00\x86" * 1
        + b"".join(b"\x94h%ch%c\x86" % (i, i) for i in range(1, 60))
        + b"K\x01\x93.",
        "a name that is no string",
    ),
}


@pytest.mark.parametrize(("content", "words"), PICKLES.values(), ids=PICKLES)
def test_pickles_of_anything_but_tensors_are_refused(path, net, content, words):
    write_torch(path, content, {})
    refuse(path, words, net)


def test_storages_must_be_as_large_as_they_claim(path):
    net = mlp([7, 2])
    arrays = {"0.weight": np.ones((2, 7), "f4"), "0.bias": np.ones(2, "f4")}
    items = {name: tensor(array, i) for i, (name, array) in enumerate(arrays.items())}
    storages = {i: array.tobytes() for i, array in enumerate(arrays.values())}
    write_torch(path, state_dict(items), storages | {0: bytes(52)})
    refuse(path, r"data/0 should hold 14 numbers of 4 bytes, got 52 bytes", net)
    write_torch(path, state_dict(items), {0: storages[0]})
    refuse(path, r"data/1 should hold 2 numbers of 4 bytes, got nothing", net)
    write_torch(path, state_dict(items), storages, byteorder=b"middle")
    refuse(path, "byteorder should be little or big", net)
    write_torch(
        path,
        state_dict(items | {"0.weight": tensor(arrays["0.weight"], 0, "IntStorage")}),
        storages,
    )
    refuse(path, "should hold floats, got int32", net)
    write_torch(path, state_dict(items), storages | {1: np.array([1, np.nan], "f4").tobytes()})
    refuse(path, r"0\.bias should be finite", net)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/constants.pkl", b"")
    refuse(path, "TorchScript, which holds code", net)


def test_a_shape_that_repeats_one_number_takes_no_memory_of_its_size(path, net):
    huge = tensor(np.empty(1, "f4"), 0, size=1, strides=(0,)).replace(
        numbers((1,)), numbers((2**40,)), 1
    )
    write_torch(path, state_dict({"0.weight": huge}), {0: bytes(4)})
    refuse(path, r"expected dense_0/kernel \(5, 7\), found 0\.weight \(1099511627776,\)", net)


def test_groups_and_slopes_of_pytorch(rng, path):
    """A depthwise convolution and a PReLU, whose slopes PyTorch keeps as a vector."""
    kernel, bias, slopes, last = draw(4, 1, 3), draw(4), draw(4), draw(2, 4 * (N - 2))
    state = {"0.weight": kernel, "0.bias": bias, "1.weight": slopes, "3.weight": last}
    write_pt(path, state)
    first = {"data_format": "channels_first"}
    layers = [Reshape((2, N)), Conv1D(4, 3, groups=2, **first), PReLU((4, 1)), Flatten()]
    net = Network([*layers, Dense(2, use_bias=False)], 2 * N)
    x = rng.normal(size=(3, 2, N))
    parts = [
        convolve(x[:, c : c + 1].transpose(0, 2, 1), kernel[2 * c : 2 * c + 2].T) for c in (0, 1)
    ]
    z = (np.concatenate(parts, axis=2) + bias).transpose(0, 2, 1)
    y = np.where(z > 0, z, slopes.astype(float)[:, None] * z).reshape(3, -1)
    assert_predicts(import_network(path, net=net), x.reshape(3, -1), y @ last.T.astype(float))
