"""Memory traffic, counted: what the kernels load and store, to the byte.

Bytes are counted where a kernel asks for them; what a cache in between spares is not considered, and nothing is timed.
s: bytes of an element; M: queries of a block (BLOCK_M). How it grows and compares: memory_traffic_growth.py.
"""

from math import ceil

import torch

from properties import claim, costs, filled, given, plain_inputs, refuted, st

LENGTHS = st.sampled_from([1, 2, 16, 31, 32, 33, 63, 64, 65, 100, 128, 129, 200, 257])
HEAD_DIMS = st.sampled_from([1, 8, 16, 20, 64])
SHAPES = st.builds(
    plain_inputs, batch=st.sampled_from([1, 1, 2]), heads=st.sampled_from([(1, 1), (2, 1), (3, 3)]), lq=LENGTHS,
    lk=LENGTHS, d=HEAD_DIMS, dv=HEAD_DIMS)
TWO_SIZES = ("float32", "bfloat16")


def counts(x):
    """(heads of all batch entries, queries, keys, head dim of queries and keys, of values)."""
    return x.q.shape[0] * x.q.shape[1], x.q.shape[2], x.k.shape[2], x.q.shape[3], x.v.shape[3]


def keys_of_blocks(x, block_m, block_n):
    """How many keys each block of queries loads: whole blocks from the first to the last that one of them sees."""
    lq, lk = x.q.shape[2], x.k.shape[2]
    window, counts = x.options.get("window"), []
    for start in range(0, lq, block_m):
        seen_to = lk
        if x.options.get("causal") or window is not None:
            seen_to = min(max(start + block_m + lk - lq, 0), lk)
        seen_from = 0 if window is None else max(start + lk - lq - window + 1, 0) // block_n * block_n
        counts.append(max(min(ceil(seen_to / block_n) * block_n, lk) - seen_from, 0) if seen_to > seen_from else 0)
    return counts


# ------------------------------------------------------------------------------------------------ standard attention

@claim(
    rows="001-127 003-019",
    formula=r"\text{loaded} = s \Bigl(N_q D + 2 N_q N_k + \Bigl\lceil \tfrac{N_q}{M} \Bigr\rceil N_k (D + D_v)\Bigr),"
            r"\qquad \text{stored} = s (2 N_q N_k + N_q D_v) + s_{\mathrm{lse}} N_q",
    if_fails="a product reads an operand more often than once per block of queries, or the matrix passes through "
             "memory between more than three kernels",
    dtypes=TWO_SIZES,
)
@given(x=SHAPES, causal=st.booleans())
def standard_attention_moves_two_matrices_twice(impl, x, causal):
    """Standard attention stores S and P, each with a number for every pair of query and key, and loads both again: a
    causal mask saves nothing of it."""
    moved = impl.traffic(impl.attention, *x, causal=causal, algorithm="standard")
    s, lse, (heads, lq, lk, d, dv) = moved.itemsize, moved.state_itemsize, counts(x)
    blocks = ceil(lq / moved.tile("BLOCK_M"))
    costs(moved.loaded, heads * s * (lq * d + 2 * lq * lk + blocks * lk * (d + dv)), what="bytes loaded")
    costs(moved.stored, heads * (s * (2 * lq * lk + lq * dv) + lse * lq), what="bytes stored")
    assert sorted(moved.intermediates.values()) == [heads * lq * lk] * 2, f"stored besides: {moved.intermediates}"


# --------------------------------------------------------------------------------------------------- flash attention

@claim(
    rows="001-126 003-019",
    formula=r"\text{loaded} = s \Bigl(N_q D + \Bigl\lceil \tfrac{N_q}{M} \Bigr\rceil N_k (D + D_v)\Bigr)",
    if_fails="queries are loaded again for every block of keys, or keys are loaded beyond the last",
    dtypes=TWO_SIZES,
)
@given(x=SHAPES)
def flash_reads_the_keys_once_per_block_of_queries(impl, x):
    """Flash attention loads every query once, and every key and value once for each block of queries: one pass is
    enough for a block, and the tile of queries alone decides how many passes there are."""
    moved = impl.traffic(impl.attention, *x, algorithm="flash")
    s, (heads, lq, lk, d, dv) = moved.itemsize, counts(x)
    blocks = ceil(lq / moved.tile("BLOCK_M"))
    costs(moved.loaded_by["q"], heads * s * lq * d, what="bytes of queries loaded")
    costs(moved.loaded_by["k"], heads * s * blocks * lk * d, what="bytes of keys loaded")
    costs(moved.loaded_by["v"], heads * s * blocks * lk * dv, what="bytes of values loaded")
    costs(moved.loaded, heads * s * (lq * d + blocks * lk * (d + dv)), what="bytes loaded")


@claim(
    rows="001-105 003-019",
    formula=r"\text{stored} = s N_q D_v + s_{\mathrm{lse}} N_q",
    if_fails="a matrix of scores or weights, or a state per block, passes through memory",
    dtypes=TWO_SIZES,
)
@given(x=SHAPES, causal=st.booleans())
def flash_stores_no_matrix(impl, x, causal):
    """Flash attention stores its output and one log-sum-exp per query, and nothing else: no matrix of scores."""
    moved = impl.traffic(impl.attention, *x, causal=causal, algorithm="flash")
    s, lse, (heads, lq, _, _, dv) = moved.itemsize, moved.state_itemsize, counts(x)
    costs(moved.stored, heads * (s * lq * dv + lse * lq), what="bytes stored")
    assert not moved.intermediates, f"stored besides: {moved.intermediates}"


@claim(
    rows="001-131 003-019",
    formula=r"\text{loaded} = s \Bigl(N_q D + \sum_i n_i (D + D_v)\Bigr),\qquad n_i = \text{keys in the blocks that "
            r"queries } iM \ldots iM + M - 1 \text{ see}",
    if_fails="blocks beyond the diagonal or before the window are loaded although no query of the block sees them",
    dtypes=TWO_SIZES,
)
@given(x=SHAPES, window=st.sampled_from([None, 1, 2, 17, 64, 100]))
def causal_flash_skips_the_blocks_that_nobody_sees(impl, x, window):
    """With a causal mask or a window, a block of queries loads only the blocks of keys in which it sees a key."""
    x = x.with_(causal=True, **({} if window is None else {"window": window}))
    moved = impl.traffic(impl.attention, *x, **x.options, algorithm="flash")
    s, (heads, lq, _, d, dv) = moved.itemsize, counts(x)
    visited = sum(keys_of_blocks(x, moved.tile("BLOCK_M"), moved.tile("BLOCK_N")))
    costs(moved.loaded, heads * s * (lq * d + visited * (d + dv)), what="bytes loaded")


@claim(
    rows="003-019 001-108 001-105",
    formula=r"\text{stored} = s (N_q D + N_k D + N_k D_v) + s_{\mathrm{lse}} N_q",
    if_fails="weights or their gradients are stored between the kernels, or gradients are accumulated in memory",
    dtypes=TWO_SIZES,
)
@given(x=st.builds(plain_inputs, lq=st.sampled_from([1, 33, 65, 100]), lk=st.sampled_from([1, 31, 64, 100]),
                   d=HEAD_DIMS, dv=HEAD_DIMS))
def flash_backward_stores_no_matrix(impl, x):
    """The backward of flash attention stores the three gradients and one number per query: every weight is needed
    again, but tile by tile."""
    dout = filled(*x.q.shape[:3], x.v.shape[3])
    moved = impl.traffic(impl.attention_backward, *x, *x.forward(), dout, algorithm="flash")
    s, state, (heads, lq, lk, d, dv) = moved.itemsize, moved.state_itemsize, counts(x)
    costs(moved.stored, heads * (s * (lq * d + lk * d + lk * dv) + state * lq), what="bytes stored")
    costs(sum(moved.intermediates.values()), heads * lq, what="elements of intermediates stored")


# ------------------------------------------------------------------------------------------------- heads of a group

GROUPS = st.sampled_from([(1, 1), (2, 1), (4, 1), (6, 2), (4, 2), (3, 3)])


def key_elements(n_heads, n, d, block):
    """Elements of keys that attention loads: once for every query head and block of queries."""
    return n_heads * ceil(n / block) * n * d


@claim(
    rows="000-032 001-103",
    formula=r"\text{bytes of keys loaded} = s B H_q \Bigl\lceil \tfrac{N}{M} \Bigr\rceil N D",
    if_fails="the heads of a group share their loads after all: a better kernel than the claim says",
    dtypes=TWO_SIZES,
    corrects="fewer_key_value_heads_load_less",
)
@given(heads=GROUPS, n=st.sampled_from([16, 64, 65, 128]), d=st.sampled_from([16, 20]))
def attention_loads_the_keys_of_every_query_head(impl, heads, n, d):
    """Sharing keys among the heads of a group makes them smaller to keep, not cheaper to load: attention in blocks of
    queries of one head loads them once for every query head, however many heads hold them."""
    moved = impl.traffic(impl.attention, *plain_inputs(heads=heads, lq=n, lk=n, d=d, dv=d))
    elements = key_elements(heads[0], n, d, moved.tile("BLOCK_M"))
    costs(moved.loaded_by["k"], moved.itemsize * elements, what="bytes of keys loaded")


@refuted(
    rows="000-032",
    formula=r"\frac{\text{bytes of keys loaded}_G}{\text{bytes of keys loaded}_H} = \frac{G}{H}",
)
@given(heads=GROUPS, n=LENGTHS, d=HEAD_DIMS, block=st.sampled_from([16, 64, 128]))
def fewer_key_value_heads_load_less(heads, n, d, block):
    """Grouping divides the bytes of keys that attention loads by the heads per group, as it divides the cache."""
    n_heads, n_kv_heads = heads
    loaded, divided = key_elements(n_heads, n, d, block), key_elements(n_kv_heads, n, d, block)
    assert loaded == divided, f"{n_heads} query heads load {loaded} elements, not {divided}"


@claim(
    rows="000-032 001-103 002-071",
    formula=r"\text{bytes of keys loaded} = s B H_{kv} N D \quad\text{for } \tfrac{H_q}{H_{kv}} N_q \le M",
    if_fails="every head of a group loads the keys for itself, or a split reads into the next one",
    dtypes=TWO_SIZES,
)
@given(heads=GROUPS, lq=st.sampled_from([1, 1, 2, 5]), lk=LENGTHS, d=st.sampled_from([8, 16]),
       n_splits=st.sampled_from([1, 2, 3, 4, 7]))
def flash_decoding_loads_each_key_once(impl, heads, lq, lk, d, n_splits):
    """Flash decoding loads every key and value once for all heads of its group, as these are the rows of one tile; for
    that it stores one state per split and query."""
    x = plain_inputs(heads=heads, lq=lq, lk=lk, d=d, dv=d)
    moved = impl.traffic(impl.split_kv, *x, n_splits=n_splits)
    s, state, (n_heads, n_kv_heads) = moved.itemsize, moved.state_itemsize, heads
    for name in ("k", "v"):
        costs(moved.loaded_by[name], s * n_kv_heads * lk * d, what=f"bytes of {name} loaded")
    rows = n_heads * lq
    costs(moved.stored, state * n_splits * rows * (d + 2) + rows * (s * d + state), what="bytes stored")


@claim(
    rows="000-032 002-082 001-103",
    formula=r"\text{bytes of keys loaded} = s H_{kv} D \sum_b (\ell_b + T),\qquad \text{stored} = s H_{kv} B T D",
    if_fails="rows past the end of a sequence are loaded, or the cache is read once per query head",
    dtypes=TWO_SIZES,
)
@given(heads=GROUPS, lens=st.lists(st.integers(0, 90), min_size=1, max_size=3), new=st.sampled_from([1, 1, 2, 4]),
       spare=st.integers(0, 9), d=st.sampled_from([8, 16]))
def decoding_loads_what_the_cache_holds(impl, heads, lens, new, spare, d):
    """A decoding step loads the rows that each sequence has by then, once per key-value head, and nothing of the
    capacity behind them; it stores the new rows."""
    n_heads, n_kv_heads = heads
    batch, capacity = len(lens), max(lens) + new + spare
    fresh, cache = (batch, n_kv_heads, new, d), (batch, n_kv_heads, capacity, d)
    moved = impl.traffic(impl.decode, filled(batch, n_heads, new, d), filled(*fresh), filled(*fresh), filled(*cache),
                         filled(*cache), torch.tensor(lens))
    s, held = moved.itemsize, sum(lens) + batch * new
    for name in ("k_cache", "v_cache"):
        costs(moved.loaded_by[name], s * n_kv_heads * held * d, what=f"bytes of {name} loaded")
        costs(moved.stored_by[name], s * n_kv_heads * batch * new * d, what=f"bytes of {name} stored")


# ------------------------------------------------------------------------------------------------ rows in one pass

ROWS, COLUMNS = st.sampled_from([1, 2, 7, 33]), st.sampled_from([1, 3, 16, 65, 300])


@claim(
    rows="003-019 001-106",
    formula=r"\text{loaded} = \text{stored} = s R N",
    if_fails="the matrix passes through memory between the maximum, the sum and the quotient",
)
@given(n_rows=ROWS, n=COLUMNS)
def softmax_reads_once_and_writes_once(impl, n_rows, n):
    """A fused softmax loads every score once and stores every weight once."""
    moved = impl.traffic(impl.softmax, filled(n_rows, n))
    costs(moved.loaded, moved.itemsize * n_rows * n, what="bytes loaded")
    costs(moved.stored, moved.itemsize * n_rows * n, what="bytes stored")


@claim(
    rows="003-019 001-106",
    formula=r"\text{loaded} = s \, |\{\text{visible}\}| + R N,\qquad \text{stored} = s R N",
    if_fails="hidden scores are loaded, or the mask more than once",
    dtypes=TWO_SIZES,
)
@given(n_rows=ROWS, n=COLUMNS, every=st.integers(1, 5))
def masked_softmax_does_not_load_hidden_scores(impl, n_rows, n, every):
    """A fused masked softmax loads the visible scores and one byte of mask for each, and stores every weight once."""
    keep = (torch.arange(n_rows * n) % every == 0).reshape(n_rows, n)
    moved = impl.traffic(impl.masked_softmax, filled(n_rows, n), keep)
    s = moved.itemsize
    costs(moved.loaded, s * int(keep.sum()) + n_rows * n, what="bytes loaded")
    costs(moved.stored, s * n_rows * n, what="bytes stored")


@claim(
    rows="004-026",
    formula=r"\text{loaded} = s \Bigl(R N + 2 \Bigl\lceil \tfrac{R}{R_{\text{tile}}} \Bigr\rceil N\Bigr),\qquad "
            r"\text{stored} = s R N",
    if_fails="the rows pass through memory once for the mean, the variance and the result each",
    dtypes=TWO_SIZES,
)
@given(n_rows=ROWS, n=COLUMNS)
def layer_norm_reads_once_and_writes_once(impl, n_rows, n):
    """A fused layer norm loads every row once, and weight and bias once per tile of rows; it stores every row once."""
    moved = impl.traffic(impl.layer_norm, filled(n_rows, n), filled(n), filled(n))
    s, tiles = moved.itemsize, ceil(n_rows / moved.tile("BLOCK_ROWS"))
    costs(moved.loaded, s * (n_rows * n + 2 * tiles * n), what="bytes loaded")
    costs(moved.stored, s * n_rows * n, what="bytes stored")
