"""Softmax over rows, its gradient, and log-sum-exp: a tile holds whole rows, so that every score is read once.

    softmax(x)_j = exp(x_j - m) / sum_k exp(x_k - m),    m = max_k x_k

Written with plain array operations this reads and writes the matrix several times: for the maximum, the difference,
the exponential, the sum and the quotient. It is bound by memory, so the fused kernel, which reads it once and writes
it once, is faster by that factor. A program takes BLOCK_ROWS rows of up to BLOCK_COLUMNS scores, the next power of
two; the surplus lanes, like hidden scores, hold -inf, whose exponential is exactly 0. A row that is too long for the
registers of one program is walked over in tiles, and read twice.

A row without any score above -inf has no maximum to subtract (-inf - -inf is NaN): it is shifted by 0, its sum is 0,
and 0 / 1 gives the zeros that stand for "attends to nothing".
"""

import torch
import triton
import triton.language as tl

from .common import (ARITHMETIC, INF, INTERPRETED, require, require_device, require_floats, require_tensor,
                     rows_per_program, state_dtype, warps)

TILE = 65536 * 4 if INTERPRETED else 8192 * 4    # bytes of a row that one program keeps in its registers


@triton.jit
def row_tile(start, n_rows, n_columns, row_stride, column_stride,
             BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """The offsets of this program's rows in a strided matrix, from column `start` on, and which of them exist."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = start + tl.arange(0, BLOCK_COLUMNS)
    offsets = rows[:, None] * row_stride + columns[None, :].to(tl.int64) * column_stride
    return offsets, (rows[:, None] < n_rows) & (columns[None, :] < n_columns)


@triton.jit
def load_scores(start, x_ptr, keep_ptr, n_rows, n_columns, x_strides, keep_strides,
                ACC: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """Scores, -inf where there are none or they are hidden (those are not read), and which are visible."""
    offsets, visible = row_tile(start, n_rows, n_columns, x_strides[0], x_strides[1], BLOCK_ROWS, BLOCK_COLUMNS)
    if keep_ptr is not None:
        keep_offsets, inside = row_tile(
            start, n_rows, n_columns, keep_strides[0], keep_strides[1], BLOCK_ROWS, BLOCK_COLUMNS)
        visible = tl.load(keep_ptr + keep_offsets, mask=inside, other=0) != 0
    return tl.load(x_ptr + offsets, mask=visible, other=-INF).to(ACC), visible


@triton.jit
def exp_and_sum(x):
    """exp(x - m), its row sums, and the shift m: the row maximum, or 0 where there is none."""
    m = tl.max(x, 1)
    m = tl.where(m == -INF, 0.0, m)
    e = tl.exp(x - m[:, None])
    return e, tl.sum(e, 1), m


@triton.jit
def row_sums(x_ptr, keep_ptr, n_rows, n_columns, x_strides, keep_strides,
             ACC: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """The sums and shifts of `exp_and_sum` for rows of several tiles: an online softmax walks over them."""
    m, l = tl.full([BLOCK_ROWS], -INF, ACC), tl.zeros([BLOCK_ROWS], ACC)
    for start in range(0, n_columns, BLOCK_COLUMNS):
        x, _ = load_scores(start, x_ptr, keep_ptr, n_rows, n_columns, x_strides, keep_strides,
                           ACC, BLOCK_ROWS, BLOCK_COLUMNS)
        m_new = tl.maximum(m, tl.max(x, 1))
        shift = tl.where(m_new == -INF, 0.0, m_new)
        l = l * tl.exp(m - shift) + tl.sum(tl.exp(x - shift[:, None]), 1)
        m = m_new
    return l, tl.where(m == -INF, 0.0, m)


@triton.jit
def store_weights(start, e, l, visible, y_ptr, n_rows, n_columns, MASKED: tl.constexpr,
                  BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    y = e / tl.where(l == 0, 1.0, l)[:, None]
    if MASKED:
        y = tl.where(visible, y, 0.0)       # also beside a NaN, which takes the visible rest of its row
    offsets, inside = row_tile(start, n_rows, n_columns, n_columns, 1, BLOCK_ROWS, BLOCK_COLUMNS)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def softmax_of_rows(x_ptr, keep_ptr, y_ptr, n_rows, n_columns, x_strides, keep_strides, ACC: tl.constexpr,
                    WHOLE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """Store the softmax of this program's rows; return their sums and shifts, as `row_sums` does.

    WHOLE: one tile holds whole rows. Else the rows are walked over twice: for the sums, and for the weights.
    """
    MASKED: tl.constexpr = keep_ptr is not None
    if WHOLE:
        x, visible = load_scores(0, x_ptr, keep_ptr, n_rows, n_columns, x_strides, keep_strides,
                                 ACC, BLOCK_ROWS, BLOCK_COLUMNS)
        e, l, m = exp_and_sum(x)
        store_weights(0, e, l, visible, y_ptr, n_rows, n_columns, MASKED, BLOCK_ROWS, BLOCK_COLUMNS)
    else:
        l, m = row_sums(x_ptr, keep_ptr, n_rows, n_columns, x_strides, keep_strides, ACC, BLOCK_ROWS, BLOCK_COLUMNS)
        for start in range(0, n_columns, BLOCK_COLUMNS):
            x, visible = load_scores(start, x_ptr, keep_ptr, n_rows, n_columns, x_strides, keep_strides,
                                     ACC, BLOCK_ROWS, BLOCK_COLUMNS)
            store_weights(start, tl.exp(x - m[:, None]), l, visible, y_ptr, n_rows, n_columns, MASKED,
                          BLOCK_ROWS, BLOCK_COLUMNS)
    return l, m


@triton.jit
def softmax_kernel(
    x_ptr, keep_ptr, y_ptr, n_rows, n_columns, x_strides, keep_strides,
    ACC: tl.constexpr, WHOLE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):
    softmax_of_rows(x_ptr, keep_ptr, y_ptr, n_rows, n_columns, x_strides, keep_strides,
                    ACC, WHOLE, BLOCK_ROWS, BLOCK_COLUMNS)


@triton.jit
def log_sum_exp_kernel(
    x_ptr, lse_ptr, n_rows, n_columns, x_strides,
    ACC: tl.constexpr, WHOLE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):
    if WHOLE:
        x, _ = load_scores(0, x_ptr, None, n_rows, n_columns, x_strides, x_strides, ACC, BLOCK_ROWS, BLOCK_COLUMNS)
        _, l, m = exp_and_sum(x)
    else:
        l, m = row_sums(x_ptr, None, n_rows, n_columns, x_strides, x_strides, ACC, BLOCK_ROWS, BLOCK_COLUMNS)
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    tl.store(lse_ptr + rows, m + tl.log(l), mask=rows < n_rows)


@triton.jit
def load_pair(start, y_ptr, dy_ptr, n_rows, n_columns, y_strides, dy_strides,
              ACC: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    y_offsets, inside = row_tile(start, n_rows, n_columns, y_strides[0], y_strides[1], BLOCK_ROWS, BLOCK_COLUMNS)
    dy_offsets, _ = row_tile(start, n_rows, n_columns, dy_strides[0], dy_strides[1], BLOCK_ROWS, BLOCK_COLUMNS)
    y = tl.load(y_ptr + y_offsets, mask=inside, other=0.0).to(ACC)
    return y, tl.load(dy_ptr + dy_offsets, mask=inside, other=0.0).to(ACC)


@triton.jit
def store_gradient(start, y, dy, inner, dx_ptr, n_rows, n_columns,
                   BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    offsets, inside = row_tile(start, n_rows, n_columns, n_columns, 1, BLOCK_ROWS, BLOCK_COLUMNS)
    tl.store(dx_ptr + offsets, (y * (dy - inner[:, None])).to(dx_ptr.dtype.element_ty), mask=inside)


@triton.jit
def softmax_backward_kernel(
    y_ptr, dy_ptr, dx_ptr, n_rows, n_columns, y_strides, dy_strides,
    ACC: tl.constexpr, WHOLE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):
    """The Jacobian of softmax is diag(y) - y y^T, so dx = y * (dy - <y, dy>): one dot product per row, no matrix."""
    if WHOLE:
        y, dy = load_pair(0, y_ptr, dy_ptr, n_rows, n_columns, y_strides, dy_strides, ACC, BLOCK_ROWS, BLOCK_COLUMNS)
        store_gradient(0, y, dy, tl.sum(y * dy, 1), dx_ptr, n_rows, n_columns, BLOCK_ROWS, BLOCK_COLUMNS)
    else:
        inner = tl.zeros([BLOCK_ROWS], ACC)
        for start in range(0, n_columns, BLOCK_COLUMNS):
            y, dy = load_pair(
                start, y_ptr, dy_ptr, n_rows, n_columns, y_strides, dy_strides, ACC, BLOCK_ROWS, BLOCK_COLUMNS)
            inner += tl.sum(y * dy, 1)
        for start in range(0, n_columns, BLOCK_COLUMNS):
            y, dy = load_pair(
                start, y_ptr, dy_ptr, n_rows, n_columns, y_strides, dy_strides, ACC, BLOCK_ROWS, BLOCK_COLUMNS)
            store_gradient(start, y, dy, inner, dx_ptr, n_rows, n_columns, BLOCK_ROWS, BLOCK_COLUMNS)


def _rows(name, x):
    """x as a matrix of rows (a view where its strides allow it)."""
    require(x.ndim >= 1, f"{name} is a scalar; softmax runs over the last dim and needs one")
    return x.reshape(x.numel() // max(x.shape[-1], 1), x.shape[-1])


def tile(x):
    """How the kernels hold rows of the matrix x: their compile-time arguments, and the warps."""
    n_rows, n_columns = x.shape
    block_columns = min(triton.next_power_of_2(max(n_columns, 1)), TILE // state_dtype(x).itemsize)
    block_rows = rows_per_program(n_rows, block_columns)
    return {"ACC": ARITHMETIC[x.dtype], "WHOLE": n_columns <= block_columns, "BLOCK_ROWS": block_rows,
            "BLOCK_COLUMNS": block_columns, "num_warps": warps(block_rows * block_columns)}


def _launch(kernel, x, *args):
    """Run `kernel` on enough programs for the rows of the matrix x."""
    held = tile(x)
    kernel[(triton.cdiv(len(x), held["BLOCK_ROWS"]),)](*args, **held)


def _softmax(x, keep):
    rows = _rows("x", x)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        keep = None if keep is None else keep.expand(x.shape).reshape(rows.shape)
        keep_strides = (0, 0) if keep is None else keep.stride()
        _launch(softmax_kernel, rows, rows, keep, y, *rows.shape, rows.stride(), keep_strides)
    return y


def softmax(x):
    """exp(x_j) / sum_k exp(x_k) over the last dim, for any shape and strides; a row of -inf gives zeros."""
    require_floats(x=x)
    return _softmax(x, None)


def masked_softmax(scores, keep):
    """softmax over the scores where `keep` (bool, broadcasts to them) is True; the others are exactly 0."""
    require_floats(scores=scores)
    require_tensor("keep", keep)
    require(keep.dtype == torch.bool, f"keep must be bool (True = visible), got {keep.dtype}")
    require_device("keep", keep, "scores", scores)
    require(keep.ndim <= scores.ndim and all(k in (1, n) for k, n in zip(keep.shape[::-1], scores.shape[::-1])),
            f"keep of shape {tuple(keep.shape)} does not broadcast to scores of shape {tuple(scores.shape)}")
    return _softmax(scores, keep)


def log_sum_exp(x):
    """log sum_k exp(x_k) over the last dim, natural log, at least float32; -inf for an empty row."""
    require_floats(x=x)
    rows = _rows("x", x)
    lse = torch.full(x.shape[:-1], float("-inf"), dtype=state_dtype(x), device=x.device)
    if x.numel():
        _launch(log_sum_exp_kernel, rows, rows, lse, *rows.shape, rows.stride())
    return lse


def softmax_backward(y, dy):
    """The gradient of softmax from its output y and the gradient dy of that: y * (dy - <y, dy>) per row."""
    require_floats(y=y, dy=dy)
    require(y.shape == dy.shape, f"y has shape {tuple(y.shape)}, dy has {tuple(dy.shape)}")
    y_rows, dy_rows = _rows("y", y), _rows("dy", dy)
    dx = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    if y.numel():
        _launch(softmax_backward_kernel, y_rows, y_rows, dy_rows, dx, *y_rows.shape, y_rows.stride(), dy_rows.stride())
    return dx
