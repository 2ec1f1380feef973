"""Files of SDSS's layouts, made up after its data models."""

import numpy as np
from case_writing import Case, noise, table
from fits_writing import image


def boss():
    flux, ivar = noise(1, 30, seed=10)
    loglam = 3.55 + 1e-4 * np.arange(30)
    mask = np.zeros(30, dtype=np.int32)
    mask[4] = 8
    columns = {
        "flux": ("D", flux[0]),
        "loglam": ("D", loglam),
        "ivar": ("D", ivar[0]),
        "and_mask": ("J", mask),
        "or_mask": ("J", mask + 1),
        "wdisp": ("D", flux[0]),
        "sky": ("D", flux[0]),
        "model": ("D", flux[0]),
    }
    primary = image(None, primary=True, PLATEID=4455, MJD=55539, FIBERID=9)
    return Case(
        hdus=[primary, table(columns, "COADD")],
        flux=flux,
        ivar=np.where(mask > 0, 0, ivar),
        wavelength=10**loglam,
        layout="SDSS BOSS coadd",
        ids=["4455-55539-0009"],
    )


MWM_CARDS = {"CRVAL": 4.179, "CDELT": 6e-6, "CRPIX": 1, "CTYPE": "LOG-LINEAR"}
MWM_CARDS |= {"CUNIT": "Angstrom (Vacuum)", "DC-FAG": 1}


def mwm_table(name, n_rows, n_pixels=30, seed=0, cards=MWM_CARDS):
    flux, ivar = noise(n_rows, n_pixels, seed=seed)
    columns = {
        "sdss_id": ("K", np.full(n_rows, 42)),
        "snr": ("E", np.full(n_rows, 50.0)),
        "flux": (f"{n_pixels}D", flux),
        "ivar": (f"{n_pixels}D", ivar),
        "pixel_flags": (f"{n_pixels}K", np.zeros(flux.shape, dtype=np.int64)),
        "continuum": (f"{n_pixels}D", flux),
    }
    return table(columns, name, cards=cards), flux, ivar


def mwm_star():
    tables = [mwm_table(name, 0)[0] for name in ("BOSS/APO", "BOSS/LCO", "APOGEE/LCO")]
    hdu, flux, ivar = mwm_table("APOGEE/APO", 1, seed=11)
    return Case(
        hdus=[image(None, primary=True), *tables[:2], hdu, tables[2]],
        flux=flux,
        ivar=ivar,
        wavelength=10 ** (4.179 + 6e-6 * np.arange(30)),
        layout="SDSS-V mwmStar or mwmVisit",
        ids=["42"],
    )


def mwm_visit():
    other, _, _ = mwm_table("BOSS/APO", 1, n_pixels=20)
    hdu, flux, ivar = mwm_table("APOGEE/APO", 3, seed=12)
    return Case(
        hdus=[image(None, primary=True), other, hdu],
        flux=flux,
        ivar=ivar,
        wavelength=10 ** (4.179 + 6e-6 * np.arange(30)),
        layout="SDSS-V mwmStar or mwmVisit",
        options={"hdu": "APOGEE/APO"},
        ids=["42 visit 1", "42 visit 2", "42 visit 3"],
    )


def apstar():
    """The combined spectrum is the first row; bits 12 and 13 of the mask are warnings."""
    flux, ivar = noise(4, 30, seed=23)
    mask = np.zeros(flux.shape, dtype=np.int16)
    mask[0, 3] = 1 << 12
    mask[0, 5] = 1 << 2
    grid = {"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1, "CTYPE1": "LOG-LINEAR", "DC_FLAG": 1}
    primary = image(None, primary=True, OBJID="2M6", NVISITS=2, **grid)
    units = ("Flux (10^-17 erg/s/cm^2/Ang)", "Err (10^-17 erg/s/cm^2/Ang)", "Mask", "Sky")
    arrays = (flux, ivar**-0.5, mask, flux * 0)
    others = [image(one, BUNIT=unit, **grid) for one, unit in zip(arrays, units, strict=True)]
    return Case(
        hdus=[primary, *others],
        flux=flux[:1],
        ivar=np.where(mask[:1] == 4, 0, ivar[:1]),
        wavelength=10 ** (4.179 + 6e-6 * np.arange(30)),
        layout="APOGEE apStar",
        ids=["2M6"],
    )


def apvisit():
    flux, ivar = noise(3, 20, seed=24)
    grid = np.stack(
        [np.linspace(*ends, 20) for ends in ((16950, 16475), (16430, 15860), (15800, 15150))]
    )
    mask = np.zeros(flux.shape, dtype=np.int16)
    units = ("Flux (10^-17 erg/s/cm^2/Ang)", "Err (10^-17)", "Mask", "Wavelength (Ang)")
    arrays = (flux, ivar**-0.5, mask, grid)
    hdus = [image(one, BUNIT=unit) for one, unit in zip(arrays, units, strict=True)]
    return Case(
        hdus=[image(None, primary=True, OBJID="2M7"), *hdus],
        flux=flux.reshape(1, -1),
        ivar=ivar.reshape(1, -1),
        wavelength=grid.ravel(),
        layout="APOGEE apVisit",
        ids=["2M7"],
    )
