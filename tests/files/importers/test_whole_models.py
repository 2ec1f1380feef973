"""Good files of each format are read without other programs; truncated ones are refused."""

import os
import time

import numpy as np
import pytest
from network_files import (
    NAMES,
    SIZES,
    chain,
    dense_config,
    functional,
    input_config,
    layer_config,
    payne_arrays,
    sequential,
    torch_arrays,
    write_h5,
    write_keras,
    write_pt,
    write_safe,
    write_safetensors,
)
from reference_networks import (
    SECONDS,
    N,
    convolutional_arrays,
    draw_layers,
    run_python,
    torch_net,
    torch_state,
)

from symspec.errors import FileFormatError, OptionError
from symspec.files.importers.descriptions import describe_file
from symspec.files.importers.read import import_network
from symspec.networks.network import mlp


@pytest.fixture
def net():
    return mlp(list(SIZES), activation="tanh")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.bin"  # a name that says nothing


@pytest.fixture(scope="module")
def dense_files(tmp_path_factory):
    """One good file of each format, with the layers to give."""
    folder, rng = tmp_path_factory.mktemp("whole"), np.random.default_rng(5)
    layers = draw_layers(rng)
    arrays, named = torch_arrays(layers), dict(zip(NAMES, layers, strict=True))
    np.savez(folder / "payne", **payne_arrays(rng))
    write_h5(folder / "h5", sequential(*chain()), named)
    write_keras(folder / "keras", functional(*chain()), named)
    write_pt(folder / "torch", arrays)
    write_safetensors(folder / "safetensors", arrays)
    return {
        name: (folder / name).read_bytes() for name in ("h5", "keras", "torch", "safetensors")
    } | {"payne": (folder / "payne.npz").read_bytes()}


def options_of(kind, net):
    return {
        "payne": {"activation": "sigmoid"},
        "torch": {"net": net},
        "safetensors": {"net": net},
    }.get(kind, {})


FORMATS = pytest.mark.parametrize("kind", ["payne", "h5", "keras", "torch", "safetensors"])


@FORMATS
def test_a_truncated_file_is_refused(path, dense_files, net, kind):
    content = dense_files[kind]
    path.write_bytes(content)
    import_network(path, **options_of(kind, net))
    for length in np.linspace(0, len(content) - 1, 40).astype(int):
        path.write_bytes(content[:length])
        with pytest.raises(FileFormatError):
            import_network(path, **options_of(kind, net))


@FORMATS
def test_a_file_with_flipped_bits_is_read_or_refused(path, dense_files, net, kind):
    """Formats without checksums let some flips pass; none may do anything else."""
    rng, content = np.random.default_rng(17), np.frombuffer(dense_files[kind], np.uint8)
    used, n_refused = np.flatnonzero(content), 0
    for _ in range(200):
        broken = content.copy()
        broken[rng.choice(used, 2)] ^= (1 << rng.integers(0, 8, 2)).astype(np.uint8)
        path.write_bytes(broken.tobytes())
        begin = time.process_time()
        try:
            import_network(path, **options_of(kind, net))
        except (FileFormatError, OptionError):  # without a description, layers are asked for
            n_refused += 1
        assert time.process_time() - begin < SECONDS
    assert n_refused > 0


def test_nothing_is_written_and_nothing_foreign_is_imported(path, dense_files, net):
    """Asked of a fresh interpreter."""
    folder = path.parent
    for kind, content in dense_files.items():
        (folder / kind).write_bytes(content)
    program = f"""
import sys
from symspec import mlp
from symspec.files.importers import import_network
net = mlp({list(SIZES)})
import_network('payne', activation='sigmoid')
import_network('h5')
import_network('keras')
import_network('torch', net=net)
import_network('safetensors', net=net)
print([m for m in ('torch', 'keras', 'tensorflow', 'safetensors') if m in sys.modules])
"""
    names = sorted(os.listdir(folder))
    assert run_python(program, cwd=folder) == ["[]"]
    assert sorted(os.listdir(folder)) == names


@pytest.fixture(scope="module")
def convolutional_files(tmp_path_factory):
    """One good file of each format, of convolutions and branches."""
    folder, arrays = tmp_path_factory.mktemp("whole"), convolutional_arrays()
    model = functional(
        input_config(N, 1),
        layer_config("Conv1D", "one", filters=3, kernel_size=3, padding="same"),
        layer_config("BatchNormalization", "norm"),
        layer_config("ReLU", "act"),
        layer_config("Conv1D", "two", filters=3, kernel_size=3, padding="same"),
        layer_config("Add", "join"),
        layer_config("Flatten", "flat"),
        dense_config("last", 2),
        sources={"join": ["norm", "two"]},
    )
    write_h5(folder / "h5", model, arrays)
    write_keras(folder / "keras", model, arrays)
    write_pt(folder / "pt", torch_state())
    write_safe(folder / "safetensors", torch_state())
    return {name: (folder / name).read_bytes() for name in ("h5", "keras", "pt", "safetensors")}


@pytest.mark.parametrize("kind", ["h5", "keras", "pt", "safetensors"])
def test_files_cut_or_with_flipped_bits_are_read_or_refused(path, convolutional_files, kind):
    """Formats without checksums let some flips pass; none may do anything else."""
    rng, content = np.random.default_rng(23), np.frombuffer(convolutional_files[kind], np.uint8)
    net = torch_net() if kind in ("pt", "safetensors") else None
    path.write_bytes(convolutional_files[kind])
    import_network(path, net=net)
    broken = [content[:length] for length in rng.integers(0, len(content), 50)]
    for place in rng.choice(np.flatnonzero(content), 150):
        broken.append(content.copy())
        broken[-1][place] ^= np.uint8(1 << rng.integers(0, 8))
    n_refused = 0
    for one in broken:
        path.write_bytes(one.tobytes())
        begin = time.process_time()
        for call in (lambda: import_network(path, net=net), lambda: describe_file(path)):
            try:
                call()
            except (FileFormatError, OptionError):  # without a description, layers are asked for
                n_refused += 1
        assert time.process_time() - begin < 5
    assert n_refused >= 60
