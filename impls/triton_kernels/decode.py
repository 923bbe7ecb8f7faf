"""A decoding step: new keys and values go into the cache, and the new queries attend to what it holds by then.

Two launches: what one program writes into the cache, others read, and only the end of a kernel orders the two. A
sequence has its own length, so the keys that a program visits end at lens[b] + T; nothing past that row is read,
whatever an earlier sequence may have left there. The query heads that share a KV head are the rows of one tile, as in
`split_kv.py`.
"""

import torch
import triton
import triton.language as tl

from .attention import block_sizes, check_groups, check_qkv, check_scores, empty_state, first_tile, visit_keys
from .common import ARITHMETIC, LOG2E, as_numbers, require, require_floats


@triton.jit
def append_kernel(new_ptr, cache_ptr, lens_ptr, new_strides, cache_strides, n_kv_heads, n_new,
                  WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    """Program (block of new rows, batch entry and KV head): row t goes to row lens[b] + t of the cache."""
    batch, kv_head = (tl.program_id(1) // n_kv_heads).to(tl.int64), (tl.program_id(1) % n_kv_heads).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None].to(tl.int64)
    columns = tl.arange(0, BLOCK_WIDTH)[None, :].to(tl.int64)
    here = (rows < n_new) & (columns < WIDTH)
    new_ptr += batch * new_strides[0] + kv_head * new_strides[1]
    cache_ptr += batch * cache_strides[0] + kv_head * cache_strides[1]
    x = tl.load(new_ptr + rows * new_strides[2] + columns * new_strides[3], mask=here)
    cache_rows = rows + tl.load(lens_ptr + batch)
    tl.store(cache_ptr + cache_rows * cache_strides[2] + columns * cache_strides[3], x, mask=here)


@triton.jit
def decode_kernel(
    q_ptr, k_ptr, v_ptr, lens_ptr, out_ptr, q_strides, k_strides, v_strides, n_kv_heads, group, n_new,
    scale_log2: tl.float64, D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
):
    """Program (block of rows, batch entry and KV head); row r is new query r % n_new of the group's head r // n_new."""
    batch, kv_head = (tl.program_id(1) // n_kv_heads).to(tl.int64), (tl.program_id(1) % n_kv_heads).to(tl.int64)
    rows, d = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    heads, queries = kv_head * group + rows // n_new, rows % n_new
    real = (rows < group * n_new)[:, None]
    q_rows = (q_ptr + batch * q_strides[0] + heads * q_strides[1] + queries * q_strides[2])[:, None]
    q = tl.load(q_rows + d[None, :] * q_strides[3], mask=real & (d[None, :] < D), other=0.0)
    q_rows = q_rows, real, q_strides[3]
    k_tile = first_tile(k_ptr + batch * k_strides[0] + kv_head * k_strides[1], k_strides[2:], D, BLOCK_N, BLOCK_D)
    v_tile = first_tile(v_ptr + batch * v_strides[0] + kv_head * v_strides[1], v_strides[2:], DV, BLOCK_N, BLOCK_DV)

    held = tl.load(lens_ptr + batch).to(tl.int32)
    last, stop = held + queries[:, None], held + n_new      # new query t sees the keys up to its own, row held + t
    body_stop = (held + 1) // BLOCK_N * BLOCK_N
    state = empty_state(BLOCK_M, BLOCK_DV, ACC)
    state = visit_keys(state, q, q_rows, k_tile, v_tile, None, None, 0, last, real,
                       0, body_stop, stop, scale_log2.to(ACC), D, CHUNK, BLOCK_N, EDGE=False)
    m, l, acc = visit_keys(state, q, q_rows, k_tile, v_tile, None, None, 0, last, real,
                           body_stop, stop, stop, scale_log2.to(ACC), D, CHUNK, BLOCK_N, EDGE=True)
    out_rows = (batch * n_kv_heads + kv_head) * group * n_new + rows
    dv = tl.arange(0, BLOCK_DV)[None, :]
    out = acc / l[:, None]
    tl.store(out_ptr + out_rows[:, None] * DV + dv, out.to(out_ptr.dtype.element_ty), mask=real & (dv < DV))


def decode(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """Attention of T new tokens with a KV cache, which they are written into, in place.

    q (B, Hq, T, D); k_new (B, Hkv, T, D), v_new (B, Hkv, T, Dv); caches (B, Hkv, capacity, D or Dv); lens (B,)
    integers, the rows that each sequence already has. New row t sees the rows 0 .. lens[b] + t of its sequence.
    Returns out (B, Hq, T, Dv). ValueError if the arguments do not fit together or a cache is too short; then nothing
    is written.
    """
    check_qkv(q, k_new, v_new, "k_new", "v_new")
    require_floats(q=q, k_cache=k_cache, v_cache=v_cache)
    (batch, n_heads, n_new, dim), (_, n_kv_heads, _, dim_v) = q.shape, v_new.shape
    require(k_new.shape[2] == n_new, f"q has {n_new} new rows, k_new has {k_new.shape[2]}")
    for name, cache, new_name, new in (("k_cache", k_cache, "k_new", k_new), ("v_cache", v_cache, "v_new", v_new)):
        require(cache.ndim == 4 and cache.shape[:2] == new.shape[:2] and cache.shape[3] == new.shape[3],
                f"{name} of shape {tuple(cache.shape)} does not fit {new_name} of shape {tuple(new.shape)}")
    check_qkv(q, k_cache, v_cache, "k_cache", "v_cache")
    check_groups(q, k_cache)
    check_scores(scale=scale)
    lens = as_numbers("lens", lens, q)
    require(lens.shape == (batch,) and not lens.is_floating_point(), f"lens must be {batch} integers, got {lens}")
    capacity, longest = k_cache.shape[2], int(lens.max()) if batch else 0
    require(not batch or int(lens.min()) >= 0, f"lens must not be negative, got {lens.tolist()}")
    require(longest + n_new <= capacity,
            f"{n_new} new rows after the longest of lens, {longest}, exceed the cache's capacity, {capacity}")
    scale = dim ** -0.5 if scale is None else float(scale)

    out = torch.empty(*q.shape[:3], dim_v, dtype=q.dtype, device=q.device)
    if out.numel():
        lens, block = lens.to(torch.int64).contiguous(), min(triton.next_power_of_2(n_new), 64)
        for new, cache in ((k_new, k_cache), (v_new, v_cache)):
            append_kernel[(triton.cdiv(n_new, block), batch * n_kv_heads)](
                new, cache, lens, new.stride(), cache.stride(), n_kv_heads, n_new, WIDTH=new.shape[3], BLOCK_ROWS=block,
                BLOCK_WIDTH=triton.next_power_of_2(new.shape[3]))
        group = n_heads // n_kv_heads
        blocks = block_sizes(group * n_new, q, v_new)
        decode_kernel[(triton.cdiv(group * n_new, blocks["BLOCK_M"]), batch * n_kv_heads)](
            q, k_cache, v_cache, lens, out, q.stride(), k_cache.stride(), v_cache.stride(), n_kv_heads, group, n_new,
            scale * LOG2E.value, D=dim, DV=dim_v, ACC=ARITHMETIC[q.dtype], **blocks)
    return out
