"""The command symspec info: what a file is."""

from __future__ import annotations

from symspec.cli.options import (
    AnyFile,
    Reading,
    Uncertainty,
    parse_reading,
)

EXAMPLES = "Example: [bold]symspec info model.h5[/]"


def info(
    file: AnyFile,
    uncertainty: Uncertainty = None,
    read: Reading = None,
) -> None:
    """Tell what a file is: a model with error bars, a network, also of another program, or spectra."""
    import h5py

    from symspec.files import archives
    from symspec.files.importers.descriptions import describe_file, is_foreign_network
    from symspec.reports import tables
    from symspec.spectra.readers.read import read_spectra

    console = tables.open_console()
    kind = None
    has_regression = False
    if file.is_file() and h5py.is_hdf5(file):
        with h5py.File(file, "r") as opened:
            kind = opened.attrs.get("format")
            has_regression = "regression" in opened
        kind = kind.decode() if isinstance(kind, bytes) else kind
    if kind == archives.LAPLACE:
        tables.print_laplace(console, archives.read_laplace(file), str(file))
    elif kind == archives.NETWORK:
        reg = archives.read_regression(file)[0] if has_regression else None
        net = archives.read_network(file)[0] if reg is None else reg.net
        tables.print_network(console, net, reg, str(file))
    elif is_foreign_network(file):
        tables.print_foreign_network(console, describe_file(file), str(file))
    else:
        tables.print_spectra(
            console, read_spectra(file, **parse_reading(uncertainty, read)), str(file)
        )
