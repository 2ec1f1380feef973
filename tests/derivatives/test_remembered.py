"""Compiled functions are kept with their network or regression, and never pass for others."""

import copy
import pickle

import numpy as np
import pytest

import symspec as ss
from symspec.networks.noise import GaussianNoise
from symspec.networks.prior import NormalPrior


@pytest.fixture
def reg():
    return ss.Regression(ss.mlp([4, 3, 2]), sigma_noise=[0.1, 0.2], prior_precision=1.0)


def value(reg, **options):
    rng = np.random.default_rng(0)
    theta = rng.normal(size=reg.net.n_params)
    X, Y = rng.normal(size=(5, 4)), rng.normal(size=(5, 2))
    return ss.compile_objective(reg, **options)(theta, X, Y)[0]


def test_the_second_call_has_the_function_of_the_first(reg):
    for compile_it in (ss.compile_predict, ss.compile_jacobian):
        assert compile_it(reg.net) is compile_it(reg.net)
    for compile_it in (ss.compile_objective, ss.compile_hessian, ss.compile_ggn):
        assert compile_it(reg) is compile_it(reg)
    assert ss.compile_predict(reg.net) is ss.compile_predict(reg.with_noise(reg.noise).net)


def test_other_options_have_other_functions(reg):
    net = reg.net
    functions = [
        ss.compile_jacobian(net),
        ss.compile_jacobian(net, "theta"),
        ss.compile_jacobian(net, dtype="float32"),
        ss.compile_predict(net),
    ]
    assert len({id(function) for function in functions}) == len(functions)
    assert functions[2](net.init_params(np.random.default_rng(0)), np.ones(4)).dtype == np.float32


def test_options_that_are_wrong_are_refused_as_ever(reg):
    ss.compile_predict(reg.net)
    for wrong in ("fortran", ["numpy"]):
        with pytest.raises(ss.OptionError, match="backend should be one of"):
            ss.compile_predict(reg.net, backend=wrong)


@pytest.mark.parametrize(
    "make", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_start_without_any(reg, make):
    first = ss.compile_objective(reg)
    again = make(reg)
    assert "compiled" not in vars(again)
    assert ss.compile_objective(again) is not first
    assert value(again) == value(reg)


CHANGES = {
    "noise": lambda reg: setattr(reg, "noise", GaussianNoise([0.3, 0.2])),
    "noise in place": lambda reg: reg.noise.covariance.__setitem__((0, 0), 0.09),
    "prior": lambda reg: setattr(reg, "prior", NormalPrior(3.0, reg.net.layout)),
    "prior in place": lambda reg: reg.prior_precision.update({"dense_0/kernel": 3.0}),
    "network": lambda reg: setattr(reg, "net", ss.mlp([4, 3, 2], activation="tanh")),
    "layers": lambda reg: setattr(reg.net, "layers", ss.mlp([4, 3, 2], activation="tanh").layers),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_was_changed_since_is_compiled_anew(reg, change):
    before = value(reg)
    change(reg)
    assert value(reg) == value(copy.deepcopy(reg)) != before
