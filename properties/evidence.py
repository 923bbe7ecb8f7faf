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
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from .cells import Column, Outcome
from .claims import Claim
from .memory import Laid
from .results import Result
from .script import reproduction
from .strategies import Inputs
from .trial import Call, Failure

MOST_VALUES = 4096                # larger tensors are described, not written out


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


def check_event(claim: Claim, column: Column, cell: str, outcome: Outcome) -> dict:
    """The record of a finished cell."""
    trial = outcome.trial
    return {
        "event": "check", "id": cell, "claim": f"{claim.file}::{claim.name}", "leg": column.leg,
        "implementation": column.subject.name if column.subject else None, "dtype": column.dtype,
        "verdict": outcome.verdict, "law": outcome.law, "faithful": outcome.faithful, "examples": trial.examples,
        "unsupported": trial.unsupported, "excused": trial.excused, "discarded": outcome.discarded,
        "budget_used": round(trial.used, 6) if trial.calls or trial.used else None, "budget_at": _plain(trial.used_at),
        "profile": {axis: {f"{size:g}": round(used, 4) for size, used in sorted(column_.items())}
                    for axis, column_ in trial.profile.items()},
        "reach": dict(trial.reach), "seconds": round(outcome.seconds, 4), "inside": round(trial.inside, 4),
        "message": outcome.message, "note": outcome.note,
        "counterexample": outcome.failure and counterexample(claim, column, outcome.failure),
        "digest": {"claim": claim.digest, "implementation": column.subject.digest if column.subject else None},
        **outcome.extra,
    }


def _plain(sizes: dict) -> dict:
    return {name: float(size) for name, size in sizes.items()}


def counterexample(claim: Claim, column: Column, failure: Failure) -> dict:
    """The smallest failing example: what was drawn, every call with expected and got, and a script."""
    relation = failure.relation
    return {
        "number": failure.number,
        "drawn": {name: encode(value) for name, value in failure.drawn.items()},
        "calls": [_call(i, call) for i, call in enumerate(failure.calls, 1)],
        "relation": relation and {
            "text": f"left {relation.sign} right", "at": list(relation.at), "off_by": _numbers(relation.gap),
            "budget": _numbers(relation.allowed),
            "left": encode(relation.left.exact if column.leg == "exact" else relation.left),
            "right": encode(relation.right.exact if column.leg == "exact" else relation.right)},
        "script": reproduction(claim, column, failure),
    }


def _call(number: int, call: Call) -> dict:
    return {
        "name": f"r{number}", "call": f"{call.operation}({', '.join(call.given)})", "operation": call.operation,
        "arguments": {name: encode(value, dtype=call.dtype if getattr(value, 'dtype', None) == np.float64 else None)
                      for name, value in call.given.items() if value is not None and value is not False},
        "fault": call.fault,
        "results": [{"name": q.name, "got": encode(q.got), "expected": encode(q.expected), "budget": encode(q.budget),
                     "at": list(q.at), "used": _numbers(q.used)} for q in call.quantities]}


class CaseFile:
    """A worker's own file: the cell that runs, its deadline, and the arguments of the last launch."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._cell, self._deadline = "", 0.0

    def enter(self, cell: str, *, limit: float) -> None:
        """A cell starts; it may take `limit` seconds."""
        self._cell, self._deadline = cell, time.time() + limit
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


def read_case(path: Path) -> tuple[str, float, str, str, dict] | None:
    """(cell, deadline, operation, dtype, arguments) of the launch that was under way, or None."""
    try:
        data = path.read_bytes()
        return pickle.loads(data[8: 8 + int.from_bytes(data[:8], "little")]) if data else None
    except (OSError, pickle.UnpicklingError, EOFError):
        return None


def died_event(cell: str, claim: Claim, column: Column, case: tuple | None) -> dict:
    """The record of a cell whose process died: *timed out* if its deadline had come, else *crashed*."""
    late = case is not None and time.time() >= case[1] - 1.0
    operation = case[2] if case else ""
    call = Call(operation, case[3], case[4]) if operation else None
    what = f"in {operation}" if operation else "outside of the implementation"
    message = (f"did not return within its time limit, {what}" if late else f"the process died {what}")
    failure = Failure(message, 0, {}, [call], None) if call else None
    return {
        "event": "check", "id": cell, "claim": f"{claim.file}::{claim.name}", "leg": column.leg,
        "implementation": column.subject.name if column.subject else None, "dtype": column.dtype,
        "verdict": "timed out" if late else "crashed", "law": None, "faithful": None, "examples": 0, "unsupported": 0,
        "excused": 0, "discarded": 0, "budget_used": None, "budget_at": {}, "profile": {}, "reach": {}, "seconds": 0.0,
        "inside": 0.0, "message": message, "note": "the case shown is the one that was running; it is not shrunk",
        "counterexample": failure and counterexample(claim, column, failure), "operation": operation,
        "digest": {"claim": claim.digest, "implementation": column.subject.digest if column.subject else None},
    }
