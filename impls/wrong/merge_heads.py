"""Wrong merges of heads into features."""
from math import prod

from impls.naive import merge_heads as _right
from impls.wrong.attention.layout import _read


def viewed_without_transposing(x):
    """(B, h, L, d) is viewed as (B, L, h d): the shape is right, and a token gets the features of other positions.

    Notes: 000, section Q10.
    Family: head mapping.
    """
    return x.reshape(x.shape[0], x.shape[2], -1)


def heads_interleaved(x):
    """The features of the heads are interleaved: first the first of each head, then the second.

    Notes: none; (d, h) and (h, d) have the same product.
    Family: head mapping.
    """
    return x.permute(0, 2, 3, 1).flatten(2)


def sequences_taken_for_neighbours(x):
    """A sequence is taken to start h L d numbers after the one before, whatever the stride of the batch is.

    Notes: none; flashinfer#3800 and mlx#4431 lose the batch in the same way.
    Family: strides and aliasing.
    """
    return _right(_read(x, (prod(x.shape[1:]), *x.stride()[1:])))
