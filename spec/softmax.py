"""Softmax: its definition, what it is invariant under, what it sums to, when it saturates."""

import torch
from sympy import IndexedBase, Sum, exp, symbols

from properties import (agree, at_most, claim, exactly, example, given, masked_rows, refuted, rows,
                        rows_and_permutation, shifts, st)
from properties.strategies.states import hidden_rows, special_rows

INF = float("inf")
scales = st.sampled_from([(0.0, 1.0), (0.25, 0.5), (0.5, 1.0), (1.0, 2.0), (1.0, 8.0)])


def one_hot_at_the_maximum(x):
    """1 / k at each of the k maxima of a row, 0 elsewhere."""
    top = (x == x.amax(-1, keepdim=True)).double()
    return top / top.sum(-1, keepdim=True)


def has_a_finite_score(x):
    """Some score of every row is finite (and none is +inf or NaN)."""
    return bool((x < INF).all() and (x > -INF).any(-1).all())


# ------------------------------------------------------------------------------------------------------- definition

@claim(
    rows="001-118 004-001 003-001 003-008",
    formula=r"p_j \sum_k e^{x_k} = e^{x_j}",
    if_fails="another temperature or base, a sum over the wrong axis, logarithms returned, or -inf mishandled",
)
@given(x=hidden_rows(moderate=True, regimes=("plain", "ascending", "descending", "ties", "flat", "integers")))
def definition(impl, x):
    """Each weight is the exponential of its score, divided by the sum of the exponentials of its row.

    A score of -inf has weight 0, and so has a row of nothing else.
    """
    e = x.exp()
    agree(impl.softmax(x) * e.sum(-1, keepdim=True), e)


def subtracting_the_maximum(x):
    return {"x": x[0].tolist(), "n": x.shape[1], "c": float(x[0].max())} if x.isfinite().all() else None


@definition.proof(tie=subtracting_the_maximum)
def _():
    """For every n, with any constant c subtracted first, the row maximum among them."""
    j, n = symbols("j n", integer=True, positive=True)
    x, c = IndexedBase("x", real=True), symbols("c", real=True)
    return exp(x[1] - c) / Sum(exp(x[j] - c), (j, 1, n)) * Sum(exp(x[j]), (j, 1, n)), exp(x[1])


@claim(
    rows="001-003 002-001 002-002",
    formula=r"p_j \ge 0, \qquad \sum_j p_j = 1",
    if_fails="the denominator does not see every score (a tail, a block), or is accumulated in half precision",
    needs=has_a_finite_score,
)
@given(x=hidden_rows())
def weights_are_a_distribution(impl, x):
    """The weights of a row are not negative and sum to 1."""
    p = impl.softmax(x)
    at_most(0, p)
    agree(p.sum(-1), 1)


@claim(
    rows="001-003 001-120",
    formula=r"\max_j x_j \notin \mathbb R \;\Rightarrow\; \operatorname{softmax}(x) = (\mathrm{NaN}, \dots)",
    if_fails="a maximum that ignores NaN, a clamp, or a test for empty rows that also catches overflow",
)
@given(x=special_rows())
def what_is_no_number_spreads(impl, x):
    """NaN or +inf among the scores makes its whole row NaN: an overflow upstream is never turned into weights."""
    spoilt = (x.isnan() | (x == INF)).any(-1)
    exactly(impl.softmax(x)[spoilt], float("nan"))


@claim(
    rows="001-122",
    formula=r"\operatorname{softmax}(X)_{1} = \operatorname{softmax}(Y)_{1} \quad\text{where } X_1 = Y_1",
    if_fails="a maximum or a sum runs over rows, or a program reads past its row",
)
@given(x=rows(), other=st.sampled_from([0.0, 1.0, 1e4, -1e4, -INF, INF, float("nan")]))
def rows_are_independent(impl, x, other):
    """A row's weights do not depend on what the other rows hold, be it NaN: not a bit changes."""
    y = torch.full_like(x, other)
    y[0] = x[0]
    exactly(impl.softmax(x)[0], impl.softmax(y)[0])


# ------------------------------------------------------------------------------------------------------- invariance

@claim(
    rows="001-119 001-121 002-004",
    formula=r"\operatorname{softmax}(x + c\mathbf 1) = \operatorname{softmax}(x)",
    if_fails="the row maximum is not subtracted, or not over the whole row",
    corrects="scores_far_from_zero_saturate larger_score_larger_weight_after_any_shift",
)
@given(x=rows(), c=shifts())
def shift_invariance(impl, x, c):
    """Adding one constant to every score of a row leaves its softmax unchanged."""
    agree(impl.softmax(x + c), impl.softmax(x))


@shift_invariance.proof
def _():
    """For every n and every real c."""
    i, j, n = symbols("i j n", integer=True, positive=True)
    x, c = IndexedBase("x", real=True), symbols("c", real=True)

    def softmax(z):
        return exp(z(i)) / Sum(exp(z(j)), (j, 1, n))

    return softmax(lambda k: x[k] + c), softmax(lambda k: x[k])


@refuted(rows="001-119 002-004", formula=r"p\bigl(\operatorname{fl}(c)\bigr) < p\bigl(\operatorname{fl}(1 + c)\bigr)",
         over="floats")
@example(e=60)
@given(e=st.integers(0, 60))
def larger_score_larger_weight_after_any_shift(e, dtype):
    """In floating point, too, a row can be shifted by any constant: of two scores the larger keeps the larger weight.

    The sum of score and constant is rounded before softmax sees it; by 2^53 at the latest, 0 and 1 have become equal.
    """
    p = torch.softmax((torch.tensor([0.0, 1.0], dtype=torch.float64) + 2.0**e).to(getattr(torch, dtype)), -1)
    assert p[0] < p[1], f"shifted by 2^{e} both scores have weight {float(p[0])}"


@claim(
    rows="002-008 001-118",
    formula=r"\operatorname{softmax}(x_\pi) = \operatorname{softmax}(x)_\pi",
    if_fails="columns are weighted by where they stand, or a tail block is read at the wrong place",
    corrects="near_scores_suppress_far_ones",
)
@given(drawn=rows_and_permutation())
def permutation_equivariance(impl, drawn):
    """Permuting the scores permutes the weights: softmax knows no position and no distance."""
    x, order = drawn
    agree(impl.softmax(x[:, order]), impl.softmax(x)[:, order])


@refuted(rows="002-008", formula=r"x_1 = x_n \;\Rightarrow\; p_1 < p_n")
@example(n=2)
@given(n=st.integers(2, 9))
def near_scores_suppress_far_ones(impl, n):
    """Among equal scores the last, which is the nearest, has the largest weight: double that of the farthest."""
    p = impl.softmax(torch.zeros(1, n))
    agree(p[0, -1], 2 * p[0, 0])


# ------------------------------------------------------------------------------------------------------------ order

@claim(
    rows="001-142",
    formula=r"x_i \le x_j \;\Rightarrow\; p_i \le p_j",
    if_fails="weights are matched to the wrong scores, or a part of a row has another maximum or denominator",
)
@given(x=rows(least=2))
def order_is_preserved(impl, x):
    """A larger score never has a smaller weight; the largest score has the largest."""
    x = x.sort(-1).values
    p = impl.softmax(x)
    at_most(p[:, :-1], p[:, 1:])


@claim(
    rows="001-146 001-142 000-001",
    formula=r"0 \le \beta < \gamma \;\Rightarrow\; \max_j p_j(\beta x) \le \max_j p_j(\gamma x)",
    if_fails="scores are divided where they should be multiplied, or normalised by their spread",
)
@given(x=rows(moderate=True), scale=scales)
def larger_scale_is_sharper(impl, x, scale):
    """Multiplying all scores by more never makes the largest weight smaller."""
    beta, gamma = scale
    top = x[0].argmax()
    at_most(impl.softmax(beta * x)[0, top], impl.softmax(gamma * x)[0, top])


@claim(
    rows="001-146 002-009",
    formula=r"0 \le \beta < \gamma \;\Rightarrow\; H(\beta x) \ge H(\gamma x), \qquad "
            r"H(x) = -\sum_j p_j \log p_j = \operatorname{lse}(x) - \sum_j p_j x_j",
    if_fails="log-sum-exp and softmax see different scores, or divide by the scale",
)
@given(x=rows(moderate=True, most=65), scale=scales)
def entropy_falls_with_the_scale(impl, x, scale):
    """Multiplying all scores by more never raises the entropy of the weights."""
    beta, gamma = scale
    at_most(entropy(impl, gamma * x), entropy(impl, beta * x))


def entropy(impl, x):
    return impl.log_sum_exp(x) - (impl.softmax(x) * x).sum(-1)


# ---------------------------------------------------------------------------------------------- flat and saturated

@claim(
    rows="000-004 002-006",
    formula=r"\operatorname{softmax}(c\mathbf 1) = \tfrac1n\mathbf 1",
    if_fails="the denominator is accumulated in half precision (it stops at 256 or 2048), or counts padding",
)
@given(c=shifts(), n=st.sampled_from([1, 2, 3, 16, 17, 255, 256, 257, 2049, 4097]))
def equal_scores_share_equally(impl, c, n):
    """n equal scores have weight 1/n each, whatever the score and however long the row."""
    agree(impl.softmax(torch.full((1, n), c, dtype=torch.float64)), 1 / n)


@claim(
    rows="000-005",
    formula=r"|x_j| \le \varepsilon \;\Rightarrow\; \tfrac1n e^{-2\varepsilon} \le p_j \le \tfrac1n e^{2\varepsilon}",
    if_fails="scores are multiplied by a factor too many, or the denominator leaves some out",
)
@given(x=rows(moderate=True, regimes=("flat", "plain")))
def small_scores_are_near_uniform(impl, x):
    """Scores within eps of 0 have weights within a factor of e^(2 eps) of 1/n."""
    p, n, bound = impl.softmax(x), x.shape[1], (2 * x.abs().amax(-1, keepdim=True)).exp()
    at_most(1 / (n * bound), p)
    at_most(p, bound / n)


@claim(
    rows="001-050 004-008 001-142",
    formula=r"\frac1{1 + (n - 1)e^{-g}} \le \max_j p_j \le \frac1{1 + e^{-g}}, \qquad g = x_{(1)} - x_{(2)}",
    if_fails="the largest weight is not that of the whole row: a block's own maximum or denominator is used",
    corrects="scores_far_from_zero_saturate",
)
@given(x=rows(least=2))
def the_gap_decides_saturation(impl, x):
    """The largest weight is near 1 exactly if the largest score leads the second by much, wherever both lie."""
    x = x.sort(-1, descending=True).values
    tail = (x[:, 1] - x[:, 0]).exp()
    top = impl.softmax(x)[:, 0]
    at_most(1 / (1 + (x.shape[1] - 1) * tail), top)
    at_most(top, 1 / (1 + tail))


@refuted(rows="001-050 004-008", formula=r"|x_j| \ge 100 \text{ for all } j \;\Rightarrow\; p_j(1 - p_j) = 0")
@example(x=torch.tensor([[1000.0, 1000.0]], dtype=torch.float64))
@given(x=rows(least=2, moderate=True, regimes=("far up", "far down")))
def scores_far_from_zero_saturate(impl, x):
    """Scores of large magnitude saturate softmax: every weight is 0 or 1."""
    p = impl.softmax(x)
    agree(p * (p - 1), 0)


@claim(
    rows="001-142 004-008",
    formula=r"\lim_{T \to 0} \operatorname{softmax}(x / T) = \tfrac1k [x_j = \max x], \quad k = |\{j : x_j = \max x\}|",
    if_fails="something is added to the denominator (an epsilon, padding), or hidden exponentials are clamped above 0",
)
@given(x=rows(moderate=True, regimes=("integers",)), lift=st.sampled_from([1024.0, 4096.0]))
def the_limit_is_a_shared_maximum(impl, x, lift):
    """Scores that lead by 1000 or more share the whole weight equally; the others have exactly 0."""
    p = impl.softmax(lift * x)
    exactly(p * (x < x.amax(-1, keepdim=True)), 0)
    agree(p, one_hot_at_the_maximum(x))


@claim(
    rows="004-004",
    formula=r"\operatorname{softmax}(1000, 1, -1000) = (1, 0, 0)",
    if_fails="the row maximum is not subtracted: e^1000 is infinite in every dtype",
    corrects="spec/log_sum_exp.py::exponentials_without_a_shift",
)
@given(order=st.permutations([0, 1, 2]))
def printed_example(impl, order):
    """softmax([1000, 1, -1000]) is [1, 0, 0] to the last bit, in any order."""
    x = torch.tensor([[1000.0, 1.0, -1000.0]], dtype=torch.float64)[:, order]
    exactly(impl.softmax(x), one_hot_at_the_maximum(x))


# ------------------------------------------------------------------------------------------------------ sensitivity

@claim(
    rows="002-004 002-003",
    formula=r"\lVert\operatorname{softmax}(x) - \operatorname{softmax}(y)\rVert_\infty "
            r"\le \tfrac12 \lVert x - y\rVert_\infty",
    if_fails="scores are multiplied by a factor too many",
    corrects="weights_follow_the_range",
)
@given(drawn=masked_rows(), c=shifts())
def half_lipschitz(impl, drawn, c):
    """No weight moves by more than half of what the scores move."""
    x, some = drawn
    y = x + c * some
    moved, bound = impl.softmax(y) - impl.softmax(x), 0.5 * (y - x).abs().amax(-1, keepdim=True)
    at_most(moved, bound)
    at_most(-moved, bound)


@refuted(rows="002-004", formula=r"p_1(x + \delta e_1) - p_1(x) \ge \tfrac12\delta")
@example(x=torch.zeros(1, 2, dtype=torch.float64), delta=1.0)
@given(x=rows(least=2, moderate=True), delta=st.sampled_from([0.5, 1.0, 8.0]))
def weights_follow_the_range(impl, x, delta):
    """Softmax is very sensitive to the range of its input: raising a score raises its weight half as much."""
    y = x.clone()
    y[:, 0] += delta
    at_most(0.5 * delta, impl.softmax(y)[:, 0] - impl.softmax(x)[:, 0])
