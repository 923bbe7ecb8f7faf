"""The gradient of layer norm: its Jacobian, what it cannot move, how large it can be, and whose parameters' it is."""

import torch
from sympy import IndexedBase, Sum, diff, sqrt, symbols

from properties import Result, agree, at_most, claim, exactly, example, given, refuted, st
from properties.strategies.norms import norm_gradients

zeros = torch.zeros(1, 2, dtype=torch.float64)
opposite = torch.tensor([[1.0, -1.0]], dtype=torch.float64)


def normalised(x, eps):
    """(x_hat, rstd) of every row."""
    centred = x - x.mean(-1, keepdim=True)
    rstd = ((centred**2).mean(-1, keepdim=True) + eps).rsqrt()
    return centred * rstd, rstd


def zero_bias(weight):
    return torch.zeros_like(weight)


# ------------------------------------------------------------------------------------------------- with respect to x

@claim(
    rows="004-031 004-026",
    formula=r"\frac{\partial y_i}{\partial x_j} = \frac{\alpha_i}{\sqrt{\sigma^2 + \varepsilon}}"
            r"\Bigl(\delta_{ij} - \frac1n - \frac{\hat x_i \hat x_j}{n}\Bigr), \qquad "
            r"\mathrm dx_j = \sum_i \mathrm dy_i \frac{\partial y_i}{\partial x_j}",
    if_fails="a term is missing: the mean or the standard deviation is taken as constant, or the weight is left out",
)
@given(drawn=norm_gradients(most=65))
def jacobian(impl, drawn):
    """The gradient contracts dy with the Jacobian, which subtracts from the identity what mean and deviation undo."""
    x, weight, dy, eps = drawn
    n, (x_hat, rstd) = x.shape[-1], normalised(x, eps)
    remaining = torch.eye(n).double() - 1 / n - x_hat[..., :, None] * x_hat[..., None, :] / n
    full = weight[:, None] * rstd[..., None] * remaining
    agree(impl.layer_norm_backward(*drawn).dx[..., None, :], Result.constant(dy[..., None, :]) @ full)


@jacobian.proof(tie=lambda drawn: {
    "x": drawn[0][0].tolist(), "w": drawn[1].tolist(), "dy": drawn[2][0].tolist(), "e": drawn[3],
    "n": drawn[0].shape[-1], "at": (0, 0, 0)})
def _():
    """For every n: the derivative of x_hat_1 along g = weight dy, which is what the symmetric Jacobian contracts."""
    j, n = symbols("j n", integer=True, positive=True)
    x, dy, w = (IndexedBase(name, real=True) for name in ("x", "dy", "w"))
    t, e = symbols("t e", real=True)
    sums = {name: Sum(term, (j, 1, n)) for name, term in {
        "x": x[j], "g": w[j] * dy[j], "xx": x[j]**2, "gx": w[j] * dy[j] * x[j], "gg": (w[j] * dy[j])**2}.items()}
    mean, mean_g = sums["x"] / n, sums["g"] / n
    moved_mean = mean + t * mean_g
    moved_variance = (sums["xx"] + 2 * t * sums["gx"] + t**2 * sums["gg"]) / n - moved_mean**2
    moved = (x[1] + t * w[1] * dy[1] - moved_mean) / sqrt(moved_variance + e)
    root = sqrt(sums["xx"] / n - mean**2 + e)
    x_hat, mean_gx = (x[1] - mean) / root, (sums["gx"] - mean * sums["g"]) / root / n
    return diff(moved, t).subs(t, 0), (w[1] * dy[1] - mean_g - x_hat * mean_gx) / root


@claim(
    rows="001-166 004-031",
    formula=r"\sum_j \mathrm dx_j = 0",
    if_fails="the mean of dy times weight is not subtracted, or is taken over a part of the row",
)
@given(drawn=norm_gradients())
def gradient_sums_to_zero(impl, drawn):
    """The gradient of every row sums to 0: no direction leads towards a common shift, which changes nothing."""
    agree(impl.layer_norm_backward(*drawn).dx.sum(-1), 0)


@gradient_sums_to_zero.proof(untied="it is the sum over a whole row, tied for its terms by the Jacobian's proof")
def _():
    """For every n: the terms g_j - mean(g) - (x_j - mean) s summed over j, s being common to the row."""
    j, n = symbols("j n", integer=True, positive=True)
    x, g, s = IndexedBase("x", real=True), IndexedBase("g", real=True), symbols("s", real=True)
    total, total_g = Sum(x[j], (j, 1, n)), Sum(g[j], (j, 1, n))
    return total_g - n * (total_g / n) - s * (total - n * (total / n)), 0


@claim(
    rows="001-166 004-031",
    formula=r"\sum_j \mathrm dx_j\,(x_j - \mu) = \frac{\varepsilon}{\sigma^2 + \varepsilon}"
            r"\sum_j \mathrm dy_j\,\alpha_j\,\hat x_j",
    if_fails="the standard deviation is taken as constant: its term x_hat mean(g x_hat) is missing, or has another eps",
)
@given(drawn=norm_gradients())
def stretching_a_row_changes_what_eps_leaves(impl, drawn):
    """Along the row's own deviation from its mean the gradient has only the share eps / (sigma^2 + eps) of what dy asks
    for: without eps, stretching a row would change nothing."""
    x, weight, dy, eps = drawn
    x_hat, rstd = normalised(x, eps)
    wanted = (impl.layer_norm(x, weight, zero_bias(weight), eps=eps) * dy).sum(-1)
    agree((impl.layer_norm_backward(*drawn).dx * (x_hat / rstd)).sum(-1), wanted * (eps * rstd**2)[..., 0])


@stretching_a_row_changes_what_eps_leaves.proof(
    untied="it sums whole rows, tied for their terms by the Jacobian's proof")
def _():
    """For every n, in terms of the sums over a row: v n = sum c_j^2 and s = sum g_j c_j, with sum c_j = 0."""
    n, v, e = symbols("n v e", positive=True)
    s, g = symbols("s g", real=True)
    rstd, sum_c = 1 / sqrt(v + e), 0
    return rstd * (s - g / n * sum_c - rstd * (v * n) * (s * rstd / n)), e / (v + e) * s * rstd


@claim(
    rows="004-031",
    formula=r"\langle u, J v\rangle = \langle v, J u\rangle \quad (\alpha = 1)",
    if_fails="x_hat and dy change roles somewhere, or one of the two means is taken of the wrong product",
)
@given(drawn=norm_gradients(), by=st.sampled_from([1, -1]))
def jacobian_is_symmetric(impl, drawn, by):
    """Before the weight, the Jacobian is symmetric: the gradient of v.x_hat along u is that of u.x_hat along v."""
    x, weight, u, eps = drawn
    v, ones = u.roll(by, -1), torch.ones_like(weight)
    agree((impl.layer_norm_backward(x, ones, v, eps=eps).dx * u).sum(-1),
          (impl.layer_norm_backward(x, ones, u, eps=eps).dx * v).sum(-1))


@claim(
    rows="004-031",
    formula=r"\lVert\mathrm dx\rVert_2 \le \frac{\lVert\alpha\odot\mathrm dy\rVert_2}{\sqrt{\sigma^2 + \varepsilon}}",
    if_fails="a factor too many: multiplied by sigma instead of divided, or eps left out",
    corrects="gradient_cannot_explode",
)
@given(drawn=norm_gradients())
def gradient_is_bounded_by_the_deviation(impl, drawn):
    """The gradient can grow by 1 / sqrt(sigma^2 + eps), and by no more: rows of tiny variance have huge gradients."""
    x, weight, dy, eps = drawn
    dx = impl.layer_norm_backward(*drawn).dx
    at_most((dx * dx).sum(-1), ((weight * dy * normalised(x, eps)[1]) ** 2).sum(-1))


@refuted(rows="004-031", formula=r"\max_j |\mathrm dx_j| \le \max_j |\mathrm dy_j| \quad (\alpha = 1)")
@example(drawn=(zeros, torch.ones(2).double(), opposite, 1e-5))
@given(drawn=norm_gradients(most=9))
def gradient_cannot_explode(impl, drawn):
    """Layer norm keeps gradients from exploding: none exceeds the largest that comes in."""
    x, weight, dy, eps = drawn
    at_most(impl.layer_norm_backward(x, torch.ones_like(weight), dy, eps=eps).dx, dy.abs().amax(-1, keepdim=True))


@claim(
    rows="004-026 004-031",
    formula=r"\mathrm dx(\alpha, \mathrm dy) = \mathrm dx(1, \alpha\odot\mathrm dy)",
    if_fails="the weight is left out of dx, or multiplied on after the means are subtracted",
)
@given(drawn=norm_gradients())
def weight_scales_what_comes_in(impl, drawn):
    """The weight acts on dy, before anything is subtracted: as if the product had come in beside a weight of 1."""
    x, weight, dy, eps = drawn
    agree(impl.layer_norm_backward(*drawn).dx,
          impl.layer_norm_backward(x, torch.ones_like(weight), weight * dy, eps=eps).dx)


@claim(
    rows="001-167 004-029",
    formula=r"J(x + c\mathbf 1) = J(x)",
    if_fails="the gradient uses x where it should use x - mean, or the variance is E[x^2] - E[x]^2",
)
@given(drawn=norm_gradients(), c=st.sampled_from([1.0, -8.0, 64.0, -1000.0]))
def gradients_are_shift_invariant(impl, drawn, c):
    """A common shift of a row leaves all three gradients as they are."""
    x, *others = drawn
    for moved, here in zip(impl.layer_norm_backward(x + c, *others), impl.layer_norm_backward(*drawn), strict=True):
        agree(moved, here)


@claim(
    rows="001-167 004-031",
    formula=r"\mathrm dx_{a^2\varepsilon}(a x) = \tfrac1{|a|}\,\mathrm dx_\varepsilon(x)",
    if_fails="eps is not the one that was handed in, or 1 / sqrt(sigma^2 + eps) comes in too often or not at all",
)
@given(drawn=norm_gradients(regimes=("integers", "one apart")), a=st.sampled_from([2.0, -1.0, -4.0, 32.0]))
def larger_rows_have_smaller_gradients(impl, drawn, a):
    """A row that is scaled up has a gradient that is as much smaller, and of the same sign, if eps is scaled by the
    square."""
    x, weight, dy, eps = drawn
    agree(impl.layer_norm_backward(a * x, weight, dy, eps=a * a * eps).dx * abs(a), impl.layer_norm_backward(*drawn).dx)


# ----------------------------------------------------------------------------------- with respect to weight and bias

@claim(
    rows="004-026",
    formula=r"\mathrm d\alpha = \sum_r \mathrm dy_r\odot\hat x_r, \qquad \mathrm d\beta = \sum_r \mathrm dy_r",
    if_fails="rows are left out of the sums (a last block, all but one), counted twice, averaged; x stands for x_hat",
)
@given(drawn=norm_gradients())
def parameter_gradients(impl, drawn):
    """The gradient of the bias is the sum of dy over all rows, that of the weight the sum of dy x_hat."""
    x, weight, dy, eps = drawn
    _, dw, db = impl.layer_norm_backward(*drawn)
    agree(dw, (impl.layer_norm(x, torch.ones_like(weight), zero_bias(weight), eps=eps) * dy).sum(0))
    agree(db, dy.sum(0))


@claim(
    rows="004-026",
    formula=r"\mathrm d\alpha(X) = \sum_r \mathrm d\alpha(X_r), \qquad \mathrm d\beta(X) = \sum_r \mathrm d\beta(X_r)",
    if_fails="rows are left out of the sums, counted twice or averaged, or partial sums are overwritten",
)
@given(drawn=norm_gradients(tokens=True))
def parameter_gradients_add_up(impl, drawn):
    """The gradients of weight and bias of several samples are the sum of those of each token by itself."""
    x, weight, dy, eps = drawn
    _, dw, db = impl.layer_norm_backward(*drawn)
    each = [impl.layer_norm_backward(row, weight, dy_row, eps=eps)
            for row, dy_row in zip(x.flatten(0, 1), dy.flatten(0, 1), strict=True)]
    agree(dw, sum(one.dw for one in each))
    agree(db, sum(one.db for one in each))


@claim(
    rows="004-026",
    formula=r"\frac{\partial\,\mathrm d\alpha}{\partial\alpha} = \frac{\partial\,\mathrm d\beta}{\partial\alpha} = 0",
    if_fails="dw or db is computed from dy times weight",
)
@given(drawn=norm_gradients(), other=st.sampled_from([0.0, 1.0, -3.0, 4096.0]))
def parameter_gradients_do_not_see_the_weight(impl, drawn, other):
    """Whatever the weight is, weight and bias have the same gradients: not a bit changes."""
    x, weight, dy, eps = drawn
    here, there = impl.layer_norm_backward(*drawn), impl.layer_norm_backward(x, 0 * weight + other, dy, eps=eps)
    exactly(here.dw, there.dw)
    exactly(here.db, there.db)


# --------------------------------------------------------------------------------------------------------- all three

@claim(
    rows="004-031",
    formula=r"\mathrm d(x, \alpha, \beta)\text{ is linear in }\mathrm dy",
    if_fails="dy enters twice, or a part of the gradient does not depend on it",
)
@given(drawn=norm_gradients(), by=st.sampled_from([1, -1]), scale=st.sampled_from([0.0, 1.0, -2.0, 8.0]))
def gradients_are_linear(impl, drawn, by, scale):
    """All three gradients are linear in dy."""
    x, weight, dy, eps = drawn
    other = dy.roll(by, -1)
    combined = impl.layer_norm_backward(x, weight, dy + scale * other, eps=eps)
    for both, one, two in zip(combined, impl.layer_norm_backward(*drawn),
                              impl.layer_norm_backward(x, weight, other, eps=eps), strict=True):
        agree(both, one + two * scale)


@claim(
    rows="001-165 001-169 004-029",
    formula=r"\mathrm dx_1 \text{ depends on } x_1, \mathrm dy_1 \text{ alone}",
    if_fails="a mean runs over rows, or a program reads past its row",
)
@given(drawn=norm_gradients(tokens=True), other=st.sampled_from([0.0, 1.0, 1e4, float("nan")]))
def gradient_rows_are_independent(impl, drawn, other):
    """A token's dx does not depend on other tokens or other samples, be they NaN: not a bit changes."""
    x, weight, dy, eps = drawn
    poisoned = [torch.full_like(x, other), torch.full_like(dy, other)]
    poisoned[0][0, 0], poisoned[1][0, 0] = x[0, 0], dy[0, 0]
    exactly(impl.layer_norm_backward(*drawn).dx[0, 0],
            impl.layer_norm_backward(poisoned[0], weight, poisoned[1], eps=eps).dx[0, 0])
