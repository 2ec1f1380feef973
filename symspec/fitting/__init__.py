"""Whole paths: spectra with labels in, a posterior with error bars out.

`start` builds a network and trains it by Adam, `finish` takes the weights to the minimum and
inverts the Hessian there. `adopt_network(net, theta, stars)` does without training: a network of
another program, as it is, becomes a `LaplacePosterior`; how it scales its labels is found by
comparing them (`find_label_scaling`), noise and prior by the evidence of the network linearised at
its weights.
"""

from symspec.fitting.adoption import Adopted, adopt_network
from symspec.fitting.label_scaling import LabelScaling, find_label_scaling

__all__ = ["Adopted", "LabelScaling", "adopt_network", "find_label_scaling"]
