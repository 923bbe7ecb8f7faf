"""What is seen of a wrong result: where it is wrong, and what stands there instead."""

import numpy as np
import pytest

from properties.power.observations import observed
from properties.trial import Call, Quantity

INF, NAN = np.inf, np.nan


def seen(operation: str = "softmax", **results) -> set[str]:
    """What is observed of a call with results `name=(got, expected)`, whose budgets are 1e-6."""
    quantities = []
    for name, (got, expected) in results.items():
        got, expected = np.asarray(got, dtype=float), np.asarray(expected, dtype=float)
        with np.errstate(invalid="ignore"):
            right = (np.abs(got - expected) <= 1e-6) | (got == expected)
        quantities.append(Quantity(name, got, expected, np.full(got.shape, 1e-6), 0.5 if right.all() else 2.0, ()))
    return {name for name, answer in observed(Call(operation, "float32", {}, tuple(quantities))).items() if answer}


@pytest.fixture
def expected():
    """(1, 2, 20, 3): an output of attention, no two numbers of which are alike."""
    return np.random.default_rng(0).normal(size=(1, 2, 20, 3))


@pytest.mark.parametrize(("got", "belongs", "what"), [
    ([NAN, 1.0], [2.0, 1.0], "NaN where a number belongs"),
    ([-INF, 1.0], [2.0, 1.0], "an infinity where a number belongs"),
    ([0.5, 1.0], [NAN, 1.0], "a number where none belongs"),
    ([0.0, 1.0], [2.0, 1.0], "zeros where other numbers belong"),
])
def test_what_stands_there_instead(got, belongs, what):
    assert what in seen(y=([got], [belongs])) and what not in seen(y=([[3.0, 1.0]], [[2.0, 1.0]]))


def test_one_factor_and_one_amount(expected):
    assert "off by one factor" in seen("attention", out=(1.5 * expected, expected))
    assert "off by one amount" in seen("attention", out=(expected + 2, expected))
    random = expected + np.random.default_rng(1).normal(size=expected.shape)
    assert not {"off by one factor", "off by one amount", "slightly off"} & seen("attention", out=(random, expected))
    assert "slightly off" in seen("attention", out=(random * 1e-4 + expected, expected))


def test_heads_rows_and_blocks(expected):
    assert "the numbers of another head" in seen("attention", out=(expected[:, ::-1], expected))
    one = expected.copy()
    one[:, 1] += 1
    found = seen("attention", out=(one, expected))
    assert "the first head is right" in found and "the last head is right" not in found
    assert "the numbers of another head" not in found
    tail = expected.copy()
    tail[:, :, 16:] = 0
    found = seen("attention", out=(tail, expected))
    assert {"only rows beyond whole blocks are wrong", "the first row is right"} <= found
    tail[:, :, 15:] = 0
    assert "only rows beyond whole blocks are wrong" not in seen("attention", out=(tail, expected))


def test_rows_that_see_nothing(expected):
    expected[:, :, 4] = 0
    lse = np.where(np.arange(20) == 4, -INF, 1.0) + np.zeros((1, 2, 20))
    found = seen("attention", out=(expected, expected), lse=(np.maximum(lse, -60), lse))
    assert {"only rows that see nothing are wrong", "the log-sum-exp alone is wrong"} <= found
    found = seen("attention", out=(expected + 1, expected), lse=(lse, lse))
    assert "only rows that see nothing are wrong" not in found and "the log-sum-exp is right" in found


def test_nothing_is_seen_of_what_is_right_nor_of_masks(expected):
    assert not seen(y=(expected, expected))
    call = Call("causal_mask", "float32", {}, (Quantity("mask", np.ones((2, 2), bool), np.eye(2, dtype=bool),
                                                        np.zeros((2, 2)), np.inf, (0, 1)),))
    assert observed(call) == {}
