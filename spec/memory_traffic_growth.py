"""How memory traffic grows with N, what flash attention saves of it and under which condition, and what it does not.

N queries and N keys of head dim D, s bytes an element, blocks of M queries (BLOCK_M). Per head, flash attention reads Q
once, K and V once per block of queries, and writes the output and one lse per query; standard attention with the same
blocks moves exactly that and four times the N x N matrix. The formulas that are compared are those that are counted.
"""

from math import ceil

from sympy import ceiling, limit, oo, symbols

from properties import claim, costs, example, filled, given, plain_inputs, refuted, st

SWEEP = [16, 32, 48, 64, 96, 128, 160, 192, 256]
HEAD_DIM = 32       # of the sweep
TWO_SIZES = ("float32", "bfloat16")


def one_head(n, d=HEAD_DIM):
    """Inputs of one head with n queries and n keys."""
    return plain_inputs(lq=n, lk=n, d=d, dv=d)


def flash_bytes(n, d, block, s, lse):
    """Bytes that flash attention of one head moves: Q, K and V once per block, the output, lse."""
    return s * (n * d + ceil(n / block) * n * 2 * d + n * d) + lse * n


def standard_bytes(n, d, block, s, lse):
    """Bytes that standard attention of one head moves: products in the same blocks, S and P out and in."""
    scores = s * (n * d + ceil(n / block) * n * d + n * n)
    weights = s * (n * n + n * n) + lse * n
    output = s * (n * n + ceil(n / block) * n * d + n * d)
    return scores + weights + output


# ---------------------------------------------------------------------------------------------------- growth with N

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
    dtypes=TWO_SIZES,
)
@at_every_length
def standard_traffic_grows_with_the_matrix(impl, n):
    """Standard attention moves a number of bytes that grows with the square of N, four N x N matrices for a start."""
    moved = impl.traffic(impl.attention, *one_head(n), algorithm="standard")
    expected = standard_bytes(n, HEAD_DIM, moved.tile("BLOCK_M"), moved.itemsize, moved.state_itemsize)
    costs(moved.moved, expected, what=f"standard attention, D = {HEAD_DIM}", at={"N": n}, unit="bytes")


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
    dtypes=TWO_SIZES,
)
@at_every_length
def flash_traffic_grows_with_the_number_of_blocks(impl, n):
    """Flash attention too moves a number of bytes that grows with the square of N: 2 D / M of an N x N matrix, M being
    the queries of a block, in place of 4 + 2 D / M."""
    moved = impl.traffic(impl.attention, *one_head(n), algorithm="flash")
    expected = flash_bytes(n, HEAD_DIM, moved.tile("BLOCK_M"), moved.itemsize, moved.state_itemsize)
    costs(moved.moved, expected, what=f"flash attention, D = {HEAD_DIM}", at={"N": n}, unit="bytes")


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
    dtypes=TWO_SIZES,
)
@given(blocks=st.integers(1, 3), d=st.sampled_from([32, 48, 64, 80]))
def flash_traffic_is_quadratic_over_on_chip_memory(impl, blocks, d):
    """Of keys and values, flash attention loads Theta(N^2 D^2 / M) elements, M being the elements that a program keeps
    on the chip: tiles of queries, accumulator, keys, values and scores. Twice the memory, half the traffic."""
    n = 64 * blocks
    moved = impl.traffic(impl.attention, *one_head(n, d), algorithm="flash")
    s, block_m, block_n = moved.itemsize, moved.tile("BLOCK_M"), moved.tile("BLOCK_N")
    elements = (moved.loaded_by["k"] + moved.loaded_by["v"]) // s
    on_chip = 2 * d * (block_m + block_n) + block_m * block_n
    costs(elements, 2 * ceil(n / block_m) * n * d, what="elements of keys and values loaded")
    if n % block_m == 0 and block_n <= min(block_m, d):
        scale = elements * on_chip / (n * n * d * d)
        assert 4 <= scale <= 10, f"{elements} elements are {scale:g} N^2 D^2 / M with {on_chip} on the chip"


@flash_traffic_is_quadratic_over_on_chip_memory.proof(untied="it is about tiles of any size; a kernel has its own")
def _():
    """For N a multiple of m: tiles of m queries and k keys give the factor 4 + 4 k / m + 2 k / D, which is 10 less two
    differences that are not negative; four equal tiles that fill the memory, m = M / 4 D, give 8."""
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
    corrects="flash_always_moves_less",
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
    corrects="flash_always_moves_less",
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
def flash_always_moves_less(n, d, block):
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
@given(lq=st.integers(1, 130), lk=st.integers(1, 130), d=st.sampled_from([8, 20]), dv=st.sampled_from([8, 20, 32]))
def flash_multiplies_no_less(impl, lq, lk, d, dv):
    """Standard and flash attention take the same number of multiply-adds, every tile of scores once: flash attention
    saves memory traffic, not arithmetic. Bars mean padded to the tile."""
    moved = impl.traffic(impl.attention, *plain_inputs(lq=lq, lk=lk, d=d, dv=dv))
    m, n, d, dv = (moved.tile(f"BLOCK_{name}") for name in ("M", "N", "D", "DV"))
    costs(moved.multiply_adds, padded(lq, m) * padded(lk, n) * (d + dv), what="multiply-adds")


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
    """The backward of flash attention multiplies more than that of standard attention, which has the weights: in two
    kernels that both recompute S and dP, 7 products of matrices instead of 4."""
    x, dout = one_head(n, d), filled(1, 1, n, d)
    moved = impl.traffic(impl.attention_backward, *x, *x.forward(), dout, algorithm="flash")
    block_m, block_n = moved.tile("BLOCK_M"), moved.tile("BLOCK_N")
    products = 4 * moved.tile("BLOCK_D") + 3 * moved.tile("BLOCK_DV")
    costs(moved.multiply_adds, padded(n, block_m) * padded(n, block_n) * products, what="multiply-adds")
