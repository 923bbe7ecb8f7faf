"""Wrong merges of two finished attentions (out, lse)."""
import math

import torch

from impls.naive import INF, _divide, _wide
from impls.naive import merge_lse as _right


def two_empty_parts_are_nan(out1, lse1, out2, lse2):
    """Where neither part has seen a key, -inf is subtracted from -inf.

    Shipped: flashinfer#4051, vllm#39148, vllm#27491, vllm#28181.
    Family: merge.
    """
    m = torch.maximum(lse1, lse2)
    w1, w2 = torch.exp(lse1 - m), torch.exp(lse2 - m)
    out = (w1[..., None] * _wide(out1) + w2[..., None] * _wide(out2)) / (w1 + w2)[..., None]
    return out.to(out1.dtype), m + torch.log(w1 + w2)


def lse_taken_for_base_2(out1, lse1, out2, lse2):
    """The merge takes powers of 2, but the log-sum-exps it is given are natural.

    Shipped: flashinfer#2113, sglang#35045, sglang#40903, vllm#28840, pytorch#181645.
    Family: merge.
    """
    out, lse = _right(out1, lse1 * math.log(2), out2, lse2 * math.log(2))
    return out, lse / math.log(2)


def masses_without_a_reference(out1, lse1, out2, lse2):
    """Parts are weighted with e^lse, which overflows above 88 and is nothing below -104.

    Notes: 001, section 5.
    Family: merge.
    """
    w1, w2 = torch.exp(lse1), torch.exp(lse2)
    acc = w1[..., None] * _wide(out1) + w2[..., None] * _wide(out2)
    return _divide(acc, (w1 + w2)[..., None]).to(out1.dtype), torch.log(w1 + w2)


def returns_the_larger_lse(out1, lse1, out2, lse2):
    """The reference is returned for the merged log-sum-exp: one merge is right, the next one is not.

    Notes: 001, section 5.3.
    Family: merge.
    """
    return _right(out1, lse1, out2, lse2)[0], torch.maximum(lse1, lse2)


def empty_second_part_overwrites_lse(out1, lse1, out2, lse2):
    """An empty second part leaves the output as it is, but its -inf is stored as the merged log-sum-exp.

    Shipped: sgl-kernel-xpu#487.
    Family: merge.
    """
    out, lse = _right(out1, lse1, out2, lse2)
    return out, torch.where(lse2 == -INF, -INF, lse)


def empty_first_part_not_guarded(out1, lse1, out2, lse2):
    """lse1 - log sigmoid(lse1 - lse2) and the sigmoid's weights: -inf minus -inf if the first part is empty.

    Shipped: pegainfer#21.
    Family: merge.
    """
    w2 = torch.sigmoid(lse2 - lse1).masked_fill((lse1 == -INF) & (lse2 == -INF), 0.0)
    out = (1 - w2)[..., None] * _wide(out1) + w2[..., None] * _wide(out2)
    lse = lse1 - torch.nn.functional.logsigmoid(lse1 - lse2)
    return out.to(out1.dtype), torch.where((lse1 == -INF) & (lse2 == -INF), -INF, lse)


def second_part_as_a_difference(out1, lse1, out2, lse2):
    """out1 - w2 (out1 - out2): where the second part has nearly all weight, its digits are lost in those of the first.

    Notes: none; the update of a ring of devices, which saves one multiplication.
    Family: merge.
    """
    lse = _right(out1, lse1, out2, lse2)[1]
    w2 = torch.exp(lse2 - lse.masked_fill(lse == -INF, 0.0))[..., None]
    return (_wide(out1) - w2 * (_wide(out1) - _wide(out2))).to(out1.dtype), lse
