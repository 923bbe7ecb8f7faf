"""Wrong attention: rows and columns of the outputs that nobody writes, and outputs of another dtype."""

import torch

from impls.naive import attention as _right

LEFT_THERE = 0.5        # what a fresh buffer holds in these kernels: a number that no one notices, and no zero


def _written(x, where):
    """x where it is written (bool, broadcasts), and what lay in the buffer elsewhere."""
    return torch.where(where, x, LEFT_THERE)


def rows_without_keys_not_written(q, k, v, **options):
    """A row that sees no key leaves the kernel early, before its output and its log-sum-exp are written.

    Shipped: vllm#49294, flash-attention#1778.
    Family: uninitialised output.
    """
    out, lse = _right(q, k, v, **options)
    sees = lse != -torch.inf
    return _written(out, sees[..., None]), _written(lse, sees)


def tail_of_lse_not_written(q, k, v, **options):
    """The log-sum-exp is stored in whole blocks of 16 rows; those of a last, partial one are not.

    Shipped: tilelang#2461.
    Family: uninitialised output.
    """
    out, lse = _right(q, k, v, **options)
    length = q.shape[2]
    return out, lse if length < 16 else _written(lse, torch.arange(length) < length // 16 * 16)


def last_columns_not_written(q, k, v, **options):
    """Outputs are stored four columns at a time, and what is left over of a row is not.

    Shipped: flash-attention#2552.
    Family: uninitialised output.
    """
    out, lse = _right(q, k, v, **options)
    width = v.shape[3]
    return out if width < 4 else _written(out, torch.arange(width) < width // 4 * 4), lse


def later_sequences_not_written_when_split(q, k, v, **options):
    """More than 64 keys are split among programs, and those that combine the parts write the first sequence only.

    Shipped: pytorch#194167.
    Family: uninitialised output.
    """
    out, lse = _right(q, k, v, **options)
    first = torch.arange(q.shape[0])[:, None, None] == 0
    return (out, lse) if k.shape[2] <= 64 else (_written(out, first[..., None]), _written(lse, first))


def lse_in_the_dtype_of_the_queries(q, k, v, **options):
    """The log-sum-exp is returned in half precision, in which merging loses two or three digits.

    Notes: none; the outputs are allocated alike.
    Family: dtypes.
    Dtypes: float16, bfloat16.
    """
    out, lse = _right(q, k, v, **options)
    return out, lse.to(q.dtype)


def double_precision_computed_in_single(q, k, v, **options):
    """Whatever comes in is cast to float32 first, and the result cast back: float64 has the accuracy of float32.

    Notes: none; q.float() is written with half precision in mind.
    Family: dtypes.
    Dtypes: float64.
    """
    out, lse = _right(q.float(), k.float(), v.float(), **options)
    return out.to(q.dtype), lse.to(q.dtype)
