"""Wrong weights of attention."""
import torch

from impls.naive import _check_qkv, _group_size, _scores, repeat_kv
from impls.naive import attention_weights as _right
from impls.naive import softmax as _softmax

INF = float("inf")


def hidden_by_minus_1e4(q, k, causal=False, mask=None, scale=None, window=None, bias=None):
    """Hidden scores become -1e4: a row that sees nothing is averaged, and visible scores below that lose.

    Shipped: hyunwoongko/transformer#40, lattice#361.
    Family: masks.
    """
    _check_qkv(q, k, k)
    scores, visible = _scores(q, k, causal, mask, scale, window, bias)
    return _softmax(torch.where(visible, scores, -1e4)).to(q.dtype)


def window_after_the_softmax(q, k, causal=False, mask=None, scale=None, window=None, bias=None):
    """Weights outside the window are set to 0 after the softmax, and the others are not normalised again.

    Notes: 001, section 1.7.
    Family: masks.
    """
    weights = _right(q, k, causal or window is not None, mask, scale, None, bias)
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    return weights if window is None else weights * seen.triu(k.shape[2] - q.shape[2] - window + 1)


def scale_argument_ignored(q, k, causal=False, mask=None, scale=None, window=None, bias=None):
    """The scale is always 1 / sqrt(D), whatever the caller asks for.

    Shipped: pytorch#174049, attorch#14.
    Family: scale.
    """
    return _right(q, k, causal, mask, None, window, bias)


def scores_in_float16(q, k, causal=False, mask=None, scale=None, window=None, bias=None):
    """q k^T is stored in float16 before it is scaled: beyond 65504 it is infinite, and the row NaN.

    Shipped: llama.cpp#6646, llama.cpp#17558.
    Family: dtypes.
    Dtypes: float16.
    """
    _check_qkv(q, k, k)
    visible = _scores(q, k, causal, mask, 1.0, window)[1]
    overflows = (q.float() @ repeat_kv(k, _group_size(q, k)).float().mT).half().isinf() & visible
    weights = _right(q, k, causal, mask, scale, window, bias)
    return torch.where(overflows.any(-1, keepdim=True), torch.nan, weights)
