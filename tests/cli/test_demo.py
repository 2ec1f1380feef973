"""The demo on a few of its stars, whole but small: every file is there and opens."""

import dataclasses
from importlib.util import find_spec

import numpy as np
import pytest

import symspec as ss
from symspec.cli.commands import demo

pytestmark = pytest.mark.skipif(
    find_spec("mangadap") is None, reason="the MILES stars come with the extra demo"
)


def test_every_star_is_predicted_once_while_held_out(tmp_path, monkeypatch):
    stars = ss.datasets.miles(clip=demo.FLUX_RANGE)
    few = stars[::8]
    few = dataclasses.replace(few, flux=few.flux[:, ::40], wavelength=few.wavelength[::40])
    monkeypatch.setattr(demo, "miles", lambda clip: few)
    result = demo.run_demo(tmp_path / "out", folds=2, progress=False)
    assert result.prediction.labels.shape == few.labels.shape
    assert len(result.certificates) == len(result.regressions) == 2 * demo.NETWORKS
    assert all(path.exists() for path in result.files.values())
    page = result.files["report"].read_text()
    assert "by the 2 networks of the fold in which it and its group were held out, together" in page
    assert ">2, network 2<" in page
    # far better than the mean label, so rows belong to their stars: shuffled ones would scatter by
    # sqrt(2) times more
    assert (
        ss.sigma_mad(result.prediction.labels - few.labels) < 0.7 * few.labels.std(axis=0)
    ).all()
    model = ss.read_laplace(result.files["model"])
    fold = np.random.default_rng(0).permutation(len(few)) % 2
    again = model.predict(few.flux[fold == 0])
    np.testing.assert_allclose(again.labels, result.prediction.labels[fold == 0], rtol=1e-6)

    # a fold's noise is that of the other fold's stars
    others = fold == 1
    noise = ss.fit_noise(result.uncalibrated.select(others), few.labels[others])
    expected = np.tile(noise.covariance, (np.count_nonzero(~others), 1, 1))
    np.testing.assert_allclose(result.prediction.noise_cov[~others], expected, rtol=1e-6)
    np.testing.assert_array_equal(result.prediction.labels, result.uncalibrated.labels)


def test_one_fold_is_refused(tmp_path):
    with pytest.raises(ss.OptionError, match="folds should be at least 2"):
        demo.run_demo(tmp_path, folds=1)
