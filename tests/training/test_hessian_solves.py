"""Solving with an exact Hessian by products: the solutions, and what one teaches the next."""

import numpy as np
import pytest
from scipy.linalg import eigh

import symspec as ss
from symspec.training.steps import hessian_solves
from symspec.training.steps.hessian_solves import HessianSolver, Lessons, correct

N = 120


class Pencil:
    """H and A (param, param), whose eigenvalues are near 1 but for some, and products counted."""

    def __init__(self, seed=0, shift=0.0):
        rng = np.random.default_rng(seed)
        root = np.tril(0.05 * rng.normal(size=(N, N))) + np.diag(rng.uniform(0.5, 3.0, N))
        ratios = rng.uniform(0.9, 1.1, N)
        ratios[:20] = np.geomspace(1e-3, 0.5, 20)
        ratios[20:30] = np.geomspace(2.0, 40.0, 10)
        Q, _ = np.linalg.qr(rng.normal(size=(N, N)))
        self.A = root @ root.T
        self.H = root @ (Q * (ratios + shift)) @ Q.T @ root.T
        self.inverse = np.linalg.inv(self.A)
        self.n_products = 0

    def product(self, v):
        self.n_products += 1
        return self.H @ v

    def count(self, solver, b):
        before = self.n_products
        x = solver.solve(b)
        residual = b - self.H @ x
        # as asked, times what the norms of A and of H may differ by in that one's units
        assert residual @ self.inverse @ residual <= 1e-16 * 4e4 * (b @ self.inverse @ b)
        return self.n_products - before


def test_a_solution_teaches_the_next_ones():
    pencil = Pencil()
    rng = np.random.default_rng(1)
    solver = HessianSolver(pencil.product, pencil.inverse)
    assert solver.learned is None
    counts = [pencil.count(solver, pencil.H @ rng.normal(size=N) + rng.normal(size=N))]
    counts += [pencil.count(solver, rng.normal(size=N)) for _ in range(2)]
    assert counts[1] < 0.5 * counts[0]
    assert counts[2] < 0.5 * counts[0]


def test_what_is_learned_is_conjugate_and_leaves_no_eigenvalue_farther_from_one():
    pencil = Pencil()
    solver = HessianSolver(pencil.product, pencil.inverse)
    solver.solve(np.random.default_rng(1).normal(size=N))
    s, images = solver.learned.s, solver.learned.images
    np.testing.assert_allclose(images, s @ pencil.H, atol=1e-9 * np.abs(images).max())
    np.testing.assert_allclose(s @ images.T, np.eye(len(s)), atol=1e-7)
    corrected = np.array([correct(pencil.inverse.dot, solver.learned)(e) for e in np.eye(N)])
    np.testing.assert_allclose(corrected, corrected.T, atol=1e-9 * np.abs(corrected).max())
    plain = eigh(pencil.H, pencil.A, eigvals_only=True)
    ratios = eigh(pencil.H, np.linalg.inv((corrected + corrected.T) / 2), eigvals_only=True)
    assert plain[0] < 2e-3
    assert ratios[0] > 0.3
    assert ratios[-1] < 3.0


def test_what_was_learned_at_one_place_serves_at_another_nearby():
    old, new = Pencil(), Pencil(shift=2e-3)
    solver = HessianSolver(old.product, old.inverse)
    b = np.random.default_rng(1).normal(size=N)
    solver.solve(b)
    lessons = Lessons()
    assert lessons.at(new.product) is None
    lessons.learned = solver.learned
    taught = HessianSolver(new.product, new.inverse, learned=lessons.at(new.product))
    assert new.n_products == len(solver.learned.s)
    alone = HessianSolver(new.product, new.inverse)
    assert new.count(taught, b) < 0.5 * new.count(alone, b)


def test_directions_that_do_not_fit_are_not_kept(monkeypatch):
    monkeypatch.setattr(hessian_solves, "STORED_BYTES", 24 * N * 10)
    pencil = Pencil()
    solver = HessianSolver(pencil.product, pencil.inverse)
    first = pencil.count(solver, np.ones(N))
    assert solver.learned is None
    assert pencil.count(solver, np.ones(N)) == first


def test_directions_along_which_another_hessian_falls_are_forgotten():
    pencil = Pencil()
    solver = HessianSolver(pencil.product, pencil.inverse)
    solver.solve(np.ones(N))
    assert solver.learned.at(lambda v: -v) is None


def test_zero_is_solved_by_zero():
    pencil = Pencil()
    np.testing.assert_array_equal(
        HessianSolver(pencil.product, pencil.inverse).solve(np.zeros(N)), np.zeros(N)
    )
    assert pencil.n_products == 0


@pytest.mark.parametrize("lowest", [-1e-3, -10.0])
def test_a_direction_along_which_it_falls_is_met(lowest):
    pencil = Pencil(shift=lowest - 1e-3)
    solver = HessianSolver(pencil.product, pencil.inverse)
    with pytest.raises(ss.NotPositiveDefiniteError, match="along one direction its curvature is -"):
        solver.solve(np.random.default_rng(1).normal(size=N))
