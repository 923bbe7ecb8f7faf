"""Rotary position embedding: every pair of components turns by an angle proportional to the token's position.

    y_i         = x_i cos(t) - x_{i + D/2} sin(t)
    y_{i + D/2} = x_{i + D/2} cos(t) + x_i sin(t),        t = position * base^(-2i/D),  i < D/2

(Su et al. 2021, RoFormer, section 3.4.2; the pairs are those of GPT-NeoX and LLaMA, half a head apart.)

Two kernels. The first makes the table of cosines and sines, one row per position. The angle is formed in float64,
because its error is the position times the roundoff: as a float32 an angle near 1e5 is known to 2^-8 radians, as a
bfloat16 an angle near 300 to one whole radian, after which neighbouring tokens share a rotation. A cosine is at most
1, so what the table stores may be narrower: float32 for the types up to float32. The second kernel reads x once and
writes y once, and the table is small enough to be read from cache: a position's row serves all heads, and all
sequences too if they share their positions. So float64 arithmetic, which is slow on many GPUs, is spent once per
position and pair and not once per element.

The two products and the sum of a component are the only roundings of the arithmetic type; position 0 has cosine 1 and
sine 0, and leaves every finite x as it is, to the bit.
"""

import math

import torch
import triton
import triton.language as tl

from .common import (ARITHMETIC, INTERPRETED, as_numbers, require, require_floats, require_number, rows_per_program,
                     state_dtype, warps)

MAX_COLUMNS = 65536


@triton.jit
def rotation_table_kernel(
    positions_ptr, cos_ptr, sin_ptr, n_positions, half, log2_base: tl.float64,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):
    rows = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
    columns = tl.arange(0, BLOCK_COLUMNS)
    real = rows < n_positions
    positions = tl.load(positions_ptr + rows, mask=real, other=0).to(tl.float64)
    frequencies = tl.exp2(columns.to(tl.float64) / half * -log2_base)          # base^(-2i/D)
    angles = positions[:, None] * frequencies[None, :]
    offsets = rows[:, None] * half + columns[None, :]
    inside = real[:, None] & (columns[None, :] < half)
    tl.store(cos_ptr + offsets, tl.cos(angles).to(cos_ptr.dtype.element_ty), mask=inside)
    tl.store(sin_ptr + offsets, tl.sin(angles).to(sin_ptr.dtype.element_ty), mask=inside)


@triton.jit
def rope_kernel(
    x_ptr, cos_ptr, sin_ptr, y_ptr, n_rows, n_heads, length, half, x_strides, table_batch_stride,
    ACC: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):
    """Rows are the (batch, head, token) of x in this order; table_batch_stride is 0 where sequences share positions."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, BLOCK_COLUMNS)
    token, plane = rows % length, rows // length
    head, batch = plane % n_heads, plane // n_heads
    inside = (rows[:, None] < n_rows) & (columns[None, :] < half)

    table = (batch * table_batch_stride + token * half)[:, None] + columns[None, :]
    cos = tl.load(cos_ptr + table, mask=inside, other=0.0)
    sin = tl.load(sin_ptr + table, mask=inside, other=0.0)
    x_rows = batch * x_strides[0] + head * x_strides[1] + token * x_strides[2]
    first = x_rows[:, None] + columns[None, :].to(tl.int64) * x_strides[3]
    second = x_rows[:, None] + (columns[None, :].to(tl.int64) + half) * x_strides[3]
    x1 = tl.load(x_ptr + first, mask=inside, other=0.0).to(ACC)
    x2 = tl.load(x_ptr + second, mask=inside, other=0.0).to(ACC)

    out = rows[:, None] * (2 * half) + columns[None, :]
    tl.store(y_ptr + out, (x1 * cos - x2 * sin).to(y_ptr.dtype.element_ty), mask=inside)
    tl.store(y_ptr + out + half, (x2 * cos + x1 * sin).to(y_ptr.dtype.element_ty), mask=inside)


def _rotation_table(positions, half, base, dtype):
    """(cos, sin) of positions * base^(-i / half), each of shape (*positions.shape, half)."""
    cos, sin = (torch.empty(*positions.shape, half, dtype=dtype, device=positions.device) for _ in range(2))
    # The reduction of a large float64 angle takes so many registers that a tile has to be a sixteenth of the usual one.
    block_rows = rows_per_program(positions.numel(), half * (1 if INTERPRETED else 16))
    block_columns = triton.next_power_of_2(half)
    rotation_table_kernel[(triton.cdiv(positions.numel(), block_rows),)](
        positions, cos, sin, positions.numel(), half, math.log2(base), BLOCK_ROWS=block_rows,
        BLOCK_COLUMNS=block_columns, num_warps=warps(block_rows * block_columns))
    return cos, sin


def rope(x, positions, base=10000.0):
    """Rotate the pairs (x[i], x[i + D/2]) by positions * base^(-2i/D).

    x (B, H, L, D) of any strides, D even; positions (L,), or (B, L) where every sequence has its own: any numbers,
    negative ones too. Returns x's shape and dtype, contiguous. ValueError if shapes, dtypes or base do not fit.
    """
    require_floats(x=x)
    require(x.ndim == 4, f"x must be (B, H, L, D), got {tuple(x.shape)}")
    batch, n_heads, length, dim = x.shape
    require(dim % 2 == 0, f"x has an odd head dim, {dim}; rope rotates pairs and needs an even one")
    require_number("base", base)
    require(0 < base < math.inf, f"base must be a positive number, got {base}")
    positions = as_numbers("positions", positions, x)
    require(positions.shape in ((length,), (batch, length)),
            f"positions must be ({length},) or ({batch}, {length}) beside x of shape {tuple(x.shape)}, "
            f"got {tuple(positions.shape)}")
    half = dim // 2
    if half > MAX_COLUMNS:
        raise NotImplementedError(f"x has head dim {dim}; a tile holds at most {2 * MAX_COLUMNS}")
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        cos, sin = _rotation_table(positions.contiguous(), half, base, state_dtype(x))
        n_rows = batch * n_heads * length
        block_rows, block_columns = rows_per_program(n_rows, dim), triton.next_power_of_2(half)
        rope_kernel[(triton.cdiv(n_rows, block_rows),)](
            x, cos, sin, y, n_rows, n_heads, length, half, x.stride(), length * half * (positions.ndim - 1),
            ACC=ARITHMETIC[x.dtype], BLOCK_ROWS=block_rows, BLOCK_COLUMNS=block_columns,
            num_warps=warps(block_rows * block_columns))
    return y
