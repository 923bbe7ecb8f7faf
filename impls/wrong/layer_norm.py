"""Wrong layer norm over the last dim."""
import torch

from impls.naive import _normalise, _wide
from impls.naive import layer_norm as _right
from impls.wrong.attention.layout import _read
from impls.wrong.attention.outputs import _written

_kernels = {}


def _layer_norm(x, weight, bias, eps, *, dims=-1, variance=lambda x, c: (c * c).mean(-1, keepdim=True),
                rstd=lambda v, eps: torch.rsqrt(v + eps)):
    """The right layer norm; every keyword after the star is one possible mistake.

    `dims` are averaged over for the mean, `variance` is computed from x and x - mean, `rstd` from it and eps.
    """
    wide = _wide(x)
    centred = wide - wide.mean(dims, keepdim=True)
    return (centred * rstd(variance(wide, centred), eps) * _wide(weight) + _wide(bias)).to(x.dtype)


# -------------------------------------------------------------------------------------------------------- the variance

def variance_in_one_pass(x, weight, bias, eps=1e-5):
    """The variance is E[x^2] - E[x]^2, which cancels where the mean is large, and is clamped at 0.

    Shipped: pytorch#40307, pytorch#40308, pytorch#55044, mlx#2238, burn#5607, tt-metal#45968.
    Family: layer norm.
    """
    def variance(x, c):
        return ((x * x).mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2).clamp(min=0.0)

    return _layer_norm(x, weight, bias, eps, variance=variance)


def variance_over_padded_lanes(x, weight, bias, eps=1e-5):
    """The lanes up to the next power of two hold 0, and each adds mean^2 to the sum of squared deviations.

    Shipped: triton#9838.
    Family: layer norm.
    """
    n = x.shape[-1]
    padding = (1 << max(n - 1, 0).bit_length()) - n
    return _layer_norm(x, weight, bias, eps, variance=lambda x, c: (
        (c * c).sum(-1, keepdim=True) + padding * x.mean(-1, keepdim=True) ** 2) / n)


def variance_unbiased(x, weight, bias, eps=1e-5):
    """The sum of squared deviations is divided by n - 1, as the default of most libraries has it.

    Notes: 004, section 3.
    Family: layer norm.
    """
    return _layer_norm(x, weight, bias, eps, variance=lambda x, c: (
        (c * c).sum(-1, keepdim=True) / max(x.shape[-1] - 1, 1)))


def statistics_of_the_whole_sample(x, weight, bias, eps=1e-5):
    """Mean and variance are those of all tokens of a sample.

    Notes: 001, section 6.2.11.
    Family: layer norm.
    """
    dims = tuple(range(1, x.ndim)) if x.ndim > 2 else -1
    return _layer_norm(x, weight, bias, eps, dims=dims, variance=lambda x, c: (c * c).mean(dims, keepdim=True))


def statistics_in_the_dtype_of_the_input(x, weight, bias, eps=1e-5):
    """Mean and variance are computed in half precision: 257^2 overflows in float16.

    Notes: none; pytorch#178123 is the same overflow in float32.
    Family: dtypes.
    Dtypes: float16, bfloat16.
    """
    return (_normalise(x, eps)[0] * weight + bias).to(x.dtype)


# ---------------------------------------------------------------------------------------------------------------- eps

def eps_in_the_wrong_bracket(x, weight, bias, eps=1e-5):
    """eps is added to n, by which the squares are divided, and not to the variance: a constant row is NaN.

    Shipped: LeetCUDA#309, LeetCUDA#317.
    Family: layer norm.
    """
    return _layer_norm(x, weight, bias, eps, rstd=lambda v, eps: torch.rsqrt(v * x.shape[-1] / (x.shape[-1] + eps)))


def eps_outside_the_root(x, weight, bias, eps=1e-5):
    """eps is added to the standard deviation.

    Notes: 004, section 3.
    Family: layer norm.
    """
    return _layer_norm(x, weight, bias, eps, rstd=lambda v, eps: 1 / (v.sqrt() + eps))


def eps_of_an_earlier_kernel(x, weight, bias, eps=1e-5):
    """eps is a constant of the compiled kernel and is missing from the key under which kernels are kept.

    Notes: none; pytorch#184122 is the same mistake with the scale.
    Family: state.
    """
    return _right(x, weight, bias, _kernels.setdefault((x.shape[-1], x.dtype), eps))


# ------------------------------------------------------------------------------------------------- memory and shortcuts

def weight_and_bias_taken_for_contiguous(x, weight, bias, eps=1e-5):
    """Weight and bias are walked over by one, whatever their strides are.

    Notes: none; they are parameters, and those are contiguous until someone slices one.
    Family: strides and aliasing.
    """
    return _right(x, _read(weight, (1,)), _read(bias, (1,)), eps)


def last_of_an_odd_number_of_rows_not_written(x, weight, bias, eps=1e-5):
    """A program normalises two rows, and the number of programs is rounded down.

    Notes: none; a floor division where the ceiling is meant.
    Family: uninitialised output.
    """
    rows = x.shape[:-1].numel()
    written = torch.arange(rows) < max(rows // 2 * 2, 1)
    return _written(_right(x, weight, bias, eps), written.view(*x.shape[:-1], 1))


def rows_with_equal_ends_are_constant(x, weight, bias, eps=1e-5):
    """A row whose first and last entries are equal is taken to be constant, and the bias is returned.

    Notes: none; constant rows are a special case of most tests.
    Family: cheats.
    """
    return torch.where(x[..., :1] == x[..., -1:], bias.to(x.dtype), _right(x, weight, bias, eps))
