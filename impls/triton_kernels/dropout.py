"""Inverted dropout: every element is kept with probability 1 - p, and then divided by 1 - p, so that its mean stays.

    y_n = x_n / (1 - p) where mask_n, else 0

(Srivastava et al. 2014, section 10, in the form that scales while training and leaves evaluation alone.)

The mask is a function of the seed and of n, the element's index in row-major order, and of nothing else: not of the
values, the dtype, the strides or the block size. The generator, Philox-4x32-10 (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3", section 5.2), turns a counter into four words of 32 bits by ten rounds of two products:
counter n // 4 with the 64 bits of the seed as its key, and element n takes word n % 4. Using all four is four times
cheaper than one counter an element, whose ten rounds would cost more than the memory traffic of half-precision
elements. The counter has 64 bits: elements beyond 2^32 do not repeat the first ones.

A word is compared as the integer that it is: n is dropped if its word is below round(p 2^32). So the probability of
dropping is the multiple of 2^-32 nearest to p, off by at most 2^-33, and p = 0 and p = 1 are exact. (`tl.rand` would
give a float32 in [0, 1): its values near 1 are multiples of 2^-24, and it folds the sign, which leaves 31 bits.)

Zero is selected, not multiplied: a dropped NaN or infinity is 0 as well.
"""

import torch
import triton
import triton.language as tl

from .common import ARITHMETIC, require, require_floats, require_number, require_whole, rows_per_program, warps

WORDS = 4       # a Philox counter gives four


@triton.jit(do_not_specialize=["seed", "threshold"])
def dropout_kernel(
    x_ptr, y_ptr, mask_ptr, n_elements, seed, threshold, scale: tl.float64,
    ACC: tl.constexpr, BLOCK: tl.constexpr,
):
    """BLOCK counters and the 4 BLOCK elements that belong to them; kept are words of `threshold` or more."""
    counters = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    word0, word1, word2, word3 = tl.randint4x(seed, counters)
    words = tl.join(tl.join(word0, word2), tl.join(word1, word3))       # (BLOCK, 2, 2), in the order 0, 1, 2, 3
    words = tl.reshape(words, [4 * BLOCK]).to(tl.uint32, bitcast=True).to(tl.int64)
    elements = tl.program_id(0).to(tl.int64) * (4 * BLOCK) + tl.arange(0, 4 * BLOCK)
    inside = elements < n_elements
    keep = words >= threshold
    x = tl.load(x_ptr + elements, mask=inside, other=0.0).to(ACC)
    y = tl.where(keep, x * scale.to(ACC), 0.0)
    tl.store(y_ptr + elements, y.to(y_ptr.dtype.element_ty), mask=inside)
    tl.store(mask_ptr + elements, keep, mask=inside)


def dropout(x, p, seed):
    """(y, mask), both of x's shape: y = x / (1 - p) where mask (bool) is True, which has probability 1 - p, else 0.

    x of any shape and strides (one that is not contiguous is copied first); 0 <= p <= 1; seed an integer, of which the
    low 64 bits count. ValueError for another p or dtype.
    """
    require_floats(x=x)
    require_number("p", p)
    require_whole("seed", seed)
    require(0 <= p <= 1, f"p must be a probability, between 0 and 1, got {p}")
    seed = int(seed) & (2**64 - 1)
    y, mask = (torch.empty(x.shape, dtype=dtype, device=x.device) for dtype in (x.dtype, torch.bool))
    if x.numel():
        n_counters = triton.cdiv(x.numel(), WORDS)
        block = rows_per_program(n_counters, WORDS)
        dropout_kernel[(triton.cdiv(n_counters, block),)](
            x.contiguous(), y, mask, x.numel(), seed - 2**64 if seed >> 63 else seed, round(p * 2**32),
            1.0 / (1.0 - p) if p < 1 else 0.0, ACC=ARITHMETIC[x.dtype], BLOCK=block, num_warps=warps(WORDS * block))
    return y, mask
