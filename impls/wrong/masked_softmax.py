"""Wrong softmax over the visible scores."""
import torch

from impls.naive import INF, _divide, _exp_and_sum, _wide
from impls.naive import masked_softmax as _right
from impls.naive import softmax as _softmax
from impls.wrong.attention.layout import _read


def hidden_by_minus_1e4(scores, keep):
    """Hidden scores become -1e4, and win over visible ones that are lower; empty rows are looked after.

    Shipped: lattice#361, hyunwoongko/transformer#40.
    Family: masks.
    """
    return torch.where(keep.any(-1, keepdim=True), _softmax(torch.where(keep, scores, -1e4).to(scores.dtype)), 0.0)


def empty_row_is_uniform(scores, keep):
    """Hidden scores become the lowest finite number: where all are hidden, all are equal.

    Shipped: pytorch#103749.
    Family: masks.
    """
    return _softmax(torch.where(keep, _wide(scores), torch.finfo(torch.float32).min)).to(scores.dtype)


def hidden_nan_spreads(scores, keep):
    """The mask is added, 0 or -inf: a hidden NaN or +inf makes the row NaN.

    Shipped: pytorch#101967.
    Family: masks.
    """
    return _softmax(scores + torch.where(keep, 0.0, -INF).to(scores.dtype))


def hidden_scores_set_the_maximum(scores, keep):
    """The maximum is taken before the mask is applied: visible scores far below a hidden one underflow.

    Notes: none; two lines in the other order.
    Family: masks.
    """
    e = torch.where(keep, torch.exp(_wide(scores) - _exp_and_sum(_wide(scores))[2]), 0.0)
    return _divide(e, e.sum(-1, keepdim=True)).to(scores.dtype)


def mask_added_to_the_scores(scores, keep):
    """A boolean mask is taken for an additive one: visible scores are raised by 1, and none is hidden.

    Shipped: flash-sparse-attention#146.
    Family: masks.
    """
    return _softmax(scores + keep)


def mask_read_as_a_length(scores, keep):
    """Visible scores are counted, and as many of the first ones are taken to be the visible ones.

    Shipped: diffusers#14114.
    Family: masks.
    """
    return _right(scores, torch.arange(scores.shape[-1]) < keep.sum(-1, keepdim=True))


def mask_with_the_strides_of_the_scores(scores, keep):
    """One offset is computed, from the strides of the scores, and used for the mask too.

    Notes: none; FlagGems#5235 takes a stride from the wrong tensor in another kernel.
    Family: strides and aliasing.
    """
    return _right(scores, _read(keep.expand(scores.shape), scores.stride()))
