"""Claims as pytest items: one cell each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from . import cells, evidence
from .cells import Column
from .claims import Claim
from .subjects import Problem

if TYPE_CHECKING:
    from .session import Session


def items_of(session: Session, collector, claim: Claim) -> list[pytest.Item]:
    """The items of a claim, one per column, or one that explains what is wrong with it."""
    problem = session.wrong_with(claim)
    if problem is not None:
        return [BrokenItem.from_parent(collector, name=f"{claim.name}[problem]", problem=problem)]
    return [ClaimItem.from_parent(collector, name=f"{claim.name}[{column.label}]", claim=claim, column=column,
                                  run=session) for column in session.columns(claim)]


class ClaimItem(pytest.Item):
    """One cell: a claim in a column."""

    def __init__(self, *, claim: Claim, column: Column, run: Session, **kwargs):
        super().__init__(**kwargs)
        self.claim, self.column, self.run = claim, column, run
        self.record: dict | None = None

    def runtest(self) -> None:
        session, claim, column = self.run, self.claim, self.column
        cell = evidence.cell_of(self.nodeid, claim, column)
        why = session.deaths(claim, column)
        if why:
            outcome = cells.Outcome("not run", cells.Trial(claim.name, column.dtype or ""), message=why)
        elif column.leg == "proof":
            from .proof import prove
            outcome = prove(claim, session.budget(claim, column))
        else:
            session.case.enter(cell, limit=session.limit or 1e9)
            outcome = cells.run(claim, column, session.budget(claim, column), record=session.case.launch)
            if outcome.verdict in ("law fails", "unfaithful") and column.subject:
                session.case.enter(cell, limit=session.limit or 1e9)
                outcome.extra |= evidence.cures_of(claim, column, outcome, session.budget(claim, column))
            session.case.leave()
        self.record = evidence.check_event(cell, outcome)
        if outcome.verdict in cells.RED:
            raise Red(outcome)
        if outcome.verdict in ("unsupported", "not run"):
            pytest.skip(f"{outcome.verdict}: {outcome.message}")

    def repr_failure(self, excinfo) -> str:
        if not isinstance(excinfo.value, Red):
            return super().repr_failure(excinfo)
        outcome, claim = excinfo.value.outcome, self.claim
        lines = [f"{self.nodeid}", f"  claim:    {claim.title}  ({claim.file}:{claim.line})",
                 f"  verdict:  {outcome.verdict}: {outcome.message}"]
        if outcome.note:
            lines.append(f"            {outcome.note}")
        if claim.if_fails:
            lines.append(f"  likely:   {claim.if_fails}")
        if outcome.failure is not None:
            lines += [f"  {name:9} {_short(value)}" for name, value in outcome.failure.drawn.items()]
            lines.append("  script:   in the report")
        return "\n".join(lines)

    def reportinfo(self):
        return self.claim.file, self.claim.line - 1, self.nodeid


class BrokenItem(pytest.Item):
    """A claim that cannot be run: it fails with the reason."""

    def __init__(self, *, problem: Problem, **kwargs):
        super().__init__(**kwargs)
        self.problem = problem

    def runtest(self) -> None:
        raise BrokenClaim(str(self.problem))

    def repr_failure(self, excinfo) -> str:
        return str(self.problem)


class Red(Exception):
    """A cell's verdict is red."""

    def __init__(self, outcome):
        self.outcome = outcome
        super().__init__(f"{outcome.verdict}: {outcome.message}")


class BrokenClaim(Exception):
    """A claim is wrong in itself."""


def _short(value) -> str:
    text = " ".join(repr(value).replace("tensor(", "").replace(", dtype=torch.float64)", "").split())
    return text if len(text) <= 300 else text[:297] + "..."
