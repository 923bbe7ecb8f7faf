"""Attention itself: what it computes, what it is linear in, what it ignores, and what it must reproduce bit for bit."""

import torch
from sympy import IndexedBase, Sum, exp, sqrt, symbols

from properties import agree, at_most, attention_inputs, claim, exactly, given, refuted, rejects, st

SHUFFLES = st.permutations(range(8))
ONE_HEAD_EACH = ((1, 1), (2, 2), (3, 3))
i, j, l, m, n, d = symbols("i j l m n d", integer=True, positive=True)
s, v, w = (IndexedBase(name, real=True) for name in "svw")


def scores_seen(x):
    """The scaled scores, -inf where hidden."""
    return x.scores().masked_fill(~x.visible(), -torch.inf)


def values_of_heads(x):
    """The values that each query head reads, (B, Hq, Lk, Dv)."""
    return x.v.repeat_interleave(x.groups, dim=1)


def sees_a_key(x):
    """Which queries see any key: 1.0 or 0.0, (B, Hq, Lq, 1)."""
    return x.visible().any(-1, keepdim=True).double()


def order_of(length, shuffle):
    """A permutation of range(length), larger ones in the pattern of a permutation of eight."""
    pattern = torch.tensor(shuffle).repeat(length // len(shuffle) + 1)[:length]
    return torch.argsort(pattern, stable=True)


def tokens(most):
    """Self-attention with small integers."""
    return attention_inputs(same_lengths=True, heads=ONE_HEAD_EACH, integers=True, regimes=("plain",), most=most,
                            scales=(1.0, 0.25))


def average(score, value):
    """sum_j exp(score_j) value_j / sum_j exp(score_j) for n keys, as an expression."""
    return Sum(exp(score(j)) * value(j), (j, 1, n)) / Sum(exp(score(j)), (j, 1, n))


def first_query(x, **more):
    """Bindings for a proof: the scores s and values v that the first query sees, and how many (n)."""
    seen = x.visible()[0, 0, 0]
    if not seen.any():
        return None
    return {"s": x.scores()[0, 0, 0][seen].tolist(), "v": x.v[0, 0, seen, 0].tolist(), "n": int(seen.sum()), **more}


@claim(
    rows="001-001 004-013 002-034 001-104 000-033",
    formula=r"\operatorname{out}_i = \sum_j \frac{e^{s_{ij}}}{\sum_{j'} e^{s_{ij'}}}\, v_j,"
            r"\qquad s_{ij} = \tfrac{1}{\sqrt d}\, q_i \cdot k_j",
    if_fails="the scale, the axis of the softmax (keys), or the normalisation; a last, partial block; one head dim",
)
@given(x=attention_inputs(causal=None, masks=True, windows=True))
def attention_is_softmax_times_values(impl, x):
    """The output is the softmax of the scaled scores over the visible keys, times the values, tiled or not."""
    weights = torch.softmax(scores_seen(x), -1).nan_to_num(0.0)
    agree(impl.attention(*x, **x.options).out, weights @ values_of_heads(x))


@claim(
    rows="001-106 001-107",
    formula=r"\operatorname{lse}_i = \log \textstyle\sum_j e^{s_{ij}}",
    if_fails="the running maximum is not added back, lse is in units of log 2, or taken before the scale",
)
@given(x=attention_inputs(causal=None, masks=True, windows=True))
def lse_is_the_log_of_the_sum(impl, x):
    """lse is the natural logarithm of the sum of the exponentials of the visible scaled scores."""
    agree(impl.attention(*x, **x.options).lse, torch.logsumexp(scores_seen(x), -1))


@claim(
    rows="001-005 002-034",
    formula=r"\operatorname{attention}(Q, K, V) = \operatorname{attention}(Q, K, I)\, V",
    if_fails="the values take part in the weights, or their columns are mixed or cut to the width of the keys",
)
@given(x=attention_inputs(causal=None, masks=True, most=33))
def values_take_no_part_in_the_weights(impl, x):
    """The weights, which are the output for the identity as values, do not depend on the values: they multiply them."""
    identity = torch.eye(x.k.shape[2], dtype=torch.float64).expand(*x.k.shape[:2], -1, -1)
    weights = impl.attention(*x.with_(v=identity), **x.options).out
    agree(impl.attention(*x, **x.options).out, weights @ values_of_heads(x))


@claim(
    rows="003-001 002-002",
    formula=r"A_{ij} \ge 0,\qquad \textstyle\sum_j A_{ij} = 1",
    if_fails="the softmax is over queries, or over hidden keys as well",
)
@given(x=attention_inputs(causal=None, masks=True, windows=True))
def weights_are_a_distribution(impl, x):
    """The weights of a query are not negative and sum to one over the keys."""
    weights = impl.attention_weights(x.q, x.k, **x.options)
    at_most(torch.zeros(1), weights)
    agree(weights.sum(-1), sees_a_key(x)[..., 0])


@claim(
    rows="001-001 002-034",
    formula=r"\operatorname{attention}(Q, K, V) = A V",
    if_fails="the weights that are returned are not those that were used",
)
@given(x=attention_inputs(causal=None, masks=True, windows=True))
def weights_average_the_values(impl, x):
    """The output is the average of the values with the weights of attention."""
    agree(impl.attention_weights(x.q, x.k, **x.options) @ values_of_heads(x), impl.attention(*x, **x.options).out)


@claim(
    rows="001-002 002-020",
    formula=r"\min_j V_{jc} \le \operatorname{out}_{ic} \le \max_j V_{jc}\quad\text{over visible}\ j",
    if_fails="weights do not sum to one: a block is counted twice, the denominator misses one, or is not rescaled",
)
@given(x=attention_inputs(causal=None, masks=True))
def output_is_a_convex_combination(impl, x):
    """No output lies outside the range of the visible values."""
    seen, values = x.visible()[..., None], values_of_heads(x)[:, :, None]
    lowest = torch.where(seen, values, torch.inf).amin(-2).nan_to_num(posinf=0.0)
    highest = torch.where(seen, values, -torch.inf).amax(-2).nan_to_num(neginf=0.0)
    out = impl.attention(*x, **x.options).out
    at_most(lowest, out)
    at_most(out, highest)


@claim(
    rows="002-002 001-002",
    formula=r"V_j = c\ \forall j \implies \operatorname{out}_i = c",
    if_fails="the denominator misses keys, counts padding, or is not rescaled when the maximum grows",
)
@given(x=attention_inputs(causal=None, masks=True))
def equal_values_come_back(impl, x):
    """If all values are equal, that value is the output, whatever the scores."""
    values = x.v[:, :, :1].expand(x.v.shape)
    expected = values_of_heads(x)[:, :, :1] * sees_a_key(x)
    agree(impl.attention(*x.with_(v=values), **x.options).out, expected)


@equal_values_come_back.proof(tie=lambda x: first_query(x, c=float(x.v[0, 0, 0, 0])))
def _():
    """For every n."""
    c = symbols("c", real=True)
    return average(lambda k: s[k], lambda k: c), c


@claim(
    rows="001-025 001-005",
    formula=r"f(V) = \operatorname{attention}(Q, K, V):\quad f(aV + bW) = a f(V) + b f(W)",
    if_fails="values are clipped, or something other than a weighted sum is done to them",
)
@given(x=attention_inputs(causal=None, masks=True), a=st.sampled_from((1.0, -1.0, 0.5)), b=st.sampled_from((1.0, -2.0)))
def linear_in_the_values(impl, x, a, b):
    """Attention is linear in the values."""
    other = x.v.flip(2)
    out_v, out_w, both = (impl.attention(*x.with_(v=t), **x.options).out for t in (x.v, other, a * x.v + b * other))
    agree(both, a * out_v + b * out_w)


@linear_in_the_values.proof(tie=lambda x, a, b: first_query(
    x, a=a, b=b, w=x.v.flip(2)[0, 0, x.visible()[0, 0, 0], 0].tolist()))
def _():
    """For every n."""
    a, b = symbols("a b", real=True)
    return (average(lambda k: s[k], lambda k: a * v[k] + b * w[k]),
            a * average(lambda k: s[k], lambda k: v[k]) + b * average(lambda k: s[k], lambda k: w[k]))


@claim(
    rows="002-017",
    formula=r"f(V) = \operatorname{attention}(Q, K, V):\quad f(V + \mathbf 1 c^\top) = f(V) + \mathbf 1 c^\top",
    if_fails="weights do not sum to one",
)
@given(x=attention_inputs(causal=None, masks=True), c=st.sampled_from((1.0, -8.0, 64.0)))
def value_bias_passes_through(impl, x, c):
    """A vector added to every value is added to every output."""
    bias = c * torch.arange(1.0, x.v.shape[3] + 1, dtype=torch.float64)
    shifted = impl.attention(*x.with_(v=x.v + bias), **x.options).out
    agree(shifted, impl.attention(*x, **x.options).out + bias * sees_a_key(x))


@value_bias_passes_through.proof(tie=lambda x, c: first_query(x, c=c))
def _():
    """For every n."""
    c = symbols("c", real=True)
    return average(lambda k: s[k], lambda k: v[k] + c), average(lambda k: s[k], lambda k: v[k]) + c


@claim(
    rows="001-028",
    formula=r"\operatorname{attention}(Q, K + \mathbf 1 b^\top, V) = \operatorname{attention}(Q, K, V)",
    if_fails="the row maximum is not subtracted, or not that of the whole row",
)
@given(x=attention_inputs(causal=None, masks=True), c=st.sampled_from((1.0, -2.0, 8.0)))
def key_bias_cancels(impl, x, c):
    """A vector added to every key changes no output: it shifts all scores of a query alike."""
    bias = c * (-1.0) ** torch.arange(x.k.shape[3], dtype=torch.float64)
    agree(impl.attention(*x.with_(k=x.k + bias), **x.options).out, impl.attention(*x, **x.options).out)


@key_bias_cancels.proof(tie=lambda x, c: first_query(x, c=c))
def _():
    """For every n and every shift c = scale q . b of a query's scores."""
    c = symbols("c", real=True)
    return average(lambda k: s[k] + c, lambda k: v[k]), average(lambda k: s[k], lambda k: v[k])


@claim(
    rows="001-017",
    formula=r"\operatorname{attention}(Q, K_\pi, V_\pi) = \operatorname{attention}(Q, K, V)",
    if_fails="keys at some places are missed or counted twice, or later blocks are not rescaled",
)
@given(x=attention_inputs(masks=True), shuffle=SHUFFLES)
def order_of_keys_is_ignored(impl, x, shuffle):
    """Without positions in the inputs the order of keys and their values does not matter, if a mask moves with them."""
    order = order_of(x.k.shape[2], shuffle)
    options = {name: t[..., order] if name == "mask" else t for name, t in x.options.items()}
    agree(impl.attention(x.q, x.k[:, :, order], x.v[:, :, order], **options).out, impl.attention(*x, **x.options).out)


def not_causal(x):
    """attention is not causal"""
    return not x.options.get("causal")


@claim(
    rows="001-154 002-028",
    formula=r"\operatorname{attention}(Q_\pi, K_\pi, V_\pi) = \operatorname{attention}(Q, K, V)_\pi",
    if_fails="positions leak in: a causal mask by default, or a bias by distance",
    needs=not_causal,
)
@given(x=attention_inputs(causal=None, same_lengths=True, most=33), shuffle=SHUFFLES)
def self_attention_is_permutation_equivariant(impl, x, shuffle):
    """Self-attention without positions gives every token the same output in any order of the tokens."""
    order = order_of(x.q.shape[2], shuffle)
    permuted = impl.attention(*(t[:, :, order] for t in x), **x.options).out
    agree(permuted, impl.attention(*x, **x.options).out[:, :, order])


@claim(
    rows="001-009 001-122",
    formula=r"i \ne i' \implies \partial \operatorname{out}_i / \partial q_{i'} = 0",
    if_fails="the maximum or the denominator is shared by queries of a block",
)
@given(x=attention_inputs(causal=None, masks=True, least_queries=2))
def queries_do_not_meet(impl, x):
    """Changing some queries leaves the outputs of the others as they are, bit for bit."""
    q = x.q.clone()
    q[:, :, ::2] = 8 - 3 * q[:, :, ::2]
    before, after = impl.attention(*x, **x.options).out, impl.attention(*x.with_(q=q), **x.options).out
    exactly(before[:, :, 1::2], after[:, :, 1::2])


@claim(
    rows="002-023",
    formula=r"\operatorname{attention}(Q_I, K, V) = \operatorname{attention}(Q, K, V)_I",
    if_fails="the last, partial block of queries is cut off, or read past its end",
)
@given(x=attention_inputs(masks=True), step=st.sampled_from((1, 2, 3, 16)))
def any_queries_in_any_order(impl, x, step):
    """Any part of the queries, in any order, gets the corresponding rows of the whole result."""
    some = torch.arange(x.q.shape[2]).flip(0)[::step]
    options = {name: t.expand(-1, -1, x.q.shape[2], -1)[:, :, some] if name == "mask" else t
               for name, t in x.options.items()}
    agree(impl.attention(x.q[:, :, some], x.k, x.v, **options).out, impl.attention(*x, **x.options).out[:, :, some])


@claim(
    rows="002-023",
    formula=r"\operatorname{attention}([x; y])_b = \operatorname{attention}([x; y'])_b\quad\text{for}\ b\ \text{of}\ x",
    if_fails="a batch stride is wrong, or a maximum is taken over several entries",
)
@given(x=attention_inputs(causal=None, windows=True))
def batch_entries_do_not_meet(impl, x):
    """What other entries of the batch hold leaves the output of an entry as it is, bit for bit."""
    one = impl.attention(*(torch.cat([t, t]) for t in x), **x.options).out
    other = impl.attention(*(torch.cat([t, 8 - 3 * t]) for t in x), **x.options).out
    exactly(one[:x.q.shape[0]], other[:x.q.shape[0]])


@claim(
    rows="001-004",
    formula=r"\operatorname{attention}(Q, K, V) \equiv \operatorname{attention}(Q, K, V)",
    if_fails="memory is read that was never written, state is kept between calls, or threads race",
)
@given(x=attention_inputs(causal=None, masks=True))
def the_same_inputs_give_the_same_bits(impl, x):
    """Attention is a function: called again on the same inputs, after a call with others, it returns the same bits."""
    once = impl.attention(*x, **x.options).out
    impl.attention(*(1 - t for t in x), **x.options)
    exactly(impl.attention(*x, **x.options).out, once)


@claim(
    rows="001-011",
    formula=r"Q: (n, d),\ K: (m, d),\ V: (m, d_v) \implies \operatorname{out}: (n, d_v)",
    if_fails="one length, or one width, is used for another that happened to be equal in every test",
)
@given(x=attention_inputs())
def lengths_and_widths_are_independent(impl, x):
    """Queries may be more or fewer than keys, and values wider or narrower than keys."""
    q = torch.cat([x.q, -x.q[:, :, :1]], dim=2) if x.q.shape[2] == x.k.shape[2] else x.q
    values = torch.cat([x.v, -x.v[..., :1]], dim=-1) if x.v.shape[3] == x.k.shape[3] else x.v
    out = impl.attention(q, x.k, values, **x.options).out
    assert out.shape == (*q.shape[:3], values.shape[3]), f"out has shape {out.shape}"
    agree(out[:, :, :x.q.shape[2], :1], impl.attention(x.q, x.k, values[..., :1], **x.options).out)


@claim(
    rows="001-011",
    formula=r"\operatorname{len}(K) \ne \operatorname{len}(V) \implies \text{an error}",
    if_fails="the shorter of the two, or memory past its end, is read",
)
@given(x=attention_inputs(least_keys=2, most=17, heads=((1, 1), (4, 2))))
def keys_and_values_come_in_pairs(impl, x):
    """Keys without values, and values without keys, are refused."""
    rejects(lambda: impl.attention(x.q, x.k, x.v[:, :, 1:], **x.options))
    rejects(lambda: impl.attention(x.q, x.k[:, :, 1:], x.v, **x.options))


@claim(
    rows="001-142 001-001",
    formula=r"s_{i\,\pi(i)} = 0,\ s_{ij} \le -800\ (j \ne \pi(i)) \implies \operatorname{out}_i = v_{\pi(i)}",
    if_fails="keys at some places are never read, or not by every query; or values are rounded twice",
)
@given(x=attention_inputs(integers=True, least_dim=10, regimes=("plain",)), step=st.sampled_from((1, 3, 7)))
def attention_looks_values_up(impl, x, step):
    """A query that matches one key far better than all others gets the value of that key, bit for bit."""
    (batch, n_heads, lq, width), lk = x.q.shape, x.k.shape[2]
    bits = 9                                                                # as many as keys have: 257 < 2^9
    codes = 20.0 * (1 - 2 * (torch.arange(lk)[:, None] >> torch.arange(bits) & 1)).double()
    keys, queries = torch.zeros(lk, width).double(), torch.zeros(lk, width).double()
    keys[:, :bits], keys[:, bits] = codes, -20.0 * bits                     # scores are -800 times the bits that differ
    queries[:, :bits], queries[:, bits] = codes, 20.0
    wanted = sum(torch.arange(count).view(shape) * factor for count, shape, factor in (
        (batch, (-1, 1, 1), 1), (n_heads, (-1, 1), 2), (lq, (-1,), step))) % lk
    index = wanted[..., None].expand(-1, -1, -1, x.v.shape[3])
    out = impl.attention(queries[wanted], keys.expand(*x.k.shape[:2], -1, -1), x.v, scale=1.0).out
    exactly(out, values_of_heads(x).gather(2, index))


@claim(
    rows="000-001 001-025",
    formula=r"f = \operatorname{attention}:\quad f(2Q, \tfrac12 K, V) = f(-Q, -K, V) = f(Q, K, V) = -f(Q, K, -V)",
    if_fails="queries and keys are not multiplied with each other alone, or rounding depends on a sign",
)
@given(x=attention_inputs(causal=None, masks=True, integers=True))
def signs_and_powers_of_two_are_exact(impl, x):
    """Signs and powers of two move between queries and keys, and signs out of the values, without changing a bit."""
    q = x.q * 0.7
    out = impl.attention(q, x.k, x.v, **x.options).out
    exactly(impl.attention(2 * q, x.k / 2, x.v, **x.options).out, out)
    exactly(impl.attention(-q, -x.k, x.v, **x.options).out, out)
    exactly(impl.attention(q, x.k, -x.v, **x.options).out, -out)


@claim(
    rows="000-001",
    formula=r"\operatorname{softmax}(Q K^\top) V = \operatorname{attention}(\sqrt d\, Q, K, V)",
    if_fails="a scale of 1 is taken for no scale at all, the default is not 1 / sqrt(d), or it is applied twice",
)
@given(x=attention_inputs(causal=None, scales=(None,)))
def without_scale_means_larger_queries(impl, x):
    """Attention without the scale is scaled attention with queries that are sqrt(d) times as large."""
    larger = x.q * x.q.shape[3] ** 0.5
    agree(impl.attention(larger, x.k, x.v, **x.options).out, impl.attention(*x, **x.options, scale=1.0).out)


@without_scale_means_larger_queries.proof(tie=lambda x: None if not x.visible()[0, 0, 0].all() else {
    "n": x.k.shape[2], "d": x.k.shape[3], "q": x.q[0, 0, 0].tolist(), "k": x.k[0, 0].tolist(),
    "v": x.v[0, 0, :, 0].tolist()})
def _():
    """For every n and every d."""
    q, k = IndexedBase("q", real=True), IndexedBase("k", real=True)
    scaled = average(lambda key: Sum(sqrt(d) * q[l] * k[key, l] / sqrt(d), (l, 1, d)), lambda key: v[key])
    return scaled, average(lambda key: Sum(q[l] * k[key, l], (l, 1, d)), lambda key: v[key])


@refuted(
    rows="000-019 001-140",
    formula=r"Q = K \implies A_{ij} = A_{ji}",
)
@given(x=tokens(most=17))
def weights_are_symmetric_if_queries_are_keys(impl, x):
    """With queries equal to keys, as without projections, position i attends to j as much as j to i."""
    weights = impl.attention_weights(x.q, x.q, **x.options)
    agree(weights, weights.mT)


@claim(
    rows="000-019 000-016 001-140",
    formula=r"Q = K \implies A_{ij} Z_i = A_{ji} Z_j,\qquad Z_i = e^{\operatorname{lse}_i}",
    if_fails="the scores of Q = K are not symmetric, or lse is not that of the weights",
    corrects="weights_are_symmetric_if_queries_are_keys",
)
@given(x=tokens(most=33))
def scores_are_symmetric_if_queries_are_keys(impl, x):
    """With queries equal to keys the scores are symmetric; the weights are only so after each row is multiplied by its
    own denominator."""
    x = x.with_(k=x.q, v=torch.eye(x.q.shape[2], dtype=torch.float64).expand(*x.q.shape[:2], -1, -1))
    peak = x.scores().amax((-1, -2))[..., None]
    found = impl.attention(*x, **x.options)
    unnormalised = found.out * (found.lse - peak).exp().reshape(*found.lse.shape, 1)
    agree(unnormalised, unnormalised.mT)


@scores_are_symmetric_if_queries_are_keys.proof(tie=lambda x: None if x.q.shape[2] < 2 else {
    "at": (0, 0, 0, 1), "x": x.q[0, 0].tolist(), "d": x.q.shape[3], "n": x.q.shape[2], "c": x.scale,
    "p": float(x.with_(k=x.q).scores()[0, 0].max())})
def _():
    """For every n and d, with c the scale and p the common shift."""
    x, c, p = IndexedBase("x", real=True), symbols("c", real=True), symbols("p", real=True)

    def unnormalised(a, b):
        score = lambda key: c * Sum(x[a, l] * x[key, l], (l, 1, d))
        denominator = Sum(exp(score(j)), (j, 1, n))
        return exp(score(b)) / denominator * (denominator * exp(-p))
    return unnormalised(1, 2), unnormalised(2, 1)


@claim(
    rows="001-104 000-033 001-124",
    formula=r"e^{\operatorname{lse}} = \sum_B e^{\operatorname{lse}_B},\qquad "
            r"e^{\operatorname{lse}} \operatorname{out} = \sum_B e^{\operatorname{lse}_B} \operatorname{out}_B",
    if_fails="a block's lse does not belong to its output: units of log 2, the scale, or the running maximum",
)
@given(x=attention_inputs(least_keys=2), n_blocks=st.sampled_from((2, 3, 5)))
def blocks_of_keys_add_up(impl, x, n_blocks):
    """Attention over all keys follows from attention over blocks of them, of any size: tiling is exact."""
    shift = x.scores().amax(-1)
    halves = zip(x.k.tensor_split(n_blocks, dim=2), x.v.tensor_split(n_blocks, dim=2), strict=True)
    whole, *parts = [(found.out, (found.lse - shift).exp()) for found in (
        impl.attention(x.q, k, values, **x.options) for k, values in ((x.k, x.v), *halves) if k.shape[2])]
    agree(sum(out * z.reshape(*z.shape, 1) for out, z in parts), whole[0] * whole[1].reshape(*whole[1].shape, 1))
    agree(sum(z for _, z in parts), whole[1])


@blocks_of_keys_add_up.proof(tie=lambda x, n_blocks: None if n_blocks != 2 else first_query(
    x, c=float(x.scores()[0, 0, 0].max()), m=(x.k.shape[2] + 1) // 2))
def _():
    """For two blocks of any sizes, m and n - m keys, with c the common shift."""
    c = symbols("c", real=True)
    numerator = lambda first, last: Sum(exp(s[j] - c) * v[j], (j, first, last))
    return numerator(1, m) + numerator(m + 1, n), numerator(1, n)
