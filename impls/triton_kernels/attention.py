"""Flash attention, forward: exact attention that never stores the matrix of scores.

A program owns BLOCK_M queries of one head and walks over the keys in blocks of BLOCK_N. For each of its queries it
keeps the state of an online softmax over the keys seen so far (Milakov and Gimelshein 2018; Dao et al. 2022, algorithm
1; the final division only once: Dao 2023, section 3.1):

    m    running maximum of the scores          m' = max(m, max_j s_j)
    l    denominator  sum exp(s_j - m)          l' = exp(m - m') l + sum_j exp(s_j - m')
    acc  numerator    sum exp(s_j - m) v_j      acc' = exp(m - m') acc + sum_j exp(s_j - m') v_j

and at the end out = acc / l, lse = m + log l. Scores are kept in units of log 2, scale * log2(e) * q.k, because exp2
is the instruction that exists. The maximum is taken of the *scaled* scores: of the raw ones it would be the minimum
for a negative scale. A query that has seen nothing visible has m = -inf and is shifted by 0, so that -inf - -inf never
occurs.

*Visibility.* Query i sees the keys first_i <= j <= last_i, which says causal (last_i = i + Lk - Lq: bottom-right),
window (first_i = last_i - window + 1) and the end of the keys at once; a boolean mask comes on top. A hidden score is
replaced by -inf, not lowered, so what a hidden key holds does not matter. Blocks that no query of the program sees are
not visited; blocks that all of them see entirely need no comparison; only those on an edge do:

    keys     0 ........................................ Lk
    query i         [first_i ............ last_i]
    query i + 63         [first ................. last]
                    | edge |    body     | edge |
"""

import torch
import triton
import triton.language as tl

from .common import (ARITHMETIC, INF, INTERPRETED, LN2, LOG2E, require, require_device, require_floats, require_grid,
                     require_number, require_offsets, require_tensor, require_whole, state_dtype, target)

MAX_LENGTH = 2**30      # positions and their differences are 32-bit numbers
WIDEST = 2048 if INTERPRETED else 1024      # bytes of a row that a product takes whole: float64 to 128 columns,
CHUNK = 16                                  # and beyond that so many columns at a time


@triton.jit
def product(x, y, x_rows, y_rows, WIDTH: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr):
    """x y^T of two tiles of rows.

    x_rows and y_rows: where they come from, as (pointers to the first columns, a column of rows; which of these exist;
    stride from column to column). If CHUNK is less than the width of the tiles, they are read again, CHUNK columns at
    a time: all that a product needs of both is held in registers, and a GPU has too few for 256 columns of float64.
    """
    if CHUNK < x.shape[1]:
        s = tl.zeros([x.shape[0], y.shape[0]], ACC)
        for start in range(0, WIDTH, CHUNK):
            columns = start + tl.arange(0, CHUNK)[None, :]
            x_part = tl.load(x_rows[0] + columns * x_rows[2], mask=x_rows[1] & (columns < WIDTH), other=0.0)
            y_part = tl.load(y_rows[0] + columns * y_rows[2], mask=y_rows[1] & (columns < WIDTH), other=0.0)
            s = tl.dot(x_part, tl.trans(y_part), s, input_precision="ieee", out_dtype=ACC)
    else:
        s = tl.dot(x, tl.trans(y), input_precision="ieee", out_dtype=ACC)
    return s


@triton.jit
def load_beside(pointers, real, ACC: tl.constexpr):
    """A tile of a mask or bias, 0 where there is none.

    Triton 3.6 lays out the factors of a product for the narrowest number that was loaded for them, and stops where
    they are float64 and a mask has bytes. A sum over an axis of one number keeps those out of its sight.
    """
    x = tl.load(pointers, mask=real, other=0)
    return tl.sum(x[:, :, None], 2) if ACC == tl.float64 else x


@triton.jit
def visit_keys(
    state, q, q_rows, k_tile, v_tile, mask, bias, first, last, rows_real, start, stop, len_k, scale,
    D: tl.constexpr, CHUNK: tl.constexpr, BLOCK_N: tl.constexpr, EDGE: tl.constexpr,
):
    """Carry the state (m, l, acc) of a block of queries over the keys start .. stop - 1.

    q_rows: where q comes from, as `product` takes it; k_tile and v_tile: what `first_tile` returns;
    mask and bias: None, or (pointers to the first key of every query, stride from key to key). Without EDGE, every
    query sees every one of these keys as far as first and last are concerned, and there are whole blocks of them.
    """
    m, l, acc = state
    k_ptr, k_offsets, k_columns, k_step, k_column_step = k_tile
    v_ptr, v_offsets, v_columns, v_step, _ = v_tile
    block = tl.arange(0, BLOCK_N)
    # float32 and float64 leave tensor cores aside, and q, once read for every key, would fill the registers
    for start_n in tl.range(start, stop, BLOCK_N, disable_licm=q.dtype.primitive_bitwidth > 16):
        keys, in_time = (start_n + block)[None, :], (start_n + block)[:, None] < len_k
        k_real, v_real, s_real = k_columns, v_columns, rows_real
        if EDGE:
            k_real, v_real, s_real = k_columns & in_time, v_columns & in_time, rows_real & (keys < len_k)
        k = tl.load(k_ptr + (k_offsets + start_n * k_step), mask=k_real, other=0.0)
        k_rows = k_ptr + (start_n + block)[:, None] * k_step, in_time, k_column_step
        s = product(q, k, q_rows, k_rows, D, CHUNK, acc.dtype) * scale
        if bias is not None:
            s += load_beside(bias[0] + keys * bias[1], s_real, acc.dtype).to(acc.dtype) * LOG2E
        if mask is not None:
            s = tl.where(load_beside(mask[0] + keys * mask[1], s_real, acc.dtype) != 0, s, -INF)
        if EDGE:
            s = tl.where((first <= keys) & (keys <= last), s, -INF)

        m_new = tl.maximum(m, tl.max(s, 1))
        shift = tl.where(m_new == -INF, 0.0, m_new)
        p = tl.exp2(s - shift[:, None])
        rescale = tl.exp2(m - shift)
        l = l * rescale + tl.sum(p, 1)
        v = tl.load(v_ptr + (v_offsets + start_n * v_step), mask=v_real, other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee", out_dtype=acc.dtype)
        m = m_new
    return m, l, acc


@triton.jit
def first_tile(ptr, strides, WIDTH: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    """(Pointer of a head, offsets and existing columns of its first block, strides from row to row and from column to
    column); strides over (row, column)."""
    keys, columns = tl.arange(0, BLOCK_N)[:, None], tl.arange(0, BLOCK_WIDTH)[None, :]
    return ptr, keys * strides[0] + columns * strides[1], columns < WIDTH, strides[0], strides[1]


@triton.jit
def empty_state(BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr, ACC: tl.constexpr):
    """The state before any key: nothing seen, nothing summed."""
    return tl.full([BLOCK_M], -INF, ACC), tl.zeros([BLOCK_M], ACC), tl.zeros([BLOCK_M, BLOCK_DV], ACC)


@triton.jit
def attention_kernel(
    q_ptr, k_ptr, v_ptr, mask_ptr, bias_ptr, out_ptr, lse_ptr, q_strides, k_strides, v_strides, mask_strides,
    bias_strides, n_heads, group, len_q, len_k, window, scale_log2: tl.float64, CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
):
    """Program (block of queries, query head, batch entry). Strides: (batch, head, row, column). WINDOW needs CAUSAL."""
    start_m = tl.program_id(0) * BLOCK_M
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    kv_head = head // group
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + kv_head * k_strides[1]
    v_ptr += batch * v_strides[0] + kv_head * v_strides[1]
    k_tile = first_tile(k_ptr, k_strides[2:], D, BLOCK_N, BLOCK_D)
    v_tile = first_tile(v_ptr, v_strides[2:], DV, BLOCK_N, BLOCK_DV)

    rows, d = start_m + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    rows_real = rows[:, None] < len_q
    q = tl.load(q_ptr + (rows[:, None] * q_strides[2] + d[None, :] * q_strides[3]),
                mask=rows_real & (d[None, :] < D), other=0.0)
    q_rows = q_ptr + rows[:, None] * q_strides[2], rows_real, q_strides[3]
    scale = scale_log2.to(ACC)
    mask, bias, rows64 = None, None, rows[:, None].to(tl.int64)
    if mask_ptr is not None:
        mask = mask_ptr + batch * mask_strides[0] + head * mask_strides[1] + rows64 * mask_strides[2], mask_strides[3]
    if bias_ptr is not None:
        bias = bias_ptr + batch * bias_strides[0] + head * bias_strides[1] + rows64 * bias_strides[2], bias_strides[3]

    # start .. stop: the keys that any query of the block sees; body: whole blocks of keys that all of them see
    ahead = len_k - len_q
    first, last = 0, len_k - 1
    start, body_start, body_stop, stop = 0, 0, len_k // BLOCK_N * BLOCK_N, len_k
    if CAUSAL:
        last = tl.minimum(rows[:, None] + ahead, len_k - 1)
        stop = tl.minimum(tl.maximum(start_m + BLOCK_M + ahead, 0), len_k)
        body_stop = tl.minimum(tl.maximum(start_m + ahead + 1, 0), len_k) // BLOCK_N * BLOCK_N
    if WINDOW:
        first = rows[:, None] + ahead - window + 1
        start = tl.maximum(start_m + ahead - window + 1, 0) // BLOCK_N * BLOCK_N
        body_start = tl.cdiv(tl.maximum(start_m + BLOCK_M + ahead - window, 0), BLOCK_N) * BLOCK_N

    state = empty_state(BLOCK_M, BLOCK_DV, ACC)
    if WINDOW:
        state = visit_keys(state, q, q_rows, k_tile, v_tile, mask, bias, first, last, rows_real,
                           start, tl.minimum(body_start, stop), len_k, scale, D, CHUNK, BLOCK_N, EDGE=True)
    state = visit_keys(state, q, q_rows, k_tile, v_tile, mask, bias, first, last, rows_real,
                       body_start, body_stop, len_k, scale, D, CHUNK, BLOCK_N, EDGE=False)
    m, l, acc = visit_keys(state, q, q_rows, k_tile, v_tile, mask, bias, first, last, rows_real,
                           tl.maximum(body_start, body_stop), stop, len_k, scale, D, CHUNK, BLOCK_N, EDGE=True)

    dv = tl.arange(0, BLOCK_DV)
    out = acc / tl.where(l == 0, 1.0, l)[:, None]
    out_ptr += (batch * n_heads + head) * len_q * DV
    tl.store(out_ptr + (rows[:, None] * DV + dv[None, :]), out.to(out_ptr.dtype.element_ty),
             mask=rows_real & (dv[None, :] < DV))
    lse_ptr += (batch * n_heads + head) * len_q
    tl.store(lse_ptr + rows, (m + tl.log2(l)) * LN2, mask=rows < len_q)


def check_qkv(q, k, v, k_name="k", v_name="v"):
    """q (B, Hq, Lq, D), k (B, Hkv, Lk, D), v (B, Hkv, Lk, Dv) fit together, and each head fits 32-bit offsets."""
    named = {"q": q, k_name: k, v_name: v}
    require_floats(**named)
    for name, x in named.items():
        require(x.ndim == 4, f"{name} must be (batch, heads, length, head dim), got shape {tuple(x.shape)}")
        if not 1 <= x.shape[3] <= 256:
            raise NotImplementedError(f"{name} has head dim {x.shape[3]}; supported are 1 to 256")
        require_offsets(name, x)
    for name, x in named.items():
        if x.shape[2] > MAX_LENGTH or x.shape[2] * max(x.shape[3], v.shape[3]) >= 2**31:
            raise NotImplementedError(f"{name} has length {x.shape[2]}; supported are 2**30 positions, and fewer than "
                                      "2**31 elements in a head of q, k, v, out and their gradients")
    require_grid({"the batch size of q": q.shape[0], "the number of heads of q": q.shape[1]})
    require(k.shape[:3] == v.shape[:3],
            f"{k_name} {tuple(k.shape)} and {v_name} {tuple(v.shape)} differ in batch, heads or length")
    require(q.shape[0] == k.shape[0], f"q has batch size {q.shape[0]}, {k_name} has {k.shape[0]}")
    require(q.shape[3] == k.shape[3], f"q has head dim {q.shape[3]}, {k_name} has {k.shape[3]}")
    require(k.shape[1] > 0 or q.shape[1] == 0, f"q has {q.shape[1]} heads, {k_name} has none")
    require(q.shape[1] % max(k.shape[1], 1) == 0,
            f"q has {q.shape[1]} heads, no multiple of the {k.shape[1]} of {k_name} and {v_name}")


def check_groups(q, k):
    """There are programs for every KV head of every batch entry; the queries of its heads are counted in 32 bits."""
    require_grid({"the batch size of k times its heads": k.shape[0] * k.shape[1]})
    group = q.shape[1] // max(k.shape[1], 1)
    if q.shape[2] * group > MAX_LENGTH:
        raise NotImplementedError(f"q has {group} heads of {q.shape[2]} queries to a KV head, together more than 2**30")


def check_scores(mask=None, bias=None, window=None, scale=None):
    """What is given besides q, k and v is of its type."""
    for name, x in (("mask", mask), ("bias", bias)):
        if x is not None:
            require_tensor(name, x)
    require(mask is None or mask.dtype == torch.bool, "mask must be bool (True = visible); use bias to add numbers")
    require(bias is None or bias.dtype in ARITHMETIC, "bias must be floating point; use mask for visibility")
    if window is not None:
        require_whole("window", window)
        require(window >= 1, f"window must be at least 1 (the current key), got {window}")
    if scale is not None:
        require_number("scale", scale)


def expand_scores(name, x, q, k):
    """A mask or bias, expanded without a copy to (B, Hq, Lq, Lk); None stays None."""
    if x is None:
        return None
    shape = (*q.shape[:3], k.shape[2])
    require_device(name, x, "q", q)
    require(x.ndim <= 4 and all(a in (1, b) for a, b in zip(x.shape[::-1], shape[::-1])),
            f"{name} of shape {tuple(x.shape)} does not expand to (B, Hq, Lq, Lk) = {shape}")
    x = x.expand(shape)
    require_offsets(name, x, last=1)
    return x


def chunk(x, width):
    """How many of the `width` columns of a tile of x enter a product at a time."""
    return CHUNK if width * x.element_size() > WIDEST else width


def block_sizes(len_q, q, v, masked=False):
    """Tile sizes and warps as keyword arguments of the launch.

    The interpreter pays per operation, so few large tiles are best there; but keys come in blocks of 32, so that
    lengths from 33 on still go through the rescaling of the online softmax (128 would save a third of the time at
    length 129, and hide it). On a GPU, tensor cores want tiles of 64 rows and more in half precision; what fits the
    registers beside them differs by target, and a mask or bias, read at addresses of its own, takes its share. The
    tiles are those that `tox -e compile` lets pass.
    """
    d, dv = (max(triton.next_power_of_2(x.shape[3]), 16) for x in (q, v))
    wide, half = max(d, dv), q.element_size() == 2
    if INTERPRETED:
        m, n, n_warps, n_stages = 64, 32, 4, 2
    elif target() == "gfx942" and half:
        m, n, n_warps, n_stages = 64, 64, 4, 1
    elif target() == "gfx942":
        m, n, n_warps, n_stages = (32, 32, 8, 1) if q.element_size() * wide <= 512 else (16, 16, 4, 1)
    elif not half:      # the widest rows that a float64 product takes whole need the most registers
        m, n, n_warps, n_stages = 16 if q.element_size() == 8 and wide == 128 else 32, 32, 8, 1
    elif wide > 128:
        m, n, n_warps, n_stages = 64, 32, 8 if target() == "sm_80" else 4, 2
    else:
        m, n, n_warps, n_stages = (64, 32, 8, 1) if masked or target() == "sm_80" else (128, 64, 8, 2)
    m = min(m, max(triton.next_power_of_2(len_q), 16))
    return dict(BLOCK_M=m, BLOCK_N=n, BLOCK_D=d, BLOCK_DV=dv, CHUNK=chunk(q, d),
                num_warps=4 if half and m < 64 else n_warps, num_stages=n_stages)


def attention(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
    """softmax(scale * q k^T + bias) v over the visible keys, and the log-sum-exp of the scores.

    q (B, Hq, Lq, D), k (B, Hkv, Lk, D), v (B, Hkv, Lk, Dv), any strides, head dims 1 to 256, Hq a multiple of Hkv:
    query head h reads KV head h // (Hq // Hkv). mask (bool, True = visible) and bias (added to the scaled scores)
    expand to (B, Hq, Lq, Lk). causal: query i sees keys j <= i + Lk - Lq; window: the current key and the window - 1
    before it. Returns out (B, Hq, Lq, Dv) in q's dtype and lse (B, Hq, Lq), float64 for float64 and else float32; a
    query that sees no key gives 0 and -inf. ValueError if the arguments do not fit together.
    """
    check_qkv(q, k, v)
    check_scores(mask, bias, window, scale)
    mask, bias = expand_scores("mask", mask, q, k), expand_scores("bias", bias, q, k)
    (batch, n_heads, len_q, dim), len_k = q.shape, k.shape[2]
    scale = dim ** -0.5 if scale is None else float(scale)

    out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:3], dtype=state_dtype(q), device=q.device)
    if lse.numel():
        blocks = block_sizes(len_q, q, v, masked=mask is not None or bias is not None)
        attention_kernel[(triton.cdiv(len_q, blocks["BLOCK_M"]), n_heads, batch)](
            q, k, v, mask, bias, out, lse, q.stride(), k.stride(), v.stride(),
            (0, 0, 0, 0) if mask is None else mask.stride(), (0, 0, 0, 0) if bias is None else bias.stride(),
            n_heads, n_heads // k.shape[1], len_q, len_k, min(window or 0, 2**30), scale * LOG2E.value,
            CAUSAL=bool(causal or window is not None), WINDOW=window is not None, D=dim, DV=v.shape[3],
            ACC=ARITHMETIC[q.dtype], **blocks)
    return out, lse
