"""A mixture in one file: it comes back bit by bit, and hostile files are refused."""

from functools import cache

import h5py
import numpy as np
import pytest
from conftest import assert_entries

import symspec as ss
from symspec.files.stored import archive as format
from symspec.files.stored.archive import MIXTURE, create_archive, find_archive_kind
from symspec.files.stored.mixtures import write_mixture
from symspec.mixtures.identity import describe_model, hash_model, hash_networks
from symspec.safety.checkpoint import find_fingerprint

N_MUTANTS = 12


@cache
def fit(seed, names=("a", "b"), structure="primal"):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 4))
    Y = np.tanh(X @ rng.normal(size=(4, 2))) + 0.1 * rng.normal(size=(20, 2))
    net = ss.mlp([4, 3, 2], activation="tanh", label_names=names)
    reg = ss.Regression(net, sigma_noise=[0.1, 0.2 + 0.1 * seed], prior_precision=0.3)
    theta = net.init_params(np.random.default_rng(seed))
    options = {"structure": structure, "require_minimum": False, "progress": False}
    return ss.fit_laplace(reg, theta, X, Y, **options)


@pytest.fixture(scope="module")
def combined():
    each = [fit(0), fit(1, structure="dual"), fit(2, structure="kronecker")]
    return ss.combine(each, weights=[0.5, 0.3, 0.2])


@pytest.fixture(scope="module")
def path(combined, tmp_path_factory):
    path = tmp_path_factory.mktemp("mixture") / "mixture.h5"
    ss.write_laplace(path, combined)
    return path


@pytest.fixture(scope="module")
def flux():
    return np.random.default_rng(5).normal(size=(3, 4))


def test_a_mixture_comes_back_bit_by_bit(path, combined, flux):
    assert find_archive_kind(path) == "mixture"
    read = ss.read_laplace(path)
    np.testing.assert_array_equal(read.weights, combined.weights)
    assert [one.structure for one in read.posteriors] == ["primal", "dual", "kronecker"]
    ivar = np.full(flux.shape, 30.0)
    ours, theirs = (model.predict(flux, ivar=ivar, progress=False) for model in (combined, read))
    for name, array in ours.to_arrays().items():
        np.testing.assert_array_equal(theirs.to_arrays()[name], array)
    np.testing.assert_array_equal(theirs.interval(0.9), ours.interval(0.9))
    assert hash_model(read) == hash_model(combined)


def test_each_network_lies_in_its_group_as_it_would_alone(path, combined, tmp_path):
    alone = tmp_path / "alone.h5"
    ss.write_laplace(alone, combined.posteriors[1])
    with h5py.File(path) as whole, h5py.File(alone) as one:
        names = []
        one.visit(names.append)
        assert set(names) == set(whole["networks/1"]) | {
            f"{name}/{inside}"
            for name in whole["networks/1"]
            for inside in _list(whole[f"networks/1/{name}"])
        }
        for name in names:
            if isinstance(one[name], h5py.Dataset):
                np.testing.assert_array_equal(whole[f"networks/1/{name}"][()], one[name][()])


def _list(node):
    names = []
    if isinstance(node, h5py.Group):
        node.visit(names.append)
    return names


def test_digests_tell_networks_their_order_and_their_weights(combined):
    a, b, c = combined.posteriors
    models = [
        combined,
        ss.combine([a, b, c], weights=[0.5, 0.2, 0.3]),
        ss.combine([b, a, c], weights=[0.5, 0.3, 0.2]),
        ss.combine([a, b], weights=[0.5, 0.3]),
        ss.combine([a, fit(3), c], weights=[0.5, 0.3, 0.2]),
        ss.combine([a]),
        a,
    ]
    for find in (hash_model, hash_networks, lambda model: find_fingerprint(describe_model(model))):
        found = [find(model) for model in models]
        assert len(set(found)) == len(models)
        assert find(ss.combine([a, b, c], weights=[0.5, 0.3, 0.2])) == found[0]


def test_damage_is_found_wherever_it_is(tmp_path):
    path = tmp_path / "good.h5"
    ss.write_laplace(path, ss.combine([fit(0), fit(1)]))
    content = path.read_bytes()
    expected = hash_model(ss.read_laplace(path))
    rng = np.random.default_rng(0)
    mutant = tmp_path / "mutant.h5"
    n_refused = 0
    for _ in range(N_MUTANTS):
        damaged = bytearray(content)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        mutant.write_bytes(damaged)
        try:
            assert hash_model(ss.read_laplace(mutant)) == expected
        except ss.FileFormatError as error:
            n_refused += str(mutant) in str(error)
    assert n_refused > N_MUTANTS // 2


def write_foul(path, change):
    """A file whose digests are right and whose content is not."""

    class Foul:
        weights = np.array([0.5, 0.5])
        posteriors = (fit(0), fit(1))

    foul = Foul()
    change(foul)
    with create_archive(path, MIXTURE, overwrite=True) as file:
        write_mixture(file, foul)


def set_weights(*weights):
    def change(foul):
        foul.weights = np.array(weights)

    return change


def take_another(foul):
    foul.posteriors = (fit(0), fit(0, names=("a", "z")))


def take_none(foul):
    foul.posteriors = ()
    foul.weights = np.zeros(0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_weights(0.5, 0.6), "2 numbers of at least 0 whose sum is 1, got those of sum 1.1"),
        (set_weights(1.5, -0.5), "2 numbers of at least 0 whose sum is 1"),
        (set_weights(1.0), "an array of shape"),
        (set_weights(np.nan, 0.5), "weights"),
        (take_another, "the same label_names"),
        (take_none, "whose sum is 1"),
    ],
    ids=["sum", "negative", "too few", "nan", "other labels", "empty"],
)
def test_a_file_that_is_no_mixture_is_refused(tmp_path, change, words):
    path = tmp_path / "foul.h5"
    write_foul(path, change)
    with pytest.raises(ss.FileFormatError, match=words):
        ss.read_laplace(path)


def test_a_network_that_is_a_link_is_not_followed(path, tmp_path):
    copy = tmp_path / "linked.h5"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r+") as file:
        del file["networks/2"]
        file["networks/2"] = h5py.SoftLink("/networks/0")
    with pytest.raises(ss.FileFormatError, match="link"):
        ss.read_laplace(copy)


def test_readers_of_one_network_say_what_to_do(path):
    for read in (ss.read_network, ss.read_regression):
        with pytest.raises(ss.FileFormatError, match="several networks, which read_laplace reads"):
            read(path)


def test_a_newer_version_says_which_symspec_reads_it(path, tmp_path, monkeypatch, combined):
    monkeypatch.setattr(format, "FORMAT_VERSION", 99)
    ss.write_laplace(tmp_path / "newer.h5", combined)
    monkeypatch.undo()
    with pytest.raises(ss.FileFormatError, match="install that version or a newer one"):
        ss.read_laplace(tmp_path / "newer.h5")
    with pytest.raises(ss.FileKeptError):
        ss.write_laplace(path, combined)


# --- leaving stars out


def test_leaving_out_and_influence_are_those_of_every_network(flux):
    each = [fit(0), fit(1)]
    both = ss.combine(each, weights=[0.25, 0.75])
    found = both.leave_one_out()
    parts = [one.leave_one_out() for one in each]
    mean = 0.25 * parts[0].labels + 0.75 * parts[1].labels
    assert_entries(found.labels, mean, 1e-12)
    within = 0.25 * parts[0].model_cov + 0.75 * parts[1].model_cov
    apart = parts[0].labels - parts[1].labels
    between = 0.25 * 0.75 * np.einsum("nc,nd->ncd", apart, apart)
    assert_entries(found.model_cov, within + between, 1e-10)
    moved = both.influence(flux)
    expected = 0.25 * each[0].influence(flux) + 0.75 * each[1].influence(flux)
    assert_entries(moved, expected, 1e-12)
    groups = np.arange(20) // 2
    grouped = both.influence(flux, groups=groups)
    assert grouped.shape == (3, 2, 10)


def test_networks_of_other_training_stars_are_not_left_out_together():
    rng = np.random.default_rng(3)
    net = fit(0).net
    reg = ss.Regression(net, sigma_noise=0.1, prior_precision=0.3)
    theta = net.init_params(rng)
    stars = rng.normal(size=(20, 4)), rng.normal(size=(20, 2))
    other = ss.fit_laplace(reg, theta, *stars, require_minimum=False, progress=False)
    with pytest.raises(ss.OptionError, match="trained on the same stars"):
        ss.combine([fit(0), other]).leave_one_out()


def test_a_prediction_is_resumed_by_network(combined, flux, tmp_path):
    folder = tmp_path / "progress"
    first = combined.predict(flux, resume=folder, progress=False)
    assert sorted(one.name for one in folder.iterdir()) == ["network_0", "network_1", "network_2"]
    again = combined.predict(flux, resume=folder, progress=False)
    np.testing.assert_array_equal(again.total_cov, first.total_cov)
    a, b, c = combined.posteriors
    other = ss.combine([b, a, c])
    with pytest.raises(ss.DataError, match="that of another"):
        other.predict(flux, resume=folder, progress=False)
