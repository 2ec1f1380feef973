r"""Adam: the optimiser of mini-batch training, in place on one flat array of weights.

.. math::
    m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2

    \theta_t = \theta_{t-1} - \alpha_t \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
               \frac{m_t}{\sqrt{v_t} + \epsilon}, \qquad
    \alpha_t = \frac{\alpha}{1 + \mathrm{decay} \cdot (t - 1)}

With the gradient of the prior a step is a dozen passes over arrays of theta's length, which take
NumPy as long as the products of a batch with the weights. A long training has them compiled to one
pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from symspec.networks.prior import NormalPrior

# Entries updated at a time: five such arrays of float32 stay within a core's second-level cache,
# so that the dozen elementary passes over them cost one pass over main memory.
BLOCK = 2**16
COMPILED_BLOCK = 2**18  # whose squares add up in theta's precision
# updates of a weight in which a compiled step saves as long as it takes to compile; NumPy's step of
# few weights takes as long as one of `FEW_PARAMS`
MIN_UPDATES, FEW_PARAMS = 3e8, 5000


class Adam:
    r"""Moving averages of gradient and squared gradient, and the step that they give.

    Keras's form of Kingma & Ba's algorithm: epsilon is added to :math:`\sqrt{v_t}` before the
    correction of the bias (the paper's "epsilon hat").

    Parameters
    ----------
    prior : NormalPrior
        Of theta.
    dtype : str
        Type of theta, "float32" or "float64".
    n_steps : int, default 0
        Steps to come: the step is compiled for many. Theta is the same to the last bit.
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
        prior: NormalPrior,
        dtype: str,
        *,
        n_steps: int = 0,
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
        self._prior = prior
        n_params = prior.layout.n_params
        is_long = n_steps * (n_params + FEW_PARAMS) >= MIN_UPDATES
        self._update = _compile_update() if is_long else _update
        self._parts = list(prior.divide(COMPILED_BLOCK if is_long else BLOCK, dtype))
        # the averages without the factors 1 - beta: two passes less
        self._m = np.zeros(n_params, dtype)
        self._v = np.zeros(n_params, dtype)
        self._scratch = np.empty(min(BLOCK, n_params), dtype)
        # arrays: NumPy takes longer for Python's numbers
        constants = (beta_1, beta_2, epsilon / math.sqrt(1 - beta_2))
        self._constants = tuple(np.asarray(number, dtype) for number in constants)

    @property
    def decayed_rate(self) -> float:
        """Alpha of the next step, without the correction of the bias."""
        return self.learning_rate / (1 + self.decay * self.iterations)

    def step(
        self, theta: np.ndarray, gradient: np.ndarray, scale: float = 1.0, weight: float = 0.0
    ) -> float:
        """Move theta (param,) in place along `scale` times a gradient (param,) and the prior's.

        Parameters
        ----------
        theta, gradient : numpy.ndarray, shape (param,)
        scale : float
        weight : float
            The gradient of minus the log prior has this weight beside the other.

        Returns
        -------
        float
            `weight` times minus the log prior at the theta before.
        """
        rate = self.decayed_rate
        self.iterations += 1
        t = self.iterations
        rate *= math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        rate *= (1 - self.beta_1) / math.sqrt(1 - self.beta_2)
        factors = np.asarray(scale, theta.dtype), np.asarray(rate, theta.dtype)
        square = 0.0
        for part, precision in self._parts:
            x, g, s = theta[part], gradient[part], self._scratch[: part.stop - part.start]
            if isinstance(precision, np.ndarray):
                square += float(np.dot(precision * x, x))
                g = g + (weight * precision).astype(x.dtype) * x
                precision = 0.0
            pull = np.asarray(weight * precision, x.dtype)
            averages = self._m[part], self._v[part]
            size = self._update(x, g, *averages, s, pull, *factors, *self._constants)
            square += precision * float(size)
        return weight * self._prior.negative_log_of(square)


def _update(
    theta: np.ndarray,
    gradient: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    scratch: np.ndarray,
    pull: np.ndarray,
    scale: np.ndarray,
    rate: np.ndarray,
    beta_1: np.ndarray,
    beta_2: np.ndarray,
    epsilon: np.ndarray,
) -> float:
    """One step, in place, along scale (gradient + pull theta); returns theta^T theta before it."""
    size = np.dot(theta, theta)
    s = np.multiply(theta, pull, out=scratch)
    s += gradient
    s *= scale
    m *= beta_1
    m += s
    s *= s
    v *= beta_2
    v += s
    np.sqrt(v, out=s)
    s += epsilon
    np.divide(m, s, out=s)
    s *= rate
    theta -= s
    return size


@cache
def _compile_update() -> Callable[..., float]:
    """`_update` in one pass over memory, without its scratch; each operation rounds as there."""
    import numba

    @numba.njit(fastmath={"reassoc"})
    def add(total, term):  # type: ignore[no-untyped-def]
        """In any order: only so are many added at once."""
        return total + term

    @numba.njit(error_model="numpy")
    def update(theta, gradient, m, v, scratch, *factors):  # type: ignore[no-untyped-def]
        pull, scale, rate, beta_1, beta_2, epsilon = [factor[()] for factor in factors]
        size = theta.dtype.type(0)
        for i in range(theta.size):
            x = theta[i]
            s = (x * pull + gradient[i]) * scale
            size = add(size, x * x)
            m[i] = m[i] * beta_1 + s
            v[i] = v[i] * beta_2 + s * s
            theta[i] = x - m[i] / (np.sqrt(v[i]) + epsilon) * rate
        return size

    return update
