"""Wrong gradients of softmax, from its output y and the gradient dy of the output."""
import torch

from impls.naive import _wide
from impls.wrong.attention.layout import _packed, _read


def _gradient(y, dy, *, dot=lambda terms: terms.sum(-1, keepdim=True)):
    """The right gradient; `dot` sums the terms y dy of a row."""
    p, dp = _wide(y), _wide(dy)
    return (p * (dp - dot(p * dp))).to(y.dtype)


def diagonal_of_the_jacobian_alone(y, dy):
    """Every score is taken to move its own weight only, by p (1 - p).

    Notes: 004, question 4.
    Family: backward.
    """
    return (_wide(y) * (1 - _wide(y)) * _wide(dy)).to(y.dtype)


def one_sum_for_two_rows(y, dy):
    """A program handles two rows, and its sum runs over both.

    Notes: none; FlagGems#59 and attorch#17 are the same mistake in a norm.
    Family: backward.
    """
    def dot(terms):
        pairs = [pair.sum().expand(len(pair)) for pair in terms.sum(-1).flatten().split(2)]
        return torch.cat(pairs).view(*terms.shape[:-1], 1)

    return _gradient(y, dy, dot=dot)


def last_term_missing_from_the_sum(y, dy):
    """A last block of a single column is not added to the sum of y dy.

    Notes: none; the bound of the loop is rounded down.
    Family: boundaries.
    """
    n = y.shape[-1]
    return _gradient(y, dy, dot=lambda terms: terms[..., : n - 1 if n % 16 == 1 and n > 1 else n].sum(-1, keepdim=True))


def sum_in_the_dtype_of_the_weights(y, dy):
    """The terms y dy are rounded to half precision, and their sum is too.

    Notes: none; both factors are stored in it.
    Family: dtypes.
    Dtypes: float16, bfloat16.
    """
    return _gradient(y, dy, dot=lambda terms: terms.to(y.dtype).sum(-1, keepdim=True).to(terms.dtype))


def weights_and_gradient_taken_for_contiguous(y, dy):
    """The strides are not read: y and dy are walked over as if they were contiguous.

    Shipped: Torch-FL#171.
    Family: strides and aliasing.
    """
    return _gradient(_read(y, _packed(y.shape)), _read(dy, _packed(dy.shape)))


def written_over_dy(y, dy):
    """The gradient of the scores is stored over that of the weights as well.

    Shipped: apex#1587.
    Family: strides and aliasing.
    """
    dx = _gradient(y, dy)
    dy.copy_(dx)
    return dx
