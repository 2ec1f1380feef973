"""What people look at: figures, screens, tables by star. Never imported by `import symspec`."""

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
from symspec.reports.tables import open_console

__all__ = [
    "check_figure_suffix",
    "comparison_table",
    "label_axes",
    "open_console",
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
