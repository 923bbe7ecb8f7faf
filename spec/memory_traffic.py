"""Memory traffic, counted: what standard and flash attention load and store, to the byte, and when that is less.

N queries and N keys of head dim D, s bytes an element, blocks of M queries (BLOCK_M): per head, flash attention reads Q
once, K and V once per block of queries, and writes the output and one lse per query. Standard attention with the same
blocks moves exactly that, and four times the N x N matrix on top. Bytes are counted where the kernels ask for them;
what a cache in between spares is not considered, and nothing is timed.
"""

from math import ceil

import torch
from sympy import ceiling, limit, oo, symbols

from properties import Inputs, claim, costs, example, given, refuted, st

LENGTHS = st.sampled_from([1, 2, 16, 31, 32, 33, 63, 64, 65, 100, 128, 129, 200, 257])
HEAD_DIMS = st.sampled_from([1, 8, 16, 20, 64])
SHAPES = st.builds(
    lambda batch, heads, lq, lk, d, dv: plain_inputs(batch, *heads, lq, lk, d, dv), st.sampled_from([1, 1, 2]),
    st.sampled_from([(1, 1), (2, 1), (3, 3)]), LENGTHS, LENGTHS, HEAD_DIMS, HEAD_DIMS)
SWEEP = [16, 32, 48, 64, 96, 128, 160, 192, 256]
HALF_AND_SINGLE = ("float32", "bfloat16")
HEAD_DIM = 32       # of the sweep over N


def filled(*shape):
    """A tensor of small numbers that differ: how many bytes move does not depend on them."""
    return (torch.arange(torch.Size(shape).numel()) % 7 - 3).double().reshape(shape) / 4


def plain_inputs(batch, hq, hkv, lq, lk, d, dv):
    return Inputs(filled(batch, hq, lq, d), filled(batch, hkv, lk, d), filled(batch, hkv, lk, dv))


def sizes(impl):
    """(bytes of an element, bytes of an lse)."""
    s = getattr(torch, impl.dtype).itemsize
    return s, max(s, 4)


def heads_rows_keys(x):
    """(batch entries times query heads, queries, keys, head dim of queries and keys, of values)."""
    return x.q.shape[0] * x.q.shape[1], x.q.shape[2], x.k.shape[2], x.q.shape[3], x.v.shape[3]


def flash_bytes(n, d, block, s, lse):
    """Bytes that flash attention of one head moves: Q, K and V once per block, the output, lse."""
    return s * (n * d + ceil(n / block) * n * 2 * d + n * d) + lse * n


def standard_bytes(n, d, block, s, lse):
    """Bytes that standard attention of one head moves: products in the same blocks, S and P out and in."""
    scores = s * (n * d + ceil(n / block) * n * d + n * n)
    weights = s * (n * n + n * n) + lse * n
    output = s * (n * n + ceil(n / block) * n * d + n * d)
    return scores + weights + output


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
    dtypes=HALF_AND_SINGLE,
)
@given(x=SHAPES, causal=st.booleans())
def standard_attention_moves_two_matrices_twice(impl, x, causal):
    """Standard attention stores S and P, each with a number for every pair of query and key, and loads both again: a
    causal mask saves nothing of it."""
    moved = impl.traffic(impl.attention, *x, causal=causal, algorithm="standard")
    (s, lse), (heads, lq, lk, d, dv) = sizes(impl), heads_rows_keys(x)
    blocks = ceil(lq / moved.tile("BLOCK_M"))
    costs(moved.loaded, heads * s * (lq * d + 2 * lq * lk + blocks * lk * (d + dv)), what="bytes loaded")
    costs(moved.stored, heads * (s * (2 * lq * lk + lq * dv) + lse * lq), what="bytes stored")
    assert sorted(moved.intermediates.values()) == [heads * lq * lk] * 2, f"stored besides: {moved.intermediates}"


# --------------------------------------------------------------------------------------------------- flash attention

@claim(
    rows="001-126 003-019",
    formula=r"\text{loaded} = s \Bigl(N_q D + \Bigl\lceil \tfrac{N_q}{M} \Bigr\rceil N_k (D + D_v)\Bigr)",
    if_fails="queries are loaded again for every block of keys, or keys are loaded beyond the last",
    dtypes=HALF_AND_SINGLE,
)
@given(x=SHAPES)
def flash_reads_the_keys_once_per_block_of_queries(impl, x):
    """Flash attention loads every query once, and every key and value once for each block of queries: one pass is
    enough for a block, and the tile of queries alone decides how many passes there are."""
    moved = impl.traffic(impl.attention, *x, algorithm="flash")
    (s, _), (heads, lq, lk, d, dv) = sizes(impl), heads_rows_keys(x)
    blocks = ceil(lq / moved.tile("BLOCK_M"))
    costs(moved.loaded_by["q"], heads * s * lq * d, what="bytes of queries loaded")
    costs(moved.loaded_by["k"], heads * s * blocks * lk * d, what="bytes of keys loaded")
    costs(moved.loaded_by["v"], heads * s * blocks * lk * dv, what="bytes of values loaded")
    costs(moved.loaded, heads * s * (lq * d + blocks * lk * (d + dv)), what="bytes loaded")


@claim(
    rows="001-105 003-019",
    formula=r"\text{stored} = s N_q D_v + s_{\mathrm{lse}} N_q",
    if_fails="a matrix of scores or weights, or a state per block, passes through memory",
    dtypes=HALF_AND_SINGLE,
)
@given(x=SHAPES, causal=st.booleans())
def flash_stores_no_matrix(impl, x, causal):
    """Flash attention stores its output and one log-sum-exp per query, and nothing else: no matrix of scores."""
    moved = impl.traffic(impl.attention, *x, causal=causal, algorithm="flash")
    (s, lse), (heads, lq, _, _, dv) = sizes(impl), heads_rows_keys(x)
    costs(moved.stored, heads * (s * lq * dv + lse * lq), what="bytes stored")
    assert not moved.intermediates, f"stored besides: {moved.intermediates}"


@claim(
    rows="001-131 003-019",
    formula=r"\text{loaded} = s \Bigl(N_q D + \sum_i n_i (D + D_v)\Bigr),\qquad n_i = \text{keys in the blocks that "
            r"queries } iM \ldots iM + M - 1 \text{ see}",
    if_fails="blocks beyond the diagonal or before the window are loaded although no query of the block sees them",
    dtypes=HALF_AND_SINGLE,
)
@given(x=SHAPES, window=st.sampled_from([None, 1, 2, 17, 64, 100]))
def causal_flash_skips_the_blocks_that_nobody_sees(impl, x, window):
    """With a causal mask or a window, a block of queries loads only the blocks of keys in which it sees a key."""
    x = x.with_(causal=True, **({} if window is None else {"window": window}))
    moved = impl.traffic(impl.attention, *x, **x.options, algorithm="flash")
    (s, _), (heads, lq, _, d, dv) = sizes(impl), heads_rows_keys(x)
    visited = sum(keys_of_blocks(x, moved.tile("BLOCK_M"), moved.tile("BLOCK_N")))
    costs(moved.loaded, heads * s * (lq * d + visited * (d + dv)), what="bytes loaded")


@claim(
    rows="003-019 001-108 001-105",
    formula=r"\text{stored} = s (N_q D + N_k D + N_k D_v) + s_{\mathrm{lse}} N_q",
    if_fails="weights or their gradients are stored between the kernels, or gradients are accumulated in memory",
    dtypes=HALF_AND_SINGLE,
)
@given(x=st.builds(plain_inputs, st.just(1), st.just(1), st.just(1), st.sampled_from([1, 33, 65, 100]),
                   st.sampled_from([1, 31, 64, 100]), HEAD_DIMS, HEAD_DIMS))
def flash_backward_stores_no_matrix(impl, x):
    """The backward of flash attention stores the three gradients and one number per query: every weight is needed
    again, but tile by tile."""
    lse = filled(*x.q.shape[:3])
    out, dout = (filled(*x.q.shape[:3], x.v.shape[3]) for _ in range(2))
    moved = impl.traffic(impl.attention_backward, *x, out, lse, dout, algorithm="flash")
    (s, state), (heads, lq, lk, d, dv) = sizes(impl), heads_rows_keys(x)
    costs(moved.stored, heads * (s * (lq * d + lk * d + lk * dv) + state * lq), what="bytes stored")
    costs(sum(moved.intermediates.values()), heads * lq, what="elements of intermediates stored")


# ---------------------------------------------------------------------------------------------------- growth with N

def one_head(n, d=HEAD_DIM):
    return plain_inputs(1, 1, 1, n, n, d, d)


def at_every_length(test):
    """Pin all lengths of the sweep, so that the plot has them all."""
    for n in reversed(SWEEP):
        test = example(n=n)(test)
    return given(n=st.sampled_from(SWEEP))(test)


@claim(
    rows="003-019 001-127",
    formula=r"s \Bigl(4 N^2 + 2 N D + 2 \Bigl\lceil \tfrac{N}{M} \Bigr\rceil N D\Bigr) + s_{\mathrm{lse}} N"
            r" = \Theta(N^2)",
    if_fails="a matrix passes through memory more often than twice out and twice in",
    dtypes=HALF_AND_SINGLE,
)
@at_every_length
def standard_traffic_grows_with_the_matrix(impl, n):
    """Standard attention moves a number of bytes that grows with the square of N, four N x N matrices for a start."""
    moved = impl.traffic(impl.attention, *one_head(n), algorithm="standard")
    costs(moved.moved, standard_bytes(n, HEAD_DIM, moved.tile("BLOCK_M"), *sizes(impl)), at={"N": n},
          what="standard attention")


@standard_traffic_grows_with_the_matrix.proof(untied="a limit over N is no number of one example; the formula under it "
                                                     "is what the claim counts")
def _():
    """For N a multiple of M: bytes / N^2 tends to s (4 + 2 D / M)."""
    n, d, m, s, lse = symbols("N D M s s_lse", positive=True)
    total = s * (4 * n**2 + 2 * n * d + 2 * n / m * n * d) + lse * n
    return limit(total / n**2, n, oo), s * (4 + 2 * d / m)


@claim(
    rows="003-019 001-105",
    formula=r"s \Bigl(2 N D + 2 \Bigl\lceil \tfrac{N}{M} \Bigr\rceil N D\Bigr) + s_{\mathrm{lse}} N"
            r" = \Theta\Bigl(\frac{N^2 D}{M}\Bigr)",
    if_fails="keys or values are loaded more often than once per block of queries",
    dtypes=HALF_AND_SINGLE,
)
@at_every_length
def flash_traffic_grows_with_the_number_of_blocks(impl, n):
    """Flash attention too moves a number of bytes that grows with the square of N: 2 D / M of an N x N matrix, M being
    the queries of a block, in place of 4 + 2 D / M."""
    moved = impl.traffic(impl.attention, *one_head(n), algorithm="flash")
    costs(moved.moved, flash_bytes(n, HEAD_DIM, moved.tile("BLOCK_M"), *sizes(impl)), at={"N": n},
          what="flash attention")


@flash_traffic_grows_with_the_number_of_blocks.proof(untied="a limit over N is no number of one example; the formula "
                                                            "under it is what the claim counts")
def _():
    """For N a multiple of M: bytes / N^2 tends to 2 s D / M."""
    n, d, m, s, lse = symbols("N D M s s_lse", positive=True)
    total = s * (2 * n * d + 2 * n / m * n * d) + lse * n
    return limit(total / n**2, n, oo), 2 * s * d / m


@claim(
    rows="003-019",
    formula=r"\frac{4 N^2 D^2}{\mathcal M} \le 2 \frac{N}{M} N D \le \frac{10 N^2 D^2}{\mathcal M},\qquad "
            r"\mathcal M = 2 D (M + M_k) + M M_k,\quad M_k \le \min(M, D)",
    if_fails="keys and values are loaded more often than once per block of queries",
    dtypes=HALF_AND_SINGLE,
)
@given(blocks=st.integers(1, 3), d=st.sampled_from([32, 48, 64, 80]))
def flash_traffic_is_quadratic_over_on_chip_memory(impl, blocks, d):
    """Of keys and values, flash attention loads Theta(N^2 D^2 / M) elements, M being the elements that a program keeps
    on the chip: tiles of queries, accumulator, keys, values and scores. Twice the memory, half the traffic."""
    n = 64 * blocks
    moved = impl.traffic(impl.attention, *one_head(n, d), algorithm="flash")
    s, block_m, block_n = sizes(impl)[0], moved.tile("BLOCK_M"), moved.tile("BLOCK_N")
    elements = (moved.loaded_by["k"] + moved.loaded_by["v"]) // s
    on_chip = 2 * d * (block_m + block_n) + block_m * block_n
    costs(elements, 2 * ceil(n / block_m) * n * d, what="elements of keys and values loaded")
    if n % block_m == 0 and block_n <= min(block_m, d):
        scale = elements * on_chip / (n * n * d * d)
        assert 4 <= scale <= 10, f"{elements} elements are {scale:g} N^2 D^2 / M with {on_chip} on the chip"


@flash_traffic_is_quadratic_over_on_chip_memory.proof(untied="the tiles of the proof are the paper's, those of a kernel "
                                                             "its own: powers of two")
def _():
    """For N a multiple of m: with tiles of m queries and k keys the factor is 4 + 4 k / m + 2 k / D, which is 10 less two
    differences that are not negative; the paper's four equal tiles, m = M / 4 D, give 8."""
    n, d, m, k, memory = symbols("N D m k M", positive=True)
    loaded, unit = 2 * n / m * n * d, n**2 * d**2
    factor = 4 + 4 * k / m + 2 * k / d
    return [(loaded, factor * unit / (2 * d * (m + k) + m * k)),
            (factor, 10 - 4 * (m - k) / m - 2 * (d - k) / d),
            (loaded.subs(m, memory / (4 * d)), 8 * unit / memory)]


# ----------------------------------------------------------------------------------------- one against the other

LONG = st.sampled_from([1, 16, 64, 100, 256, 1000, 1024, 4096, 16384])
BLOCKS = st.sampled_from([16, 32, 64, 128])
ALL_HEAD_DIMS = st.sampled_from([16, 32, 64, 80, 128, 192, 256])


@claim(
    rows="003-019 001-105",
    formula=r"\text{bytes}_{\text{standard}} - \text{bytes}_{\text{flash}} = 4 s N^2,\qquad "
            r"\frac{\text{bytes}_{\text{standard}}}{\text{bytes}_{\text{flash}}} \to 1 + \frac{2 M}{D}",
    corrects="flash_never_moves_more",
)
@given(n=LONG, d=ALL_HEAD_DIMS, block=BLOCKS, s=st.sampled_from([2, 4]))
def standard_moves_four_matrices_more(n, d, block, s):
    """With products in the same blocks, standard attention moves the N x N matrix four times more than flash attention,
    and nothing else: for long N that is 1 + 2 M / D times as much, M being the queries of a block."""
    flash, standard = (count(n, d, block, s, 4) for count in (flash_bytes, standard_bytes))
    costs(standard - flash, 4 * s * n * n, what="bytes that standard attention moves more")


@standard_moves_four_matrices_more.proof(tie=lambda n, d, block, s: {"N": n, "D": d, "M": block, "s": s})
def _():
    """For every N, D, M and element size."""
    n, d, m, s, lse = symbols("N D M s l", positive=True)
    blocks = ceiling(n / m)
    flash = s * (2 * n * d + 2 * blocks * n * d) + lse * n
    standard = s * (4 * n**2 + 2 * n * d + 2 * blocks * n * d) + lse * n
    return standard - flash, 4 * s * n**2


def ideal_standard_bytes(n, d, s, lse):
    """Standard attention whose products read every operand once, however many blocks they are computed in."""
    return s * (4 * n * n + 4 * n * d) + lse * n


def block_exceeds_half_the_head_dim(d, block):
    """a block has more than D / 2 queries"""
    return 2 * block > d


@claim(
    rows="003-019",
    formula=r"2 M > D \implies s \Bigl(2 N D + 2 \Bigl\lceil \tfrac{N}{M} \Bigr\rceil N D\Bigr) + s_{\mathrm{lse}} N < "
            r"s (4 N^2 + 4 N D) + s_{\mathrm{lse}} N \quad (M \mid N)",
    needs=block_exceeds_half_the_head_dim,
    corrects="flash_never_moves_more",
)
@given(blocks=st.sampled_from([1, 2, 3, 8, 64]), d=ALL_HEAD_DIMS, block=BLOCKS)
def flash_moves_less_if_blocks_are_large(blocks, d, block):
    """Flash attention moves less than a standard attention whose products read every operand only once, if its blocks
    have more than D / 2 queries, that is if D^2 is small against the memory on the chip; else it can move more."""
    n = blocks * block
    flash, standard = flash_bytes(n, d, block, 2, 4), ideal_standard_bytes(n, d, 2, 4)
    assert flash < standard, f"flash attention moves {flash} bytes, standard attention {standard}"


@flash_moves_less_if_blocks_are_large.proof(untied="an inequality: the difference is shown, which the claim does not "
                                                   "compute")
def _():
    """For every N that M divides: the difference is a sum of terms that are positive for 2 M > D."""
    n, d, m, s, lse = symbols("N D M s s_lse", positive=True)
    flash = s * (2 * n * d + 2 * n / m * n * d) + lse * n
    ideal = s * (4 * n**2 + 4 * n * d) + lse * n
    return ideal - flash, s * (2 * n**2 * (2 * m - d) / m + 2 * n * d)


@refuted(
    rows="003-019",
    formula=r"\text{bytes}_{\text{flash}} < \text{bytes}_{\text{standard}} \quad\text{for all } N, D, M",
)
@example(n=1024, d=256, block=16)
@given(n=LONG, d=ALL_HEAD_DIMS, block=BLOCKS)
def flash_never_moves_more(n, d, block):
    """Computing in blocks always moves less memory, whatever the head dim and the block."""
    flash, standard = flash_bytes(n, d, block, 2, 4), ideal_standard_bytes(n, d, 2, 4)
    assert flash < standard, f"flash attention moves {flash} bytes, standard attention {standard}"


# ------------------------------------------------------------------------------------------- what it does not save

def padded(n, block):
    return ceil(n / block) * block


@claim(
    rows="003-019 000-033",
    formula=r"\text{multiply-adds} = \Bigl\lceil \tfrac{N_q}{M} \Bigr\rceil M \Bigl\lceil \tfrac{N_k}{M_k} "
            r"\Bigr\rceil M_k \, (\bar D + \bar D_v)",
    if_fails="tiles are computed twice, or left out",
    dtypes=("float32",),
    corrects="flash_multiplies_less",
)
@given(x=SHAPES)
def flash_multiplies_no_less(impl, x):
    """Standard and flash attention take the same number of multiply-adds, every tile of scores once: flash attention
    saves memory traffic, not arithmetic. Bars mean padded to the tile."""
    moved = impl.traffic(impl.attention, *x)
    heads, lq, lk, _, _ = heads_rows_keys(x)
    m, n, d, dv = (moved.tile(f"BLOCK_{name}") for name in ("M", "N", "D", "DV"))
    costs(moved.multiply_adds, heads * padded(lq, m) * padded(lk, n) * (d + dv), what="multiply-adds")


@refuted(
    rows="003-019",
    formula=r"\text{multiply-adds}_{\text{flash}} < N^2 (D + D_v)",
)
@given(n=st.integers(1, 300), d=ALL_HEAD_DIMS, block=BLOCKS)
def flash_multiplies_less(n, d, block):
    """Flash attention is faster because it computes less than the N^2 (D + D) multiply-adds of the two products."""
    counted = padded(n, block) * padded(n, block) * 2 * d
    assert counted < 2 * n * n * d, f"{counted} multiply-adds in tiles, {2 * n * n * d} in the two products"


@claim(
    rows="003-019 001-108",
    formula=r"\text{multiply-adds} = \bar N_q \bar N_k (4 \bar D + 3 \bar D_v) = \tfrac{7}{2}\, "
            r"\text{multiply-adds}_{\text{forward}} \quad (D = D_v)",
    if_fails="weights are recomputed more often than once per kernel",
    dtypes=("float32",),
)
@given(n=st.sampled_from([32, 64, 96]), d=st.sampled_from([16, 32]))
def flash_backward_recomputes_the_scores(impl, n, d):
    """The backward of flash attention multiplies more than that of standard attention, which has the weights: 7 products
    of matrices in our two kernels instead of 4, as both recompute S and dP."""
    x, lse, out = one_head(n, d), filled(1, 1, n), filled(1, 1, n, d)
    moved = impl.traffic(impl.attention_backward, *x, out, lse, out, algorithm="flash")
    block_m, block_n = moved.tile("BLOCK_M"), moved.tile("BLOCK_N")
    products = 4 * moved.tile("BLOCK_D") + 3 * moved.tile("BLOCK_DV")
    costs(moved.multiply_adds, padded(n, block_m) * padded(n, block_n) * products, what="multiply-adds")


# ------------------------------------------------------------------------------------------------- heads of a group

GROUPS = st.sampled_from([(1, 1), (2, 1), (4, 1), (6, 2), (4, 2), (3, 3)])


def key_elements(n_heads, n, d, block):
    """Elements of keys that attention loads: once for every query head and block of queries."""
    return n_heads * ceil(n / block) * n * d


@claim(
    rows="000-032 001-103",
    formula=r"\text{bytes of keys loaded} = s B H_q \Bigl\lceil \tfrac{N}{M} \Bigr\rceil N D",
    if_fails="the heads of a group share their loads after all: a better kernel than the claim says",
    dtypes=HALF_AND_SINGLE,
    corrects="fewer_key_value_heads_load_less",
)
@given(heads=GROUPS, n=st.sampled_from([16, 64, 65, 128]), d=st.sampled_from([16, 20]))
def attention_loads_the_keys_of_every_query_head(impl, heads, n, d):
    """Sharing keys among the heads of a group makes them smaller to keep, not cheaper to load: attention in blocks of
    queries of one head loads them once for every query head, however many heads hold them."""
    moved = impl.traffic(impl.attention, *plain_inputs(1, *heads, n, n, d, d))
    elements = key_elements(heads[0], n, d, moved.tile("BLOCK_M"))
    costs(moved.loaded_by["k"], sizes(impl)[0] * elements, what="bytes of keys loaded")


@refuted(
    rows="000-032",
    formula=r"\frac{\text{bytes of keys loaded}_G}{\text{bytes of keys loaded}_H} = \frac{G}{H}",
)
@given(heads=GROUPS, n=LONG, d=ALL_HEAD_DIMS, block=BLOCKS)
def fewer_key_value_heads_load_less(heads, n, d, block):
    """Grouping divides the bytes of keys that attention loads by the heads per group, as it divides the cache."""
    n_heads, n_kv_heads = heads
    loaded, divided = key_elements(n_heads, n, d, block), key_elements(n_kv_heads, n, d, block)
    assert loaded == divided, f"{n_heads} query heads load {loaded} elements, not {divided}"


@claim(
    rows="000-032 001-103 002-071",
    formula=r"\text{bytes of keys loaded} = s B H_{kv} N D \quad\text{for } \tfrac{H_q}{H_{kv}} N_q \le M",
    if_fails="every head of a group loads the keys for itself, or a split reads into the next one",
    dtypes=HALF_AND_SINGLE,
)
@given(heads=GROUPS, lq=st.sampled_from([1, 1, 2, 5]), lk=LENGTHS, d=st.sampled_from([8, 16]),
       n_splits=st.sampled_from([1, 2, 3, 4, 7]))
def flash_decoding_loads_each_key_once(impl, heads, lq, lk, d, n_splits):
    """Flash decoding loads every key and value once for all heads of its group, as these are the rows of one tile; for
    that it stores one state per split and query."""
    x = plain_inputs(1, *heads, lq, lk, d, d)
    moved = impl.traffic(impl.split_kv, *x, n_splits=n_splits)
    (s, state), (n_heads, n_kv_heads) = sizes(impl), heads
    for name in ("k", "v"):
        costs(moved.loaded_by[name], s * n_kv_heads * lk * d, what=f"bytes of {name} loaded")
    rows = n_heads * lq
    costs(moved.stored, state * n_splits * rows * (d + 2) + rows * (s * d + state), what="bytes stored")


@claim(
    rows="000-032 002-082 001-103",
    formula=r"\text{bytes of keys loaded} = s H_{kv} D \sum_b (\ell_b + T),\qquad \text{stored} = s H_{kv} B T D",
    if_fails="rows past the end of a sequence are loaded, or the cache is read once per query head",
    dtypes=HALF_AND_SINGLE,
)
@given(heads=GROUPS, lens=st.lists(st.integers(0, 90), min_size=1, max_size=3), new=st.sampled_from([1, 1, 2, 4]),
       spare=st.integers(0, 9), d=st.sampled_from([8, 16]))
def decoding_loads_what_the_cache_holds(impl, heads, lens, new, spare, d):
    """A decoding step loads the rows that each sequence has by then, once per key-value head, and nothing of the
    capacity behind them; it stores the new rows."""
    n_heads, n_kv_heads = heads
    batch, capacity, s = len(lens), max(lens) + new + spare, sizes(impl)[0]
    fresh, cache = (batch, n_kv_heads, new, d), (batch, n_kv_heads, capacity, d)
    moved = impl.traffic(impl.decode, filled(batch, n_heads, new, d), filled(*fresh), filled(*fresh), filled(*cache),
                         filled(*cache), torch.tensor(lens))
    held = sum(lens) + batch * new
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
    costs(moved.loaded, sizes(impl)[0] * n_rows * n, what="bytes loaded")
    costs(moved.stored, sizes(impl)[0] * n_rows * n, what="bytes stored")


@claim(
    rows="003-019 001-106",
    formula=r"\text{loaded} = s \, |\{\text{visible}\}| + R N,\qquad \text{stored} = s R N",
    if_fails="hidden scores are loaded, or the mask more than once",
    dtypes=HALF_AND_SINGLE,
)
@given(n_rows=ROWS, n=COLUMNS, every=st.integers(1, 5))
def masked_softmax_does_not_load_hidden_scores(impl, n_rows, n, every):
    """A fused masked softmax loads the visible scores and one byte of mask for each, and stores every weight once."""
    keep = (torch.arange(n_rows * n) % every == 0).reshape(n_rows, n)
    moved = impl.traffic(impl.masked_softmax, filled(n_rows, n), keep)
    s = sizes(impl)[0]
    costs(moved.loaded, s * int(keep.sum()) + n_rows * n, what="bytes loaded")
    costs(moved.stored, s * n_rows * n, what="bytes stored")


@claim(
    rows="004-026",
    formula=r"\text{loaded} = s \Bigl(R N + 2 \Bigl\lceil \tfrac{R}{R_{\text{tile}}} \Bigr\rceil N\Bigr),\qquad "
            r"\text{stored} = s R N",
    if_fails="the rows pass through memory once for the mean, the variance and the result each",
    dtypes=HALF_AND_SINGLE,
)
@given(n_rows=ROWS, n=COLUMNS)
def layer_norm_reads_once_and_writes_once(impl, n_rows, n):
    """A fused layer norm loads every row once, and weight and bias once per tile of rows; it stores every row once."""
    moved = impl.traffic(impl.layer_norm, filled(n_rows, n), filled(n), filled(n))
    s, tiles = sizes(impl)[0], ceil(n_rows / moved.tile("BLOCK_ROWS"))
    costs(moved.loaded, s * (n_rows * n + 2 * tiles * n), what="bytes loaded")
    costs(moved.stored, s * n_rows * n, what="bytes stored")
