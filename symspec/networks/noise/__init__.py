"""Noise: the likelihood of labels, given what the network says of them.

`GaussianNoise` is normal, with one standard deviation a label or a full covariance; `StudentTNoise`
has wider tails, so that outliers among the labels pull less; with `PredictedNoise` the network says
how wide it is for each star. The errors that a star's labels came with are added to each, see
`symspec.safety.label_errors`.

A further noise is a subclass of `Noise`, and a line of `NOISES` by which archives find it again.
"""

from symspec.networks.noise.gaussian import GaussianNoise
from symspec.networks.noise.noise import LOG_2PI, Noise
from symspec.networks.noise.predicted import PredictedNoise
from symspec.networks.noise.student_t import StudentTNoise

NOISES: dict[str, type[Noise]] = {
    noise.kind: noise for noise in (GaussianNoise, StudentTNoise, PredictedNoise)
}

__all__ = ["LOG_2PI", "NOISES", "GaussianNoise", "Noise", "PredictedNoise", "StudentTNoise"]
