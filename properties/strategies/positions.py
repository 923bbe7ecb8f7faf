"""Tokens and where they stand: heads of even size, positions of every sort."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from .values import INTEGERS, MODERATE, arrays, choice, raw, reach, tensor

# On both sides of the lengths at which position tables are cut, and of the last integers of the half types.
POSITIONS = (0, 1, 2, 3, 5, 7, -1, 10, 31, -2, 100, 255, 256, 257, 1000, 2047, 2048, 2049, -2049, 4095, 4097, 8191,
             32768, 65537, 100000, 131071, 1000000)
NEAR = tuple(p for p in POSITIONS if abs(p) < 256)
BASES = (10000.0, 10000.0, 10000.0, 500000.0, 1e6, 100.0, 2.0, 1.0)
_SHAPES = ((1, 1, 1), (1, 1, 2), (1, 2, 3), (2, 1, 2), (2, 3, 4), (3, 2, 1), (2, 2, 2), (1, 3, 5), (1, 1, 17))
_EVEN_HEAD_DIMS = (2, 4, 2, 4, 6, 8, 10, 16, 34, 64, 80, 128)


def shifts_of_positions() -> st.SearchStrategy[int]:
    """By how much all positions move: by one, a block, past 2048, backwards."""
    return choice(1, -1, 2, 3, 64, -100, 256, 2048, 4097, 100000)


def frequency_bases() -> st.SearchStrategy[float]:
    """Bases of the frequencies; half of the time or so the usual 10000."""
    return choice(*BASES)


def even_head_dims(*, least: int = 2, most: int = 128) -> st.SearchStrategy[int]:
    """Head dims that consist of pairs."""
    return choice(*(d for d in _EVEN_HEAD_DIMS if least <= d <= most))


@st.composite
def positions_of(draw, *shape: int, near: bool = False) -> torch.Tensor:
    """Positions of that shape (int64), in any order, repeated or not; with `near` all lie within 256 of 0."""
    table = np.array(NEAR if near else POSITIONS)
    count = int(np.prod(shape))
    places = table[np.frombuffer(draw(raw(count)), np.uint8) % len(table)]
    if (places > 2048).any():
        reach("beyond 2048")
    if (places < 0).any():
        reach("before 0")
    return torch.from_numpy(places.reshape(shape).astype(np.int64))


@st.composite
def tokens(draw, count: int = 1, *, least: int = 2, most: int = 128, integers: bool = False):
    """`count` tensors (B, H, L, D) of one shape, D even, entries at most 8 in size, or at most 3 and `integers`; a
    tuple if there are several."""
    shape = draw(choice(*_SHAPES))
    dim = draw(even_head_dims(least=least, most=most if np.prod(shape) < 16 else min(most, 16)))
    reach(f"head dim {dim}")
    table = INTEGERS if integers else MODERATE
    drawn = tuple(tensor(draw(arrays((*shape, dim), table=table))) for _ in range(count))
    return drawn if count > 1 else drawn[0]


@st.composite
def placed_tokens(draw, count: int = 1, *, near: bool = False, per_batch: bool | None = None, **sizes):
    """(x, positions), or (x, y, ..., positions): tokens and where they stand, (L,) or one row per sequence (B, L)."""
    drawn = draw(tokens(count, **sizes))
    parts = drawn if count > 1 else (drawn,)
    batch, _, length, _ = parts[0].shape
    own = draw(choice(False, True)) if per_batch is None else per_batch
    reach("positions of every sequence" if own else "shared positions")
    return *parts, draw(positions_of(*((batch, length) if own else (length,)), near=near))


__all__ = ["BASES", "NEAR", "POSITIONS", "even_head_dims", "frequency_bases", "placed_tokens", "positions_of",
           "shifts_of_positions", "tokens"]
