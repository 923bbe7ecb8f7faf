"""Right softmax, merges, gradients and layer norm stay within their budgets."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from properties.numerics import contract_for, evaluate
from tests.unit.references import (CONVENTIONS, DTYPES, INF, SHAPES, draws, largest, merged_by_lse, numbers, rows,
                                   scores, softmax_rows, states, textbook, to_torch, wide)


def softmax_share(dtype, seed, rounds):
    rng, worst, contract = np.random.default_rng(seed), 0.0, contract_for("fused", dtype)
    for _ in range(rounds):
        x = rows(rng, dtype)
        exact_p = evaluate("softmax", {"x": numbers(x)}, contract, CONVENTIONS)
        exact_lse = evaluate("log_sum_exp", {"x": numbers(x)}, contract, CONVENTIONS)
        for exp, factor in ((torch.exp, 1.0), (torch.exp2, math.log2(math.e))):
            p, lse = softmax_rows(x, exp, factor)
            worst = max(worst, largest([p.to(x.dtype)], exact_p, x), largest([lse], exact_lse, x))
        own = torch.softmax(x, -1)
        worst = max(worst, largest([torch.where(torch.isnan(own), 0.0, own)], exact_p, x))
        worst = max(worst, largest([torch.logsumexp(wide(x), -1)], exact_lse, x))
        keep = torch.from_numpy(rng.random(x.shape) < 0.6)
        exact = evaluate("masked_softmax", {"scores": numbers(x), "keep": keep.numpy()}, contract, CONVENTIONS)
        got = softmax_rows(torch.where(keep, x, -INF))[0].to(x.dtype)
        worst = max(worst, largest([got], exact, x))
    return worst


@pytest.mark.parametrize("dtype", DTYPES)
def test_right_softmax_is_within_its_budget(dtype):
    assert 0 < softmax_share(dtype, 0, 100) < 1


def softmax_backward_share(dtype, seed, rounds):
    rng, worst, contract = np.random.default_rng(seed), 0.0, contract_for("fused", dtype)
    for _ in range(rounds):
        y = softmax_rows(rows(rng, dtype))[0].to(getattr(torch, dtype))
        dy = to_torch(rng.standard_normal(y.shape) * rng.choice([1e-6, 1, 100]) + rng.choice([0, 50]), dtype)
        exact = evaluate("softmax_backward", {"y": numbers(y), "dy": numbers(dy)}, contract, CONVENTIONS)
        a, b = wide(y), wide(dy)
        factored = a * (b - (a * b).sum(-1, keepdim=True))
        expanded = a * b - a * (a * b).sum(-1, keepdim=True)
        own = torch._softmax_backward_data(dy, y, -1, y.dtype)
        for dx in (factored.to(y.dtype), expanded.to(y.dtype), own):
            worst = max(worst, largest([dx], exact, y.shape))
    return worst


@pytest.mark.parametrize("dtype", DTYPES)
def test_right_softmax_backward_is_within_its_budget(dtype):
    assert 0 < softmax_backward_share(dtype, 0, 100) < 1


def merge_by_maximum(m1, l1, acc1, m2, l2, acc2, exp=torch.exp, factor=1.0):
    m = torch.maximum(m1, m2)
    shift = torch.where(m == -INF, 0.0, m)
    w1, w2 = exp(m1 * factor - shift * factor), exp(m2 * factor - shift * factor)
    return m, w1 * l1 + w2 * l2, w1[..., None] * acc1 + w2[..., None] * acc2


def merge_in_base2(*state):
    return merge_by_maximum(*state, exp=torch.exp2, factor=math.log2(math.e))


def merge_normalised(m1, l1, acc1, m2, l2, acc2):
    """The state of l = 1: its reference is the log-sum-exp."""
    m, l, acc = merge_by_maximum(m1, l1, acc1, m2, l2, acc2)
    one = torch.where(l == 0, 1.0, l)
    return m + torch.log(l), l / one, acc / one[..., None]


def finished(m, l, acc):
    m, l, acc = m.double(), l.double(), acc.double()
    return acc / torch.where(l == 0, 1.0, l)[..., None], m + torch.log(l)


def merge_share(dtype, seed, rounds):
    rng, worst, contract = np.random.default_rng(seed), 0.0, contract_for("fused", dtype)
    names = ("m1", "l1", "acc1", "m2", "l2", "acc2")
    for _ in range(rounds):
        drawn = states(rng, dtype)
        exact = evaluate("merge", dict(zip(names, map(numbers, drawn))), contract, CONVENTIONS)
        for implementation in (merge_by_maximum, merge_in_base2, merge_normalised):
            worst = max(worst, largest(finished(*implementation(*drawn)), exact, implementation.__name__))
    return worst


def ring(out1, lse1, out2, lse2):
    """out1 - sigmoid(lse2 - lse1)(out1 - out2), as ring attention has it; defined where both parts saw a key."""
    out = wide(out1) - torch.sigmoid(lse2 - lse1)[..., None] * (wide(out1) - wide(out2))
    return out.to(out1.dtype), lse1 - F.logsigmoid(lse1 - lse2)


def merge_lse_share(dtype, seed, rounds):
    rng, worst, contract = np.random.default_rng(seed), 0.0, contract_for("fused", dtype)
    for _ in range(rounds):
        m1, l1, acc1, m2, l2, acc2 = states(rng, dtype)
        (out1, lse1), (out2, lse2) = finished(m1, l1, acc1), finished(m2, l2, acc2)
        given = [x.to(kind) for x, kind in zip((out1, lse1, out2, lse2), (getattr(torch, dtype), m1.dtype) * 2)]
        if not all(torch.isfinite(x).all() for x in given[::2]):
            continue
        exact = evaluate(
            "merge_lse", dict(zip(("out1", "lse1", "out2", "lse2"), map(numbers, given))), contract, CONVENTIONS
        )
        a, b = (wide(given[0]), given[1]), (wide(given[2]), given[3])
        one = torch.where(a[1] == -INF, 0.0, 1.0), torch.where(b[1] == -INF, 0.0, 1.0)
        renormalised = finished(*merge_by_maximum(a[1], one[0], a[0], b[1], one[1], b[0]))
        plain = merged_by_lse(a, b)
        for out, lse in (renormalised, plain):
            worst = max(worst, largest([out.to(m1.dtype).to(given[0].dtype), lse], exact, "merge_lse"))
        if torch.isfinite(lse1).all() and torch.isfinite(lse2).all():
            worst = max(worst, largest(ring(*given), exact, "ring"))
    return worst


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [merge_share, merge_lse_share])
def test_right_merges_are_within_their_budget(share, dtype):
    assert 0 < share(dtype, 0, 100) < 1


def flash_backward(q, k, v, out, lse, dout, scale, keep):
    """P from lse, delta from out (FlashAttention, appendix B.4), dS rounded to the input's type."""
    n_rep = q.shape[1] // k.shape[1]
    k_, v_ = (wide(x).repeat_interleave(n_rep, 1) for x in (k, v))
    q_, do = wide(q), wide(dout)
    s = torch.where(keep, scores(q_, k_, scale, None), -INF)
    p = torch.exp(s - torch.where(lse == -INF, 0.0, lse)[..., None])
    ds = p * (do @ v_.transpose(-1, -2) - (do * wide(out)).sum(-1, keepdim=True))
    p, ds = wide(p.to(q.dtype)), wide(ds.to(q.dtype))
    dk, dv = scale * ds.transpose(-1, -2) @ q_, p.transpose(-1, -2) @ do
    grouped = [x.to(q.dtype).unflatten(1, (k.shape[1], n_rep)).sum(2) for x in (dk, dv)]
    return (scale * ds @ k_).to(q.dtype), *grouped


def eager_backward(q, k, v, out, lse, dout, scale, keep):
    """Autograd through the textbook formula in float32."""
    leaves = [wide(x).clone().requires_grad_() for x in (q, k, v)]
    n_rep = q.shape[1] // k.shape[1]
    k_, v_ = (x.repeat_interleave(n_rep, 1) for x in leaves[1:])
    p = torch.softmax(torch.where(keep, scores(leaves[0], k_, scale, None), -1e30), -1) * keep
    (p @ v_).backward(wide(dout))
    return tuple(x.grad.to(q.dtype) for x in leaves)


def eager_half_backward(q, k, v, out, lse, dout, scale, keep):
    """Autograd through scores and weights of the input's type."""
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    n_rep = q.shape[1] // k.shape[1]
    k_, v_ = (x.repeat_interleave(n_rep, 1) for x in leaves[1:])
    s = torch.where(keep, scores(leaves[0], k_, scale, None), -3e4)
    (torch.softmax(s, -1).mul(keep) @ v_).backward(dout)
    return tuple(x.grad for x in leaves)


def backward_share(preset, dtype, implementation, seed, rounds):
    rng, worst, contract = np.random.default_rng(seed), 0.0, contract_for(preset, dtype)
    for family, (q, k, v), _, scale, _, _ in draws(dtype, seed, rounds, SHAPES[:4]):
        if family in ("1e4", "huge", "tiny", "subnormal"):
            scale = scale / 16
        causal = bool(rng.integers(2))
        if rng.integers(2):
            k, v = k[:, :1], v[:, :1]
        keep = torch.from_numpy(rng.random((q.shape[2], k.shape[2])) < 0.8)
        band = torch.ones_like(keep).tril(k.shape[2] - q.shape[2]) if causal else torch.ones_like(keep)
        group = q.shape[1] // k.shape[1]
        bias = torch.where(keep & band, 0.0, -INF)
        out, lse = textbook(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), scale, bias)
        dout = to_torch(rng.standard_normal(out.shape), dtype)
        arguments = dict(zip(("q", "k", "v", "out", "lse", "dout"), map(numbers, (q, k, v, out, lse, dout))))
        exact = evaluate("attention_backward", arguments | {"causal": causal, "mask": keep.numpy(), "scale": scale},
                         contract, CONVENTIONS)
        worst = max(
            worst, largest(implementation(q, k, v, out, lse, dout, scale, keep & band), exact, (family, q.shape))
        )
    return worst


BACKWARD = ([("fused", dtype, f) for dtype in DTYPES for f in (flash_backward, eager_backward)]
            + [("naive", dtype, eager_half_backward) for dtype in DTYPES[2:]])


@pytest.mark.parametrize("preset, dtype, implementation", BACKWARD, ids=[f"{f.__name__}-{d}" for _, d, f in BACKWARD])
def test_right_gradients_are_within_their_budget(preset, dtype, implementation):
    assert 0 < backward_share(preset, dtype, implementation, 0, 3) < 1


def layer_norm_share(dtype, seed, rounds):
    rng, worst, contract = np.random.default_rng(seed), 0.0, contract_for("fused", dtype)
    for _ in range(rounds):
        n = int(rng.choice([1, 2, 7, 33, 257]))
        x = rng.standard_normal((5, n)) * rng.choice([1e-20, 1e-3, 1, 100]) + rng.choice([0, 0, 10, 1000])
        x, w, b = (
            to_torch(y, dtype) for y in (x, rng.standard_normal(n), rng.choice([0, 1, 10]) * rng.standard_normal(n))
        )
        eps = float(rng.choice([1e-5, 1e-3, 1e-12]))
        exact = evaluate(
            "layer_norm", dict(x=numbers(x), weight=numbers(w), bias=numbers(b), eps=eps), contract, CONVENTIONS
        )
        centred = wide(x) - wide(x).mean(-1, keepdim=True)
        by_hand = centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps) * wide(w) + wide(b)
        for y in (by_hand.to(x.dtype), F.layer_norm(x, (n,), w, b, eps)):
            worst = max(worst, largest([y], exact, (x.shape, eps)))
    return worst


@pytest.mark.parametrize("dtype", DTYPES)
def test_right_layer_norm_is_within_its_budget(dtype):
    assert 0 < layer_norm_share(dtype, 0, 100) < 1
