"""The command line: one file a command in `commands`, which parses, calls and prints.

::

    symspec demo                             all of it on the MILES stars
    symspec train stars.h5 model.h5          from labelled spectra: which network, noise and prior
    symspec fit net.keras stars.h5 model.h5  error bars for a network that came trained, or several
    symspec validate stars.h5 out.fits       labels of held-out stars, by cross-validation
    symspec errors model.h5 new.h5 out.fits  labels with their error budget, any number of stars
    symspec influence model.h5 stars.h5      which training stars move labels, and suspicious ones
    symspec audit model.h5 stars.h5          what approximations of the inverse Hessian get wrong
    symspec hmc model.h5 stars.h5 draws.nc   the check by Hamiltonian Monte Carlo
    symspec jacobian model.h5 new.h5 J.h5    d label / d flux of every star
    symspec report model.h5 out.fits r.html  all that a referee asks, as one page
    symspec info FILE                        what a model, a network or a file of spectra holds

Each has `--help` with an example. A model may be of several networks (`help(symspec.mixtures)`).
Spectra are HDF5, npz, FITS, CSV, Excel, JCAMP-DX or folders; `--read OPTION=VALUE` and
`--uncertainty` say how to read them (`help(symspec.spectra.readers)`). Catalogues are FITS, ECSV,
HDF5 or NetCDF by their suffix. Outputs appear when they are complete, and replace nothing without
`--overwrite`; long runs go on where they were interrupted (`help(symspec.files)`).

An error that you can mend is one line on stderr and exit code 1. Ctrl-C and SIGTERM end a command
within two seconds, with one line that says how to go on, and exit codes 130 and 143; a second one
ends it at once. Where the disk is full, the result of `train` and `hmc` is kept elsewhere.

`python -m symspec.cli` is the same without installation.
"""

from symspec.cli.app import main

__all__ = ["main"]
