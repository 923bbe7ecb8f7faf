"""Wrong GELU."""
import math

import torch

from impls.naive import _wide
from impls.naive import gelu as _right
from impls.wrong.attention.layout import _packed, _read


def _tanh_form(x):
    wide = _wide(x)
    return (0.5 * wide * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))).to(x.dtype)


def tanh_form(x):
    """The approximation by tanh stands for the function itself.

    Shipped: candle#900, pocket-tts#278.
    Family: numerics.
    """
    return _tanh_form(x)


def remainder_by_the_tanh_form(x):
    """What does not fill a register of 8 is computed by other code, which is the approximation by tanh.

    Notes: none; the scalar loop after the vector loop is older.
    Family: boundaries.
    """
    whole = torch.arange(x.numel()).view(x.shape) < x.numel() // 8 * 8
    return torch.where(whole, _right(x), _tanh_form(x))


def far_tail_is_zero(x):
    """From -4 on down the result is 0, where printed tables of the normal distribution function end.

    Notes: none; four digits after the point are 0 by then.
    Family: numerics.
    """
    return torch.where(x <= -4, 0.0, _right(x)).to(x.dtype)


def gate_in_the_dtype_of_the_input(x):
    """The normal distribution function is rounded to half precision at every step.

    Notes: none; the tensor is never widened.
    Family: dtypes.
    Dtypes: float16, bfloat16.
    """
    return 0.5 * x * (1 + torch.erf(x * math.sqrt(0.5)))


def elements_taken_for_neighbours(x):
    """The kernel is given the number of elements, and takes them to lie next to each other.

    Notes: none; an elementwise kernel needs no shape.
    Family: strides and aliasing.
    """
    return _right(_read(x, _packed(x.shape)))
