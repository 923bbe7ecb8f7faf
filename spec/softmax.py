"""Softmax: what it is invariant under, what it sums to, how it changes, where it saturates."""

from sympy import IndexedBase, Sum, exp, symbols

from properties import agree, claim, given, rows, shifts


@claim(
    rows="001-119 001-121",
    formula=r"\operatorname{softmax}(x + c\mathbf 1) = \operatorname{softmax}(x)",
    if_fails="the row maximum is not subtracted, or not over the whole row",
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
