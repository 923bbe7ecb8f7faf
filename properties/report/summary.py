"""What the state amounts to: counts with their denominators, what to look at first, coverage of the ledger."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from .schema import FAMILIES, LEGS, SEVERITY, VERDICTS, dtype_order, number, short_dtype
from .state import Cell, State
from .wording import count, listing, plural

LEG_TITLES = {
    "proof": "proofs",
    "exact": "exact values",
    "torch": "torch itself",
    "implementation": "implementations",
}
# What an implementation is held to unless it declares otherwise.
STANDARD_CONVENTIONS = {"causal": "bottom-right", "empty_row": "zero", "rope": "half"}


@dataclass(frozen=True)
class Counts:
    """How many of the cells have which verdict."""

    total: int
    verdicts: dict[str, int]

    def family(self, name: str) -> int:
        return sum(number for verdict, number in self.verdicts.items() if VERDICTS[verdict].family == name)


def counts(cells: Iterable[Cell]) -> Counts:
    found = Counter(cell.verdict for cell in cells)
    return Counts(sum(found.values()), {name: found[name] for name in VERDICTS if found[name]})


def in_words(tally: Counts) -> str:
    """The counts as one sentence: "1 012 of 1 040 cells hold; 12 expected failures; 0 red; 16 not run." """
    refuted = tally.verdicts.get("refuted", 0)
    aside = f" ({count(refuted)} by refuting a false statement)" if refuted else ""
    red = [f"{count(number)} {name}" for name, number in tally.verdicts.items() if VERDICTS[name].family == "bad"]
    parts = [
        f"{count(tally.family('good'))} of {plural(tally.total, 'cell')} hold{aside}",
        plural(tally.family("expected"), "expected failure"),
        f"{count(tally.family('bad'))} red" + (f" ({listing(red)})" if red else ""),
        f"{count(tally.verdicts.get('not run', 0))} not run",
    ]
    parts += [f"{count(tally.verdicts[name])} {name}" for name in ("stale", "unsupported") if name in tally.verdicts]
    return "; ".join(parts) + "."


def by_claim(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    grouped = defaultdict(list)
    for cell in cells:
        grouped[cell.claim].append(cell)
    return grouped


@dataclass(frozen=True)
class Item:
    """One claim that one implementation (or leg) does not meet: the leading cell and all red ones."""

    claim: dict
    cell: Cell
    cells: tuple[Cell, ...]

    @property
    def dtypes(self) -> str:
        return listing(short_dtype(cell.dtype) for cell in self.cells if cell.dtype)

    @property
    def counterexample(self) -> dict | None:
        """The leading cell's counterexample, or that of another dtype where it has none."""
        found = [cell.check["counterexample"] for cell in (self.cell, *self.cells)]
        return next(filter(None, found), None)


@dataclass(frozen=True)
class Group:
    """What is red for one implementation or leg, worst first, of how many cells."""

    name: str
    implementation: str | None
    items: tuple[Item, ...]
    n_red: int
    n_cells: int


def _badness(cell: Cell) -> tuple:
    return (SEVERITY[cell.verdict], -(cell.budget_used or 0.0), dtype_order(cell.dtype), cell.id)


def look_first(state: State) -> list[Group]:
    """Red cells by implementation: first proofs and exact values (there the claim itself is in doubt), then the
    implementation with the largest share of red cells."""
    owners = defaultdict(list)
    for cell in state.cells:
        owners[cell.leg, cell.implementation].append(cell)
    groups = []
    for (leg, implementation), cells in owners.items():
        red = by_claim(cell for cell in cells if cell.family == "bad")
        items = [
            Item(state.claims[name], min(found, key=_badness), tuple(sorted(found, key=lambda c: dtype_order(c.dtype))))
            for name, found in red.items()
        ]
        if items:
            items.sort(key=lambda item: _badness(item.cell))
            n_red = sum(len(found) for found in red.values())
            groups.append(Group(implementation or LEG_TITLES[leg], implementation, tuple(items), n_red, len(cells)))
    doubt = (LEG_TITLES["proof"], LEG_TITLES["exact"])
    groups.sort(key=lambda group: (group.name not in doubt, -group.n_red / group.n_cells, group.name))
    return groups


def claim_status(claim: dict, cells: list[Cell]) -> tuple[str, str]:
    """A claim's verdict in words and its family. It is in the good one only where nothing is left to be run."""
    tally = counts(cells)
    judged = tally.total - tally.verdicts.get("unsupported", 0)
    good, red = tally.family("good"), tally.family("bad")
    if red:
        return f"{count(red)} of {plural(judged, 'cell')} red", "bad"
    if not judged or not (good or tally.family("expected")):
        unsupported = tally.total > 0 and not judged
        return "unsupported" if unsupported else "stale" if "stale" in tally.verdicts else "not run", "grey"
    if good + tally.family("expected") < judged:
        return f"holds where it was run: {count(good)} of {plural(judged, 'cell')}", "grey"
    if tally.family("expected"):
        return f"holds on {count(good)} of {plural(judged, 'cell')}, the rest expected failures", "expected"
    if claim.get("kind") == "refuted":
        return "false, and shown to be", "good"
    proved = any(cell.leg == "proof" and cell.family == "good" for cell in cells)
    condition = " under its condition" if claim.get("needs") else ""
    return ("proved, and holds" if proved else "holds") + condition, "good"


@dataclass(frozen=True)
class ImplementationFacts:
    """One implementation in numbers: verdicts, largest budget used per dtype by cells that hold, seconds, share inside;
    and the conventions in which it differs from the usual ones."""

    implementation: dict
    tally: Counts
    budgets: dict[str, float]
    seconds: float
    inside: float | None
    differences: dict[str, str]


def implementation_facts(state: State) -> list[ImplementationFacts]:
    facts = []
    for name in sorted(state.implementations):
        cells = [cell for cell in state.cells if cell.implementation == name]
        budgets = {}
        for cell in cells:
            if cell.dtype and cell.family == "good" and cell.budget_used is not None:
                budgets[cell.dtype] = max(cell.budget_used, budgets.get(cell.dtype, 0.0))
        timed = [cell.check for cell in cells if number(cell.check.get("seconds")) is not None]
        seconds = sum(number(check["seconds"]) for check in timed)
        inside = sum(number(check.get("inside")) or 0.0 for check in timed)
        budgets = {dtype: budgets[dtype] for dtype in sorted(budgets, key=dtype_order)}
        share = inside / seconds if seconds else None
        about = state.implementations[name]
        differences = {
            key: value for key, value in (about["conventions"] or {}).items() if STANDARD_CONVENTIONS.get(key) != value
        }
        facts.append(ImplementationFacts(about, counts(cells), budgets, seconds, share, differences))
    return facts


@dataclass(frozen=True)
class Answer:
    """What the suite says to one row of the ledger: the claims that cite it and their verdict."""

    row: dict
    claims: tuple[dict, ...]
    word: str
    family: str


def answers(state: State) -> list[Answer]:
    citing, cells = defaultdict(list), by_claim(state.cells)
    for claim in state.claims.values():
        for row in claim.get("rows") or ():
            citing[row].append(claim)
    result = []
    for row in state.ledger:
        claims = sorted(citing[row["row"]], key=lambda claim: (claim.get("file") or "", claim.get("line") or 0))
        cited = [cell for claim in claims for cell in cells[claim["claim"]]]
        if not claims:
            word = "not checkable" if row.get("verdict") == "not checkable" else "no claim yet"
            family = "grey"
        elif not any(cell.family in ("good", "expected", "bad") for cell in cited):
            word, family = "not run", "grey"
        else:
            families = {cell.family for cell in cited}
            family = next(name for name in ("bad", "expected", "good") if name in families)
            word = {"bad": "red", "expected": "expected failure", "good": "answered"}[family]
        result.append(Answer(row, tuple(claims), word, family))
    return result


def coverage(rows: list[Answer]) -> tuple[list, list[dict]]:
    """Priorities, and for each verdict of the ledger (and all): {priority: (with a claim, rows)}, None being all."""
    priorities = sorted({answer.row.get("priority") for answer in rows} - {None})
    order = ["true", "conditional", "false", "not checkable"]
    found = sorted({answer.row.get("verdict") or "unknown" for answer in rows},
                   key=lambda name: (order.index(name) if name in order else len(order), name))  # fmt: skip
    table = []
    for verdict in [*found, None]:
        chosen = [answer for answer in rows if verdict in (None, answer.row.get("verdict") or "unknown")]
        line = {"verdict": verdict or "all", "parts": {}, "answers": Counter(answer.word for answer in chosen)}
        for priority in [*priorities, None]:
            part = [answer for answer in chosen if priority in (None, answer.row.get("priority"))]
            line["parts"][priority] = (sum(bool(answer.claims) for answer in part), len(part))
        table.append(line)
    return priorities, table


def leg_counts(state: State) -> list[tuple[str, Counts]]:
    """The counts of each leg that has cells."""
    return [(LEG_TITLES[leg], counts(cells)) for leg in LEGS if (cells := [c for c in state.cells if c.leg == leg])]


def by_file_and_owner(state: State) -> tuple[list[str], list[tuple[str, dict[str, Counts]]]]:
    """Columns (legs, then implementations), and per spec file the counts in each."""
    files = {name: claim.get("file") or name.partition("::")[0] for name, claim in state.claims.items()}
    grouped = defaultdict(list)
    for cell in state.cells:
        grouped[files[cell.claim], cell.implementation or cell.leg].append(cell)
    found = {owner for _, owner in grouped}
    owners = [leg for leg in LEGS if leg in found] + sorted(found - set(LEGS))
    return owners, [
        (file, {owner: counts(grouped.get((file, owner), ())) for owner in owners})
        for file in sorted(set(files.values()))
    ]


@dataclass(frozen=True)
class OpenCells:
    """The cells of one verdict that is not as it should be."""

    name: str
    cells: tuple[Cell, ...]


def open_cells(state: State) -> list[OpenCells]:
    """By verdict, worst first."""
    found = [(name, tuple(cell for cell in state.cells if cell.verdict == name)) for name in VERDICTS]
    return [OpenCells(name, cells) for name, cells in found if cells and VERDICTS[name].family != "good"]


def disagreements(state: State) -> list[Cell]:
    """Cells whose newest verdict differs in kind from that of another environment, worst elsewhere first."""
    found = [cell for cell in state.cells if cell.elsewhere]
    return sorted(found, key=lambda cell: (min(SEVERITY[other["verdict"]] for other in cell.elsewhere), cell.id))


def as_json(state: State) -> dict:
    """The folded state for other programs; not yet strict (see schema.strict)."""
    tally, rows = counts(state.cells), answers(state)
    return {
        "updated": state.updated,
        "summary": {
            "words": in_words(tally),
            "cells": tally.total,
            "verdicts": tally.verdicts,
            "families": {name: tally.family(name) for name in FAMILIES},
        },
        "runs": list(state.runs),
        "problems": list(state.problems),
        "look_at_first": [
            {"name": group.name, "red": group.n_red, "cells": group.n_cells, "ids": [i.cell.id for i in group.items]}
            for group in look_first(state)
        ],
        "claims": state.claims,
        "implementations": state.implementations,
        "cells": [
            {"id": cell.id, "claim": cell.claim, "leg": cell.leg, "implementation": cell.implementation,
             "dtype": cell.dtype, "verdict": cell.verdict, "was": cell.was, "elsewhere": list(cell.elsewhere),
             "check": {key: value for key, value in cell.check.items() if key not in ("event", "id", "claim")}}
            for cell in state.cells
        ],  # fmt: skip
        "ledger": [
            answer.row | {"answer": answer.word, "claims": [claim["claim"] for claim in answer.claims]}
            for answer in rows
        ],
    }
