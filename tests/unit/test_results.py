"""Results: what keeps a budget, what propagates one, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from properties.results import ClaimError, Result, difference, lift


def result(value, budget=0.25, error=0.25):
    """A result whose error is as large as its budget allows."""
    exact = np.asarray(value, np.float64)
    return Result(exact + error, exact, np.full(exact.shape, error), np.full(exact.shape, budget), ball=None,
                  origin=("call", 1, "p"))


ARRAYS = st.lists(st.integers(-8, 8), min_size=6, max_size=6).map(lambda x: np.array(x, np.float64).reshape(2, 3))


def within(r: Result) -> bool:
    """The error is what it says, and within the budget."""
    return np.allclose(r.value - r.exact, r.error) and bool((np.abs(r.error) <= r.budget + 1e-12).all())


@given(a=ARRAYS, b=ARRAYS, c=st.integers(-4, 4))
def test_arithmetic_keeps_the_error_within_the_budget(a, b, c):
    x, y = result(a), result(b, budget=0.5, error=-0.5)
    for made in (x + y, x - y, -x, x * c, c - x, x * y, x / 4, x.sum(-1), x.sum(0), x.mean(-1), x.exp(),
                 x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64), x * torch.full((3,), 2.0)):
        assert within(made)
    np.testing.assert_array_equal((x + y).exact, a + b)
    np.testing.assert_array_equal((x * y).exact, a * b)
    np.testing.assert_array_equal(x.sum(-1).exact, a.sum(-1))


@given(a=ARRAYS)
def test_indexing_and_reshaping_follow_torch(a):
    x, t = result(a), torch.from_numpy(a)
    for mine, theirs in ((x[0], t[0]), (x[..., 1:], t[..., 1:]), (x[:, torch.tensor([2, 0])], t[:, [2, 0]]),
                         (x.reshape(3, 2), t.reshape(3, 2)), (x.mT, t.mT), (x.flip(-1), t.flip(-1)),
                         (x.transpose(0, 1), t.transpose(0, 1))):
        np.testing.assert_array_equal(mine.exact, theirs.numpy())
        assert within(mine) and mine.budget.shape == mine.exact.shape


def test_a_sum_of_many_keeps_the_rounding_of_the_sum():
    many = Result.constant(torch.full((1000,), 0.1, dtype=torch.float64)).sum(-1)
    assert many.budget > 0 and abs(float(many.value) - 100) <= float(many.budget) + 1e-13 * 100


@pytest.mark.parametrize("misuse", [
    lambda r: r / r, lambda r: r @ r, lambda r: r.argmax(), lambda r: bool(r), lambda r: r < r, lambda r: list(r),
    lambda r: r + None, lambda r: lift("x")])
def test_what_keeps_no_budget_is_refused(misuse):
    with pytest.raises((ClaimError, TypeError)):
        misuse(result([1.0, 2.0]))


def test_equal_infinities_differ_by_nothing():
    inf = float("inf")
    np.testing.assert_array_equal(difference(np.array([inf, -inf, 1.0]), np.array([inf, -inf, 3.0])), [0, 0, -2])


def test_it_says_how_it_was_made():
    x = result([[1.0, 2.0]])
    assert str(x[..., 0]) == "r1.p[..., 0]" and str(x.sum(-1)) == "r1.p.sum(-1)" and str(lift(1.0)) == "1"
    assert str(x - 1.0) == "(r1.p - 1)"


def test_what_is_free_stays_free_through_exp():
    free = Result(np.array([np.nan, 1.0]), np.array([-np.inf, -np.inf]), np.array([np.nan, np.inf]),
                  np.array([np.inf, 0.0]), ball=None, origin=("call", 1, "lse"))
    assert free.exp().budget.tolist() == [np.inf, 0.0]
