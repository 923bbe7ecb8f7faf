"""The scale of the scores: its default, the one given, and what it multiplies."""
import torch

from impls.wrong.attention._online import online_attention


def scale_argument_ignored(q, k, v, scale=None, **options):
    """The scale is 1 / sqrt(D), also where another one is given.

    Shipped: pytorch#174049, attorch#14.
    Family: scale.
    """
    return online_attention(q, k, v, **options)


def scale_of_the_padded_head(q, k, v, **options):
    """The default scale is that of the head dim after padding to a power of two.

    Shipped: ipex-llm#12619.
    Family: scale.
    """
    return online_attention(q, k, v, **options, default_scale=lambda d: (1 << (d - 1).bit_length()) ** -0.5)


def scale_of_the_model_width(q, k, v, **options):
    """The default scale is that of the width of the model, all heads together.

    Notes: 000, section Q8.
    Family: scale.
    """
    return online_attention(q, k, v, **options, default_scale=lambda d: (q.shape[1] * d) ** -0.5)


def scale_one_over_head_dim(q, k, v, **options):
    """The default scale is 1 / D.

    Notes: 001, section 6.2.4 / 2.3.
    Family: scale.
    """
    return online_attention(q, k, v, **options, default_scale=lambda d: 1 / d)


def scale_of_zero_counts_as_none(q, k, v, scale=None, **options):
    """`scale or 1 / sqrt(D)`: a scale of 0 counts as not given.

    Notes: none; the short way to write a default.
    Family: scale.
    """
    return online_attention(q, k, v, scale=scale or None, **options)


def scale_multiplies_the_bias(q, k, v, **options):
    """The bias is added before the scale.

    Notes: none; the scale is folded into the exponent, after everything that is added.
    Family: scale.
    """
    scale = q.shape[3] ** -0.5 if options.get("scale") is None else options["scale"]
    return online_attention(q, k, v, **options, add=lambda scores, bias: scores + scale * bias)


def scale_rounded_to_bfloat16(q, k, v, **options):
    """The scale goes through bfloat16 on its way to the kernel: right where it is a power of two.

    Shipped: tt-metal#53207.
    Family: dtypes.
    """
    scale = q.shape[3] ** -0.5 if options.get("scale") is None else options["scale"]
    return online_attention(q, k, v, **options | {"scale": torch.tensor(scale).bfloat16().item()})
