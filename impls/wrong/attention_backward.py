"""Wrong gradients of attention; the forward pass that hands over out and lse is right."""
import torch

from impls.naive import INF, _check_qkv, _wide, causal_mask
from impls.naive import attention_backward as _right

_sums = {}


def _visible(q, k, causal, mask):
    keep = torch.ones(*q.shape[:3], k.shape[2], dtype=torch.bool)
    keep = keep & causal_mask(q.shape[2], k.shape[2]) if causal else keep
    return keep if mask is None else keep & mask


def _weights(scores, lse):
    lse = lse[..., None]
    return torch.exp(scores - lse.masked_fill(lse == -INF, 0.0))


def _gradients(q, k, v, out, lse, dout, causal=False, mask=None, scale=None, *, visible=_visible, weights=_weights,
               delta=lambda do, out: (do * out).sum(-1, keepdim=True), head=lambda h, group: h // group,
               shares=lambda total, h, share: total + share, dk_scale=None, dq_sees=None,
               dk_dv_see=None):
    """The right backward pass; every keyword after the star is one possible mistake.

    `visible` masks, `weights` recomputes P, `delta` is rowsum(dO * O), `head(h, group)` is the KV head of query head h,
    `shares` adds the share of query head h to dK and dV; bool masks of dS say what dQ, and what dK and dV, add up.
    """
    _check_qkv(q, k, v)
    group = q.shape[1] // k.shape[1]
    heads = [head(h, group) for h in range(q.shape[1])]
    scale = q.shape[3] ** -0.5 if scale is None else scale
    wide_q, wide_k, wide_v, do = _wide(q), _wide(k)[:, heads], _wide(v)[:, heads], _wide(dout)
    keep = visible(q, k, causal, mask)
    p = weights(torch.where(keep, scale * (wide_q @ wide_k.mT), -INF), _wide(lse))
    ds = torch.where(keep, p * (do @ wide_v.mT - delta(do, _wide(out))), 0.0)
    dq = scale * ((ds if dq_sees is None else ds * dq_sees) @ wide_k)
    ds, p = (ds, p) if dk_dv_see is None else (ds * dk_dv_see, p * dk_dv_see)
    found = []
    for x, per_head in ((k, (scale if dk_scale is None else dk_scale) * (ds.mT @ wide_q)), (v, p.mT @ do)):
        total = torch.zeros(x.shape, dtype=per_head.dtype)
        for h, kv_head in enumerate(heads):
            total[:, kv_head] = shares(total[:, kv_head], h, per_head[:, h])
        found.append(total.to(x.dtype))
    return dq.to(q.dtype), *found


# ------------------------------------------------------------------------------------------------ what a query may see

def always_causal(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """The backward pass takes every call for a causal one.

    Shipped: triton#4541, triton#4174, triton#5660, triton#5241.
    Family: masks.
    """
    return _gradients(q, k, v, out, lse, dout, True, mask, scale)


def causal_aligned_at_the_first_key(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """Causal is aligned at the bottom right in the forward pass and at the top left in the backward pass.

    Notes: 001, section 3.2.
    Family: masks.
    """
    def visible(q, k, causal, mask):
        keep = _visible(q, k, False, mask)
        return keep.tril() if causal else keep

    return _gradients(q, k, v, out, lse, dout, causal, mask, scale, visible=visible)


def mask_forgotten(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """The mask is applied in the forward pass only: hidden keys get weights above 1, and gradients.

    Notes: 004, question 4.
    Family: masks.
    """
    return _gradients(q, k, v, out, lse, dout, causal, None, scale)


def rows_without_keys_are_nan(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """exp(S - lse) of a row that sees no key is exp(-inf - -inf), and its NaN reaches the gradients of all keys.

    Shipped: flash-attention#1778, flash-attention#443, unsloth#9848.
    Family: masks.
    """
    return _gradients(q, k, v, out, lse, dout, causal, mask, scale,
                      weights=lambda scores, lse: torch.exp(scores - lse[..., None]))


# ------------------------------------------------------------------------------------------------------ the arithmetic

def delta_left_out(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """dS = P * dP: the Jacobian of softmax as its diagonal alone, without the normalisation.

    Notes: 004, question 4.
    Family: backward.
    """
    return _gradients(q, k, v, out, lse, dout, causal, mask, scale, delta=lambda do, out: 0.0)


def dk_without_scale(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """Keys take part in scaled scores, but their gradient is not scaled.

    Shipped: flash-attention#2651.
    Family: scale.
    """
    return _gradients(q, k, v, out, lse, dout, causal, mask, scale, dk_scale=1.0)


def scale_truncated_to_bfloat16(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """The backward pass is given the scale in bfloat16: exact for head dims 4, 16 and 64, and for no other below 256.

    Shipped: tt-metal#53207.
    Family: dtypes.
    """
    scale = torch.tensor(q.shape[3] ** -0.5 if scale is None else scale, dtype=torch.bfloat16).item()
    return _gradients(q, k, v, out, lse, dout, causal, mask, scale)


def denominator_for_lse(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """P = exp(S) / exp(lse): the denominator that was stored, which overflows for scores above 88.

    Notes: 001, section 5.
    Family: numerics.
    """
    def weights(scores, lse):
        total = torch.exp(lse)[..., None]
        return torch.exp(scores) / total.masked_fill(total == 0, 1.0)

    return _gradients(q, k, v, out, lse, dout, causal, mask, scale, weights=weights)


def lse_in_half_precision(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """The log-sum-exp is kept between the passes in the dtype of the queries.

    Notes: 001, section 5.
    Family: dtypes.
    Dtypes: float16, bfloat16.
    """
    return _gradients(q, k, v, out, lse.to(q.dtype), dout, causal, mask, scale)


# ---------------------------------------------------------------------------------------------------------------- heads

def last_head_of_the_group_wins(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """Query heads that share a KV head each store its dK and dV, instead of adding to them.

    Shipped: levanter#449.
    Family: head mapping.
    """
    return _gradients(q, k, v, out, lse, dout, causal, mask, scale, shares=lambda total, h, share: share)


def kv_head_modulo(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """The backward pass splits the index of the query head the other way round: it reads and writes KV head h % Hkv.

    Shipped: nsa-triton#27.
    Family: head mapping.
    """
    return _gradients(q, k, v, out, lse, dout, causal, mask, scale, head=lambda h, group: h % k.shape[1])


# ----------------------------------------------------------------------------------- lengths, widths, strides and state

def dk_dv_of_whole_tiles_of_queries(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """dK and dV add up whole tiles of 16 queries: those past the last whole tile are left out.

    Shipped: FlagGems#898, FlagGems#3607.
    Family: boundaries.
    """
    lq = q.shape[2]
    counted = torch.arange(lq)[:, None] < (lq if lq < 16 else lq // 16 * 16)
    return _gradients(q, k, v, out, lse, dout, causal, mask, scale, dk_dv_see=counted)


def dq_without_a_last_single_key(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """dQ adds up blocks of 16 keys, and a last block of a single key is taken for an empty one.

    Shipped: pytorch#153799, pytorch#141126, pytorch#133562.
    Family: boundaries.
    """
    lk = k.shape[2]
    return _gradients(q, k, v, out, lse, dout, causal, mask, scale,
                      dq_sees=torch.arange(lk) < (lk - 1 if lk > 1 and lk % 16 == 1 else lk))


def values_as_wide_as_keys(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """The store of dV has the width of the keys: the columns of wider values keep their zeros.

    Shipped: flash-attention#2552.
    Family: boundaries.
    """
    dq, dk, dv = _right(q, k, v, out, lse, dout, causal, mask, scale)
    dv[..., k.shape[3]:] = 0.0
    return dq, dk, dv


def dout_with_the_strides_of_out(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """The incoming gradient is read with the strides of the output, which autograd does not promise.

    Shipped: FlagGems#1082.
    Family: strides and aliasing.
    """
    def reach(strides):
        return sum((n - 1) * stride for n, stride in zip(dout.shape, strides, strict=True))

    if reach(out.stride()) <= reach(dout.stride()):         # as far as the memory of dout goes
        dout = dout.as_strided(dout.shape, out.stride())
    return _right(q, k, v, out, lse, dout, causal, mask, scale)


def dq_not_zeroed_between_calls(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """Blocks of keys add to a float32 dQ that is kept for the next call with these shapes, and is zeroed only once.

    Shipped: triton#781, triton#3755.
    Family: state.
    """
    dq, dk, dv = _right(q, k, v, out, lse, dout, causal, mask, scale)
    total = _sums.get((q.shape, k.shape, q.dtype), 0.0) + dq
    _sums[q.shape, k.shape, q.dtype] = total
    return total.clone(), dk, dv
