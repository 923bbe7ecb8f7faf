"""Wrong gradients of layer norm with respect to its input, weight and bias."""
import torch

from impls.naive import _normalise, _wide
from impls.naive import layer_norm_backward as _right
from impls.wrong.attention.layout import _read

_warm = set()


def _mean(terms):
    return terms.mean(-1, keepdim=True)


def _sum_of_rows(terms):
    return terms.sum(0)


def _of_the_input(g, x_hat, rstd, *, mean=_mean):
    return rstd * (g - mean(g) - x_hat * mean(g * x_hat))


def _gradients(x, weight, dy, eps, *, dx=_of_the_input, rows=_sum_of_rows, weighted=True):
    """The right gradients; every keyword after the star is one possible mistake.

    `dx(g, x_hat, rstd)` is the gradient of the input, g = weight dy (or dy, not `weighted`); `rows` adds up (rows, n).
    """
    x_hat, rstd = _normalise(_wide(x), eps)
    g = _wide(dy) * _wide(weight) if weighted else _wide(dy)
    dw, db = (rows(terms.reshape(-1, x.shape[-1])) for terms in (_wide(dy) * x_hat, _wide(dy)))
    return dx(g, x_hat, rstd).to(x.dtype), dw.to(weight.dtype), db.to(weight.dtype)


# --------------------------------------------------------------------------------------------- gradient of the input

def deviation_taken_for_constant(x, weight, dy, eps=1e-5):
    """The standard deviation is treated as a number: the term of x_hat is missing.

    Notes: 004, section 3.
    Family: backward.
    """
    return _gradients(x, weight, dy, eps, dx=lambda g, x_hat, rstd: rstd * (g - _mean(g)))


def weight_missing_from_dx(x, weight, dy, eps=1e-5):
    """The gradient of the input is computed from dy, not from dy times weight, which is 1 when training starts.

    Shipped: llm.c#763.
    Family: backward.
    """
    return _gradients(x, weight, dy, eps, weighted=False)


def means_over_two_rows(x, weight, dy, eps=1e-5):
    """A program handles two rows, and its two means run over both.

    Shipped: FlagGems#59, attorch#17.
    Family: backward.
    """
    def mean(terms):
        pairs = [pair.mean().expand(len(pair)) for pair in _mean(terms).flatten().split(2)]
        return torch.cat(pairs).view(*terms.shape[:-1], 1)

    return _gradients(x, weight, dy, eps, dx=lambda *terms: _of_the_input(*terms, mean=mean))


def all_but_the_first_dim_taken_for_features(x, weight, dy, eps=1e-5):
    """The number of rows is the size of the first dim, so that the two means run over all tokens of a sample.

    Shipped: FlagGems#5392, FlagGems#5490.
    Family: backward.
    """
    def mean(terms):
        return terms.mean(tuple(range(1, terms.ndim)) if terms.ndim > 1 else -1, keepdim=True)

    return _gradients(x, weight, dy, eps, dx=lambda *terms: _of_the_input(*terms, mean=mean))


def default_eps(x, weight, dy, eps=1e-5):
    """The forward pass is given eps, the backward pass has it as a constant.

    Notes: none; eps is no tensor and is not among what is saved for the backward pass.
    Family: backward.
    """
    return _right(x, weight, dy)


# ------------------------------------------------------------------------------------- gradients of weight and bias

def rows_beyond_the_last_group_left_out(x, weight, dy, eps=1e-5):
    """Partial sums are taken over groups of two rows, whose number is rounded down.

    Notes: none; a floor division where the ceiling is meant.
    Family: boundaries.
    """
    return _gradients(x, weight, dy, eps, rows=lambda terms: terms[: max(len(terms) // 2 * 2, 1)].sum(0))


def sums_in_the_dtype_of_the_weight(x, weight, dy, eps=1e-5):
    """The gradients of weight and bias are added up in half precision, row by row.

    Notes: none; they are accumulated where they are stored.
    Family: dtypes.
    Dtypes: float16, bfloat16.
    """
    def rows(terms):
        total = torch.zeros_like(weight)
        for row in terms:
            total = (total + row).to(weight.dtype)
        return total

    return _gradients(x, weight, dy, eps, rows=rows)


def first_call_is_tuned_in_place(x, weight, dy, eps=1e-5):
    """The first call with these shapes tries two configurations, and both add to the same dw and db.

    Shipped: triton#781, triton#4217, triton#3755, triton#6547, triton#7181.
    Family: state.
    """
    dx, dw, db = _right(x, weight, dy, eps)
    tuned = (x.shape, x.dtype) in _warm
    _warm.add((x.shape, x.dtype))
    return (dx, dw, db) if tuned else (dx, dw + dw, db + db)


# ------------------------------------------------------------------------------------------------------------- memory

def dy_with_the_strides_of_the_input(x, weight, dy, eps=1e-5):
    """The strides of x are used for dy too.

    Shipped: FlagGems#1082.
    Family: strides and aliasing.
    """
    return _right(x, weight, _read(dy, x.stride()), eps)
