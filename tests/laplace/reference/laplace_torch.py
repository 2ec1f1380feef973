"""Makes laplace_torch.json: numbers of laplace-torch, for tests/laplace/test_laplace_torch.py.

Run by hand, in an environment apart from the project's (Python 3.11, no symspec), from the root of
the repository:

    python3.11 -m venv ../laplace-env && ../laplace-env/bin/pip install torch==2.13.0
    laplace-torch==0.3 ../laplace-env/bin/python tests/reference/laplace_torch.py

Nothing here needs torchvision; where its build and that of torch do not go together, uninstall it.
Every number comes from two backends of laplace-torch where it has two, and they agree to TOLERANCE
or this script stops. The conventions that the numbers follow are told in the test. Kernels are
stored as (in, out), PyTorch's transposed.
"""

import json
import platform
import re
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from laplace import Laplace
from laplace.curvature import BackPackGGN, CurvlinopsGGN
from laplace.curvature.curvlinops import CurvlinopsHessian
from torch.utils.data import DataLoader, TensorDataset

OUT = Path(__file__).with_suffix(".json")
TOLERANCE = 1e-10  # of the two backends, in float64
N_TEST = 6
PACKAGES = ("laplace-torch", "torch", "curvlinops-for-pytorch", "backpack-for-pytorch", "numpy")

# name: (subset of weights, Hessian structure, backends); the first backend's numbers are kept
STRUCTURES = {
    "full": ("all", "full", [CurvlinopsGGN, BackPackGGN]),
    "hessian": ("all", "full", [CurvlinopsHessian]),
    "kron": ("all", "kron", [CurvlinopsGGN, BackPackGGN]),
    "diag": ("all", "diag", [CurvlinopsGGN, BackPackGGN]),
    "last_layer": ("last_layer", "full", [CurvlinopsGGN, BackPackGGN]),
}


@dataclass(frozen=True)
class Problem:
    """A network, its data and hyperparameters; `prior_precision` is a number, or one a block."""

    name: str
    sizes: tuple[int, ...]
    activation: str
    bias: bool
    n_stars: int
    sigma_noise: float
    prior_precision: float | tuple[float, ...]
    batch_size: int
    seed: int


PROBLEMS = [
    Problem("tanh-with-bias-one-prior", (4, 6, 5, 2), "tanh", True, 25, 0.3, 0.7, 25, 1),
    Problem(
        "tanh-with-bias-layerwise-prior",
        (3, 5, 1),
        "tanh",
        True,
        20,
        0.15,
        (1.6, 0.4, 2.5, 0.9),
        20,
        2,
    ),
    Problem(
        "relu-without-bias-layerwise-prior",
        (4, 6, 5, 2),
        "relu",
        False,
        25,
        0.25,
        (0.5, 1.1, 2.3),
        8,
        3,
    ),
]


def make_model(problem: Problem, params: dict[str, np.ndarray]) -> torch.nn.Sequential:
    activation = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[problem.activation]
    modules = []
    for n_in, n_out in pairwise(problem.sizes):
        modules += [torch.nn.Linear(n_in, n_out, bias=problem.bias), activation()]
    model = torch.nn.Sequential(*modules[:-1])
    state = {}
    for name, value in params.items():
        layer, kind = name.removeprefix("dense_").split("/")
        key = {"kernel": "weight", "bias": "bias"}[kind]
        state[f"{2 * int(layer)}.{key}"] = torch.from_numpy(value.T.copy())
    model.load_state_dict(state)
    return model


def draw_params(problem: Problem, rng: np.random.Generator) -> dict[str, np.ndarray]:
    params = {}
    for i, (n_in, n_out) in enumerate(pairwise(problem.sizes)):
        params[f"dense_{i}/kernel"] = rng.normal(size=(n_in, n_out)) * np.sqrt(1.5 / n_in)
        if problem.bias:
            params[f"dense_{i}/bias"] = rng.normal(size=n_out) * 0.4
    return params


def train(
    problem: Problem, params: dict[str, np.ndarray], X: np.ndarray, Y: np.ndarray
) -> dict[str, np.ndarray]:
    """Parameters at the minimum of the negative log posterior, with a positive definite Hessian."""
    model = make_model(problem, params)
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    weights = list(model.parameters())
    prior = np.broadcast_to(problem.prior_precision, len(weights)).tolist()
    options = {
        "max_iter": 5000,
        "tolerance_grad": 1e-9,
        "tolerance_change": 0,
        "line_search_fn": "strong_wolfe",
    }
    optimizer = torch.optim.LBFGS(weights, **options)

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        U = 0.5 * ((model(x) - y) ** 2).sum() / problem.sigma_noise**2
        U = U + 0.5 * sum(p * (w**2).sum() for p, w in zip(prior, weights, strict=True))
        U.backward()
        return U

    optimizer.step(objective)
    objective()
    gradient = max(w.grad.abs().max().item() for w in weights)
    print(f"{problem.name}: largest entry of the gradient {gradient:.1e}")
    return {name: w.detach().numpy().T.copy() for name, w in zip(params, weights, strict=True)}


def measure(
    problem: Problem, structure: str, params: dict, X: np.ndarray, Y: np.ndarray, X_test: np.ndarray
) -> dict:
    subset, hessian, backends = STRUCTURES[structure]
    prior = torch.as_tensor(problem.prior_precision, dtype=torch.float64)
    if (
        subset == "last_layer" and prior.ndim
    ):  # takes one number or one a parameter, not one a block
        names = [name for name in params if name.startswith(f"dense_{len(problem.sizes) - 2}/")]
        last = prior[-len(names) :]
        prior = torch.cat(
            [p.repeat(params[name].size) for p, name in zip(last, names, strict=True)]
        )
    data = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    kept = None
    for backend in backends:
        posterior = Laplace(
            make_model(problem, params),
            "regression",
            subset_of_weights=subset,
            hessian_structure=hessian,
            sigma_noise=problem.sigma_noise,
            prior_precision=prior,
            backend=backend,
        )
        posterior.fit(DataLoader(data, batch_size=problem.batch_size, shuffle=False))
        mean, variance = posterior._glm_predictive_distribution(torch.from_numpy(X_test))
        found = {
            "label_covariance": variance.numpy(),
            "log_marginal_likelihood": posterior.log_marginal_likelihood().item(),
            "log_det_posterior_precision": posterior.log_det_posterior_precision.item(),
            "log_likelihood": posterior.log_likelihood.item(),
            "scatter": posterior.scatter.item(),
            "labels": mean.numpy(),
        }
        kept = kept or found
        for name, value in found.items():
            np.testing.assert_allclose(
                value, kept[name], rtol=TOLERANCE, err_msg=f"{problem.name} {structure} {name}"
            )
    return kept | {"backends": [b.__name__ for b in backends]}


def solve(problem: Problem) -> dict:
    rng = np.random.default_rng(problem.seed)
    params = draw_params(problem, rng)
    X, X_test = (
        rng.normal(size=(problem.n_stars, problem.sizes[0])),
        1.5 * rng.normal(size=(N_TEST, problem.sizes[0])),
    )
    with torch.no_grad():
        f = make_model(problem, params)(torch.from_numpy(X)).numpy()
    Y = f + problem.sigma_noise * rng.normal(size=f.shape)
    structures = list(STRUCTURES)
    if problem.activation == "tanh":
        params = train(problem, params, X, Y)
    else:  # a ReLU network's minimum may be a kink, without a Hessian: stay at the drawn weights
        structures.remove("hessian")
    prior = np.broadcast_to(problem.prior_precision, len(params))
    return {
        "sizes": problem.sizes,
        "activation": problem.activation,
        "batch_size": problem.batch_size,
        "sigma_noise": problem.sigma_noise,
        "prior_precision": dict(zip(params, prior.tolist(), strict=True)),
        "params": params,
        "X": X,
        "Y": Y,
        "X_test": X_test,
        "results": {
            structure: measure(problem, structure, params, X, Y, X_test) for structure in structures
        },
    }


def write(contents: dict) -> None:
    """JSON whose innermost lists stand on one line each."""
    text = json.dumps(contents, indent=1, default=lambda array: array.tolist())
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    OUT.write_text(text + "\n")


if __name__ == "__main__":
    torch.set_default_dtype(
        torch.float64
    )  # else CurvlinopsGGN rounds a float64 matrix to float32 on its way
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    write(
        {"versions": versions, "problems": {problem.name: solve(problem) for problem in PROBLEMS}}
    )
