"""What attention does not depend on: order, the other queries, the other batch entries, and what is exact in it."""

import torch
from sympy import IndexedBase, Sum, exp, symbols

from properties import agree, attention_inputs, claim, exactly, given, refuted, rejects, st

SHUFFLES = st.permutations(range(8))
ONE_HEAD_EACH = ((1, 1), (2, 2), (3, 3))
j, l, n, d = symbols("j l n d", integer=True, positive=True)


def order_of(length, shuffle):
    """A permutation of range(length), larger ones in the pattern of a permutation of eight."""
    pattern = torch.tensor(shuffle).repeat(length // len(shuffle) + 1)[:length]
    return torch.argsort(pattern, stable=True)


def tokens(most):
    """Self-attention with small integers."""
    return attention_inputs(same_lengths=True, heads=ONE_HEAD_EACH, integers=True, regimes=("plain",), most=most,
                            scales=(1.0, 0.25))


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
    exactly(out, x.values_of_heads().gather(2, index))


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
