"""Right implementations of attention in plain torch, and families of inputs that stress different roundings.

They share no code with the exact values that they are held against.
"""

import math
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F

from properties.numerics import violations

INF = math.inf
DTYPES = ("float64", "float32", "float16", "bfloat16")
CONVENTIONS = {"causal": "bottom-right", "empty_row": "zero"}
SHAPES = (
    (1, 2, 17, 17, 16),
    (1, 1, 5, 33, 8),
    (1, 2, 1, 64, 32),
    (2, 1, 3, 128, 16),
    (1, 1, 7, 1, 4),
    (1, 1, 4, 257, 64),
)


# -------------------------------------------------------------------------------------- right implementations, in torch


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

    return {
        "normal": normal,
        "small": scaled(1e-2, 1e-2),
        "large": scaled(4, 4),
        "huge": scaled(16, 16, 100),
        "1e4": scaled(100, 40),
        "positive": mapped(np.abs),
        "constant": constant,
        "cancelling": cancelling,
        "peaked": peaked,
        "rising": rising,
        "shifted": shifted,
        "far from 0": lambda r, s: (*normal(r, s)[:2], 1000 + normal(r, s)[2]),
        "alternating": alternating,
        "spread": spread,
        "integers": integers,
        "ties": mapped(lambda x: 1 + np.round(4 * x) / 512),
        "tiny": scaled(1e-20, 1e-20, 1e-36),
        "below half": scaled(1e-3, 1, 1e-6),
        "subnormal": subnormal,
    }


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
