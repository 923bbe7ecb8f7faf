"""A second opinion before anything is called a failure: ball arithmetic, rigorous to 128 bits, and other contracts."""

from __future__ import annotations

import numpy as np

from .numerics import PRESETS, contract_for, evaluate, violations
from .operations import OPERATIONS
from .subjects import Subject
from .trial import Call


def _arguments(call: Call) -> dict:
    """The arguments of a call, with what its exact value takes as given (the mask that dropout drew)."""
    drawn = OPERATIONS[call.operation].drawn
    return call.given | {q.name: q.got for q in call.quantities if q.name in drawn}


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
        balls = enclose(call.operation, _arguments(call), conventions)
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


def fitting_contract(calls: list[Call], subject: Subject) -> str:
    """Another rounding contract that the calls of a failing example keep, as a hint; "" where there is none."""
    if any(call.fault for call in calls) or not any(call.quantities for call in calls):
        return ""
    for preset in PRESETS:
        if preset != subject.rounding and all(_keeps(call, preset, subject) for call in calls):
            return f"this example keeps the contract {preset!r}: declare ROUNDING = {preset!r} if the kernel rounds so"
    return ""


def _keeps(call: Call, preset: str, subject: Subject) -> bool:
    got = {q.name: q.got for q in call.quantities}
    exacts = evaluate(call.operation, _arguments(call), contract_for(preset, call.dtype, device=subject.device),
                      dict(subject.conventions))
    return all((violations(got[e.name], e) <= 1).all() for e in exacts if e.name in got)
