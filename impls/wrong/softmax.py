"""Wrong softmax over the last dim."""
import torch

from impls.naive import INF, _divide, _wide
from impls.wrong.attention.layout import _packed, _read

_kept = {}


def _row_maximum(x):
    return x.amax(-1, keepdim=True) if x.shape[-1] else x.new_full((*x.shape[:-1], 1), -INF)


def _softmax(x, *, shift=_row_maximum, total=lambda e, m: e.sum(-1, keepdim=True), divide=_divide):
    """The right softmax; every keyword after the star is one possible mistake.

    `shift` is what is subtracted from the scores, `total(e, m)` the denominator.
    """
    wide = _wide(x)
    m = shift(wide)
    m = m.masked_fill(m == -INF, 0.0)
    e = torch.exp(wide - m)
    return divide(e, total(e, m)).to(x.dtype)


# ------------------------------------------------------------------------------------------------------- the reference

def maximum_not_subtracted(x):
    """The path for bfloat16 takes the exponentials of the scores as they are: 1000 overflows, -1000 vanishes.

    Shipped: pytorch#62897, pytorch#63132, tt-metal#12661.
    Family: numerics.
    Dtypes: bfloat16.
    """
    return _softmax(x, shift=lambda x: torch.zeros_like(x[..., :1]))


def maximum_of_the_last_block(x):
    """The maximum of the last block of 16 scores is subtracted, not that of all blocks so far.

    Shipped: tilelang#1148.
    Family: numerics.
    """
    return _softmax(x, shift=lambda x: _row_maximum(x[..., (x.shape[-1] - 1) // 16 * 16:]))


def one_maximum_for_all_rows(x):
    """The maximum of all rows of the tile is subtracted from each: rows far below it underflow to zeros.

    Notes: none; a reduction without its axis.
    Family: numerics.
    """
    return _softmax(x, shift=lambda x: x.amax().expand(*x.shape[:-1], 1) if x.numel() else _row_maximum(x))


def maximum_kept_from_earlier_calls(x):
    """The running maximum lies in a workspace that is cleared when it is allocated, not before each call.

    Notes: none; allocation is cached by shape, and the fill went with it.
    Family: state.
    """
    def shift(x):
        m = _row_maximum(x)
        kept = _kept.get((m.shape, m.dtype), m)
        m = torch.where(m.isfinite() & kept.isfinite(), torch.maximum(m, kept), m)
        _kept[m.shape, m.dtype] = torch.where(m.isfinite(), m, kept)
        return m

    return _softmax(x, shift=shift)


# ----------------------------------------------------------------------------------------------------- the denominator

def padded_lanes_are_counted(x):
    """The lanes up to the next power of two are loaded as 0, not as -inf, and add exp(0 - m) each to the sum.

    Shipped: jax#27224, kernl#73, rationalism/flash-attn-triton#4.
    Family: boundaries.
    """
    padding = (1 << max(x.shape[-1] - 1, 0).bit_length()) - x.shape[-1]
    return _softmax(x, shift=lambda x: _row_maximum(x).clamp(min=0.0) if padding else _row_maximum(x),
                    total=lambda e, m: e.sum(-1, keepdim=True) + padding * torch.exp(-m))


def last_score_missing_from_the_sum(x):
    """A last block of a single score is not added to the denominator.

    Notes: none; the bound of the loop is rounded down, and pytorch#191937 looks like it.
    Family: boundaries.
    """
    n = x.shape[-1]
    return _softmax(x, total=lambda e, m: e[..., : n - 1 if n % 16 == 1 and n > 1 else n].sum(-1, keepdim=True))


def sum_in_the_dtype_of_the_scores(x):
    """The denominator is accumulated in half precision: in bfloat16 it cannot count beyond 256.

    Notes: 002, section 2.10.
    Family: dtypes.
    Dtypes: float16, bfloat16.
    """
    def total(e, m):
        found = torch.zeros_like(m, dtype=x.dtype)
        for column in e.to(x.dtype).split(1, -1):
            found = found + column
        return found.to(e.dtype)

    return _softmax(x, total=total)


# ---------------------------------------------------------------------------------------------- special rows and memory

def empty_row_is_nan(x):
    """A row of -inf is 0 / 0.

    Shipped: pytorch#103963, pytorch#103749.
    Family: masks.
    """
    return torch.softmax(_wide(x), -1).to(x.dtype)


def nan_becomes_zero(x):
    """Empty rows are told by a sum that is not above 0, which is true of NaN as well.

    Notes: none; the guard reads well, and no comparison with NaN holds.
    Family: numerics.
    """
    return _softmax(x, divide=lambda e, total: torch.where(total > 0, e / total, 0.0))


def scores_taken_for_contiguous(x):
    """The strides are not read: a transposed tensor is walked over as if it were contiguous.

    Shipped: Torch-FL#171.
    Family: strides and aliasing.
    """
    return _softmax(_read(x, _packed(x.shape)))


def exponentials_written_over_the_scores(x):
    """Subtraction and exponential are done in place, in what is a copy of the scores in half precision only.

    Notes: none; a copy that is none where nothing is to be converted.
    Family: strides and aliasing.
    """
    e, m = _wide(x), _row_maximum(_wide(x))
    e.sub_(m.masked_fill(m == -INF, 0.0)).exp_()
    return _divide(e, e.sum(-1, keepdim=True)).to(x.dtype)
