"""Right implementations stay within their budgets, wrong ones do not, and special values are judged by class."""

import math
from functools import reduce

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from properties.numerics import ANY, FIN, NAN, NONFINITE, ZERO, ZERO_OR_NAN, PRESETS, SUPPORTED, contract_for, evaluate, violations

INF = math.inf
DTYPES = ("float64", "float32", "float16", "bfloat16")
CONVENTIONS = {"causal": "bottom-right", "empty_row": "zero"}
SHAPES = ((1, 2, 17, 17, 16), (1, 1, 5, 33, 8), (1, 2, 1, 64, 32), (2, 1, 3, 128, 16), (1, 1, 7, 1, 4), (1, 1, 4, 257, 64))


# ------------------------------------------------------------------------------------- right implementations, in torch


def wide(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))


def scores(q, k, scale, bias):
    s = (q @ k.transpose(-1, -2)) * scale
    return s if bias is None else s + bias


def textbook(q, k, v, scale, bias):
    """Everything in float32, the weights cast to the input's type before they meet v."""
    s = scores(wide(q), wide(k), scale, None if bias is None else wide(bias))
    m = s.amax(-1, keepdim=True)
    p = torch.exp(s - torch.where(m == -INF, 0.0, m))
    l = p.sum(-1, keepdim=True)
    out = wide((p / torch.where(l == 0, 1.0, l)).to(q.dtype)) @ wide(v)
    return out.to(q.dtype), (m + torch.log(l))[..., 0]


def eager(q, k, v, scale, bias):
    """Scores and weights in the input's type."""
    s = scores(q, k, scale, bias)
    p = torch.softmax(s, -1)
    return torch.where(torch.isnan(p), 0.0, p) @ v, torch.logsumexp(wide(s), -1)


def prescaled(q, k, v, scale, bias):
    """As eager, with the scale on q."""
    return eager(q * scale, k, v, 1.0, bias)


def sequential(q, k, v, scale, bias):
    """Strictly sequential sums, the worst order."""
    q_, k_, v_ = wide(q), wide(k), wide(v)
    s = torch.zeros(*q.shape[:-1], k.shape[-2], dtype=q_.dtype)
    for i in range(q.shape[-1]):
        s = s + q_[..., :, None, i] * k_[..., None, :, i]
    s = s * scale if bias is None else s * scale + wide(bias)
    m = s.amax(-1, keepdim=True)
    p = torch.exp(s - torch.where(m == -INF, 0.0, m))
    l, acc = torch.zeros_like(m), torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q_.dtype)
    for j in range(k.shape[-2]):
        l = l + p[..., j:j + 1]
        acc = acc + wide(p.to(q.dtype))[..., j:j + 1] * v_[..., j:j + 1, :]
    return (acc / torch.where(l == 0, 1.0, l)).to(q.dtype), (m + torch.log(l))[..., 0]


def online(q, k, v, scale, bias, *, block=16, base2=False, backwards=False, round_weights=True):
    """Blocks of keys, a running maximum, the state rescaled; with exp2 as FlashAttention has it where `base2`."""
    q_, k_, v_ = wide(q), wide(k), wide(v)
    m = torch.full((*q.shape[:-1], 1), -INF, dtype=q_.dtype)
    l, acc = torch.zeros_like(m), torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q_.dtype)
    c, exp = (math.log2(math.e), torch.exp2) if base2 else (1.0, torch.exp)
    starts = range(0, k.shape[-2], block)
    for i in reversed(starts) if backwards else starts:
        s = scores(q_, k_[..., i:i + block, :], scale, None if bias is None else wide(bias[..., i:i + block]))
        new = torch.maximum(m, s.amax(-1, keepdim=True))
        shift = torch.where(new == -INF, 0.0, new)
        p, alpha = exp(s * c - shift * c), torch.where(m == -INF, 0.0, exp((m - shift) * c))
        l = alpha * l + p.sum(-1, keepdim=True)
        acc = alpha * acc + (wide(p.to(q.dtype)) if round_weights else p) @ v_[..., i:i + block, :]
        m = new
    return (acc / torch.where(l == 0, 1.0, l)).to(q.dtype), (m + torch.log(l))[..., 0]


def online_base2(q, k, v, scale, bias):
    return online(q, k, v, scale, bias, base2=True)


def online_backwards(q, k, v, scale, bias):
    return online(q, k, v, scale, bias, backwards=True)


def in_float32(q, k, v, scale, bias):
    return online(q, k, v, scale, bias, round_weights=False)


def sdpa(q, k, v, scale, bias):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale), None


def tf32(q, k, v, scale, bias):
    """Operands of the matrix products cut to 10 bits."""
    def cut(x):
        return (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)

    s = scores(cut(q), cut(k), scale, bias)
    m = s.amax(-1, keepdim=True)
    p = torch.exp(s - torch.where(m == -INF, 0.0, m))
    l = p.sum(-1, keepdim=True)
    return (cut(p) @ cut(v)) / torch.where(l == 0, 1.0, l), (m + torch.log(l))[..., 0]


def merged_by_lse(a, b):
    """Weights exp(lse_i - lse) that are not normalised again."""
    lse = torch.logaddexp(a[1], b[1])
    w1, w2 = (torch.where(x == -INF, 0.0, torch.exp(x - lse))[..., None] for x in (a[1], b[1]))
    return w1 * a[0] + w2 * b[0], lse


def split(q, k, v, scale, n_splits):
    parts = zip(wide(k).tensor_split(n_splits, 2), wide(v).tensor_split(n_splits, 2))
    whole = [textbook(wide(q), k_, v_, scale, None) if k_.shape[2] else
             (torch.zeros(*q.shape[:-1], v.shape[-1], dtype=k_.dtype), torch.full(q.shape[:-1], -INF, dtype=k_.dtype))
             for k_, v_ in parts]
    out, lse = reduce(merged_by_lse, whole)
    return out.to(q.dtype), lse


# --------------------------------------------------------------------------------------------------- families of inputs


def families():
    """Names and draws (q, k, v) of inputs that stress different roundings."""
    def normal(rng, shape):
        b, h, lq, lk, d = shape
        return [rng.standard_normal((b, h, n, d)) for n in (lq, lk, lk)]

    def scaled(fq, fk, fv=1.0):
        return lambda rng, shape: [f * x for f, x in zip((fq, fk, fv), normal(rng, shape))]

    def mapped(f):
        return lambda rng, shape: [f(x) for x in normal(rng, shape)]

    def constant(rng, shape):
        return [np.full_like(x, rng.standard_normal()) for x in normal(rng, shape)]

    def cancelling(rng, shape):  # large |q||k|, small q.k
        q, k, v = normal(rng, shape)
        half = q[..., 1::2].shape[-1]
        q[..., 1::2] = -q[..., 0::2][..., :half] * (1 + 1e-3 * rng.standard_normal(q[..., 1::2].shape))
        k[..., 1::2] = k[..., 0::2][..., :half]
        return 8 * q, 8 * k, v

    def peaked(rng, shape):
        q, k, v = normal(rng, shape)
        k[..., rng.integers(k.shape[-2]), :] = q[..., 0, :] * 4
        return q, k, v

    def rising(rng, shape):
        q, k, v = normal(rng, shape)
        return np.abs(q), np.abs(k) * np.linspace(0.1, 5, k.shape[-2])[:, None], v

    def shifted(rng, shape):
        q, k, v = normal(rng, shape)
        common = 30 / math.sqrt(q.shape[-1])
        return 0.05 * q + common, 0.05 * k + common, v

    def alternating(rng, shape):
        q, k, v = normal(rng, shape)
        v[..., 1::2, :], v[..., 0::2, :] = -1e4, 1e4
        return q, k, v

    def spread(rng, shape):
        q, k, v = normal(rng, shape)
        powers = ((-4, 1.5), (-4, 1.5), (-6, 3))
        return [np.sign(x) * 10 ** rng.uniform(*p, x.shape) for x, p in zip((q, k, v), powers)]

    def integers(rng, shape):
        return [np.trunc(3 * x) for x in normal(rng, shape)]

    def subnormal(rng, shape):
        return [np.sign(x) * 2.0 ** rng.choice([-149, -133, -126, -24, -14, 0], x.shape) for x in normal(rng, shape)]

    return {"normal": normal, "small": scaled(1e-2, 1e-2), "large": scaled(4, 4), "huge": scaled(16, 16, 100),
            "1e4": scaled(100, 40), "positive": mapped(np.abs), "constant": constant, "cancelling": cancelling,
            "peaked": peaked, "rising": rising, "shifted": shifted, "far from 0": lambda r, s: (*normal(r, s)[:2], 1000 + normal(r, s)[2]),
            "alternating": alternating, "spread": spread, "integers": integers,
            "ties": mapped(lambda x: 1 + np.round(4 * x) / 512), "tiny": scaled(1e-20, 1e-20, 1e-36),
            "below half": scaled(1e-3, 1, 1e-6), "subnormal": subnormal}


FAMILIES = families()


def biases(rng, shape):
    """None, causal, finite and random hidden keys, some rows empty; as an additive array."""
    lq, lk = shape[2:4]
    kind = rng.integers(4)
    if kind == 0:
        return None
    if kind == 1:
        return np.where(np.arange(lk) <= np.arange(lq)[:, None] + lk - lq, 0.0, -INF)
    if kind == 2:
        return 3 * rng.standard_normal((lq, lk))
    return np.where(rng.random((lq, lk)) < rng.choice([0.1, 0.5]), 0.0, -INF)


def to_torch(x, dtype):
    return None if x is None else torch.from_numpy(np.asarray(x)).to(getattr(torch, dtype))


def numbers(x):
    return None if x is None else x.double().numpy()


def draws(dtype, seed, rounds, shapes=SHAPES):
    """(family, torch tensors, received float64 arrays, scale, bias, received bias) for every family, `rounds` times."""
    rng = np.random.default_rng(seed)
    for name, draw in FAMILIES.items():
        for i in range(rounds):
            shape = shapes[(i + seed) % len(shapes)]
            tensors = [to_torch(x, dtype) for x in draw(rng, shape)]
            if all(torch.isfinite(x).all() for x in tensors):
                bias = to_torch(biases(rng, shape), dtype)
                scale = rng.choice([shape[-1] ** -0.5, 0.25, 1.0, -0.5])
                yield name, tensors, [numbers(x) for x in tensors], float(scale), bias, numbers(bias)


def largest(results, exacts, context):
    """The largest share of a budget that was used; a wrong class counts as inf."""
    worst = 0.0
    for got, exact in zip(results, exacts):
        if got is not None:
            worst = max(worst, float(violations(numbers(got), exact).max(initial=0.0)))
            assert worst <= 1, (exact.name, worst, context)
    return worst


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


# ------------------------------------------------------------------------------------------------- the other operations


def rows(rng, dtype):
    """Rows of scores: every magnitude, -inf columns, empty rows, ties, one dominant, large common shifts."""
    x = rng.standard_normal((4, int(rng.choice([1, 2, 7, 16, 17, 33, 129]))))
    x = x * rng.choice([1e-30, 1e-3, 1, 10, 100, 1e4]) + rng.choice([0, 0, 20, -89, 1e4, -1e4])
    if rng.random() < 0.3:
        x[rng.random(x.shape) < 0.4] = -INF
    if rng.random() < 0.2:
        x = np.round(x)
    return to_torch(x, dtype)


def softmax_rows(x, exp=torch.exp, factor=1.0):
    x = wide(x)
    m = x.amax(-1, keepdim=True)
    e = exp(x * factor - torch.where(m == -INF, 0.0, m) * factor)
    l = e.sum(-1, keepdim=True)
    return e / torch.where(l == 0, 1.0, l), (m + torch.log(l))[..., 0]


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
    assert 0 < softmax_share(dtype, 0, 150) < 1


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


def states(rng, dtype):
    """Two online-softmax states with any reference m and any denominator l, some of them empty."""
    accumulator = "float64" if dtype == "float64" else "float32"
    size, width = float(rng.choice([1, 30, 1e4])), float(rng.choice([0.1, 5, 60]))
    common = size * rng.standard_normal((2, 3))
    result = []
    for _ in range(2):
        m = common + width * rng.standard_normal((2, 3))
        l = 10.0 ** rng.uniform(*[(0, 2), (-20, 20), (-3, 3)][rng.integers(3)], m.shape)
        acc = l[..., None] * rng.standard_normal((2, 3, 8)) * rng.choice([1, 1e-3, 100])
        hidden = rng.random(m.shape) < rng.choice([0, 0.3])
        m[hidden], l[hidden], acc[hidden] = -INF, 0, 0
        result += [to_torch(x, accumulator) for x in (m, l, acc)]
    return result


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
        exact = evaluate("merge_lse", dict(zip(("out1", "lse1", "out2", "lse2"), map(numbers, given))), contract, CONVENTIONS)
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


def split_share(dtype, seed, rounds):
    worst, contract = 0.0, contract_for("fused", dtype)
    for i, (family, tensors, (q, k, v), scale, _, _) in enumerate(draws(dtype, seed, rounds)):
        n_splits = (1, 2, 4, 7, 40)[i % 5]
        exact = evaluate("split_kv", dict(q=q, k=k, v=v, n_splits=n_splits, scale=scale), contract, CONVENTIONS)
        worst = max(worst, largest(split(*tensors, scale, n_splits), exact, (family, n_splits)))
    return worst


@pytest.mark.parametrize("dtype", DTYPES)
def test_right_split_kv_is_within_its_budget(dtype):
    assert 0 < split_share(dtype, 0, 3) < 1


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
    assert 0 < weights_share(dtype, 0, 3) < 1


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
        worst = max(worst, largest(implementation(q, k, v, out, lse, dout, scale, keep & band), exact, (family, q.shape)))
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
        x, w, b = (to_torch(y, dtype) for y in (x, rng.standard_normal(n), rng.choice([0, 1, 10]) * rng.standard_normal(n)))
        eps = float(rng.choice([1e-5, 1e-3, 1e-12]))
        exact = evaluate("layer_norm", dict(x=numbers(x), weight=numbers(w), bias=numbers(b), eps=eps), contract, CONVENTIONS)
        centred = wide(x) - wide(x).mean(-1, keepdim=True)
        by_hand = centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps) * wide(w) + wide(b)
        for y in (by_hand.to(x.dtype), F.layer_norm(x, (n,), w, b, eps)):
            worst = max(worst, largest([y], exact, (x.shape, eps)))
    return worst


@pytest.mark.parametrize("dtype", DTYPES)
def test_right_layer_norm_is_within_its_budget(dtype):
    assert 0 < layer_norm_share(dtype, 0, 150) < 1
