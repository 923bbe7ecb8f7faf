"""Wrong log-sum-exp over the last dim."""
import math

import torch

from impls.naive import INF, _exp_and_sum, _wide
from impls.naive import log_sum_exp as _right


def logarithm_to_base_2(x):
    """Exponentials are taken to base 2, and so is the logarithm that is handed out.

    Shipped: flashinfer#2113, sglang#35045, sglang#40903, vllm#28840, pytorch#181645.
    Family: scale.
    """
    return _right(x) / math.log(2)


def maximum_not_subtracted(x):
    """The logarithm of the sum of the exponentials as they are.

    Notes: 001, section 5.2.
    Family: numerics.
    """
    return _wide(x).exp().sum(-1).log()


def rows_below_minus_5e4_are_empty(x):
    """The maximum starts at -5e4, taken for a number below all scores.

    Shipped: flashinfer#4401.
    Family: numerics.
    """
    wide = _wide(x)
    m = _exp_and_sum(wide)[2].clamp(min=-5e4)
    return (m + torch.exp(wide - m).sum(-1, keepdim=True).log()).squeeze(-1)


def infinite_where_empty(x):
    """The guard against the logarithm of 0 has the wrong sign: +inf for a row of -inf.

    Shipped: flash-attention#978.
    Family: masks.
    """
    lse = _right(x)
    return torch.where(lse == -INF, INF, lse)


def small_number_in_the_logarithm(x):
    """log(l + 1e-6), so that the logarithm of 0 is never taken.

    Notes: none; eps is added to what is divided by, and to what is logged.
    Family: numerics.
    """
    _, l, m = _exp_and_sum(_wide(x))
    return (m + torch.log(l + 1e-6)).squeeze(-1)


def rounded_to_the_dtype_of_the_scores(x):
    """The result is stored in half precision on the way.

    Notes: none; the buffer is allocated like the scores.
    Family: dtypes.
    Dtypes: float16, bfloat16.
    """
    return _right(x).to(x.dtype).float()
