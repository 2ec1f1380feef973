"""Random tables of spectra as text, with what has to come back; and tables that are damaged."""

from dataclasses import dataclass

import numpy as np

SIGNS = {"comma": ",", "semicolon": ";", "tab": "\t", "space": " "}
HEADERS = {
    "plain": lambda text, unit: text,
    "unit": lambda text, unit: f"{text} {unit}",
    "unit-glued": lambda text, unit: f"{text}{unit}",
    "unit-before": lambda text, unit: f"nm{text}" if unit == "nm" else text,
    "X": lambda text, unit: f"X{text}",
    "spc.": lambda text, unit: f"spc.{text}",
    "abs_ref": lambda text, unit: f"scan.{text}_ref",
}
METADATA = (
    ["Instrument", "NIR 5000"],
    ["Operator: A. Chemist"],
    ["Range", "400", "2500"],
    ["Date", "2021-03-04", "", ""],
    ["*** configuration ***"],
    [""],
)
FOOTERS = (["End of data"], [">>>>>End<<<<<"])


@dataclass(frozen=True, kw_only=True)
class RandomTable:
    """Cells of a table, how they are written, and the numbers in it."""

    rows: list[list[str]]
    n_before: int
    n_after: int
    separator: str
    flux: np.ndarray
    wavelength: np.ndarray
    labels: dict
    ids: list | None
    kind: str

    def text(self, rows=None):
        return "\n".join(SIGNS[self.separator].join(row) for row in rows or self.rows)


def draw_table(rng):
    """A table as a program may write it."""
    separator = str(rng.choice(list(SIGNS)))
    decimal = "." if separator == "comma" else str(rng.choice([".", ","]))
    by_column = bool(rng.integers(2))
    n_stars = int(rng.integers(3, 7))
    n_pixels = int(rng.integers(8, 40))
    wavelength, unit = draw_grid(rng, n_pixels)
    flux = np.round(rng.normal(0.5, 0.2, (n_stars, n_pixels)), 4) + 1e-5

    def spell(number):
        return f"{number:.10g}".replace(".", decimal)

    style = str(rng.choice(list(HEADERS)))
    names = [f"{rng.choice(['S', 'wheat ', 'a'])}{i}x" for i in range(n_stars)]
    if separator == "space":
        names = [name.replace(" ", "_") for name in names]
    labels = draw_labels(rng, n_stars)
    header = [spell(w) for w in wavelength]
    numbers = [[spell(f) for f in row] for row in flux]
    columns = {
        label: ["NA" if np.isnan(value) else spell(value) for value in values]
        for label, values in labels.items()
    }
    if by_column:
        corner = f"Wavelength({unit})" if separator == "space" else f"Wavelength ({unit})"
        rows = [[label, *cells] for label, cells in columns.items()]
        rows.append([corner, *names])
        rows += [[w, *column] for w, column in zip(header, zip(*numbers, strict=True), strict=True)]
        style = "columns"
    else:
        if separator == "space" and style == "unit":
            style = "unit-glued"
        pixels = [HEADERS[style](text, unit) for text in header]
        rows = [["Sample", *columns, *pixels]]
        for i in range(n_stars):
            rows.append([names[i], *(cells[i] for cells in columns.values()), *numbers[i]])
    before = [METADATA[i] for i in rng.integers(0, len(METADATA), rng.integers(0, 4))]
    after = [FOOTERS[i] for i in rng.integers(0, len(FOOTERS), rng.integers(0, 2))]
    if separator == "space":
        before = [[cell.replace(" ", "_") for cell in row] for row in before]
        after = [[cell.replace(" ", "_") for cell in row] for row in after]
    return RandomTable(
        rows=[*before, *rows, *after],
        n_before=len(before),
        n_after=len(after),
        separator=separator,
        flux=flux,
        wavelength=wavelength,
        labels=labels,
        ids=names,
        kind=f"{separator}, {style}",
    )


def draw_grid(rng, n):
    """Wavelengths in nm, or wavenumbers in cm-1, that rise or fall, perhaps with decimals."""
    if rng.integers(2):
        grid = (
            700 + int(rng.integers(0, 900)) + float(rng.choice([1, 2, 0.5, 6.194])) * np.arange(n)
        )
        unit = "nm"
    else:
        grid = 4000 + 2 * int(rng.integers(0, 900)) + float(rng.choice([4, 7.714])) * np.arange(n)
        unit = "cm-1"
    grid = np.round(grid, 3)
    return (grid[::-1] if rng.integers(2) else grid), unit


def draw_labels(rng, n):
    names = rng.permutation(["Protein", "pH", "N (%)", "C18"])[: rng.integers(0, 4)]
    labels = {str(name).replace(" ", "_"): np.round(rng.normal(10, 3, n), 2) for name in names}
    for values in labels.values():
        values[rng.integers(n)] = np.nan if rng.integers(2) else values[0]
    return labels


DAMAGES = ("cell lost", "cell twice", "two marks", "glued commas", "pixels exchanged", "text")


def damage(table, kind, rng):
    """Text of the table with one mistake, after which it may no longer be read."""
    rows = [list(row) for row in table.rows]
    inner = rows[table.n_before : len(rows) - table.n_after]
    width = max(map(len, inner))
    n_header = len(table.labels) + 1 if "columns" in table.kind else 1
    body = [row for row in inner if len(row) == width][n_header:]
    row = body[rng.integers(len(body))]
    at = int(rng.integers(max(1, width - table.flux.shape[1]), width))
    if kind == "cell lost":
        del row[at]
    elif kind == "cell twice":
        row.insert(at, row[at])
    elif kind == "two marks":
        swap = str.maketrans(".,", ",.")
        row[at] = row[at].translate(swap)
        if table.separator == "comma":
            row[at] = f'"{row[at]}"'
    elif kind == "glued commas":
        commas = [[cell.replace(".", ",") for cell in row] for row in rows]
        return "\n".join(",".join(row) for row in commas)
    elif kind == "pixels exchanged":
        row[at] = "3" if "columns" in table.kind else row[at]
        header = inner[0]
        if "columns" in table.kind:
            body[0][0], body[2][0] = body[2][0], body[0][0]
        else:
            header[-1], header[-3] = header[-3], header[-1]
    else:
        row[at] = "saturated"
    return table.text(rows)
