"""What is drawn: every shape and regime is really reached, draws are exact, and they shrink to almost nothing."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st

from properties.strategies import TABLE, arrays, attention_inputs, keeps, rows
from properties.strategies.attention import HEADS
from properties.strategies.attention import REGIMES as ATTENTION_REGIMES
from properties.strategies.rows import LENGTHS, REGIMES
from properties.trial import Trial, activate

EXAMPLES = 1500


def reached(strategy, also=lambda value: ()) -> Counter:
    """How many of the examples reach each class that the strategy (or `also`) names."""
    seen: Counter = Counter()
    trial = Trial("", "float64")

    @settings(max_examples=EXAMPLES, database=None, deadline=None, derandomize=True)
    @given(st.shared(st.none()).flatmap(lambda _: strategy))
    def draw(value):
        seen.update(trial.labels | set(also(value)))
        trial.labels.clear()

    with activate(trial):
        draw()
    return seen


def test_rows_reach_every_regime_and_length():
    seen = reached(rows())
    for regime in REGIMES:
        assert seen[regime] >= EXAMPLES * 0.02, (regime, seen)
    for length in set(LENGTHS):
        assert seen[f"length {length}"] >= EXAMPLES * 0.01, (length, seen)


def test_attention_inputs_reach_every_regime_shape_and_option():
    def classes(x):
        yield f"heads {x.q.shape[1]}/{x.k.shape[1]}"
        yield f"batch {x.q.shape[0]}"
        yield "Dv = D" if x.v.shape[3] == x.q.shape[3] else "Dv != D"
        yield "several blocks" if x.k.shape[2] > 16 else "one block"
        if x.k.shape[2] % 16 == 1 and x.k.shape[2] > 1:
            yield "one key beyond a block"
        yield from x.options
        if not x.visible().any(-1).all():
            yield "a query that sees nothing"

    seen = reached(attention_inputs(causal=None, masks=True, windows=True), classes)
    for regime in ATTENTION_REGIMES:
        assert seen[regime] >= EXAMPLES * 0.03, (regime, seen)
    for heads in HEADS:
        assert seen[f"heads {heads[0]}/{heads[1]}"] >= EXAMPLES * 0.04, (heads, seen)
    for name, share in {"exact scores": 0.3, "rounded scores": 0.3, "GQA": 0.1, "MQA": 0.1, "MHA": 0.2, "Lq = Lk": 0.2,
                        "Lq != Lk": 0.2, "Dv = D": 0.2, "Dv != D": 0.2, "several blocks": 0.2, "mask": 0.3,
                        "causal": 0.2, "window": 0.2, "scale": 0.5, "one key beyond a block": 0.1,
                        "a query that sees nothing": 0.05, "batch 1": 0.2, "batch 2": 0.04, "batch 3": 0.04,
                        "head dim 1": 0.02, "head dim 80": 0.005,
                        "head dim 96": 0.005}.items():
        assert seen[name] >= EXAMPLES * share, (name, seen[name], seen)


@given(attention_inputs(integers=True))
@settings(max_examples=200, database=None, deadline=None)
def test_integer_inputs_have_exact_scores_in_every_dtype(x):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert torch.equal(x.q.to(dtype).double(), x.q) and torch.equal(x.k.to(dtype).double(), x.k)


def test_all_numbers_are_dyadic_with_few_bits():
    mantissas = np.frexp(TABLE.entries)[0] * 2.0**24
    assert (mantissas == np.round(mantissas)).all()
    assert TABLE.entries[0] == 0 and len(TABLE.entries) == 256 and np.abs(TABLE.entries).max() == 1e4


@pytest.mark.parametrize("shape", [(3, 5), (1, 33), (4, 257)])
def test_a_tensor_shrinks_to_one_simple_non_zero(shape):
    smallest = find(arrays(shape), lambda x: (x > 50).any(), settings=settings(max_examples=5000, database=None))
    assert np.count_nonzero(smallest) <= 3 + (np.prod(shape) > 600) * 4
    assert smallest.max() == 64


def test_a_mask_shrinks_to_everything_visible():
    assert find(keeps((3, 4)), lambda keep: True).all()
    one = find(keeps((3, 4)), lambda keep: not keep.all(), settings=settings(max_examples=500, database=None))
    assert (~one).sum() == 1
