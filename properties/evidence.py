"""Evidence: what a cell leaves behind, as strict JSON, and the case file that survives a crash.

The controlling process appends one line per check to the events file as it arrives.  A worker writes only its own case
file, before each launch: which cell, until when, and the arguments, so that a kernel that kills its process is caught
with the case that did it.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from .cells import Column, Outcome
from .claims import Claim
from .memory import Laid
from .results import Result
from .script import reproduction
from .search import Budget
from .strategies import Inputs
from .subjects import Subject
from .trial import Call, Failure

_SIGNS = {"=": "=", "<=": "<=", "==": "is bit for bit"}
ABLATION = 2.0                    # seconds to find a failing example anew, and as many to look for what cures it
MOST_VALUES = 4096                # larger tensors are described, not written out


@dataclass(frozen=True)
class Cell:
    """What a record says of a claim in a column, in plain picklable data: it must outlive the process that ran it."""

    id: str
    claim: str
    title: str
    leg: str
    implementation: str | None
    dtype: str | None
    file: str | None                  # of the implementation
    array: str
    device: str
    operations: tuple[str, ...]
    digest: dict


def cell_of(id: str, claim: Claim, column: Column) -> Cell:
    """The plain data of a claim in a column."""
    subject = column.subject
    return Cell(id=id, claim=f"{claim.file}::{claim.name}", title=claim.title, leg=column.leg, dtype=column.dtype,
                implementation=subject and subject.name, file=subject and subject.file,
                array=subject.array if subject else "torch", device=subject.device if subject else "cpu",
                operations=claim.operations,
                digest={"claim": claim.digest, "implementation": subject and subject.digest})


def encode(value, *, dtype: str | None = None):
    """Any drawn or returned value as strict JSON; tensors as {"shape", "dtype", "values"}, NaN and inf as strings."""
    if isinstance(value, Result):
        value = value.value
    if isinstance(value, Laid):
        return encode(value.values) | {"layout": value.layout.name}
    if isinstance(value, Inputs):
        return {"q": encode(value.q), "k": encode(value.k), "v": encode(value.v)} | {
            name: encode(option) for name, option in value.options.items()}
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value if value.dtype == torch.bool else value.double()).numpy()
    if isinstance(value, np.ndarray):
        name = dtype or ("bool" if value.dtype == bool else str(value.dtype))
        tensor = {"shape": list(value.shape), "dtype": name}
        return tensor | ({"values": _numbers(value.tolist())} if value.size <= MOST_VALUES else {})
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if isinstance(value, (float, np.floating)):
        return _numbers(float(value))
    if isinstance(value, (tuple, list)):
        return [encode(v) for v in value]
    if isinstance(value, dict):
        return {str(k): encode(v) for k, v in value.items()}
    return repr(value)


def _numbers(value):
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def line(record: dict) -> str:
    """One event as a line of strict JSON."""
    return json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n"


def implementation_event(subject: Subject) -> dict:
    """The record of an implementation."""
    return {"event": "implementation", "implementation": subject.name, "file": subject.file,
            "operations": sorted(subject.operations), "dtypes": list(subject.dtypes), "device": subject.device,
            "note": subject.note, "rounding": str(subject.rounding), "conventions": dict(subject.conventions),
            "title": subject.title, "digest": subject.digest}


def claim_event(claim: Claim) -> dict:
    """The record of a claim: all that the report shows of it without running it."""
    proof = claim.proved_by
    return {"event": "claim", "claim": f"{claim.file}::{claim.name}", "file": claim.file, "line": claim.line,
            "title": claim.title, "statement": claim.statement, "formula": claim.formula, "rows": list(claim.rows),
            "kind": claim.kind, "if_fails": claim.if_fails, "operations": list(claim.operations),
            "corrects": [name if "::" in name else f"{claim.file}::{name}" for name in claim.corrects],
            "needs": claim.needs and claim.needs.__name__, "needs_text": claim.needs and (claim.needs.__doc__ or ""),
            "has_proof": proof is not None, "proof_source": proof and proof.source, "untied": proof and proof.untied,
            "source": claim.source, "digest": claim.digest}


def check_event(cell: Cell, outcome: Outcome) -> dict:
    """The record of a finished cell."""
    trial = outcome.trial
    return _check(cell, outcome.verdict, outcome.message) | {
        "law": outcome.law, "faithful": outcome.faithful, "examples": trial.examples, "unsupported": trial.unsupported,
        "excused": trial.excused, "discarded": trial.discarded,
        "budget_used": round(trial.used, 6) if trial.profile else None, "budget_at": _plain(trial.used_at),
        "profile": {axis: {f"{size:g}": round(used, 4) for size, used in sorted(sizes.items())}
                    for axis, sizes in trial.profile.items()},
        "reach": dict(trial.reach), "seconds": round(outcome.seconds, 4), "inside": round(trial.inside, 4),
        "note": outcome.note, "costs": trial.costs,
        "counterexample": outcome.failure and counterexample(cell, outcome.failure),
        **outcome.extra}


def cures_of(claim: Claim, column: Column, outcome: Outcome, budget: Budget) -> dict:
    """Which repairs make a failing example right, and which do not; nothing if that can not be told.

    The first failing example, not the smallest: in that, little is left that could be repaired.
    """
    from .power.ablation import ablate
    from .power.kills import first_failing
    drawn = None
    try:
        if claim.kind != "refuted":                               # whose law is meant to fail
            drawn = first_failing(claim, column.subject, column.dtype, examples=budget.examples, seed=budget.seed,
                                  seconds=ABLATION)
        drawn = drawn or outcome.failure.drawn
        found = ablate(claim, column.subject, column.dtype, drawn, dtypes=column.subject.dtypes, seconds=ABLATION)
    except Exception:  # noqa: BLE001                      # the kernel is wrong already: it may raise anything
        return {}
    return {"cured_by": list(found.cured), "not_cured_by": list(found.not_cured)}


def died_event(cell: Cell, case: tuple | None) -> dict:
    """The record of a cell whose process died: *timed out* if its deadline had come, else *crashed*."""
    deadline, operation, dtype, arguments = case or (float("inf"), "", "", {})
    late = time.time() >= deadline - 1.0
    where = f"in {operation}" if operation else "outside of the implementation"
    message = f"did not return within its time limit, {where}" if late else f"the process died {where}"
    failure = Failure(message, 0, {}, [Call(operation, dtype, arguments)], None) if operation else None
    return _check(cell, "timed out" if late else "crashed", message) | {
        "note": "the case shown is the one that was running; it is not shrunk", "operation": operation,
        "counterexample": failure and counterexample(cell, failure)}


def _check(cell: Cell, verdict: str, message: str) -> dict:
    return {
        "event": "check", "id": cell.id, "claim": cell.claim, "leg": cell.leg, "implementation": cell.implementation,
        "dtype": cell.dtype, "verdict": verdict, "message": message, "law": None, "faithful": None, "examples": 0,
        "unsupported": 0, "excused": 0, "discarded": 0, "budget_used": None, "budget_at": {}, "profile": {},
        "reach": {}, "seconds": 0.0, "inside": 0.0, "note": "", "costs": [], "counterexample": None,
        "cured_by": [], "not_cured_by": [], "digest": cell.digest}


def _plain(sizes: dict) -> dict:
    return {name: float(size) for name, size in sizes.items()}


def counterexample(cell: Cell, failure: Failure) -> dict:
    """The smallest failing example: what was drawn, every call with expected and got, and a script."""
    relation = failure.relation
    return {
        "number": failure.number,
        "drawn": {name: encode(value) for name, value in failure.drawn.items()},
        "calls": [_call(i, call) for i, call in enumerate(failure.calls, 1)],
        "relation": relation and {
            "text": f"{relation.left} {_SIGNS[relation.sign]} {relation.right}", "at": list(relation.at),
            "off_by": _numbers(relation.gap),
            "budget": _numbers(relation.allowed),
            "left": encode(relation.left.exact if cell.leg == "exact" else relation.left),
            "right": encode(relation.right.exact if cell.leg == "exact" else relation.right)},
        "script": reproduction(cell, failure),
    }


def _call(number: int, call: Call) -> dict:
    given = {name: value for name, value in call.given.items() if value is not None and value is not False}
    return {
        "name": f"r{number}", "call": f"{call.operation}({', '.join(given)})", "operation": call.operation,
        "arguments": {name: encode(value, dtype=call.dtype if getattr(value, 'dtype', None) == np.float64 else None)
                      for name, value in given.items()},
        "fault": call.fault,
        "results": [{"name": q.name, "got": encode(q.got), "expected": encode(q.expected), "budget": encode(q.budget),
                     "at": list(q.at), "used": _numbers(q.used)} for q in call.quantities]}


class CaseFile:
    """A worker's own file: the cell that runs, its deadline, and the arguments of the last launch."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._cell, self._deadline = b"", 0.0

    def enter(self, cell: Cell, *, limit: float) -> None:
        """A cell starts; it may take `limit` seconds."""
        self._cell, self._deadline = pickle.dumps(cell), time.time() + limit
        self._write(("", "", {}))

    def launch(self, operation: str, dtype: str, arguments: dict) -> None:
        """The implementation is about to be called."""
        self._write((operation, dtype, arguments))

    def leave(self) -> None:
        """The cell has ended."""
        os.ftruncate(self._fd, 0)

    def _write(self, case: tuple) -> None:
        payload = pickle.dumps((self._cell, self._deadline, *case), protocol=5)
        os.pwrite(self._fd, len(payload).to_bytes(8, "little") + payload, 0)


def read_case(path: Path) -> tuple[Cell, tuple] | None:
    """The cell that was running and (deadline, operation, dtype, arguments) of its last launch, or None."""
    try:
        data = path.read_bytes()
        if not data:
            return None
        cell, *case = pickle.loads(data[8: 8 + int.from_bytes(data[:8], "little")])
        return pickle.loads(cell), tuple(case)
    except (OSError, pickle.UnpicklingError, EOFError):
        return None
