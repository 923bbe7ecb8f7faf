"""Layer norm over the last dim: mean, variance and the result from one read of every row.

    y = (x - mean) / sqrt(var + eps) * weight + bias,    var = mean((x - mean)^2)

(Ba, Kiros and Hinton 2016.) The row stays in registers, so the variance can be taken of the centred values: the
one-pass formula E[x^2] - mean^2 cancels when the mean is large, and can come out negative.
"""

import torch
import triton
import triton.language as tl

from .common import ARITHMETIC, require, require_floats, rows_per_program, warps

MAX_COLUMNS = 65536


@triton.jit
def layer_norm_kernel(
    x_ptr, weight_ptr, bias_ptr, y_ptr, n_rows, n_columns, x_strides, weight_stride, bias_stride, eps: tl.float64,
    ACC: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):
    rows = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
    columns = tl.arange(0, BLOCK_COLUMNS)
    real, row_real = columns < n_columns, rows[:, None] < n_rows
    here = row_real & real[None, :]
    x_offsets = rows[:, None] * x_strides[0] + columns[None, :].to(tl.int64) * x_strides[1]
    x = tl.load(x_ptr + x_offsets, mask=here, other=0.0).to(ACC)
    mean = tl.sum(x, 1) / n_columns
    centred = tl.where(here, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / n_columns
    rstd = 1.0 / tl.sqrt(variance + eps.to(ACC))
    weight = tl.load(weight_ptr + columns.to(tl.int64) * weight_stride, mask=real, other=0.0).to(ACC)
    bias = tl.load(bias_ptr + columns.to(tl.int64) * bias_stride, mask=real, other=0.0).to(ACC)
    y = centred * rstd[:, None] * weight[None, :] + bias[None, :]
    tl.store(y_ptr + rows[:, None] * n_columns + columns[None, :], y.to(y_ptr.dtype.element_ty), mask=here)


def layer_norm(x, weight, bias, eps=1e-5):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dim (n,), variance biased; x of any shape and strides.

    weight and bias (n,). Returns x's shape and dtype. ValueError if shapes or dtypes differ.
    """
    require_floats(x=x, weight=weight, bias=bias)
    require(x.ndim >= 1, "x is a scalar; layer norm runs over the last dim and needs one")
    n_columns = x.shape[-1]
    for name, w in (("weight", weight), ("bias", bias)):
        require(w.shape == (n_columns,), f"{name} must be ({n_columns},), got {tuple(w.shape)}")
    if n_columns > MAX_COLUMNS:
        raise NotImplementedError(f"x has rows of {n_columns}; a tile holds at most {MAX_COLUMNS}")
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        rows = x.reshape(-1, n_columns)
        block_rows, block_columns = rows_per_program(len(rows), n_columns), triton.next_power_of_2(n_columns)
        layer_norm_kernel[(triton.cdiv(len(rows), block_rows),)](
            rows, weight, bias, y, *rows.shape, rows.stride(), weight.stride(0), bias.stride(0), float(eps),
            ACC=ARITHMETIC[x.dtype], BLOCK_ROWS=block_rows, BLOCK_COLUMNS=block_columns,
            num_warps=warps(block_rows * block_columns))
    return y
