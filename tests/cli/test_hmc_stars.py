"""Which stars a model was trained on, and how their missing pixels were filled then."""

from dataclasses import replace

import numpy as np
import pytest

import symspec as ss
from symspec.cli.shared.training import find_training_stars
from symspec.spectra.pixels import fill_by_mean, fill_flux


@pytest.fixture(scope="module")
def stars():
    """Spectra of one shape, whose missing pixels the others tell."""
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(60, 1))
    flux = 1 + 0.1 * labels * np.linspace(1, 2, 15) + 0.001 * rng.normal(size=(60, 15))
    ivar = np.where(rng.random(flux.shape) < 0.1, 0.0, 1e6)
    return ss.Spectra(flux=np.where(ivar > 0, flux, np.nan), ivar=ivar, labels=labels)


@pytest.mark.parametrize("fill", [fill_flux, fill_by_mean], ids=["now", "by symspec 0.1"])
def test_training_stars_are_filled_as_when_the_model_was_trained(stars, fill):
    reg = ss.Regression(ss.mlp([15, 1]), sigma_noise=1.0, prior_precision=1.0)
    laplace = ss.fit_laplace(reg, np.zeros(16), stars, require_minimum=False, progress=False)
    model = replace(laplace, flux_mean=fill(stars).mean(axis=0))
    training, compared, _ = find_training_stars(model, stars, 0.1, 0)
    np.testing.assert_array_equal(training.flux, fill(stars))
    assert training.ivar is None
    assert len(compared) == 60
    assert np.abs(fill_flux(stars) - fill_by_mean(stars)).max() > 0.1
