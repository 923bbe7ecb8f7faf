"""A second opinion before anything is called a failure: the exact value in ball arithmetic, rigorous to 128 bits."""

from __future__ import annotations

import numpy as np

from .operations import OPERATIONS
from .trial import Call


def confirmed(call: Call, conventions: dict) -> bool | None:
    """Whether balls confirm that a call is outside its budget; None where they have nothing to say.

    They have nothing to say of a broken calling contract, of values that are not finite (judged by class), and where
    python-flint is missing.
    """
    from .numerics.balls import NotEnclosed, enclose
    worst = max(call.quantities, key=lambda q: q.used, default=None)
    if call.fault or worst is None or worst.used <= 1:
        return None
    got, budget = float(worst.got[worst.at]), float(worst.budget[worst.at])
    if not (np.isfinite(got) and np.isfinite(worst.expected[worst.at])):
        return None
    try:
        balls = enclose(call.operation, call.given, conventions)
    except NotEnclosed:
        return None
    from flint import arb
    exact = balls[OPERATIONS[call.operation].judged.index(worst.name)][worst.at]
    return bool(abs(arb(got) - exact) > arb(budget))


def opinion(calls: list[Call], conventions: dict) -> tuple[bool, str]:
    """(whether a failure stands, what to say of it) from the calls that are outside their budgets."""
    verdicts = [confirmed(call, conventions) for call in calls if call.wrong()]
    if True in verdicts:
        return True, "confirmed in ball arithmetic"
    if verdicts and None not in verdicts:
        return False, "ball arithmetic does not confirm it: the exact value in float64 is not good enough here"
    return True, ""
