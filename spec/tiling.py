"""Attention in tiles: blocks of keys are merged, blocks of queries are separate; what the printed loop gets wrong."""

from math import ceil

import torch
from sympy import IndexedBase, Sum, exp, log, symbols

from properties import Inputs, agree, attention_inputs, claim, costs, example, given, refuted, st


def key_block(x, part):
    """Attention inputs with a part (a slice) of the keys, their values and their mask."""
    mask = x.options.get("mask")
    return x.with_(k=x.k[:, :, part], v=x.v[:, :, part], mask=None if mask is None else mask[..., part])


def two_key_blocks(x, cut):
    """The keys up to a drawn place, and the rest; neither is empty."""
    cut = 1 + cut % (x.k.shape[2] - 1)
    return key_block(x, slice(0, cut)), key_block(x, slice(cut, None))


def attend(impl, x):
    return impl.attention(*x, **x.options)


def same_attention(a, b):
    """Outputs and log-sum-exps agree."""
    agree(a.out, b.out)
    agree(a.lse, b.lse)


# ----------------------------------------------------------------------------------------------------- blocks of keys

@claim(
    rows="001-104 001-124 000-033",
    formula=r"\operatorname{attention}(q, [k_1; k_2], [v_1; v_2]) = "
            r"\operatorname{attention}(q, k_1, v_1) \oplus \operatorname{attention}(q, k_2, v_2)",
    if_fails="lse is not that of the scaled and masked scores, or a block without visible keys is not guarded",
    corrects="block_outputs_add_up block_outputs_average tiles_need_no_scale",
)
@given(x=attention_inputs(masks=True, least_keys=2), cut=st.integers(0, 255))
def partial_attentions_merge(impl, x, cut):
    """Attention over two blocks of keys, merged by their lse, is attention over all keys: tiling is exact."""
    a, b = two_key_blocks(x, cut)
    same_attention(impl.merge_lse(*attend(impl, a), *attend(impl, b)), attend(impl, x))


def scores_of_the_first_row(x, cut):
    if not x.visible()[0, 0, 0].all():
        return None
    s, v, cut = x.scores()[0, 0, 0].tolist(), x.v[0, 0, :, 0].tolist(), 1 + cut % (x.k.shape[2] - 1)
    return {"s": s[:cut], "v": v[:cut], "t": s[cut:], "w": v[cut:], "k": cut, "n": len(s) - cut}


@partial_attentions_merge.proof(tie=scores_of_the_first_row)
def _():
    """For blocks of any sizes k and n, and any scores s and t and values v and w in them."""
    j, k, n = symbols("j k n", integer=True, positive=True)
    s, t, v, w = (IndexedBase(name, real=True) for name in "stvw")
    mass = Sum(exp(s[j]), (j, 1, k)), Sum(exp(t[j]), (j, 1, n))
    out = Sum(exp(s[j]) * v[j], (j, 1, k)) / mass[0], Sum(exp(t[j]) * w[j], (j, 1, n)) / mass[1]
    weights = [exp(log(x)) for x in mass]
    whole = Sum(exp(s[j]) * v[j], (j, 1, k)) + Sum(exp(t[j]) * w[j], (j, 1, n))
    return (weights[0] * out[0] + weights[1] * out[1]) / (weights[0] + weights[1]), whole / (mass[0] + mass[1])


@claim(
    rows="000-033 001-104",
    formula=r"\operatorname{split}_n(q, k, v) = \operatorname{attention}(q, k, v) \quad\text{for all } n \ge 1",
    if_fails="keys that do not divide evenly are dropped, an empty split counts, or partial results are not weighted",
    corrects="block_outputs_average",
)
@given(x=attention_inputs(most=129), n=st.sampled_from([1, 2, 3, 4, 5, 8, 17]))
def split_keys_are_attention(impl, x, n):
    """Split-KV is attention for every number of splits, more splits than keys included."""
    same_attention(impl.split_kv(*x, n_splits=n, **x.options), attend(impl, x))


@claim(
    rows="000-033 001-104",
    formula=r"\operatorname{split}_m(q, k, v) = \operatorname{split}_n(q, k, v), \qquad "
            r"\operatorname{split}_n(q, k, c\,v) = c\,\operatorname{split}_n(q, k, v)",
    if_fails="splits are averaged instead of weighted, or the lse of a split does not belong to its output",
)
@given(x=attention_inputs(most=65), m=st.sampled_from([1, 2, 3, 7]), n=st.sampled_from([4, 5, 16, 100]))
def the_number_of_splits_is_irrelevant(impl, x, m, n):
    """Two numbers of splits give the same attention, also of doubled values."""
    one, other = impl.split_kv(*x, n_splits=m, **x.options), impl.split_kv(*x, n_splits=n, **x.options)
    same_attention(one, other)
    agree(impl.split_kv(*x.with_(v=2 * x.v), n_splits=n, **x.options).out, 2 * other.out)


# -------------------------------------------------------------------------------------------------- blocks of queries

@claim(
    rows="001-132 001-130 001-009",
    formula=r"\operatorname{attention}([q_1; q_2], k, v) = [\operatorname{attention}(q_1, k, v); "
            r"\operatorname{attention}(q_2, k, v)]",
    if_fails="query blocks share an accumulator, or the last, ragged block is read or written past its rows",
    corrects="one_accumulator_for_all_query_blocks",
)
@given(x=attention_inputs(least_queries=2), cut=st.integers(0, 255))
def query_blocks_are_separate(impl, x, cut):
    """Attention of a block of queries is that block of attention: each needs its own accumulator, and no other."""
    cut, whole = 1 + cut % (max(x.q.shape[2], 2) - 1), attend(impl, x)
    for part in (slice(0, cut), slice(cut, None)):
        block = attend(impl, x.with_(q=x.q[:, :, part]))
        agree(block.out, whole.out[:, :, part])
        agree(block.lse, whole.lse[:, :, part])


@claim(
    rows="001-131",
    formula=r"\Bigl\lceil\frac{L_q}{B_q}\Bigr\rceil \Bigl\lceil\frac{L_k}{B_k}\Bigr\rceil "
            r"\text{ tiles cover every } (i, j) \text{ once}",
)
@given(lq=st.integers(1, 40), lk=st.integers(1, 40), bq=st.integers(1, 48), bk=st.integers(1, 48))
def tiles_cover_every_pair_once(lq, lk, bq, bk):
    """A double loop over blocks meets every pair of query and key exactly once, also with ragged blocks."""
    met, tiles = torch.zeros(lq, lk), 0
    for i in range(0, lq, bq):
        for j in range(0, lk, bk):
            met[i:i + bq, j:j + bk] += 1
            tiles += 1
    assert (met == 1).all(), f"met {met.min():g} to {met.max():g} times"
    costs(tiles, ceil(lq / bq) * ceil(lk / bk), what="tiles")


# ------------------------------------------------------------------------------------------------ the loop as printed

def row_inputs(q, k, v):
    """Attention inputs of one head with head dim 1, from lists of numbers."""
    q, k, v = (torch.tensor(x, dtype=torch.float64).reshape(1, 1, -1, 1) for x in (q, k, v))
    return Inputs(q, k, v)


@refuted(rows="001-128", formula=r"\operatorname{attention}(q, [k_1; k_2], [v_1; v_2]) = "
                                 r"\operatorname{attention}(q, k_1, v_1) + \operatorname{attention}(q, k_2, v_2)")
@example(x=row_inputs([0.0], [0.0, 0.0], [1.0, 1.0]), cut=0)
@given(x=attention_inputs(least_keys=2), cut=st.integers(0, 255))
def block_outputs_add_up(impl, x, cut):
    """As printed: each block of keys takes its own softmax, and the outputs are added up."""
    a, b = two_key_blocks(x, cut)
    agree(attend(impl, a).out + attend(impl, b).out, attend(impl, x).out)


@refuted(rows="001-128", formula=r"\operatorname{attention}(q, [k_1; k_2], [v_1; v_2]) = "
                                 r"\tfrac12\bigl(\operatorname{attention}(q, k_1, v_1) "
                                 r"+ \operatorname{attention}(q, k_2, v_2)\bigr)")
@example(x=row_inputs([1.0], [0.0, 5.0], [0.0, 1.0]), cut=0)
@given(x=attention_inputs(least_keys=2), cut=st.integers(0, 255))
def block_outputs_average(impl, x, cut):
    """The printed loop is repaired by dividing by the number of blocks."""
    a, b = two_key_blocks(x, cut)
    agree((attend(impl, a).out + attend(impl, b).out) * 0.5, attend(impl, x).out)


@refuted(rows="001-129", formula=r"\operatorname{softmax}(q k^\top) v = "
                                 r"\operatorname{softmax}\Bigl(\frac{q k^\top}{\sqrt d}\Bigr) v")
@given(x=attention_inputs(scales=(None,), least_keys=2, least_dim=2, most=17))
def tiles_need_no_scale(impl, x):
    """As printed: the scores of a tile are q k^T, without the scale."""
    agree(impl.attention(*x, scale=1.0).out, impl.attention(*x).out)


@refuted(rows="001-130", formula=r"\sum_i \operatorname{attention}(q_i, k, v) = \operatorname{attention}(q_2, k, v)")
@example(x=row_inputs([0.0, 0.0], [0.0], [1.0]))
@given(x=attention_inputs(least_queries=2, most=3))
def one_accumulator_for_all_query_blocks(impl, x):
    """As printed: one accumulator, never reset, serves all blocks of queries, and holds the last block's output."""
    first, last = (impl.attention(x.q[:, :, [i]], x.k, x.v, **x.options).out for i in (0, -1))
    agree(first + last, last)
