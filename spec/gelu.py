"""GELU: its definition, its symmetry, how far from ReLU it lies, where it rises, and what is only close to it."""

import math

import torch
from sympy import Symbol, diff, erf, exp, pi, sqrt, symbols

from properties import agree, at_most, claim, exactly, example, given, refuted, st
from properties.strategies.norms import elements


def normal_cdf(x):
    """Phi, the distribution function of the normal distribution; erfc keeps its left tail."""
    return 0.5 * torch.special.erfc(-x * 0.5**0.5)


def normal_density(x):
    return (-0.5 * x * x).exp() / math.sqrt(2 * math.pi)


def symbolic_gelu(x):
    return x * (1 + erf(x / sqrt(2))) / 2


def right_of_the_minimum(x, **_):
    """All inputs are at least -3/4, which lies just right of the minimum at -0.7518."""
    return bool((x >= -0.75).all())


# ------------------------------------------------------------------------------------------------------- definition

@claim(
    rows="001-069 002-113",
    formula=r"\operatorname{GELU}(x) = x\,\Phi(x), \qquad "
            r"\Phi(x) = \tfrac12\bigl(1 + \operatorname{erf}(x/\sqrt2)\bigr)",
    if_fails="an approximation (tanh, x sigmoid(1.702 x)) is sold as exact, or erf sees x instead of x / sqrt 2",
    corrects="tanh_form_is_exact sigmoid_form_is_exact",
)
@given(x=elements(far=8.0))
def definition(impl, x):
    """GELU multiplies each number by the probability that a normal variable lies below it."""
    agree(impl.gelu(x), x * normal_cdf(x))


@refuted(rows="001-069 002-113",
         formula=r"\operatorname{GELU}(x) = \tfrac x2\bigl(1 + \tanh(\sqrt{2/\pi}\,(x + 0.044715\,x^3))\bigr)")
@example(x=torch.tensor([2.0], dtype=torch.float64))
@given(x=elements())
def tanh_form_is_exact(impl, x):
    """GELU and its form with tanh are the same function."""
    agree(impl.gelu(x), 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


@refuted(rows="002-113", formula=r"\operatorname{GELU}(x) = x\,\sigma(1.702\,x)")
@example(x=torch.tensor([2.0], dtype=torch.float64))
@given(x=elements())
def sigmoid_form_is_exact(impl, x):
    """GELU is x times the logistic sigmoid of 1.702 x."""
    agree(impl.gelu(x), x * torch.sigmoid(1.702 * x))


@claim(
    rows="002-113 002-112",
    formula=r"\operatorname{GELU}(X)_1 \text{ depends on } X_1 \text{ alone}",
    if_fails="a lane reads its neighbour, or the vector path and the tail path compute different functions",
)
@given(x=elements(), other=st.sampled_from([0.0, -1.0, 1e4, -1e4, float("nan")]))
def elements_are_independent(impl, x, other):
    """Every element is computed from itself alone: not a bit of it changes with the others, be they NaN."""
    y = torch.full_like(x, other)
    y[0] = x[0]
    exactly(impl.gelu(x)[0], impl.gelu(y)[0])


@claim(
    rows="002-113 002-112",
    formula=r"\operatorname{GELU}(x)_i = \operatorname{GELU}(x_i)",
    if_fails="the vector path and the tail path compute different functions",
)
@given(x=elements(least=2), place=st.integers(0, 255))
def any_place_any_length(impl, x, place):
    """An element has the same GELU by itself as anywhere among others: vector path and remainder are one function."""
    i = place % len(x)
    agree(impl.gelu(x)[i], impl.gelu(x[i : i + 1])[0])


# --------------------------------------------------------------------------------------------------------- symmetry

@claim(
    rows="001-069 002-113 002-115",
    formula=r"\operatorname{GELU}(x) - \operatorname{GELU}(-x) = x",
    if_fails="the gate is no distribution function of a symmetric variable: Phi(x) + Phi(-x) is not 1",
    corrects="gelu_is_even",
)
@given(x=elements(far=8.0))
def reflection(impl, x):
    """The odd part of GELU is x / 2: GELU(x) and GELU(-x) differ by x."""
    agree(impl.gelu(x) - impl.gelu(-x), x)


@reflection.proof
def _():
    """For every real x."""
    x = symbols("x_1", real=True)
    return symbolic_gelu(x) - symbolic_gelu(-x), x


@refuted(rows="002-115", formula=r"\operatorname{GELU}(x) = \operatorname{GELU}(-x)")
@example(x=torch.tensor([1.0], dtype=torch.float64))
@given(x=elements())
def gelu_is_even(impl, x):
    """GELU has the form of a Gaussian, which is even."""
    agree(impl.gelu(x), impl.gelu(-x))


@claim(
    rows="002-115 002-113",
    formula=r"0 \le \operatorname{GELU}(x) + \operatorname{GELU}(-x) \le |x|",
    if_fails="the gate leaves [0, 1], or falls",
)
@given(x=elements(far=8.0))
def even_part(impl, x):
    """The even part of GELU lies between 0 and |x| / 2: it is unbounded, and no Gaussian."""
    both = impl.gelu(x) + impl.gelu(-x)
    at_most(0, both)
    at_most(both, x.abs())


# ----------------------------------------------------------------------------------------------------- tails, bounds

@claim(
    rows="002-115 001-069",
    formula=r"\frac{x^2}{1 + x^2}\,\varphi(x) \le \max(x, 0) - \operatorname{GELU}(x) \le \varphi(x)",
    if_fails="the gate is another one, or its tails are too heavy, as those of the sigmoid are",
)
@given(x=elements(far=8.0))
def distance_from_relu(impl, x):
    """GELU lies below ReLU by less than the normal density, and in the tails by nearly all of it (Mills' ratio)."""
    gap, density = x.clamp(min=0) - impl.gelu(x), normal_density(x)
    at_most(x * x / (1 + x * x) * density, gap)
    at_most(gap, density)


@claim(
    rows="002-115 001-069",
    formula=r"\operatorname{GELU}(x) = x, \quad \operatorname{GELU}(-x) = 0 \qquad (x \ge 64)",
    if_fails="a tail of the gate does not reach 0 or 1, or a polynomial overflows: 0 times infinity is NaN",
)
@given(x=elements())
def far_out_it_is_relu(impl, x):
    """From 64 on GELU is ReLU to the last bit, in every format: it is unbounded, and its left tail vanishes."""
    x = 2.0 ** (6 + x.round().abs().clamp(max=8))
    exactly(impl.gelu(x) - x, impl.gelu(-x))
    exactly(impl.gelu(-x), 0)


# ------------------------------------------------------------------------------------------------------- monotonicity

@claim(
    rows="002-114 002-113",
    formula=r"-\tfrac34 \le x \le y \;\Rightarrow\; \operatorname{GELU}(x) \le \operatorname{GELU}(y)",
    if_fails="the gate falls somewhere, or two branches do not meet",
    needs=right_of_the_minimum,
)
@given(x=elements(least=2) | elements(least=2).map(torch.abs))
@example(x=torch.tensor([-2.0, -1.0], dtype=torch.float64))
def it_rises(impl, x):
    """GELU rises with its argument from -3/4 on; left of its minimum it falls."""
    y = impl.gelu(x.sort().values)
    at_most(y[:-1], y[1:])


@claim(
    rows="002-114 002-113",
    formula=r"x \le y \le -\tfrac{13}{16} \;\Rightarrow\; \operatorname{GELU}(x) \ge \operatorname{GELU}(y)",
    if_fails="the left tail is cut off, clamped, or has the wrong sign",
)
@given(x=elements(least=2, far=4.0))
def it_falls_left_of_its_minimum(impl, x):
    """Left of its minimum GELU falls: from 0 at minus infinity to -0.17."""
    y = impl.gelu((-0.8125 - x.abs()).sort().values)
    at_most(y[1:], y[:-1])


@claim(
    rows="002-114 002-117",
    formula=r"|\operatorname{GELU}(x) - \operatorname{GELU}(y)| \le "
            r"\bigl(\Phi(\sqrt2) + \sqrt2\,\varphi(\sqrt2)\bigr)\,|x - y|",
    if_fails="two branches do not meet, or the gate is too steep",
)
@given(x=elements(), step=st.sampled_from([2.0**-7, 0.125, 1.0, -0.5, -8.0]))
def slope_is_bounded(impl, x, step):
    """GELU has no jump: its slope never exceeds that at sqrt 2, about 1.13."""
    root = torch.tensor(2.0).double().sqrt()
    steepest = normal_cdf(root) + root * normal_density(root)
    moved = impl.gelu(x + step) - impl.gelu(x)
    at_most(moved, abs(step) * steepest)
    at_most(-moved, abs(step) * steepest)


@slope_is_bounded.proof(untied="it is about the derivative: where the second one vanishes the first is as printed")
def _():
    """For every real x: the second derivative is (2 - x^2) phi(x), which changes sign at sqrt 2 and - sqrt 2 alone, and
    there the first is Phi + x phi."""
    x = Symbol("x", real=True)
    density = exp(-x**2 / 2) / sqrt(2 * pi)
    return [(diff(symbolic_gelu(x), x), (1 + erf(x / sqrt(2))) / 2 + x * density),
            (diff(symbolic_gelu(x), x, 2), (2 - x**2) * density)]
