"""What ablation tells of a bug (see `ablation`): which repairs cure its failing calls, counted; no torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

MEMORY, OTHER_BITS, STAY = "fresh memory shows", "equal calls differ", "wrong numbers stay when the inputs change"
WRITTEN, VIEW = "an input is written", "a view is returned"
OBSERVED = (MEMORY, OTHER_BITS, STAY, WRITTEN, VIEW)                         # seen of the call itself: no repairs
SECOND, ANEW, CONTIGUOUS, ALONE, AGAIN, BY_ITSELF = (
    "called a second time", "imported anew", "with contiguous inputs", "called alone", "asked again",
    "every call by itself")
DECISIVE = frozenset({*OBSERVED, SECOND, ANEW, CONTIGUOUS, ALONE, AGAIN, BY_ITSELF})    # the arguments say no more
IN_DTYPE = ("in float64", "in float32")
SEEN = "seen: "             # begins what is seen of a wrong result (see `observations`): it stands among the repairs

# Weights, chosen once from a coarse grid by leave-one-out on the 284 known bugs of November 2026.
PRIOR, LEAST = 0.5, 0.02    # calls taken to have had the usual outcome; probabilities stay this far from 0 and 1
OF_DECISIVE, OF_DTYPE = 4.0, 2.0

Cures = Mapping[str, tuple[int, int]]           # repair -> (calls that it cured, calls on which it was tried)


def counted(ablations: Iterable[tuple[Iterable[str], Iterable[str]]]) -> dict[str, tuple[int, int]]:
    """From (cured by, not cured by) of several calls, the calls that each repair cured, of how many.

    What is decisive counts as tried on every call: a call without strides is not wrong because of its strides.
    """
    cured, tried, calls = Counter(), Counter(), 0
    for by, not_by in ablations:
        calls += 1
        cured.update(by)
        tried.update(name for name in (*by, *not_by) if name not in DECISIVE)
    return {name: (cured[name], calls if name in DECISIVE else tried[name])
            for name in sorted({*tried, *(DECISIVE if calls else ())})}


def usual(all_cures: Iterable[Cures]) -> dict[str, float]:
    """How often each repair cures, over bugs."""
    cured, tried = Counter(), Counter()
    for cures in all_cures:
        for name, (by, of) in cures.items():
            cured[name] += by
            tried[name] += of
    return {name: (cured[name] + 0.5) / (tried[name] + 1) for name in tried}


def log_likelihood(seen: Cures, known: Cures, usually: Mapping[str, float]) -> float:
    """Of the shares of cured calls `seen`, if the bug were of the sort of the known one."""
    total = 0.0
    for name, (cured, tried) in seen.items():
        if name not in usually or not tried:
            continue
        by, of = known.get(name, (0, 0))
        p = (by / of + PRIOR * usually[name]) / (1 + PRIOR) if of else usually[name]
        p = min(max(p, LEAST), 1 - LEAST)
        weight = OF_DECISIVE if name in DECISIVE else OF_DTYPE if name in IN_DTYPE else 1.0
        total += weight * (cured / tried * math.log(p) + (1 - cured / tried) * math.log(1 - p))
    return total
