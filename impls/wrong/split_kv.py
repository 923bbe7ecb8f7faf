"""Wrong flash decoding: keys that are divided among splits, and partial results that are merged."""
import math
from functools import reduce

import torch

from impls.naive import INF, _check, _check_qkv, _wide
from impls.naive import attention as _attention
from impls.naive import merge_lse as _merge_lse


def _split(q, k, v, n_splits, scale, *, parts=None, partial=lambda out, lse, split: (out, lse), merge=_merge_lse):
    """The right one: `parts` slices of the keys, `partial` changes what a split leaves, `merge` combines two."""
    _check_qkv(q, k, v)
    _check(n_splits >= 1, f"n_splits must be at least 1, got {n_splits}")
    lk = k.shape[2]
    size = -(-lk // n_splits)
    parts = parts or [slice(min(i * size, lk), min((i + 1) * size, lk)) for i in range(n_splits)]
    wide = [_wide(x) for x in (q, k, v)]
    found = (partial(*_attention(wide[0], wide[1][:, :, part], wide[2][:, :, part], scale=scale), i)
             for i, part in enumerate(parts))
    out, lse = reduce(lambda a, b: merge(*a, *b), found)
    return out.to(q.dtype), lse


def left_over_keys_dropped(q, k, v, n_splits=4, scale=None):
    """Every split takes Lk // n_splits keys, and the rest is in none.

    Shipped: native-sparse-attention#23, flash-linear-attention#1142.
    Family: boundaries.
    """
    size = k.shape[2] // n_splits
    return _split(q, k, v, n_splits, scale,
                  parts=[slice(i * size, (i + 1) * size) for i in range(n_splits)] if size else None)


def empty_split_has_lse_0(q, k, v, n_splits=4, scale=None):
    """A split without keys leaves a log-sum-exp of 0 instead of -inf, and so takes part in the average.

    Shipped: vllm#49294.
    Family: merge.
    """
    return _split(q, k, v, n_splits, scale, partial=lambda out, lse, i: (out, lse.masked_fill(lse == -INF, 0.0)))


def partial_lse_in_base_2(q, k, v, n_splits=4, scale=None):
    """Splits leave a log-sum-exp in base 2, which the merge takes for a natural one; the last line converts the sum.

    Shipped: flashinfer#2113, vllm#28840.
    Family: merge.
    """
    out, lse = _split(q, k, v, n_splits, scale, partial=lambda out, lse, i: (out, lse / math.log(2)))
    return out, lse * math.log(2)


def partial_lse_scaled_again(q, k, v, n_splits=4, scale=None):
    """The log-sum-exp of the scaled scores is multiplied by the scale again before it weights a split.

    Shipped: flash-sparse-attention#106.
    Family: merge.
    """
    again = q.shape[3] ** -0.5 if scale is None else scale
    return _split(q, k, v, n_splits, scale, partial=lambda out, lse, i: (
        out, torch.where(lse == -INF, lse, again * lse) if n_splits > 1 else lse))


def partial_lse_in_half_precision(q, k, v, n_splits=4, scale=None):
    """The workspace of partial results has the dtype of the queries, log-sum-exps included.

    Notes: 001, section 5.
    Family: dtypes.
    Dtypes: float16, bfloat16.
    """
    return _split(q, k, v, n_splits, scale, partial=lambda out, lse, i: (out, lse.to(q.dtype).float()))


def later_sequences_not_merged(q, k, v, n_splits=4, scale=None):
    """The merge walks over the rows of the first sequence; the others keep what their first split left.

    Shipped: pytorch#194167.
    Family: merge.
    """
    def merge(out1, lse1, out2, lse2):
        out, lse = _merge_lse(out1, lse1, out2, lse2)
        out[1:], lse[1:] = out1[1:], lse1[1:]
        return out, lse

    return _split(q, k, v, n_splits, scale, merge=merge)


def empty_split_overwrites_lse(q, k, v, n_splits=4, scale=None):
    """The output skips empty splits, but the last of them stores its -inf as the log-sum-exp.

    Shipped: sgl-kernel-xpu#487.
    Family: merge.
    """
    out, lse = _split(q, k, v, n_splits, scale)
    return out, lse.fill_(-INF) if n_splits > k.shape[2] else lse
