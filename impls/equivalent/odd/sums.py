"""Sums: scores (..., L, n) and values (..., n, Dv) -> (out, lse)."""

import torch

from ._parts import BLOCK, INF, blocks_of, divide, finish, finite, merge, no_keys, row_max, state_of

# ---------------------------------------------------------------------------------------------------- block after block

def in_order(scores, v, order):
    """A sum over keys does not depend on the order in which their blocks are visited."""
    state = no_keys(scores, v)
    for block in order(blocks_of(scores.shape[-1])):
        state = merge(state, state_of(scores[..., block], v[..., block, :]))
    return finish(*state)


def shuffled(blocks):
    """The blocks in an order that depends on their number alone."""
    order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(len(blocks)))
    return [blocks[i] for i in order]


def lazily_rescaled(scores, v):
    """The state may refer to any shift c, not only to the maximum; it is moved only when the maximum outgrows c by 1.

    A block's exponentials refer to the shift that is kept. None is above e, which the contract leaves room for (4).
    """
    c, l, acc = no_keys(scores, v)
    for block in blocks_of(scores.shape[-1]):
        m = row_max(scores[..., block])
        kept = torch.where(m <= c + 1.0, c, m)                       # from -inf it always moves; NaN is kept by moving
        w, e = torch.exp(c - finite(kept)), torch.exp(scores[..., block] - finite(kept))
        c, l, acc = kept, w * l + e.sum(-1, keepdim=True), w * acc + e @ v[..., block, :]
    return finish(c, l, acc)


def finite_start(scores, v):
    """A running maximum that starts below every score that can occur never wins: the lowest finite number of the type.

    The first exp(start - m) is then 0, as it is with -inf; where no key is visible, log 0 gives lse -inf.
    """
    m, l, acc = no_keys(scores, v, m=torch.finfo(scores.dtype).min)
    for block in blocks_of(scores.shape[-1]):
        higher = torch.maximum(m, row_max(scores[..., block]))
        w, e = torch.exp(m - higher), torch.exp(scores[..., block] - higher)
        m, l, acc = higher, w * l + e.sum(-1, keepdim=True), w * acc + e @ v[..., block, :]
    return finish(m, l, acc)


def divided_at_every_step(scores, v):
    """The output is kept normalised: the mean of old and new, weighted by their denominators, instead of one division
    at the end."""
    m, l, out = no_keys(scores, v)
    for block in blocks_of(scores.shape[-1]):
        m_new, l_new, acc = state_of(scores[..., block], v[..., block, :])
        higher = torch.maximum(m, m_new)
        w, w_new = torch.exp(m - finite(higher)), torch.exp(m_new - finite(higher))
        m, before, l = higher, w * l, w * l + w_new * l_new
        out = divide(before, l) * out + divide(w_new * acc, l)
    return out, (finite(m) + torch.log(l)).squeeze(-1)


def padded(scores, v):
    """Keys beyond the last are hidden, so their weights are exactly 0, and 0 times any finite value is nothing."""
    n = -scores.shape[-1] % BLOCK or BLOCK
    scores = torch.nn.functional.pad(scores, (0, n), value=-INF)
    v = torch.cat([v, v.new_full((*v.shape[:-2], n, v.shape[-1]), 7.0)], -2)
    return in_order(scores, v, iter)


def denominator_as_a_column(scores, v):
    """One product gives numerator and denominator: the values have a column of ones."""
    m = finite(row_max(scores))
    sums = torch.exp(scores - m) @ torch.cat([v, v.new_ones(*v.shape[:-1], 1)], -1)
    l = sums[..., -1:]
    return divide(sums[..., :-1], l), (m + torch.log(l)).squeeze(-1)


# ------------------------------------------------------------------------------------------- parts, finished and merged

def _merge_finished(out1, lse1, out2, lse2):
    m, l, acc = merge((lse1[..., None], 1.0, out1), (lse2[..., None], 1.0, out2))
    return finish(m, l, acc)


def split(scores, v, n_splits):
    """A finished attention is the state (lse, 1, out): parts, with none, one or many keys, merge in any number."""
    parts = zip(scores.tensor_split(n_splits, -1), v.tensor_split(n_splits, -2))
    out, lse = v.new_zeros(*scores.shape[:-1], v.shape[-1]), scores.new_full(scores.shape[:-1], -INF)
    for s, values in parts:
        if s.shape[-1]:                                              # an empty part is the state above
            out, lse = _merge_finished(out, lse, *finish(*state_of(s, values)))
    return out, lse


def in_a_tree(scores, v):
    """Merging is associative: halves of halves, down to a single key or none."""
    n = scores.shape[-1]
    if n <= 1:
        return finish(*state_of(scores, v))
    return _merge_finished(*in_a_tree(scores[..., :n // 2], v[..., :n // 2, :]),
                           *in_a_tree(scores[..., n // 2:], v[..., n // 2:, :]))


# ---------------------------------------------------------------------------------------- queries and heads, one by one

def each_query(scores, v):
    """No query sees another: one at a time, the last one first."""
    rows = [finish(*state_of(scores[..., i:i + 1, :], v)) for i in reversed(range(scores.shape[-2]))]
    if not rows:
        return finish(*state_of(scores, v))
    return torch.cat([out for out, _ in reversed(rows)], -2), torch.cat([lse for _, lse in reversed(rows)], -1)


def each_head(scores, v):
    """No head sees another: one at a time, the last one first."""
    out = scores.new_empty(*scores.shape[:-1], v.shape[-1])
    lse = scores.new_empty(scores.shape[:-1])
    for h in reversed(range(scores.shape[1])):
        out[:, h], lse[:, h] = finish(*state_of(scores[:, h], v[:, h]))
    return out, lse
