"""Masks, windows, and rows that see no key."""
import torch

from impls.wrong.attention._online import INF, finite, mask_of, online_attention, visible_keys, weights

# --------------------------------------------------------------------------------------------- rows that see no key


def empty_row_is_nan(q, k, v, **options):
    """The numerator is divided by the denominator even where no key was seen.

    Shipped: pytorch#103963.
    Family: masks.
    """
    return online_attention(q, k, v, **options, finish=lambda m, l, acc: (acc / l[..., None], m + torch.log(l)))


def empty_first_block_is_nan(q, k, v, **options):
    """A row whose first block is hidden subtracts a running maximum of -inf from -inf, and never recovers.

    Shipped: pytorch#109517, llama.cpp#6438, mlx#2608.
    Family: masks.
    """
    def finish(m, l, acc):                                                                      # noqa: E741
        return torch.where(m[..., None] == -INF, 0.0, acc / l[..., None]), torch.where(m == -INF, -INF, m + l.log())

    return online_attention(q, k, v, **options, finish=finish, rescale=lambda old, new: torch.exp(old - new),
                            weights=lambda scores, m: torch.exp(scores - m[..., None]))


def empty_row_is_the_mean(q, k, v, **options):
    """Hidden scores become the lowest finite number: where all are hidden, all are equal.

    Shipped: pytorch#103749.
    Family: masks.
    """
    return online_attention(q, k, v, **options, hide=lambda scores, keep: torch.where(
        keep, scores, torch.finfo(scores.dtype).min))


def two_additive_masks_overflow(q, k, v, causal=False, mask=None, window=None, **options):
    """Each mask adds the lowest finite number: a key that two of them hide gets -inf, and a row of those NaN.

    Shipped: transformers#27114, NeMo-Automodel#2658.
    Family: masks.
    """
    lowest, none = torch.finfo(torch.float32).min, visible_keys(q, k, False, None, None)
    keeps = visible_keys(q, k, causal, None, window), none if mask is None else mask_of(q, k, mask)
    added = sum(torch.where(keep, 0.0, lowest) for keep in keeps)
    bias = options.pop("bias", None)
    return online_attention(q, k, v, bias=added if bias is None else added + bias, **options,
                            finish=lambda m, l, acc: (acc / l[..., None], m + torch.log(l)))
