"""Right results at a higher price: kernels that move more memory than their algorithm needs."""

import torch

from impls import triton_kernels as right
from impls.triton_kernels.standard import attention as _standard_attention


def attention_launched_twice(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
    """Every call runs the kernel twice, as a tuner that never comes to an end does.

    Shipped: triton#3755.
    Family: memory traffic.
    """
    right.attention(q, k, v, causal, mask, scale, window, bias)
    return right.attention(q, k, v, causal, mask, scale, window, bias)


def causal_as_a_mask(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
    """The causal triangle is handed to the kernel as a mask: blocks that nobody sees are loaded and hidden.

    Notes: 003, section 2.
    Family: memory traffic.
    """
    if causal:
        lower = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        mask = lower if mask is None else mask & lower
    return right.attention(q, k, v, False, mask, scale, window, bias)


def standard_attention_launched_twice(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
    """The matrices of scores and weights are made twice.

    Shipped: triton#3755.
    Family: memory traffic.
    """
    _standard_attention(q, k, v, causal, mask, scale, window, bias)
    return _standard_attention(q, k, v, causal, mask, scale, window, bias)


def backward_launched_twice(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """Every call runs both kernels of the backward pass twice.

    Shipped: triton#3755.
    Family: memory traffic.
    """
    right.attention_backward(q, k, v, out, lse, dout, causal, mask, scale)
    return right.attention_backward(q, k, v, out, lse, dout, causal, mask, scale)


def cache_read_to_its_end(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """A step reads the whole cache, its unused rows too, and throws the result away before the right one is computed.

    Notes: none; a warm-up call that stayed in the code.
    Family: memory traffic.
    """
    right.attention(q, k_cache, v_cache)
    return right.decode(q, k_new, v_new, k_cache, v_cache, lens, scale)


def splits_read_twice(q, k, v, n_splits=4, scale=None):
    """The keys are read once for a check of their range, and once for the attention.

    Notes: none; checks that stay in a release build.
    Family: memory traffic.
    """
    right.softmax(k)
    return right.split_kv(q, k, v, n_splits, scale)


def softmax_in_two_steps(x):
    """Softmax of softmax's input, after a pass that only reads it for its log-sum-exp.

    Notes: 003, section 2.
    Family: memory traffic.
    """
    right.log_sum_exp(x)
    return right.softmax(x)


def hidden_scores_read(scores, keep):
    """Hidden scores are read before they are hidden.

    Notes: none; a load is masked by the shape and the mask is applied to its result.
    Family: memory traffic.
    """
    right.log_sum_exp(scores)
    return right.masked_softmax(scores, keep)


def layer_norm_in_two_passes(x, weight, bias, eps=1e-5):
    """One pass over the rows for the mean, another one for the rest.

    Notes: none; two kernels are easier to write than one.
    Family: memory traffic.
    """
    right.log_sum_exp(x)
    return right.layer_norm(x, weight, bias, eps)


NOTE = "interpreter"
_COUNTED = {"TRAFFIC": getattr(right, "TRAFFIC", None)}
_FLASH, _STANDARD = _COUNTED | {"ALGORITHM": "flash"}, _COUNTED | {"ALGORITHM": "standard", "ROUNDING": "naive"}
VARIANTS = {
    "attention_launched_twice": _FLASH | {"attention": attention_launched_twice},
    "causal_as_a_mask": _FLASH | {"attention": causal_as_a_mask},
    "standard_attention_launched_twice": _STANDARD | {"attention": standard_attention_launched_twice},
    "backward_launched_twice": _FLASH | {"attention_backward": backward_launched_twice},
    "cache_read_to_its_end": _FLASH | {"decode": cache_read_to_its_end},
    "splits_read_twice": _FLASH | {"split_kv": splits_read_twice},
    "softmax_in_two_steps": _FLASH | {"softmax": softmax_in_two_steps},
    "hidden_scores_read": _FLASH | {"masked_softmax": hidden_scores_read},
    "layer_norm_in_two_passes": _FLASH | {"layer_norm": layer_norm_in_two_passes},
}
