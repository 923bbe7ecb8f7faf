"""Run one cell: one claim in one column (proof, exact, torch, or an implementation with a dtype), to one verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hypothesis import Phase
from hypothesis.errors import HypothesisException

from .calls import EXACT, Implementation, _Broken
from .claims import Claim
from .rejudge import fitting_contract, opinion
from .results import ClaimError
from .search import Budget, holds, pinned, search
from .subjects import Subject
from .trial import LawFails, Raised, Trial, Unfaithful

GREEN = ("holds", "refuted")
RED = ("law fails", "unfaithful", "not refuted", "not proved", "crashed", "timed out", "error")
SEARCH_FACTOR = 10                # a refuted claim's counterexample is looked for in ten times the examples


@dataclass(frozen=True)
class Column:
    """Where a claim is judged: leg "proof", "exact", "torch" or "implementation" (then with a subject), and a dtype."""

    leg: str
    subject: Subject | None = None
    dtype: str | None = None

    @property
    def label(self) -> str:
        name = self.subject.name if self.subject else self.leg
        return f"{name}-{self.dtype}" if self.dtype else name


@dataclass
class Outcome:
    """The verdict of a cell and everything the report shows of it."""

    verdict: str
    trial: Trial
    message: str = ""
    note: str = ""
    failure: object = None
    law: bool | None = None
    faithful: bool | None = None
    seconds: float = 0.0
    extra: dict = field(default_factory=dict)


def columns(claim: Claim, subjects: list[Subject], dtypes: tuple[str, ...] | None) -> list[Column]:
    """The columns in which a claim is judged."""
    wanted = [d for d in ("float64", "float32", "float16", "bfloat16")
              if (dtypes is None or d in dtypes) and (claim.dtypes is None or d in claim.dtypes)]
    found = [Column("proof")] if claim.proved_by else []
    if not claim.takes_implementation:
        return found + ([Column("torch", dtype=d) for d in wanted] if "dtype" in claim.arguments else [Column("torch")])
    if claim.over == "reals" and claim.kind in ("law", "exact law", "condition", "refuted"):
        found.append(Column(EXACT))
    if claim.kind == "refuted" and claim.over == "reals":
        return found
    return found + [Column("implementation", s, d) for s in subjects for d in wanted if d in s.dtypes]


def run(claim: Claim, column: Column, budget: Budget, *, record: Callable[..., None] | None = None) -> Outcome:
    """Judge a claim in a column.  `record(operation, dtype, arguments)` is called before every launch."""
    start = time.perf_counter()
    dtype = column.dtype or "float64"
    trial = Trial(claim=f"{claim.file}::{claim.name}", dtype=dtype, judge=EXACT if column.leg == EXACT else "floats")
    impl = Implementation(column.subject, dtype, trial, record=record) if claim.takes_implementation else None
    try:
        missing = column.subject and [o for o in claim.operations if o not in column.subject.operations]
        if missing and _never_supported(claim, column, missing, budget):
            outcome = Outcome("unsupported", trial, message=f"does not provide {', '.join(missing)}")
        elif claim.kind == "refuted":
            outcome = _refute(claim, trial, impl, budget)
        else:
            outcome = _hold(claim, trial, impl, budget)
            searched = column.leg in (EXACT, "torch") or claim.over == "floats"
            if claim.needs and outcome.verdict == "holds" and searched:
                outcome = _needed(claim, outcome, column, budget)
    except (ClaimError, HypothesisException) as error:
        outcome = Outcome("error", trial, message=f"{type(error).__name__}: {error}")
    outcome.seconds = time.perf_counter() - start
    return outcome


def _never_supported(claim: Claim, column: Column, missing: list[str], budget: Budget) -> bool:
    """Whether an implementation that lacks operations can not be judged at all: decided on two examples, or none."""
    if len(missing) == len(claim.operations):
        return True
    trial = Trial(claim=claim.name, dtype=column.dtype)
    search(claim, trial, Implementation(column.subject, column.dtype, trial), replace(budget, examples=2),
           condition=claim.needs, derandomize=True)
    return trial.examples > 0 and trial.examples == trial.unsupported


_VERDICTS = {LawFails: "law fails", _Broken: "unfaithful", Unfaithful: "unfaithful", Raised: "crashed"}   # worst first


def _hold(claim: Claim, trial: Trial, impl, budget: Budget) -> Outcome:
    remembered = budget.remembered()
    search(claim, trial, impl, budget, condition=claim.needs, first=remembered)
    failures = trial.failures
    for kind, verdict in _VERDICTS.items():
        if kind in failures:
            failure = failures[kind]
            budget.remember(failure.drawn)
            others = [v for k, v in ((Unfaithful, "unfaithful"), (Raised, "crashed")) if k in failures and v != verdict]
            stands, note = opinion(failure.calls, impl.conventions) if impl is not None and impl.subject else (True, "")
            if not stands:
                return Outcome("error", trial, message=f"{failure.message}; {note}", failure=failure)
            hint = fitting_contract(failure.calls, impl.subject) if kind is Unfaithful and impl.subject else ""
            also = f"also {', '.join(others)} on other examples" if others else ""
            notes = [text for text in (note, hint, also) if text]
            return Outcome(verdict, trial, message=failure.message, failure=failure, law=kind is not LawFails,
                           faithful=verdict == "law fails" and not any(c.wrong() for c in failure.calls),
                           note="; ".join(notes))
    if trial.examples and trial.examples == trial.unsupported:
        missing = trial.missing.most_common(1)[0][0] if trial.missing else ""
        return Outcome("unsupported", trial, message=missing)
    if not trial.examples:
        return Outcome("error", trial, message="no example satisfied the claim's conditions")
    if trial.excused:
        return Outcome("expected failure", trial, message=trial.excuse.reason, extra={
            "reason": trial.excuse.reason, "link": trial.excuse.link, "still_there": bool(trial.excuse.reproducer())})
    return Outcome("holds", trial, law=True, faithful=True)


def _refute(claim: Claim, trial: Trial, impl, budget: Budget) -> Outcome:
    wider = replace(budget, examples=SEARCH_FACTOR * budget.examples)
    search(claim, trial, impl, wider, derandomize=True, only_law=True,
            phases=(Phase.generate, Phase.target, Phase.shrink))
    found = "found"
    if LawFails not in trial.failures and pinned(claim):
        search(claim, trial, impl, wider, derandomize=True, phases=(Phase.explicit,), only_law=True)
        found = "pinned"
    if LawFails not in trial.failures:
        return Outcome("not refuted", trial, message=f"no counterexample among {trial.examples} examples: is it true?")
    failure = trial.failures[LawFails]
    number = trial.first_failure[LawFails]
    note = f"refuted by example {number}, then shrunk" if found == "found" else "refuted by the pinned example"
    return Outcome("refuted", trial, note=note, failure=failure, law=False)


def _needed(claim: Claim, outcome: Outcome, column: Column, budget: Budget) -> Outcome:
    """The law holds under its condition; now find a counterexample without it."""
    without = Trial(claim=outcome.trial.claim, dtype=outcome.trial.dtype, judge=outcome.trial.judge)
    impl = Implementation(column.subject, without.dtype, without) if claim.takes_implementation else None
    wider = replace(budget, examples=SEARCH_FACTOR * budget.examples)
    search(claim, without, impl, wider, condition=lambda **drawn: not holds(claim.needs, drawn), derandomize=True,
            only_law=True)
    if LawFails not in without.failures:
        return replace(outcome, verdict="not refuted", message=f"holds under {claim.needs.__name__}, but there is no "
                       f"counterexample without it among {without.examples} examples: is the condition needed?")
    number = without.first_failure[LawFails]
    return replace(outcome, failure=without.failures[LawFails],
                   note=f"needs {claim.needs.__name__}: without it example {number} is a counterexample")
