"""Products in pieces are the products, whatever the matrices' sizes and orders."""

import numpy as np
import pytest

from symspec.derivatives.machine import products
from symspec.derivatives.machine.products import multiply


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Pieces of small matrices, on any processor."""
    monkeypatch.setattr(products, "_has_kernels", lambda: True)
    monkeypatch.setattr(products, "UNPACKED", 2000)


@pytest.fixture
def pieces(monkeypatch):
    found = []
    dot = np.dot

    def watch(a, b, out=None):
        found.append(a.size * b.shape[1])
        return dot(a, b, out=out)

    monkeypatch.setattr(products.np, "dot", watch)
    return found


ORDERS = {"rows": np.ascontiguousarray, "columns": np.asfortranarray, "strided": lambda a: a}


def draw(n, k, dtype, order):
    return ORDERS[order](np.random.default_rng(n * k).normal(size=(n, 2 * k)).astype(dtype)[:, ::2])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order_b", ORDERS)
@pytest.mark.parametrize("order_a", ORDERS)
@pytest.mark.parametrize(("n", "k", "m"), [(131, 9, 3), (9, 131, 3), (40, 40, 1), (7, 5, 70)])
def test_pieces_make_the_product(n, k, m, order_a, order_b, dtype):
    a, b = draw(n, k, dtype, order_a), draw(k, m, dtype, order_b)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    rounding = 4 * k * np.finfo(dtype).eps
    np.testing.assert_allclose(multiply(a, b), expected, rtol=rounding, atol=rounding)
    whole = np.full(n * m + 1, np.nan, dtype)
    out = whole[1:].reshape(n, m)
    assert multiply(a, b, out=out) is out
    np.testing.assert_allclose(out, expected, rtol=rounding, atol=rounding)
    assert multiply(a, b).dtype == dtype
    both = multiply(a, b.astype("float64"))
    assert both.dtype == "float64"
    np.testing.assert_allclose(both, expected, rtol=rounding, atol=rounding)


def test_rows_and_terms_are_taken_apart(pieces):
    a, b = draw(131, 9, "float64", "rows"), draw(9, 3, "float64", "rows")
    multiply(a, b)
    assert pieces == [64 * 27, 64 * 27, 3 * 27]  # rows in multiples of sixteen
    pieces.clear()
    a, b = draw(9, 131, "float64", "columns"), draw(131, 3, "float64", "rows")
    multiply(a, b)
    assert pieces == [64 * 27, 64 * 27, 3 * 27]


@pytest.mark.parametrize(
    ("n", "k", "m"), [(20, 9, 3), (131, 90, 3), (10, 20, 65)], ids=["small", "few rows", "wide"]
)
def test_a_product_that_gains_nothing_is_one(pieces, n, k, m):
    multiply(draw(n, k, "float64", "rows"), draw(k, m, "float64", "rows"))
    assert pieces == [n * k * m]


def test_threads_have_larger_products_unless_there_are_few_columns(pieces, monkeypatch):
    monkeypatch.setattr(products, "MOST_PRODUCTS", 3000)
    for m, n_pieces in ((8, 13), (9, 1)):
        multiply(draw(200, 9, "float64", "rows"), draw(9, m, "float64", "rows"))
        assert len(pieces) == n_pieces
        pieces.clear()
    monkeypatch.setattr(products, "_has_kernels", lambda: False)
    multiply(draw(200, 9, "float64", "rows"), draw(9, 3, "float64", "rows"))
    assert len(pieces) == 1
