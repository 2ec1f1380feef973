"""Results and networks to files and back; runs of any length."""

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
