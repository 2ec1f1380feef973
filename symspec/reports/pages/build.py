"""A report, section by section, from what is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from symspec.hmc.comparison import HmcComparison
from symspec.laplace.posterior import LaplacePosterior
from symspec.mixtures.identity import name_each
from symspec.mixtures.left_out import AnyLeftOut
from symspec.mixtures.posterior import AnyPosterior, list_posteriors
from symspec.reports.contents import MATRICES
from symspec.reports.pages.figures.derivative_figures import Grid, derivative_figures
from symspec.reports.pages.figures.derivatives import (
    Derivatives,
    choose_stars,
    find_derivatives,
    find_training_scatter,
)
from symspec.reports.pages.figures.images import page_style
from symspec.reports.pages.figures.parts import Block, Listing, Page, Paragraph, Section
from symspec.reports.pages.figures.samples import Sample
from symspec.reports.pages.figures.words import Words
from symspec.reports.pages.influence import influence_section
from symspec.reports.pages.model_sections import (
    certificate_section,
    checks_section,
    describe_pixels,
    network_section,
    noise_section,
    provenance_section,
)
from symspec.reports.pages.sample_sections import (
    budget_section,
    calibration_section,
    flag_section,
    residual_section,
    summarize,
)
from symspec.spectra.resampling import Resampled
from symspec.spectra.spectra import Spectra
from symspec.validation.audit import StructureAudit

STARS = Words()
LEAST_SHARE = 0.005  # of missing pixels that is told


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """What a report is about.

    Attributes
    ----------
    laplace : LaplacePosterior or CombinedPosterior
    given : Sample or None
        Predicted stars.
    left_out : LeftOut, CombinedLeftOut or None
        The training stars, each left out in turn.
    of_left_out : Sample or None
        Their predictions.
    spectra : Spectra, Resampled or None
        Those of `given`.
    training : Spectra or None
    chosen : tuple of str
        Names of stars whose derivatives are drawn.
    audit : StructureAudit or None
    comparison : HmcComparison or None
    words : Words
    title : str
    about : mapping of str to str
        More lines for the provenance.
    """

    laplace: AnyPosterior
    given: Sample | None
    left_out: AnyLeftOut | None
    of_left_out: Sample | None
    spectra: Spectra | Resampled | None
    training: Spectra | None
    chosen: tuple[str, ...]
    audit: StructureAudit | None
    comparison: HmcComparison | None
    words: Words
    title: str
    about: Mapping[str, str]

    @cached_property
    def samples(self) -> list[Sample]:
        """All predicted stars."""
        return [sample for sample in (self.given, self.of_left_out) if sample is not None]


def build_page(subject: Subject) -> Page:
    """Its sections from top to bottom, with all figures drawn."""
    laplace = subject.laplace
    words = subject.words
    title = subject.title or f"Error bars of {', '.join(laplace.net.label_names)}"
    spectra = subject.spectra
    with page_style():
        return Page(
            title,
            [
                _summary_section(subject),
                network_section(laplace, words),
                noise_section(laplace, words),
                certificate_section(laplace, words),
                budget_section(subject.samples, words),
                residual_section(subject.samples, words),
                calibration_section(subject.samples, words),
                _derivative_section(subject),
                checks_section(laplace, subject.audit, subject.comparison, words),
                flag_section(subject.samples, words),
                influence_section(
                    laplace,
                    subject.training,
                    subject.left_out,
                    subject.of_left_out,
                    spectra.spectra if isinstance(spectra, Resampled) else spectra,
                    words,
                ),
                provenance_section(laplace, subject.about, words),
            ],
        )


def _summary_section(subject: Subject) -> Section:
    """A paragraph of what was done, and the numbers that a reader looks for first."""
    words = subject.words
    told = [f"{sample.heading}: {sample.origin}" for sample in subject.samples]
    blocks: list[Block] = [
        Paragraph(_describe_model(subject.laplace)),
        Listing([*_list_verdicts(subject.laplace), *told]),
        *(block for sample in subject.samples for block in summarize(sample)),
    ]
    if not subject.samples:
        blocks.append(
            Paragraph(
                f"No {words.many} were given: this page is on the model alone. Sections below say"
                " how to give more."
            )
        )
    return Section("summary", "What was done", blocks)


def _describe_model(laplace: AnyPosterior) -> str:
    """What was done, in a paragraph."""
    net = laplace.net
    each = list_posteriors(laplace)
    taken = f"a spectrum of {describe_pixels(net)} to {', '.join(net.label_names)}"
    if isinstance(laplace, LaplacePosterior):
        first = f"A network of {net.n_params:,} parameters takes {taken}. Its weights are"
        whose = "which the weights leave open"
    else:
        first = (
            f"A mixture of {len(each)} networks takes {taken}, as the mean of theirs. The weights"
            " of each are"
        )
        whose = "which the weights leave open within each network and between the networks"
    exact = all(one.inverse_hessian.accuracy == "exact" for one in each)
    return (
        f"{first} uncertain: their posterior is taken as the normal"
        " distribution around the trained ones whose inverse covariance is the"
        f" {name_each([MATRICES[one.curvature] for one in each])} of the negative log posterior"
        f" (Laplace's approximation), inverted {'exactly' if exact else 'approximately'}"
        f" ({name_each([one.structure for one in each])}). The error of every label is the sum of"
        f" three covariances: that of the model, {whose}; that of the flux, by the network's"
        " derivatives along the spectrum; and the noise, the scatter of training labels."
    )


def _list_verdicts(laplace: AnyPosterior) -> list[str]:
    if isinstance(laplace, LaplacePosterior):
        return [f"Certificate: the weights are {laplace.certificate.verdict}."]
    return [
        f"Certificate of network {k}: the weights are {one.certificate.verdict}."
        for k, one in enumerate(laplace.posteriors, 1)
    ]


def _derivative_section(subject: Subject) -> Section:
    """Derivatives along the spectrum, of the mean spectrum and of some stars."""
    laplace = subject.laplace
    words = subject.words
    given = subject.given
    chosen: dict[str, int] = {}
    if given is not None and subject.spectra is not None:
        names = [given.name(star) for star in range(len(given))]
        chosen = choose_stars(given.prediction.labels, names, subject.chosen)
        # a number alone would not say of what
        chosen = {
            f"{words.one} {name}" if name.isdecimal() else name: star
            for name, star in chosen.items()
        }
    found = find_derivatives(
        laplace,
        "weights" if given is None else given.prediction.center,
        "conditional" if given is None else given.prediction.fill,
        subject.spectra,
        chosen,
    )
    grid = Grid.of(laplace.net, mark_lines=words == STARS)
    return Section(
        "derivatives",
        "Derivatives along the spectrum",
        [
            *_explain_derivatives(subject, found),
            *derivative_figures(grid, found, find_training_scatter(laplace)),
        ],
    )


def _explain_derivatives(subject: Subject, found: list[Derivatives]) -> list[Block]:
    """What they are, and what is not known of them."""
    blocks: list[Block] = [
        Paragraph(
            "What a change of the flux at one pixel does to a label: per unit of flux; times the"
            " scatter of the training spectra at that pixel, which tells pixels that vary from"
            " those that hardly do; and as the pixel's share of the variance that errors of the"
            " flux leave in the label."
        )
    ]
    if subject.spectra is None:
        blocks.append(
            Paragraph(
                "Spectra were not given, so that derivatives are those at the mean training"
                " spectrum, without shares of the flux error budget: 'symspec report MODEL SPECTRA"
                " report.html' adds them, and single ones with '--choose NAME'."
            )
        )
    elif found[0].share is None:
        blocks.append(
            Paragraph(
                "Errors of the flux are unknown, or correlated between pixels, so that no share of"
                " their budget belongs to a single pixel."
            )
        )
    names = subject.laplace.net.label_names
    missing = [
        f"{one.name}: {100 * share:.0f} % of the flux error budget of {name} is what missing"
        " pixels leave open."
        for one in found
        if one.missing_share is not None
        for name, share in zip(names, one.missing_share, strict=True)
        if share >= LEAST_SHARE
    ]
    return [*blocks, Listing(missing)] if missing else blocks
