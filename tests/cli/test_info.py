"""`symspec info` says which layout a file has, what comes from where, and what is not read."""

import numpy as np
from astropy.io import fits
from typer.testing import CliRunner

from symspec.cli import app

FLUX = 1 + 0.1 * np.random.default_rng(0).normal(size=(2, 30))


def run(*words):
    plain = {"COLUMNS": "200", "NO_COLOR": "1"}
    result = CliRunner().invoke(app.app, ["info", *map(str, words)], env=plain)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def write_desi(path):
    hdus = [fits.PrimaryHDU()]
    for arm, start in (("B", 3600.0), ("R", 5760.0)):
        images = {"WAVELENGTH": start + 0.8 * np.arange(30), "FLUX": FLUX, "IVAR": FLUX**-2}
        hdus += [fits.ImageHDU(image, name=f"{arm}_{name}") for name, image in images.items()]
    hdus.append(fits.ImageHDU(np.ones((2, 3)), name="SCORES"))
    fits.HDUList(hdus).writeto(path)
    return path


def test_a_layout_and_its_places_are_said(tmp_path):
    lines = run(write_desi(tmp_path / "x.fits"))
    assert "  2 stars, 60 pixels each" in lines
    assert "  wavelength: 3600 to 5783.2 Angstrom (vacuum)" in lines
    assert "  layout: DESI" in lines
    assert "  flux from B_FLUX and R_FLUX" in lines
    assert "  uncertainty from B_IVAR and R_IVAR, as ivar" in lines
    assert "  not read: HDU 7 SCORES" in lines


def test_an_arm_is_chosen(tmp_path):
    lines = run(write_desi(tmp_path / "x.fits"), "--read", "arm=R")
    assert "  2 stars, 30 pixels each" in lines
    assert "  flux from R_FLUX" in lines


def test_names_are_said_on_the_command_line(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, counts=FLUX, x=np.linspace(20000, 18000, 30), dy=FLUX**2, sky=FLUX)
    options = ("flux=counts", "wavelength=x", "wavelength_unit=cm-1", "uncertainty=var:dy")
    lines = run(path, *(word for option in options for word in ("--read", option)))
    assert "  wavelength: 5000 to 5555.56 Angstrom (vacuum)" in lines
    assert "  flux from counts" in lines
    assert "  uncertainty from dy, as var" in lines
    assert "  not read: sky" in lines
