"""Rows of scores, and what is drawn beside them: shifts, masks, positions, permutations."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from .values import MODERATE, TABLE, arrays, choice, raw, reach, tensor

# Lengths on and beside block boundaries; short ones are repeated, since most bugs need only a few.
LENGTHS = (1, 2, 3, 4, 2, 3, 7, 8, 15, 16, 17, 33, 31, 32, 63, 64, 65, 127, 128, 129, 257)
_N_ROWS = (1, 2, 3, 5)


def lengths(*, least: int = 1, most: int = 257) -> st.SearchStrategy[int]:
    """Lengths on and beside the boundaries of blocks of 8 to 256."""
    return choice(*(n for n in LENGTHS if least <= n <= most))


def _ascending(x):
    return np.sort(x, -1)


def _descending(x):
    return np.sort(x, -1)[..., ::-1]


def _shifted_up(x):
    return x + 1000.0


def _shifted_down(x):
    return x - 1000.0


def _dominant(x):
    x = x.copy()
    x[..., -1] += 64.0
    return x


def _late_maxima(x):
    """Each block of 16 exceeds the one before: every online rescaling is taken."""
    return x + 8.0 * (np.arange(x.shape[-1]) // 16)


def _ties(x):
    return np.broadcast_to(x[..., :1], x.shape)


def _flat(x):
    return x * 2.0**-10


def _per_row(x):
    return x * 4.0 ** np.arange(x.shape[-2])[:, None] if x.ndim > 1 else x


def _integers(x):
    return np.clip(np.round(x), -8, 8)


REGIMES = {
    "plain": lambda x: x, "integers": _integers, "far up": _shifted_up, "far down": _shifted_down,
    "ascending": _ascending, "descending": _descending, "one dominant": _dominant, "late maxima": _late_maxima,
    "ties": _ties, "flat": _flat, "rows of different size": _per_row,
}


@st.composite
def rows(draw, *, least: int = 1, most: int = 257, n_rows: int | None = None, moderate: bool = False,
         regimes: tuple[str, ...] = tuple(REGIMES)) -> torch.Tensor:
    """Scores `(rows, n)`, float64; `least <= n <= most`; finite; |x| up to about 1e4 (8 if `moderate`)."""
    n = draw(lengths(least=least, most=most))
    count = draw(choice(*_N_ROWS)) if n_rows is None else n_rows
    if n * count > 600:
        count = 1 if n_rows is None else n_rows
    regime = draw(choice(*regimes))
    x = draw(arrays((count, n), table=MODERATE if moderate else TABLE))
    reach(regime)
    reach(f"length {n}")
    return tensor(REGIMES[regime](x))


def shifts() -> st.SearchStrategy[float]:
    """Common shifts of a row, up and down, past where exp overflows in every dtype."""
    return choice(1.0, -1.0, 8.0, -8.0, 64.0, -64.0, 104.0, -104.0, 1000.0, -1000.0, 10000.0, -10000.0)


@st.composite
def keeps(draw, shape: tuple[int, ...], *, empty_rows: bool = True) -> torch.Tensor:
    """A boolean tensor, True = visible (the simplest value); with `empty_rows=False` every row keeps something."""
    count = int(np.prod(shape))
    bits = np.unpackbits(np.frombuffer(draw(raw(-(-count // 8))), np.uint8))
    keep = (bits[:count] == 0).reshape(shape)
    if not empty_rows and shape[-1]:
        keep = keep.copy()
        keep[..., 0] |= ~keep.any(-1)
    elif shape[-1] and not keep.any(-1).all():
        reach("empty row")
    if not keep.all():
        reach("something hidden")
    return torch.from_numpy(keep.copy())


@st.composite
def masked_rows(draw, *, empty_rows: bool = True, least: int = 1, most: int = 129, moderate: bool = False):
    """(scores, keep), both `(rows, n)`."""
    x = draw(rows(least=least, most=most, moderate=moderate))
    return x, draw(keeps(tuple(x.shape), empty_rows=empty_rows))


@st.composite
def permutations_of(draw, n: int) -> torch.Tensor:
    """A permutation of range(n); its simplest value is the identity.  Drawn as swaps, so that it shrinks."""
    order = np.arange(n)
    swaps = np.frombuffer(draw(raw(2 * min(n, 16))), np.uint8).reshape(-1, 2).astype(np.int64) % max(n, 1)
    for i, j in swaps.tolist():
        order[[i, j]] = order[[j, i]]
    return torch.from_numpy(order)


@st.composite
def rows_and_permutation(draw, **options):
    """(x, order): scores and a permutation of their columns."""
    x = draw(rows(least=2, **options))
    return x, draw(permutations_of(x.shape[-1]))


def integer_rows(**options) -> st.SearchStrategy[torch.Tensor]:
    """Scores that are small integers: shifts and sums are exact in every dtype."""
    return rows(regimes=("integers",), **options)


__all__ = ["LENGTHS", "REGIMES", "integer_rows", "keeps", "lengths", "masked_rows", "permutations_of", "rows",
           "rows_and_permutation", "shifts"]
