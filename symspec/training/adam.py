r"""Adam: the optimiser of mini-batch training, in place on one flat array of weights.

.. math::
    m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2

    \theta_t = \theta_{t-1} - \alpha_t \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
               \frac{m_t}{\sqrt{v_t} + \epsilon}, \qquad
    \alpha_t = \frac{\alpha}{1 + \mathrm{decay} \cdot (t - 1)}
"""

from __future__ import annotations

import math

import numpy as np

# Entries updated at a time: five such arrays of float32 stay within a core's second-level cache,
# so that the dozen elementary passes over them cost one pass over main memory.
BLOCK = 2**16


class Adam:
    r"""Moving averages of gradient and squared gradient, and the step that they give.

    Keras's form of Kingma & Ba's algorithm: epsilon is added to :math:`\sqrt{v_t}` before the
    correction of the bias (the paper's "epsilon hat").

    Parameters
    ----------
    n_params : int
        Length of theta.
    dtype : str
        Type of theta, "float32" or "float64".
    learning_rate : float
        Alpha; may be changed between steps.
    beta_1, beta_2 : float
        Decay rates of the two averages.
    epsilon : float
        Added to the square root of the second average.
    decay : float
        Decay of the learning rate, as Keras 2's `decay`.

    Attributes
    ----------
    iterations : int
        Steps taken.

    References
    ----------
    Kingma & Ba 2015, arXiv:1412.6980.
    """

    def __init__(
        self,
        n_params: int,
        dtype: str,
        *,
        learning_rate: float,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        decay: float = 0.0,
    ):
        self.learning_rate = learning_rate
        self.decay = decay
        self.epsilon = epsilon
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.iterations = 0
        # the averages without the factors 1 - beta: two passes less
        self._m = np.zeros(n_params, dtype)
        self._v = np.zeros(n_params, dtype)
        self._scratch = np.empty(min(BLOCK, n_params), dtype)
        # arrays: NumPy takes longer for Python's numbers
        self._beta_1 = np.asarray(beta_1, dtype)
        self._beta_2 = np.asarray(beta_2, dtype)
        self._epsilon = np.asarray(epsilon / math.sqrt(1 - beta_2), dtype)

    @property
    def decayed_rate(self) -> float:
        """Alpha of the next step, without the correction of the bias."""
        return self.learning_rate / (1 + self.decay * self.iterations)

    def step(self, theta: np.ndarray, gradient: np.ndarray, scale: float = 1.0) -> None:
        """Move `theta` (param,) in place along the gradient `scale * gradient`."""
        rate = self.decayed_rate
        self.iterations += 1
        t = self.iterations
        rate *= math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        rate *= (1 - self.beta_1) / math.sqrt(1 - self.beta_2)
        factors = np.asarray(scale, theta.dtype), np.asarray(rate, theta.dtype)
        size = max(self._scratch.size, 1)
        for start in range(0, theta.size, size):
            self._update(theta, gradient, slice(start, start + size), *factors)

    def _update(
        self,
        theta: np.ndarray,
        gradient: np.ndarray,
        block: slice,
        scale: np.ndarray,
        rate: np.ndarray,
    ) -> None:
        g = gradient[block]
        m = self._m[block]
        v = self._v[block]
        s = self._scratch[: g.size]
        np.multiply(g, scale, out=s)
        m *= self._beta_1
        m += s
        s *= s
        v *= self._beta_2
        v += s
        np.sqrt(v, out=s)
        s += self._epsilon
        np.divide(m, s, out=s)
        s *= rate
        theta[block] -= s
