"""Reports: figures, screens, and tables by star. `import symspec` never imports them.

Plots take Axes and return Axes: they draw what is given and compute next to nothing.
`save_figure(figure, path)` writes one as PNG, PDF or SVG. Tables for the screen are rich's, printed
on `open_console()`; tables by star go to ECSV or CSV.

- `symspec.reports.pages.write_report`: one page on a model's error bars, for a referee.
- `plot_predicted_against_true`, `plot_sensitivity`: predictions beside known labels; the derivative
  of each label along the spectrum.
- `plot_structure_audit`, `write_audit`: what `symspec.audit_structures` found.
- `plot_hmc_intervals`, `plot_hmc_densities`, `plot_hmc_traces`, `comparison_table`,
  `print_comparison`, `write_comparison`, `write_draws`: what `symspec.compare_hmc` found.

>>> import numpy as np
>>> from matplotlib.figure import Figure
>>> from symspec.reports import plot_sensitivity, save_figure
>>> axes = Figure().subplots(2, sharex=True)
>>> wavelength = np.linspace(5150, 5300, 60)  # the Mg b triplet is marked
>>> jacobian = np.exp(-0.5 * ((wavelength - 5183.6) / [[5], [3]]) ** 2)  # (label, pixel)
>>> names, units = ["TEFF", "LOGG"], ["K", "dex"]
>>> axes = plot_sensitivity(jacobian, wavelength, label_names=names, label_units=units, axes=axes)
>>> save_figure(axes[0].figure, "sensitivity.png").name
'sensitivity.png'
"""

from symspec.reports.hmc_plots import plot_hmc_densities, plot_hmc_intervals, plot_hmc_traces
from symspec.reports.hmc_tables import comparison_table, print_comparison
from symspec.reports.plots import (
    check_figure_suffix,
    label_axes,
    plot_predicted_against_true,
    plot_structure_audit,
    save_figure,
)
from symspec.reports.sensitivity import plot_sensitivity
from symspec.reports.star_tables import write_audit, write_comparison, write_draws
from symspec.reports.tables import open_console, outlier_table

__all__ = [
    "check_figure_suffix",
    "comparison_table",
    "label_axes",
    "open_console",
    "outlier_table",
    "plot_hmc_densities",
    "plot_hmc_intervals",
    "plot_hmc_traces",
    "plot_predicted_against_true",
    "plot_sensitivity",
    "plot_structure_audit",
    "print_comparison",
    "save_figure",
    "write_audit",
    "write_comparison",
    "write_draws",
]
