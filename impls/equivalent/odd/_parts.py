"""What the variants share: row maxima that can be subtracted, and the state of an online softmax."""

import torch

BLOCK = 16
INF = float("inf")


def wide(x):
    """x in the dtype of the arithmetic: float32 for half precision, else its own."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def finite(m):
    """A row maximum that can be subtracted: 0 where there is none."""
    return m.masked_fill(m == -INF, 0.0)


def row_max(x):
    """The row maximum, (..., 1); -inf for a row of length 0."""
    return x.amax(-1, keepdim=True) if x.shape[-1] else x.new_full((*x.shape[:-1], 1), -INF)


def divide(a, l):
    """a / l, and 0 where nothing was summed."""
    return a / l.masked_fill(l == 0, 1.0)


def blocks_of(n):
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def state_of(scores, v):
    """Running maximum, denominator and numerator of one block by itself."""
    m = row_max(scores)
    e = torch.exp(scores - finite(m))
    return m, e.sum(-1, keepdim=True), e @ v


def no_keys(scores, v, m=-INF):
    """The state before the first block."""
    zeros = scores.new_zeros(*scores.shape[:-1], 1)
    return zeros + m, zeros, scores.new_zeros(*scores.shape[:-1], v.shape[-1])


def merge(a, b):
    """Two states over disjoint keys, rescaled to the common maximum and added."""
    m = torch.maximum(a[0], b[0])
    wa, wb = torch.exp(a[0] - finite(m)), torch.exp(b[0] - finite(m))
    return m, wa * a[1] + wb * b[1], wa * a[2] + wb * b[2]


def finish(m, l, acc):
    return divide(acc, l), (finite(m) + torch.log(l)).squeeze(-1)
