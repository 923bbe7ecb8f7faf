"""The scale of the scores: its default, its range, and what it multiplies."""
import torch

from impls.wrong.attention._online import INF, online_attention, running_maximum


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


def maximum_before_the_scale(q, k, v, scale=None, **options):
    """The maximum of the products is scaled, as the scale is folded into the exponent: a negative one turns it over.

    Notes: none; one multiplication per row instead of one per score.
    Family: scale.
    """
    scale = q.shape[3] ** -0.5 if scale is None else scale

    def extreme(m, scores):
        lowest = torch.where(scores == -INF, INF, scores).amin(-1)
        return torch.where(lowest == INF, m, torch.where(m == -INF, lowest, torch.minimum(m, lowest)))

    return online_attention(q, k, v, scale=scale, **options, maximum=running_maximum if scale >= 0 else extreme)


def scale_multiplies_the_bias(q, k, v, **options):
    """The bias is added before the scale.

    Notes: none; the scale is folded into the exponent, after everything that is added.
    Family: scale.
    """
    scale = q.shape[3] ** -0.5 if options.get("scale") is None else options["scale"]
    return online_attention(q, k, v, **options, add=lambda scores, bias: scores + scale * bias)


def lse_scaled_twice(q, k, v, **options):
    """The maximum in the log-sum-exp is that of the scaled scores, and is scaled again.

    Shipped: flash-sparse-attention#106.
    Family: scale.
    """
    scale = q.shape[3] ** -0.5 if options.get("scale") is None else options["scale"]

    def finish(m, l, acc):                                                                      # noqa: E741
        none = l[..., None] == 0
        lse = torch.where(l == 0, -INF, scale * torch.where(l == 0, 0.0, m) + torch.log(l))
        return torch.where(none, 0.0, acc / l[..., None]), lse

    return online_attention(q, k, v, **options, finish=finish)


def scale_rounded_to_bfloat16(q, k, v, **options):
    """The scale goes through bfloat16 on its way to the kernel: right where it is a power of two.

    Shipped: tt-metal#53207.
    Family: scale.
    """
    scale = q.shape[3] ** -0.5 if options.get("scale") is None else options["scale"]
    return online_attention(q, k, v, **options | {"scale": torch.tensor(scale).bfloat16().item()})
