"""Wrong decoding: what is written into the cache and what is read from it."""
import torch

from impls.naive import _check, _check_qkv, _wide
from impls.naive import attention as _attention
from impls.naive import decode as _right

PAGE = 16


def _appended(q, k_new, v_new, k_cache, v_cache, lens, *, at=lambda n, t, capacity: slice(n, n + t)):
    """Check the arguments, write the new rows to rows `at(length, T, capacity)`, and return lens as a list."""
    _check_qkv(q, k_new, v_new)
    lens, t, capacity = [int(n) for n in lens], q.shape[2], min(k_cache.shape[2], v_cache.shape[2])
    _check(all(0 <= n <= capacity - t for n in lens), f"lens = {lens} and {t} new rows exceed {capacity} rows of cache")
    for b, n in enumerate(lens):
        k_cache[b, :, at(n, t, capacity)], v_cache[b, :, at(n, t, capacity)] = k_new[b], v_new[b]
    return lens


def _read(q, k_cache, v_cache, lens, scale, *, rows=lambda n, t, capacity: range(n + t), batch=lambda b: b,
          visible=lambda row, position: row <= position, head=None):
    """Attention over the rows `rows(length, T, capacity)` of the cache of sequence `batch(b)`."""
    t, capacity = q.shape[2], k_cache.shape[2]
    out = q.new_zeros(*q.shape[:3], v_cache.shape[3])
    for b, n in enumerate(lens):
        row = torch.tensor(list(rows(n, t, capacity)), dtype=torch.long)
        keep = visible(row, n + torch.arange(t)[:, None])
        k, v = (x[batch(b), :, row][None] for x in (k_cache, v_cache))
        if head is not None:
            index = [head(h, q.shape[1], k.shape[1]) for h in range(q.shape[1])]
            k, v = k[:, index], v[:, index]
        out[b] = _attention(q[b:b + 1], k, v, mask=keep, scale=scale)[0][0]
    return out


# --------------------------------------------------------------------------------------------------------- what is read

def length_of_the_first_sequence(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """Rows are written at the length of each sequence, and read up to the length of the first one.

    Shipped: nanochat#485.
    Family: cache.
    """
    lens = _appended(q, k_new, v_new, k_cache, v_cache, lens)
    return _read(q, k_cache, v_cache, lens[:1] * len(lens), scale)


def cache_of_the_first_sequence(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """The address of a row of the cache has no batch term when it is read.

    Notes: 003, section KV cache.
    Family: cache.
    """
    lens = _appended(q, k_new, v_new, k_cache, v_cache, lens)
    return _read(q, k_cache, v_cache, lens, scale, batch=lambda b: 0)


def chunk_not_causal(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """All new rows see all rows of the cache: right for one row at a time, not for a chunk of several.

    Shipped: nanochat#456, flash-attention#1402.
    Family: cache.
    """
    lens = _appended(q, k_new, v_new, k_cache, v_cache, lens)
    return _read(q, k_cache, v_cache, lens, scale, visible=lambda row, position: row < row.numel() + 0 * position)


def attends_before_it_appends(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """The cache is read before the new rows are in it, so that no token sees itself or the chunk.

    Notes: 002, section 6.3.
    Family: cache.
    """
    before = k_cache.clone(), v_cache.clone()
    lens = _appended(q, k_new, v_new, k_cache, v_cache, lens)
    return _read(q, *before, lens, scale, rows=lambda n, t, capacity: range(n))


def prefix_before_the_chunk_skipped(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """The loop over pages starts at the page of the first new row, as it does where there is no cache.

    Shipped: gpt-oss#196.
    Family: cache.
    """
    lens = _appended(q, k_new, v_new, k_cache, v_cache, lens)
    return _read(q, k_cache, v_cache, lens, scale, rows=lambda n, t, capacity: range(n // PAGE * PAGE, n + t))


def whole_pages_are_read(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """The last page is read to its end: what an earlier sequence left behind the length gets weight.

    Shipped: tt-metal#41215.
    Family: cache.
    """
    lens = _appended(q, k_new, v_new, k_cache, v_cache, lens)
    end = lambda n, t, capacity: min(-(-(n + t) // PAGE) * PAGE, capacity)
    return _read(q, k_cache, v_cache, lens, scale, rows=lambda *sizes: range(end(*sizes)),
                 visible=lambda row, position: (row <= position) | (row > position[-1]))


def next_page_at_a_boundary(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """The next page is allocated as soon as the last one is full, and its first row is read along.

    Shipped: pegainfer#291.
    Family: cache.
    """
    lens = _appended(q, k_new, v_new, k_cache, v_cache, lens)
    more = lambda n, t, capacity: (n + t) % PAGE == 0 and n + t < capacity
    return _read(q, k_cache, v_cache, lens, scale, rows=lambda n, t, capacity: range(n + t + more(n, t, capacity)),
                 visible=lambda row, position: (row <= position) | (row > position[-1]))


def weight_zero_for_unwritten_slots(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """All slots of the cache are read and those past the length get weight 0: 0 times a stale NaN is NaN.

    Shipped: vllm#47305, flash-attention#1395, sglang#15757.
    Family: cache.
    """
    lens = _appended(q, k_new, v_new, k_cache, v_cache, lens)
    out = _read(q, k_cache, v_cache, lens, scale)
    for b, n in enumerate(lens):
        unused = 0.0 * _wide(v_cache[b, :, n + q.shape[2]:]).sum(1, keepdim=True)
        out[b] += unused.repeat_interleave(q.shape[1] // v_cache.shape[1], dim=0).to(out.dtype)
    return out


def kv_head_divided_by_their_number(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """Query head h reads head h // Hkv of the cache instead of h // (Hq // Hkv): the same for 4 and 2 heads.

    Shipped: ONNXim#33, ONNXim#34.
    Family: head mapping.
    """
    lens = _appended(q, k_new, v_new, k_cache, v_cache, lens)
    return _read(q, k_cache, v_cache, lens, scale,
                 head=lambda h, hq, hkv: h if hq == hkv else min(h // hkv, hkv - 1))


# ------------------------------------------------------------------------------------------------------ what is written

def ring_wraps_one_row_early(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """The cache is a ring whose last row is never used: where it becomes full, the first row is overwritten.

    Shipped: transformers#37574, transformers#47708, ollama#14912.
    Family: cache.
    """
    def at(n, t, capacity):
        return [row % max(capacity - 1, 1) for row in range(n, n + t)]

    lens = _appended(q, k_new, v_new, k_cache, v_cache, lens, at=at)
    return _read(q, k_cache, v_cache, lens, scale)


def start_clamped_where_it_does_not_fit(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """Rows that do not fit are written over the last ones of the cache, without a word.

    Notes: none; a dynamic update slice clamps its start.
    Family: cache.
    """
    capacity = min(k_cache.shape[2], v_cache.shape[2])
    return _right(q, k_new, v_new, k_cache, v_cache, [min(int(n), capacity - q.shape[2]) for n in lens], scale)


def unused_slots_cleared(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """The slots behind the new rows are set to 0, also those that another request may have prefilled already.

    Notes: 003, section KV cache.
    Family: cache.
    """
    out = _right(q, k_new, v_new, k_cache, v_cache, lens, scale)
    for b, n in enumerate(int(n) for n in lens):
        k_cache[b, :, n + q.shape[2]:], v_cache[b, :, n + q.shape[2]:] = 0.0, 0.0
    return out


def callers_lengths_advanced(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    """The lengths are advanced in place after every call, and the caller, who counts too, counts twice.

    Shipped: mlx-lm#1805, mlx-lm#1806.
    Family: cache.
    """
    out = _right(q, k_new, v_new, k_cache, v_cache, lens, scale)
    if isinstance(lens, torch.Tensor):
        lens += q.shape[2]
    return out
