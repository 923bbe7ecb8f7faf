"""Special values: where distance means nothing, what class must an element belong to?

Entered only where an input is not finite or a score comes near overflow. The rules, for one row of scores:

* NaN or +inf among the visible scores makes the whole row NaN, never a finite number;
* finite inputs whose score may overflow under some legal order of scaling free the row (ANY);
* content of hidden keys that is not finite, or may overflow, frees it too: NaN - inf is NaN, a select is not;
* a row that sees keys, all of score -inf, gives 0 or NaN;
* a value that is NaN makes its column NaN where its key is visible, an infinite one not finite (0 inf = NaN), and
  frees the column where its weight is exactly 0;
* a row without visible keys follows the convention, zero or NaN; its lse is -inf.
"""

from typing import NamedTuple

import numpy as np

FIN, NAN, ZERO, NONFINITE, ZERO_OR_NAN, ANY = range(6)
KIND_NAMES = ("finite", "NaN", "0", "inf or NaN", "0 or NaN", "anything")


class Rows(NamedTuple):
    """How the rows of a score matrix are to be judged; row arrays are (..., rows), the others (..., rows, n)."""

    S: np.ndarray  # scores of the living keys, -inf elsewhere
    alive: np.ndarray  # visible keys of an ordinary score
    shown: np.ndarray  # visible keys
    kind: np.ndarray  # class of the row's weights
    lse_kind: np.ndarray  # class of its lse
    empty: np.ndarray  # rows without a visible key
    free: np.ndarray  # rows freed by hidden content or overflow


def classify_rows(scores, safe, shown, limit, *, harmless, empty_row):
    """Classes of rows of `scores` (IEEE values, NaN and inf where they arise).

    `safe` is False where a finite score may overflow, `shown` True at visible keys, and `harmless` True where the score
    of a hidden key disappears however it is hidden, by adding -inf too.
    """
    scores, safe, shown = np.broadcast_arrays(scores, safe, shown)
    spoilt = shown & safe & (np.isnan(scores) | (scores == np.inf))
    hot = shown & (~safe | (np.isfinite(scores) & (scores >= limit)))
    sunk = shown & (scores <= -limit)
    alive = shown & ~spoilt & ~hot & ~sunk
    spoilt_row, alive_row, shown_row = spoilt.any(-1), alive.any(-1), shown.any(-1)
    free = hot.any(-1) | (~shown & ~harmless).any(-1)
    free |= shown_row & ~alive_row & (sunk & np.isfinite(scores)).any(-1)
    free &= ~spoilt_row
    empty = ~shown_row
    kind = np.zeros(scores.shape[:-1], np.int8)
    lse_kind = kind.copy()
    dead_row = shown_row & ~alive_row
    kind[dead_row], lse_kind[dead_row] = ZERO_OR_NAN, NONFINITE
    kind[empty] = FIN if empty_row == "zero" else NAN  # value 0, budget 0
    lse_kind[empty] = FIN if empty_row == "zero" else NONFINITE
    kind[free] = lse_kind[free] = ANY
    kind[spoilt_row] = NAN
    lse_kind[spoilt_row] = NONFINITE
    lse_kind[(shown & np.isnan(scores)).any(-1) & spoilt_row] = NAN
    return Rows(np.where(alive, scores, -np.inf), alive, shown, kind, lse_kind, empty, free)


def classify_columns(rows, v):
    """Classes of the output elements (..., rows, dv) of attention to values v that may hold NaN and inf."""
    alive, bad = rows.alive.astype(float), ~np.isfinite(v)
    kind = np.zeros(rows.kind.shape + v.shape[-1:], np.int8)
    kind[(1.0 - alive) @ bad > 0.0] = ANY
    kind[alive @ np.isinf(v) > 0.0] = NONFINITE
    kind[alive @ np.isnan(v) > 0.0] = NAN
    row = rows.kind[..., None]
    keep = (row == FIN) | (rows.empty[..., None] & (kind == ANY))
    return np.where(keep, kind, row)


def classify_merge(m, l, acc, budget):
    """Classes of (out, lse) of two merged states: NaN in a reference or denominator spoils the row, NaN in the
    numerator of a state that is not empty its column; anything else that is not finite frees the element."""
    spoilt = np.isnan(m[0]) | np.isnan(m[1]) | np.isnan(l[0]) | np.isnan(l[1])
    kind = np.where(np.isfinite(budget), np.int8(FIN), np.int8(ANY))
    for reference, numerator in zip(m, acc):
        kind[np.isnan(numerator) & (reference > -np.inf)[..., None]] = NAN
    kind[spoilt] = NAN
    finite = np.isfinite(np.stack(np.broadcast_arrays(*m, *l))) | (np.stack(np.broadcast_arrays(*m, *l)) == -np.inf)
    return kind, np.where(spoilt, np.int8(NAN), np.where(finite.all(0), np.int8(FIN), np.int8(ANY)))


def without_special(x):
    """x with 0 in place of NaN and inf."""
    return np.where(np.isfinite(x), x, 0.0)
