"""One section a claim: what it says, where it comes from, its verdicts, and what breaks it."""

import math
from collections import defaultdict
from dataclasses import dataclass

from .matrix import claims_by_file
from .schema import completed, dtype_order, number, short_dtype
from .state import Cell, State
from .summary import Counts, by_claim, claim_status, counts
from .tensors import Picture, element, is_tensor, parts, picture, short_number, telling_digits
from .wording import listing, ordinal, percent, title

MAX_OPEN = 32  # elements of a call's arguments that are shown without being asked for


@dataclass(frozen=True)
class Shown:
    """One outcome of a call, or a relation: what came out and what should have, side by side."""

    name: str
    left_title: str
    left: Picture
    right_title: str
    right: Picture
    budget: Picture | None
    verdict: str


@dataclass(frozen=True)
class ShownCall:
    """One call: its text, what was wrong with it as a whole, arguments that were not drawn as they are, its results."""

    text: str
    fault: str
    arguments: tuple[tuple[str, Picture], ...]
    folded: bool  # whether the arguments are too large to be shown at once
    results: tuple[Shown, ...]


@dataclass(frozen=True)
class Counterexample:
    """A counterexample ready to be shown: what was drawn, what was called, what came out."""

    number: str
    drawn: tuple[tuple[str, Picture], ...]
    calls: tuple[ShownCall, ...]
    relation: Shown | None
    script: str


@dataclass(frozen=True)
class Failure:
    """What one implementation (or leg) does wrong: the leading cell, all cells with it, the counterexample."""

    cell: Cell
    cells: tuple[Cell, ...]
    counterexample: Counterexample | None

    @property
    def where(self) -> str:
        dtypes = listing(short_dtype(cell.dtype) for cell in self.cells if cell.dtype)
        return (self.cell.implementation or self.cell.leg) + (f" ({dtypes})" if dtypes else "")


@dataclass(frozen=True)
class Owner:
    """An implementation's cells of one claim: how many hold, of how many; the verdict where all share a grey one."""

    name: str
    good: int
    total: int
    only: str = ""


def _owner(name: str, tally: Counts) -> Owner:
    only = next(iter(tally.verdicts)) if len(tally.verdicts) == 1 and tally.family("grey") else ""
    return Owner(name, tally.family("good"), tally.total, only)


@dataclass(frozen=True)
class Section:
    claim: dict
    title: str
    paragraphs: tuple[str, ...]
    status: str
    family: str
    tally: Counts
    sources: tuple[tuple[str, tuple[dict, ...]], ...]  # note and section, rows
    corrects: tuple[dict, ...]
    corrected_by: tuple[dict, ...]
    owners: tuple[Owner, ...]
    cells: tuple[Cell, ...]
    proofs: tuple[Cell, ...]
    evidence: Counterexample | None  # what refutes the statement (or the law without its condition), as it should
    failures: tuple[Failure, ...]
    most_used: str = ""  # the largest share of a budget that a cell which holds has used, and where


def _most_used(cells: list[Cell]) -> str:
    """ "41 % (naive, bf16, length 257)", the largest over the cells of implementations that hold."""
    holding = [cell for cell in cells if cell.implementation and cell.family == "good"]
    used = [(share, cell) for cell in holding if (share := number(cell.check.get("budget_used")))]
    if not used:
        return ""
    share, cell = max(used, key=lambda pair: pair[0])
    sizes = cell.check.get("budget_at") or {}
    where = [cell.implementation, short_dtype(cell.dtype), *(f"{n.replace('_', ' ')} {sizes[n]:g}" for n in
                                                             ("length", "head_dim") if n in sizes)]
    return f"{percent(share)} ({', '.join(where)})"


def _verdict(outcome: dict, pair: list, *, between: str) -> str:
    """ "off by 0.5 at (0, 1), budget 4.9e-4: 633 %", or "nan instead of 0 at (0, 1)" where there is no distance."""
    at, budget, used = outcome.get("at"), outcome.get("budget"), number(outcome.get("used"))
    place = f" at ({', '.join(map(str, at))})" if at else ""
    sides = [number(side) for side in pair]
    if None in sides:
        return ""
    if used is not None and used <= 1:
        return f"within its budget: {percent(used)} of it used{place}"
    if not all(map(math.isfinite, sides)):
        return f"{short_number(pair[0])} {between} {short_number(pair[1])}{place}"
    off = number(outcome.get("off_by"))
    off = abs(sides[0] - sides[1]) if off is None else off
    text = f"off by {short_number(off, digits=3)}{place}"
    budget = number(element(budget, at) if is_tensor(budget) else budget)
    if budget is not None:
        text += f", budget {short_number(budget, digits=2)}"
        used = used if used is not None else off / budget if budget else None
    return text + (f": {percent(used)}" if used is not None else "")


def _shown(outcome: dict, name: str, sides: tuple[str, str], *, between: str) -> Shown:
    """Both sides of an outcome; the element that is pointed at is marked where it is out of budget."""
    left, right, at, budget = (outcome.get(key) for key in (*sides, "at", "budget"))
    pair = [element(side, at) if is_tensor(side) else side for side in (left, right)]
    digits, used = telling_digits(*pair), number(outcome.get("used"))
    focus = {"at": at, "mark": used is None or not used <= 1}
    return Shown(
        name=name,
        left_title=sides[0],
        left=picture(left, digits=digits, **focus),
        right_title=sides[1],
        right=picture(right, digits=digits, **focus),
        budget=None if budget is None else picture(budget, digits=2, **focus),
        verdict=_verdict(outcome, pair, between=between),
    )


def _content(tensor: dict) -> tuple:
    return tensor["shape"], tensor.get("values")


def counterexample(found: dict | None) -> Counterexample | None:
    """An event's counterexample, arranged for the page. Arguments that equal what was drawn are not repeated."""
    if not found:
        return None
    drawn = [part for name, value in (found.get("drawn") or {}).items() for part in parts(name, value)]
    known = [_content(value) for _, value in drawn if is_tensor(value)]
    calls = []
    for call in found.get("calls") or ():
        arguments = call.get("arguments") or {}
        fresh = {name: value for name, value in arguments.items() if is_tensor(value) and _content(value) not in known}
        results = tuple(
            _shown(result, result.get("name", ""), ("got", "expected"), between="instead of")
            for result in call.get("results") or ()
        )
        text = f"{call['name']} = {call.get('call')}" if call.get("name") else str(call.get("call"))
        size = sum(math.prod(value["shape"]) for value in fresh.values())
        given = tuple((name, picture(value)) for name, value in fresh.items())
        calls.append(ShownCall(text, call.get("fault") or "", given, size > MAX_OPEN, results))
    relation = found.get("relation")
    return Counterexample(
        number=ordinal(found["number"]) if found.get("number") else "",
        drawn=tuple((name, picture(value)) for name, value in drawn),
        calls=tuple(calls),
        relation=relation and _shown(relation, relation.get("text", ""), ("left", "right"), between="and"),
        script=found.get("script") or "",
    )


def _failures(cells: list[Cell]) -> tuple[Failure, ...]:
    """Red cells and expected failures, one a leg or implementation; led by a cell that has a counterexample."""
    grouped = defaultdict(list)
    for cell in cells:
        if cell.family in ("bad", "expected"):
            grouped[cell.leg, cell.implementation, cell.family].append(cell)
    failures = []
    for found in grouped.values():
        found.sort(key=lambda cell: (not cell.check.get("counterexample"), dtype_order(cell.dtype)))
        in_order = tuple(sorted(found, key=lambda cell: dtype_order(cell.dtype)))
        failures.append(Failure(found[0], in_order, counterexample(found[0].check.get("counterexample"))))
    return tuple(sorted(failures, key=lambda failure: failure.cell.family))  # "bad" before "expected"


def _sources(claim: dict, ledger: dict[str, dict]) -> tuple:
    places = defaultdict(list)
    for name in claim.get("rows") or ():
        row = ledger.get(name, completed("row", {"row": name}))
        note = row["note"] or name.partition("-")[0]
        places[f"note {note}" + (f", section {row['section']}" if row["section"] else "")].append(row)
    return tuple((place, tuple(rows)) for place, rows in places.items())


def sections(state: State) -> list[tuple[str, list[Section]]]:
    """All sections by spec file."""
    own, ledger = by_claim(state.cells), {row["row"]: row for row in state.ledger}
    corrected_by = defaultdict(list)
    for claim in state.claims.values():
        for name in claim.get("corrects") or ():
            corrected_by[name].append(claim)

    def section(claim: dict) -> Section:
        cells = own[claim["claim"]]
        status, family = claim_status(claim, cells)
        paragraphs = [part.strip() for part in (claim.get("statement") or "").split("\n\n") if part.strip()]
        if paragraphs:
            paragraphs[0] = paragraphs[0].removeprefix((claim.get("title") or "").strip()).strip()
        by_owner = defaultdict(list)
        for cell in cells:
            if cell.implementation:
                by_owner[cell.implementation].append(cell)
        shown = next((c for c in cells if c.family == "good" and c.check.get("counterexample")), None)
        return Section(
            claim=claim,
            title=title(claim),
            paragraphs=tuple(filter(None, paragraphs)),
            status=status,
            family=family,
            tally=counts(cells),
            sources=_sources(claim, ledger),
            corrects=tuple(state.claims.get(n, completed("claim", {"claim": n})) for n in claim.get("corrects") or ()),
            corrected_by=tuple(corrected_by[claim["claim"]]),
            owners=tuple(_owner(name, counts(part)) for name, part in by_owner.items()),
            cells=tuple(cells),
            proofs=tuple(cell for cell in cells if cell.leg == "proof"),
            evidence=shown and counterexample(shown.check["counterexample"]),
            failures=_failures(cells),
            most_used=_most_used(cells),
        )

    return [(file, [section(claim) for claim in claims]) for file, claims in claims_by_file(state)]
