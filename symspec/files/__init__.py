"""Files: results and networks to files and back; runs of any length.

- `write_network`, `symspec.read_network`, `read_regression`: a network with its weights, and noise
  and prior if given. `write_laplace`, `read_laplace`: a posterior with its inverse Hessian, or a
  mixture of several (`symspec.combine`), which all commands take but those on one network. These
  archives are HDF5 with plain arrays, numbers and strings; reading runs nothing that is in them.
- `write_catalogue`: predictions, one row a star, as FITS, ECSV, HDF5 or NetCDF by the suffix;
  `catalogue_dataset` is the same in memory. The same input gives the same bytes.
- `predict_survey`, `write_jacobian`: catalogue or Jacobians of spectra of any length, from a file,
  a folder of one file a star, or memory, in the memory of some thousand spectra.

Outputs appear when they are complete, and replace nothing without ``overwrite=True``.

>>> import numpy as np
>>> import symspec as ss
>>> net = ss.mlp([20, 4, 3], activation="tanh", label_names=["TEFF", "LOGG", "FE_H"])
>>> theta = net.init_params(np.random.default_rng(0))
>>> ss.write_network("network.h5", net, theta)
>>> net, theta = ss.read_network("network.h5")
>>> net
Network(20-4-3, 99 parameters, labels TEFF, LOGG, FE_H)

Long runs
---------
Until the output NAME of `predict_survey` or `write_jacobian` (`symspec errors`, `symspec jacobian`)
is whole, finished pieces lie in the folder NAME.partial, for anyone to read. Interrupted, or
killed, the same call goes on from there and ends with the same bytes. Another model, other spectra
or other options are recognised and refused; ``restart=True`` (`--restart`) starts again.
``scheduler="local"`` (`--scheduler local`) works with all cores, ``"tcp://..."`` with the workers
of a cluster, see `help(symspec.workers)`.

``resample="flux_conserving"`` (`--resample flux_conserving`) takes spectra to the network's
wavelengths. ``calibration=`` (`--calibrate-on stars.h5`) puts `TEFF_CAL_ERR`, scaled to the scatter
of stars with known labels that were not trained on, beside `TEFF_ERR`.

`fit_laplace` and `laplace.predict` keep their own progress with ``resume="folder"``, see
`help(symspec.laplace)`. Networks of other programs: `help(symspec.files.importers)`.
"""

from symspec.files.archives import read_laplace, read_regression, write_laplace, write_network
from symspec.files.catalogues import catalogue_dataset, write_catalogue
from symspec.files.jacobians import write_jacobian
from symspec.files.surveys import predict_survey

__all__ = [
    "catalogue_dataset",
    "predict_survey",
    "read_laplace",
    "read_regression",
    "write_catalogue",
    "write_jacobian",
    "write_laplace",
    "write_network",
]
