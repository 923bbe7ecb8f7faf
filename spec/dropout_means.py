"""Dropout: which means scaling keeps, which it does not, and what must be done without it."""

from sympy import symbols

from properties import claim, exactly, example, given, refuted, st


# --------------------------------------------------------------------------------------------------- what scaling keeps

def outcomes(x, p):
    """[(probability, value)] of one element after dropout."""
    return [(p, 0.0), (1 - p, x / (1 - p))]


def mean_of(f, x, p):
    return sum(weight * f(value) for weight, value in outcomes(x, p))


dyadic = st.sampled_from([0.0, 1.0, -1.0, 2.0, -3.0, 0.5, 8.0])
powers = st.sampled_from([0.5, 0.75, 0.875])


@claim(
    rows="001-190 001-188 002-036",
    formula=r"\operatorname{E}[a y + b] = a x + b",
    corrects="use_is_the_mean_of_training",
)
@given(x=dyadic, p=powers, a=dyadic, b=dyadic)
def linear_maps_keep_the_mean(x, p, a, b):
    """The mean over all masks is the value without dropout, and stays so through linear maps."""
    exactly(mean_of(lambda y: a * y + b, x, p), a * x + b)


@linear_maps_keep_the_mean.proof
def _():
    """For every x, every p < 1 and every linear map."""
    x, p, a, b = symbols("x p a b", real=True)
    return p * b + (1 - p) * (a * x / (1 - p) + b), a * x + b


@refuted(rows="001-190", formula=r"\operatorname{E}[\operatorname{relu}(y - t)] = \operatorname{relu}(x - t)")
@example(x=1.0, p=0.5, t=1.5)
@given(x=dyadic, p=powers, t=st.sampled_from([0.0, 1.0, 1.5, -1.0]))
def use_is_the_mean_of_training(x, p, t):
    """Scaling makes the network in use the mean over all masks of the network in training, nonlinear parts and all."""
    exactly(mean_of(lambda y: max(0.0, y - t), x, p), max(0.0, x - t))


@claim(rows="001-188", formula=r"\operatorname{Var}[y] = x^2 \frac{p}{1 - p}", corrects="variance_is_kept")
@given(x=dyadic, p=powers)
def variance_grows_with_the_rate(x, p):
    """The variance that dropout adds to an element x is x^2 p / (1 - p)."""
    exactly((1 - p) * (mean_of(lambda y: y * y, x, p) - x * x), x * x * p)


@variance_grows_with_the_rate.proof
def _():
    """For every x and every p < 1."""
    x, p = symbols("x p", real=True)
    return (1 - p) * ((1 - p) * (x / (1 - p)) ** 2 - x**2), x**2 * p


@refuted(rows="001-188", formula=r"\operatorname{E}[y^2] = x^2")
@example(x=1.0, p=0.5)
@given(x=dyadic, p=powers)
def variance_is_kept(x, p):
    """Scaling keeps the mean square too: dropout adds no variance."""
    exactly(mean_of(lambda y: y * y, x, p), x * x)


@claim(rows="001-188", formula=r"\operatorname{E}[m x] = (1 - p)\,x", corrects="use_is_scaled_by_the_rate_of_dropping")
@given(x=dyadic, p=powers)
def without_scaling_use_is_scaled_by_the_rate_of_keeping(x, p):
    """Where training does not scale, use must: by 1 - p, the probability of keeping."""
    exactly(mean_of(lambda y: (1 - p) * y, x, p), (1 - p) * x)


@without_scaling_use_is_scaled_by_the_rate_of_keeping.proof
def _():
    """For every x and every p < 1."""
    x, p = symbols("x p", real=True)
    return p * 0 + (1 - p) * x, (1 - p) * x


@refuted(rows="001-188", formula=r"\operatorname{E}[m x] = p\,x")
@example(x=1.0, p=0.75)
@given(x=dyadic, p=powers)
def use_is_scaled_by_the_rate_of_dropping(x, p):
    """Where training does not scale, use must multiply by the rate of dropout, p."""
    exactly(mean_of(lambda y: (1 - p) * y, x, p), p * x)
