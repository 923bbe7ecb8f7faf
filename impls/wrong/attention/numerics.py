"""Wrong attention: the maximum that is subtracted, the log-sum-exp, and what is rounded or clamped on the way."""

import torch

from impls.wrong.attention._online import (
    INF,
    finish,
    finite,
    hide,
    online_attention,
    running_maximum,
    scaled_dot,
    weights,
)

# ------------------------------------------------------------------------------------------------------- the maximum

def maximum_shared_by_the_rows_of_a_tile(q, k, v, **options):
    """One maximum serves all queries of a head, so that rows with far lower scores underflow to nothing.

    Notes: none; a reduction over a whole tile is one instruction, that over its rows is several.
    Family: numerics.
    """
    def maximum(m, scores):
        return running_maximum(m, scores).amax(-1, keepdim=True).expand_as(m)

    return online_attention(q, k, v, **options, maximum=maximum)


def maximum_of_the_first_block(q, k, v, **options):
    """The maximum of the first block that shows a key is kept for the whole row; a rising row overflows.

    Notes: 001, section 5.3.
    Family: numerics.
    """
    return online_attention(q, k, v, **options, maximum=lambda m, s: torch.where(m == -INF, s.amax(-1), m))


def maximum_of_the_last_block(q, k, v, **options):
    """The maximum is that of the block, not the running one: the correction overflows if a later block is 88 lower.

    Shipped: tilelang#1148.
    Family: numerics.
    """
    def maximum(m, scores):
        top = scores.amax(-1)
        return torch.where(top == -INF, m, top)

    return online_attention(q, k, v, **options, maximum=maximum)


def maximum_starts_at_minus_50000(q, k, v, **options):
    """The running maximum starts at -5e4 instead of -inf: a row of lower scores underflows and counts as empty.

    Shipped: flashinfer#4401.
    Family: numerics.
    """
    return online_attention(q, k, v, **options, first_max=-5e4)


def maximum_of_the_absolute_scores(q, k, v, **options):
    """The largest magnitude is subtracted instead of the largest score: rows of low scores underflow.

    Notes: none; the same reduction gives the scale of a quantised tile.
    Family: numerics.
    """
    def maximum(m, scores):
        return torch.maximum(m, hide(scores.abs(), scores != -INF).amax(-1))

    return online_attention(q, k, v, **options, maximum=maximum)


def maximum_before_the_scale(q, k, v, scale=None, **options):
    """The maximum is taken before the scale and scaled afterwards, which makes it the minimum if the scale is negative.

    Notes: none; it saves a product per score, exp(scale * s - scale * m).
    Family: numerics.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    exponent = lambda s, m: torch.where(s == -INF, -INF, scale * (s - finite(m)))

    def finish_scaled(m, l, acc):
        return finish(torch.where(m == -INF, -INF, scale * m), l, acc)

    return online_attention(
        q, k, v, scale=scale, **options, dot=lambda q, k, _: q @ k.mT, add=lambda s, bias: s + bias / scale,
        rescale=lambda old, new: torch.exp(exponent(old, new)),
        weights=lambda s, m: torch.exp(exponent(s, m[..., None])), finish=finish_scaled)


def lazy_maximum_in_the_wrong_frame(q, k, v, **options):
    """The old maximum is kept while a block is less than 8 above it, but the weights are in the frame of the new one.

    Shipped: rocm-libraries#6498, rocm-libraries#7194, MSLK#242.
    Family: numerics.
    """
    def maximum(m, scores):
        new = running_maximum(m, scores)
        return torch.where(new - m < 8, m, new)

    return online_attention(q, k, v, **options, maximum=maximum,
                            weights=lambda s, m: weights(s, running_maximum(m, s)))


def weights_saturate_under_a_lazy_maximum(q, k, v, **options):
    """The old maximum is kept while a block is less than 16 above it: weights of up to exp(16) saturate in half
    precision on their way to the values, but not in the denominator.

    Shipped: flash-attention#2713.
    Family: numerics.
    Dtypes: float16.
    """
    def maximum(m, scores):
        new = running_maximum(m, scores)
        return torch.where(new - m < 16, m, new)

    largest = torch.finfo(torch.float16).max
    return online_attention(q, k, v, **options, maximum=maximum,
                            stored=lambda p: p.clamp(max=largest).half().to(p.dtype))


# --------------------------------------------------------------------------------------------------- the log-sum-exp

def lse_in_base_2(q, k, v, **options):
    """The log-sum-exp is in units of log 2, as the kernel keeps it for its exp2.

    Shipped: flashinfer#2113, sglang#35045, sglang#40903, vllm#28840.
    Family: scale.
    """
    out, lse = online_attention(q, k, v, **options)
    return out, lse * 1.4426950408889634


def lse_of_an_empty_row_is_plus_infinity(q, k, v, **options):
    """A row that sees no key has the log-sum-exp +inf, with which it wins every merge.

    Shipped: flash-attention#978.
    Family: masks.
    """
    out, lse = online_attention(q, k, v, **options)
    return out, torch.where(lse == -INF, INF, lse)


def lse_scaled_twice(q, k, v, scale=None, **options):
    """The maximum, already that of scaled scores, is scaled once more when it is added to the logarithm.

    Shipped: flash-sparse-attention#106.
    Family: scale.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale

    def finish_scaled(m, l, acc):
        return finish(m, l, acc)[0], torch.where(l == 0, -INF, scale * m + torch.log(l))

    return online_attention(q, k, v, scale=scale, **options, finish=finish_scaled)


# ---------------------------------------------------------------------------------------------------------- rounding

def denominator_in_half_precision(q, k, v, **options):
    """The denominator is kept in the dtype of the inputs from block to block.

    Shipped: ik_llama.cpp#2144, ik_llama.cpp#2151.
    Family: dtypes.
    Dtypes: float16, bfloat16.
    """
    return online_attention(q, k, v, **options,
                            kept=lambda m, l, acc: (m, l.to(q.dtype).to(l.dtype), acc))


def numerator_in_half_precision(q, k, v, **options):
    """The accumulator of the weighted values is kept in the dtype of the inputs from block to block.

    Notes: none; accumulators in half precision need half the registers.
    Family: dtypes.
    Dtypes: float16, bfloat16.
    """
    return online_attention(q, k, v, **options,
                            kept=lambda m, l, acc: (m, l, acc.to(q.dtype).to(acc.dtype)))


def products_in_float16_before_the_scale(q, k, v, **options):
    """The products q . k are stored in float16 before they are scaled, and overflow where the scores would not.

    Shipped: llama.cpp#6646, llama.cpp#17558.
    Family: dtypes.
    Dtypes: float16.
    """
    return online_attention(q, k, v, **options, dot=lambda q, k, scale: scale * (q @ k.mT).half().to(q.dtype))


def products_in_tf32(q, k, v, **options):
    """Queries and keys in float32 are rounded to the 10 bits of TensorFloat-32 before they are multiplied.

    Notes: none; it is the default of a tensor core's product.
    Family: dtypes.
    """
    def tf32(x):
        return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

    return online_attention(q, k, v, **options, dot=lambda q, k, scale: scaled_dot(tf32(q), tf32(k), scale))


def weights_in_bfloat16(q, k, v, **options):
    """The weights are rounded to bfloat16 before they meet the values, whatever the dtype of the inputs is.

    Notes: none; a kernel written for bfloat16 casts to it by name.
    Family: dtypes.
    Dtypes: float32, float16.
    """
    return online_attention(q, k, v, **options, stored=lambda p: p.bfloat16().to(p.dtype))


def exponent_not_below_minus_20(q, k, v, **options):
    """exp is approximated on [-20, 0] and its argument clamped: what lies lower, hidden keys too, weighs exp(-20).

    Notes: none; polynomials for exp need a range.
    Family: numerics.
    """
    return online_attention(q, k, v, **options,
                            weights=lambda s, m: torch.exp((s - finite(m)[..., None]).clamp(min=-20.0)))


def denominator_plus_epsilon(q, k, v, **options):
    """The output is divided by l + 1e-5, to be safe from 0 / 0.

    Notes: none; layer norm has the same epsilon in its root.
    Family: numerics.
    """
    return online_attention(q, k, v, **options,
                            finish=lambda m, l, acc: (acc / (l[..., None] + 1e-5), finish(m, l, acc)[1]))


def log2_of_e_with_nine_digits(q, k, v, **options):
    """exp(x) is exp2(1.44269504 x), whose constant has enough digits for float32 only.

    Notes: none; the constant is copied from kernels in single precision.
    Family: dtypes.
    Dtypes: float64.
    """
    return online_attention(
        q, k, v, **options, rescale=lambda old, new: torch.exp2(1.44269504 * (old - finite(new))),
        weights=lambda s, m: torch.exp2(1.44269504 * (s - finite(m)[..., None])))
