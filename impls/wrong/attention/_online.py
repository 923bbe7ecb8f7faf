"""The right core of the wrong kernels: online softmax over blocks of keys, in plain torch.

`online_attention` without keywords after the star is right. Each of those keywords replaces one step of the algorithm,
so that a suspect is the right kernel but for the step that it names.
"""
import torch

from impls.naive import _check, _check_qkv, _expand, _wide

BLOCK = 16
INF = float("inf")


def visible_keys(q, k, causal, mask, window):
    """(B, Hq, Lq, Lk) bool: where mask, causal and window all agree; positions are aligned at the last key."""
    lq, lk = q.shape[2], k.shape[2]
    row, column = torch.arange(lq)[:, None] + lk - lq, torch.arange(lk)
    keep = torch.ones(*q.shape[:3], lk, dtype=torch.bool)
    if causal or window is not None:
        keep = keep & (column <= row)
    if window is not None:
        keep = keep & (column > row - window)
    return keep if mask is None else keep & mask_of(q, k, mask)


def mask_of(q, k, mask):
    """A mask as (B, Hq, Lq, Lk)."""
    _check(mask.dtype == torch.bool, "mask must be bool (True = visible); an additive one is the bias")
    return _expand("mask", mask, (*q.shape[:3], k.shape[2]))


def key_blocks(lk, block=BLOCK):
    """The slices of keys that are read one after the other; the last one may be shorter."""
    return [slice(start, min(start + block, lk)) for start in range(0, lk, block)]


def scaled_dot(q, k, scale):
    """scale * q k^T of one block."""
    return scale * (q @ k.mT)


def hide(scores, keep):
    """Scores that are not visible are replaced by -inf."""
    return torch.where(keep, scores, -INF)


def finite(m):
    """The maximum to subtract: 0 where no key was seen, since -inf - (-inf) is no number."""
    return torch.where(m == -INF, 0.0, m)


def running_maximum(m, scores):
    """The maximum so far, m (B, Hq, Lq), and of the scores (B, Hq, Lq, n) of a block."""
    return torch.maximum(m, scores.amax(-1))


def rescale(old, new):
    """What earlier sums are multiplied by when the maximum goes from old to new."""
    return torch.exp(old - finite(new))


def weights(scores, m):
    """exp(s - m), not normalised, of one block."""
    return torch.exp(scores - finite(m)[..., None])


def finish(m, l, acc):
    """(out, lse) of a state; 0 and -inf where no key was seen."""
    return torch.where(l[..., None] == 0, 0.0, acc / l[..., None]), torch.where(l == 0, -INF, m + torch.log(l))


def online_attention(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None, *,
                     visible=visible_keys,                          # (q, k, causal, mask, window) -> keep
                     default_scale=lambda d: d ** -0.5,             # of the head dim, where none is given
                     head=lambda h, hq, hkv: h // (hq // hkv),      # the KV head of query head h
                     value_head=None,                               # that of the values, if another
                     blocks=key_blocks,                             # of the number of keys
                     first_max=-INF,                                # the maximum before the first block
                     dot=scaled_dot, add=torch.add,                 # scores, and the bias added to them
                     hide=hide, maximum=running_maximum, rescale=rescale, weights=weights,
                     stored=lambda p: p,                            # the weights as P V reads them
                     kept=lambda m, l, acc: (m, l, acc),            # the state as the next block finds it
                     finish=finish):
    """Attention; every keyword after the star is one possible mistake."""
    _check_qkv(q, k, v)
    _check(window is None or window >= 1, f"window must be at least 1 (the current key), got {window}")
    (b, hq, lq, d), hkv, lk, dtype = q.shape, k.shape[1], k.shape[2], q.dtype
    scale = default_scale(d) if scale is None else scale
    keep = visible(q, k, causal, mask, window)
    if bias is not None:
        bias = _wide(_expand("bias", bias, (b, hq, lq, lk)))
        keep = keep & (bias != -INF)
    q, k, v = (_wide(x) for x in (q, k, v))
    k, v = (x[:, [at(h, hq, hkv) for h in range(hq)]] for x, at in ((k, head), (v, value_head or head)))
    m = q.new_full((b, hq, lq), first_max)
    l, acc = torch.zeros_like(m), q.new_zeros(b, hq, lq, v.shape[-1])
    for block in blocks(lk):
        scores = dot(q, k[:, :, block], scale)
        if bias is not None:
            scores = add(scores, bias[..., block])
        scores = hide(scores, keep[..., block])
        new = maximum(m, scores)
        factor, p = rescale(m, new), weights(scores, new)
        m, l, acc = kept(new, l * factor + p.sum(-1),
                         acc * factor[..., None] + stored(p) @ v[:, :, block])
    out, lse = finish(m, l, acc)
    return out.to(dtype), lse
