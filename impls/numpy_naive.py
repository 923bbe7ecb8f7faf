"""Textbook attention in NumPy, independent of torch: a second opinion that shares no code and no library.

float16 inputs are computed in float32 and rounded once, at the end.
"""
from functools import reduce

import numpy as np
from scipy.special import erfc

ARRAY = "numpy"
DTYPES = ("float64", "float32", "float16")
ROUNDING = "fp32-inside"
INF = float("inf")

# NaN and infinity are legal contents; what becomes of them is in the result, not in a warning.
_quiet = np.errstate(divide="ignore", invalid="ignore", over="ignore")


def _check(condition, message):
    if not condition:
        raise ValueError(message)


def _check_qkv(q, k, v):
    for name, x in (("q", q), ("k", k), ("v", v)):
        _check(x.ndim == 4, f"{name} must be (batch, heads, length, head dim), got shape {x.shape}")
    _check(k.shape[:3] == v.shape[:3], f"k {k.shape} and v {v.shape} differ in batch, heads or length")
    _check(q.shape[0] == k.shape[0], f"q has batch size {q.shape[0]}, k and v have {k.shape[0]}")
    _check(q.shape[3] == k.shape[3] > 0, f"q has head dim {q.shape[3]}, k has {k.shape[3]}: need the same, at least 1")
    _check(q.shape[1] == k.shape[1] * _group_size(q, k),
           f"q has {q.shape[1]} heads: not a multiple of the {k.shape[1]} heads of k and v")


def _group_size(q, k):
    """How many query heads share one KV head."""
    return q.shape[1] // max(k.shape[1], 1)


def _wide(x):
    """x in the dtype of the arithmetic: float32 for float16, else its own."""
    return x.astype(np.promote_types(x.dtype, np.float32))


# ----------------------------------------------------------------------------------------------------------- softmax

def _exp_and_sum(x):
    """exp(x - m), its row sums l, and the shift m: the row maximum, or 0 for a row without one (empty, or all -inf)."""
    m = x.max(-1, keepdims=True, initial=-INF)
    m = np.where(m == -INF, 0, m).astype(x.dtype)
    e = np.exp(x - m)
    return e, e.sum(-1, keepdims=True), m


def _divide(a, l):
    """a / l, and 0 where nothing was summed."""
    return a / np.where(l == 0, 1, l)


@_quiet
def softmax(x):
    """exp(x_j) / sum_k exp(x_k) over the last axis; a row of -inf gives zeros."""
    e, l, _ = _exp_and_sum(_wide(x))
    return _divide(e, l).astype(x.dtype)


@_quiet
def softmax_backward(y, dy):
    """The gradient of softmax from its output y: y * (dy - <y, dy>) per row."""
    p, dp = _wide(y), _wide(dy)
    return (p * (dp - (p * dp).sum(-1, keepdims=True))).astype(y.dtype)


def masked_softmax(scores, keep):
    """softmax over the scores where `keep` (bool, broadcasts) is True; the others are exactly 0."""
    return softmax(np.where(keep, scores, scores.dtype.type(-INF)))


@_quiet
def log_sum_exp(x):
    """log sum_k exp(x_k) over the last axis, natural log, at least float32; -inf for an empty row."""
    _, l, m = _exp_and_sum(_wide(x))
    return np.asarray((m + np.log(l)).squeeze(-1))


# --------------------------------------------------------------------------------- merging partial results over keys

@_quiet
def merge(m1, l1, acc1, m2, l2, acc2):
    """Two online-softmax states over disjoint keys become the state over all of them.

    A state is the running maximum m (..., L), the denominator l = sum exp(s - m) (..., L) and the numerator
    acc = sum exp(s - m) v (..., L, Dv); no keys yet is (-inf, 0, 0).
    """
    m1, l1, acc1, m2, l2, acc2 = map(_wide, (m1, l1, acc1, m2, l2, acc2))
    m = np.asarray(np.maximum(m1, m2))
    shift = np.where(m == -INF, 0, m).astype(m.dtype)
    w1, w2 = np.asarray(np.exp(m1 - shift)), np.asarray(np.exp(m2 - shift))
    return m, np.asarray(w1 * l1 + w2 * l2), w1[..., None] * acc1 + w2[..., None] * acc2


@_quiet
def merge_lse(out1, lse1, out2, lse2):
    """Two finished attentions over disjoint keys: states with m = lse, l = 1, acc = out."""
    one = np.ones_like(lse1)
    m, l, acc = merge(lse1, one, out1, lse2, one, out2)
    return _divide(acc, l[..., None]).astype(out1.dtype), np.asarray(m + np.log(l))


# --------------------------------------------------------------------------------------------------------- attention

def _scores(q, k, causal=False, mask=None, scale=None, window=None, bias=None):
    """scale * q k^T + bias (B, Hq, Lq, Lk), -inf where hidden, and the visibility itself (bool, broadcasts)."""
    lq, lk = q.shape[2], k.shape[2]
    shape = (*q.shape[:3], lk)
    visible = np.ones((lq, lk), bool)
    if causal:
        visible = visible & causal_mask(lq, lk)
    if window is not None:
        visible = visible & sliding_window_mask(lq, lk, window)
    if mask is not None:
        _check(mask.dtype == bool, "mask must be bool (True = visible); an additive one is the bias")
        visible = visible & _expand("mask", mask, shape)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    scores = scale * (_wide(q) @ _wide(repeat_kv(k, _group_size(q, k))).swapaxes(-1, -2))
    if bias is not None:
        bias = _expand("bias", bias, shape)
        visible = visible & (bias != -INF)
        scores = scores + _wide(bias)
    return np.where(visible, scores, scores.dtype.type(-INF)), visible


def _expand(name, x, shape):
    try:
        return np.broadcast_to(x, shape)
    except ValueError:
        raise ValueError(f"{name} of shape {x.shape} does not expand to (B, Hq, Lq, Lk) = {shape}") from None


@_quiet
def attention(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
    """softmax(scale * q k^T + bias) v over the visible keys, and the log-sum-exp of the scores.

    q (B, Hq, Lq, D), k (B, Hkv, Lk, D), v (B, Hkv, Lk, Dv) -> out (B, Hq, Lq, Dv), lse (B, Hq, Lq).
    Query head h reads KV head h // (Hq // Hkv). A row that sees no key gives 0 and lse -inf.
    """
    _check_qkv(q, k, v)
    scores, _ = _scores(q, k, causal, mask, scale, window, bias)
    e, l, m = _exp_and_sum(scores)
    out = _divide(e, l) @ _wide(repeat_kv(v, _group_size(q, k)))
    return out.astype(q.dtype), (m + np.log(l)).squeeze(-1)


@_quiet
def attention_weights(q, k, causal=False, mask=None, scale=None, window=None, bias=None):
    """The weights (B, Hq, Lq, Lk) with which `attention` averages the values."""
    _check_qkv(q, k, k)
    return softmax(_scores(q, k, causal, mask, scale, window, bias)[0]).astype(q.dtype)


@_quiet
def attention_backward(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """(dq, dk, dv) from the forward's out and lse, with the weights recomputed as exp(S - lse).

    The formulas are those of Dao et al. 2022, FlashAttention, appendix B.4; a KV head collects from its query heads.
    """
    _check_qkv(q, k, v)
    n_rep = _group_size(q, k)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    scores, visible = _scores(q, k, causal, mask, scale)
    lse, do = _wide(lse)[..., None], _wide(dout)
    p = np.exp(scores - np.where(lse == -INF, 0, lse).astype(lse.dtype))
    dp = do @ _wide(repeat_kv(v, n_rep)).swapaxes(-1, -2)
    delta = (do * _wide(out)).sum(-1, keepdims=True)
    ds = np.where(visible, p * (dp - delta), 0).astype(p.dtype)
    dq = scale * (ds @ _wide(repeat_kv(k, n_rep)))
    dk = scale * (ds.swapaxes(-1, -2) @ _wide(q))
    dv = p.swapaxes(-1, -2) @ do
    dk, dv = (x.reshape(x.shape[0], k.shape[1], n_rep, *x.shape[2:]).sum(2) for x in (dk, dv))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


def split_kv(q, k, v, n_splits=4, scale=None):
    """Attention over n_splits parts of the keys, merged afterwards (flash decoding); parts may be empty."""
    _check_qkv(q, k, v)
    _check(n_splits >= 1, f"n_splits must be at least 1, got {n_splits}")
    wide_q, wide_k, wide_v = map(_wide, (q, k, v))
    parts = zip(np.array_split(wide_k, n_splits, axis=2), np.array_split(wide_v, n_splits, axis=2))
    out, lse = reduce(lambda a, b: merge_lse(*a, *b), (attention(wide_q, kp, vp, scale=scale) for kp, vp in parts))
    return out.astype(q.dtype), lse


# --------------------------------------------------------------------------------------------------- heads and masks

def repeat_kv(x, n_rep):
    """(B, H, L, D) -> (B, H * n_rep, L, D): each head n_rep times in a row, next to its query heads."""
    _check(n_rep >= 0, f"n_rep must not be negative, got {n_rep}")
    return x.repeat(n_rep, axis=1)


def split_heads(x, h):
    """(B, L, h * d) -> (B, h, L, d)."""
    _check(h >= 1 and x.shape[-1] % h == 0, f"the last axis, {x.shape[-1]}, does not split into {h} heads")
    return x.reshape(*x.shape[:-1], h, x.shape[-1] // h).swapaxes(1, 2)


def merge_heads(x):
    """(B, h, L, d) -> (B, L, h * d), the inverse of split_heads."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], x.shape[1] * x.shape[3])


def causal_mask(lq, lk):
    """(lq, lk) bool: query i sees keys j <= i + lk - lq, so that the last query sees every key."""
    return np.tri(lq, lk, lk - lq, dtype=bool)


def sliding_window_mask(lq, lk, window):
    """(lq, lk) bool: causal, and of those keys only the last `window`."""
    _check(window >= 1, f"window must be at least 1 (the current key), got {window}")
    return np.tri(lq, lk, lk - lq, dtype=bool) & ~np.tri(lq, lk, lk - lq - window, dtype=bool)


def padding_mask(lens, lk):
    """(B, 1, 1, lk) bool: sequence b has lens[b] keys, the rest is padding."""
    return np.arange(lk) < np.asarray(lens)[:, None, None, None]


# ----------------------------------------------------------------------------------- the rest of a transformer block

@_quiet
def layer_norm(x, weight, bias, eps=1e-5):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis, variance biased."""
    centred = _wide(x) - _wide(x).mean(-1, keepdims=True)
    var = (centred * centred).mean(-1, keepdims=True)
    return (centred / np.sqrt(var + eps) * _wide(weight) + _wide(bias)).astype(x.dtype)


def rope(x, positions, base=10000.0):
    """Rotate the pairs (x[i], x[i + D/2]) by positions * base^(-2i/D): multiplication by exp(i angle).

    x (B, H, L, D), D even; positions (L,) or (B, L).
    """
    half = x.shape[-1] // 2
    _check(x.shape[-1] == 2 * half, f"rope needs an even head dim, got {x.shape[-1]}")
    positions = np.asarray(positions, np.float64)
    positions = positions[:, None] if positions.ndim == 2 else positions      # the same for every head
    turn = np.exp(1j * positions[..., None] * base ** (-np.arange(half) / max(half, 1)))
    z = (x[..., :half].astype(np.float64) + 1j * x[..., half:]) * turn
    return np.concatenate([z.real, z.imag], -1).astype(x.dtype)


def sinusoidal_positions(length, d):
    """(length, d) float64: sin(pos / 10000^(2i/d)) in column 2i, the cosine in 2i + 1."""
    angles = np.arange(length)[:, None] / 10000.0 ** (np.arange(0, d, 2) / max(d, 1))
    out = np.empty((length, d))
    out[:, 0::2], out[:, 1::2] = np.sin(angles), np.cos(angles[:, :d // 2])
    return out


@_quiet
def gelu(x):
    """x * Phi(x), Phi the normal distribution function: exact, by erfc, which keeps the tail that 1 + erf cancels."""
    return (_wide(x) * 0.5 * erfc(-_wide(x) * 0.5 ** 0.5)).astype(x.dtype)
