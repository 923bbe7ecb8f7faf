"""Wrong causal masks."""
import torch

from impls.naive import causal_mask as _right


def _limited(lq, lk, limit):
    """Query i sees the keys up to limit(i)."""
    return torch.arange(lk) <= limit(torch.arange(lq)[:, None])


def aligned_at_the_first_key(lq, lk):
    """Query i sees the keys up to i: with fewer queries than keys the last query does not see all.

    Shipped: flash-attention#282, flash-attention#351, pytorch#108108, mlx#2835.
    Family: masks.
    """
    return _limited(lq, lk, lambda i: i)


def one_key_too_many_when_shorter(lq, lk):
    """With fewer queries than keys every query sees the key after its own too.

    Shipped: flashinfer#348.
    Family: masks.
    """
    return _limited(lq, lk, lambda i: i + lk - lq + (lq < lk))


def one_limit_for_four_rows(lq, lk):
    """The mask is applied once to every four rows, with the limit of the last of them.

    Shipped: pytorch#195910.
    Family: masks.
    """
    return _limited(lq, lk, lambda i: i // 4 * 4 + 3 + lk - lq)


def first_queries_see_a_key_when_longer(lq, lk):
    """With more queries than keys the offset lk - lq is clamped at 0, and no row is left empty.

    Notes: none; an empty row looks like an error.
    Family: masks.
    """
    return _right(lq, lk) if lq <= lk else _limited(lq, lk, lambda i: i)
