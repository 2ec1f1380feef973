"""A description tells which layers of a file are read, and why others are not."""

import h5py
import numpy as np
import pytest
from network_files import (
    dense_config,
    functional,
    inner_model,
    input_config,
    layer_config,
    sequential,
    write_h5,
    write_keras,
    write_pt,
    write_safe,
)
from reference_networks import N, draw, torch_state

from symspec.files.importers.descriptions import describe_file, is_foreign_network


@pytest.fixture
def rng():
    return np.random.default_rng(8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.bin"  # a name that says nothing


def test_a_description_names_the_layers_that_are_read_and_why_others_are_not(path):
    model = functional(
        input_config(N, 1),
        layer_config("Conv1D", "conv", filters=3, kernel_size=3),
        layer_config("LSTM", "memory", units=3),
        layer_config("Flatten", "flat"),
        layer_config("Embedding", "lookup"),
        inner_model("sequential"),
        dense_config("last", 2),
    )
    held = {"inner/held": (draw(6, 4), draw(4)), "inner/dense": (draw(4, 4), draw(4))}
    write_keras(
        path, model, {"conv": (draw(3, 1, 3), draw(3)), **held, "last": (draw(30, 2), draw(2))}
    )
    assert is_foreign_network(path)
    description = describe_file(path)
    assert description.format == "whole model of Keras (.keras)"
    assert "net=" in description.advice
    rows = {row.name: row for row in description.rows}
    assert list(rows) == ["input", "conv", "memory", "flat", "lookup", "inner", "last"]
    assert (rows["conv"].kind, rows["conv"].verdict, rows["conv"].out) == ("Conv1D", "yes", (10, 3))
    assert (rows["conv"].shapes, rows["conv"].n_numbers) == (((3, 1, 3), (3,)), 12)
    assert rows["memory"].verdict.startswith(
        "is no layer of symspec's: build the network of symspec's layers"
    )
    assert (rows["flat"].verdict, rows["flat"].out) == (
        "perhaps; a layer before it is not read",
        None,
    )
    assert rows["lookup"].verdict.startswith("is no layer of symspec's")
    assert (rows["inner"].kind, rows["inner"].n_numbers) == ("Sequential", 6 * 4 + 4 + 4 * 4 + 4)


def test_descriptions_of_weights_list_their_arrays(path, rng):
    write_h5(path, sequential(input_config(6), dense_config("a", 2)), {"a": (draw(6, 2), draw(2))})
    description = describe_file(path)
    assert [(row.name, row.verdict) for row in description.rows] == [("input", "yes"), ("a", "yes")]
    assert description.advice == "symspec.read_network(path)"
    with h5py.File(path, "a") as file:
        del file.attrs["model_config"]
    assert [row.shapes for row in describe_file(path).rows] == [((6, 2),), ((2,),)]
    assert describe_file(path).format == "weights of Keras (.h5)"
    for write, words in (
        (write_pt, "state_dict of PyTorch"),
        (write_safe, "weights in safetensors"),
    ):
        write(path, torch_state())
        description = describe_file(path)
        rows = {row.name: row.shapes for row in description.rows}
        assert description.format == words
        assert rows["features.0.weight"] == ((3, 1, 3),)
        assert rows["features.1.num_batches_tracked"] == ((),)
        assert is_foreign_network(path)
    with path.open("wb") as stream:
        np.savez(stream, w_array_0=draw(2, 3), x_min=draw(3))
    assert [(row.name, row.n_numbers) for row in describe_file(path).rows] == [
        ("w_array_0", 6),
        ("x_min", 3),
    ]
    with h5py.File(path, "w") as file:
        file["flux"] = np.ones((3, 4))
        file.create_group("labels")
    assert not is_foreign_network(path)
    path.write_bytes(b"name,flux\n")
    assert not is_foreign_network(path)
    assert not is_foreign_network(path.parent / "missing")


def test_the_command_line_tells_what_a_foreign_file_holds(tmp_path):
    from typer.testing import CliRunner

    from symspec.cli.app import app

    path = tmp_path / "model.keras"
    model = sequential(input_config(6), dense_config("[first]", 2), layer_config("Lambda", "code"))
    write_keras(path, model, {"[first]": (draw(6, 2), draw(2))})
    result = CliRunner().invoke(app, ["info", str(path)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert ["[first]", "Dense", "6", "x", "2,", "2", "yes", "2", "14"] in lines
    assert any(line[:2] == ["code", "Lambda"] and "never" in line for line in lines)
    assert ["all", "14"] in lines
    write_pt(path, torch_state())
    result = CliRunner().invoke(app, ["info", str(path)], env={"COLUMNS": "200"})
    assert "features.0.weight" in result.output
    assert "net=" in result.output
    path.write_bytes(path.read_bytes()[:300])
    assert CliRunner().invoke(app, ["info", str(path)]).exit_code == 1
