"""Wrong splits of features into heads."""
from impls.naive import _check
from impls.naive import split_heads as _right
from impls.wrong.attention.layout import _packed, _read


def viewed_without_transposing(x, h):
    """(B, L, h d) is viewed as (B, h, L, d): the shape is right, and heads get the features of other positions.

    Notes: 002, section 3.1.
    Family: head mapping.
    """
    _check(h >= 1 and x.shape[-1] % h == 0, f"the last dim, {x.shape[-1]}, does not split into {h} heads")
    return x.reshape(x.shape[0], h, x.shape[1], x.shape[-1] // h)


def features_dealt_out_in_turn(x, h):
    """Head i gets the features i, i + h, i + 2 h ..., not a slice of them.

    Notes: none; (h, d) and (d, h) have the same product.
    Family: head mapping.
    """
    _check(h >= 1 and x.shape[-1] % h == 0, f"the last dim, {x.shape[-1]}, does not split into {h} heads")
    return x.unflatten(-1, (x.shape[-1] // h, h)).permute(0, 3, 1, 2)


def features_taken_for_contiguous(x, h):
    """The strides of the heads are computed from the shape, as if x were contiguous.

    Notes: none; pytorch#112577 is the same mistake in attention.
    Family: strides and aliasing.
    """
    return _right(_read(x, _packed(x.shape)), h)
