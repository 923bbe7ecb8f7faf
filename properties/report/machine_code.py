"""What the compile gate found: files of ``tox -e compile`` in, one table per version of Triton out, else *not run*.

A file is ``{"triton": version, "torch": version, "seconds": s, "limits": {target: bytes}, "rows": [...]}``; a row is
one kernel in one configuration for one target, with ``failures``, and either ``error`` or ``registers``, ``spills``,
``shared``, ``matrix`` (instructions by name) and ``notes``.
"""

import json
from dataclasses import dataclass
from pathlib import Path

COMMAND = "tox -e compile"
MAX_CALLS = 2


@dataclass(frozen=True)
class Code:
    """A kernel on one target: what is shown, and why it fails."""

    text: str
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One kernel as some calls launch it; a target on which they launch it with other tiles has its own in the text."""

    kernel: str
    calls: str
    cells: tuple[Code | None, ...]

    @property
    def failed(self) -> bool:
        return any(cell and cell.failures for cell in self.cells)


@dataclass(frozen=True)
class Table:
    """One run of the gate."""

    triton: str
    torch: str
    seconds: float
    targets: tuple[str, ...]
    limits: tuple[tuple[str, int], ...]
    lines: tuple[Line, ...]
    n_compiled: int
    n_failed: int


def _tile(configuration: dict) -> str:
    tile = "×".join(str(value) for name, value in configuration.items() if name.startswith("BLOCK_"))
    return f"{tile}, {configuration['num_warps']} warps, {configuration['num_stages']} stages"


def _code(row: dict) -> Code:
    failures = tuple(str(reason) for reason in row["failures"])
    if "error" in row:
        return Code(_tile(row["configuration"]), failures)
    matrix = ", ".join(f"{count} {name}" for name, count in row["matrix"].items()) or "no matrix instructions"
    shared = f"{row['shared'] / 1024:.0f} KiB" if row["shared"] >= 1024 else f"{row['shared']} B"
    spills = f", {row['spills']} spills" if row["spills"] else ""
    return Code(f"{_tile(row['configuration'])}: {row['registers']} registers{spills}, {shared}, {matrix}", failures)


def _table(content: dict) -> Table:
    rows = content["rows"]
    targets = tuple(dict.fromkeys(row["target"] for row in rows))
    lines = {}
    for row in rows:
        lines.setdefault((row["kernel"], tuple(row["calls"])), {})[row["target"]] = _code(row)
    shown = [
        Line(kernel, "; ".join(calls[:MAX_CALLS]) + ("; …" if len(calls) > MAX_CALLS else ""),
             tuple(cells.get(target) for target in targets))
        for (kernel, calls), cells in lines.items()
    ]  # fmt: skip
    return Table(
        str(content["triton"]), str(content["torch"]), content["seconds"], targets, tuple(content["limits"].items()),
        tuple(sorted(shown, key=lambda line: not line.failed)), len(rows), sum(bool(row["failures"]) for row in rows),
    )  # fmt: skip


def machine_code(folder: Path | None) -> dict:
    """``tables`` of the files in the folder, those that are ``left_out`` with the reason, and the ``command``."""
    tables, left_out = [], []
    for path in sorted(folder.glob("*.json")) if folder else ():
        try:
            tables.append(_table(json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            left_out.append((path.name, f"{type(error).__name__}: {error}"))
    return {"tables": tables, "left_out": left_out, "command": COMMAND}
