"""Log-sum-exp, and what keeps exp in range: the row maximum is subtracted first."""

import math

import torch
from sympy import IndexedBase, Sum, exp, log, symbols

from properties import (agree, at_most, claim, exactly, example, given, refuted, rows, rows_and_permutation, shifts,
                        st)
from properties.strategies.states import hidden_rows, special_rows

INF = float("inf")
MODERATE = ("plain", "ascending", "descending", "ties", "flat", "integers")


def sum_exp(z):
    """SymPy: the sum of exp(z(j)) over j = 1..n."""
    j, n = symbols("j n", integer=True, positive=True)
    return Sum(exp(z(j)), (j, 1, n))


# ------------------------------------------------------------------------------------------------------ log-sum-exp

@claim(
    rows="001-107 001-106",
    formula=r"e^{\operatorname{lse}(x)} = \sum_j e^{x_j}",
    if_fails="a logarithm of another base, the maximum not added back, or -inf mishandled",
    corrects="the_sum_of_exponentials_can_be_stored",
)
@given(x=hidden_rows(moderate=True, regimes=MODERATE))
def definition_of_lse(impl, x):
    """The exponential of log-sum-exp is the sum of the exponentials; of a row of -inf it is 0."""
    agree(impl.log_sum_exp(x).exp(), x.exp().sum(-1))


def subtracting_the_maximum(x):
    return {"x": x[0].tolist(), "n": x.shape[1], "m": float(x[0].max())} if x[0].isfinite().all() else None


@definition_of_lse.proof(tie=subtracting_the_maximum)
def _():
    """For every n, as m + log sum exp(x - m) with any reference m, the row maximum among them."""
    x, m = IndexedBase("x", real=True), symbols("m", real=True)
    return exp(m) * sum_exp(lambda j: x[j] - m), sum_exp(lambda j: x[j])


@claim(
    rows="001-107 001-118",
    formula=r"\operatorname{softmax}(x)_j = e^{x_j - \operatorname{lse}(x)}",
    if_fails="log-sum-exp and softmax see different scores: other scale, other columns, another base",
)
@given(x=hidden_rows(moderate=True, regimes=MODERATE, empty_rows=False))
def weights_from_lse(impl, x):
    """The weights are exp(score - lse): log-sum-exp is all that a backward pass needs to find them again."""
    agree(impl.softmax(x), (-impl.log_sum_exp(x)[:, None] + x).exp())


def finite_first_row(x):
    return {"x": x[0].tolist(), "n": x.shape[1]} if x[0].isfinite().all() else None


@weights_from_lse.proof(tie=finite_first_row)
def _():
    """For every n."""
    x = IndexedBase("x", real=True)
    total = sum_exp(lambda j: x[j])
    return exp(x[1]) / total, exp(x[1] - log(total))


@claim(
    rows="001-119 001-121",
    formula=r"\operatorname{lse}(x + c\mathbf 1) = \operatorname{lse}(x) + c",
    if_fails="the row maximum is not subtracted, or not added back",
    corrects="the_sum_of_exponentials_can_be_stored",
)
@given(x=rows(), c=shifts())
def lse_moves_with_the_scores(impl, x, c):
    """Adding one constant to every score adds it to log-sum-exp."""
    agree(impl.log_sum_exp(x + c), impl.log_sum_exp(x) + c)


@claim(
    rows="001-120 001-106",
    formula=r"\max_j x_j \le \operatorname{lse}(x) \le \max_j x_j + \log n",
    if_fails="a score is left out or counted twice: the tail of a block, padding",
)
@given(x=rows())
def lse_bounds(impl, x):
    """Log-sum-exp lies between the largest score and log n above it."""
    top, lse = x.amax(-1), impl.log_sum_exp(x)
    at_most(top, lse)
    at_most(lse, top + math.log(x.shape[1]))


@claim(
    rows="001-118 002-008",
    formula=r"\operatorname{lse}(x_\pi) = \operatorname{lse}(x)",
    if_fails="a block is left out, read twice, or its running maximum is forgotten",
)
@given(drawn=rows_and_permutation())
def lse_is_symmetric(impl, drawn):
    """The order of the scores does not matter."""
    x, order = drawn
    agree(impl.log_sum_exp(x[:, order]), impl.log_sum_exp(x))


@claim(
    rows="001-120 001-003",
    formula=r"\operatorname{lse}(x) \notin \mathbb R \;\text{ where }\; \max_j x_j \notin \mathbb R",
    if_fails="a maximum that ignores NaN, or a test for empty rows that also catches overflow",
)
@given(x=st.one_of(special_rows(), hidden_rows(most=3)))
def lse_of_special_rows(impl, x):
    """NaN stays NaN; +inf gives no finite number; a row of -inf, or an empty one, has -inf."""
    hidden = (x == -INF).all(-1)
    lse = impl.log_sum_exp(x)
    exactly(lse[hidden], -INF)
    exactly(lse[x.isnan().any(-1)], float("nan"))


# ---------------------------------------------------------------------------------------------------- exp in floats

@claim(
    rows="001-116 002-005",
    formula=r"\operatorname{fl}(e^x) = \infty \iff x > \log \Omega, \qquad \Omega \text{ the largest number}",
    over="floats",
)
@given(steps=st.integers(-64, 63))
def exp_overflows(steps, dtype):
    """exp overflows just above the logarithm of the largest number: at 11.09, 88.72 (twice) and 709.78."""
    limits = torch.finfo(getattr(torch, dtype))
    x = neighbour(torch.tensor(math.log(limits.max)).double().to(getattr(torch, dtype)), steps)
    above = float(x) > math.log(limits.max)
    assert bool(x.exp().isinf()) == above, f"exp({float(x)!r}) is {float(x.exp())} in {dtype}"


def neighbour(x, steps):
    """The number so many representable ones above (or below) x."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return (x.view(bits) + steps).view(x.dtype)


@claim(
    rows="001-117 002-005",
    formula=r"\operatorname{fl}(e^x) = 0 \text{ for } x < \log\tfrac\eta2, \qquad \operatorname{fl}(e^x) > 0 "
            r"\text{ for } x > \log\lambda, \qquad \eta, \lambda \text{ the smallest (normal) number}",
    over="floats",
)
@given(below=st.sampled_from([0.125, 0.5, 1.0, 8.0, 1000.0]))
def exp_underflows(below, dtype):
    """exp gives 0 below the logarithm of half the smallest number, and not before that of the smallest normal one."""
    limits, kind = torch.finfo(getattr(torch, dtype)), getattr(torch, dtype)
    normal, least = math.log(limits.smallest_normal), math.log(limits.smallest_normal) + math.log(limits.eps / 2)
    zero, positive = (torch.tensor(value, dtype=torch.float64).to(kind) for value in (least - below, normal + below))
    assert zero.exp() == 0, f"exp({float(zero)}) is {float(zero.exp())} in {dtype}"
    assert positive.exp() > 0, f"exp({float(positive)}) is 0 in {dtype}"


def has_a_finite_maximum(x):
    """The largest score of the row is finite."""
    return bool(x.amax(-1).isfinite().all())


@claim(
    rows="001-120 002-005",
    formula=r"0 \le e^{x_j - m} \le 1, \qquad 1 \le \sum_j e^{x_j - m} \le n, \qquad m = \max_j x_j",
    needs=has_a_finite_maximum,
    over="floats",
    corrects="exponentials_without_a_shift",
)
@given(x=special_rows(n_rows=1), stretch=st.booleans())
def subtracting_the_maximum_prevents_overflow(x, stretch, dtype):
    """With the row maximum subtracted no exponential exceeds 1 and their sum lies between 1 and n, in every dtype."""
    kind = getattr(torch, dtype)
    x = (x.sign() * torch.finfo(kind).max if stretch else x.clamp(-3e4, 3e4).where(x.isfinite(), x)).to(kind)
    e = (x - x.amax(-1, keepdim=True)).exp().double()
    total = float(e.sum())
    assert bool(((e >= 0) & (e <= 1)).all()) and 1 <= total <= x.shape[1], f"exponentials {e.tolist()}, sum {total}"


@refuted(rows="004-005 001-117 002-005", over="floats",
         formula=r"\operatorname{fl}\Bigl(\frac{e^{x_j}}{\sum_k e^{x_k}}\Bigr) \in \mathbb R")
@example(x=torch.tensor([[1000.0, 1.0, -1000.0]], dtype=torch.float64))
@given(x=rows(n_rows=1))
def exponentials_without_a_shift(x, dtype):
    """The formula of softmax can be evaluated as it is printed, and gives numbers."""
    e = x.to(getattr(torch, dtype)).exp()
    p = e / e.sum(-1, keepdim=True)
    assert p.isfinite().all(), f"e^x is {e.tolist()}, the quotient {p.tolist()}"


@refuted(rows="001-107", formula=r"0 < \operatorname{fl}\Bigl(\sum_j e^{x_j}\Bigr) < \infty", over="floats")
@example(x=torch.tensor([[1000.0, 1000.0]], dtype=torch.float64))
@given(x=rows(n_rows=1, moderate=True))
def the_sum_of_exponentials_can_be_stored(x, dtype):
    """For the backward pass it is enough to store the sum of exponentials of each row."""
    total = x.to(getattr(torch, dtype)).exp().sum()
    assert 0 < total < INF, f"the sum of exponentials is {float(total)}"


@refuted(rows="002-006", formula=r"\operatorname{fl}\Bigl(\sum_{j=1}^n e^0\Bigr) = n", over="floats",
         dtypes=("float16", "bfloat16"))
@example(n=4097)
@given(n=st.integers(1, 300))
def half_precision_can_count(n, dtype):
    """A denominator can be accumulated in half precision.

    Adding ones stops at 2048 in float16 and at 256 in bfloat16: from there on, 1 is half a unit in the last place.
    """
    one = torch.ones((), dtype=getattr(torch, dtype))
    total = one * 0
    for _ in range(n):
        total = total + one
    assert float(total) == n, f"{n} ones sum to {float(total)}"
