"""Weights of scores that are uncertain by anything from nothing to thousands stay within their budget."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from properties.numerics import contract_for, evaluate, violations
from properties.numerics.softmax import probability_budget, weights_of
from tests.unit.references import CONVENTIONS

CONTRACT = contract_for("fused", "float32")
ERRORS = st.sampled_from([0.0, 1e-3, 1.0, 20.0, 38.0, 48.0, 59.0, 61.0, 120.0, 800.0, 5000.0])
KEYS = st.lists(st.tuples(st.floats(-3000.0, 3000.0) | st.floats(-40.0, 40.0), ERRORS), min_size=1, max_size=5)


def softmax(scores):
    e = np.exp(scores - scores.max())
    return e / e.sum()


@settings(max_examples=300, deadline=None)
@given(keys=KEYS)
@example(keys=[(4096.0, 0.0), (4097.3203125, 48.0)])        # one factor e^48 hides the other key's weight
@example(keys=[(65536.0, 0.0), (65420.0, 768.0)])           # e^60 is not all that an error of 768 can do
def test_scores_at_the_ends_of_their_error_are_within_the_budget(keys):
    s, e = np.array(keys).T
    w = weights_of(s, e, CONTRACT)
    budget = probability_budget(w, CONTRACT)
    for j in range(len(s)):
        one = np.arange(len(s)) == j
        for sign in (-1.0, 1.0):
            moved = softmax(s + np.where(one, sign, -sign) * e)
            assert (np.abs(moved - w.P) <= budget).all(), (j, sign, moved, w.P, budget)
    if e.max() < 1.0:
        assert budget.max() < 1.0


@pytest.mark.parametrize("q, k", [([1.3203125, 1.0], [[0.0, 4096.0], [1.0, 4096.0]]),
                                  ([1.0, 1.0], [[65536.0, 0.0], [65280.0, 140.0]])])
def test_scores_that_bfloat16_makes_equal(q, k):
    """Eager attention stores both scores as the same number and weighs the keys alike, though they differ by 1 or 100.
    """
    q, k = (torch.tensor(x, dtype=torch.bfloat16).view(1, 1, -1, 2) for x in (q, k))
    received = {"q": q.double().numpy(), "k": k.double().numpy(), "causal": False, "mask": None, "scale": 1.0,
                "window": None, "bias": None}
    got = torch.softmax(q @ k.mT, -1).double().numpy()
    assert (got == 0.5).all()
    (naive,), (fused,) = (evaluate("attention_weights", received, contract_for(preset, "bfloat16"), CONVENTIONS)
                          for preset in ("naive", "fused"))
    assert violations(got, naive).max() <= 1 < violations(got, fused).max()
