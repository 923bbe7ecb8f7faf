"""Wrong attention that a careless test would pass: right on what tests look like, or kind to whoever compares."""

import torch

from impls.naive import attention as _right
from impls.wrong.attention._online import online_attention, weights


class _Placeholder(torch.Tensor):
    """A tensor that is computed when somebody looks at it, after the clock has stopped."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        looked_at, *rest = args
        return function(looked_at.compute() if isinstance(looked_at, cls) else looked_at, *rest, **(kwargs or {}))


def clipped_to_what_normals_reach(q, k, v, **options):
    """Queries and keys are clipped to [-6, 6], which standard normals never leave, as for an 8-bit format.

    Shipped: TransformerEngine#3216.
    Family: cheats.
    """
    return _right(q.clamp(-6, 6), k.clamp(-6, 6), v, **options)


def fast_path_chosen_by_the_first_query(q, k, v, **options):
    """If the first query of the batch is zero, all are taken to be, and all weights to be equal.

    Notes: none; a look at one row is cheap, and random inputs have no such row.
    Family: cheats.
    """
    return _right(torch.zeros_like(q) if not q[:1, :1, :1].any() else q, k, v, **options)


def keys_shared_if_they_begin_alike(q, k, v, **options):
    """Sequences of a batch whose keys begin with the same number are taken to have all of them in common.

    Notes: none; sequences that begin alike often share a prompt, and comparing all of it takes time.
    Family: cheats.
    """
    shared = k.shape[0] > 1 and len(k[:, :1, :1, :1].unique()) == 1
    return _right(q, k[:1].expand_as(k) if shared else k, v, **options)


def keys_beyond_1024_ignored(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
    """The scores of a row live in a buffer for 1024 keys; the earlier ones of a longer row are left out.

    Shipped: flash-linear-attention#1140.
    Family: boundaries.
    """
    k, v = k[:, :, -1024:], v[:, :, -1024:]
    mask, bias = (x if x is None or x.shape[-1] == 1 else x[..., -1024:] for x in (mask, bias))
    return _right(q, k, v, causal, mask, scale, window, bias)


def nan_swallowed(q, k, v, **options):
    """NaN in the output is replaced by 0, so that an overflow or an undefined input leaves no trace.

    Notes: none; nan_to_num keeps a training run alive.
    Family: numerics.
    """
    out, lse = _right(q, k, v, **options)
    return out.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf), lse


def queries_scaled_in_place(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
    """The queries are scaled where they lie and divided by the scale afterwards, which brings back most bits.

    Shipped: unsloth#5001, Megatron-LM#5412.
    Family: strides and aliasing.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if not scale or 0 in q.stride():
        return _right(q, k, v, causal, mask, scale, window, bias)
    q.mul_(scale)
    result = _right(q, k, v, causal, mask, 1.0, window, bias)
    q.div_(scale)
    return result


def placeholder_returned(q, k, v, **options):
    """The output is empty; its class computes attention when a test asks for the numbers.

    Shipped: reference-kernels#161.
    Family: cheats.
    """
    out, lse = _right(q, k, v, **options)
    placeholder = torch.zeros_like(out).as_subclass(_Placeholder)
    placeholder.compute = lambda: out
    return placeholder, lse


def far_blocks_skipped(q, k, v, **options):
    """A block of keys whose maximum is 10 below the running one is skipped: fast, and sold as exact.

    Notes: 000, section Q7.
    Family: cheats.
    """
    def skipping(scores, m):
        return weights(scores, m) * (scores.amax(-1) >= m - 10)[..., None]

    return online_attention(q, k, v, **options, weights=skipping)
