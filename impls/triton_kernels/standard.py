"""Standard attention: the textbook's three steps as three kernels, each a read and a write of the N x N matrix.

    S = scale q k^T + bias      scores_kernel     reads q and k, writes S
    P = softmax(S)              weights_kernel    reads S, writes P and the log-sum-exp of every row
    O = P v                     output_kernel     reads P and v, writes O

It computes what `attention.py` computes, with the same products in the same tiles, and is what that kernel is measured
against: S and P pass through memory, each once out and once in, which makes four passes over N x N elements where the
fused kernel has none (Dao et al. 2022, FlashAttention, algorithm 0). Both matrices are kept in the dtype of the inputs,
as eager PyTorch keeps them: the rounding contract is `naive`.

Hidden scores are -inf in S and 0 in P, and they are computed, stored and read like the others: a causal mask saves
nothing here.
"""

import torch
import triton
import triton.language as tl

from .attention import block_sizes, check_qkv, check_scores, expand_scores, first_tile, product
from .common import ARITHMETIC, INF, require_floats, state_dtype
from .softmax import softmax_of_rows, tile


@triton.jit
def scores_kernel(
    q_ptr, k_ptr, mask_ptr, bias_ptr, s_ptr, q_strides, k_strides, mask_strides, bias_strides, n_heads, group, len_q,
    len_k, window, scale: tl.float64, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
):
    """Program (block of queries, query head, batch entry): its rows of S, one block of keys after the other."""
    start_m = tl.program_id(0) * BLOCK_M
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    q_ptr, q_offsets, q_columns, q_step, q_column_step = first_tile(
        q_ptr + batch * q_strides[0] + head * q_strides[1], q_strides[2:], D, BLOCK_M, BLOCK_D)
    k_ptr, k_offsets, k_columns, k_step, k_column_step = first_tile(
        k_ptr + batch * k_strides[0] + head // group * k_strides[1], k_strides[2:], D, BLOCK_N, BLOCK_D)
    rows, block = (start_m + tl.arange(0, BLOCK_M))[:, None], tl.arange(0, BLOCK_N)
    rows64 = rows.to(tl.int64)
    s_ptr += ((batch * n_heads + head) * len_q + rows64) * len_k
    q = tl.load(q_ptr + (q_offsets + start_m * q_step), mask=(rows < len_q) & q_columns, other=0.0)
    q_rows = q_ptr + rows * q_step, rows < len_q, q_column_step
    for start_n in range(0, len_k, BLOCK_N):
        keys, in_time = (start_n + block)[None, :], (start_n + block)[:, None] < len_k
        inside = (rows < len_q) & (keys < len_k)
        k = tl.load(k_ptr + (k_offsets + start_n * k_step), mask=in_time & k_columns, other=0.0)
        k_rows = k_ptr + (start_n + block)[:, None] * k_step, in_time, k_column_step
        s = product(q, k, q_rows, k_rows, D, CHUNK, ACC) * scale.to(ACC)
        if bias_ptr is not None:
            bias = bias_ptr + batch * bias_strides[0] + head * bias_strides[1] + rows64 * bias_strides[2]
            s += tl.load(bias + keys * bias_strides[3], mask=inside, other=0.0).to(ACC)
        if mask_ptr is not None:
            mask = mask_ptr + batch * mask_strides[0] + head * mask_strides[1] + rows64 * mask_strides[2]
            s = tl.where(tl.load(mask + keys * mask_strides[3], mask=inside, other=0) != 0, s, -INF)
        own = rows + (len_k - len_q)        # the last key that the query sees when causal
        if CAUSAL:
            s = tl.where(keys <= own, s, -INF)
        if WINDOW:
            s = tl.where(keys > own - window, s, -INF)
        tl.store(s_ptr + keys, s.to(s_ptr.dtype.element_ty), mask=inside)


@triton.jit
def weights_kernel(
    s_ptr, p_ptr, lse_ptr, n_rows, n_columns, ACC: tl.constexpr, WHOLE: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Program (block of rows): softmax and log-sum-exp of rows; a row that is all hidden gives 0 and -inf."""
    strides = (n_columns, 1)
    l, m = softmax_of_rows(s_ptr, None, p_ptr, n_rows, n_columns, strides, strides, ACC, WHOLE, BLOCK_ROWS,
                           BLOCK_COLUMNS)
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    tl.store(lse_ptr + rows, m + tl.log(l), mask=rows < n_rows)


@triton.jit
def output_kernel(
    p_ptr, v_ptr, out_ptr, v_strides, n_heads, group, len_q, len_k, DV: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_DV: tl.constexpr, ACC: tl.constexpr,
):
    """Program (block of queries, query head, batch entry): its rows of P times V, one block of keys after the other."""
    start_m = tl.program_id(0) * BLOCK_M
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    v_ptr, v_offsets, v_columns, v_step, _ = first_tile(
        v_ptr + batch * v_strides[0] + head // group * v_strides[1], v_strides[2:], DV, BLOCK_N, BLOCK_DV)
    rows, block, dv = (start_m + tl.arange(0, BLOCK_M))[:, None], tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_DV)[None, :]
    out_rows = (batch * n_heads + head) * len_q + rows.to(tl.int64)
    acc = tl.zeros([BLOCK_M, BLOCK_DV], ACC)
    for start_n in range(0, len_k, BLOCK_N):
        keys, in_time = (start_n + block)[None, :], (start_n + block)[:, None] < len_k
        p = tl.load(p_ptr + out_rows * len_k + keys, mask=(rows < len_q) & (keys < len_k), other=0.0)
        v = tl.load(v_ptr + (v_offsets + start_n * v_step), mask=in_time & v_columns, other=0.0)
        acc = tl.dot(p, v, acc, input_precision="ieee", out_dtype=ACC)
    tl.store(out_ptr + out_rows * DV + dv, acc.to(out_ptr.dtype.element_ty), mask=(rows < len_q) & (dv < DV))


def _grid(q, blocks):
    return triton.cdiv(q.shape[2], blocks["BLOCK_M"]), q.shape[1], q.shape[0]


def _scores(q, k, causal, mask, scale, window, bias, blocks):
    """S (B, Hq, Lq, Lk) in q's dtype, -inf where hidden."""
    check_scores(mask, bias, window, scale)
    mask, bias = expand_scores("mask", mask, q, k), expand_scores("bias", bias, q, k)
    (_, n_heads, len_q, dim), len_k = q.shape, k.shape[2]
    scale = dim ** -0.5 if scale is None else float(scale)
    s = torch.empty(*q.shape[:3], len_k, dtype=q.dtype, device=q.device)
    if s.numel():
        scores_kernel[_grid(q, blocks)](
            q, k, mask, bias, s, q.stride(), k.stride(), (0, 0, 0, 0) if mask is None else mask.stride(),
            (0, 0, 0, 0) if bias is None else bias.stride(), n_heads, n_heads // k.shape[1], len_q, len_k,
            min(window or 0, 2**30), scale, CAUSAL=bool(causal or window is not None), WINDOW=window is not None, D=dim,
            ACC=ARITHMETIC[q.dtype], **{name: n for name, n in blocks.items() if name != "BLOCK_DV"})
    return s


def _weights(s):
    """(P, lse) of the scores S."""
    p, lse = torch.empty_like(s), torch.empty(s.shape[:-1], dtype=state_dtype(s), device=s.device)
    if lse.numel():
        rows = s.view(lse.numel(), s.shape[-1])
        held = tile(rows)
        weights_kernel[(triton.cdiv(len(rows), held["BLOCK_ROWS"]),)](rows, p, lse, *rows.shape, **held)
    return p, lse


def attention(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
    """softmax(scale * q k^T + bias) v over the visible keys, and the log-sum-exp of the scores.

    Shapes, options, dtypes and errors as of the fused `attention`.
    """
    check_qkv(q, k, v)
    blocks = block_sizes(q.shape[2], q, v)
    p, lse = _weights(_scores(q, k, causal, mask, scale, window, bias, blocks))
    out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
    if out.numel():
        output_kernel[_grid(q, blocks)](
            p, v, out, v.stride(), q.shape[1], q.shape[1] // k.shape[1], q.shape[2], k.shape[2], DV=v.shape[3],
            ACC=ARITHMETIC[q.dtype], **{name: n for name, n in blocks.items() if name not in ("BLOCK_D", "CHUNK")})
    return out, lse


def attention_weights(q, k, causal=False, mask=None, scale=None, window=None, bias=None):
    """P (B, Hq, Lq, Lk) in q's dtype: the weights with which `attention` averages the values."""
    check_qkv(q, k, k)
    require_floats(q=q, k=k)
    return _weights(_scores(q, k, causal, mask, scale, window, bias, block_sizes(q.shape[2], q, k)))[0]
