"""Rows: scores (..., n) -> (weights, lse), with lse (..., 1)."""

import torch

from ._parts import INF, divide, finite, row_max

LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453


def shifted(scores, by):
    """exp(x - c) / sum exp(x - c) is the same for every finite c: here the row maximum plus a constant.

    By at most 1, so that no numerator grows, and no weight sinks, by more than the contract leaves room for (4).
    """
    c = finite(row_max(scores)) + by
    e = torch.exp(scores - c)
    l = e.sum(-1, keepdim=True)
    return divide(e, l), c + torch.log(l)


def base_two(scores):
    """exp(x) = 2^(x log2 e): the base of a softmax is a scale of its scores. In attention both are one factor:
    `base_two_of` takes scores that were multiplied by log2 e together with the scale."""
    return base_two_of(scores * LOG2_E)


def base_two_of(scores2):
    """The weights 2^(s2) / sum 2^(s2) of scores s2 = s log2 e, and lse in natural logarithms."""
    m = finite(row_max(scores2))
    e = torch.exp2(scores2 - m)
    l = e.sum(-1, keepdim=True)
    return divide(e, l), (m + torch.log2(l)) * LN_2


def through_logs(scores):
    """exp(log p): (x - m) - log sum exp(x - m) is the logarithm of the weight, and nothing is divided.

    Not exp(x - lse): lse is rounded relative to its own size, which is that of m, and the weights then miss a sum of 1.
    """
    m = finite(row_max(scores))
    log_l = torch.log(torch.exp(scores - m).sum(-1, keepdim=True))
    return torch.exp((scores - m) - log_l.masked_fill(log_l == -INF, 0.0)), m + log_l


def summed_by_matmul(scores):
    """A sum is a product with a column of ones."""
    m = finite(row_max(scores))
    e = torch.exp(scores - m)
    l = e @ e.new_ones(e.shape[-1], 1)
    return divide(e, l), m + torch.log(l)


def summed_in_pairs(scores):
    """Addition is associative up to rounding, and pairs round least: x0 + x1, x2 + x3, then sums of these."""
    m = finite(row_max(scores))
    e = torch.exp(scores - m)
    l = e if e.shape[-1] else e.new_zeros(*e.shape[:-1], 1)
    while l.shape[-1] > 1:
        l = torch.cat([l, torch.zeros_like(l[..., :l.shape[-1] % 2])], -1)
        l = l[..., 0::2] + l[..., 1::2]
    return divide(e, l), m + torch.log(l)
