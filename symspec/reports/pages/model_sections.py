"""Sections of a page on the model: network, noise and prior, certificate, checks, provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from symspec.hmc.comparison import AGREE, THRESHOLDS, HmcComparison
from symspec.laplace.certificate import Certificate
from symspec.laplace.posterior import LaplacePosterior
from symspec.mixtures.identity import hash_model, hash_networks, name_each
from symspec.mixtures.posterior import AnyPosterior, CombinedPosterior, list_posteriors
from symspec.networks.network import Network
from symspec.reports.contents import MATRICES, list_labels, list_layers
from symspec.reports.hmc_plots import plot_hmc_intervals
from symspec.reports.pages.figures.images import adapt_axes, as_image, new_figure
from symspec.reports.pages.figures.parts import (
    Block,
    Cell,
    Figure,
    Number,
    Paragraph,
    Part,
    Section,
    Table,
)
from symspec.reports.pages.figures.words import Words, count, number, numbers
from symspec.reports.plots import plot_structure_audit
from symspec.reports.tables import format_noise
from symspec.spectra.spectra import with_unit
from symspec.validation.audit import INSIDE, StructureAudit
from symspec.workers.versions import find_versions


def describe_pixels(net: Network) -> str:
    """Number of pixels, and the range of wavelengths where it is known."""
    text = f"{net.n_pixels:,} pixels"
    if net.wavelength is None:
        return text
    low, high = net.wavelength.min(), net.wavelength.max()
    medium = f", in {net.wavelength_medium}" if net.wavelength_medium else ""
    return f"{text} from {low:.6g} to {high:.6g} {net.wavelength_unit}{medium}"


def network_section(laplace: AnyPosterior, words: Words) -> Section:
    """Layers and labels; of a mixture one row a network first."""
    if isinstance(laplace, LaplacePosterior):
        return Section("network", "The network", _show_network(laplace, words))
    blocks: list[Block] = [
        Paragraph(
            f"A mixture of {len(laplace.posteriors)} networks: each counts by its share, labels are"
            " the mean of theirs, and intervals those of the mixture of their distributions."
        ),
        _tabulate_networks(laplace, words),
    ]
    parts = _show_each(laplace, lambda one: _show_network(one, words))
    return Section("network", "The networks", blocks, parts)


def _tabulate_networks(laplace: CombinedPosterior, words: Words) -> Table:
    rows: list[list[Cell]] = []
    for k, (share, one) in enumerate(zip(laplace.weights, laplace.posteriors, strict=True), 1):
        evidence = np.nan
        if one.inverse_hessian.is_complete:
            evidence = one.log_marginal_likelihood()
        counted = [
            number(float(share)),
            count(one.net.n_params),
            Number(evidence, f"{evidence:,.1f}"),
        ]
        rows.append([str(k), one.certificate.verdict, format_noise(one.reg), *counted])
    columns = ["network", "its weights are", "sigma_noise", "share", "parameters", "evidence"]
    return Table(
        caption="Networks",
        columns=columns,
        rows=rows,
        note="evidence: its logarithm, of the training set, in nats, by which networks of the same"
        f" training {words.many} are compared.",
    )


def _show_each(
    laplace: CombinedPosterior, show: Callable[[LaplacePosterior], Sequence[Block]]
) -> list[Part]:
    """What is said of each network of a mixture, with its tables folded."""
    parts = []
    for k, one in enumerate(laplace.posteriors, 1):
        blocks = [
            replace(block, is_folded=True) if isinstance(block, Table) else block
            for block in show(one)
        ]
        parts.append(Part(f"Network {k}", blocks))
    return parts


def _show_all(
    name: str,
    heading: str,
    laplace: AnyPosterior,
    show: Callable[[LaplacePosterior], Sequence[Block]],
) -> Section:
    """A section on one network, or a part of it for each of several."""
    if isinstance(laplace, LaplacePosterior):
        return Section(name, heading, show(laplace))
    return Section(name, heading, [], _show_each(laplace, show))


def _show_network(laplace: LaplacePosterior, words: Words) -> list[Block]:
    net = laplace.reg.net
    columns, rows = list_layers(net)
    label_columns, label_rows = list_labels(net, laplace)
    return [
        Paragraph(
            f"It takes spectra of {describe_pixels(net)} to {_count_labels(net)}, with"
            f" {net.n_params:,} parameters."
        ),
        Table(caption="Layers", columns=columns, rows=rows),
        Table(
            caption="Labels",
            columns=label_columns,
            rows=label_rows,
            note=f"sigma_noise: the scatter of training labels; the range is that of the"
            f" training {words.many}.",
        ),
    ]


def noise_section(laplace: AnyPosterior, words: Words) -> Section:
    """Noise of the labels, and the prior of each block of weights."""
    return _show_all("noise", "Noise and prior", laplace, lambda one: _show_noise(one, words))


def _show_noise(laplace: LaplacePosterior, words: Words) -> list[Block]:
    _, rows = list_layers(laplace.reg.net, laplace.reg)
    priors: list[list[Cell]] = [[row[0], row[1], row[-1]] for row in rows if row[-1]]
    return [
        Paragraph(f"Noise of the labels: {words.adapt(laplace.reg.noise.describe())}."),
        Paragraph(
            "The prior of the weights is normal around 0, with these standard deviations. Log"
            f" evidence of the training set: {_describe_evidence(laplace)}."
        ),
        Table(caption="Prior", columns=["layer", "weights", "standard deviations"], rows=priors),
    ]


def certificate_section(laplace: AnyPosterior, words: Words) -> Section:
    """Whether the weights are at a minimum, and what a step there would change."""
    heading = "Certificate of the minimum"
    explained = Paragraph(
        "Error bars hold around a minimum of the loss. Where training was stopped early,"
        " they are those of the network linearised at its weights, and labels of that"
        f" network at its own minimum are off by the shift of each {words.one}, which"
        " flags NOT_AT_MINIMUM where it matters."
    )
    if isinstance(laplace, LaplacePosterior):
        verdict, *tables = _show_certificate(laplace, words)
        return Section("certificate", heading, [verdict, explained, *tables])
    parts = _show_each(laplace, lambda one: _show_certificate(one, words))
    return Section("certificate", heading, [explained], parts)


def _show_certificate(laplace: LaplacePosterior, words: Words) -> list[Block]:
    certificate = laplace.certificate
    net = laplace.reg.net
    kind = "text" if certificate.is_stationary else "warning"
    rows: list[list[Cell]] = [
        [with_unit(name, unit), number(shift), number(shift / spread)]
        for name, unit, shift, spread in zip(
            net.label_names, net.label_units, certificate.newton_shift, laplace.reg.sigma_noise,
            strict=True,
        )
    ]  # fmt: skip
    return [
        Paragraph(f"The weights are {certificate.message}", kind),
        _tabulate_certificate(certificate),
        Table(
            caption=f"What a Newton step would change: root mean square over training {words.many}",
            columns=["label", "shift", "in units of sigma_noise"],
            rows=rows,
        ),
    ]


def _tabulate_certificate(certificate: Certificate) -> Table:
    rows: list[list[Cell]] = [
        ["largest entry of the gradient [nats]", number(certificate.gradient_norm), "-"],
        ["Newton decrement [nats]", number(certificate.newton_decrement), "at most 0.01"],
    ]
    known = certificate.known
    if known is not None and np.isfinite(known.smallest_ratio):
        rows.append(["lowest curvature over that of A", number(known.smallest_ratio), "above 0"])
        rows.append(["its error bound", number(known.smallest_ratio_error), "below the ratio"])
    return Table(caption="Tests", columns=["quantity", "found", "at a minimum"], rows=rows)


def checks_section(
    laplace: AnyPosterior,
    audit: StructureAudit | None,
    comparison: HmcComparison | None,
    words: Words,
) -> Section:
    """The audit of structures, and Hamiltonian Monte Carlo's verdict, as far as they are there."""
    heading = "Structure audit and Hamiltonian Monte Carlo"
    if isinstance(laplace, LaplacePosterior):
        verdicts = laplace.hmc_verdict if comparison is None else comparison.verdict
        blocks = [
            _describe_inverse(laplace, words),
            *_show_audit(audit, words),
            *_show_verdict(laplace.net, verdicts),
            *_show_comparison(comparison, words),
        ]
        return Section("checks", heading, blocks)
    advice = Paragraph(
        "Both are checks of one network: 'symspec audit MODEL TRAINING --network 1 --report"
        " audit.html' and 'symspec hmc MODEL TRAINING draws.nc --network 1 --report hmc.html'."
    )
    parts = _show_each(laplace, lambda one: _check_one(one, words))
    return Section("checks", heading, [advice], parts)


def _check_one(laplace: LaplacePosterior, words: Words) -> list[Block]:
    """The inverse Hessian of one network of a mixture, and its verdict if it has one."""
    verdict = _show_verdict(laplace.net, laplace.hmc_verdict) if laplace.hmc_verdict else []
    return [_describe_inverse(laplace, words), *verdict]


def _describe_inverse(laplace: LaplacePosterior, words: Words) -> Paragraph:
    return Paragraph(
        f"The inverse Hessian is {laplace.inverse_hessian.accuracy}, by"
        f" {words.adapt(laplace.reason).rstrip('.')}."
    )


def _show_audit(audit: StructureAudit | None, words: Words) -> list[Block]:
    if audit is None:
        return [
            Paragraph(
                "Structures were not audited for this page: 'symspec audit MODEL TRAINING --report"
                " audit.html' holds every approximation against the exact error bars."
            )
        ]
    rows: list[list[Cell]] = [
        [
            one.structure,
            one.label,
            one.group,
            count(one.n_stars),
            *numbers([one.median, one.minimum, one.maximum]),
        ]
        for one in audit.summarize()
    ]
    figure = new_figure((2.6 + 4.4 * len(audit.label_names), 4.2))
    axes = figure.subplots(1, len(audit.label_names), sharey=True, squeeze=False).ravel().tolist()
    plot_structure_audit(audit, axes=axes)
    adapt_axes(figure, words)
    skipped = "".join(f" {name} was left out: {why}." for name, why in audit.skipped.items())
    table = Table(
        caption=f"Model error by each structure over the exact one ({audit.exact})",
        columns=["structure", "label", "group", words.many, "median", "smallest", "largest"],
        rows=rows,
        note=f"outside: farther from the training set than {INSIDE:.0%} of its own"
        f" {words.many}.{words.adapt(skipped)}",
    )
    alt = f"Ratio of each structure's standard deviation to that of {audit.exact}, by distance."
    return [
        Figure(
            caption="Standard deviations of the model by each structure, over the exact ones,"
            f" against the distance from the training {words.many}.",
            images=[as_image(figure, alt)],
            table=table,
            is_wide=True,
        )
    ]


def _show_verdict(net: Network, verdicts: Sequence[str]) -> list[Block]:
    if not verdicts:
        return [
            Paragraph(
                "Hamiltonian Monte Carlo was not run on this model: 'symspec hmc MODEL TRAINING"
                " draws.nc --checked-model checked.h5' does, and puts its verdict on the model."
            )
        ]
    listed = zip(net.label_names, verdicts, strict=True)
    text = "; ".join(f"{name}: {verdict}" for name, verdict in listed)
    kind = "text" if set(verdicts) == {AGREE} else "warning"
    return [Paragraph(f"Verdict of Hamiltonian Monte Carlo: {text}.", kind)]


def _show_comparison(comparison: HmcComparison | None, words: Words) -> list[Block]:
    if comparison is None:
        return []
    rows: list[list[Cell]] = []
    for c, name in enumerate(comparison.label_names):
        ratio = comparison.sd_ratio[:, c]
        numbers_of_label = [
            np.median(comparison.laplace_sd[:, c]),
            np.median(comparison.hmc_sd[:, c]),
            np.median(ratio),
            np.median(comparison.sd_ratio_error[:, c]),
            np.median(comparison.shift[:, c]),
            comparison.rhat[:, c].max(),
            comparison.ess[:, c].min(),
        ]
        title = with_unit(name, comparison.label_units[c])
        rows.append([title, *numbers(map(float, numbers_of_label)), comparison.verdict[c]])
    n_labels = len(comparison.label_names)
    figure = new_figure((11.0, 0.5 + 2.7 * n_labels))
    plot_hmc_intervals(
        comparison, axes=figure.subplots(n_labels, 1, squeeze=False).ravel().tolist()
    )
    adapt_axes(figure, words)
    columns = ["label", "Laplace's sd", "HMC's sd", "ratio", "its error", "shift [sd]"]
    table = Table(
        caption=f"Medians over {words.count(len(comparison.hmc_mean))}; {comparison.varied}",
        columns=[*columns, "largest R-hat", "smallest ESS", "verdict"],
        rows=rows,
        note=words.adapt(THRESHOLDS),
    )
    alt = "; ".join(
        f"{name}: {verdict}"
        for name, verdict in zip(comparison.label_names, comparison.verdict, strict=True)
    )
    return [
        Figure(
            caption="Intervals of Laplace and of Hamiltonian Monte Carlo side by side, relative to"
            " Laplace's mean.",
            images=[as_image(figure, f"Intervals of Laplace and Hamiltonian Monte Carlo. {alt}.")],
            table=table,
            is_wide=True,
        )
    ]


def provenance_section(laplace: AnyPosterior, about: Mapping[str, str], words: Words) -> Section:
    """Versions, digests, and what the caller says of files."""
    each = list_posteriors(laplace)
    rows = {
        **about,
        **{f"version of {name}": number for name, number in find_versions().items()},
        "curvature": name_each([MATRICES[one.curvature] for one in each]),
        "inverted by": name_each([words.adapt(one.reason) for one in each]),
        "passes through the network": name_each([f"{o.backend}, {o.dtype}" for o in each]),
        "digest of the network": hash_networks(laplace),
        "digest of the model": hash_model(laplace),
    }
    return Section(
        "provenance",
        "Provenance",
        [
            Paragraph(
                "Catalogues of 'symspec errors' hold the same digests: equal ones mean equal"
                " numbers. Nothing on this page depends on when or where it was written."
            ),
            Table(
                caption="Where these numbers come from",
                columns=["what", "is"],
                rows=[[name, str(value)] for name, value in rows.items()],
            ),
        ],
    )


def _describe_evidence(laplace: LaplacePosterior) -> str:
    if not laplace.inverse_hessian.is_complete:
        return "unknown, as the inverse Hessian is of a subset"
    return f"{laplace.log_marginal_likelihood():,.1f} nats"


def _count_labels(net: Network) -> str:
    return "1 label" if net.n_labels == 1 else f"{net.n_labels} labels"
