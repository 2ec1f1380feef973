"""Networks with error bars as scikit-learn's pipelines, searches and cross-validations take them.

scikit-learn comes with ``pip install "symspec[sklearn]"``; nothing else in symspec imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from symspec.errors import DataError, OptionError
from symspec.fitting.fit import FitOptions, fit_network
from symspec.fitting.selection import STARTS, Selection, select
from symspec.fitting.weights import as_weights, fit_weighted, weigh
from symspec.laplace.posterior import LaplacePosterior
from symspec.safety.options import check_choice
from symspec.safety.progress import Progress
from symspec.spectra.spectra import Spectra

AUTO = "auto"
MAX_SEED = 2**31 - 1
# options of the same name and meaning as those of `FitOptions`
SHARED = (
    "activation",
    "preprocess",
    "sigma_noise",
    "prior_precision",
    "dof",
    "predicts_noise",
    "epochs",
    "batch_size",
    "learning_rate",
    "tune",
    "starts",
    "structure",
    "memory",
)


class SpectraRegressor(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """A network with error bars as a scikit-learn regressor.

    `fit` is `symspec.select` (or, for a network that is given, training, `tune` and `fit_laplace`),
    and `predict` that of the `LaplacePosterior` which it leaves in `laplace_`.

    Parameters
    ----------
    hidden : "auto" or sequence of int, default "auto"
        Widths of the hidden layers, () for a linear network; by default `symspec.select` tries
        several.
    activation : str, default "tanh"
    preprocess : str, default ""
        What is done to spectra first, such as "snv,savgol:11:2:1".
    sigma_noise : float or array_like, shape (label,), optional
        Scatter of the labels; by default 0.3 of their spread. With `tune` it is the start.
    prior_precision : float, default 1.0
        Of the weights' prior, see `symspec.scaled_prior`. With `tune` it is the start.
    prior : {"scale", "per_layer", "per_block", "fixed"}
        What of the prior is tuned; "auto" tries several.
    dof : float, optional
        Degrees of freedom of Student's t noise; by default noise is normal.
    predicts_noise : bool, default False
        Whether the network predicts the noise of each star.
    epochs : int, optional
        Of Adam; by default 200, or some 2,000 steps of each network that "auto" tries.
    batch_size : int, default 64
    learning_rate : float, default 1e-3
    tune : bool, default True
        Whether noise and prior are set by the evidence, or kept.
    starts : int, optional
        Weights that tuning starts from; by default as many as `symspec.select` takes, and two for a
        network that is given.
    structure, memory : str
        Of the inverse Hessian, see `symspec.fit_laplace`.
    n_jobs : int, optional
        Processes for "auto"; None is one, -1 one a core.
    progress : bool, default True
        Whether what takes more than three seconds shows a bar on stderr.
    random_state : int, RandomState instance or None, default None
        Of first weights, batches and folds; an integer gives the same numbers at each call.

    Attributes
    ----------
    laplace_ : LaplacePosterior
        For derivatives, certificates, error budgets and files.
    selection_ : Selection or None
        What "auto" tried.
    n_features_in_ : int
    feature_names_in_ : numpy.ndarray of str
        Only where X came with names of its columns.

    Notes
    -----
    Weights of samples are those of label errors: a label of weight w has the variance S / w, where
    S is the noise of labels of the largest weight, which counts as one. Only their ratios matter,
    and a weight of zero leaves a sample out. A weight of 2 is not a sample given twice: two samples
    tell of the noise by how they differ, and one sample with half the variance does not.

    Examples
    --------
    >>> import numpy as np
    >>> import symspec as ss
    >>> stars = ss.datasets.generated_stars(60, n_pixels=8, rng=np.random.default_rng(0))
    >>> model = ss.SpectraRegressor(hidden=(2,), epochs=20, random_state=0)
    >>> model = model.fit(stars.flux[:40], stars.labels[:40])
    >>> labels, errors = model.predict(stars.flux[40:], return_std=True)
    >>> labels.shape, errors.shape
    ((20, 3), (20, 3))
    """

    def __init__(
        self,
        *,
        hidden: str | Sequence[int] = AUTO,
        activation: str = "tanh",
        preprocess: str = "",
        sigma_noise: ArrayLike | None = None,
        prior_precision: float = 1.0,
        prior: str = "scale",
        dof: float | None = None,
        predicts_noise: bool = False,
        epochs: int | None = None,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        tune: bool = True,
        starts: int | None = None,
        structure: str = "auto",
        memory: str = "8GB",
        n_jobs: int | None = None,
        progress: bool | Progress = True,
        random_state: Any = None,
    ):
        self.hidden = hidden
        self.activation = activation
        self.preprocess = preprocess
        self.sigma_noise = sigma_noise
        self.prior_precision = prior_precision
        self.prior = prior
        self.dof = dof
        self.predicts_noise = predicts_noise
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.tune = tune
        self.starts = starts
        self.structure = structure
        self.memory = memory
        self.n_jobs = n_jobs
        self.progress = progress
        self.random_state = random_state

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Train the network, find its noise and prior, and invert its Hessian.

        Parameters
        ----------
        X : array_like, shape (sample, feature)
            Flux.
        y : array_like, shape (sample,) or (sample, label)
            NaN where a label is missing.
        sample_weight : array_like, shape (sample,), optional
            See the notes of the class.
        groups : array_like, shape (sample,), optional
            Samples that "auto" holds out together, such as spectra of one star.

        Returns
        -------
        SpectraRegressor
            Itself.
        """
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y"
                " is None."
            )
        flux: np.ndarray = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        Y = check_array(
            y, dtype=np.float64, ensure_2d=False, ensure_all_finite="allow-nan", input_name="y"
        )
        check_consistent_length(flux, Y, groups)
        if np.isnan(Y).all(axis=0).any():
            raise DataError("y should hold each label of some samples, got one that is NaN in all.")
        self._has_one_label = Y.ndim == 1
        names = None if groups is None else np.array([str(group) for group in np.asarray(groups)])
        stars = Spectra(flux=flux, labels=Y.reshape(len(Y), -1), groups=names)
        weights = None
        if sample_weight is not None:
            given = check_array(
                sample_weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight"
            )
            weights = as_weights(given, len(flux))
            stars = stars[weights > 0]
            weights = weights[weights > 0]
        seed = check_random_state(self.random_state).randint(MAX_SEED)
        self.laplace_, self.selection_ = self._fit(stars, weights, seed)
        return self

    def _fit(
        self, stars: Spectra, weights: np.ndarray | None, seed: int
    ) -> tuple[LaplacePosterior, Selection | None]:
        selection = None
        options = self._options()
        if isinstance(self.hidden, str):
            selection = self._select(stars, weights, options, seed)
            options = selection.options
        if weights is not None:
            laplace = fit_weighted(stars, weights, options, seed=seed, progress=self.progress)
        elif selection is not None:
            laplace = selection.laplace
        else:
            laplace = fit_network(stars, options, seed=seed, progress=self.progress)
        return laplace, selection

    def _select(
        self, stars: Spectra, weights: np.ndarray | None, options: FitOptions, seed: int
    ) -> Selection:
        """Try several networks; weights are taken by the noise of a linear one."""
        check_choice(self.hidden, "hidden, if it is a word,", (AUTO,))
        if weights is not None:
            linear = fit_weighted(stars, weights, options, seed=seed, progress=self.progress)
            stars = weigh(stars, weights, linear.reg.sigma_noise**2)
        n_workers = effective_n_jobs(self.n_jobs)
        return select(
            stars, seed=seed, n_workers=n_workers, progress=self.progress, **self._given()
        )

    def _options(self) -> FitOptions:
        """Those of the network that is given, or of a linear one."""
        hidden = () if isinstance(self.hidden, str) else tuple(self.hidden)
        own = {"hidden": hidden, "prior": self.prior}
        return FitOptions(**{"starts": STARTS} | self._given() | own)

    def _given(self) -> dict[str, Any]:
        """Options that are not left to `select` or to defaults."""
        values = {name: getattr(self, name) for name in SHARED}
        return {name: value for name, value in values.items() if value is not None}

    def predict(
        self, X: ArrayLike, return_std: bool = False, return_cov: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Labels, and on demand their errors, of model and noise together.

        Parameters
        ----------
        X : array_like, shape (sample, feature)
        return_std, return_cov : bool, default False
            Whether to give standard deviations, or covariances between the labels of each sample.

        Returns
        -------
        y : numpy.ndarray, shape (sample,) or (sample, label)
            As y was in `fit`.
        std : numpy.ndarray, shape of y
            With return_std.
        cov : numpy.ndarray, shape (sample, label, label)
            With return_cov, also of one label.

        Raises
        ------
        OptionError
            Both are asked for.
        """
        check_is_fitted(self)
        if return_std and return_cov:
            raise OptionError(
                "predict should give return_std or return_cov, got both: the diagonals of the"
                " covariances are the squares of the standard deviations."
            )
        X = validate_data(self, X, dtype=np.float64, reset=False)
        if not (return_std or return_cov):
            return self._shape(self.laplace_.predict_labels(X))
        prediction = self.laplace_.predict(X, progress=self.progress)
        errors = prediction.total_cov if return_cov else self._shape(prediction.errors)
        return self._shape(prediction.labels), errors

    def _shape(self, labels: np.ndarray) -> np.ndarray:
        """Labels (sample, label) in the shape in which `fit` had them."""
        return labels[:, 0] if self._has_one_label else labels
