"""A report of a model's error bars: one HTML page that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from symspec.errors import OptionError
from symspec.hmc.comparison import HmcComparison
from symspec.laplace.prediction import Prediction
from symspec.mixtures.posterior import AnyPosterior
from symspec.reports.pages.build import Subject, build_page
from symspec.reports.pages.figures.parts import Page
from symspec.reports.pages.figures.words import Words
from symspec.reports.pages.figures.zooms import read_bokeh
from symspec.reports.pages.gather import (
    check_given,
    check_single,
    gather_catalogue,
    gather_given,
    gather_left_out,
    leave_out,
)
from symspec.safety.whole_files import check_target, replace_when_complete
from symspec.spectra.resampling import Resampled
from symspec.spectra.spectra import Spectra
from symspec.validation.audit import StructureAudit
from symspec.version import __version__

SUFFIXES = (".html", ".htm")
MOST_BYTES = 6e6  # of a page whose figures can be zoomed
_HERE = Path(__file__).parent
_TEMPLATE = "page.html.j2"


def write_report(
    path: str | os.PathLike[str],
    laplace: AnyPosterior,
    *,
    stars: Spectra | Resampled | None = None,
    prediction: Prediction | None = None,
    true_labels: ArrayLike | None = None,
    ids: Any = None,
    catalogue: str | os.PathLike[str] | None = None,
    training: Spectra | None = None,
    chosen: Sequence[str] = (),
    audit: StructureAudit | None = None,
    comparison: HmcComparison | None = None,
    object_name: str = "star",
    title: str = "",
    about: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write what a referee asks of error bars as one HTML page.

    From top to bottom: what was done, the network, noise and prior, the certificate, the error
    budget by label, residuals, whether the error bars are true, derivatives along the spectrum, the
    audit of structures and the verdict of Hamiltonian Monte Carlo, flags, influential training
    stars, versions and digests. What is not given is named, with the way to give it. The page loads
    nothing from anywhere, and equal arguments give equal bytes. Every number is there with all its
    digits, as the value of a ``<data>`` element.

    Parameters
    ----------
    path : str or path
        The page, .html.
    laplace : LaplacePosterior or CombinedPosterior
    stars : Spectra or Resampled, optional
        Spectra on the network's grid. Their labels, under the network's names, are held against the
        predictions: honest if the network was not trained on them.
    prediction : Prediction, optional
        Of these stars, or of others without spectra; by default the model's of `stars`.
    true_labels : array_like, shape (star, label), optional
        Known labels of `prediction`, NaN where unknown; by default those of `stars`.
    ids : array_like of str, shape (star,), optional
        Their names; by default those of `stars`.
    catalogue : path, optional
        In place of these four, a catalogue that `write_catalogue` or `predict_survey` wrote.
    training : Spectra, optional
        The training stars, as `fit_laplace` had them: each is left out in turn.
    chosen : sequence of str
        Names of `stars` whose derivatives are drawn; by default three along the first label.
    audit : StructureAudit, optional
    comparison : HmcComparison, optional
        Both are of one network, not of a mixture.
    object_name : str, default "star"
        What the spectra are of: "sample", or with a plural of its own "ox/oxen".
    title : str, optional
    about : mapping of str to str, optional
        More lines for the provenance.
    overwrite : bool, default False
        Whether an existing file is replaced.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    OptionError
        The suffix is another one, arguments exclude each other, or no star is as `chosen` says.
    ShapeError, DataError
        Stars, predictions or training stars do not fit the model or each other.
    FileFormatError
        `catalogue` is none of symspec's.
    FileKeptError
        There is a file already, and `overwrite` is False.

    Examples
    --------
    >>> import numpy as np
    >>> import symspec as ss
    >>> stars = ss.datasets.generated_stars(60, n_pixels=8, rng=np.random.default_rng(0))
    >>> net = ss.mlp([8, 3], label_names=stars.label_names, label_units=stars.label_units)
    >>> net = ss.standardized(net, stars.flux, stars.labels)
    >>> noise, prior = stars.labels.std(axis=0), ss.scaled_prior(net, 1.0)
    >>> reg = ss.Regression(net, sigma_noise=noise, prior_precision=prior)
    >>> theta = ss.polish(reg, net.init_params(np.random.default_rng(1)), stars).theta
    >>> laplace = ss.fit_laplace(reg, theta, stars)
    >>> ss.write_report("report.html", laplace, training=stars).name
    'report.html'
    """
    path = Path(path)
    check_report(path, overwrite=overwrite)
    words = Words.of(object_name)
    check_given(
        catalogue, chosen, stars=stars, prediction=prediction, true_labels=true_labels, ids=ids
    )
    check_single(laplace, audit=audit, comparison=comparison)
    lines = dict(about or {})
    if catalogue is None:
        given = gather_given(laplace, words, stars, prediction, true_labels, ids)
    else:
        given, of_catalogue = gather_catalogue(laplace, words, catalogue)
        lines |= of_catalogue
    center = "weights" if given is None else given.prediction.center
    left_out = None if training is None else leave_out(laplace, words, training)
    if training is None or left_out is None:
        of_left_out = None
    else:
        of_left_out = gather_left_out(laplace, left_out, words, training, center)
    subject = Subject(
        laplace=laplace, given=given, left_out=left_out, of_left_out=of_left_out, spectra=stars,
        training=training,
        chosen=tuple(chosen), audit=audit, comparison=comparison, words=words, title=title,
        about=lines,
    )  # fmt: skip
    return save_page(path, build_page(subject), overwrite=overwrite)


def save_page(path: Path, page: Page, *, overwrite: bool) -> Path:
    """Write a page; its figures stand still if it would be too large otherwise.

    Raises
    ------
    FileKeptError
        There is a file already, and `overwrite` is False.
    """
    html = render(page)
    if len(html) > MOST_BYTES:
        html = render(page.without_zooms())
    with replace_when_complete(path, overwrite=overwrite) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def check_report(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Refuse, before any work, a page that could not be written.

    Raises
    ------
    OptionError, FileKeptError, FileNotFoundError
        As `write_report`.
    """
    if not os.fspath(path).lower().endswith(SUFFIXES):
        raise OptionError(f"{path} should end in .html, the format of a report: rename it.")
    check_target(path, overwrite=overwrite)


def render(page: Page) -> str:
    """The page as HTML: every text escaped, no script but its own, nothing loaded."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["digits"] = repr
    scripts = [read_bokeh(), (_HERE / "page.js").read_text()] if page.zooms else []
    return environment.get_template(_TEMPLATE).render(
        page=page,
        policy=_build_policy(scripts),
        version=__version__,
        style=Markup((_HERE / "page.css").read_text()),
        scripts=[Markup(_close_no_script(script)) for script in scripts],
        items=[(zoom.name, Markup(_as_json(zoom.item))) for zoom in page.zooms],
    )


def _build_policy(scripts: Sequence[str]) -> str:
    """Content security policy: no network at all, and no script but these."""
    hashes = [
        base64.b64encode(hashlib.sha256(_close_no_script(script).encode()).digest()).decode()
        for script in scripts
    ]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:;"
        " font-src data:; base-uri 'none'; form-action 'none'"
    )


def _close_no_script(script: str) -> str:
    """A script without what would end its element."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _as_json(item: Any) -> str:
    """JSON for inside an element: without the signs that begin another."""
    text = json.dumps(item, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
