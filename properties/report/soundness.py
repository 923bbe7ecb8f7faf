"""False alarms: the summary of ``tox -e soundness`` in, one line per implementation out, else *not run*.

The file holds ``target``, ``seeds``, ``rows`` (implementation, dtype, cells, checks, failures, budget_used),
``accusations`` (id, seed, verdict, message) and ``not_run`` (reasons by file).
"""

import json
from dataclasses import dataclass
from pathlib import Path

from .schema import dtype_order, number

COMMAND = "tox -e soundness"


@dataclass(frozen=True)
class Line:
    """One implementation: its checks and false alarms by dtype, and the largest budget used."""

    implementation: str
    checks: dict[str | None, int]
    failures: int
    budget_used: float | None

    @property
    def total(self) -> int:
        return sum(self.checks.values())


def _lines(rows: list[dict]) -> list[Line]:
    by_name = {}
    for row in rows:
        by_name.setdefault(row["implementation"], []).append(row)
    return [
        Line(name, {row["dtype"]: row["checks"] for row in group}, sum(row["failures"] for row in group),
             max((used for row in group if (used := number(row["budget_used"])) is not None), default=None))
        for name, group in by_name.items()
    ]  # fmt: skip


def soundness(path: Path | None) -> dict:
    """The summary's ``lines`` and totals; ``left_out`` says why it could not be read, ``command`` what writes it."""
    nothing = {"lines": [], "dtypes": [], "left_out": "", "command": COMMAND, "accusations": [], "not_run": {}}
    if path is None or not path.is_file():
        return nothing
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        lines = _lines(content["rows"])
        return nothing | {
            "lines": lines, "dtypes": sorted({d for line in lines for d in line.checks}, key=dtype_order),
            "checks": sum(line.total for line in lines), "failures": len(content["accusations"]),
            "target": content["target"], "n_seeds": len(content["seeds"]),
            "accusations": content["accusations"], "not_run": dict(content["not_run"]),
        }  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return nothing | {"left_out": f"{path.name} is left out: {type(error).__name__}: {error}"}
