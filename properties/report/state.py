"""The current state: what the newest valid events say about each cell.

A *cell* is one check id: a claim on a leg (proof, exact, torch) or on an implementation and dtype. Its verdict is
that of the newest check whose digests equal the newest ones of its claim and its implementation. Where only older
checks exist the cell is *stale*, and where it was planned and no check arrived it is *not run*. Runs of several
environments (versions, device) are merged; a cell that another environment judges otherwise says so.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from .schema import LEGS, SEVERITY, VERDICTS, Record, completed, dtype_order, number, parse_id, problem


@dataclass(frozen=True)
class Cell:
    """One cell: its verdict now and the check that it comes from (empty where there is none)."""

    id: str
    claim: str
    leg: str
    implementation: str | None
    dtype: str | None
    verdict: str
    was: str | None = None  # the verdict of a stale cell, before the change
    check: dict = field(default_factory=lambda: completed("check", {}))
    elsewhere: tuple[dict, ...] = ()  # other environments that judge it otherwise

    @property
    def family(self) -> str:
        return VERDICTS[self.verdict].family

    @property
    def budget_used(self) -> float | None:
        return number(self.check.get("budget_used"))


@dataclass(frozen=True)
class State:
    """Everything the pages show. Claims and implementations are their newest events, by name."""

    runs: tuple[dict, ...]
    claims: dict[str, dict]
    implementations: dict[str, dict]
    cells: tuple[Cell, ...]
    ledger: tuple[dict, ...]
    problems: tuple[dict, ...]

    @property
    def updated(self) -> str:
        """Time of the newest event, so that the same events give the same pages."""
        return max((run["last"] for run in self.runs), default="")


def environment(run: dict) -> str:
    """The environment of a run in words: device and versions."""
    versions = [f"{name} {run[name]}" for name in ("python", "torch", "triton") if run.get(name)]
    return ", ".join([*([run["device"]] if run.get("device") else []), *versions]) or "unknown environment"


def _runs(records: list[Record]) -> dict[str, dict]:
    runs = {}
    for record in records:
        name, time = record.data["run"], record.time.isoformat(timespec="seconds")
        fresh = completed("run", {"run": name, "first": time, "last": time, "checks": 0, "planned": 0})
        run = runs.setdefault(name, fresh)
        run["last"] = time
        run["checks"] += record.kind == "check"
        if record.kind == "plan":
            run["planned"] += len(record.data["cells"])
        if record.kind == "run":
            run |= {key: value for key, value in record.data.items() if key not in ("event", "run", "time")}
    return runs


def _matches(check: dict, claims: dict, implementations: dict) -> bool:
    """Whether the check is about the claim and the implementation as they are now."""
    digest = check.get("digest") or {}
    claim, implementation = claims.get(check["claim"]), implementations.get(check.get("implementation"))
    return (claim is None or digest.get("claim") == claim["digest"]) and (
        implementation is None or digest.get("implementation") == implementation["digest"]
    )


def _cell(cell_id: str, checks: list[Record], claims: dict, implementations: dict, runs: dict) -> Cell:
    """The cell from its checks, oldest first; none means that it was planned only."""
    if not checks:
        name, leg, implementation, dtype = parse_id(cell_id)
        # The id of a claim outside the working folder is shorter than the claim's name.
        name = next((claim for claim in claims if name not in claims and claim.endswith("/" + name)), name)
        return Cell(cell_id, name, leg, implementation, dtype, verdict="not run")
    current = [check.data for check in checks if _matches(check.data, claims, implementations)]
    shown = (current or [check.data for check in checks])[-1]
    where = {check["run"]: environment(runs[check["run"]]) for check in current}
    newest = {where[check["run"]]: check for check in current}
    elsewhere = tuple(
        {"environment": name, "verdict": check["verdict"], "message": check.get("message") or "", "run": check["run"]}
        for name, check in newest.items()
        if VERDICTS[check["verdict"]].family != VERDICTS[shown["verdict"]].family
    )
    return Cell(
        id=cell_id,
        claim=shown["claim"],
        leg=shown["leg"],
        implementation=shown.get("implementation"),
        dtype=shown.get("dtype"),
        verdict=shown["verdict"] if current else "stale",
        was=None if current else shown["verdict"],
        check=shown,
        elsewhere=elsewhere,
    )


def _known_verdict(check: dict) -> dict:
    """The check itself, or an *error* where its verdict or its leg is none that the report knows."""
    if check["verdict"] not in VERDICTS or check["leg"] not in LEGS:
        message = f"The event has verdict {check['verdict']!r} on leg {check['leg']!r}; the report knows no such pair."
        return check | {"verdict": "error", "leg": parse_id(check["id"])[1], "message": message}
    return check


def _open_problems(records: list[Record], runs: dict) -> list[dict]:
    """Reported problems, each once, without those of files that a later run in the same environment read in peace."""
    reported, described = {}, defaultdict(set)
    for record in records:
        data = record.data
        if record.kind == "problem":
            key = (data.get("file"), data.get("line"), data["message"])
            reported[key] = (record.data["run"], data.get("claim"))
        elif record.kind in ("claim", "implementation"):
            described[data.get("file")].add(data["run"])

    def solved(file, run) -> bool:
        return any(
            runs[other]["first"] > runs[run]["last"] and environment(runs[other]) == environment(runs[run])
            for other in described[file]
        )

    return [
        problem(message, file=file, line=line, claim=claim)
        for (file, line, message), (run, claim) in reported.items()
        if file is None or not solved(file, run)
    ]


def fold(records: Iterable[Record], problems: Iterable[dict] = ()) -> State:
    """The state that the records describe; ``problems`` are those met while reading them."""
    records = sorted(records, key=lambda record: record.order)
    runs = _runs(records)
    claims, implementations, ledger = {}, {}, {}
    checks, planned = defaultdict(list), set()
    for record in records:
        data = record.data
        if record.kind == "claim":
            claims[data["claim"]] = data
        elif record.kind == "implementation":
            implementations[data["implementation"]] = data
        elif record.kind == "ledger":
            ledger |= {row["row"]: completed("row", row) for row in data["rows"]}
        elif record.kind == "plan":
            planned |= set(data["cells"])
        elif record.kind == "check":
            checks[data["id"]].append(Record(record.time, _known_verdict(data), record.file, record.line))

    cells = [_cell(cell_id, checks[cell_id], claims, implementations, runs) for cell_id in {*planned, *checks}]
    problems = [*problems, *_open_problems(records, runs)]
    for name in sorted({cell.claim for cell in cells} - claims.keys()):
        problems.append(problem("Cells name this claim, but no event describes it.", claim=name))
        claims[name] = completed("claim", {"claim": name, "digest": None})
    for name in sorted({cell.implementation for cell in cells if cell.implementation} - implementations.keys()):
        problems.append(problem(f"Cells name the implementation {name!r}, but no event describes it."))
        implementations[name] = completed("implementation", {"implementation": name, "digest": None})
    for cell in cells:
        if cell.verdict == "expected failure" and cell.check["still_there"] is False:
            message = "The reproducer of this expected failure no longer fails: take the expectation out."
            problems.append(problem(f"{cell.id}: {message}", file=implementations[cell.implementation]["file"]))
    for name, claim in claims.items():
        unknown = [row for row in claim.get("rows") or () if ledger and row not in ledger]
        if unknown:
            message = f"The claim cites {', '.join(unknown)}, which the ledger does not have."
            problems.append(problem(message, file=claim.get("file"), line=claim.get("line"), claim=name))

    def order(cell: Cell) -> tuple:
        return (cell.claim, LEGS.index(cell.leg), cell.implementation or "", dtype_order(cell.dtype), cell.id)

    return State(
        runs=tuple(sorted(runs.values(), key=lambda run: run["first"])),
        claims=claims,
        implementations=implementations,
        cells=tuple(sorted(cells, key=order)),
        ledger=tuple(ledger[row] for row in sorted(ledger)),
        problems=tuple(problems),
    )


def worst(cells: Iterable[Cell]) -> Cell:
    """The cell that stands for several."""
    return min(cells, key=lambda cell: SEVERITY[cell.verdict])
