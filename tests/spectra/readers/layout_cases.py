"""Files of every layout that is known, made up after the data models, for tests.

Each function gives the HDUs of one file, and the flux, ivar (star, pixel) and wavelengths (pixel,)
that it holds, so that a test compares any pixel.
"""

import numpy as np
from case_writing import Case, noise, table
from fits_writing import image
from sdss_cases import apstar, apvisit, boss, mwm_star, mwm_visit

# --- DESI


DESI_GRID = {"B": 3600 + 0.8 * np.arange(30), "R": 3600 + 0.8 * np.arange(25, 60)}


def desi_parts(seed=0, n_stars=3):
    parts = {}
    for i, (arm, grid) in enumerate(DESI_GRID.items()):
        flux, ivar = noise(n_stars, grid.size, seed=seed + i)
        mask = np.zeros(flux.shape, dtype=np.int32)
        parts[arm] = (grid.copy(), flux, ivar, mask)
    parts["B"][2][0, 27] = 0  # a shared pixel without information in one arm
    parts["R"][3][1, 2] = 4  # a shared pixel that is masked in the other
    parts["R"][3][2, 20] = 1
    return parts


def desi_hdus(parts):
    fibermap = table(
        {"TARGETID": ("K", np.arange(3) + 39627), "TEFF": ("E", [5e3, 6e3, 7e3])}, "FIBERMAP"
    )
    hdus = [image(None, primary=True), fibermap]
    for arm, (grid, flux, ivar, mask) in parts.items():
        hdus += [
            image(grid, f"{arm}_WAVELENGTH", BUNIT="Angstrom"),
            image(flux, f"{arm}_FLUX", BUNIT="10**-17 erg/(s cm2 Angstrom)"),
            image(ivar, f"{arm}_IVAR"),
            image(mask, f"{arm}_MASK"),
            image(np.ones((3, 5, grid.size)), f"{arm}_RESOLUTION"),
        ]
    return hdus


def desi_joined():
    """Every pixel by hand: those of one arm as they are, shared ones as weighted means."""
    parts = desi_parts()
    (_, b_flux, b_ivar, b_mask), (_, r_flux, r_ivar, r_mask) = parts.values()
    b_ivar = np.where(b_mask > 0, 0, b_ivar)
    r_ivar = np.where(r_mask > 0, 0, r_ivar)
    total = b_ivar[:, 25:] + r_ivar[:, :5]
    shared = (b_ivar[:, 25:] * b_flux[:, 25:] + r_ivar[:, :5] * r_flux[:, :5]) / total
    return Case(
        hdus=desi_hdus(parts),
        flux=np.hstack([b_flux[:, :25], shared, r_flux[:, 5:]]),
        ivar=np.hstack([b_ivar[:, :25], total, r_ivar[:, 5:]]),
        wavelength=3600 + 0.8 * np.arange(60),
        layout="DESI",
        ids=["39627", "39628", "39629"],
    )


def desi_arm(**options):
    parts = desi_parts()
    grid, flux, ivar, mask = parts["R"]
    return Case(
        hdus=desi_hdus(parts),
        flux=flux,
        ivar=np.where(mask > 0, 0, ivar),
        wavelength=grid,
        layout="DESI",
        options=options,
    )


# --- LAMOST


def lamost_rows(third=None, **cards):
    flux, ivar = noise(1, 40, seed=5)
    grid = 10 ** (3.57 + 1e-4 * np.arange(40))
    masks = np.zeros((2, 40))
    masks[0, 7] = 3
    masks[1, 9] = 1
    rows = np.vstack([flux, ivar, grid if third is None else third, masks]).astype(np.float32)
    primary = image(
        rows, primary=True, TELESCOP="LAMOST", COEFF0=3.57, COEFF1=1e-4, OBSID=101005, **cards
    )
    ivar = np.where(masks[0] > 0, 0, rows[1])[None]
    return primary, rows[:1], ivar, rows[2] if third is None else grid


def lamost_image():
    primary, flux, ivar, grid = lamost_rows()
    return Case(
        hdus=[primary],
        flux=flux,
        ivar=ivar,
        wavelength=grid,
        layout="LAMOST image",
        ids=["101005"],
    )


def lamost_pilot():
    """The third row is the flux without its continuum."""
    primary, flux, ivar, grid = lamost_rows(third=noise(40, seed=6)[0] - 1)
    return Case(hdus=[primary], flux=flux, ivar=ivar, wavelength=grid, layout="LAMOST image")


def lamost_table():
    flux, ivar = noise(1, 40, seed=7)
    grid = 3700 + 1.0 * np.arange(40)
    mask = np.zeros((1, 40), dtype=np.int32)
    mask[0, 3] = 1
    columns = {
        "FLUX": ("40D", flux),
        "IVAR": ("40D", ivar),
        "WAVELENGTH": ("40D", grid[None]),
        "ANDMASK": ("40J", mask),
        "ORMASK": ("40J", mask + 1),
        "NORMALIZATION": ("40D", flux / 2),
    }
    return Case(
        hdus=[image(None, primary=True, TELESCOP="LAMOST"), table(columns, "COADD")],
        flux=flux,
        ivar=np.where(mask > 0, 0, ivar),
        wavelength=grid,
        layout="LAMOST table",
    )


def lamost_arms():
    """The medium-resolution survey: one pixel a row, a table each for two arms that are apart."""
    parts = []
    hdus = [image(None, primary=True, TELESCOP="LAMOST")]
    for i, (name, start) in enumerate([("COADD_B", 3.6946), ("COADD_R", 3.7993)]):
        flux, ivar = noise(20, seed=8 + i)
        loglam = start + 1e-5 * np.arange(20)
        columns = {
            "FLUX": ("D", flux),
            "IVAR": ("D", ivar),
            "LOGLAM": ("D", loglam),
            "PIXMASK": ("J", np.zeros(20)),
        }
        hdus.append(table(columns, name))
        parts.append((flux, ivar, 10**loglam))
    flux, ivar, grid = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Case(hdus=hdus, flux=flux[None], ivar=ivar[None], wavelength=grid, layout="LAMOST table")


# --- IRAF


def onedspec_bands():
    flux, ivar = noise(2, 40, seed=13)
    cube = np.stack([flux, flux + 9, flux * 0.1, ivar**-0.5])
    cards = {
        "CTYPE1": "LINEAR",
        "CRVAL1": 500.0,
        "CD1_1": 0.05,
        "CRPIX1": 1.0,
        "DC_FLAG": 0,
        "WAT0_001": "system=equispec",
        "WAT1_001": "wtype=linear label=Wavelength units=nanometers",
        "BANDID1": "spectrum - background fit, weights variance, clean yes",
        "BANDID2": "raw - background fit, weights none, clean no",
        "BANDID3": "background - background fit",
        "BANDID4": "sigma - background fit, weights variance, clean yes",
        "APID1": "HD 1",
        "APID2": "HD 2",
    }
    return Case(
        hdus=[image(cube, primary=True, **cards)],
        flux=flux,
        ivar=ivar,
        wavelength=500 + 0.05 * np.arange(40),
        unit="nm",
        medium=None,
        layout="IRAF",
        ids=["HD 1", "HD 2"],
    )


def multispec_cards(*specs):
    """Cards as IRAF writes them: cut after 68 characters, wherever that is."""
    text = "wtype=multispec " + " ".join(f'spec{i + 1} = "{s}"' for i, s in enumerate(specs))
    cards = {"CTYPE1": "MULTISPE", "CTYPE2": "MULTISPE", "WAT0_001": "system=multispec"}
    cards["WAT1_001"] = "wtype=multispec label=Wavelength units=angstroms"
    for i in range(0, len(text), 68):
        cards[f"WAT2_{i // 68 + 1:03d}"] = text[i : i + 68]
    return cards


CHEBYSHEV = (5100.0, 30.0, 0.5, -0.05)
LEGENDRE = (5300.0, 25.0, 0.4, 0.02)


def multispec():
    """Orders that do not overlap: linear with a redshift, Chebyshev, a mean of two Legendre.

    The weights 3 and 1 of the two offsets 2 and 6 give 3.
    """
    flux, _ = noise(3, 30, seed=14)
    specs = [
        "1 57 0 5000. 1.5 30 0.001 0. 0.",
        "2 56 2 5100. 1. 28 0. 0. 0. 1. 0. 1 4 1. 30. " + " ".join(map(repr, CHEBYSHEV)),
        "3 55 2 5300. 1. 30 0. 0. 0. 3. 2. 2 4 1. 30. "
        + " ".join(map(repr, LEGENDRE))
        + " 1. 6. 2 4 1. 30. "
        + " ".join(map(repr, LEGENDRE)),
    ]
    flux[1, 28:] = 0  # beyond the pixels of this order
    x = (np.arange(1, 31) - 15.5) / 14.5
    a, b, c, d = CHEBYSHEV
    second = a + b * x + c * (2 * x**2 - 1) + d * (4 * x**3 - 3 * x)
    a, b, c, d = LEGENDRE
    third = 3 + a + b * x + c * (3 * x**2 - 1) / 2 + d * (5 * x**3 - 3 * x) / 2
    return Case(
        hdus=[image(flux, primary=True, OBJECT="HD 3", **multispec_cards(*specs))],
        flux=np.concatenate([flux[0], flux[1, :28], flux[2]])[None],
        ivar=None,
        wavelength=np.concatenate([(5000 + 1.5 * np.arange(30)) / 1.001, second[:28], third]),
        medium=None,
        layout="IRAF",
        ids=["HD 3"],
    )


def overlapping_orders():
    flux, _ = noise(2, 30, seed=15)
    specs = ["1 57 0 5000. 1.5 30 0. 0. 0.", "2 56 1 3.7 1e-4 30 0. 0. 0."]
    return image(flux, primary=True, **multispec_cards(*specs)), flux


def multispec_order():
    hdu, flux = overlapping_orders()
    return Case(
        hdus=[hdu],
        flux=flux[1:],
        ivar=None,
        wavelength=10 ** (3.7 + 1e-4 * np.arange(30)),
        medium=None,
        layout="IRAF",
        options={"arm": 2},
    )


def multispec_fibres():
    """Apertures on one grid are stars."""
    flux, _ = noise(2, 30, seed=16)
    specs = [f"{i} {i} 0 6000. 0.5 30 0. 0. 0." for i in (1, 2)]
    return Case(
        hdus=[image(flux, primary=True, APID1="a", APID2="b", **multispec_cards(*specs))],
        flux=flux,
        ivar=None,
        wavelength=6000 + 0.5 * np.arange(30),
        medium=None,
        layout="IRAF",
        ids=["a", "b"],
    )


# --- ESO


def phase3_table(ucd="em.wl;obs.atmos", **extra):
    flux, ivar = noise(1, 30, seed=17)
    grid = 400 + 0.1 * np.arange(30)
    quality = np.zeros((1, 30), dtype=np.int32)
    quality[0, 11] = 2
    columns = {
        "WAVE": ("30D", grid[None]),
        "FLUX": ("30D", flux),
        "ERR": ("30D", ivar**-0.5),
        "QUAL": ("30J", quality),
        "SNR": ("30D", flux * 50),
        **extra,
    }
    cards = {
        "VOCLASS": "SPECTRUM V1.0",
        "NELEM": 30,
        "TUTYP1": "Spectrum.Data.SpectralAxis.Value",
        "TUCD1": ucd,
        "TUTYP2": "Spectrum.Data.FluxAxis.Value",
        "TUCD2": "phot.flux.density;em.wl;meta.main",
        "TUTYP3": "Spectrum.Data.FluxAxis.Accuracy.StatError",
        "TUCD3": "stat.error;phot.flux.density;meta.main",
        "TUTYP4": "Spectrum.Data.FluxAxis.Accuracy.QualityStatus",
        "TUTYP5": "",
    }
    units = {"WAVE": "nm", "FLUX": "erg/s/cm2/Angstrom", "ERR": "erg/s/cm2/Angstrom"}
    hdu = table(columns, "SPECTRUM", units, cards)
    return hdu, flux, np.where(quality > 0, 0, ivar), grid


def phase3(medium="air"):
    hdu, flux, ivar, grid = phase3_table("em.wl;obs.atmos" if medium == "air" else "em.wl")
    primary = image(None, primary=True, INSTRUME="UVES", OBJECT="HD 4")
    return Case(
        hdus=[primary, hdu],
        flux=flux,
        ivar=ivar,
        wavelength=grid,
        unit="nm",
        medium=medium,
        layout="ESO phase 3",
        ids=["HD 4"],
    )


def phase3_two_fluxes():
    """The main one counts, whatever the names: reduced spectra are not flux-calibrated."""
    other, error = noise(1, 30, seed=18)
    hdu, flux, ivar, grid = phase3_table(FLUX_REDUCED=("30D", other), ERR_REDUCED=("30D", error))
    hdu.header["TUTYP6"] = "eso:Data.FluxAxis.Value"
    hdu.header["TUCD6"] = "phot.flux.density;em.wl"
    hdu.header["TUTYP7"] = "eso:Data.FluxAxis.Accuracy.StatError"
    hdu.header["TUCD7"] = "stat.error;phot.flux.density"
    return Case(
        hdus=[image(None, primary=True), hdu],
        flux=flux,
        ivar=ivar,
        wavelength=grid,
        unit="nm",
        medium="air",
        layout="ESO phase 3",
    )


def xshooter():
    flux, ivar = noise(1, 30, seed=19)
    quality = np.zeros(30, dtype=np.int32)
    quality[13] = 64
    grid = {"CRVAL1": 533.66, "CDELT1": 0.02, "CRPIX1": 1.0, "CTYPE1": "LINEAR", "CUNIT1": "nm"}
    hdus = [
        image(flux[0], primary=True, INSTRUME="XSHOOTER", OBJECT="HD 5", EXTNAME="FLUX", **grid),
        image(ivar[0] ** -0.5, "ERRS", **grid),
        image(quality, "QUAL", **grid),
    ]
    return Case(
        hdus=hdus,
        flux=flux,
        ivar=np.where(quality > 0, 0, ivar),
        wavelength=533.66 + 0.02 * np.arange(30),
        unit="nm",
        medium="air",
        layout="X-shooter",
        ids=["HD 5"],
    )


# --- tables of orders, plain images and tables


def orders_table(step=40.0):
    flux, ivar = noise(3, 30, seed=20)
    grid = np.stack([6000 + step * i + np.arange(30) for i in range(3)])
    columns = {
        "ORDER": ("I", [80, 79, 78]),
        "WAVE": ("30D", grid),
        "FLUX": ("30D", flux),
        "SIGMA": ("30D", ivar**-0.5),
    }
    return table(columns, "ORDERS", {"WAVE": "Angstrom"}), flux, ivar, grid


def orders():
    hdu, flux, ivar, grid = orders_table()
    return Case(
        hdus=[hdu],
        flux=flux.reshape(1, -1),
        ivar=ivar.reshape(1, -1),
        wavelength=grid.ravel(),
        medium=None,
        layout="table of orders",
    )


def one_order():
    hdu, flux, ivar, grid = orders_table(step=20.5)
    return Case(
        hdus=[hdu],
        flux=flux[1:2],
        ivar=ivar[1:2],
        wavelength=grid[1],
        medium=None,
        layout="table of orders",
        options={"arm": 79},
    )


def plain_image():
    flux, ivar = noise(4, 30, seed=21)
    hdus = [
        image(flux, primary=True, CRVAL1=500.0, CDELT1=0.5, CTYPE1="AWAV", CUNIT1="NM"),
        image(ivar, "IVAR"),
    ]
    return Case(
        hdus=hdus,
        flux=flux,
        ivar=ivar,
        wavelength=500 + 0.5 * np.arange(30),
        unit="nm",
        medium="air",
        layout="images",
    )


def named_table():
    """Columns of names that say nothing, said by the caller."""
    flux, ivar = noise(2, 30, seed=22)
    grid = 12000 - 10.0 * np.arange(30)
    columns = {
        "X": ("30D", np.tile(grid, (2, 1))),
        "Y": ("30D", flux),
        "DY": ("30D", ivar**-1),
    }
    return Case(
        hdus=[table(columns, "DATA", {"X": "cm-1"})],
        flux=flux,
        ivar=ivar,
        wavelength=1e8 / grid,
        layout="table",
        options={"flux": "Y", "wavelength": "X", "uncertainty": "var:DY"},
    )


CASES = {
    "apStar": apstar,
    "apVisit": apvisit,
    "DESI, arms joined": desi_joined,
    "DESI, an arm": lambda: desi_arm(arm="R"),
    "DESI, the HDU of an arm": lambda: desi_arm(hdu="R_FLUX"),
    "LAMOST rows": lamost_image,
    "LAMOST pilot rows": lamost_pilot,
    "LAMOST table": lamost_table,
    "LAMOST arms": lamost_arms,
    "BOSS": boss,
    "mwmStar": mwm_star,
    "mwmVisit": mwm_visit,
    "IRAF bands": onedspec_bands,
    "IRAF multispec": multispec,
    "IRAF order": multispec_order,
    "IRAF fibres": multispec_fibres,
    "ESO phase 3 in air": phase3,
    "ESO phase 3 in vacuum": lambda: phase3("vacuum"),
    "ESO phase 3, two fluxes": phase3_two_fluxes,
    "X-shooter": xshooter,
    "orders joined": orders,
    "an order": one_order,
    "plain images": plain_image,
    "named columns": named_table,
}
