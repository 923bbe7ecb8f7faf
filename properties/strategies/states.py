"""Online-softmax states and rows of scores with entries that are not finite."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from .rows import keeps, rows
from .values import MODERATE, TABLE, Table, arrays, choice, reach, tensor

_SHAPES = ((1,), (2,), (3,), (2, 3), (1, 2, 5), (17,), (65,))
_WIDTHS = (1, 2, 3, 1, 2, 5, 16, 17)
_DENOMINATORS = Table("DENOMINATORS", np.resize([1, 2, 3, 1.5, 0.5, 1.125, 5, 16, 17, 64, 129, 257], 256))
_SPECIAL = (-np.inf, np.inf, np.nan)


@st.composite
def states(draw, count: int, *, empty: bool = True) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """`count` states (m, l, acc) of one shape: m (..., L), l (..., L) > 0, acc (..., L, D), float64.

    m lies up to 1e4 above or below 0, alone or by a shift common to all states; with `empty`, in a third of the
    examples, some rows of some states have seen no key: (-inf, 0, 0).
    """
    shape, width = draw(choice(*_SHAPES)), draw(choice(*_WIDTHS))
    far = draw(choice(0.0, 0.0, 1000.0, -1000.0))
    reach("far up" if far > 0 else "far down" if far else "near 0")
    holes = draw(choice(False, False, True)) if empty else False
    m = draw(arrays((count, *shape), table=MODERATE if far else TABLE)) + far
    l = draw(arrays((count, *shape), table=_DENOMINATORS))                                     # noqa: E741
    acc = draw(arrays((count, *shape, width), table=MODERATE))
    if holes:
        seen = draw(keeps((count, *shape))).numpy()
        m, l, acc = np.where(seen, m, -np.inf), l * seen, acc * seen[..., None]                # noqa: E741
        reach("no empty state" if seen.all() else "empty state")
    return [tuple(tensor(part) for part in state) for state in zip(m, l, acc, strict=True)]


@st.composite
def hidden_rows(draw, *, empty_rows: bool = True, **options) -> torch.Tensor:
    """Scores `(rows, n)` of which some are -inf; with `empty_rows=False` one in every row is not."""
    x = draw(rows(**options))
    return x.masked_fill(~draw(keeps(tuple(x.shape), empty_rows=empty_rows)), -np.inf)


@st.composite
def special_rows(draw, **options) -> torch.Tensor:
    """Scores `(rows, n)` of which one or two are -inf, inf or NaN, in half of the examples."""
    x = draw(rows(**options))
    for value in draw(st.lists(st.sampled_from(_SPECIAL), max_size=2)):
        x.view(-1)[draw(st.integers(0, x.numel() - 1))] = value
        reach(f"holds {value}")
    return x


@st.composite
def rows_and_gradients(draw, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """(x, dy): scores, some of them -inf but no row without a finite one, and a gradient; both `(rows, n)`."""
    x = draw(hidden_rows(empty_rows=False, **options))
    return x, tensor(draw(arrays(tuple(x.shape), table=MODERATE)))


__all__ = ["hidden_rows", "rows_and_gradients", "special_rows", "states"]
