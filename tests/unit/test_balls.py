"""Ball arithmetic contains the float64 exact values, to within their own budget."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from properties.numerics import SUPPORTED, balls, contract_for, evaluate
from tests.unit.references import CONVENTIONS, draws, numbers, rows, states

pytestmark = pytest.mark.skipif(not balls.AVAILABLE, reason="python-flint is not installed")

FP64 = contract_for("fused", "float64")


def assert_enclosed(operation, arguments, conventions=CONVENTIONS):
    """|float64 value - real number| <= its own budget, rigorously; the largest share of the budget that was used."""
    from flint import arb

    worst = 0.0
    exacts, enclosures = (
        evaluate(operation, arguments, FP64, conventions),
        balls.enclose(operation, arguments, conventions),
    )
    assert len(exacts) == len(enclosures)
    for exact, enclosure in zip(exacts, enclosures):
        assert exact.value.shape == enclosure.shape and (exact.kind is None or not exact.kind.any()), operation
        for value, budget, ball in zip(exact.value.flat, exact.budget.flat, enclosure.flat):
            if math.isinf(value):
                assert not ball.is_finite() and ball < 0
                continue
            distance = abs(ball - arb(float(value)))
            assert distance <= arb(float(budget)), (operation, exact.name, value, ball)
            worst = max(worst, float(distance.mid()) / budget if budget else 0.0)
    return worst


def test_every_operation_has_an_enclosure():
    assert SUPPORTED <= set(balls._OPERATIONS)


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_scores(seed):
    rng = np.random.default_rng(seed)
    for _ in range(10):
        x = numbers(rows(rng, "float64"))[:2]
        y, dy = np.abs(rng.standard_normal((2, 2, 5)))
        assert assert_enclosed("softmax", {"x": x}) < 1
        assert assert_enclosed("log_sum_exp", {"x": x}) < 1
        assert assert_enclosed("masked_softmax", {"scores": x, "keep": rng.random(x.shape) < 0.5}) < 1
        assert assert_enclosed("softmax_backward", {"y": y, "dy": dy}) < 1


def test_merged_states():
    rng = np.random.default_rng(0)
    for _ in range(20):
        m1, l1, acc1, m2, l2, acc2 = (numbers(x) for x in states(rng, "float64"))
        assert assert_enclosed("merge", dict(m1=m1, l1=l1, acc1=acc1, m2=m2, l2=l2, acc2=acc2)) < 1
        assert assert_enclosed("merge_lse", dict(out1=acc1, lse1=m1, out2=acc2, lse2=m2)) < 1


SMALL = ((1, 2, 3, 5, 4), (1, 1, 2, 17, 3), (2, 1, 1, 3, 1))


def test_attention_of_every_family():
    for family, _, (q, k, v), scale, _, bias in draws("float64", 0, 2, SMALL):
        arguments = dict(q=q, k=k, v=v, causal=False, mask=None, scale=scale, window=None, bias=bias)
        assert assert_enclosed("attention", arguments) < 1, family
        assert assert_enclosed("attention_weights", arguments) < 1, family
        assert assert_enclosed("split_kv", dict(q=q, k=k, v=v, n_splits=3, scale=scale)) < 1, family


heads = st.sampled_from([(1, 1), (2, 2), (4, 2), (6, 2), (3, 1)])


@given(seed=st.integers(0, 2**32 - 1), heads=heads, lq=st.integers(0, 4), lk=st.integers(0, 6), d=st.integers(1, 3),
       causal=st.booleans(), window=st.sampled_from([None, 1, 3]), scale=st.sampled_from([None, 0.25, 0.0, -1.0]),
       alignment=st.sampled_from(["bottom-right", "top-left"]))
@settings(max_examples=60, deadline=None, database=None, derandomize=True)
def test_heads_masks_and_gradients(seed, heads, lq, lk, d, causal, window, scale, alignment):
    rng, (hq, hkv) = np.random.default_rng(seed), heads
    q, dout = (rng.standard_normal((1, hq, lq, n)) for n in (d, 2))
    k, v = (rng.standard_normal((1, hkv, lk, n)) for n in (d, 2))
    conventions = CONVENTIONS | {"causal": alignment}
    mask = rng.random((lq, lk)) < 0.7
    shared = dict(q=q, k=k, v=v, causal=causal, mask=mask, scale=scale)
    assert_enclosed("attention", shared | {"window": window, "bias": rng.standard_normal((1, 1, lk))}, conventions)
    out, lse = evaluate("attention", shared, FP64, conventions)
    assert_enclosed("attention_backward", shared | {"out": out.value, "lse": lse.value, "dout": dout}, conventions)


def test_decoding():
    rng = np.random.default_rng(0)
    q, k_new, v_new = (rng.standard_normal((2, h, 2, 3)) for h in (4, 2, 2))
    k, v = (rng.standard_normal((2, 2, 9, 3)) for _ in range(2))
    arguments = dict(q=q, k_new=k_new, v_new=v_new, k_cache=k, v_cache=v, lens=np.array([5, 0]), scale=None)
    assert 0 < assert_enclosed("decode", arguments) < 1


def test_layer_norm():
    rng = np.random.default_rng(0)
    for n in (1, 5, 33):
        x = rng.standard_normal((3, n)) * rng.choice([1, 100]) + rng.choice([0, 1000])
        weight, bias = rng.standard_normal((2, n))
        assert assert_enclosed("layer_norm", dict(x=x, weight=weight, bias=bias, eps=1e-5)) < 1


def test_blocks_around_attention():
    rng = np.random.default_rng(0)
    normal = rng.standard_normal
    for causal, heads, kv_heads in ((False, 2, 2), (True, 4, 2), (True, 3, 1)):
        weights = dict(
            wq=normal((3, 2 * heads)),
            wk=normal((4, 2 * kv_heads)),
            wv=normal((4, 2 * kv_heads)),
            wo=normal((2 * heads, 3)),
        )
        mha = dict(
            x_q=normal((2, 3, 3)), x_kv=normal((2, 4, 4)), n_heads=heads, n_kv_heads=kv_heads, causal=causal, mask=None
        )
        assert 0 < assert_enclosed("multi_head_attention", mha | weights) < 1
        linear = dict(q=5 * normal((1, 2, 3, 2)), k=5 * normal((1, 2, 4, 2)), v=normal((1, 2, 4, 3)), causal=causal)
        assert 0 < assert_enclosed("linear_attention", linear) < 1
        x = 10 * normal((2, 3, 5)) + 50
        assert 0 < assert_enclosed("layer_norm_backward", dict(x=x, weight=normal(5), dy=normal(x.shape), eps=1e-5)) < 1
    for style in ("half", "interleaved"):
        turned = dict(x=normal((2, 1, 3, 4)), positions=np.array([0, 7, 90000]), base=10000.0)
        assert 0 < assert_enclosed("rope", turned, CONVENTIONS | {"rope": style}) < 1
    assert 0 < assert_enclosed("sinusoidal_positions", dict(length=50, d=5)) < 1
    assert 0 < assert_enclosed("gelu", {"x": np.array([0.0, 1.0, -1.0, 1e-30, -9.0, -30.0, 40.0, 1e4])}) < 1


def test_movement():
    x = np.arange(12.0).reshape(1, 2, 3, 2)
    for operation, arguments in (
        ("repeat_kv", dict(x=x, n_rep=2)),
        ("merge_heads", dict(x=x)),
        ("split_heads", dict(x=x[0], h=2)),
        ("causal_mask", dict(lq=2, lk=3)),
        ("sliding_window_mask", dict(lq=3, lk=3, window=2)),
        ("padding_mask", dict(lens=[0, 2], lk=3)),
    ):
        assert assert_enclosed(operation, arguments) == 0


def test_balls_are_narrow_and_go_through_further_operations():
    x = np.array([[1.0, 2.0, 700.0]])
    (p,) = balls.enclose("softmax", {"x": x}, CONVENTIONS)
    assert all(float(ball.rad()) < 1e-30 for ball in p.flat)
    assert abs(p.sum() - 1) < 1e-30
    (again,) = balls.enclose("softmax", {"x": p}, CONVENTIONS)
    assert again.shape == p.shape and abs(float((again.sum(-1) - 1).item().mid())) < 1e-30


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_inputs_that_are_not_finite_are_refused(bad):
    with pytest.raises(balls.NotEnclosed, match="x holds values that are not finite"):
        balls.enclose("softmax", {"x": np.array([bad, 0.0])}, CONVENTIONS)
    with pytest.raises(balls.NotEnclosed, match="no enclosure of convolution; there are attention, "):
        balls.enclose("convolution", {"x": np.zeros(1)}, CONVENTIONS)
