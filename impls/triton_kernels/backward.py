"""Flash attention, backward: the weights are recomputed from the log-sum-exp, never stored.

With P = exp(S - lse), S = scale q k^T, the gradients are (Dao et al. 2022, FlashAttention, appendix B.4)

    dV = P^T dO,    dP = dO V^T,    dS = P * (dP - delta),    delta = rowsum(dO * O)
    dQ = scale dS K,    dK = scale dS^T Q

dQ sums over keys, dK and dV over queries. So there are two kernels, each of which owns what it sums into: no atomics,
the same bits at every run, at the price of computing P and dP twice (7 products of matrices instead of 5). The query
heads that share a KV head are summed in the same accumulator, inside one program.

What a program owns is multiplied in every step of its loop, out of shared memory: held in registers (which is what
hoisting it out of the loop, disable_licm, would do) it would crowd out the sums.

Hidden keys have P = 0 and dS = 0. A query without a visible key has lse = -inf; it is treated as 0, and every weight of
that row is hidden anyway. Only tiles on the edge of the causal triangle or of the keys compare positions.
"""

import torch
import triton
import triton.language as tl

from .attention import check_qkv, check_scores, chunk, expand_scores, first_tile, load_beside, product
from .common import (
    ARITHMETIC, INF, INTERPRETED, LOG2E, require, require_device, require_floats, require_offsets, require_tensor,
    state_dtype, target)


@triton.jit
def weights_and_gradient(s, dp, lse, delta, last, keys, mask_pointers, real, EDGE: tl.constexpr):
    """P and dS from S and dP of one tile of queries x keys; S and lse are in units of log 2, columns are (M, 1).

    From the transposes of S and dP, and with rows (1, M) instead of columns: their transposes, keys x queries.
    """
    p = tl.exp2(s - lse)
    ds = p * (dp - delta)
    if EDGE:
        p, ds = tl.where(keys <= last, p, 0.0), tl.where(keys <= last, ds, 0.0)
    if mask_pointers is not None:
        keep = load_beside(mask_pointers, real, lse.dtype) != 0
        p, ds = tl.where(keep, p, 0.0), tl.where(keep, ds, 0.0)
    return p, ds


@triton.jit
def load_lse(pointers, real):
    """lse in units of log 2; 0 for a query that sees nothing."""
    lse = tl.load(pointers, mask=real, other=0.0) * LOG2E
    return tl.where(lse == -INF, 0.0, lse)


@triton.jit
def dq_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, dout_ptr, mask_ptr, lse_ptr, delta_ptr, dq_ptr, q_strides, k_strides, v_strides,
    out_strides, dout_strides, mask_strides, n_heads, group, len_q, len_k, scale: tl.float64, scale_log2: tl.float64,
    CAUSAL: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, CHUNK: tl.constexpr, CHUNK_V: tl.constexpr, ACC: tl.constexpr,
):
    """Program (block of queries, query head, batch entry): delta, stored for the other kernel, and dQ."""
    start_m = tl.program_id(0) * BLOCK_M
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    rows, block = start_m + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    rows_real = rows[:, None] < len_q
    q_ptr, q_tile, q_columns, q_step, q_column_step = first_tile(
        q_ptr + batch * q_strides[0] + head * q_strides[1], q_strides[2:], D, BLOCK_M, BLOCK_D)
    out_ptr, out_tile, out_columns, out_step, _ = first_tile(
        out_ptr + batch * out_strides[0] + head * out_strides[1], out_strides[2:], DV, BLOCK_M, BLOCK_DV)
    dout_ptr, dout_tile, _, dout_step, dout_column_step = first_tile(
        dout_ptr + batch * dout_strides[0] + head * dout_strides[1], dout_strides[2:], DV, BLOCK_M, BLOCK_DV)
    k_ptr, k_tile, k_columns, k_step, k_column_step = first_tile(
        k_ptr + batch * k_strides[0] + head // group * k_strides[1], k_strides[2:], D, BLOCK_N, BLOCK_D)
    v_ptr, v_tile, v_columns, v_step, v_column_step = first_tile(
        v_ptr + batch * v_strides[0] + head // group * v_strides[1], v_strides[2:], DV, BLOCK_N, BLOCK_DV)

    q = tl.load(q_ptr + (q_tile + start_m * q_step), mask=rows_real & q_columns, other=0.0)
    out = tl.load(out_ptr + (out_tile + start_m * out_step), mask=rows_real & out_columns, other=0.0)
    dout = tl.load(dout_ptr + (dout_tile + start_m * dout_step), mask=rows_real & out_columns, other=0.0)
    q_rows = q_ptr + rows[:, None] * q_step, rows_real, q_column_step
    dout_rows = dout_ptr + rows[:, None] * dout_step, rows_real, dout_column_step
    delta = tl.sum(out.to(ACC) * dout.to(ACC), 1)
    states = (batch * n_heads + head) * len_q + rows
    tl.store(delta_ptr + states, delta, mask=rows < len_q)
    lse, delta = load_lse(lse_ptr + states, rows < len_q)[:, None], delta[:, None]
    mask_rows = None
    if mask_ptr is not None:
        mask_ptr += batch * mask_strides[0] + head * mask_strides[1]
        mask_rows = mask_ptr + rows[:, None].to(tl.int64) * mask_strides[2]

    last = tl.zeros([BLOCK_M, 1], tl.int32) + (len_k - 1)
    body_stop, stop = len_k // BLOCK_N * BLOCK_N, len_k
    if CAUSAL:
        last = tl.minimum(rows[:, None] + (len_k - len_q), len_k - 1)
        stop = tl.minimum(tl.maximum(start_m + BLOCK_M + len_k - len_q, 0), len_k)
        body_stop = tl.minimum(tl.maximum(start_m + len_k - len_q + 1, 0), len_k) // BLOCK_N * BLOCK_N

    dq = tl.zeros([BLOCK_M, BLOCK_D], ACC)
    for edge in tl.static_range(2):
        for start_n in tl.range(body_stop if edge else 0, stop if edge else body_stop, BLOCK_N, disable_licm=True):
            keys, in_time = (start_n + block)[None, :], (start_n + block)[:, None] < len_k
            k = tl.load(k_ptr + (k_tile + start_n * k_step), mask=k_columns & in_time, other=0.0)
            v = tl.load(v_ptr + (v_tile + start_n * v_step), mask=v_columns & in_time, other=0.0)
            mask_pointers = None
            if mask_ptr is not None:
                mask_pointers = mask_rows + keys * mask_strides[3]
            k_rows = k_ptr + (start_n + block)[:, None] * k_step, in_time, k_column_step
            v_rows = v_ptr + (start_n + block)[:, None] * v_step, in_time, v_column_step
            s = product(q, k, q_rows, k_rows, D, CHUNK, ACC) * scale_log2.to(ACC)
            dp = product(dout, v, dout_rows, v_rows, DV, CHUNK_V, ACC)
            p, ds = weights_and_gradient(s, dp, lse, delta, last, keys, mask_pointers, rows_real & (keys < len_k),
                                         EDGE=edge)
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee", out_dtype=ACC)
    dq_ptr += (batch * n_heads + head) * len_q * D
    d = tl.arange(0, BLOCK_D)
    tl.store(dq_ptr + (rows[:, None] * D + d[None, :]), (dq * scale.to(ACC)).to(dq_ptr.dtype.element_ty),
             mask=rows_real & q_columns)


@triton.jit
def dk_dv_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, mask_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, q_strides, k_strides, v_strides,
    dout_strides, mask_strides, n_kv_heads, group, len_q, len_k, scale: tl.float64, scale_log2: tl.float64,
    CAUSAL: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, CHUNK: tl.constexpr, CHUNK_V: tl.constexpr, ACC: tl.constexpr,
):
    """Program (block of keys, KV head, batch entry): dK and dV, summed over the queries of all heads of the group."""
    start_n = tl.program_id(0) * BLOCK_N
    kv_head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    block, keys = tl.arange(0, BLOCK_M), start_n + tl.arange(0, BLOCK_N)
    keys_real = keys[:, None] < len_k
    k_ptr, k_tile, k_columns, k_step, k_column_step = first_tile(
        k_ptr + batch * k_strides[0] + kv_head * k_strides[1], k_strides[2:], D, BLOCK_N, BLOCK_D)
    v_ptr, v_tile, v_columns, v_step, v_column_step = first_tile(
        v_ptr + batch * v_strides[0] + kv_head * v_strides[1], v_strides[2:], DV, BLOCK_N, BLOCK_DV)
    k = tl.load(k_ptr + (k_tile + start_n * k_step), mask=k_columns & keys_real, other=0.0)
    v = tl.load(v_ptr + (v_tile + start_n * v_step), mask=v_columns & keys_real, other=0.0)
    k_rows = k_ptr + keys[:, None] * k_step, keys_real, k_column_step
    v_rows = v_ptr + keys[:, None] * v_step, keys_real, v_column_step

    # query i sees key j if j <= i + Lk - Lq: the first that sees any key here, and the first from which on all see all
    edge_start, edge_stop = 0, 0
    if CAUSAL:
        edge_start = tl.maximum(start_n + len_q - len_k, 0) // BLOCK_M * BLOCK_M
        edge_stop = tl.cdiv(tl.maximum(start_n + BLOCK_N - 1 + len_q - len_k, 0), BLOCK_M) * BLOCK_M

    dk, dv = tl.zeros([BLOCK_N, BLOCK_D], ACC), tl.zeros([BLOCK_N, BLOCK_DV], ACC)
    for member in range(0, group):
        head = kv_head * group + member
        q_head, q_tile, q_columns, q_step, q_column_step = first_tile(
            q_ptr + batch * q_strides[0] + head * q_strides[1], q_strides[2:], D, BLOCK_M, BLOCK_D)
        dout_head, dout_tile, dout_columns, dout_step, dout_column_step = first_tile(
            dout_ptr + batch * dout_strides[0] + head * dout_strides[1], dout_strides[2:], DV, BLOCK_M, BLOCK_DV)
        states = (batch * n_kv_heads * group + head) * len_q
        for edge in tl.static_range(2 if CAUSAL else 1):
            start, stop = edge_stop, len_q
            if edge:
                start, stop = edge_start, tl.minimum(edge_stop, len_q)
            for start_m in tl.range(start, stop, BLOCK_M, disable_licm=True):
                rows = start_m + block
                rows_real = rows[:, None] < len_q
                q = tl.load(q_head + (q_tile + start_m * q_step), mask=rows_real & q_columns, other=0.0)
                dout = tl.load(dout_head + (dout_tile + start_m * dout_step), mask=rows_real & dout_columns, other=0.0)
                lse = load_lse(lse_ptr + states + rows, rows < len_q)[None, :]
                delta = tl.load(delta_ptr + states + rows, mask=rows < len_q, other=0.0)[None, :]
                mask_pointers = None
                if mask_ptr is not None:
                    mask_pointers = (mask_ptr + batch * mask_strides[0] + head * mask_strides[1]
                                     + rows[None, :].to(tl.int64) * mask_strides[2] + keys[:, None] * mask_strides[3])
                q_rows = q_head + rows[:, None] * q_step, rows_real, q_column_step
                dout_rows = dout_head + rows[:, None] * dout_step, rows_real, dout_column_step
                # transposed: so both are first factors below, out of registers
                s = product(k, q, k_rows, q_rows, D, CHUNK, ACC) * scale_log2.to(ACC)
                dp = product(v, dout, v_rows, dout_rows, DV, CHUNK_V, ACC)
                p, ds = weights_and_gradient(
                    s, dp, lse, delta, rows[None, :] + (len_k - len_q), keys[:, None], mask_pointers,
                    keys_real & (rows[None, :] < len_q), EDGE=edge)
                dv = tl.dot(p.to(dout.dtype), dout, dv, input_precision="ieee", out_dtype=ACC)
                dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee", out_dtype=ACC)

    d, dv_columns = tl.arange(0, BLOCK_D)[None, :], tl.arange(0, BLOCK_DV)[None, :]
    first_key = (batch * n_kv_heads + kv_head) * len_k
    tl.store(dk_ptr + first_key * D + (keys[:, None] * D + d), (dk * scale.to(ACC)).to(dk_ptr.dtype.element_ty),
             mask=keys_real & k_columns)
    tl.store(dv_ptr + first_key * DV + (keys[:, None] * DV + dv_columns), dv.to(dv_ptr.dtype.element_ty),
             mask=keys_real & v_columns)


def _block_sizes(q, v, masked=False):
    """Tile sizes and warps of the two kernels, first of dQ, then of dK and dV.

    dK and dV are two accumulators where dQ is one, so their tile has to be smaller; and the whole of it has to fit the
    registers, of which the targets and their compilers make different use: `tox -e compile` tells. On sm_90 there are
    some left to load the next tile ahead, unless a mask takes them or there is no next one.
    """
    d, dv = (max(triton.next_power_of_2(x.shape[3]), 16) for x in (q, v))
    wide = max(d, dv)
    if INTERPRETED:
        of_queries = of_keys = (32, 32, 4, 2)
    elif q.element_size() > 2 and target() == "gfx942":
        of_queries = of_keys = (32, 32, 8, 1) if q.element_size() * wide <= 256 else (16, 16, 4, 1)
    elif q.element_size() > 2:
        of_queries = of_keys = (32, 32, 8, 1)
        if q.element_size() * wide > 256:
            of_queries, of_keys = (16, 16, 8, 2), (16, 16, 8, 2 if wide > 128 else 1)
    elif target() == "gfx942":
        of_queries = of_keys = (32, 64, 4, 1) if wide <= 128 else (16, 32, 4, 1)
    elif wide <= 128:
        ahead = target() == "sm_90" and q.shape[2] > 32 and not masked
        of_queries = (64, 64, 8, 1 if target() == "sm_80" else 2)
        of_keys = (32, 64, 8, 2 if ahead else 1)
    else:
        of_queries = of_keys = (32, 32, 8, 1)
    return tuple(dict(BLOCK_M=m, BLOCK_N=n, BLOCK_D=d, BLOCK_DV=dv, CHUNK=chunk(q, d), CHUNK_V=chunk(v, dv),
                      num_warps=n_warps, num_stages=n_stages) for m, n, n_warps, n_stages in (of_queries, of_keys))


def attention_backward(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
    """(dq, dk, dv) of `attention` from its out and lse and from dout, the gradient of out.

    Shapes, dtypes and errors as in `attention`; out and dout (B, Hq, Lq, Dv), lse (B, Hq, Lq). The same bits at every
    run.
    """
    check_qkv(q, k, v)
    check_scores(mask, scale=scale)
    require_floats(q=q, out=out, dout=dout)
    require_tensor("lse", lse)
    shape = (*q.shape[:3], v.shape[3])
    for name, x, wanted in (("out", out, shape), ("dout", dout, shape), ("lse", lse, shape[:3])):
        require(x.shape == wanted, f"{name} must be {tuple(wanted)} beside q of shape {tuple(q.shape)} and v of "
                                    f"shape {tuple(v.shape)}, got {tuple(x.shape)}")
        require_offsets(name, x)
    require(lse.dtype in ARITHMETIC, f"lse must be floating point, got {lse.dtype}")
    require_device("lse", lse, "q", q)
    mask = expand_scores("mask", mask, q, k)
    (batch, n_heads, len_q, dim), (_, n_kv_heads, len_k, dim_v) = q.shape, v.shape
    scale = dim ** -0.5 if scale is None else float(scale)

    pairs = bool(lse.numel() and len_k)         # without any, nothing is launched
    new = torch.empty if pairs else torch.zeros
    dq, dk, dv = (new(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    if pairs:
        lse = lse.to(state_dtype(q)).contiguous()
        delta, (of_queries, of_keys) = torch.empty_like(lse), _block_sizes(q, v, mask is not None)
        mask_strides = (0, 0, 0, 0) if mask is None else mask.stride()
        group, scales = n_heads // n_kv_heads, (scale, scale * LOG2E.value)
        constants = dict(CAUSAL=bool(causal), D=dim, DV=dim_v, ACC=ARITHMETIC[q.dtype])
        dq_kernel[(triton.cdiv(len_q, of_queries["BLOCK_M"]), n_heads, batch)](
            q, k, v, out, dout, mask, lse, delta, dq, q.stride(), k.stride(), v.stride(), out.stride(), dout.stride(),
            mask_strides, n_heads, group, len_q, len_k, *scales, **constants, **of_queries)
        dk_dv_kernel[(triton.cdiv(len_k, of_keys["BLOCK_N"]), n_kv_heads, batch)](
            q, k, v, dout, mask, lse, delta, dk, dv, q.stride(), k.stride(), v.stride(), dout.stride(), mask_strides,
            n_kv_heads, group, len_q, len_k, *scales, **constants, **of_keys)
    return dq, dk, dv
