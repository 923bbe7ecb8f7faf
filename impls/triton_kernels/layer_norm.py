"""Layer norm over the last dim and its gradients: a row is read once and stays in registers, if they hold it.

    y = x_hat * weight + bias,    x_hat = (x - mean) rstd,    rstd = 1 / sqrt(var + eps),    var = mean((x - mean)^2)

(Ba, Kiros and Hinton 2016.) As the row stays in registers, the variance can be taken of the centred values: the
one-pass formula E[x^2] - mean^2 cancels when the mean is large, and can come out negative. A row that is too long for
the registers of one program is walked over in tiles, and read for the mean, again for the variance, and again for y.

Backward. Mean and variance depend on the whole row, which takes two directions out of the gradient: with g = dy weight

    dx = rstd (g - mean(g) - x_hat mean(g x_hat)),    dw = sum over rows of dy x_hat,    db = sum over rows of dy

(the chain rule; Ioffe and Szegedy 2015, section 3, derive it for batch norm, which sums along the other axis). dx
belongs to one row, dw and db to all of them, and so does the order in which they are summed: atomic additions would
take whatever order the programs arrive in, and give other bits at every run. Instead every program walks over its own
rows, keeps its sums in registers and stores them once, to its own row of a buffer (programs, n); a second kernel adds
the rows of that buffer from first to last. How many programs there are depends on the shapes alone.

Statistics are recomputed from x: it has to be read for x_hat anyway, and two sums cost less than a pass of their own.
Of rows too long for that, a kernel in front stores the four sums that dx takes from the whole row; then each program
has a block of columns of its rows.
"""

import torch
import triton
import triton.language as tl

from .common import (ARITHMETIC, INTERPRETED, require, require_floats, require_number, rows_per_program, state_dtype,
                     warps)

# Bytes of a row that one program keeps in its registers; backward, it has two rows there and two sums.
TILE = 65536 * 4 if INTERPRETED else 16384 * 4
BACKWARD_TILE = 65536 * 4 if INTERPRETED else 8192 * 4
PROGRAMS = 2 if INTERPRETED else 256        # that sum dw and db, at most; the interpreter takes few, but some


@triton.jit
def block_of(start, rows, n_rows, n_columns, BLOCK_COLUMNS: tl.constexpr):
    """The columns of a tile of rows from `start` on, and which of its elements exist."""
    columns = start + tl.arange(0, BLOCK_COLUMNS)
    return columns, (rows[:, None] < n_rows) & (columns[None, :] < n_columns)


@triton.jit
def load_rows(x_ptr, rows, columns, here, x_strides, ACC: tl.constexpr):
    """One tile of a strided matrix, in the accumulator's type; 0 where it has no such row or column."""
    offsets = rows[:, None] * x_strides[0] + columns[None, :].to(tl.int64) * x_strides[1]
    return tl.load(x_ptr + offsets, mask=here, other=0.0).to(ACC)


@triton.jit
def normalise(x, here, n_columns, eps):
    """x_hat and rstd (a column) of the rows of a tile; x_hat is 0 where the matrix has no such row or column."""
    mean = tl.sum(x, 1) / n_columns
    centred = tl.where(here, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / n_columns
    rstd = (1.0 / tl.sqrt(variance + eps.to(x.dtype)))[:, None]
    # A row that does not exist has variance 0: with eps = 0 it would be 0 times infinity.
    return tl.where(here, centred * rstd, 0.0), rstd


@triton.jit
def load_parameter(ptr, columns, n_columns, stride, ACC: tl.constexpr):
    """A tile of weight or bias, as one row."""
    return tl.load(ptr + columns.to(tl.int64) * stride, mask=columns < n_columns, other=0.0).to(ACC)[None, :]


@triton.jit
def mean_and_rstd(x_ptr, rows, n_rows, n_columns, x_strides, eps, ACC: tl.constexpr,
                  BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """Of rows of several tiles, as columns. The second walk is for the variance, which is that of centred values."""
    total, squares = tl.zeros([BLOCK_ROWS], ACC), tl.zeros([BLOCK_ROWS], ACC)
    for start in range(0, n_columns, BLOCK_COLUMNS):
        columns, here = block_of(start, rows, n_rows, n_columns, BLOCK_COLUMNS)
        total += tl.sum(load_rows(x_ptr, rows, columns, here, x_strides, ACC), 1)
    mean = (total / n_columns)[:, None]
    for start in range(0, n_columns, BLOCK_COLUMNS):
        columns, here = block_of(start, rows, n_rows, n_columns, BLOCK_COLUMNS)
        centred = tl.where(here, load_rows(x_ptr, rows, columns, here, x_strides, ACC) - mean, 0.0)
        squares += tl.sum(centred * centred, 1)
    return mean, (1.0 / tl.sqrt(squares / n_columns + eps.to(ACC)))[:, None]


@triton.jit
def store_scaled(x_hat, rows, columns, here, weight_ptr, bias_ptr, y_ptr, n_columns, weight_stride, bias_stride,
                 ACC: tl.constexpr):
    y = (x_hat * load_parameter(weight_ptr, columns, n_columns, weight_stride, ACC)
         + load_parameter(bias_ptr, columns, n_columns, bias_stride, ACC))
    tl.store(y_ptr + rows[:, None] * n_columns + columns[None, :], y.to(y_ptr.dtype.element_ty), mask=here)


@triton.jit
def layer_norm_kernel(
    x_ptr, weight_ptr, bias_ptr, y_ptr, n_rows, n_columns, x_strides, weight_stride, bias_stride, eps: tl.float64,
    ACC: tl.constexpr, WHOLE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):
    """WHOLE: a tile holds whole rows. Else they are walked over in tiles."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    if WHOLE:
        columns, here = block_of(0, rows, n_rows, n_columns, BLOCK_COLUMNS)
        x_hat, _ = normalise(load_rows(x_ptr, rows, columns, here, x_strides, ACC), here, n_columns, eps)
        store_scaled(x_hat, rows, columns, here, weight_ptr, bias_ptr, y_ptr, n_columns, weight_stride, bias_stride,
                     ACC)
    else:
        mean, rstd = mean_and_rstd(x_ptr, rows, n_rows, n_columns, x_strides, eps, ACC, BLOCK_ROWS, BLOCK_COLUMNS)
        for start in range(0, n_columns, BLOCK_COLUMNS):
            columns, here = block_of(start, rows, n_rows, n_columns, BLOCK_COLUMNS)
            x_hat = (load_rows(x_ptr, rows, columns, here, x_strides, ACC) - mean) * rstd
            store_scaled(x_hat, rows, columns, here, weight_ptr, bias_ptr, y_ptr, n_columns, weight_stride,
                         bias_stride, ACC)


@triton.jit
def row_sums_kernel(
    x_ptr, weight_ptr, dy_ptr, sums_ptr, n_rows, n_columns, x_strides, weight_stride, dy_strides, eps: tl.float64,
    ACC: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):
    """Of rows of several tiles, into the four columns of a matrix: mean, rstd, mean(g) and mean(g x_hat)."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    mean, rstd = mean_and_rstd(x_ptr, rows, n_rows, n_columns, x_strides, eps, ACC, BLOCK_ROWS, BLOCK_COLUMNS)
    sum_g, sum_gx = tl.zeros([BLOCK_ROWS, 1], ACC), tl.zeros([BLOCK_ROWS, 1], ACC)
    for start in range(0, n_columns, BLOCK_COLUMNS):
        columns, here = block_of(start, rows, n_rows, n_columns, BLOCK_COLUMNS)
        g = (load_rows(dy_ptr, rows, columns, here, dy_strides, ACC)
             * load_parameter(weight_ptr, columns, n_columns, weight_stride, ACC))
        x = load_rows(x_ptr, rows, columns, here, x_strides, ACC)
        sum_g += tl.sum(g, 1)[:, None]
        sum_gx += tl.sum(g * ((x - mean) * rstd), 1)[:, None]
    sums, real = sums_ptr + rows[:, None] * 4, rows[:, None] < n_rows
    tl.store(sums, mean, mask=real)
    tl.store(sums + 1, rstd, mask=real)
    tl.store(sums + 2, sum_g / n_columns, mask=real)
    tl.store(sums + 3, sum_gx / n_columns, mask=real)


@triton.jit
def load_sums(sums_ptr, rows, n_rows):
    """What `row_sums_kernel` stored of these rows, as columns."""
    sums, real = sums_ptr + rows[:, None] * 4, rows[:, None] < n_rows
    return (tl.load(sums, mask=real, other=0.0), tl.load(sums + 1, mask=real, other=0.0),
            tl.load(sums + 2, mask=real, other=0.0), tl.load(sums + 3, mask=real, other=0.0))


@triton.jit
def layer_norm_backward_kernel(
    x_ptr, weight_ptr, dy_ptr, sums_ptr, dx_ptr, dw_parts_ptr, db_parts_ptr, n_rows, n_columns, x_strides,
    weight_stride, dy_strides, eps: tl.float64, ACC: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Program (block of columns, every n_programs-th tile of rows): dx, and what these rows add to dw and db.

    Without sums_ptr, a tile holds whole rows.
    """
    program, n_programs = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    columns = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    real = columns < n_columns
    weight = load_parameter(weight_ptr, columns, n_columns, weight_stride, ACC)
    dw, db = tl.zeros([BLOCK_COLUMNS], ACC), tl.zeros([BLOCK_COLUMNS], ACC)
    for start in range(program * BLOCK_ROWS, n_rows, n_programs * BLOCK_ROWS):
        rows = start + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        here = (rows[:, None] < n_rows) & real[None, :]
        dy = load_rows(dy_ptr, rows, columns, here, dy_strides, ACC)
        x, g = load_rows(x_ptr, rows, columns, here, x_strides, ACC), dy * weight
        if sums_ptr is None:
            x_hat, rstd = normalise(x, here, n_columns, eps)
            mean_g, mean_gx = (tl.sum(g, 1) / n_columns)[:, None], (tl.sum(g * x_hat, 1) / n_columns)[:, None]
        else:
            mean, rstd, mean_g, mean_gx = load_sums(sums_ptr, rows, n_rows)
            x_hat = (x - mean) * rstd
        dx = rstd * (g - mean_g - x_hat * mean_gx)
        tl.store(dx_ptr + rows[:, None] * n_columns + columns[None, :], dx.to(dx_ptr.dtype.element_ty), mask=here)
        dw += tl.sum(dy * x_hat, 0)
        db += tl.sum(dy, 0)
    parts = program * n_columns + columns
    tl.store(dw_parts_ptr + parts, dw, mask=real)
    tl.store(db_parts_ptr + parts, db, mask=real)


@triton.jit
def add_parts_kernel(
    dw_parts_ptr, db_parts_ptr, dw_ptr, db_ptr, n_parts, n_columns,
    ACC: tl.constexpr, BLOCK_PARTS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):
    """A block of columns of dw and db: the parts of all programs, added in their order."""
    columns = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    dw, db = tl.zeros([BLOCK_COLUMNS], ACC), tl.zeros([BLOCK_COLUMNS], ACC)
    for start in range(0, n_parts, BLOCK_PARTS):
        parts = (start + tl.arange(0, BLOCK_PARTS))[:, None]
        offsets, here = parts.to(tl.int64) * n_columns + columns[None, :], (parts < n_parts) & (columns < n_columns)
        dw += tl.sum(tl.load(dw_parts_ptr + offsets, mask=here, other=0.0), 0)
        db += tl.sum(tl.load(db_parts_ptr + offsets, mask=here, other=0.0), 0)
    tl.store(dw_ptr + columns, dw.to(dw_ptr.dtype.element_ty), mask=columns < n_columns)
    tl.store(db_ptr + columns, db.to(db_ptr.dtype.element_ty), mask=columns < n_columns)


def _check(x, eps, **parameters):
    """ValueError unless x has rows, each parameter one number for each of their columns, and eps is no negative."""
    require_floats(x=x, **parameters)
    require(x.ndim >= 1, "x is a scalar; layer norm runs over the last dim and needs one")
    for name, w in parameters.items():
        expected = x.shape if name == "dy" else x.shape[-1:]
        require(w.shape == expected,
                f"{name} must be {tuple(expected)} beside x {tuple(x.shape)}, got {tuple(w.shape)}")
    require_number("eps", eps)
    require(eps >= 0, f"eps must not be negative, got {eps}")


def _tile(n_rows, n_columns, longest, registers=1):
    """Rows and columns of a tile whose elements take so many registers, and its warps, as the kernels name them."""
    block_columns = min(triton.next_power_of_2(n_columns), longest)
    block_rows = rows_per_program(n_rows, block_columns * registers)
    return {"BLOCK_ROWS": block_rows, "BLOCK_COLUMNS": block_columns,
            "num_warps": warps(block_rows * block_columns * registers)}


def layer_norm(x, weight, bias, eps=1e-5):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dim (n,), variance biased; x of any shape and strides.

    weight and bias (n,). Returns x's shape and dtype. ValueError if shapes or dtypes differ, or eps is negative.
    """
    _check(x, eps, weight=weight, bias=bias)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        rows = x.reshape(-1, x.shape[-1])
        tile = _tile(*rows.shape, TILE // state_dtype(x).itemsize)
        layer_norm_kernel[(triton.cdiv(len(rows), tile["BLOCK_ROWS"]),)](
            rows, weight, bias, y, *rows.shape, rows.stride(), weight.stride(0), bias.stride(0), float(eps),
            ACC=ARITHMETIC[x.dtype], WHOLE=rows.shape[1] <= tile["BLOCK_COLUMNS"], **tile)
    return y


def layer_norm_backward(x, weight, dy, eps=1e-5):
    """(dx, dw, db), the gradients of layer_norm from dy (of x's shape); dw and db (n,) are summed over all rows.

    Returns the dtype of x. The same bits at every run. ValueError if shapes or dtypes differ, or eps is negative.
    """
    _check(x, eps, weight=weight, dy=dy)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dw, db = (torch.zeros(weight.shape, dtype=x.dtype, device=x.device) for _ in range(2))
    if x.numel():
        rows, dy_rows, acc = x.reshape(-1, x.shape[-1]), dy.reshape(-1, x.shape[-1]), ARITHMETIC[x.dtype]
        n_rows, n_columns = rows.shape
        wide = state_dtype(x)
        # Small enough that no program is idle, and that the row, dy and their products fit the registers.
        tile = _tile(triton.cdiv(n_rows, 2 * PROGRAMS), n_columns, BACKWARD_TILE // wide.itemsize,
                     registers=2 if acc is tl.float64 else 1)
        n_blocks, n_programs = triton.cdiv(n_columns, tile["BLOCK_COLUMNS"]), triton.cdiv(n_rows, tile["BLOCK_ROWS"])
        strides, sums = (rows.stride(), weight.stride(0), dy_rows.stride(), float(eps)), None
        if n_blocks > 1:
            sums = torch.empty(n_rows, 4, dtype=wide, device=x.device)
            row_sums_kernel[(n_programs,)](rows, weight, dy_rows, sums, n_rows, n_columns, *strides, ACC=acc, **tile)
        n_programs = min(n_programs, PROGRAMS)
        dw_parts, db_parts = (torch.empty(n_programs, n_columns, dtype=wide, device=x.device) for _ in range(2))
        layer_norm_backward_kernel[(n_blocks, n_programs)](
            rows, weight, dy_rows, sums, dx, dw_parts, db_parts, n_rows, n_columns, *strides, ACC=acc, **tile)
        block_columns = min(triton.next_power_of_2(n_columns), 128)
        add_parts_kernel[(triton.cdiv(n_columns, block_columns),)](
            dw_parts, db_parts, dw, db, n_programs, n_columns, ACC=acc, BLOCK_PARTS=32, BLOCK_COLUMNS=block_columns,
            num_warps=4)
    return dx, dw, db
