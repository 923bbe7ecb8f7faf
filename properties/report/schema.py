"""What an event says and how event files are read.

Each line of ``reports/events/<run>.jsonl`` is one strict JSON object with ``event``, ``run`` and ``time``; NaN and
infinities are the strings "nan", "inf", "-inf". A line that cannot be used (cut off by a crash, not JSON, without what
its kind requires) becomes a *problem* that the report shows with file and line; it never stops the report.
"""

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Verdict:
    """A verdict's name, its family (good, expected, bad or grey), the mark that stands for it in print, its meaning."""

    name: str
    family: str
    mark: str
    meaning: str


# Worst first: where several cells share one square of the matrix, the first of these that occurs is shown.
VERDICTS = {
    verdict.name: verdict
    for verdict in (
        Verdict("crashed", "bad", "C", "the process died while the check ran"),
        Verdict("timed out", "bad", "T", "the check ran past its time limit"),
        Verdict("error", "bad", "E", "the check itself could not be carried out"),
        Verdict("law fails", "bad", "L", "the two sides differ by more than rounding explains"),
        Verdict("unfaithful", "bad", "U", "the law holds, but a value is further off than rounding explains"),
        Verdict("not refuted", "bad", "N", "a statement said to be false was not shown to be false"),
        Verdict("not proved", "bad", "P", "the symbolic proof did not go through"),
        Verdict("expected failure", "expected", "x", "fails in a way that is known, described and linked"),
        Verdict("stale", "grey", "s", "judged before the claim or the implementation last changed"),
        Verdict("not run", "grey", "?", "planned, but no result arrived"),
        Verdict("unsupported", "grey", "–", "the implementation does not offer this"),
        Verdict("refuted", "good", "≠", "a counterexample was found, as it should be"),
        Verdict("holds", "good", "✓", "held on every example, within the error budget"),
    )
}
SEVERITY = {name: rank for rank, name in enumerate(VERDICTS)}
FAMILIES = ("good", "expected", "bad", "grey")

LEGS = ("proof", "exact", "torch", "implementation")
SHORT_DTYPES = {"float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}

REQUIRED = {
    "run": (),
    "ledger": ("rows",),
    "claim": ("claim", "digest"),
    "implementation": ("implementation", "digest"),
    "plan": ("cells",),
    "problem": ("message",),
    "check": ("id", "claim", "leg", "verdict"),
}
# What else an event may say, so that the pages can rely on the key; None where it says nothing.
OPTIONAL = {
    "run": "seed examples python torch triton machine device arguments",
    "ledger": "",
    "claim": "file line title statement formula rows kind if_fails corrects needs needs_text operations has_proof "
    "proof_source source",
    "implementation": "file operations dtypes device note rounding conventions title",
    "row": "slug note section verdict priority",  # of the ledger
    "plan": "",
    "problem": "file line claim",
    "check": "implementation dtype law faithful examples unsupported excused discarded budget_used budget_at profile "
    "reach seconds inside message note costs cured_by not_cured_by reason link still_there counterexample digest",
}


def completed(kind: str, data: dict) -> dict:
    """The content of an event (or of a row of the ledger) with every optional key."""
    return dict.fromkeys(OPTIONAL[kind].split()) | data


@dataclass(frozen=True)
class Record:
    """One event: its time (UTC), its content, and where it stands (file name, line)."""

    time: datetime
    data: dict
    file: str
    line: int

    @property
    def kind(self) -> str:
        return self.data["event"]

    @property
    def order(self) -> tuple:
        return (self.time, self.file, self.line)


def _refuse_constant(name: str):
    raise ValueError(f'{name} is not strict JSON; it is written as a string, "nan", "inf" or "-inf"')


def _parse(line: str, *, file: str, number: int) -> Record:
    """The record in a line; ValueError with one clear sentence where there is none."""
    data = json.loads(line, parse_constant=_refuse_constant)
    if not isinstance(data, dict) or not isinstance(data.get("event"), str):
        raise ValueError('not an event: a JSON object with a key "event" is needed')
    missing = [key for key in ("run", "time", *REQUIRED.get(data["event"], ())) if data.get(key) is None]
    if missing:
        raise ValueError(f"a {data['event']!r} event lacks {', '.join(missing)}")
    time = datetime.fromisoformat(data["time"])
    data = completed(data["event"], data) if data["event"] in REQUIRED else data
    return Record(time if time.tzinfo else time.replace(tzinfo=UTC), data, file, number)


def problem(message: str, *, file: str | None = None, line: int | None = None, claim: str | None = None) -> dict:
    """A problem as the report shows it."""
    return {"file": file, "line": line, "claim": claim, "message": message}


def read_events(folder: Path) -> tuple[list[Record], list[dict]]:
    """All records of ``folder``/\\*.jsonl, oldest first, and the problems met on the way.

    Kinds of event that this version does not know are left out without a word: they belong to a newer writer.
    """
    records, problems = [], []
    for path in sorted(folder.glob("*.jsonl")):
        text = path.read_bytes().decode("utf-8", errors="replace")
        lines = text.split("\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = _parse(line, file=path.name, number=number)
            except (ValueError, TypeError) as error:
                cut_off = number == len(lines)  # a complete file ends in a newline, so its last line is empty
                what = "the last line is cut off; the run was stopped while it wrote it" if cut_off else str(error)
                problems.append(problem(f"Event left out: {what}.", file=path.name, line=number))
            else:
                if record.kind in REQUIRED:
                    records.append(record)
    return sorted(records, key=lambda record: record.order), problems


def number(value) -> float | None:
    """A number of an event as a float: None stays None, "nan", "inf" and "-inf" are read back."""
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def strict(value):
    """``value`` with every NaN and infinity as a string, ready for ``json.dumps(..., allow_nan=False)``."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return value


_ID = re.compile(r"(?P<claim>[^\[]+)(?:\[(?P<parameters>.*)\])?$", re.DOTALL)


def parse_id(cell_id: str) -> tuple[str, str, str | None, str | None]:
    """Claim, leg, implementation and dtype of a cell's id, for cells of which only the id is known.

    ``spec/softmax.py::shift_invariance[naive-float32]``; ``[proof]``, ``[exact]``, ``[exact-float16]`` and
    ``[torch]`` (or nothing) are the legs without an implementation.
    """
    match = _ID.match(cell_id)
    claim, parameters = (match["claim"], match["parameters"]) if match else (cell_id, None)
    if not parameters:
        return claim, "torch", None, None
    name, _, dtype = parameters.rpartition("-")
    if not name:
        name, dtype = parameters, None
    if name in LEGS[:3]:
        return claim, name, None, dtype
    return claim, "implementation", name, dtype


def dtype_order(dtype: str | None) -> tuple:
    """Sort key: float64, float32, float16, bfloat16, then the others by name."""
    known = list(SHORT_DTYPES)
    return (known.index(dtype), "") if dtype in known else (len(known), dtype or "")


def short_dtype(dtype: str | None) -> str:
    return SHORT_DTYPES.get(dtype, dtype or "any")
