"""From a value and a budget in the accumulator to what is judged: stored in the output's format, with its classes."""

import numpy as np

from . import softmax as weights
from . import special
from .rounding import LARGEST


def exactly(name, value):
    """One quantity without any budget."""
    value = np.asarray(value, dtype=np.float64)
    return ((name, value, np.zeros(value.shape), None),)


def spread(kind, like):
    """Classes expanded to the shape of a quantity."""
    return None if kind is None else np.broadcast_to(kind, like.shape)


def empty_kind(kind, empty, conventions):
    """The classes when rows without a visible key follow the convention: 0 by distance, or NaN."""
    if empty is None or conventions["empty_row"] == "zero":
        return kind
    return np.where(empty, np.int8(special.NAN), np.int8(special.FIN) if kind is None else kind)


def stored(name, value, budget, kind, contract):
    """The quantity after storing; elements that may overflow the format are free."""
    budget = weights.stored(value, budget, contract)
    limit, reach = LARGEST[contract.out], np.abs(value) + budget
    if not reach.max(initial=0.0) < limit:
        kind = np.zeros(value.shape, np.int8) if kind is None else kind.copy()
        kind[(kind == special.FIN) & ~(reach < limit)] = special.ANY
    return name, value, budget, kind


def weights_of_rows(rows, E, contract):
    """(P, budget, kind) of rows that were sorted into classes; a hidden weight in a NaN row may be 0 as well."""
    P, budget, _ = weights.softmax(rows.S, contract, E)
    kind = np.broadcast_to(rows.kind[..., None], P.shape).copy()
    kind[~rows.shown & (kind == special.NAN) & ~rows.empty[..., None]] = special.ZERO_OR_NAN
    return P, budget, kind


def rows_of_scores(x, shown, contract, conventions):
    """Scores that were given as they are, sorted into classes."""
    limit = 0.25 * LARGEST[contract.acc]
    safe, harmless = ~(np.isfinite(x) & (x >= limit)), (np.abs(x) < limit) | (x == -np.inf)
    return special.classify_rows(x, safe, shown, limit, harmless=harmless, empty_row=conventions["empty_row"])


def ordinary(M, contract):
    """No row maximum is NaN, +inf or near overflow (it is 0 for an empty row)."""
    return np.abs(M).max(initial=0.0) < 0.25 * LARGEST[contract.acc]
