"""Wrong repetitions of key-value heads."""
from impls.naive import repeat_kv as _right
from impls.wrong.attention.layout import _packed, _read


def heads_tiled(x, n_rep):
    """All heads are repeated in turn (0 1 0 1), where each belongs next to itself (0 0 1 1).

    Shipped: jax-js#180, onnx#7274.
    Family: head mapping.
    """
    return x.repeat(1, n_rep, 1, 1)


def positions_repeated(x, n_rep):
    """Written for (B, L, H, D), it repeats each position, and the result is viewed as if heads had been repeated.

    Shipped: VeOmni#162, prime-rl#2681.
    Family: head mapping.
    """
    return x.repeat_interleave(n_rep, dim=2).reshape(x.shape[0], x.shape[1] * n_rep, *x.shape[2:])


def heads_taken_for_contiguous(x, n_rep):
    """Heads are copied as blocks of L D numbers that lie one after the other.

    Notes: none; pytorch#112577 is the same mistake in attention.
    Family: strides and aliasing.
    """
    return _right(_read(x, _packed(x.shape)), n_rep)
