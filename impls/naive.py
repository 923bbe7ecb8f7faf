"""Textbook attention and its neighbours, in plain torch: every operation as its formula reads, nothing tiled or fused.

float16 and bfloat16 inputs are computed in float32 and rounded once, at the end. The matrix of scores is stored, so the
memory is O(Lq * Lk): that is the cost that `blockwise.py` avoids.

Vaswani et al. 2017, "Attention Is All You Need", section 3.2, is the source unless another one is named.
"""
from functools import reduce

import torch

DTYPES = ("float64", "float32", "float16", "bfloat16")
ROUNDING = "fp32-inside"
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
    _check(q.shape[1] == k.shape[1] * _group_size(q, k),
           f"q has {q.shape[1]} heads: not a multiple of the {k.shape[1]} heads of k and v")


def _group_size(q, k):
    """How many query heads share one KV head."""
    return q.shape[1] // max(k.shape[1], 1)


def _wide(x):
    """x in the dtype of the arithmetic: float32 for half precision, else its own."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# ----------------------------------------------------------------------------------------------------------- softmax

def _exp_and_sum(x):
    """exp(x - m), its row sums l, and the shift m: the row maximum, or 0 for a row that has none (empty or all -inf).

    Any finite m gives the same softmax; the maximum is the one for which exp cannot overflow.
    """
    m = x.amax(-1, keepdim=True) if x.shape[-1] else x.new_full((*x.shape[:-1], 1), -INF)
    m = m.masked_fill(m == -INF, 0.0)
    e = torch.exp(x - m)
    return e, e.sum(-1, keepdim=True), m


def _divide(a, l):
    """a / l, and 0 where nothing was summed."""
    return a / l.masked_fill(l == 0, 1.0)


def softmax(x):
    """exp(x_j) / sum_k exp(x_k) over the last dim; a row of -inf gives zeros."""
    e, l, _ = _exp_and_sum(_wide(x))
    return _divide(e, l).to(x.dtype)


def softmax_backward(y, dy):
    """The gradient of softmax from its output y: y * (dy - <y, dy>) per row."""
    p, dp = _wide(y), _wide(dy)
    return (p * (dp - (p * dp).sum(-1, keepdim=True))).to(y.dtype)


def masked_softmax(scores, keep):
    """softmax over the scores where `keep` (bool, broadcasts) is True; the others are exactly 0."""
    return softmax(torch.where(keep, scores, -INF))


def log_sum_exp(x):
    """log sum_k exp(x_k) over the last dim, natural log, at least float32; -inf for an empty row."""
    _, l, m = _exp_and_sum(_wide(x))
    return (m + torch.log(l)).squeeze(-1)


# --------------------------------------------------------------------------------- merging partial results over keys

def merge(m1, l1, acc1, m2, l2, acc2):
    """Two online-softmax states over disjoint keys become the state over all of them.

    A state is the running maximum m (..., L), the denominator l = sum exp(s - m) (..., L) and the numerator
    acc = sum exp(s - m) v (..., L, Dv); no keys yet is (-inf, 0, 0). Both are rescaled to the common maximum, then
    added (Milakov and Gimelshein 2018, section 3). Returns at least float32.
    """
    m1, l1, acc1, m2, l2, acc2 = map(_wide, (m1, l1, acc1, m2, l2, acc2))
    m = torch.maximum(m1, m2)
    shift = m.masked_fill(m == -INF, 0.0)
    w1, w2 = torch.exp(m1 - shift), torch.exp(m2 - shift)
    return m, w1 * l1 + w2 * l2, w1[..., None] * acc1 + w2[..., None] * acc2


def merge_lse(out1, lse1, out2, lse2):
    """Two finished attentions over disjoint keys, (..., L, Dv) with lse (..., L), become the one over all of them.

    A finished attention is the state m = lse, l = 1, acc = out.
    """
    one = torch.ones_like(lse1)
    m, l, acc = merge(lse1, one, out1, lse2, one, out2)
    return _divide(acc, l[..., None]).to(out1.dtype), m + torch.log(l)


# --------------------------------------------------------------------------------------------------------- attention

def _scores(q, k, causal=False, mask=None, scale=None, window=None, bias=None):
    """scale * q k^T + bias (B, Hq, Lq, Lk), -inf where hidden, and the visibility itself (bool, broadcasts)."""
    lq, lk = q.shape[2], k.shape[2]
    shape = (*q.shape[:3], lk)
    visible = torch.ones(lq, lk, dtype=torch.bool, device=q.device)
    if causal:
        visible = visible & causal_mask(lq, lk, device=q.device)
    if window is not None:
        visible = visible & sliding_window_mask(lq, lk, window, device=q.device)
    if mask is not None:
        _check(mask.dtype == torch.bool, "mask must be bool (True = visible); an additive one is the bias")
        visible = visible & _expand("mask", mask, shape)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    scores = scale * (_wide(q) @ _wide(repeat_kv(k, _group_size(q, k))).transpose(-1, -2))
    if bias is not None:
        bias = _expand("bias", bias, shape)
        visible = visible & (bias != -INF)
        scores = scores + _wide(bias)
    # Hidden scores are replaced, not lowered: whatever a hidden key holds, even an overflow, leaves no trace.
    return torch.where(visible, scores, -INF), visible


def _expand(name, x, shape):
    try:
        return x.expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} of shape {tuple(x.shape)} does not expand to (B, Hq, Lq, Lk) = {shape}") from None


def attention(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
    """softmax(scale * q k^T + bias) v over the visible keys, and the log-sum-exp of the scores.

    q (B, Hq, Lq, D), k (B, Hkv, Lk, D), v (B, Hkv, Lk, Dv) -> out (B, Hq, Lq, Dv), lse (B, Hq, Lq).
    Query head h reads KV head h // (Hq // Hkv). A key is visible where `mask` (bool), `causal`, `window` and a bias
    above -inf all agree; a row that sees none gives 0 and lse -inf. ValueError if the arguments do not fit together.
    """
    _check_qkv(q, k, v)
    scores, _ = _scores(q, k, causal, mask, scale, window, bias)
    e, l, m = _exp_and_sum(scores)
    out = _divide(e, l) @ _wide(repeat_kv(v, _group_size(q, k)))
    return out.to(q.dtype), (m + torch.log(l)).squeeze(-1)


def attention_weights(q, k, causal=False, mask=None, scale=None, window=None, bias=None):
    """The weights (B, Hq, Lq, Lk) with which `attention` averages the values."""
    _check_qkv(q, k, k)
    return softmax(_scores(q, k, causal, mask, scale, window, bias)[0]).to(q.dtype)


def attention_backward(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """(dq, dk, dv) from the forward's out and lse, the weights recomputed as P = exp(S - lse).

    dV = P^T dO, dP = dO V^T, dS = P * (dP - rowsum(dO * O)), dQ = scale dS K, dK = scale dS^T Q
    (Dao et al. 2022, FlashAttention, appendix B.4); query heads that share a KV head add up their dK and dV.
    """
    _check_qkv(q, k, v)
    n_rep = _group_size(q, k)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    scores, visible = _scores(q, k, causal, mask, scale)
    lse, do = _wide(lse)[..., None], _wide(dout)
    p = torch.exp(scores - lse.masked_fill(lse == -INF, 0.0))
    dp = do @ _wide(repeat_kv(v, n_rep)).transpose(-1, -2)
    delta = (do * _wide(out)).sum(-1, keepdim=True)
    ds = torch.where(visible, p * (dp - delta), 0.0)
    dq = scale * (ds @ _wide(repeat_kv(k, n_rep)))
    dk = scale * (ds.transpose(-1, -2) @ _wide(q))
    dv = p.transpose(-1, -2) @ do
    dk, dv = (x.unflatten(1, (k.shape[1], n_rep)).sum(2) for x in (dk, dv))
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def split_kv(q, k, v, n_splits=4, scale=None):
    """Attention over n_splits parts of the keys, merged afterwards (flash decoding); parts may be empty."""
    _check_qkv(q, k, v)
    _check(n_splits >= 1, f"n_splits must be at least 1, got {n_splits}")
    wide_q, *wide_kv = map(_wide, (q, k, v))
    parts = zip(*(x.tensor_split(n_splits, dim=2) for x in wide_kv))
    out, lse = reduce(lambda a, b: merge_lse(*a, *b), (attention(wide_q, kp, vp, scale=scale) for kp, vp in parts))
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


# --------------------------------------------------------------------------------------------------- heads and masks

def repeat_kv(x, n_rep):
    """(B, H, L, D) -> (B, H * n_rep, L, D): each head n_rep times in a row, next to its query heads."""
    _check(n_rep >= 0, f"n_rep must not be negative, got {n_rep}")
    return x.repeat_interleave(n_rep, dim=1)


def split_heads(x, h):
    """(B, L, h * d) -> (B, h, L, d)."""
    _check(h >= 1 and x.shape[-1] % h == 0, f"the last dim, {x.shape[-1]}, does not split into {h} heads")
    return x.unflatten(-1, (h, x.shape[-1] // h)).transpose(1, 2)


def merge_heads(x):
    """(B, h, L, d) -> (B, L, h * d), the inverse of split_heads."""
    return x.transpose(1, 2).flatten(2)


def causal_mask(lq, lk, device=None):
    """(lq, lk) bool: query i sees keys j <= i + lk - lq, so that the last query sees every key."""
    i, j = torch.arange(lq, device=device)[:, None], torch.arange(lk, device=device)
    return j <= i + lk - lq


def sliding_window_mask(lq, lk, window, device=None):
    """(lq, lk) bool: causal, and of those keys only the last `window`."""
    _check(window >= 1, f"window must be at least 1 (the current key), got {window}")
    i, j = torch.arange(lq, device=device)[:, None], torch.arange(lk, device=device)
    return (j <= i + lk - lq) & (j > i + lk - lq - window)


def padding_mask(lens, lk):
    """(B, 1, 1, lk) bool: sequence b has lens[b] keys, the rest is padding."""
    lens = torch.as_tensor(lens)
    return torch.arange(lk, device=lens.device) < lens[:, None, None, None]


def multi_head_attention(x_q, x_kv, wq, wk, wv, wo, n_heads, n_kv_heads=None, causal=False, mask=None):
    """x_q (B, Lq, E) attends to x_kv (B, Lk, E') in n_heads subspaces; weights (in, out), no bias.

    With fewer n_kv_heads than n_heads this is grouped-query attention (Ainslie et al. 2023), with one multi-query.
    """
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    _check(n_heads >= 1 and n_kv_heads >= 1 and n_heads % n_kv_heads == 0,
           f"n_heads = {n_heads} is not a multiple of n_kv_heads = {n_kv_heads}")
    for name, x, w in (("wq", x_q, wq), ("wk", x_kv, wk), ("wv", x_kv, wv)):
        _check(x.shape[-1] == w.shape[0], f"{name} {tuple(w.shape)} does not fit inputs of width {x.shape[-1]}")
    q = split_heads(_wide(x_q) @ _wide(wq), n_heads)
    k = split_heads(_wide(x_kv) @ _wide(wk), n_kv_heads)
    v = split_heads(_wide(x_kv) @ _wide(wv), n_kv_heads)
    heads = merge_heads(attention(q, k, v, causal=causal, mask=mask)[0])
    _check(heads.shape[-1] == wo.shape[0], f"wo {tuple(wo.shape)} does not fit heads of total width {heads.shape[-1]}")
    return (heads @ _wide(wo)).to(x_q.dtype)


def linear_attention(q, k, v, causal=False):
    """phi(q) (sum_j phi(k_j) v_j^T) / phi(q) (sum_j phi(k_j)) with phi = elu + 1, over the visible keys j.

    q (B, H, Lq, D), k (B, H, Lk, D), v (B, H, Lk, Dv). The running sums are all that a query needs of its past
    (Katharopoulos et al. 2020, section 3.2).
    """
    def phi(x):  # elu(x) + 1, written so that exp(x) of a very negative x is not lost beside the 1
        return torch.where(x > 0, x + 1, torch.exp(x.clamp(max=0.0)))

    fq, fk, wide_v = phi(_wide(q)), phi(_wide(k)), _wide(v)
    lq, lk = q.shape[2], k.shape[2]
    outer = fk[..., :, None] * wide_v[..., None, :]                     # (B, H, Lk, D, Dv)
    if causal:
        seen = (torch.arange(lq, device=q.device) + lk - lq + 1).clamp(min=0)   # how many keys query i sees
        none = [torch.zeros_like(x.sum(2, keepdim=True)) for x in (outer, fk)]
        kv, norm = (torch.cat([z, x.cumsum(2)], 2)[:, :, seen] for z, x in zip(none, (outer, fk)))
    else:
        kv, norm = outer.sum(2, keepdim=True), fk.sum(2, keepdim=True)
    numerator = (fq[..., None, :] @ kv).squeeze(-2)
    return _divide(numerator, (fq * norm).sum(-1, keepdim=True)).to(q.dtype)


# ----------------------------------------------------------------------------------- the rest of a transformer block

def layer_norm(x, weight, bias, eps=1e-5):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dim, variance biased (Ba et al. 2016)."""
    return (_normalise(_wide(x), eps)[0] * _wide(weight) + _wide(bias)).to(x.dtype)


def _normalise(x, eps):
    centred = x - x.mean(-1, keepdim=True)
    rstd = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
    return centred * rstd, rstd


def layer_norm_backward(x, weight, dy, eps=1e-5):
    """(dx, dw, db) of layer_norm; dw and db are summed over all rows."""
    x_hat, rstd = _normalise(_wide(x), eps)
    g, dy = _wide(dy) * _wide(weight), _wide(dy)
    dx = rstd * (g - g.mean(-1, keepdim=True) - x_hat * (g * x_hat).mean(-1, keepdim=True))
    rows = tuple(range(x.ndim - 1))
    dw, db = ((dy * x_hat).sum(rows), dy.sum(rows)) if rows else (dy * x_hat, dy.clone())
    return dx.to(x.dtype), dw.to(weight.dtype), db.to(weight.dtype)


def rope(x, positions, base=10000.0):
    """Rotate the pairs (x[i], x[i + D/2]) by positions * base^(-2i/D) (Su et al. 2021, section 3.2.2).

    x (B, H, L, D), D even; positions (L,) or (B, L). Angles are float64, since float32 knows an angle of 1e5 to only
    0.01 radians.
    """
    half = x.shape[-1] // 2
    _check(x.shape[-1] == 2 * half, f"rope needs an even head dim, got {x.shape[-1]}")
    positions = torch.as_tensor(positions, device=x.device).to(torch.float64)
    positions = positions[:, None] if positions.ndim == 2 else positions      # the same for every head
    angles = positions[..., None] * base ** (-torch.arange(half, device=x.device, dtype=torch.float64) / max(half, 1))
    wide = _wide(x)
    cos, sin = angles.cos().to(wide.dtype), angles.sin().to(wide.dtype)
    x1, x2 = wide[..., :half], wide[..., half:]
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).to(x.dtype)


def sinusoidal_positions(length, d):
    """(length, d) float64: sin(pos / 10000^(2i/d)) in column 2i, the cosine in 2i + 1 (section 3.5)."""
    columns = torch.arange(d, dtype=torch.float64)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * 10000.0 ** (-2 * (columns // 2) / max(d, 1))
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos())


def gelu(x):
    """x * Phi(x), Phi the normal distribution function: exact, by erfc, which keeps the tail that 1 + erf cancels."""
    wide = _wide(x)
    return (0.5 * wide * torch.erfc(-wide * 0.5 ** 0.5)).to(x.dtype)


def dropout(x, p, seed):
    """(y, mask): each element is kept (mask True) with probability 1 - p and then divided by 1 - p, else 0."""
    _check(0 <= p <= 1, f"p must be a probability, got {p}")
    generator = torch.Generator(x.device).manual_seed(seed)
    mask = torch.rand(x.shape, generator=generator, device=x.device, dtype=torch.float64) >= p
    return torch.where(mask, _wide(x) / (1 - p), 0.0).to(x.dtype), mask
