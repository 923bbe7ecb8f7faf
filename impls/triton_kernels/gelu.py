"""GELU, x Phi(x) with Phi the distribution function of the normal distribution (Hendrycks and Gimpel 2016).

The textbook form 0.5 x (1 + erf(x / sqrt 2)) cancels in the left tail: in float32 it is off by up to 6 % at x = -5,
which float16 and bfloat16 can show, and beyond -5.6 it is 0. So there is no erf here. With a = |x| the tail
Q(a) = Phi(-a) is a Gaussian times a smooth positive function,

    Q(a) = t exp(-a^2 / 2) g(t),    t = 1 / (1 + a / 4),

and Phi(x) is Q(a) left of 0 and 1 - Q(a) right of it. As a runs from 0 to infinity, t runs from 1 to 0, and g falls
from 1/2 to 1 / sqrt(32 pi). It is summed as a Chebyshev series in 2 t - 1 by Clenshaw's recurrence; float32 needs half
of its terms (Press et al., Numerical Recipes, 3rd edition, sections 5.8 and 6.2.2, expand the logarithm of such a g).
Nothing cancels, so the relative error stays small until Q underflows: up to u a^2 / 2 from the exponential's argument.
"""

import torch
import triton
import triton.language as tl

from .common import ARITHMETIC, require_floats, rows_per_program, warps

CHEBYSHEV = tl.constexpr((       # of g(t) in 2 t - 1, the constant term halved
    0.24261280114151915, 0.18792720420989265, 0.05554838891881276, 0.012129438315111521, 0.0017314801240606202,
    8.014961859953749e-05, -2.5136847908026697e-05, -4.725842254926741e-06, 2.5258922136865774e-07,
    1.536333687349456e-07, -8.452550300172939e-10, -5.171627015435708e-09, -2.8206509081173767e-11,
    1.9435038070971737e-10, -2.485356047851177e-12, -7.936207374645758e-12, 4.606201711176235e-13,
    3.2821541166777413e-13, -4.353840663163703e-14, -1.2268185079261061e-14, 3.232846081541394e-15,
    3.0451658804315853e-16, -2.0130368431552333e-16, 7.151235360654053e-18, 1.0142661060838386e-17,
    -1.751600193203649e-18))
TERMS = {tl.float32: 12, tl.float64: 26}        # what is left out sums to less than 2^-27 and 2^-56 of g


@triton.jit
def lower_tail(a, TERMS: tl.constexpr):
    """Q(a), the probability that a normal variable lies below -a, for a >= 0."""
    t = 1.0 / (1.0 + 0.25 * a)
    u = 4.0 * t - 2.0                               # twice the argument of the Chebyshev polynomials
    g, before = tl.zeros_like(a), tl.zeros_like(a)
    for k in tl.static_range(1, TERMS):             # from the smallest term to the largest
        g, before = u * g - before + CHEBYSHEV[TERMS - k], g
    g = 0.5 * u * g - before + CHEBYSHEV[0]
    return t * tl.exp(-0.5 * a * a) * g


@triton.jit
def gelu_kernel(x_ptr, y_ptr, n, x_stride, ACC: tl.constexpr, TERMS: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + place * x_stride, mask=place < n, other=0.0).to(ACC)
    tail = lower_tail(tl.abs(x), TERMS)
    y = x * tl.where(x < 0, tail, 1.0 - tail)
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=place < n)


def gelu(x):
    """x Phi(x), Phi the normal distribution function, element by element; x of any shape and strides."""
    require_floats(x=x)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        flat, acc, block = x.reshape(-1), ARITHMETIC[x.dtype], rows_per_program(x.numel(), 4)
        gelu_kernel[(triton.cdiv(len(flat), block),)](
            flat, y, len(flat), flat.stride(0), ACC=acc, TERMS=TERMS[acc], BLOCK=block, num_warps=warps(block))
    return y
