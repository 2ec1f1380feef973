"""Tables as near-infrared spectrometers and their programs write them, made up after manuals.

Each function writes files and gives what has to come back, so that a test compares every number.
"""

from dataclasses import dataclass, field

import numpy as np

N_SAMPLES = 4
NM = np.arange(1100.0, 1148.0, 4.0)  # 12 pixels
WAVENUMBERS = np.arange(9000.0, 9096.0, 8.0)
PROTEIN = np.array([12.31, 11.5, np.nan, 13.0])
MOISTURE = np.array([9.8, 10.25, 10.0, 9.5])
NAMES = ["S-101", "S-102", "S-103", "S-104"]


def absorbances(n_pixels=NM.size, seed=1):
    """Numbers of five decimals, as instruments write them, of which none is whole."""
    rng = np.random.default_rng(seed)
    bands = 0.4 + 0.1 * np.sin(np.arange(n_pixels) / 3)
    return np.round(bands + 0.02 * rng.normal(size=(N_SAMPLES, n_pixels)), 4) + 1e-5


FLUX = absorbances()


@dataclass(frozen=True, kw_only=True)
class Table:
    """What is written, and what has to come back."""

    text: str | dict[str, str]  # of a file, or of the files of a folder by name
    flux: np.ndarray = field(default_factory=lambda: FLUX)
    wavelength: np.ndarray = field(default_factory=lambda: NM)
    unit: str = "nm"
    labels: dict = field(default_factory=dict)
    ids: list | None = field(default_factory=lambda: NAMES)
    groups: list | None = None
    options: dict = field(default_factory=dict)
    asked: str = ""  # words of the error without these options
    unread: str = ""  # words of the warning
    encoding: str = "utf-8"

    def write(self, folder):
        if isinstance(self.text, str):
            path = folder / "table.txt"
            path.write_text(self.text, encoding=self.encoding, newline="")
            return path
        inner = folder / "spectra"
        inner.mkdir()
        for name, text in self.text.items():
            (inner / name).write_text(text, encoding=self.encoding, newline="")
        return inner


def comma(number):
    return "NA" if np.isnan(number) else f"{number:.10g}".replace(".", ",")


def point(number):
    return "" if np.isnan(number) else f"{number:.10g}"


def foss():
    """WinISI: lines about the instrument, semicolons, decimal commas, repeats of a sample."""
    header = ["Sample Number", "Product", "Date", "Protein", "Moisture"]
    lines = [
        "FOSS ISIscan;;;",
        "Instrument;NIRS DS2500;Serial;91775432",
        "",
        ";".join([*header, *(f"{w:g}" for w in NM), ""]),
    ]
    for i in range(N_SAMPLES):
        cells = [str(101 + i // 2), "Wheat", f"12.03.202{i}", comma(PROTEIN[i]), comma(MOISTURE[i])]
        lines.append(";".join([*cells, *map(comma, FLUX[i]), ""]))
    return Table(
        text="\r\n".join(lines) + "\r\n",
        labels={"Protein": PROTEIN, "Moisture": MOISTURE},
        ids=["101", "101", "102", "102"],
        groups=["101", "101", "102", "102"],
        options={"wavelength_unit": "nm", "group": "Sample Number"},
        asked="should say the unit of its wavelengths, got numbers from 1100 to 1144",
        unread=r"Product, Date, lines 1 to 2 before the table \('FOSS ISIscan",
    )


def r_csv():
    """R's `write.csv` of a matrix of spectra, with the names of rows under an empty header."""
    header = ['""', '"Nt"', '"train"', *(f'"spc.{w:g}"' for w in NM)]
    lines = [",".join(header)]
    for i in range(N_SAMPLES):
        nt = "NA" if np.isnan(PROTEIN[i]) else point(PROTEIN[i])
        lines.append(",".join([f'"{NAMES[i]}"', nt, str(i % 2), *map(point, FLUX[i])]))
    return Table(
        text="\n".join(lines) + "\n",
        labels={"Nt": PROTEIN, "train": np.array([0.0, 1.0, 0.0, 1.0])},
        options={"wavelength_unit": "nm"},
        asked="should say the unit",
    )


def r_table():
    """R's `write.table`, whose header has a cell less than the rows, after `make.names`."""
    lines = [" ".join(['"Protein"', *(f'"X{w:g}"' for w in NM)])]
    for i in range(N_SAMPLES):
        protein = "NA" if np.isnan(PROTEIN[i]) else point(PROTEIN[i])
        lines.append(" ".join([f'"{NAMES[i]}"', protein, *map(point, FLUX[i])]))
    return Table(
        text="\n".join(lines) + "\n",
        labels={"Protein": PROTEIN},
        options={"wavelength_unit": "nm"},
        asked="should say the unit",
    )


def unscrambler():
    """The Unscrambler, transposed: one sample a column, with rows of reference values above."""
    lines = [
        "\t".join(["Sample", *NAMES]),
        "\t".join(["Protein", *map(comma, PROTEIN)]),
        "\t".join(["Moisture", *map(comma, MOISTURE)]),
    ]
    lines += [
        "\t".join([comma(w), *map(comma, column)]) for w, column in zip(NM, FLUX.T, strict=True)
    ]
    return Table(
        text="\n".join(lines),
        labels={"Protein": PROTEIN, "Moisture": MOISTURE},
        options={"wavelength_unit": "nm"},
        asked="should say the unit",
    )


def asd():
    """ViewSpec Pro: tabs, one file of the field spectrometer a column."""
    names = [f"soil0000{i}.asd" for i in range(N_SAMPLES)]
    lines = ["\t".join(["Wavelength", *names])]
    lines += [
        "\t".join([f"{w:g}", *map(point, column)])
        for w, column in zip(NM - 700, FLUX.T, strict=True)
    ]
    return Table(
        text="\r\n".join(lines),
        wavelength=NM - 700,
        ids=names,
        options={"wavelength_unit": "nm"},
        asked="should be in Angstrom, from 1,000 to 1,000,000, got numbers from 400 to 444",
    )


def opus():
    """OPUS data point tables: two columns, no header, wavenumbers that fall."""
    order = slice(None, None, -1)
    texts = {
        f"sample{i}.dpt": "".join(
            f"{w:.5f}\t{y:.5f}\n" for w, y in zip(WAVENUMBERS[order], FLUX[i, order], strict=True)
        )
        for i in range(N_SAMPLES)
    }
    return Table(
        text=texts,
        flux=FLUX[:, order],
        wavelength=1e8 / WAVENUMBERS[order],
        unit="Angstrom",
        ids=[f"sample{i}" for i in range(N_SAMPLES)],
        options={"wavelength_unit": "cm-1"},
        asked="should say the unit of its wavelengths, got numbers from 9088 to 9000",
    )


def omnic():
    """OMNIC: two columns between commas with exponents, and no word."""
    order = slice(None, None, -1)
    texts = {
        f"{name}.CSV": "".join(
            f"{w:.6e},{y:.6e}\r\n" for w, y in zip(WAVENUMBERS[order], row[order], strict=True)
        )
        for name, row in zip(NAMES, FLUX, strict=True)
    }
    return Table(
        text=texts,
        flux=FLUX[:, order],
        wavelength=1e8 / WAVENUMBERS[order],
        unit="Angstrom",
        options={"wavelength_unit": "cm-1"},
        asked="should say the unit",
    )


def perkin_elmer():
    """Spectrum: a line about the data, a line of units, two columns."""
    order = slice(None, None, -1)
    lines = ["Created as New Dataset,Sample 007 By Analyst Date Monday", "cm-1,A"]
    lines += [f"{w:.2f},{y:.5f}" for w, y in zip(WAVENUMBERS[order], FLUX[0, order], strict=True)]
    return Table(
        text="\r\n".join(lines),
        flux=FLUX[:1, order],
        wavelength=1e8 / WAVENUMBERS[order],
        unit="Angstrom",
        ids=None,
        unread=r"line 1 before the table \('Created as New Dataset",
    )


def buchi():
    """NIRWare: tabs, decimal commas, wavenumbers with their unit in each header."""
    lines = ["\t".join(["Name", "Note", "Protein", *(f"{w:g} cm-1" for w in WAVENUMBERS)])]
    for i in range(N_SAMPLES):
        cells = [NAMES[i], "dried at 60 °C", comma(PROTEIN[i]), *map(comma, FLUX[i])]
        lines.append("\t".join(cells))
    return Table(
        text="\r\n".join(lines),
        flux=FLUX[:, ::-1],
        wavelength=1e8 / WAVENUMBERS[::-1],
        unit="Angstrom",
        labels={"Protein": PROTEIN},
        encoding="cp1252",
        options={"encoding": "cp1252"},
        asked='UTF-8, got text that is none .* or say encoding="cp1252"',
        unread="Note",
    )


def ocean_optics():
    """SpectraSuite: a head of many lines, markers around the data."""
    lines = [
        "SpectraSuite Data File",
        "++++++++++++++++++++++++++++++++++++",
        "Date: Mon Mar 12 10:05:43 CET 2012",
        "Spectrometer Serial Number: NQ5500123",
        "Integration Time (usec): 100000 (NQ5500123)",
        "Spectra Averaged: 10 (NQ5500123)",
        f"Number of Pixels in Processed Spectrum: {NM.size}",
        ">>>>>Begin Processed Spectral Data<<<<<",
    ]
    lines += [f"{w:.2f}\t{y:.5f}" for w, y in zip(NM, FLUX[0], strict=True)]
    lines.append(">>>>>End Processed Spectral Data<<<<<")
    return Table(
        text="\n".join(lines) + "\n",
        flux=FLUX[:1],
        ids=None,
        options={"wavelength_unit": "nm"},
        asked="should say the unit",
        unread=r"lines 1 to 8 before the table .*, line 21 after the table",
    )


def metrohm():
    """Vision: semicolons, decimal commas, one spectrum a column, the unit in the first header."""
    lines = [";".join(["Wavelength(nm)", *NAMES])]
    lines += [
        ";".join([comma(w), *map(comma, column)]) for w, column in zip(NM, FLUX.T, strict=True)
    ]
    return Table(text="\r\n".join(lines))


def micro_nir():
    """MicroNIR: commas, wavelengths with decimals as headers, the time of each scan."""
    grid = 908.1 + 6.194 * np.arange(NM.size)
    lines = [",".join(["Sample", "Timestamp", "Integration", *(f"{w:.4f}" for w in grid)])]
    for i in range(N_SAMPLES):
        cells = [NAMES[i], f"2021-03-0{i + 1} 10:1{i}:00", "7.5", *map(point, FLUX[i])]
        lines.append(",".join(cells))
    return Table(
        text="\n".join(lines),
        wavelength=grid,
        labels={"Integration": np.full(N_SAMPLES, 7.5)},
        options={"wavelength_unit": "nm"},
        asked="should be in Angstrom, from 1,000 to 1,000,000",
        unread="Timestamp",
    )


def nirscan():
    """NIRscan Nano: columns are quantities of one spectrum, of which one has to be said."""
    header = [
        "Wavelength (nm)",
        "Absorbance (AU)",
        "Reference Signal (unitless)",
        "Sample Signal (unitless)",
    ]
    lines = ["***Scan Config Information***,", "Scan Config Name:,Column 1", ",".join(header)]
    lines += [
        f"{w:.4f},{y:.5f},{20000 + 3 * w:.0f},{9000 + 2 * w:.0f}"
        for w, y in zip(NM, FLUX[0], strict=True)
    ]
    return Table(
        text="\n".join(lines),
        flux=FLUX[:1],
        ids=None,
        options={"flux": "Absorbance (AU)"},
        asked=r"quantities of one spectrum rather than samples, .* flux='Absorbance \(AU\)'",
        unread=r"Reference Signal \(unitless\), Sample Signal \(unitless\), lines 1 to 2",
    )


TABLES = [
    foss,
    r_csv,
    r_table,
    unscrambler,
    asd,
    opus,
    omnic,
    perkin_elmer,
    buchi,
    ocean_optics,
    metrohm,
    micro_nir,
    nirscan,
]
