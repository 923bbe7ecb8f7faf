"""Wrong merges of two online-softmax states (m, l, acc)."""
import torch

from impls.naive import INF, _wide


def _merge(m1, l1, acc1, m2, l2, acc2, *, m=torch.maximum, weights=None):
    """The right merge; `m(m1, m2)` is the common reference, and `weights(m1, m2, m)` are those of the two sides."""
    m1, l1, acc1, m2, l2, acc2 = map(_wide, (m1, l1, acc1, m2, l2, acc2))
    m = m(m1, m2)
    w1, w2 = (weights or _weights)(m1, m2, m)
    return m, w1 * l1 + w2 * l2, w1[..., None] * acc1 + w2[..., None] * acc2


def _weights(m1, m2, m):
    shift = m.masked_fill(m == -INF, 0.0)
    return torch.exp(m1 - shift), torch.exp(m2 - shift)


def maximum_of_the_second_state(*states):
    """The reference is the maximum of the second state, not the larger one: e^(m1 - m2) overflows.

    Shipped: tilelang#1148.
    Family: merge.
    """
    return _merge(*states, m=lambda m1, m2: torch.where(m2 == -INF, m1, m2))


def two_empty_states_are_nan(*states):
    """Where neither state has seen a key, -inf is subtracted from -inf.

    Shipped: flashinfer#4051, llama.cpp#6438.
    Family: merge.
    """
    return _merge(*states, weights=lambda m1, m2, m: (torch.exp(m1 - m), torch.exp(m2 - m)))


def kept_maximum_in_the_wrong_frame(*states):
    """A maximum that moves up by less than 8 is not followed, but the second state is added as if it were.

    Shipped: rocm-libraries#6498, MSLK#242.
    Family: merge.
    """
    def kept(m1, m2):
        return (m2 > m1) & (m2 - m1 < 8)

    def weights(m1, m2, m):
        w1, w2 = _weights(m1, m2, m)
        return w1, torch.where(kept(m1, m2), 1.0, w2)

    return _merge(*states, m=lambda m1, m2: torch.where(kept(m1, m2), m1, torch.maximum(m1, m2)), weights=weights)


def second_state_never_rescaled(*states):
    """Only the first state is rescaled, as in a loop whose next block was always the one with the maximum.

    Notes: 001, section 5.3.
    Family: merge.
    """
    return _merge(*states, weights=lambda m1, m2, m: (_weights(m1, m2, m)[0], torch.ones_like(m2)))


def states_below_minus_5e4_are_empty(*states):
    """The reference starts at -5e4, taken for a number below all scores, so that lower ones vanish.

    Shipped: flashinfer#4401.
    Family: merge.
    """
    return _merge(*states, m=lambda m1, m2: torch.maximum(m1, m2).clamp(min=-5e4))


def one_reference_for_all_rows(*states):
    """The reference is the maximum over all rows of the tile: rows far below it underflow to empty states.

    Notes: none; a reduction without its axis.
    Family: merge.
    """
    def largest(m1, m2):
        m = torch.maximum(m1, m2)
        return m.amax().expand_as(m).clone() if m.numel() else m

    return _merge(*states, m=largest)


def ties_keep_the_first_state(*states):
    """Two branches, m1 above m2 and m2 above m1: where they are equal, the second state is left out.

    Notes: none; a comparison that is strict on both sides.
    Family: merge.
    """
    def weights(m1, m2, m):
        w1, w2 = _weights(m1, m2, m)
        return w1, torch.where(m1 == m2, 0.0, w2)

    return _merge(*states, weights=weights)
