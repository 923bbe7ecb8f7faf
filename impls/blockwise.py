"""Attention by online softmax: the algorithm of FlashAttention without the hardware, in plain torch.

Keys are read block by block. Of all earlier blocks only a state is kept: per query the running maximum m of the scores,
the denominator l = sum exp(s - m) and the numerator acc = sum exp(s - m) v. The scores of a block are forgotten when
the next one comes, so no tensor has Lq * Lk elements (Milakov and Gimelshein 2018; Dao et al. 2022, algorithm 1).

float16 and bfloat16 inputs are computed in float32 and rounded once, at the end.
"""
from functools import reduce

import torch

DTYPES = ("float64", "float32", "float16", "bfloat16")
ROUNDING = "fp32-inside"
BLOCK = 16      # keys at a time: any number from 1 gives the same result up to rounding
INF = float("inf")


def _check(condition, message):
    if not condition:
        raise ValueError(message)


def _check_qkv(q, k, v):
    for name, x in (("q", q), ("k", k), ("v", v)):
        _check(x.ndim == 4, f"{name} must be (batch, heads, length, head dim), got shape {tuple(x.shape)}")
    _check(k.shape[:3] == v.shape[:3], f"k {tuple(k.shape)} and v {tuple(v.shape)} differ in batch, heads or length")
    _check(q.shape[0] == k.shape[0], f"q has batch size {q.shape[0]}, k and v have {k.shape[0]}")
    _check(q.shape[3] == k.shape[3] > 0, f"q has head dim {q.shape[3]}, k has {k.shape[3]}: need the same, at least 1")
    _check(q.shape[1] == k.shape[1] * (q.shape[1] // max(k.shape[1], 1)),
           f"q has {q.shape[1]} heads: not a multiple of the {k.shape[1]} heads of k and v")


def _wide(x):
    """x in the dtype of the arithmetic: float32 for half precision, else its own."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _blocks(length):
    return [slice(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


# --------------------------------------------------------------------------------------------------------- the state

def _no_keys(rows, width, like):
    """The state before the first block."""
    return like.new_full(rows, -INF), like.new_zeros(rows), like.new_zeros(*rows, width)


def _state(scores, v):
    """The state of one block by itself: scores (..., L, n), hidden ones -inf, and values (..., n, Dv)."""
    m = scores.amax(-1)
    e = torch.exp(scores - _finite(m)[..., None])
    return m, e.sum(-1), e @ v


def _finite(m):
    """The maximum to subtract: where there is none yet, 0 instead of -inf, since -inf - (-inf) is no number."""
    return m.masked_fill(m == -INF, 0.0)


def merge(m1, l1, acc1, m2, l2, acc2):
    """Two states over disjoint keys become the state over all of them: rescale both to the common maximum, then add.

    m and l (..., L), acc (..., L, Dv). Returns at least float32.
    """
    m1, l1, acc1, m2, l2, acc2 = map(_wide, (m1, l1, acc1, m2, l2, acc2))
    m = torch.maximum(m1, m2)
    w1, w2 = torch.exp(m1 - _finite(m)), torch.exp(m2 - _finite(m))
    return m, w1 * l1 + w2 * l2, w1[..., None] * acc1 + w2[..., None] * acc2


def _finish(m, l, acc):
    """(out, lse) of a state; 0 and -inf where no key was seen."""
    return acc / l.masked_fill(l == 0, 1.0)[..., None], _finite(m) + torch.log(l)


def merge_lse(out1, lse1, out2, lse2):
    """Two finished attentions over disjoint keys, out (..., L, Dv) and lse (..., L), become the one over all of them.

    A finished attention is the state m = lse, l = 1, acc = out.
    """
    one = torch.ones_like(lse1)
    out, lse = _finish(*merge(lse1, one, out1, lse2, one, out2))
    return out.to(out1.dtype), lse


# ----------------------------------------------------------------------------------------------------------- softmax

def _row_state(x):
    """(m, l) of each row: the state of an attention whose values have no columns."""
    state = _no_keys(x.shape[:-1], 0, like=x)
    for block in _blocks(x.shape[-1]):
        scores = x[..., block]
        m, l, _ = _state(scores, scores.new_empty(scores.shape[-1], 0))
        state = merge(*state, m, l, state[2])
    return state[0], state[1]


def softmax(x):
    """exp(x_j) / sum_k exp(x_k) over the last dim in two passes, one for m and l and one for the weights.

    A row of -inf gives zeros.
    """
    m, l = (s[..., None] for s in _row_state(_wide(x)))
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for block in _blocks(x.shape[-1]):
        y[..., block] = torch.exp(_wide(x[..., block]) - _finite(m)) / l.masked_fill(l == 0, 1.0)
    return y


def masked_softmax(scores, keep):
    """softmax over the scores where `keep` (bool, broadcasts) is True; the others are exactly 0."""
    return softmax(torch.where(keep, scores, -INF))


def log_sum_exp(x):
    """log sum_k exp(x_k) over the last dim in one pass, natural log, at least float32; -inf for an empty row."""
    m, l = _row_state(_wide(x))
    return _finite(m) + torch.log(l)


# --------------------------------------------------------------------------------------------------------- attention

def _block_scores(q, k, block, causal=False, mask=None, scale=None, window=None, bias=None):
    """The scores (B, Hkv, G, Lq, n) of one block of keys, -inf where hidden; q is (B, Hkv, G, Lq, D)."""
    lq, lk = q.shape[3], k.shape[2]
    i = torch.arange(lq, device=q.device)[:, None] + lk - lq        # where query i stands among the keys
    j = torch.arange(block.start, block.stop, device=q.device)
    visible = torch.ones(lq, len(j), dtype=torch.bool, device=q.device)
    if causal or window is not None:
        visible = visible & (j <= i)
    if window is not None:
        visible = visible & (j > i - window)
    if mask is not None:
        visible = visible & mask[..., block]
    scores = scale * (q @ _wide(k[:, :, None, block]).transpose(-1, -2))
    if bias is not None:
        visible = visible & (bias[..., block] != -INF)
        scores = scores + _wide(bias[..., block])
    # Hidden scores are replaced, not lowered: whatever a hidden key holds, even an overflow, leaves no trace.
    return torch.where(visible, scores, -INF)


def _grouped(x, k):
    """(B, Hq, ...) -> (B, Hkv, G, ...): the G query heads that read one KV head side by side."""
    return x.unflatten(1, (k.shape[1], x.shape[1] // max(k.shape[1], 1)))


def _options(q, k, causal, mask, scale, window=None, bias=None):
    """The options of `attention`, checked, with mask and bias in grouped heads and the default scale filled in."""
    shape = (*q.shape[:3], k.shape[2])
    _check(mask is None or mask.dtype == torch.bool, "mask must be bool (True = visible); an additive one is the bias")
    _check(window is None or window >= 1, f"window must be at least 1 (the current key), got {window}")
    tensors = {"mask": mask, "bias": bias}
    for name, x in tensors.items():
        if x is not None:
            fits = x.ndim <= 4 and all(n in (1, m) for n, m in zip(reversed(x.shape), reversed(shape)))
            _check(fits, f"{name} of shape {tuple(x.shape)} does not expand to (B, Hq, Lq, Lk) = {shape}")
            tensors[name] = _grouped(x.expand(shape), k)
    return {"causal": causal, "window": window, "scale": q.shape[3] ** -0.5 if scale is None else scale, **tensors}


def attention(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
    """softmax(scale * q k^T + bias) v over the visible keys, and the log-sum-exp of the scores.

    q (B, Hq, Lq, D), k (B, Hkv, Lk, D), v (B, Hkv, Lk, Dv) -> out (B, Hq, Lq, Dv), lse (B, Hq, Lq).
    Query head h reads KV head h // (Hq // Hkv). A key is visible where `mask` (bool), `causal`, `window` and a bias
    above -inf all agree; a row that sees none gives 0 and lse -inf. ValueError if the arguments do not fit together.
    """
    _check_qkv(q, k, v)
    options = _options(q, k, causal, mask, scale, window, bias)
    grouped = _wide(_grouped(q, k))
    state = _no_keys(grouped.shape[:-1], v.shape[3], like=grouped)
    for block in _blocks(k.shape[2]):
        state = merge(*state, *_state(_block_scores(grouped, k, block, **options), _wide(v[:, :, None, block])))
    out, lse = _finish(*state)
    return out.flatten(1, 2).to(q.dtype), lse.flatten(1, 2)


def attention_backward(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """(dq, dk, dv) from the forward's out and lse: the weights of a block are P = exp(S - lse), computed again.

    dV = P^T dO, dP = dO V^T, dS = P * (dP - rowsum(dO * O)), dQ = scale dS K, dK = scale dS^T Q
    (Dao et al. 2022, algorithm 4). A block's dK and dV are complete at once, dQ is added up over the blocks.
    """
    _check_qkv(q, k, v)
    options = _options(q, k, causal, mask, scale)
    wide_q, o, do, lse = (_wide(_grouped(x, k)) for x in (q, out, dout, lse))
    delta = (do * o).sum(-1, keepdim=True)
    dq = torch.zeros_like(wide_q)
    dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (k, v))
    for block in _blocks(k.shape[2]):
        scores = _block_scores(wide_q, k, block, **options)
        p = torch.exp(scores - _finite(lse)[..., None])
        dp = do @ _wide(v[:, :, None, block]).transpose(-1, -2)
        ds = torch.where(scores == -INF, 0.0, p * (dp - delta))
        dq += options["scale"] * (ds @ _wide(k[:, :, None, block]))
        dk[:, :, block] = options["scale"] * (ds.transpose(-1, -2) @ wide_q).sum(2)     # over the group's query heads
        dv[:, :, block] = (p.transpose(-1, -2) @ do).sum(2)
    return dq.flatten(1, 2).to(q.dtype), dk, dv


def split_kv(q, k, v, n_splits=4, scale=None):
    """Attention over n_splits parts of the keys, merged afterwards (flash decoding); parts may be empty."""
    _check_qkv(q, k, v)
    _check(n_splits >= 1, f"n_splits must be at least 1, got {n_splits}")
    parts = zip(k.tensor_split(n_splits, dim=2), v.tensor_split(n_splits, dim=2))
    partial = (attention(_wide(q), _wide(kp), _wide(vp), scale=scale) for kp, vp in parts)
    out, lse = reduce(lambda a, b: merge_lse(*a, *b), partial)
    return out.to(q.dtype), lse


def decode(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """Attention of T new tokens with a KV cache, which they are written into, in place.

    q (B, Hq, T, D); k_new, v_new (B, Hkv, T, D or Dv); caches (B, Hkv, capacity, D or Dv); lens (B,) counts the rows
    that each sequence already has. New row t sees the rows up to its own, lens[b] + t; nothing beyond is read.
    """
    _check_qkv(q, k_new, v_new)
    lens, t, capacity = [int(n) for n in lens], q.shape[2], min(k_cache.shape[2], v_cache.shape[2])
    _check(len(lens) == q.shape[0], f"lens has {len(lens)} entries for a batch of {q.shape[0]}")
    _check(all(0 <= n <= capacity - t for n in lens),
           f"lens = {lens} and {t} new rows do not fit into caches of {capacity} rows")
    out = q.new_empty(*q.shape[:3], v_new.shape[3])
    for b, n in enumerate(lens):
        k_cache[b, :, n:n + t] = k_new[b]
        v_cache[b, :, n:n + t] = v_new[b]
        k, v = k_cache[b:b + 1, :, :n + t], v_cache[b:b + 1, :, :n + t]
        out[b] = attention(q[b:b + 1], k, v, causal=True, scale=scale)[0][0]
    return out
