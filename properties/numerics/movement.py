"""Operations that move data or build masks: every element is exact, the budget is 0."""

import numpy as np


def repeat_kv(x, n_rep):
    """(B, H, L, D) -> (B, H * n_rep, L, D), each head repeated in place."""
    return np.repeat(x, n_rep, axis=1)


def split_heads(x, h):
    """(B, L, h * d) -> (B, h, L, d)."""
    b, length, width = x.shape
    return x.reshape(b, length, h, width // h).swapaxes(1, 2)


def merge_heads(x):
    """(B, h, L, d) -> (B, L, h * d)."""
    b, h, length, d = x.shape
    return x.swapaxes(1, 2).reshape(b, length, h * d)


def causal_mask(lq, lk, alignment="bottom-right"):
    """True where query i may see key j: j <= i + lk - lq, or j <= i where the alignment is "top-left"."""
    return sliding_window_mask(lq, lk, lq + lk + 1, alignment)


def sliding_window_mask(lq, lk, window, alignment="bottom-right"):
    """True where query i may see key j: the current key and the `window - 1` before it."""
    current = np.arange(lq)[:, None] + (lk - lq if alignment == "bottom-right" else 0)
    key = np.arange(lk)
    return (key <= current) & (key > current - window)


def padding_mask(lens, lk):
    """(B, 1, 1, lk), True for the first lens[b] keys of batch entry b."""
    return (np.arange(lk) < np.asarray(lens).reshape(-1, 1))[:, None, None, :]
