"""Layer norm: its definition and its moments."""

import torch
from sympy import IndexedBase, Sum, sqrt, symbols

from properties import agree, at_most, claim, example, given, refuted, st
from properties.strategies.norms import first_row, norm_inputs, unweighted


def centred(x):
    return x - x.mean(-1, keepdim=True)


def variance(x):
    """The biased one: the mean of the squared distances from the mean."""
    return (centred(x) ** 2).mean(-1, keepdim=True)


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
@example(drawn=(*unweighted(torch.zeros(1, 2).double()), 1e-5))
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
