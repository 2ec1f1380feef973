"""`symspec train --hidden auto` finds out which network it should be."""

import re
from functools import partial

import numpy as np
import pytest
from test_cli import run, write_stars

from symspec.files.archives import read_laplace
from symspec.fitting.selection import select
from symspec.spectra import datasets


@pytest.fixture(scope="module")
def stars(tmp_path_factory):
    spectra = datasets.generated_stars(60, n_pixels=12, rng=np.random.default_rng(0), snr=100.0)
    return write_stars(tmp_path_factory.mktemp("auto") / "stars.h5", spectra)


@pytest.mark.parametrize("hidden", [(), ("--hidden", "auto")], ids=["by default", "asked for"])
def test_train_tries_several_networks_and_says_how_they_did(stars, hidden, tmp_path, monkeypatch):
    few = {"hidden": [()], "folds": 2, "n_workers": 1}
    monkeypatch.setattr("symspec.cli.commands.train.select", partial(select, **few))
    said = run("train", stars, tmp_path / "m.h5", *hidden, "--no-tune")
    assert "Networks tried, each scored on 54 stars while they were held out" in said.stdout
    assert re.search(r"linear 39 -?[\d.]+ ", said.stdout)
    assert read_laplace(tmp_path / "m.h5").reg.net.n_params == 39
    assert "6 stars that were not trained on" in said.stdout


def test_a_network_may_be_linear(stars, tmp_path):
    run("train", stars, tmp_path / "m.h5", "--hidden", "linear", "--no-tune")
    assert read_laplace(tmp_path / "m.h5").reg.net.n_params == 39


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--hidden", "wide"), "--hidden should be auto, linear, or the width .* got wide"),
        (("--hidden", "auto", "--hidden", 3), "--hidden should be auto, .* got auto 3"),
        (("--hidden", 0), "--hidden should be auto, .* a positive integer .* got 0"),
    ],
)
def test_other_words_are_refused(stars, tmp_path, words, message):
    assert re.search(message, run("train", stars, tmp_path / "m.h5", *words, code=1).stderr)


def test_validate_wants_one_network(stars):
    said = run("validate", stars, "--hidden", "auto", code=1)
    assert "--hidden should be the network to validate, got auto" in said.stderr
