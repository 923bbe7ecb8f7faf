"""Attention itself: what it computes, what it is linear in, and what cancels."""

import torch
from sympy import IndexedBase, Sum, exp, sqrt, symbols

from properties import agree, at_most, attention_inputs, claim, given, st

SHUFFLES = st.permutations(range(8))
ONE_HEAD_EACH = ((1, 1), (2, 2), (3, 3))
i, j, l, m, n, d = symbols("i j l m n d", integer=True, positive=True)
s, v, w = (IndexedBase(name, real=True) for name in "svw")


def sees_a_key(x):
    """Which queries see any key: 1.0 or 0.0, (B, Hq, Lq, 1)."""
    return x.visible().any(-1, keepdim=True).double()


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
    agree(impl.attention(*x, **x.options).out, x.weights() @ x.values_of_heads())


@claim(
    rows="001-106 001-107",
    formula=r"\operatorname{lse}_i = \log \textstyle\sum_j e^{s_{ij}}",
    if_fails="the running maximum is not added back, lse is in units of log 2, or taken before the scale",
)
@given(x=attention_inputs(causal=None, masks=True, windows=True))
def lse_is_the_log_of_the_sum(impl, x):
    """lse is the natural logarithm of the sum of the exponentials of the visible scaled scores."""
    agree(impl.attention(*x, **x.options).lse, torch.logsumexp(x.seen_scores(), -1))


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
    agree(impl.attention(*x, **x.options).out, weights @ x.values_of_heads())


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
    agree(impl.attention_weights(x.q, x.k, **x.options) @ x.values_of_heads(), impl.attention(*x, **x.options).out)


@claim(
    rows="001-002 002-020",
    formula=r"\min_j V_{jc} \le \operatorname{out}_{ic} \le \max_j V_{jc}\quad\text{over visible}\ j",
    if_fails="weights do not sum to one: a block is counted twice, the denominator misses one, or is not rescaled",
)
@given(x=attention_inputs(causal=None, masks=True))
def output_is_a_convex_combination(impl, x):
    """No output lies outside the range of the visible values."""
    seen, values = x.visible()[..., None], x.values_of_heads()[:, :, None]
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
    expected = x.values_of_heads()[:, :, :1] * sees_a_key(x)
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
