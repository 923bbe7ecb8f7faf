"""Layer norm: its definition, its moments, what it is invariant under, and what it is not."""

import torch
from sympy import IndexedBase, Sum, sqrt, symbols
from torch.nn.functional import layer_norm

from properties import agree, at_most, claim, exactly, example, given, refuted, st
from properties.strategies.norms import norm_inputs

one_and_zero = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
two_ones = torch.ones(2).double(), torch.zeros(2).double(), 1e-5
shifts = st.sampled_from([1.0, -1.0, 8.0, -64.0, 1000.0, -4096.0])


def centred(x):
    return x - x.mean(-1, keepdim=True)


def variance(x):
    """The biased one: the mean of the squared distances from the mean."""
    return (centred(x) ** 2).mean(-1, keepdim=True)


def unweighted(x):
    """x with weight 1 and bias 0."""
    return x, torch.ones(x.shape[-1]).double(), torch.zeros(x.shape[-1]).double()


# ------------------------------------------------------------------------------------------------------- definition

@claim(
    rows="004-026 004-028",
    formula=r"\bigl(y_j - \beta_j\bigr)\sqrt{\sigma^2 + \varepsilon} = \alpha_j\,(x_j - \mu), \qquad "
            r"\mu = \tfrac1n\sum_k x_k, \quad \sigma^2 = \tfrac1n\sum_k (x_k - \mu)^2",
    if_fails="the variance is divided by n - 1, eps stands outside the root, the axis is another one, or "
             "E[x^2] - E[x]^2 cancels",
    corrects="variance_from_two_means",
)
@given(drawn=norm_inputs())
def definition(impl, drawn):
    """Each entry's distance from the mean of its row is divided by the root of the biased variance plus eps, then
    multiplied by the weight; the bias is added."""
    x, weight, bias, eps = drawn
    agree((impl.layer_norm(*drawn) - bias) * (variance(x) + eps).sqrt(), weight * centred(x))


def first_row(drawn):
    x, weight, bias, eps = drawn
    return {"x": x[0].tolist(), "n": x.shape[-1], "w": float(weight[0]), "b": float(bias[0]), "e": eps}


@definition.proof(tie=first_row)
def _():
    """For every n, with the variance computed as the mean square less the squared mean: the same real number."""
    j, n = symbols("j n", integer=True, positive=True)
    x, (w, b, e) = IndexedBase("x", real=True), symbols("w b e", real=True)
    mean = Sum(x[j], (j, 1, n)) / n
    y = (x[1] - mean) / sqrt(Sum(x[j]**2, (j, 1, n)) / n - mean**2 + e) * w + b
    return (y - b) * sqrt(Sum(x[j]**2, (j, 1, n)) / n - mean**2 + e), w * (x[1] - mean)


@refuted(rows="004-026", formula=r"\sigma^2 = \operatorname{fl}(\overline{x^2}) - \operatorname{fl}(\bar x^2)",
         over="floats")
@example(e=60)
@given(e=st.integers(0, 60))
def variance_from_two_means(e, dtype):
    """In floating point, too, the variance is the mean of the squares less the square of the mean.

    Both are rounded before they are subtracted: of 2^e - 1 and 2^e + 1, whose variance is 1, nothing may be left.
    """
    x = (torch.tensor([-1.0, 1.0]).double() + 2.0**e).to(getattr(torch, dtype))
    found, true = (x * x).mean() - x.mean() ** 2, variance(x.double()).item()
    assert abs(found - true) <= 0.5 * true, f"{x.tolist()}: {found}, but the variance is {true}"


@claim(
    rows="004-026 004-030",
    formula=r"\operatorname{LN}_{\alpha,\beta}(x) = \alpha\odot\operatorname{LN}_{1,0}(x) + \beta",
    if_fails="weight or bias is ignored, applied before the statistics are taken, or read at another column",
)
@given(drawn=norm_inputs())
def weight_and_bias_come_last(impl, drawn):
    """Weight and bias see the normalised row: they neither change its statistics nor are normalised away."""
    x, weight, bias, eps = drawn
    agree(impl.layer_norm(*drawn), impl.layer_norm(*unweighted(x), eps=eps) * weight + bias)


@claim(
    rows="004-030",
    formula=r"W(\alpha\odot\hat x + \beta) = (W\operatorname{diag}\alpha)\,\hat x + W\beta",
    if_fails="weight or bias is ignored, or read at another column",
)
@given(drawn=norm_inputs(most=33), columns=st.sampled_from([1, 2, 3]))
def a_linear_map_absorbs_weight_and_bias(impl, drawn, columns):
    """Before a linear map, as in a Transformer, weight and bias add nothing: they can be folded into the map."""
    x, weight, bias, eps = drawn
    w = torch.arange(1.0, 1.0 + columns * x.shape[-1]).double().reshape(columns, -1).T % 5 - 2
    agree(impl.layer_norm(*drawn) @ w, impl.layer_norm(*unweighted(x), eps=eps) @ (weight[:, None] * w) + bias @ w)


# ---------------------------------------------------------------------------------------------------------- moments

@claim(
    rows="001-166 004-027",
    formula=r"\sum_j \hat x_j = 0",
    if_fails="the mean is that of another axis, of a part of the row, or includes padding",
)
@given(drawn=norm_inputs())
def mean_is_zero(impl, drawn):
    """Before weight and bias, every row has mean 0."""
    x, _, _, eps = drawn
    agree(impl.layer_norm(*unweighted(x), eps=eps).sum(-1), 0)


@mean_is_zero.proof(untied="it is the sum over a whole row, whose terms the definition's proof ties")
def _():
    """For every n: the numerators x_j - mean, summed over j."""
    j, n = symbols("j n", integer=True, positive=True)
    x = IndexedBase("x", real=True)
    return Sum(x[j], (j, 1, n)) - n * (Sum(x[j], (j, 1, n)) / n), 0


@claim(
    rows="001-166 004-027",
    formula=r"\tfrac1n\sum_j \hat x_j^2 = \frac{\sigma^2}{\sigma^2 + \varepsilon}",
    if_fails="the variance is divided by n - 1, or eps stands outside the root",
    corrects="variance_is_one",
)
@given(drawn=norm_inputs())
def variance_is_short_of_one(impl, drawn):
    """Before weight and bias, every row has variance sigma^2 / (sigma^2 + eps): near 1 only where sigma^2 is far above
    eps."""
    x, _, _, eps = drawn
    y = impl.layer_norm(*unweighted(x), eps=eps)
    agree((y * y).mean(-1), (variance(x) / (variance(x) + eps))[..., 0])


@variance_is_short_of_one.proof(tie=first_row)
def _():
    """For every n; the square of (x_j - mean) is multiplied out."""
    j, n = symbols("j n", integer=True, positive=True)
    x, e = IndexedBase("x", real=True), symbols("e", real=True)
    total, squares = Sum(x[j], (j, 1, n)), Sum(x[j]**2, (j, 1, n))
    v = squares / n - (total / n)**2
    return (squares - 2 * total / n * total + n * (total / n)**2) / n / (v + e), v / (v + e)


@refuted(rows="004-027", formula=r"\tfrac1n\sum_j \hat x_j^2 = 1")
@example(drawn=(torch.zeros(1, 2).double(), *two_ones))
@given(drawn=norm_inputs(most=9))
def variance_is_one(impl, drawn):
    """Before weight and bias, every row has variance 1."""
    x, _, _, eps = drawn
    y = impl.layer_norm(*unweighted(x), eps=eps)
    agree((y * y).mean(-1), 1)


@claim(
    rows="001-166",
    formula=r"|\hat x_j| \le \sqrt{n - 1}",
    if_fails="the standard deviation is too small: it leaves out entries, or is that of another row",
)
@given(drawn=norm_inputs())
def outliers_are_bounded(impl, drawn):
    """Before weight and bias no entry exceeds sqrt(n - 1), however far out it lies; a row of one entry is 0."""
    x, _, _, eps = drawn
    y = impl.layer_norm(*unweighted(x), eps=eps)
    at_most(y * y, x.shape[-1] - 1)


@claim(
    rows="004-028 001-166 004-027",
    formula=r"\varepsilon > 0 \;\Rightarrow\; \operatorname{LN}(c\mathbf 1) = \beta",
    if_fails="eps is lost (rounded to half precision it is 0), outside the root, or the variance comes out negative",
    corrects="any_eps_prevents_division_by_zero",
)
@given(drawn=norm_inputs(regimes=("constant",)), eps=st.sampled_from([1e-5, 1.0, 1e-8, 1e-12]))
def constant_rows_give_the_bias(impl, drawn, eps):
    """A row of equal entries gives the bias: eps, however small, prevents the division of 0 by 0."""
    x, weight, bias, _ = drawn
    agree(impl.layer_norm(x, weight, bias, eps=eps), bias)


@constant_rows_give_the_bias.proof(untied="a row of equal entries is the definition's proof at x_j = c")
def _():
    """For every n and c: the definition at x_j = c, where every numerator is c - (n c) / n."""
    c, n, e = symbols("c n e", positive=True)
    w, b = symbols("w b", real=True)
    return (c - n * c / n) / sqrt((n * c**2 / n) - (n * c / n)**2 + e) * w + b, b


@refuted(rows="004-028", formula=r"\varepsilon > 0 \;\Rightarrow\; \operatorname{fl}(\varepsilon) > 0", over="floats",
         dtypes=("float16",))
@example(eps=1e-12)
@given(eps=st.sampled_from([1e-3, 1e-5, 1e-6, 1e-8, 1e-12]))
def any_eps_prevents_division_by_zero(eps, dtype):
    """Any positive eps prevents the division by zero, also where it is added in half precision."""
    zero = torch.zeros((), dtype=getattr(torch, dtype))
    assert zero + torch.tensor(eps, dtype=zero.dtype) > 0, f"0 + {eps:g} is 0 in {dtype}"


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
@example(drawn=(one_and_zero, *two_ones), a=2.0**-10)
@given(drawn=norm_inputs(most=9), a=st.sampled_from([2.0, -1.0, 2.0**-10]))
def scale_invariance_at_fixed_eps(impl, drawn, a):
    """Scaling a row leaves its layer norm as it is but for the sign, with any eps."""
    x, _, _, eps = drawn
    sign = 1.0 if a > 0 else -1.0
    agree(impl.layer_norm(*unweighted(a * x), eps=eps), impl.layer_norm(*unweighted(x), eps=eps) * sign)


@refuted(rows="001-066", formula=r"\operatorname{LN}(2x) = 2\operatorname{LN}(x)")
@example(drawn=(one_and_zero, *two_ones))
@given(drawn=norm_inputs(most=9))
def layer_norm_is_linear(impl, drawn):
    """Layer norm is linear: all non-linearity of a Transformer comes from its activation and from attention."""
    x, _, _, eps = drawn
    agree(impl.layer_norm(*unweighted(2 * x), eps=eps), impl.layer_norm(*unweighted(x), eps=eps) * 2)


@claim(
    rows="000-018 001-166",
    formula=r"\langle\hat x, \hat y\rangle = n\,\frac{\operatorname{cov}(x, y)}"
            r"{\sqrt{\sigma_x^2 + \varepsilon}\sqrt{\sigma_y^2 + \varepsilon}}",
    if_fails="the mean is not subtracted, or rows have different scales",
)
@given(drawn=norm_inputs(most=129))
def inner_products_are_correlations(impl, drawn):
    """Inner products of normalised rows are n times their correlation, up to eps: what makes a score a cosine."""
    x, _, _, eps = drawn
    y, sd = impl.layer_norm(*unweighted(x), eps=eps), (variance(x) + eps).sqrt()
    other = centred(x.roll(1, 0)) / sd.roll(1, 0)
    agree((y * other).sum(-1), (centred(x) / sd * other).sum(-1))


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
@example(drawn=(torch.tensor([[[1.0, 0.0], [8.0, 8.0]]]).double(), *two_ones))
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
