"""Wrong rotary position embeddings."""
import torch

from impls.naive import _wide
from impls.naive import rope as _right
from impls.wrong.attention.layout import _packed, _read

_positions = {}


# ---------------------------------------------------------------------------------------------------- pairs and angles

def interleaved_pairs(x, positions, base=10000.0):
    """Neighbours x[2 i], x[2 i + 1] are rotated, where weights of the half-split layout are expected.

    Shipped: vllm#49290, gpt-neox#834, flash-attention#126.
    Family: positions.
    """
    order = torch.arange(x.shape[-1]).view(-1, 2).T.flatten() if x.shape[-1] % 2 == 0 else torch.arange(x.shape[-1])
    return _right(x[..., order], positions, base)[..., order.argsort()]


def base_ignored(x, positions, base=10000.0):
    """The base of the frequencies is always 10000.

    Notes: none; the first models had no other.
    Family: positions.
    """
    return _right(x, positions)


def positions_in_the_dtype_of_x(x, positions, base=10000.0):
    """Positions are rounded to half precision before they are multiplied by the frequencies.

    Shipped: gpt-neox#1003, transformers#25681, transformers#29496, sglang-jax#1472, modalities#462.
    Family: dtypes.
    Dtypes: float16, bfloat16.
    """
    return _right(x, positions.to(x.dtype), base)


def frequencies_in_bfloat16(x, positions, base=10000.0):
    """The frequencies are a buffer of the model, and are rounded with it.

    Shipped: transformers#29285.
    Family: dtypes.
    Dtypes: bfloat16.
    """
    half = x.shape[-1] // 2
    if 2 * half != x.shape[-1]:
        raise ValueError(f"rope needs an even head dim, got {x.shape[-1]}")
    frequencies = (base ** (-torch.arange(half, dtype=torch.float64) / max(half, 1))).bfloat16().double()
    angles = positions.double()[..., None] * frequencies
    cos, sin = (t[:, None] if positions.ndim == 2 else t for t in (angles.cos().float(), angles.sin().float()))
    x1, x2 = _wide(x)[..., :half], _wide(x)[..., half:]
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).to(x.dtype)


def pairs_beyond_32_not_rotated(x, positions, base=10000.0):
    """The tile holds 32 pairs; in wider heads the others stay as they are.

    Notes: none; triton#621 is the same mistake in attention.
    Family: boundaries.
    """
    half = x.shape[-1] // 2
    return torch.where(torch.arange(x.shape[-1]) % max(half, 1) < 32, _right(x, positions, base), x)


# ----------------------------------------------------------------------------------------------------- which positions

def table_ends_at_2048(x, positions, base=10000.0):
    """Cosines and sines come from a table of 2048 rows, and a look-up beyond it gets the last one.

    Shipped: vllm-ascend#1266.
    Family: positions.
    """
    return _right(x, positions.clamp(max=2047), base)


def positions_of_the_first_sequence(x, positions, base=10000.0):
    """All sequences of a batch are rotated by the positions of the first.

    Shipped: unsloth#3699, unsloth#4078.
    Family: positions.
    """
    return _right(x, positions[0] if positions.ndim == 2 else positions, base)


def single_token_at_position_0(x, positions, base=10000.0):
    """A call with one token, as in decoding, counts from 0.

    Shipped: mlx-vlm#1983, tiny-llm#46.
    Family: positions.
    """
    return _right(x, positions * 0 if x.shape[2] == 1 else positions, base)


def positions_counted_from_the_first(x, positions, base=10000.0):
    """The kernel is given the position of the first token, and counts on from there.

    Notes: none; it is so for every sequence that is not packed.
    Family: positions.
    """
    return _right(x, positions[..., :1] + torch.arange(x.shape[2]), base)


def angles_of_an_earlier_call(x, positions, base=10000.0):
    """Cosines and sines are kept for each length, and computed from the positions of the first call with it.

    Notes: none; for as long as positions start at 0 they are the same.
    Family: state.
    """
    return _right(x, _positions.setdefault(positions.shape, positions.clone()), base)


# --------------------------------------------------------------------------------------------------- heads and memory

def single_head_not_rotated(x, positions, base=10000.0):
    """With one head a copy is rotated, and thrown away.

    Shipped: Liger-Kernel#342.
    Family: head mapping.
    """
    y = _right(x, positions, base)
    return x.clone() if x.shape[1] == 1 else y


def rotated_in_place(x, positions, base=10000.0):
    """The rotated vectors are written over x as well.

    Shipped: unsloth#5001, Megatron-LM#5412.
    Family: strides and aliasing.
    """
    y = _right(x, positions, base)
    x.copy_(y)
    return y


def heads_taken_for_contiguous(x, positions, base=10000.0):
    """x is walked over as if it lay as (B, H, L, D), while projections leave it as (B, L, H, D).

    Notes: none; pytorch#112577 is the same mistake in attention.
    Family: strides and aliasing.
    """
    return _right(_read(x, _packed(x.shape)), positions, base)
