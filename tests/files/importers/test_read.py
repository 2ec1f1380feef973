"""One entry reads all formats by their content, and proves what it read by a sample."""

import struct
import zipfile

import h5py
import numpy as np
import pytest
from network_files import (
    NAMES,
    SIZES,
    chain,
    payne_arrays,
    sequential,
    torch_arrays,
    write_h5,
    write_keras,
    write_pt,
    write_safetensors,
)
from reference_networks import assert_predicts, draw_layers, forward, refuse

from symspec.errors import DataError, FileFormatError, OptionError, ShapeError
from symspec.files.archives import write_network
from symspec.files.importers.read import import_network, read_network
from symspec.networks.network import mlp


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


def test_the_content_decides_what_a_file_is_and_not_its_name(tmp_path, layers, net, x):
    write_h5(tmp_path / "model.pt", sequential(*chain()), dict(zip(NAMES, layers, strict=True)))
    write_keras(tmp_path / "model.npz", sequential(*chain()), dict(zip(NAMES, layers, strict=True)))
    write_safetensors(tmp_path / "model.h5", torch_arrays(layers))
    write_pt(tmp_path / "model.keras", torch_arrays(layers))
    for name in ("model.pt", "model.npz", "model.h5", "model.keras"):
        assert_predicts(import_network(tmp_path / name, net=net), x, forward(layers, x))


def test_what_is_no_network_is_said_so(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="got nothing there"):
        import_network(path)
    with pytest.raises(FileFormatError, match=r"got a directory: of a TensorFlow SavedModel"):
        import_network(tmp_path)
    for content, words in {
        b"": "starts with b''",
        b"name,flux\n1,2\n": "of another format",
        b"\x80\x02}q\x00.": "a bare pickle, which is never opened",
        b"\x08\x07\x12\x00ONNX": "should be an ONNX model, got .* it is damaged",
    }.items():
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=words):
            import_network(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(FileFormatError, match=r"got a zip file of a\.txt"):
        import_network(path)
    with h5py.File(path, "w") as file:
        file["flux"] = np.ones(3)
    with pytest.raises(
        FileFormatError,
        match=r"with arrays of layers, got one with flux: read files of symspec's own",
    ):
        import_network(path, net=mlp([3, 1]))


def test_a_sample_of_another_network_is_told_apart(path, layers, net, x):
    write_safetensors(path, torch_arrays(layers))
    y = forward(layers, x)
    for wrong in (y * 1.0001, y[::-1], y[:, ::-1], np.full_like(y, np.nan)):
        with pytest.raises(DataError, match="largest difference"):
            import_network(path, net=net, check=(x, wrong))
    with pytest.raises(DataError, match="largest difference"):
        import_network(path, net=mlp(list(SIZES), activation="softplus"), check=(x, y))
    with pytest.raises(
        ShapeError, match=r"check should be input \(star, 7\) and output \(star, 2\)"
    ):
        import_network(path, net=net, check=(x, y[:-1]))
    import_network(path, net=net, check=(x.astype(np.float32), y.astype(np.float32)))
    import_network(path, net=net, check=(x[0], y[0]))


def bomb(path, member, n_bytes, **members):
    """A zip file with a member that unpacks to this number of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        with archive.open(member, "w", force_zip64=True) as stream:
            for _ in range(n_bytes // 2**20):
                stream.write(bytes(2**20))


@pytest.mark.parametrize(
    "member", ["model.weights.h5", "config.json", "w_array_0.npy", "model/data.pkl"]
)
def test_zip_files_that_unpack_to_far_more_are_refused(path, member):
    bomb(path, member, 64 * 2**20)
    refuse(
        path, r"should unpack to .* at most, got a claim of 67,108,864 in a file of", mlp([7, 2])
    )


def test_a_zip_file_that_claims_ten_gigabytes_is_refused(path):
    write_keras(path, sequential(*chain()), {})
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02")  # the last member's entry, which has its size at byte 24
    struct.pack_into("<I", content, at + 24, 2**32 - 2)
    path.write_bytes(content)
    refuse(path, "got a claim of 4,294,9", mlp([7, 2]))


def test_read_network_takes_archives_and_files_of_other_programs(tmp_path):
    net = mlp([3, 4, 2], activation="tanh", label_names=["TEFF", "LOGG"])
    theta = np.random.default_rng(0).normal(size=net.n_params)
    write_network(tmp_path / "own.h5", net, theta)
    own, again = read_network(tmp_path / "own.h5")
    assert own.label_names == ("TEFF", "LOGG")
    np.testing.assert_array_equal(again, theta)
    with pytest.raises(OptionError, match="own archive and needs no options, got check"):
        read_network(tmp_path / "own.h5", check=(np.ones(3), np.ones(2)))
    arrays = payne_arrays(np.random.default_rng(1))
    np.savez(tmp_path / "nn.npz", **arrays)
    imported, weights = read_network(tmp_path / "nn.npz", activation="leaky_relu")
    assert imported.n_pixels == 3
    assert weights.shape == (imported.n_params,)
    (tmp_path / "broken.h5").write_bytes((tmp_path / "own.h5").read_bytes()[:3000])
    with pytest.raises(FileFormatError):
        read_network(tmp_path / "broken.h5")
