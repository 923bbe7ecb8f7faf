"""The gradient of softmax: its Jacobian, what it conserves, how large it can be and when it vanishes."""

import torch
from sympy import IndexedBase, Sum, diff, exp, symbols

from properties import Result, agree, at_most, claim, exactly, example, given, refuted, rows, shifts, st
from properties.strategies.states import rows_and_gradients


@claim(
    rows="001-109 004-003",
    formula=r"\frac{\partial p_i}{\partial x_j} = p_i(\delta_{ij} - p_j), \qquad "
            r"\mathrm dx_j = \sum_i \mathrm dy_i\,p_i(\delta_{ij} - p_j)",
    if_fails="the term -y <y, dy> is dropped, summed over the wrong axis, or over a part of the row",
    corrects="jacobian_diagonal_as_printed",
)
@given(drawn=rows_and_gradients(most=65))
def jacobian(impl, drawn):
    """The gradient of softmax contracts dy with the Jacobian p_i (delta_ij - p_j)."""
    x, dy = drawn
    p = torch.softmax(x, -1)
    full = p.diag_embed() - p[:, :, None] * p[:, None, :]
    agree(impl.softmax_backward(p, dy)[:, None], Result.constant(dy[:, None]) @ full)


def finite_first_row(drawn):
    x, dy = drawn
    return {"x": x[0].tolist(), "dy": dy[0].tolist(), "n": x.shape[1]} if x[0].isfinite().all() else None


@jacobian.proof(tie=finite_first_row)
def _():
    """For every n: the derivative of p_1 along dy, which the symmetric Jacobian makes the contraction with dy too."""
    j, n = symbols("j n", integer=True, positive=True)
    x, dy, t = IndexedBase("x", real=True), IndexedBase("dy", real=True), symbols("t", real=True)
    moved = exp(x[1] + t * dy[1]) / Sum(exp(x[j] + t * dy[j]), (j, 1, n))
    total, mean = Sum(exp(x[j]), (j, 1, n)), Sum(dy[j] * exp(x[j]), (j, 1, n))
    return diff(moved, t).subs(t, 0), exp(x[1]) / total * (dy[1] - mean / total)


@refuted(rows="004-002", formula=r"\frac{\partial p_i}{\partial x_i} = p_i")
@example(x=torch.zeros(1, 2, dtype=torch.float64))
@given(x=rows(n_rows=1, most=9, moderate=True))
def jacobian_diagonal_as_printed(impl, x):
    """The derivative of a weight with respect to its own score is the weight itself."""
    n = x.shape[1]
    p = torch.softmax(x, -1)
    jacobian_columns = impl.softmax_backward(p.repeat(n, 1), torch.eye(n, dtype=torch.float64))
    agree(jacobian_columns[range(n), range(n)], p[0])


@claim(
    rows="001-110",
    formula=r"\sum_j \mathrm dx_j = 0",
    if_fails="the mean of dy is weighted by something other than y, or the last columns are left out of it",
)
@given(drawn=rows_and_gradients())
def gradient_sums_to_zero(impl, drawn):
    """The gradient of every row sums to 0: no direction leads towards a common shift."""
    x, dy = drawn
    agree(impl.softmax_backward(torch.softmax(x, -1), dy).sum(-1), 0)


@gradient_sums_to_zero.proof(untied="it is the sum over a whole row, tied for its terms by the Jacobian's proof")
def _():
    """For every n: the terms p_j dy_j and p_j sum_k p_k dy_k, summed over j."""
    j, n = symbols("j n", integer=True, positive=True)
    x, dy = IndexedBase("x", real=True), IndexedBase("dy", real=True)
    total, mean = Sum(exp(x[j]), (j, 1, n)), Sum(dy[j] * exp(x[j]), (j, 1, n))
    return mean / total - Sum(exp(x[j]), (j, 1, n)) / total * mean / total, 0


@claim(
    rows="001-109 001-119",
    formula=r"J\,(\mathrm dy + c\mathbf 1) = J\,\mathrm dy",
    if_fails="<y, dy> is not subtracted from every entry of the row",
)
@given(drawn=rows_and_gradients(), c=st.sampled_from([1.0, -8.0, 64.0, -1000.0]))
def constants_have_no_gradient(impl, drawn, c):
    """Adding a constant to dy changes nothing: the weights always sum to 1, so that much is no choice of theirs."""
    x, dy = drawn
    p = torch.softmax(x, -1)
    agree(impl.softmax_backward(p, dy + c), impl.softmax_backward(p, dy))


@claim(
    rows="001-109 004-003",
    formula=r"\langle u, J v\rangle = \langle v, J u\rangle",
    if_fails="y and dy change roles somewhere",
)
@given(drawn=rows_and_gradients(), other=st.sampled_from([1, -1]))
def jacobian_is_symmetric(impl, drawn, other):
    """The Jacobian is symmetric: the gradient of v.p along u is that of u.p along v."""
    x, u = drawn
    v = u.roll(other, -1)
    p = torch.softmax(x, -1)
    agree((impl.softmax_backward(p, v) * u).sum(-1), (impl.softmax_backward(p, u) * v).sum(-1))


@claim(
    rows="001-122 001-109",
    formula=r"\mathrm dx_1 \text{ depends on } y_1, \mathrm dy_1 \text{ alone}",
    if_fails="a sum runs over rows, or a program reads past its row",
)
@given(drawn=rows_and_gradients(), other=st.sampled_from([0.0, 1.0, 1e4, float("nan")]))
def gradient_rows_are_independent(impl, drawn, other):
    """A row's gradient does not depend on what the other rows hold, be it NaN: not a bit changes."""
    x, dy = drawn
    y, poisoned = torch.softmax(x, -1), torch.full_like(dy, other)
    poisoned[0] = dy[0]
    exactly(impl.softmax_backward(y, dy)[0], impl.softmax_backward(y, poisoned)[0])


@claim(
    rows="002-003",
    formula=r"\lVert J\,\mathrm dy\rVert_\infty \le \tfrac12\lVert \mathrm dy\rVert_\infty",
    if_fails="a factor too many: the gradient is scaled twice, or -y <y, dy> has the wrong sign",
    corrects="gradients_explode",
)
@given(drawn=rows_and_gradients())
def gradient_cannot_explode(impl, drawn):
    """No entry of the gradient exceeds half of the largest entry of dy, however large or small the scores."""
    x, dy = drawn
    dx, bound = impl.softmax_backward(torch.softmax(x, -1), dy), 0.5 * dy.abs().amax(-1, keepdim=True)
    at_most(dx, bound)
    at_most(-dx, bound)


@refuted(rows="002-003", formula=r"\max_j x_j \ge 1000 \;\Rightarrow\; \max_j \mathrm dx_j \ge \max_j \mathrm dy_j")
@example(x=torch.tensor([[1000.0, 1000.0]], dtype=torch.float64))
@given(x=rows(moderate=True, regimes=("far up",)))
def gradients_explode(impl, x):
    """Large scores make the gradient explode: that of the first weight exceeds 1 at the first score."""
    dy = torch.zeros_like(x)
    dy[:, 0] = 1.0
    at_most(1.0, impl.softmax_backward(impl.softmax(x), dy)[:, 0])


@claim(
    rows="001-050 002-003",
    formula=r"J(x + c\mathbf 1) = J(x)",
    if_fails="the row maximum is not subtracted, so that far rows give NaN or zero",
    corrects="large_scores_have_no_gradient",
)
@given(drawn=rows_and_gradients(regimes=("integers",)), c=shifts())
def gradient_is_shift_invariant(impl, drawn, c):
    """The gradient depends on differences of scores alone: a common shift leaves it as it is."""
    x, dy = drawn
    agree(impl.softmax_backward(impl.softmax(x + c), dy), impl.softmax_backward(impl.softmax(x), dy))


@refuted(rows="001-050 002-003", formula=r"|x_j| \ge 100 \text{ for all } j \;\Rightarrow\; J = 0")
@example(x=torch.tensor([[1000.0, 1000.0]], dtype=torch.float64))
@given(x=rows(least=2, moderate=True, regimes=("far up", "far down")))
def large_scores_have_no_gradient(impl, x):
    """Where all scores are of large magnitude, the gradient of softmax has vanished."""
    dy = torch.zeros_like(x)
    dy[:, 0] = 1.0
    agree(impl.softmax_backward(impl.softmax(x), dy), 0)


@claim(
    rows="004-006",
    formula=r"p = e_i \;\Rightarrow\; J = 0",
    if_fails="the gradient is that of another function, such as y dy",
    corrects="jacobian_diagonal_as_printed",
)
@given(order=st.permutations([0, 1, 2]), dy=rows(n_rows=1, least=3, most=3, moderate=True, regimes=("plain",)))
@example(order=[0, 1, 2], dy=torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64))
def saturated_rows_have_no_gradient(impl, order, dy):
    """At [1000, 1, -1000], in any order, the gradient is 0 to the last bit, whatever dy."""
    x = torch.tensor([[1000.0, 1.0, -1000.0]], dtype=torch.float64)[:, order]
    exactly(impl.softmax_backward(torch.softmax(x, -1), dy), 0)
