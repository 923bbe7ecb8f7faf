"""Attention that is right and looks odd: each variant differs from the textbook in one way that changes no real number.

A suite that accuses one of these is wrong itself. Every variant is a short function of its own; what is said in its
docstring is why it is equivalent, and within the rounding contract that it declares. float16 and bfloat16 inputs are
computed in float32 and rounded once, at the end.

Two kinds of functions: *rows*, scores (..., n) -> (weights, lse), and *sums*, scores (..., n) and values (..., n, Dv)
-> (out, lse). A hidden score is -inf; without a visible score the weights and the output are 0, and lse is -inf.
"""
from functools import partial

import torch

from . import rows, sums
from ._parts import INF, wide

DTYPES = ("float64", "float32", "float16", "bfloat16")
ROUNDING = "fp32-inside"


def _check(condition, message):
    if not condition:
        raise ValueError(message)


def _scores(q, k, causal=False, mask=None, scale=None, window=None, bias=None, unit=1.0):
    """unit * (scale * q k^T + bias), (B, Hq, Lq, Lk), -inf where hidden; unit and scale are one factor."""
    for name, x in (("q", q), ("k", k)):
        _check(x.ndim == 4, f"{name} must be (batch, heads, length, head dim), got shape {tuple(x.shape)}")
    _check(q.shape[0] == k.shape[0], f"q has batch size {q.shape[0]}, k and v have {k.shape[0]}")
    _check(q.shape[3] == k.shape[3] > 0, f"q has head dim {q.shape[3]}, k has {k.shape[3]}: need the same, at least 1")
    group = q.shape[1] // max(k.shape[1], 1)
    _check(q.shape[1] == k.shape[1] * group, f"q has {q.shape[1]} heads: not a multiple of the {k.shape[1]} heads of k")
    _check(window is None or window >= 1, f"window must be at least 1 (the current key), got {window}")
    lq, lk = q.shape[2], k.shape[2]
    i, j = torch.arange(lq)[:, None] + lk - lq, torch.arange(lk)
    visible = torch.ones(lq, lk, dtype=torch.bool)
    if causal or window is not None:
        visible = visible & (j <= i) & (j > i - (window or lq + lk))
    if mask is not None:
        _check(mask.dtype == torch.bool, "mask must be bool (True = visible); an additive one is the bias")
        visible = visible & _expand("mask", mask, (*q.shape[:3], lk))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    scores = (wide(q) @ wide(k.repeat_interleave(group, 1)).transpose(-1, -2)) * (scale * unit)
    if bias is not None:
        bias = _expand("bias", bias, (*q.shape[:3], lk))
        visible, scores = visible & (bias != -INF), scores + wide(bias) * unit
    return torch.where(visible, scores, -INF)


def _expand(name, x, shape):
    try:
        return x.expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} of shape {tuple(x.shape)} does not expand to (B, Hq, Lq, Lk) = {shape}") from None


def _values(q, k, v):
    _check(v.ndim == 4 and k.ndim == 4 and k.shape[:3] == v.shape[:3],
           f"k {tuple(k.shape)} and v {tuple(v.shape)} differ in batch, heads or length")
    return wide(v.repeat_interleave(q.shape[1] // max(k.shape[1], 1), 1))


def _operations_of_rows(weights_and_lse, attending=None, unit=1.0):
    """What weights of rows give: softmax, log-sum-exp and attention. `attending` takes scores times `unit`."""
    attending = attending or weights_and_lse

    def softmax(x):
        return weights_and_lse(wide(x))[0].to(x.dtype)

    def masked_softmax(scores, keep):
        return softmax(torch.where(keep, scores, -INF))

    def log_sum_exp(x):
        return weights_and_lse(wide(x))[1].squeeze(-1)

    def attention(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
        values = _values(q, k, v)
        weights, lse = attending(_scores(q, k, causal, mask, scale, window, bias, unit))
        return (weights @ values).to(q.dtype), lse.squeeze(-1)

    def attention_weights(q, k, causal=False, mask=None, scale=None, window=None, bias=None):
        return attending(_scores(q, k, causal, mask, scale, window, bias, unit))[0].to(q.dtype)

    return {operation.__name__: operation
            for operation in (softmax, masked_softmax, log_sum_exp, attention, attention_weights)}


def _operations_of_sums(out_and_lse, **declared):
    """What weighted sums give: attention, and log-sum-exp as the sum of values that have no columns."""
    def attention(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
        values = _values(q, k, v)
        out, lse = out_and_lse(_scores(q, k, causal, mask, scale, window, bias), values)
        return out.to(q.dtype), lse

    def log_sum_exp(x):
        row = wide(x)[..., None, :]
        return out_and_lse(row, row.new_zeros(*x.shape, 0))[1].squeeze(-1)

    return {"attention": attention, "log_sum_exp": log_sum_exp, **declared}


# A part may be a single key, and its result comes back with an lse of which exp(lse_i - lse) is taken.
MERGED = {"preset": "fp32-inside", "lse_merge": True, "block": 1}

VARIANTS = {
    "shift_up": _operations_of_rows(partial(rows.shifted, by=1.0)),
    "shift_down": _operations_of_rows(partial(rows.shifted, by=-1.0)),
    "exp2": _operations_of_rows(rows.base_two, rows.base_two_of, rows.LOG2_E),
    "through_logs": _operations_of_rows(rows.through_logs),
    "summed_by_matmul": _operations_of_rows(rows.summed_by_matmul),
    "summed_in_pairs": _operations_of_rows(rows.summed_in_pairs),
    "reversed": _operations_of_sums(partial(sums.in_order, order=reversed)),
    "shuffled": _operations_of_sums(partial(sums.in_order, order=sums.shuffled)),
    "lazy_rescale": _operations_of_sums(sums.lazily_rescaled),
    "finite_start": _operations_of_sums(sums.finite_start),
    "divided_at_every_step": _operations_of_sums(sums.divided_at_every_step),
    "padded": _operations_of_sums(sums.padded),
    "denominator_as_a_column": _operations_of_sums(sums.denominator_as_a_column),
    "splits_1": _operations_of_sums(partial(sums.split, n_splits=1)),
    **{f"splits_{n}": _operations_of_sums(partial(sums.split, n_splits=n), ROUNDING=MERGED) for n in (2, 7, 1000)},
    "tree": _operations_of_sums(sums.in_a_tree, ROUNDING=MERGED),
    "each_query": _operations_of_sums(sums.each_query),
    "each_head": _operations_of_sums(sums.each_head, log_sum_exp=None),
}
