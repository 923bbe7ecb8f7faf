"""Right implementations of attention stay within their budgets; wrong ones do not."""

import math

import numpy as np
import pytest
import torch

from properties.numerics import contract_for, evaluate, violations
from tests.unit.references import (CONVENTIONS, DTYPES, INF, draws, eager, in_float32, largest, numbers, online,
                                   online_backwards, online_base2, prescaled, scores, sdpa, sequential, softmax_rows,
                                   split, textbook, tf32, to_torch, wide)

IN_FLOAT32 = (textbook, sequential, online, online_base2, online_backwards, sdpa)
RIGHT = ([("fused", dtype, f) for dtype in DTYPES for f in IN_FLOAT32]
         + [("naive", dtype, eager) for dtype in DTYPES] + [("prescaled", dtype, prescaled) for dtype in DTYPES[2:]]
         + [("fp32-inside", dtype, in_float32) for dtype in DTYPES[2:]] + [("tf32", "float32", tf32)])


def attention_share(preset, dtype, implementation, *, seed=0, rounds=6):
    contract, worst = contract_for(preset, dtype), 0.0
    for family, tensors, (q, k, v), scale, bias, received in draws(dtype, seed, rounds):
        arguments = dict(q=q, k=k, v=v, causal=False, mask=None, scale=scale, window=None, bias=received)
        exact = evaluate("attention", arguments, contract, CONVENTIONS)
        worst = max(worst, largest(implementation(*tensors, scale, bias), exact, (family, q.shape, k.shape)))
    return worst


@pytest.mark.parametrize("preset, dtype, implementation", RIGHT,
                         ids=[f"{f.__name__}-{preset}-{dtype}" for preset, dtype, f in RIGHT])
def test_right_attention_is_within_its_budget(preset, dtype, implementation):
    assert 0 < attention_share(preset, dtype, implementation) < 1


def split_share(dtype, seed, rounds):
    worst, contract = 0.0, contract_for("fused", dtype)
    for i, (family, tensors, (q, k, v), scale, _, _) in enumerate(draws(dtype, seed, rounds)):
        n_splits = (1, 2, 4, 7, 40)[i % 5]
        exact = evaluate("split_kv", dict(q=q, k=k, v=v, n_splits=n_splits, scale=scale), contract, CONVENTIONS)
        worst = max(worst, largest(split(*tensors, scale, n_splits), exact, (family, n_splits)))
    return worst


@pytest.mark.parametrize("dtype", DTYPES)
def test_right_split_kv_is_within_its_budget(dtype):
    assert 0 < split_share(dtype, 0, 5) < 1


def weights_share(dtype, seed, rounds):
    worst, contract = 0.0, contract_for("fused", dtype)
    for family, (q, k, _), (q_, k_, _), scale, bias, received in draws(dtype, seed, rounds):
        exact = evaluate("attention_weights", dict(q=q_, k=k_, causal=False, mask=None, scale=scale, window=None,
                                                   bias=received), contract, CONVENTIONS)
        s = scores(wide(q), wide(k), scale, None if bias is None else wide(bias))
        worst = max(worst, largest([softmax_rows(s)[0].to(q.dtype)], exact, family))
    return worst


@pytest.mark.parametrize("dtype", DTYPES)
def test_right_attention_weights_are_within_their_budget(dtype):
    assert 0 < weights_share(dtype, 0, 5) < 1


def test_right_decoding_is_within_its_budget_and_the_caches_are_exact():
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        contract = contract_for("fused", dtype)
        for heads, kv_heads, steps, lens in (
            (2, 2, 1, (0, 5)),
            (6, 2, 3, (29, 4)),
            (3, 1, 1, (16, 0)),
            (1, 1, 4, (0, 31)),
        ):
            q, k_new, v_new = (
                to_torch(rng.standard_normal((2, h, steps, 8)), dtype) for h in (heads, kv_heads, kv_heads)
            )
            k, v = (to_torch(rng.standard_normal((2, kv_heads, 40, 8)), dtype) for _ in range(2))
            k[:, :, 36:], v[:, :, 36:] = math.nan, math.nan  # never read
            received = dict(zip(("q", "k_new", "v_new", "k_cache", "v_cache"), map(numbers, (q, k_new, v_new, k, v))))
            exact = evaluate("decode", received | {"lens": np.array(lens), "scale": None}, contract, CONVENTIONS)
            out = torch.empty_like(q)
            for b, n in enumerate(lens):
                k[b, :, n:n + steps], v[b, :, n:n + steps] = k_new[b], v_new[b]
                keep = torch.where(torch.ones(steps, n + steps).tril(n) > 0, 0.0, -INF)
                k_, v_ = (x[b:b + 1, :, :n + steps].repeat_interleave(heads // kv_heads, 1) for x in (k, v))
                out[b] = textbook(q[b:b + 1], k_, v_, 8**-0.5, keep)[0][0]
            assert 0 < largest([out], exact[:1], dtype) < 1
            for cache, expected in zip((k, v), exact[1:]):
                assert np.array_equal(numbers(cache), expected.value, equal_nan=True) and not expected.budget.any()


# ------------------------------------------------------------------------------------------------ wrong implementations


def perturbed(out, lse, change):
    return change(out), lse


def flawed(flaw):
    """Online attention in the accumulator with one flaw planted."""
    def implementation(q, k, v, scale, bias):
        if flaw == "drops the last key":
            keep = slice(0, max(1, k.shape[2] - 1))
            return online(q, k[:, :, keep], v[:, :, keep], scale, None if bias is None else bias[..., keep])
        if flaw == "wrong scale":
            return online(q, k, v, scale * 1.01, bias)
        if flaw == "values swapped":
            return online(q, k, v.flip(2), scale, bias)
        if flaw == "hidden keys at -10":
            return online(q, k, v, scale, None if bias is None else torch.where(bias == -INF, -10.0, bias))
        if flaw == "result off by 1e-5":
            return perturbed(*online(q, k, v, scale, bias), lambda x: x * (1 + 1e-5))
        if flaw == "lse in base 2":
            out, lse = online(q, k, v, scale, bias)
            return out, lse / math.log(2)
        return unscaled(q, k, v, scale, bias, flaw)
    return implementation


def unscaled(q, k, v, scale, bias, flaw):
    """The loop of `online`, where the state is not rescaled, or is kept in bfloat16, or log2 e is cut to 1.4427."""
    q_, k_, v_ = wide(q), wide(k), wide(v)
    m = torch.full((*q.shape[:-1], 1), -INF, dtype=q_.dtype)
    l, acc = torch.zeros_like(m), torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q_.dtype)
    for i in range(0, k.shape[2], 16):
        s = scores(q_, k_[..., i:i + 16, :], scale, None if bias is None else wide(bias[..., i:i + 16]))
        new = torch.maximum(m, s.amax(-1, keepdim=True))
        shift = torch.where(new == -INF, 0.0, new)
        p = torch.exp2((s - shift) * 1.4427) if flaw == "log2 e cut" else torch.exp(s - shift)
        alpha = torch.where(m == -INF, 0.0, torch.exp(m - shift))
        l = (1 if flaw == "denominator not rescaled" else alpha) * l + p.sum(-1, keepdim=True)
        acc = (1 if flaw == "numerator not rescaled" else alpha) * acc + p @ v_[..., i:i + 16, :]
        if flaw == "sums in bfloat16":
            l, acc = l.bfloat16().to(l.dtype), acc.bfloat16().to(l.dtype)
        m = new
    return (acc / torch.where(l == 0, 1.0, l)).to(q.dtype), (m + torch.log(l))[..., 0]


FLAWS = ("drops the last key", "wrong scale", "values swapped", "hidden keys at -10", "result off by 1e-5",
         "lse in base 2", "denominator not rescaled", "numerator not rescaled", "sums in bfloat16", "log2 e cut")


def detection(flaw, dtype, seed=0, rounds=3):
    """The share of inputs on which the flaw changes the result and is flagged."""
    contract, triggered, flagged = contract_for("fused", dtype), 0, 0
    for family, tensors, (q, k, v), scale, bias, received in draws(dtype, seed, rounds):
        if family in ("1e4", "huge", "tiny", "subnormal", "constant", "ties"):
            continue
        wrong, right = flawed(flaw)(*tensors, scale, bias), online(*tensors, scale, bias)
        if all(torch.equal(x, y) for x, y in zip(wrong, right)):
            continue
        arguments = dict(q=q, k=k, v=v, causal=False, mask=None, scale=scale, window=None, bias=received)
        exact = evaluate("attention", arguments, contract, CONVENTIONS)
        triggered += 1
        flagged += any((violations(numbers(x), e) > 1).any() for x, e in zip(wrong, exact))
    return flagged / max(triggered, 1)


@pytest.mark.parametrize("flaw", FLAWS)
def test_flaws_leave_the_float64_budget(flaw):
    assert detection(flaw, "float64") > 0.95


@pytest.mark.parametrize("flaw", FLAWS[:-1])
def test_flaws_leave_the_float32_budget_on_most_inputs(flaw):
    assert detection(flaw, "float32") > 0.6


@pytest.mark.parametrize("flaw", FLAWS[:6])
def test_structural_flaws_leave_the_budget_of_half_precision_too(flaw):
    expected = 0.6 if flaw != "result off by 1e-5" else 0.0
    assert min(detection(flaw, dtype) for dtype in ("float16", "bfloat16")) >= expected


def test_small_integers_and_a_power_of_four_reveal_what_roundings_hide():
    """Their scores are exact in any order, so that only exp and the sums are left in the budget."""
    rng, flagged, n = np.random.default_rng(0), 0, 40
    for _ in range(n):
        q, k, v = (to_torch(rng.integers(-3, 4, (1, 1, length, 16)), "float32") for length in (4, 33, 33))
        arguments = dict(zip("qkv", map(numbers, (q, k, v)))) | {"scale": 0.25}
        exact = evaluate("attention", arguments, contract_for("fused", "float32"), CONVENTIONS)
        wrong = flawed("log2 e cut")(q, k, v, 0.25, None)
        flagged += any((violations(numbers(got), e) > 1).any() for got, e in zip(wrong, exact))
        assert largest(online(q, k, v, 0.25, None), exact, "right") < 1
    assert flagged > n / 4
