"""Grouped-query attention: which query head reads which key-value head, what groups share, and what that saves."""

from math import prod

import torch
from sympy import Rational, Sum, exp, floor, symbols

from properties import Layout, agree, attention_inputs, claim, costs, exactly, given, laid, refuted, rejects, st

ALL_HEADS = ((4, 2), (6, 2), (3, 1), (6, 3), (8, 2), (2, 2), (4, 1), (3, 3))
INTERIOR = ((4, 2), (6, 2), (6, 3), (8, 2), (8, 4))                     # groups between one and one per head
SHARED = ((4, 2), (6, 2), (3, 1), (6, 3), (2, 1))                       # groups of at least two heads
DIVISORS = tuple((h, g) for h in range(1, 17) for g in range(1, h + 1) if h % g == 0)


def repeated(x, n_rep):
    """Every head n_rep times in a row."""
    return x.repeat_interleave(n_rep, dim=1)


def tiled(x, n_rep):
    """All heads in order, n_rep times over."""
    return x.repeat(1, n_rep, 1, 1)


def grouped_inputs(heads, **options):
    return attention_inputs(heads=heads, causal=None, masks=True, **options)


@claim(
    rows="000-030",
    formula=r"\operatorname{repeat\_kv}(x, n)_{b, h} = x_{b, \lfloor h / n \rfloor}",
    if_fails="the heads are tiled (0 1 0 1) where each should be repeated in place (0 0 1 1), or the wrong dim is",
)
@given(sizes=st.tuples(*[st.integers(1, 4)] * 4), n_rep=st.integers(1, 5))
def repeat_kv_repeats_in_place(impl, sizes, n_rep):
    """Head h of the repeated tensor is head h // n_rep of the original, bit for bit."""
    x = (torch.arange(prod(sizes)) % 251).view(sizes).double()
    exactly(impl.repeat_kv(x, n_rep), x[:, torch.arange(sizes[1] * n_rep) // n_rep])


@claim(
    rows="000-030 001-097",
    formula=r"\operatorname{GQA}(Q, K, V) = \operatorname{MHA}(Q, RK, RV),\quad (Rx)_h = x_{\lfloor h\,G/H \rfloor}",
    if_fails="query head h does not read key-value head h // (H / G), or the mask of a head goes with another",
)
@given(x=grouped_inputs(ALL_HEADS))
def grouped_is_multi_head_with_repeated_keys(impl, x):
    """Grouped-query attention is multi-head attention whose keys and values are repeated in place."""
    full = x.with_(k=repeated(x.k, x.groups), v=repeated(x.v, x.groups))
    agree(impl.attention(*x, **x.options).out, impl.attention(*full, **x.options).out)


@claim(
    rows="001-097 001-100 003-009",
    formula=r"V_g \equiv g \implies \operatorname{out}_h \equiv \lfloor h\,G / H \rfloor",
    if_fails="the grouping is another one: tiled (h mod G), or all heads of a group read its first query's",
    corrects="endpoints_determine_the_grouping",
)
@given(x=attention_inputs(heads=INTERIOR))
def head_h_reads_group_h_g_over_h(impl, x):
    """Query head h reads key-value head floor(h G / H): where head g's values are all g, that is what comes out."""
    n_heads, n_kv_heads = x.q.shape[1], x.k.shape[1]
    read = torch.arange(n_heads) * n_kv_heads // n_heads
    values = torch.arange(n_kv_heads, dtype=torch.float64)[:, None, None].expand(x.v.shape)
    agree(impl.attention(*x.with_(v=values), **x.options).out, read[:, None, None].double())


@head_h_reads_group_h_g_over_h.proof(tie=lambda x: {
    "n": x.k.shape[2], "s": x.scores()[0, -1, 0].tolist(), "h": x.q.shape[1] - 1, "r": x.groups, "at": (0, -1, 0, 0)})
def _():
    """For every number of keys, heads and groups: weights sum to 1, so the constant of the group is left."""
    from sympy import IndexedBase
    j, n, h, r = symbols("j n h r", integer=True, positive=True)
    s = IndexedBase("s", real=True)
    total = Sum(exp(s[j]), (j, 1, n))
    return Sum(exp(s[j]) * floor(h / r), (j, 1, n)) / total, floor(h / r)


def all_in_one_group_or_one_head_each(x):
    """one group (multi-query), or as many groups as heads (multi-head)"""
    return x.k.shape[1] in (1, x.q.shape[1])


@refuted(
    rows="001-100",
    formula=r"\operatorname{GQA}_1 = \operatorname{MQA},\ \operatorname{GQA}_H = \operatorname{MHA} "
            r"\implies \text{the grouping is } h \bmod G",
)
@given(x=attention_inputs(heads=ALL_HEADS))
def endpoints_determine_the_grouping(impl, x):
    """That G = 1 is multi-query and G = H is multi-head attention settles which head reads which: the tiled order has
    both properties, so it is the same attention."""
    other = x.with_(k=tiled(x.k, x.groups), v=tiled(x.v, x.groups))
    agree(impl.attention(*x, **x.options).out, impl.attention(*other, **x.options).out)


@claim(
    rows="001-100 003-010",
    formula=r"h \bmod G = \lfloor h\,G / H \rfloor\ \forall h < H \iff G \in \{1, H\}",
    if_fails="heads are grouped wrongly even with one group, or with one head in each",
    needs=all_in_one_group_or_one_head_each,
)
@given(x=attention_inputs(heads=((2, 1), (3, 1), (2, 2), (3, 3), (4, 2), (6, 2))))
def tiled_order_is_right_at_both_ends(impl, x):
    """Tiling the key-value heads instead of repeating each in place makes no difference with one group, or with one
    head in each: a test of these two alone passes a wrong kernel."""
    other = x.with_(k=tiled(x.k, x.groups), v=tiled(x.v, x.groups))
    agree(impl.attention(*x, **x.options).out, impl.attention(*other, **x.options).out)


@claim(
    rows="001-098 001-090 002-071 003-010",
    formula=r"\operatorname{GQA}_1(Q, K, V)_h = \operatorname{attention}(Q_h, K, V)",
    if_fails="the only key-value head is not read by every query head, or the stride 0 of an expanded one is ignored",
)
@given(x=grouped_inputs(((2, 1), (3, 1), (4, 1), (8, 1))))
def one_group_is_multi_query(impl, x):
    """With one group all query heads share one key-value head: as if it were broadcast to every one of them."""
    broadcast = [laid(t.expand(-1, x.q.shape[1], -1, -1), Layout("expanded over heads", expand=1)) for t in (x.k, x.v)]
    agree(impl.attention(*x, **x.options).out, impl.attention(x.q, *broadcast, **x.options).out)


@claim(
    rows="001-099 003-010",
    formula=r"\operatorname{GQA}_H(Q, K, V)_h = \operatorname{attention}(Q_h, K_h, V_h)",
    if_fails="heads are mixed: a head stride, or an axis that should be summed head by head, is wrong",
)
@given(x=attention_inputs(heads=((2, 2), (3, 3), (4, 4)), causal=None, windows=True))
def one_head_per_group_is_multi_head(impl, x):
    """With as many groups as heads every head attends by itself: as if heads were entries of the batch."""
    alone = x.with_(**{name: t.flatten(0, 1).unsqueeze(1) for name, t in zip("qkv", x, strict=True)})
    together, apart = impl.attention(*x, **x.options).out, impl.attention(*alone, **x.options).out
    agree(together, apart.reshape(*together.shape))


@claim(
    rows="004-021",
    formula=r"g(h) \ne g' \implies \partial \operatorname{out}_h / \partial (K_{g'}, V_{g'}) = 0",
    if_fails="a head stride is wrong, or a head reads another group's keys or values",
)
@given(x=grouped_inputs(((4, 2), (6, 2), (2, 2), (3, 3), (6, 3))))
def heads_do_not_mix(impl, x):
    """What another key-value head holds leaves a query head's output as it is, bit for bit."""
    k, v = x.k.clone(), x.v.clone()
    k[:, 0], v[:, 0] = 1 - 3 * k[:, 0], 7 - v[:, 0]
    before, after = impl.attention(*x, **x.options).out, impl.attention(*x.with_(k=k, v=v), **x.options).out
    exactly(before[:, x.groups:], after[:, x.groups:])


@claim(
    rows="004-021 001-097",
    formula=r"\lfloor \pi(h)\,G/H \rfloor = \lfloor h\,G/H \rfloor"
            r" \implies \operatorname{GQA}(Q_\pi, K, V) = \operatorname{GQA}(Q, K, V)_\pi",
    if_fails="heads of one group are not treated alike",
)
@given(x=attention_inputs(heads=SHARED, causal=None, windows=True))
def heads_of_a_group_are_interchangeable(impl, x):
    """Exchanging the query heads of a group exchanges their outputs: they read the same keys and values."""
    heads = torch.arange(x.q.shape[1])
    order = heads.view(-1, x.groups).flip(1).flatten()
    agree(impl.attention(*x.with_(q=x.q[:, order]), **x.options).out, impl.attention(*x, **x.options).out[:, order])


@claim(
    rows="001-097",
    formula=r"H \bmod G \ne 0 \implies \text{an error}",
    if_fails="the number of heads per group is rounded down, and some heads read nothing, or past the end",
)
@given(heads=st.sampled_from(((3, 2), (4, 3), (2, 3), (5, 2), (1, 2))), length=st.sampled_from((1, 3, 17)))
def heads_must_divide_evenly(impl, heads, length):
    """A number of query heads that is not a multiple of the number of key-value heads is refused, not rounded."""
    n_heads, n_kv_heads = heads
    kv = torch.zeros(1, n_kv_heads, length, 4, dtype=torch.float64)
    rejects(lambda: impl.attention(torch.zeros(1, n_heads, length, 4, dtype=torch.float64), kv, kv))


@claim(
    rows="001-094",
    formula=r"X \cdot \tfrac1N \textstyle\sum_i W_i = \tfrac1N \textstyle\sum_i X W_i",
)
@given(x=st.lists(st.integers(-8, 8), min_size=3, max_size=3), w=st.lists(st.integers(-8, 8), min_size=3, max_size=24),
       n_heads=st.sampled_from((1, 2, 4, 8)))
def pooling_heads_commutes_with_projecting(x, w, n_heads):
    """Projecting with the mean of the heads' weights gives the mean of their projections."""
    x = torch.tensor([x], dtype=torch.float64)
    w = torch.tensor(w, dtype=torch.float64).repeat(3 * n_heads)[:3 * n_heads].view(n_heads, 3, 1)
    exactly(x @ w.mean(0), (x @ w).mean(0))


@pooling_heads_commutes_with_projecting.proof(tie=lambda x, w, n_heads: None if n_heads != 2 else {
    "x": x, "w": (w * 6)[:6]})
def _():
    """For two heads and three features."""
    x, w = symbols("x1:4", real=True), symbols("w1:7", real=True)
    pooled = sum(x[i] * (w[i] + w[3 + i]) / 2 for i in range(3))
    return pooled, Rational(1, 2) * (sum(x[i] * w[i] for i in range(3)) + sum(x[i] * w[3 + i] for i in range(3)))


def heads_of_a_group_are_equal(difference):
    """the key and value heads inside each group are equal"""
    return difference == 0


@claim(
    rows="001-101 001-094",
    formula=r"K_{g} = \tfrac{G}{H} \textstyle\sum_{h \in g} K_h:\quad \operatorname{GQA} = \operatorname{MHA} "
            r"\text{ if } K_h = K_{h'},\ V_h = V_{h'}\ \text{for } h, h' \in g",
    if_fails="the heads that are pooled are not those that share the pooled head afterwards",
    needs=heads_of_a_group_are_equal,
)
@given(x=attention_inputs(heads=SHARED), difference=st.sampled_from((0.0, 1.0, -2.0)))
def pooling_equal_heads_changes_nothing(impl, x, difference):
    """Turning multi-head into grouped-query attention by averaging the key and value heads of each group keeps the
    function where the heads of a group are equal."""
    within = difference * (torch.arange(x.q.shape[1]) % x.groups)[:, None, None]
    full = x.with_(k=repeated(x.k, x.groups) + within, v=repeated(x.v, x.groups) + within)
    k, v = (t.unflatten(1, (-1, x.groups)).mean(2) for t in (full.k, full.v))
    agree(impl.attention(*full, **x.options).out, impl.attention(x.q, k, v, **x.options).out)


@claim(
    rows="000-031",
    formula=r"\operatorname{bytes}(\operatorname{repeat\_kv}(x, n)) = n \operatorname{bytes}(x)",
)
@given(n_rep=st.integers(1, 8), n_kv_heads=st.integers(1, 4), length=st.integers(1, 32))
def repeating_heads_saves_no_memory(n_rep, n_kv_heads, length):
    """Repeated heads take n_rep times the memory; only expanding, a view of stride 0, takes none."""
    x = torch.zeros(1, n_kv_heads, length, 8)
    expanded = x[:, :, None].expand(-1, -1, n_rep, -1, -1)
    costs(repeated(x, n_rep).untyped_storage().nbytes(), n_rep * x.nbytes, what="bytes of repeated heads")
    costs(expanded.untyped_storage().nbytes(), x.nbytes, what="bytes of expanded heads")
    costs(expanded.contiguous().untyped_storage().nbytes(), n_rep * x.nbytes, what="bytes of expanded heads, copied")


@claim(
    rows="000-032 001-103",
    formula=r"\operatorname{bytes} = 2\, B\, L\, G\, d \cdot \operatorname{itemsize},\qquad "
            r"\frac{\operatorname{bytes}_G}{\operatorname{bytes}_H} = \frac{G}{H}",
)
@given(heads=st.sampled_from(DIVISORS), batch=st.integers(1, 3), length=st.integers(1, 64), width=st.integers(1, 16))
def cache_shrinks_by_heads_per_group(dtype, heads, batch, length, width):
    """A cache of keys and values grows with the number of groups: grouping divides its bytes by the heads per group."""
    n_heads, n_kv_heads = heads
    dtype = getattr(torch, dtype)
    cache, of_all_heads = (torch.zeros(2, batch, h, length, width, dtype=dtype) for h in (n_kv_heads, n_heads))
    costs(cache.nbytes, 2 * batch * length * n_kv_heads * width * dtype.itemsize, what="bytes of the cache")
    costs(of_all_heads.nbytes, cache.nbytes * n_heads // n_kv_heads, what="bytes of the cache of all heads")


@refuted(
    rows="001-102 003-011",
    formula=r"G = 2,\ H = 8 \implies 4\ \text{key-value heads}",
)
@given(heads=st.sampled_from(DIVISORS))
def number_of_groups_is_heads_per_group(heads):
    """Grouping 8 query heads by G = 2 leaves 8 / 2 = 4 key-value heads: the number of groups is their size."""
    n_heads, n_groups = heads
    n_kv_heads = len({h * n_groups // n_heads for h in range(n_heads)})
    assert n_kv_heads == n_heads // n_groups, f"{n_heads} heads in {n_groups} groups: {n_kv_heads} key-value heads"


@claim(
    rows="001-102 003-011 003-009 001-103",
    formula=r"|\{\lfloor h\,G/H \rfloor : h < H\}| = G,\qquad |\{h : \lfloor h\,G/H \rfloor = g\}| = H / G",
    corrects="number_of_groups_is_heads_per_group",
)
@given(heads=st.sampled_from(DIVISORS))
def groups_are_as_many_as_key_value_heads(heads):
    """GQA-G has G key-value heads, each shared by H / G query heads: 8 heads and G = 2 make two groups of four."""
    n_heads, n_groups = heads
    read = [h * n_groups // n_heads for h in range(n_heads)]
    assert set(read) == set(range(n_groups)), f"heads read {sorted(set(read))}"
    assert all(read.count(g) == n_heads // n_groups for g in range(n_groups)), f"groups of different size: {read}"
