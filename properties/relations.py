"""What a claim may say about results: they agree, are the same bits, are ordered, cost so much, are refused.

`a` and `b` are `Result`s or constants.  Over the reals (the *exact* column) a law is `|A - B| <= E_a + E_b`, with a
failure re-judged in ball arithmetic before it is called one.  For an implementation it is
`|(a - A) - (b - B)| <= E_a + E_b`: what the inputs' own rounding does to the law is taken out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch

from .results import ClaimError, Result, difference, lift, to_numpy
from .trial import LawFails, Raised, Relation, current, of_budget


def agree(a, b) -> None:
    """a equals b, up to their budgets."""
    a, b = _pair(a, b)
    trial = current()
    if trial.judge == "exact":
        gap, allowed = np.abs(difference(a.exact, b.exact)), a.budget + b.budget
    else:
        with np.errstate(invalid="ignore"):
            gap, allowed = np.abs(a.error - b.error), a.budget + b.budget
    bad = ~(gap <= allowed) & ~np.isinf(allowed)
    _judge(trial, a, b, bad, gap, allowed, "=")


def at_most(a, b) -> None:
    """a <= b, up to their budgets (and where rounding the inputs made A > B, up to that)."""
    a, b = _pair(a, b)
    trial = current()
    left, right = (a.exact, b.exact) if trial.judge == "exact" else (a.value, b.value)
    excess = 0.0 if trial.judge == "exact" else np.fmax(difference(a.exact, b.exact), 0.0)
    with np.errstate(invalid="ignore"):
        gap, allowed = np.where(left <= right, 0.0, left - right), a.budget + b.budget + excess
    bad = ~(gap <= allowed) & ~np.isinf(allowed)
    _judge(trial, a, b, bad, gap, allowed, "<=")


def exactly(a, b) -> None:
    """a and b are the same numbers, with tolerance 0 (NaN equals NaN, 0 equals -0).

    Only for what floating point does exactly: contents of masked keys, other heads, sign flips, powers of two.
    Over the reals it is `agree`.
    """
    if not isinstance(a, Result) and not isinstance(b, Result):
        x, y = to_numpy(a), to_numpy(b)
        a, b = Result.constant(x), Result.constant(y)
    elif current().judge == "exact":
        return agree(a, b)
    a, b = _pair(a, b)
    same = (a.value == b.value) | (np.isnan(a.value) & np.isnan(b.value))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a.value - b.value))
    _judge(current(), a, b, ~same, gap, np.zeros_like(gap), "==")


def _pair(a, b) -> tuple[Result, Result]:
    if isinstance(a, Result) and isinstance(b, Result) and a.shape != b.shape:
        raise ClaimError(f"two results of different shapes are compared: {a.shape} and {b.shape}")
    a, b = lift(a), lift(b)
    if a.shape != b.shape:
        shape = np.broadcast_shapes(a.shape, b.shape)
        a, b = (r if r.shape == shape else r._each(lambda x: np.broadcast_to(x, shape), "expand") for r in (a, b))
    return a, b


def _judge(trial, a: Result, b: Result, bad: np.ndarray, gap, allowed, sign: str) -> None:
    gap, allowed = np.broadcast_to(gap, bad.shape), np.broadcast_to(allowed, bad.shape)
    if trial.judge == "exact" and bad.any():
        bad = _confirmed(a, b, bad, sign)
    at: tuple = ()
    if bad.any():
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(bad, np.where(np.isnan(gap), np.inf, gap / allowed), -1.0)
        at = tuple(int(i) for i in np.unravel_index(int(np.argmax(share)), bad.shape))
    relation = Relation(text="", left=a, right=b, at=at, sign=sign, gap=float(gap[at]) if bad.any() else 0.0,
                        allowed=float(allowed[at]) if bad.any() else 0.0)
    trial.relations.append(relation)
    if bad.any():
        left, right = (a.exact, b.exact) if trial.judge == "exact" else (a.value, b.value)
        where = f" at {at}" if at else ""
        budget = "; they must be the same" if sign == "==" else "" if not np.isfinite(relation.gap) else \
            f": {relation.gap:.2g} apart, {of_budget(relation.gap, relation.allowed)}"
        raise LawFails(f"{a} {sign} {b} fails{where}: {float(left[at]):.6g} and {float(right[at]):.6g}{budget}")


def _confirmed(a: Result, b: Result, bad: np.ndarray, sign: str) -> np.ndarray:
    """The failures that ball arithmetic confirms; all of them where it has nothing to say."""
    if not (a.ball and b.ball):
        return bad
    try:
        left, right = np.asarray(a.ball(), object), np.asarray(b.ball(), object)
    except (ImportError, ArithmeticError, ValueError, NotImplementedError):
        return bad
    confirmed = np.zeros_like(bad)
    for index in np.argwhere(bad):
        gap = left[tuple(index)] - right[tuple(index)]
        confirmed[tuple(index)] = (gap > 0) if sign == "<=" else not gap.contains(0)
    return confirmed


def plausible(p_value: float, *, what: str = "the observation") -> None:
    """A p-value (probability under the claim of something at least as extreme) is not below 1e-13."""
    from .numerics.statistics import FALSE_ALARM              # needs SciPy, as whoever computes p-values does
    if not p_value >= FALSE_ALARM:
        raise LawFails(f"{what} has probability {p_value:.3g} under the claim, below {FALSE_ALARM:g}")


def costs(counted: float, expected: float, *, what: str = "cost", at: dict[str, float] | None = None,
          unit: str = "") -> None:
    """A counted cost (multiply-adds, bytes, parameters) equals its formula, exactly.

    `at={"N": 64}` makes it a point of the report's plot: the series `what` at N = 64, in this unit.
    """
    trial = current()
    if at is not None:
        trial.cost({"what": what, "at": dict(at), "unit": unit, "counted": float(counted), "expected": float(expected)})
    trial.relations.append(Relation(what, Result.constant(float(counted)), Result.constant(float(expected)),
                                    gap=abs(float(counted - expected))))
    if counted != expected:
        raise LawFails(f"{what}: counted {counted:g}, the formula says {expected:g}")


def rejects(call: Callable[[], object], *, match: str = "") -> None:
    """The call is refused with an exception whose message contains the regular expression `match` (any case)."""
    trial = current()
    if trial.judge == "exact":
        raise ClaimError("a claim with rejects is about implementations, not about real numbers")
    before, trial.refusing = len(trial.calls), True
    try:
        call()
    except Raised as refused:
        del trial.calls[before:]
        if match and not re.search(match, str(refused), re.IGNORECASE):
            raise LawFails(f"refused, but the message does not mention {match!r}: {refused}") from None
        return
    finally:
        trial.refusing = False
    raise LawFails("an input outside the domain was accepted; expected a clear error")


def tensor(x: Result | torch.Tensor) -> torch.Tensor:
    """A result's values as a float64 tensor, to be fed into another call."""
    return x.tensor() if isinstance(x, Result) else x
