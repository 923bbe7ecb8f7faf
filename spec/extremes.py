"""What usual inputs do not reach: no keys, thousands of keys, NaN, a bias with heads, states far below 0."""

import torch

from properties import agree, attention_inputs, claim, exactly, given, masked_rows, rows, st
from properties.strategies.masks import inputs_and_key
from properties.strategies.states import states


@claim(
    rows="002-067 001-001",
    formula=r"L_k = 0 \implies \operatorname{out} = 0,\ \operatorname{lse} = -\infty",
    if_fails="a kernel that returns early without keys leaves its outputs unwritten, or writes 0 for the log-sum-exp",
)
@given(x=attention_inputs(causal=None, integers=True, most=33))
def no_keys_give_zero(impl, x):
    """Without any key every query returns 0, with log-sum-exp -inf."""
    none = x.with_(k=x.k[:, :, :0], v=x.v[:, :, :0])
    found = impl.attention(*none, **none.options)
    agree(found.out, 0.0)
    agree(found.lse, -torch.inf)


@claim(
    rows="000-033 001-104",
    formula=r"k_j = k\ \forall j \implies \operatorname{out} = \tfrac1n \textstyle\sum_j v_j,\ "
            r"\operatorname{lse} = s + \log n",
    if_fails="the scores of a row live in a buffer of fixed size, or a count of blocks in too few bits",
)
@given(n=st.sampled_from((1025, 2049, 4097, 8193)), first=st.sampled_from((1.0, -2.0, 4.0)))
def long_rows_are_read_to_the_end(impl, n, first):
    """Of thousands of equal keys each counts: the output is the mean of their values, the last one included."""
    q, k, v = (torch.zeros(1, 1, length, 1, dtype=torch.float64) for length in (1, n, n))
    v[:, :, 0], v[:, :, -1] = first * n, n
    found = impl.attention(q, k, v, scale=1.0)
    agree(found.out, first + 1.0)
    agree(found.lse, torch.tensor(float(n), dtype=torch.float64).log())


@claim(
    rows="001-119 001-120",
    formula=r"x_j = c\ \forall j \implies \operatorname{softmax}(x)_j = 1/n,\ \operatorname{lse} = c + \log n",
    if_fails="only the first block of a long row is searched for its maximum, or its sum is kept in the input's type",
)
@given(n=st.sampled_from((1025, 8193, 70000)), c=st.sampled_from((0.0, 200.0, -200.0, 2.0**14, -(2.0**14))))
def long_rows_of_equal_scores(impl, n, c):
    """Of tens of thousands of equal scores each has the same weight, however high or low they are."""
    x = torch.full((1, n), c, dtype=torch.float64)
    agree(impl.softmax(x) * n, 1.0)
    agree(impl.log_sum_exp(x), c + torch.tensor(float(n), dtype=torch.float64).log())


@claim(
    rows="001-119 001-120",
    formula=r"\operatorname{softmax}(x + c_i) = \operatorname{softmax}(x) \quad\text{for every row } i",
    if_fails="one maximum is taken over several rows, so that a row far below the others vanishes",
)
@given(x=rows(), far=st.sampled_from((1000.0, -1000.0, 2.0**14, -60000.0)))
def rows_of_different_height(impl, x, far):
    """Rows may lie far apart, up or down: each is softmax by itself, and has its own log-sum-exp."""
    moved, same = torch.stack([x, x + far, x - far]), torch.stack([x, x, x])
    agree(impl.softmax(moved), impl.softmax(same))
    agree(impl.log_sum_exp(x + far), impl.log_sum_exp(x) + far)


@claim(
    rows="001-019 002-045 004-020",
    formula=r"\operatorname{softmax}_\Omega(x + c) = \operatorname{softmax}_\Omega(x), \quad "
            r"\operatorname{softmax}_\Omega(x)\ \text{independent of}\ x_j,\ j \notin \Omega",
    if_fails="hidden scores become a finite number that visible ones may be below, or the mask is added to them",
)
@given(drawn=masked_rows(), c=st.sampled_from((-60000.0, -20000.0)), what=st.sampled_from((float("nan"), 60000.0)))
def no_score_is_too_low_to_be_seen(impl, drawn, c, what):
    """Visible scores may lie below any number that stands for "hidden", and hidden ones may hold anything."""
    x, keep = drawn
    weights = impl.masked_softmax(x, keep)
    agree(impl.masked_softmax(x + c, keep), weights)
    exactly(impl.masked_softmax(x.masked_fill(~keep, what), keep), weights)


@claim(
    rows="001-001 001-002",
    formula=r"P_{ij} > 0,\ v_{jc} = \mathrm{NaN} \implies \operatorname{out}_{ic} = \mathrm{NaN}",
    if_fails="NaN is replaced by 0, in the output or in a guard for empty rows that is too wide",
)
@given(drawn=inputs_and_key(integers=True, regimes=("plain",), scales=(0.25,), least_dim=1))
def a_visible_nan_is_not_swallowed(impl, drawn):
    """NaN in the value of a visible key makes its column NaN, in the key itself the whole row."""
    x, j = drawn
    k, v = x.k.clone(), x.v.clone()
    k[:, :, j], v[:, :, j, 0] = float("nan"), float("nan")
    exactly(impl.attention(*x.with_(v=v), **x.options).out[..., 0], float("nan"))
    exactly(impl.attention(*x.with_(k=k), **x.options).out, float("nan"))


@claim(
    rows="001-156",
    formula=r"\operatorname{attention}(Q, K, V, \text{bias} = s\,U W^\top) = "
            r"\operatorname{attention}([Q\; U], [K\; W], V, \text{scale} = s)",
    if_fails="the bias is scaled, is added after the mask, or every head reads that of head 0",
)
@given(x=attention_inputs(masks=True, causal=None, integers=True, scales=(1.0, 0.25), least_dim=2, most=33))
def a_bias_is_added_to_the_scaled_scores(impl, x):
    """A bias with heads is what the products of some channels would have added to the scaled scores."""
    fewer = x.with_(q=x.q[..., 1:], k=x.k[..., 1:])
    k = x.k[..., :1].repeat_interleave(x.groups, dim=1)
    bias = x.scale * x.q[..., :1] * k.mT
    one, other = impl.attention(*fewer, **fewer.options, bias=bias), impl.attention(*x, **x.options)
    agree(one.out, other.out)
    agree(one.lse, other.lse)


@claim(
    rows="001-124 001-119",
    formula=r"(m_1 + c, l_1, a_1) \oplus (m_2 + c, l_2, a_2) = (m_1, l_1, a_1) \oplus (m_2, l_2, a_2)"
            r"\ \text{shifted by}\ c",
    if_fails="a finite number stands for minus infinity as the first maximum: states below it count as empty",
)
@given(ab=states(2, empty=False), c=st.sampled_from((-65536.0, -131072.0, 65536.0)))
def states_far_from_zero_merge(impl, ab, c):
    """Two states far below 0, or far above, merge as they do near 0."""
    (m1, l1, acc1), (m2, l2, acc2) = ab
    agree(impl.merge(m1 + c, l1, acc1, m2 + c, l2, acc2).out, impl.merge(m1, l1, acc1, m2, l2, acc2).out)
