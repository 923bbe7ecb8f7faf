"""Layer norm: what it is invariant under, what it is not, and what a token sees."""

import torch
from sympy import IndexedBase, Sum, sqrt, symbols
from torch.nn.functional import layer_norm

from properties import agree, claim, exactly, example, given, refuted, st
from properties.strategies.norms import first_row, norm_inputs, unweighted

one_and_zero = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
shifts = st.sampled_from([1.0, -1.0, 8.0, -64.0, 1000.0, -4096.0])


# ------------------------------------------------------------------------------------------------------- invariance

@claim(
    rows="001-167 004-029",
    formula=r"\operatorname{LN}(x + c\mathbf 1) = \operatorname{LN}(x)",
    if_fails="the mean is not subtracted (root mean square norm), or the variance is E[x^2] - E[x]^2",
    corrects="any_offset_keeps_the_order",
)
@given(drawn=norm_inputs(), c=shifts)
def shift_invariance(impl, drawn, c):
    """Adding one constant to all entries of a row changes nothing, whatever eps."""
    x, *others = drawn
    agree(impl.layer_norm(x + c, *others), impl.layer_norm(x, *others))


@shift_invariance.proof(tie=lambda drawn, c: first_row(drawn) | {"c": c})
def _():
    """For every n and c."""
    j, n = symbols("j n", integer=True, positive=True)
    x, (w, b, c, e) = IndexedBase("x", real=True), symbols("w b c e", real=True)
    total, squares = Sum(x[j], (j, 1, n)), Sum(x[j]**2, (j, 1, n))

    def y(first, total, squares):
        return (first - total / n) / sqrt(squares / n - (total / n)**2 + e) * w + b

    return y(x[1] + c, total + n * c, squares + 2 * c * total + n * c**2), y(x[1], total, squares)


@refuted(rows="001-167", formula=r"\operatorname{LN}(\operatorname{fl}(c, 1 + c)) = \operatorname{LN}(0, 1)",
         over="floats")
@example(e=60)
@given(e=st.integers(0, 60))
def any_offset_keeps_the_order(e, dtype):
    """In floating point, too, any offset may be added: of two different entries the larger stays the larger.

    Entry and offset are rounded to one number before layer norm sees it; by 2^53 at the latest, 0 and 1 are equal.
    """
    y = layer_norm((torch.tensor([0.0, 1.0]).double() + 2.0**e).to(getattr(torch, dtype)), (2,))
    assert y[0] < y[1], f"offset by 2^{e} both entries become {float(y[0])}"


@claim(
    rows="001-167 004-029",
    formula=r"\operatorname{LN}_{a^2\varepsilon}(a x + c\mathbf 1) - \beta "
            r"= \operatorname{sign}(a)\,\bigl(\operatorname{LN}_\varepsilon(x) - \beta\bigr)",
    if_fails="eps stands outside the root or is a constant of its own, or an absolute value or square lost the sign",
    corrects="scale_invariance_at_fixed_eps layer_norm_is_linear",
)
@given(drawn=norm_inputs(), a=st.sampled_from([2.0, -1.0, 3.0, -0.75, 16.0]), c=st.sampled_from([0.0, 1.0, -8.0]))
def affine_invariance(impl, drawn, a, c):
    """Scaling and shifting a row leaves its layer norm as it is but for the sign, if eps is scaled by the square."""
    x, weight, bias, eps = drawn
    moved = impl.layer_norm(a * x + c, weight, bias, eps=a * a * eps) - bias
    agree(moved, (impl.layer_norm(*drawn) - bias) * (1.0 if a > 0 else -1.0))


@claim(
    rows="001-167",
    formula=r"\operatorname{LN}_{4^k\varepsilon}(\pm 2^k x) = \pm\operatorname{LN}_\varepsilon(x) \quad (\beta = 0)",
    if_fails="eps is not the one that was handed in, or is added at another place",
)
@given(drawn=norm_inputs(regimes=("integers", "one apart")), a=st.sampled_from([2.0, -1.0, -4.0, 32.0]))
def powers_of_two_cancel(impl, drawn, a):
    """Scaling by a power of two, with eps scaled by its square, changes no bit but the sign: every step scales so."""
    x, weight, bias, eps = drawn
    exactly(impl.layer_norm(a * x, weight, 0 * bias, eps=a * a * eps),
            impl.layer_norm(x, weight, 0 * bias, eps=eps) * (1.0 if a > 0 else -1.0))


@refuted(rows="001-167",
         formula=r"\operatorname{LN}_\varepsilon(a x) = \operatorname{sign}(a)\operatorname{LN}_\varepsilon(x)")
@example(drawn=(*unweighted(one_and_zero), 1e-5), a=2.0**-10)
@given(drawn=norm_inputs(most=9), a=st.sampled_from([2.0, -1.0, 2.0**-10]))
def scale_invariance_at_fixed_eps(impl, drawn, a):
    """Scaling a row leaves its layer norm as it is but for the sign, with any eps."""
    x, _, _, eps = drawn
    sign = 1.0 if a > 0 else -1.0
    agree(impl.layer_norm(*unweighted(a * x), eps=eps), impl.layer_norm(*unweighted(x), eps=eps) * sign)


@refuted(rows="001-066", formula=r"\operatorname{LN}(2x) = 2\operatorname{LN}(x)")
@example(drawn=(*unweighted(one_and_zero), 1e-5))
@given(drawn=norm_inputs(most=9))
def layer_norm_is_linear(impl, drawn):
    """Layer norm is linear: all non-linearity of a Transformer comes from its activation and from attention."""
    x, _, _, eps = drawn
    agree(impl.layer_norm(*unweighted(2 * x), eps=eps), impl.layer_norm(*unweighted(x), eps=eps) * 2)



# ------------------------------------------------------------------------------------------------------ what is seen

@claim(
    rows="001-165 001-169 004-029",
    formula=r"\operatorname{LN}(X)_{1} = \operatorname{LN}(Y)_{1} \quad\text{where } X_1 = Y_1",
    if_fails="statistics run over the sequence or the batch, or a program reads past its row",
    corrects="all_dims_of_a_sample",
)
@given(drawn=norm_inputs(tokens=True), other=st.sampled_from([0.0, 1.0, 1e4, float("nan"), float("inf")]))
def tokens_are_independent(impl, drawn, other):
    """A token's layer norm does not depend on other tokens or other samples, be they NaN: not a bit changes."""
    x, *others = drawn
    y = torch.full_like(x, other)
    y[0, 0] = x[0, 0]
    exactly(impl.layer_norm(x, *others)[0, 0], impl.layer_norm(y, *others)[0, 0])


@refuted(rows="001-165", formula=r"\mu, \sigma^2 \text{ over all entries of a sample}")
@example(drawn=(*unweighted(torch.tensor([[[1.0, 0.0], [8.0, 8.0]]]).double()), 1e-5))
@given(drawn=norm_inputs(tokens=True, most=9))
def all_dims_of_a_sample(impl, drawn):
    """Layer norm in a Transformer takes mean and variance over all dims of a sample: its tokens and their features."""
    x, _, _, eps = drawn
    jointly = impl.layer_norm(*unweighted(x.flatten(1)), eps=eps).reshape(tuple(x.shape))
    agree(impl.layer_norm(*unweighted(x), eps=eps), jointly)


@claim(
    rows="004-026 004-029",
    formula=r"\operatorname{LN}_{\alpha_\pi,\beta_\pi}(x_\pi) = \operatorname{LN}_{\alpha,\beta}(x)_\pi",
    if_fails="weight or bias is read at another column, or the last columns are left out",
)
@given(drawn=norm_inputs(least=2), by=st.integers(1, 5), turned=st.booleans())
def permutation_equivariance(impl, drawn, by, turned):
    """Permuting the features, with their weights and biases, permutes the result: layer norm knows no order."""
    x, weight, bias, eps = drawn
    order = torch.arange(x.shape[-1]).roll(by)
    order = order.flip(0) if turned else order
    agree(impl.layer_norm(x[:, order], weight[order], bias[order], eps=eps), impl.layer_norm(*drawn)[:, order])
