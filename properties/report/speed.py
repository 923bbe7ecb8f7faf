"""What was measured on GPUs: files of measurements in, tables and plots out. Without a file it says *not run*.

A file is what ``python -m benchmarks.on_gpu`` writes: ``{"format": 1, "time": ISO, "small": false, "machine": {...},
"rows": [...]}``. A row is one case: ``group``, ``case`` (what describes it), ``unit`` (TFLOP/s or TB/s), ``work`` (FLOP
or bytes), ``ours`` (a contender's name) and ``contenders``, each with ``name``, ``rate``, ``seconds`` (lower quartile,
median, upper quartile), or ``not_available`` with the reason; or ``not_run`` instead. Of one device the newest file is
shown, the others are named.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .figures import Figure
from .schema import number
from .speed_plots import COPY, bars, curves, with_quartiles

COMMAND = "python -m benchmarks.on_gpu"


@dataclass(frozen=True)
class Entry:
    """One contender in one case: its rate with quartiles, ours / this one, the budget of error that it used."""

    name: str
    rate: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    used: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Line:
    """One case of a table; `not_run` says why it has no entries."""

    case: str
    entries: tuple[Entry | None, ...] = ()
    not_run: str = ""


@dataclass(frozen=True)
class Table:
    group: str
    unit: str
    ours: str
    names: tuple[str, ...]
    lines: tuple[Line, ...]
    reasons: tuple[tuple[str, str], ...]       # contenders that are missing somewhere, and why


@dataclass(frozen=True)
class Measurement:
    """One file: when, on what, its tables and plots."""

    time: str
    file: str
    machine: dict
    facts: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Speed:
    measurements: tuple[Measurement, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()         # files that are not shown, and why
    command: str = COMMAND


def read(folder: Path) -> tuple[list[tuple[Path, dict]], list[tuple[str, str]]]:
    """The files of a folder that hold measurements, newest first, and the others with what is wrong with them."""
    found, left_out = [], []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != 1 or not isinstance(content["rows"], list):
                raise ValueError(f"format {content['format']!r} is not known")
            content["machine"]["gpu"], content["time"]
        except (ValueError, KeyError, TypeError) as error:
            left_out.append((path.name, f"cannot be read: {error!r}"))
            continue
        if content.get("small") or not content["machine"]["gpu"]:
            left_out.append((path.name, "a trial without a GPU or on tiny shapes, no measurement"))
        else:
            found.append((path, content))
    return sorted(found, key=lambda item: item[1]["time"], reverse=True), left_out


def speed(folder: Path | None) -> Speed:
    """What the report shows of the measurements in a folder."""
    found, left_out = read(folder) if folder else ([], [])
    shown: dict[str, Measurement] = {}
    for path, content in found:
        device = content["machine"]["gpu"]
        if device in shown:
            left_out.append((path.name, f"{device}: there is a newer one"))
            continue
        try:
            shown[device] = _measurement(path, content)
        except (KeyError, TypeError, ValueError) as error:
            left_out.append((path.name, f"cannot be shown: {error!r}"))
    return Speed(tuple(shown.values()), tuple(left_out))


def _measurement(path: Path, content: dict) -> Measurement:
    groups: dict[str, list[dict]] = {}
    for row in content["rows"]:
        groups.setdefault(row["group"], []).append(row)
    tables = tuple(_table(group, rows) for group, rows in groups.items())
    place = f"speed-{path.stem}"
    drawn = (*curves(groups, place), *bars(groups, place))
    return Measurement(content["time"], path.name, content["machine"], _facts(content), tables, drawn)


def _facts(content: dict) -> tuple[tuple[str, str], ...]:
    """The machine in words, and in what state the benchmarks found it."""
    machine = content["machine"]
    facts = [("device", machine["gpu"])]
    for label, keys, unit in (
        ("driver", "driver", ""), ("multiprocessors", "multiprocessors", ""), ("memory", "memory_gib", " GiB"),
        ("power limit", "power_limit_w", " W"), ("largest SM clock", "sm_clock_max_mhz", " MHz"), ("MIG", "mig", ""),
        ("PyTorch", "torch", ""), ("Triton", "triton", ""), ("CUDA", "cuda", ""), ("cuDNN", "cudnn", ""),
    ):  # fmt: skip
        if machine.get(keys) not in (None, ""):
            value = machine[keys]
            facts.append((label, f"{value:g}{unit}" if isinstance(value, float) else f"{value}{unit}"))
    states = [row.get("state") or {} for row in content["rows"]]
    for label, key, unit in (("SM clock", "sm_clock_mhz", "MHz"), ("power", "power_w", "W"),
                             ("temperature", "temperature_c", "°C")):
        seen = [state[key] for state in states if isinstance(state.get(key), int | float)]
        if seen:
            facts.append((f"{label} right after the cases", f"{min(seen):g} to {max(seen):g} {unit}"))
    return tuple(facts)


def describe(case: dict) -> str:
    """A case in words: what differs within a group comes first."""
    words = []
    if "causal" in case:
        words.append("causal" if case["causal"] else "full")
    if "head_dim" in case:
        words.append(f"D {case['head_dim']}")
    if "tokens" in case:
        words.append(f"{case['tokens']} tokens")
    if case.get("batch", 1) != 1 or "n_splits" in case:
        words.append(f"batch {case['batch']}")
    if "n_splits" in case:
        words.append(f"{case['n_splits']} splits")
    if "n_heads" in case:
        words.append(f"heads {case['n_heads']}/{case['n_kv_heads']}")
    if "shape" in case:
        words.append(" × ".join(map(str, case["shape"])))
    if "n" in case:
        words.append(f"{case['n']} × {case['n']}")
    return ", ".join([*words, *([case["dtype"]] if "dtype" in case else [])])


def _entry(contender: dict, ours: float | None = None) -> Entry:
    if "not_available" in contender:
        return Entry(contender["name"], reason=contender["not_available"])
    rate, low, high = with_quartiles(contender)
    ratio = ours / rate if ours and rate else None
    return Entry(contender["name"], rate, low, high, ratio, number(contender.get("budget_used")))


def _table(group: str, rows: Sequence[dict]) -> Table:
    ours = rows[0]["ours"]
    names = list(dict.fromkeys(c["name"] for row in rows for c in row.get("contenders", ())))
    names.sort(key=lambda name: (name != ours, name == COPY))
    lines, reasons = [], {}
    for row in rows:
        if "not_run" in row:
            lines.append(Line(describe(row["case"]), not_run=row["not_run"]))
            continue
        found = {c["name"]: c for c in row["contenders"]}
        rate = found.get(ours, {}).get("rate")
        entries = tuple(_entry(found[name], None if name == ours else rate) if name in found else None
                        for name in names)
        reasons |= {(e.name, e.reason): None for e in entries if e and e.reason}
        lines.append(Line(describe(row["case"]), entries))
    return Table(group, rows[0]["unit"], ours, tuple(names), tuple(lines), tuple(reasons))


def in_words(value: float | None) -> str:
    """A rate with three digits: 612, 45.1, 2.98."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
