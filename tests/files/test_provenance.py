"""Digests of spectra are the same for the same stars, and differ with whatever they cover."""

from dataclasses import replace

import numpy as np

import symspec as ss
from symspec.files.run_plans import join_hashes
from symspec.spectra.spectra import Spectra, hash_spectra
from symspec.workers.versions import find_versions


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
