"""Flash decoding: the keys are split among programs, and a second kernel merges their partial states.

With one or a few queries there is too little work to fill a GPU with one program per (batch, head): most of it would
idle while a few programs stream the whole cache. So the keys are divided among `n_splits` programs, each of which ends
in the state (m, l, acc) of an online softmax over its own keys, and a second kernel merges the states of every query:

    m = max_i m_i,   w_i = exp(m_i - m),   out = sum_i w_i acc_i / sum_i w_i l_i,   lse = m + log sum_i w_i l_i

(flash decoding: Dao, Haziza, Massa and Sizov 2023). The query heads that share one KV head are rows of one tile, so
that each key is read once per group and not once per head. A program without keys leaves the empty state (-inf, 0, 0).
"""

import torch
import triton
import triton.language as tl

from .attention import (MAX_LENGTH, block_sizes, check_groups, check_qkv, check_scores, empty_state, first_tile,
                        visit_keys)
from .common import (ARITHMETIC, INF, LN2, LOG2E, require, require_grid, require_whole, rows_per_program, state_dtype,
                     warps)


@triton.jit
def partial_kernel(
    q_ptr, k_ptr, v_ptr, m_ptr, l_ptr, acc_ptr, q_strides, k_strides, v_strides, n_kv_heads, group, len_q, len_k,
    n_rows, keys_per_split, scale_log2: tl.float64, D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
):
    """Program (block of rows, split, batch entry and KV head); row r: query r % len_q, head r // len_q of its group."""
    split = tl.program_id(1)
    batch, kv_head = (tl.program_id(2) // n_kv_heads).to(tl.int64), (tl.program_id(2) % n_kv_heads).to(tl.int64)
    k_ptr += batch * k_strides[0] + kv_head * k_strides[1]
    v_ptr += batch * v_strides[0] + kv_head * v_strides[1]
    k_tile = first_tile(k_ptr, k_strides[2:], D, BLOCK_N, BLOCK_D)
    v_tile = first_tile(v_ptr, v_strides[2:], DV, BLOCK_N, BLOCK_DV)

    rows, d = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    heads, queries = kv_head * group + rows // len_q, rows % len_q
    real = rows < group * len_q
    q_rows = (q_ptr + batch * q_strides[0] + heads * q_strides[1] + queries * q_strides[2])[:, None]
    q = tl.load(q_rows + d[None, :] * q_strides[3], mask=real[:, None] & (d[None, :] < D), other=0.0)
    q_rows = q_rows, real[:, None], q_strides[3]
    scale = scale_log2.to(ACC)

    start = split * keys_per_split
    stop = tl.minimum(start + keys_per_split, len_k)
    body_stop = start + tl.maximum(stop - start, 0) // BLOCK_N * BLOCK_N
    state = empty_state(BLOCK_M, BLOCK_DV, ACC)
    state = visit_keys(state, q, q_rows, k_tile, v_tile, None, None, 0, stop - 1, real[:, None],
                       start, body_stop, len_k, scale, D, CHUNK, BLOCK_N, EDGE=False)
    m, l, acc = visit_keys(state, q, q_rows, k_tile, v_tile, None, None, 0, stop - 1, real[:, None],
                           body_stop, stop, stop, scale, D, CHUNK, BLOCK_N, EDGE=True)  # other splits' keys stay unread

    # states lie as (split, batch, query head, query), the group's rows being adjacent
    state_rows = split.to(tl.int64) * n_rows + (batch * n_kv_heads + kv_head) * group * len_q + rows
    dv = tl.arange(0, BLOCK_DV)
    tl.store(m_ptr + state_rows, m, mask=real)
    tl.store(l_ptr + state_rows, l, mask=real)
    tl.store(acc_ptr + state_rows[:, None] * DV + dv[None, :], acc, mask=real[:, None] & (dv[None, :] < DV))


@triton.jit
def merge_splits_kernel(
    m_ptr, l_ptr, acc_ptr, out_ptr, lse_ptr, n_rows, n_splits,
    DV: tl.constexpr, ACC: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DV: tl.constexpr,
):
    """Walk over the splits with the merge of two states; m is in units of log 2."""
    rows, dv = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_DV)
    real = rows < n_rows
    inside = real[:, None] & (dv[None, :] < DV)
    m, l, acc = tl.full([BLOCK_ROWS], -INF, ACC), tl.zeros([BLOCK_ROWS], ACC), tl.zeros([BLOCK_ROWS, BLOCK_DV], ACC)
    out_rows = rows.to(tl.int64)
    for split in range(0, n_splits):
        state_rows = out_rows + split * n_rows
        m_split = tl.load(m_ptr + state_rows, mask=real, other=-INF)
        l_split = tl.load(l_ptr + state_rows, mask=real, other=0.0)
        acc_split = tl.load(acc_ptr + state_rows[:, None] * DV + dv[None, :], mask=inside, other=0.0)
        m_new = tl.maximum(m, m_split)
        shift = tl.where(m_new == -INF, 0.0, m_new)
        w, w_split = tl.exp2(m - shift), tl.exp2(m_split - shift)
        l = w * l + w_split * l_split
        acc = w[:, None] * acc + w_split[:, None] * acc_split
        m = m_new
    out = acc / tl.where(l == 0, 1.0, l)[:, None]
    tl.store(out_ptr + out_rows[:, None] * DV + dv[None, :], out.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(lse_ptr + out_rows, (m + tl.log2(l)) * LN2, mask=real)


def split_kv(q, k, v, n_splits=4, scale=None):
    """Attention of all queries to all keys, the keys divided among n_splits programs; more splits than keys is legal.

    Shapes, dtypes and errors as in `attention`. Returns (out, lse).
    """
    check_qkv(q, k, v)
    check_groups(q, k)
    check_scores(scale=scale)
    require_whole("n_splits", n_splits)
    require(n_splits >= 1, f"n_splits must be at least 1, got {n_splits}")
    require_grid({"n_splits": n_splits})
    if n_splits * q.shape[:3].numel() > MAX_LENGTH:
        raise NotImplementedError(f"n_splits is {n_splits} beside q of {q.shape[:3].numel()} rows in all: the "
                                  "merge counts states in 32 bits, up to 2**30")
    (batch, n_heads, len_q, dim), (_, n_kv_heads, len_k, dim_v) = q.shape, v.shape
    scale = dim ** -0.5 if scale is None else float(scale)
    dtype = state_dtype(q)
    out = torch.empty(*q.shape[:3], dim_v, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:3], dtype=dtype, device=q.device)
    if lse.numel():
        group, n_rows = n_heads // n_kv_heads, lse.numel()
        m, l = (torch.empty(n_splits, n_rows, dtype=dtype, device=q.device) for _ in range(2))
        acc = torch.empty(n_splits, n_rows, dim_v, dtype=dtype, device=q.device)
        blocks = block_sizes(group * len_q, q, v)
        partial_kernel[(triton.cdiv(group * len_q, blocks["BLOCK_M"]), n_splits, batch * n_kv_heads)](
            q, k, v, m, l, acc, q.stride(), k.stride(), v.stride(), n_kv_heads, group, len_q, len_k, n_rows,
            triton.cdiv(len_k, n_splits), scale * LOG2E.value, D=dim, DV=dim_v, ACC=ARITHMETIC[q.dtype], **blocks)
        block_rows, block_dv = rows_per_program(n_rows, dim_v), triton.next_power_of_2(dim_v)
        merge_splits_kernel[(triton.cdiv(n_rows, block_rows),)](
            m, l, acc, out, lse, n_rows, n_splits, DV=dim_v, ACC=ARITHMETIC[q.dtype], BLOCK_ROWS=block_rows,
            BLOCK_DV=block_dv, num_warps=warps(block_rows * block_dv * acc.element_size() // 4))
    return out, lse
