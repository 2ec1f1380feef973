"""Digests are the same for the same things and others for whatever differs in them."""

from dataclasses import replace

import numpy as np
import pytest

import symspec as ss
from symspec.files.provenance import find_versions, hash_laplace, hash_network, join_hashes
from symspec.spectra.spectra import hash_spectra
from symspec.spectra.spectra import Spectra


def build_network(**changed):
    words = {
        "activation": "relu",
        "mean": 0.0,
        "label_names": ["a", "b"],
        "label_units": ["K", ""],
    } | changed
    layers = [
        ss.Standardize(np.full(4, words["mean"]), np.ones(4)),
        *ss.mlp([4, 3, 2], activation="relu").layers,
    ]
    layers[2] = ss.Activation(words["activation"])
    return ss.Network(layers, 4, label_names=words["label_names"], label_units=words["label_units"])


def test_the_same_network_has_the_same_digest_and_any_other_another():
    net, theta = build_network(), np.arange(23.0)
    assert hash_network(net, theta) == hash_network(build_network(), theta.astype(np.float32))
    others = [
        {"activation": "tanh"},
        {"mean": 1e-9},
        {"label_names": ["a", "c"]},
        {"label_units": ["K", "dex"]},
    ]
    digests = [hash_network(build_network(**other), theta) for other in others]
    digests += [hash_network(net, theta), hash_network(net, np.nextafter(theta, 99))]
    assert len(set(digests)) == len(digests)


@pytest.fixture(scope="module")
def laplace():
    rng = np.random.default_rng(0)
    X, net = rng.normal(size=(30, 4)), build_network()
    reg = ss.Regression(net, sigma_noise=1.0, prior_precision=1.0)
    return ss.fit_laplace(
        reg, net.init_params(rng), X, rng.normal(size=(30, 2)), require_minimum=False
    )


def test_a_posterior_is_known_by_all_that_its_predictions_depend_on(laplace, tmp_path):
    ss.write_laplace(tmp_path / "model.h5", laplace)
    assert hash_laplace(ss.read_laplace(tmp_path / "model.h5")) == hash_laplace(laplace)
    reg, certificate, space = laplace.reg, laplace.certificate, laplace.training_space
    changed = [
        {"theta": laplace.theta + 1e-9},
        {"reg": ss.Regression(reg.net, sigma_noise=1.1, prior_precision=1.0)},
        {"certificate": replace(certificate, is_minimum=not certificate.is_minimum)},
        {"flux_mean": laplace.flux_mean + 1e-9},
        {"label_range": laplace.label_range + 1e-9},
        {"dtype": "float32"},
        {"hmc_verdict": ("agree", "Laplace too small")},
        {"training_space": None},
        {"training_space": replace(space, quantiles=space.quantiles * 1.1)},
    ]
    digests = [hash_laplace(replace(laplace, **change)) for change in changed]
    assert len({*digests, hash_laplace(laplace)}) == len(changed) + 1


def test_spectra_are_known_by_their_numbers_labels_and_names():
    flux, ivar = np.ones((2, 3)), np.full((2, 3), 4.0)
    stars = Spectra(flux=flux, ivar=ivar, labels=[[1.0], [2.0]], ids=["a", "b"])
    assert hash_spectra(stars) == hash_spectra(
        Spectra(flux=flux.copy(), ivar=ivar, labels=stars.labels, ids=["a", "b"])
    )
    longer = Spectra(
        flux=np.ones((3, 3)),
        ivar=np.full((3, 3), 4.0),
        labels=[[1.0], [2.0], [3.0]],
        ids=["a", "b", "ccc"],
    )
    assert hash_spectra(longer[:2]) == hash_spectra(stars)  # NumPy gives these words more room
    wide = np.ones((4, 6))[::2, ::2]  # not contiguous
    assert hash_spectra(replace(stars, flux=wide)) == hash_spectra(stars)
    others = [
        {"flux": flux * 2},
        {"flux": ivar, "ivar": flux},
        {"ivar": None},
        {"ids": ["a", "c"]},
        {"labels": None},
    ]
    others[-1] |= {"label_names": (), "label_units": ()}
    digests = [hash_spectra(replace(stars, **other)) for other in others]
    assert len({*digests, hash_spectra(stars)}) == len(others) + 1


def test_digests_of_pieces_are_joined_in_their_order():
    assert (
        join_hashes(["ab", "cd"])
        == join_hashes(np.array(["ab", "cd"]))
        != join_hashes(["cd", "ab"])
    )


def test_versions_are_those_installed():
    import pytensor

    assert find_versions() == {
        "symspec": ss.__version__,
        "numpy": np.__version__,
        "pytensor": pytensor.__version__,
    }
