"""Reports as pages: what a referee asks of error bars, as one HTML file that loads nothing.

`write_report` (`symspec.write_report`, `symspec report`) puts a model and what else is there on one
page, from a paragraph of what was done to the digests of all that it comes from;
`write_validation_report` (`symspec validate --report`) a cross-validation. `words` and
`parts` know nothing of HTML, figures come as SVG inside the page, and spectra of many pixels as
figures that can be zoomed, too. The page reads on paper, on a telephone, and aloud: every figure
has its numbers as a table.
"""

from symspec.reports.pages.validation import write_validation_report
from symspec.reports.pages.write import SUFFIXES, check_report, write_report

__all__ = ["SUFFIXES", "check_report", "write_report", "write_validation_report"]
