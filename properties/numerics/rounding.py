"""Rounding errors of sums and products: the atoms of every budget.

Floating-point formats are named as torch names them. Every bound keeps all products `(1 + delta)`; nothing is first
order, so a bound stays true when it is no longer small. Notation follows N. J. Higham, "Accuracy and Stability of
Numerical Algorithms" (ASNA), chapters 2 and 3.
"""

import math

import numpy as np

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SMALLEST_SUBNORMAL = {"float64": 2.0**-1074, "float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}
SMALLEST_NORMAL = {"float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126}
LARGEST = {"float64": float(np.finfo(np.float64).max), "float32": float(np.finfo(np.float32).max), "float16": 65504.0,
           "bfloat16": (2.0 - 2.0**-7) * 2.0**127}
FORMATS = tuple(UNIT_ROUNDOFF)


def gamma(n, u):
    """The bound of `|prod_i (1 + d_i)^(+-1) - 1|` over n factors with `|d_i| <= u`: n u / (1 - n u) (ASNA, Lemma 3.1).

    Where n u >= 1/2 the lemma is replaced by `exp(2 n u) - 1`, which also bounds it (u <= 1/2).
    """
    nu = n * u
    return nu / (1.0 - nu) if nu < 0.5 else math.expm1(2.0 * nu)


def last_bit(x):
    """The value of the last set bit of each float64: x is an integer multiple of it; inf for 0."""
    mantissa, exponent = np.frexp(x)
    integer = (np.abs(mantissa) * 2.0**53).astype(np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(integer == 0, np.inf, np.ldexp((integer & -integer).astype(np.float64), exponent - 53))


def significant_digits(u):
    """The number p of binary digits of a format with unit roundoff u = 2^-p."""
    return round(-math.log2(u))


def is_power_of_four(scale):
    """True for a scale whose square root is a power of two too: multiplying by it, or by its root twice, is exact."""
    mantissa, exponent = math.frexp(abs(scale))
    return mantissa == 0.5 and exponent % 2 == 1


def sums_exactly(a, b, magnitude, contract, scale=1.0):
    """Where the matrix product a @ b is free of rounding in any order of summation, with or without FMA.

    If every product in a row-by-column sum is a multiple of one quantum g, the product of the least last bits of the
    row and of the column, and `magnitude = |a| @ |b| < g 2^p`, then every partial sum is a multiple of g below 2^p g,
    hence representable. A truncating tensor core needs one digit more. Operands that are rounded on the way in (tf32)
    must survive that, and neither operands nor quantum, also after scaling, may fall into the range that is flushed
    to 0.
    """
    bit_a, bit_b = last_bit(a).min(-1, initial=np.inf), last_bit(b).min(-2, initial=np.inf)
    quantum = bit_a[..., :, None] * bit_b[..., None, :]
    digits = significant_digits(contract.u) - (contract.mm > 1)
    smallest = np.minimum(quantum, np.minimum(bit_a[..., :, None], bit_b[..., None, :])) * min(1.0, abs(scale))
    exact = (magnitude < quantum * 2.0**digits) & (smallest > contract.eta)
    if contract.u_in:
        limit = 2.0 ** significant_digits(contract.u_in)
        fits_a = (np.abs(a) < bit_a[..., None] * limit).all(-1)
        fits_b = (np.abs(b) < bit_b[..., None, :] * limit).all(-2)
        exact &= fits_a[..., :, None] & fits_b[..., None, :]
    return exact


def product_factor(terms, contract):
    """The relative error of a sum of `terms` products against the sum of their magnitudes, operand rounding
    included."""
    return (1.0 + contract.u_in) ** 2 * (1.0 + gamma(contract.mm * terms, contract.u)) - 1.0


def underflow_of_product(abs_a, abs_b, contract):
    """What flushing of operands, products and sums can add to `a @ b`: absolute, not relative."""
    row, column = abs_a.sum(-1)[..., :, None], abs_b.sum(-2)[..., None, :]
    return contract.eta * (abs_a.shape[-1] + row + column)


def product_budget(a, b, contract, *, extra=0, a_error=None, b_error=None):
    """The bound of `|fl(a @ b) - a @ b|` elementwise, any order of summation, FMA or not (ASNA, section 3.5).

    `extra` counts further roundings of each term. `a_error` and `b_error` bound errors that the operands already carry.
    """
    abs_a, abs_b = np.abs(a), np.abs(b)
    magnitude = abs_a @ abs_b
    t = product_factor(a.shape[-1] + extra, contract)
    budget = t * magnitude
    if a_error is not None or b_error is not None:
        carried = 0.0
        if a_error is not None:
            carried = a_error @ (abs_b if b_error is None else abs_b + b_error)
        if b_error is not None:
            carried = carried + abs_a @ b_error
        budget = budget + (1.0 + t) * carried
    return budget + underflow_of_product(abs_a, abs_b, contract)
