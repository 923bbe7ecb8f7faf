"""Wrong Triton kernels, in Triton's interpreter: a softmax and a flash attention in which one line is a mistake."""

from impls import triton_kernels  # noqa: F401  before triton: decides that kernels are interpreted  isort: skip

import torch
import triton
import triton.language as tl

from impls.triton_kernels.common import INF, LN2, LOG2E

NOTE = "interpreter"
BLOCK = tl.constexpr(32)


@triton.jit
def _softmax_kernel(x_ptr, y_ptr, n_rows, n_columns, row_stride, MISTAKE: tl.constexpr, ROWS: tl.constexpr,
                    COLUMNS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, COLUMNS)[None, :]
    real = (rows < n_rows) & (columns < n_columns)
    if MISTAKE == "rows not masked":
        real = (rows >= 0) & (columns < n_columns)
    if MISTAKE == "padding is 0":
        x = tl.load(x_ptr + rows * row_stride + columns, mask=real, other=0.0).to(tl.float32)
    elif MISTAKE == "other forgotten":
        x = tl.load(x_ptr + rows * row_stride + columns, mask=real).to(tl.float32)
    elif MISTAKE == "load not masked":
        x = tl.load(x_ptr + rows * row_stride + columns).to(tl.float32)
    elif MISTAKE == "offsets in 32 bits":
        x = tl.load(x_ptr + rows.to(tl.int32) * row_stride.to(tl.int32) + columns, mask=real, other=-INF).to(tl.float32)
    else:
        x = tl.load(x_ptr + rows.to(tl.int64) * row_stride + columns, mask=real, other=-INF).to(tl.float32)
    m = tl.max(x, 1)[:, None]
    e = tl.exp(x - tl.where(m == -INF, 0.0, m))
    l = tl.sum(e, 1)[:, None]
    y = e / tl.where(l == 0, 1.0, l)
    if MISTAKE == "store not masked":
        tl.store(y_ptr + rows * n_columns + columns, y)
    else:
        tl.store(y_ptr + rows * n_columns + columns, y, mask=real)


def _softmax(x, mistake, *, programs=triton.cdiv):
    y, rows = torch.empty(x.shape), x.reshape(-1, x.shape[-1])
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    if x.numel() and programs(len(rows), 4):
        _softmax_kernel[(programs(len(rows), 4),)](
            rows, y, *rows.shape, rows.stride(0), MISTAKE=mistake, ROWS=4,
            COLUMNS=triton.next_power_of_2(x.shape[-1]))
    return y


def rows_not_masked(x):
    """The last program's mask looks at the columns and not at the rows.

    Notes: none; right whenever the rows are a multiple of those of a program.
    Family: boundaries.
    """
    return _softmax(x, "rows not masked")


def padding_is_zero(x):
    """Lanes beyond the row hold 0 and not minus infinity, and take part in the maximum and the sum.

    Shipped: triton#9838.
    Family: boundaries.
    """
    return _softmax(x, "padding is 0")


def other_forgotten(x):
    """The load is masked, but does not say what the masked lanes hold.

    Notes: none; interpreters, and many a GPU, happen to give 0.
    Family: boundaries.
    """
    return _softmax(x, "other forgotten")


def load_not_masked(x):
    """The load has no mask: lanes beyond the row read what lies there.

    Shipped: FlagGems#898, FlagGems#3607.
    Family: boundaries.
    """
    return _softmax(x, "load not masked")


def store_not_masked(x):
    """The store has no mask: lanes beyond the row write over the next one.

    Shipped: FlagGems#5235.
    Family: boundaries.
    """
    return _softmax(x, "store not masked")


def offsets_in_32_bits(x):
    """The row number is not made 64 bits wide before it is multiplied by the stride.

    Shipped: flash-attention#1500, NATTEN#347.
    Family: strides and aliasing.
    """
    return _softmax(x, "offsets in 32 bits")


def last_rows_have_no_program(x):
    """The grid is rounded down: the rows beyond a multiple of a program's are not written.

    Notes: none; `n // BLOCK` where `cdiv(n, BLOCK)` was meant.
    Family: uninitialised output.
    """
    return _softmax(x, "", programs=lambda n, block: n // block)


@triton.jit
def _attention_kernel(q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, n_heads, group, len_q, len_k, scale, causal,
                      MISTAKE: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr,
                      BLOCK_DV: tl.constexpr):
    """Contiguous inputs; program (block of queries, batch entry and head)."""
    if MISTAKE == "program ids exchanged":
        start, plane = tl.program_id(1) * BLOCK, tl.program_id(0)
    else:
        start, plane = tl.program_id(0) * BLOCK, tl.program_id(1)
    kv_plane = plane // group
    rows, d, dv = start + tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK_D)[None, :], tl.arange(0, BLOCK_DV)[None, :]
    factor = scale * LOG2E
    if MISTAKE == "log2(e) folded twice":
        factor = factor * LOG2E
    if MISTAKE == "log2(e) forgotten":
        factor = scale
    q = tl.load(q_ptr + (plane * len_q + rows) * D + d, mask=(rows < len_q) & (d < D), other=0.0)
    m, l = tl.full([BLOCK, 1], -INF, tl.float32), tl.zeros([BLOCK, 1], tl.float32)
    acc = tl.zeros([BLOCK, BLOCK_DV], tl.float32)
    for first in range(0, len_k, BLOCK):
        keys = first + tl.arange(0, BLOCK)[:, None]
        real = keys < len_k
        k = tl.load(k_ptr + (kv_plane * len_k + keys) * D + d, mask=real & (d < D), other=0.0)
        if MISTAKE == "values not masked":
            v = tl.load(v_ptr + (kv_plane * len_k + keys) * DV + dv, mask=dv < DV, other=0.0)
        else:
            v = tl.load(v_ptr + (kv_plane * len_k + keys) * DV + dv, mask=real & (dv < DV), other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
        columns = tl.trans(keys)
        seen = columns < len_k
        if MISTAKE == "tail of keys seen":
            seen = columns >= 0
        if causal:
            seen = seen & (columns <= rows + len_k - len_q)
        s = tl.where(seen, s, -INF)
        new = tl.maximum(m, tl.max(s, 1)[:, None])
        shift = tl.where(new == -INF, 0.0, new)
        p, rescale = tl.exp2(s - shift), tl.exp2(m - shift)
        l = l * rescale + tl.sum(p, 1)[:, None]
        if MISTAKE == "numerator not rescaled":
            acc = acc + tl.dot(p, v.to(tl.float32), input_precision="ieee")
        else:
            acc = acc * rescale + tl.dot(p, v.to(tl.float32), input_precision="ieee")
        m = new
    out = acc / tl.where(l == 0, 1.0, l)
    tl.store(out_ptr + (plane * len_q + rows) * DV + dv, out, mask=(rows < len_q) & (dv < DV))
    lse = (m + tl.log2(l)) * LN2
    if MISTAKE == "lse in base 2":
        lse = m + tl.log2(l)
    tl.store(lse_ptr + plane * len_q + rows, lse, mask=rows < len_q)


def _attention(mistake, q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
    if mask is not None or window is not None or bias is not None:
        raise NotImplementedError("only causal attention")
    if k.shape[:3] != v.shape[:3] or k.shape[0] != q.shape[0] or k.shape[3] != q.shape[3]:
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: batch, length or dim do not fit")
    if q.shape[1] % max(k.shape[1], 1):
        raise ValueError(f"q has {q.shape[1]} heads, no multiple of the {k.shape[1]} heads of k and v")
    q, k, v = (x.contiguous() for x in (q, k, v))
    (batch, n_heads, len_q, dim), (_, n_kv_heads, len_k, dim_v) = q.shape, v.shape
    out, lse = torch.empty(batch, n_heads, len_q, dim_v), torch.empty(batch, n_heads, len_q)
    if lse.numel():
        _attention_kernel[triton.cdiv(len_q, BLOCK.value), batch * n_heads](
            q, k, v, out, lse, n_heads, n_heads // n_kv_heads, len_q, len_k, dim**-0.5 if scale is None else scale,
            bool(causal), MISTAKE=mistake, D=dim, DV=dim_v, BLOCK_D=max(triton.next_power_of_2(dim), 16),
            BLOCK_DV=max(triton.next_power_of_2(dim_v), 16))
    return out, lse


def log2_e_folded_twice(q, k, v, **options):
    """The scale holds log2(e) already when it is folded in: every temperature is wrong by 1.44.

    Notes: none; exp2 for exp needs the factor in one place, the host or the kernel.
    Family: scale.
    """
    return _attention("log2(e) folded twice", q, k, v, **options)


def log2_e_forgotten(q, k, v, **options):
    """exp became exp2, and the scale stayed.

    Notes: none; the weights are still positive and add up to one.
    Family: scale.
    """
    return _attention("log2(e) forgotten", q, k, v, **options)


def program_ids_exchanged(q, k, v, **options):
    """Blocks of queries and heads are read from each other's program id: right where the grid is square.

    Notes: none; the grid is written down far from where it is read.
    Family: boundaries.
    """
    return _attention("program ids exchanged", q, k, v, **options)


def values_not_masked(q, k, v, **options):
    """The load of the values has no mask along the keys: a weight of 0 times what lies there.

    Shipped: FlagGems#898.
    Family: boundaries.
    """
    return _attention("values not masked", q, k, v, **options)


def tail_of_keys_seen(q, k, v, **options):
    """Keys beyond the last one have score 0 instead of minus infinity.

    Shipped: jax#27224, pytorch#160861.
    Family: boundaries.
    """
    return _attention("tail of keys seen", q, k, v, **options)


def numerator_not_rescaled(q, k, v, **options):
    """When the maximum grows, the denominator is rescaled and the numerator is not.

    Notes: 001, section 5.3.
    Family: numerics.
    """
    return _attention("numerator not rescaled", q, k, v, **options)


def lse_in_base_2(q, k, v, **options):
    """The log-sum-exp comes back in units of log 2, as the loop kept it.

    Shipped: flashinfer#2113, pytorch#181645.
    Family: scale.
    """
    return _attention("lse in base 2", q, k, v, **options)


VARIANTS = {f.__name__: {"softmax": f} for f in (
    rows_not_masked, padding_is_zero, other_forgotten, load_not_masked, store_not_masked, offsets_in_32_bits,
    last_rows_have_no_program)} | {f.__name__: {"attention": f} for f in (
        log2_e_folded_twice, log2_e_forgotten, program_ids_exchanged, values_not_masked, tail_of_keys_seen,
        numerator_not_rescaled, lse_in_base_2)}
