"""Nine bugs that have shipped, planted by hand: each variant is right but for one line."""

import torch

DTYPES = ("float64", "float32", "float16", "bfloat16")
BLOCK = 16


def _wide(x):
    return x if x.dtype == torch.float64 else x.float()


def _softmax(x, *, subtract=True):
    x = _wide(x)
    m = x.amax(-1, keepdim=True)
    e = torch.exp(x - torch.where(m == -torch.inf, 0.0, m)) if subtract else torch.exp(x)
    total = e.sum(-1, keepdim=True)
    return torch.where(total == 0, 0.0, e / total)


def _attention(q, k, v, causal=False, mask=None, scale=None, *, first_max=-torch.inf, keys=lambda n: n, head=None,
               power=0.5, diagonal=0, hidden=-torch.inf):
    """Online softmax over blocks of 16 keys; every keyword after the star is one possible mistake."""
    b, hq, lq, d = q.shape
    hkv, lk = k.shape[1], k.shape[2]
    if v.shape[2] != lk:
        raise ValueError(f"k has {lk} keys and v has {v.shape[2]}")
    if hq % hkv:
        raise ValueError(f"q has {hq} heads, which is not a multiple of the {hkv} heads of k and v")
    group = hq // hkv
    head = head or (lambda h: h // group)
    index = torch.tensor([head(h) for h in range(hq)])
    scale = d ** -power if scale is None else scale
    keep = torch.ones(b, hq, lq, lk, dtype=torch.bool) if mask is None else mask.expand(b, hq, lq, lk)
    if causal:
        keep = keep & (torch.arange(lk) <= torch.arange(lq)[:, None] + lk - lq + diagonal)
    q, k, v, dtype = _wide(q), _wide(k)[:, index], _wide(v)[:, index], q.dtype
    m = torch.full((b, hq, lq), float(first_max), dtype=q.dtype)
    l = torch.zeros_like(m)                                                                    # noqa: E741
    acc = torch.zeros(b, hq, lq, v.shape[-1], dtype=q.dtype)
    for start in range(0, keys(lk), BLOCK):
        block = slice(start, start + BLOCK)
        s = torch.where(keep[..., block], scale * (q @ k[:, :, block].mT), float(hidden))
        new = torch.maximum(m, s.amax(-1))
        shift = torch.where(new == -torch.inf, 0.0, new)
        p, factor = torch.exp(s - shift[..., None]), torch.exp(m - shift)
        m, l = new, l * factor + p.sum(-1)                                                     # noqa: E741
        acc = acc * factor[..., None] + p @ v[:, :, block]
    out = torch.where(l[..., None] == 0, 0.0, acc / l[..., None])
    return out.to(dtype), torch.where(l == 0, -torch.inf, m + torch.log(l))


def no_maximum_subtraction(x):
    return _softmax(x, subtract=False).to(x.dtype)


def running_maximum_starts_at_0(q, k, v, causal=False, mask=None, scale=None):
    return _attention(q, k, v, causal, mask, scale, first_max=0.0)


def last_block_dropped(q, k, v, causal=False, mask=None, scale=None):
    return _attention(q, k, v, causal, mask, scale, keys=lambda n: n - 1 if n % BLOCK == 1 and n > 1 else n)


def merge_without_rescaling(m1, l1, acc1, m2, l2, acc2):
    return torch.maximum(m1, m2), l1 + l2, acc1 + acc2


def kv_head_modulo(q, k, v, causal=False, mask=None, scale=None):
    return _attention(q, k, v, causal, mask, scale, head=lambda h: h % k.shape[1])


def scale_one_over_d(q, k, v, causal=False, mask=None, scale=None):
    return _attention(q, k, v, causal, mask, scale, power=1.0)


def causal_off_by_one(q, k, v, causal=False, mask=None, scale=None):
    return _attention(q, k, v, causal, mask, scale, diagonal=1)


def masked_score_minus_1e4(q, k, v, causal=False, mask=None, scale=None):
    return _attention(q, k, v, causal, mask, scale, hidden=-1e4)


def strides_ignored(x):
    flat = torch.as_strided(x, x.shape, torch.empty(x.shape, device="meta").stride(), x.storage_offset())
    return _softmax(flat).to(x.dtype)


VARIANTS = {
    "no_maximum_subtraction": {"softmax": no_maximum_subtraction},
    "running_maximum_starts_at_0": {"attention": running_maximum_starts_at_0},
    "last_block_dropped": {"attention": last_block_dropped},
    "merge_without_rescaling": {"merge": merge_without_rescaling},
    "kv_head_modulo": {"attention": kv_head_modulo},
    "scale_one_over_d": {"attention": scale_one_over_d},
    "causal_off_by_one": {"attention": causal_off_by_one},
    "masked_score_minus_1e4": {"attention": masked_score_minus_1e4},
    "strides_ignored": {"softmax": strides_ignored},
    "right": {"attention": _attention, "softmax": lambda x: _softmax(x).to(x.dtype)},
}
