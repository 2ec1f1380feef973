"""The page of `--report`, which several commands write last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from symspec.mixtures.posterior import AnyPosterior
from symspec.reports.pages import write_report
from symspec.reports.tables import open_console, print_written


def write_page(
    page: Path | None,
    laplace: AnyPosterior | None,
    *,
    files: dict[str, Path],
    object_name: str,
    overwrite: bool,
    **options: Any,
) -> None:
    """Write a report and say so, if one is asked for.

    Parameters
    ----------
    page : Path or None
    laplace : LaplacePosterior, CombinedPosterior or None
    files : dict of str to Path
        What the numbers come from, for the provenance.
    object_name : str
    overwrite : bool
    **options
        Of `symspec.write_report`.
    """
    if page is None or laplace is None:
        return
    about = {f"file of {what}": path.name for what, path in files.items()}
    write_report(
        page, laplace, object_name=object_name, about=about, overwrite=overwrite, **options
    )
    print_written(open_console(), "report", page)
