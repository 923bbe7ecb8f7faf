"""Wrong masks of a sliding window."""
import torch

from impls.naive import causal_mask, sliding_window_mask

_windows = {}


def one_key_too_wide(lq, lk, window):
    """The window reaches from the current key to the one `window` before it, both included.

    Shipped: transformers#39408, transformers#26792, transformers#29623, transformers#47010, mlx-lm#390.
    Family: masks.
    """
    return sliding_window_mask(lq, lk, window + 1 if window >= 1 else window)


def lower_bound_without_the_offset(lq, lk, window):
    """The first key of the window is counted from the place among the queries, the last from that among the keys.

    Shipped: transformers#41184, transformers#41228.
    Family: masks.
    """
    return causal_mask(lq, lk) & (torch.arange(lk) > torch.arange(lq)[:, None] - window)


def window_on_both_sides(lq, lk, window):
    """Keys less than `window` away are visible, the future ones too.

    Notes: none; encoders use such a window.
    Family: masks.
    """
    return (torch.arange(lq)[:, None] + lk - lq - torch.arange(lk)).abs() < window


def window_of_an_earlier_kernel(lq, lk, window):
    """The window is missing from the key under which masks are kept.

    Notes: none; pytorch#184122 is the same mistake with the scale.
    Family: state.
    """
    return sliding_window_mask(lq, lk, _windows.setdefault(lk, window))
