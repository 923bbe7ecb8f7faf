"""The matrix: claims, grouped by spec file, against legs, implementations and dtypes."""

from collections import defaultdict
from dataclasses import dataclass

from .schema import VERDICTS, dtype_order, number, short_dtype
from .state import Cell, State, worst
from .summary import by_claim
from .wording import anchor, count, listing, percent, plural

LEG_COLUMNS = ("proof", "exact", "torch")


@dataclass(frozen=True)
class Column:
    """One column: a leg, or one dtype of an implementation. ``first`` starts a group."""

    leg: str
    implementation: str | None
    dtype: str | None
    first: bool = False

    @property
    def label(self) -> str:
        return short_dtype(self.dtype) if self.implementation else self.leg


@dataclass(frozen=True)
class Square:
    """One square: what it shows, what it says when pointed at, and where a click leads."""

    family: str
    mark: str
    says: str
    href: str = ""
    differs: bool = False


@dataclass(frozen=True)
class Matrix:
    columns: tuple[Column, ...]
    groups: tuple[tuple[str, int], ...]  # implementations and how many columns each has
    files: tuple[tuple[str, tuple[tuple[dict, tuple[Square | None, ...]], ...]], ...]  # file, its claims and squares


def examples(check: dict) -> str:
    """The number of examples, how many of those did not count, and how many draws never became one:
    "60 examples, of these 3 unsupported; 2 more discarded".
    """
    if check.get("examples") is None:
        return ""
    parts = [f"{count(check[name])} {name}" for name in ("unsupported", "excused") if check.get(name)]
    among = f", of these {listing(parts)}" if parts else ""
    apart = f"; {count(check['discarded'])} more discarded" if check.get("discarded") else ""
    return plural(check["examples"], "example") + among + apart


def describe(cell: Cell) -> str:
    """One cell in words."""
    where = " ".join(filter(None, (cell.implementation or cell.leg, cell.dtype)))
    parts = [f"{where}: {cell.verdict}" + (f" (was: {cell.was})" if cell.was else "")]
    parts += filter(None, [examples(cell.check), cell.check.get("message") or cell.check.get("reason")])
    if number(cell.check.get("budget_used")) is not None:
        parts.append(f"budget used {percent(cell.check['budget_used'])}")
    parts += [f"{other['verdict']} with {other['environment']}" for other in cell.elsewhere]
    return " · ".join(parts)


def cell_anchor(cell: Cell) -> str:
    return anchor("cell-", cell.id)


def claims_by_file(state: State) -> list[tuple[str, list[dict]]]:
    """Spec files in order, each with its claims as they stand in it."""
    files = defaultdict(list)
    for claim in state.claims.values():
        files[claim.get("file") or claim["claim"].partition("::")[0]].append(claim)
    return [(file, sorted(files[file], key=lambda c: (c.get("line") or 0, c["claim"]))) for file in sorted(files)]


def columns(state: State) -> tuple[tuple[Column, ...], tuple[tuple[str, int], ...]]:
    dtypes = {name: set(about.get("dtypes") or ()) for name, about in state.implementations.items()}
    for cell in state.cells:
        if cell.implementation:
            dtypes[cell.implementation].add(cell.dtype)
    found, groups = [Column(leg, None, None) for leg in LEG_COLUMNS], []
    for name in sorted(dtypes):
        own = sorted(dtypes[name], key=dtype_order) or [None]
        groups.append((name, len(own)))
        found += [Column("implementation", name, dtype, first=place == 0) for place, dtype in enumerate(own)]
    return tuple(found), tuple(groups)


def _square(cells: list[Cell]) -> Square | None:
    if not cells:
        return None
    leading = worst(cells)
    verdict = VERDICTS[leading.verdict]
    href = "#" + (cell_anchor(leading) if verdict.family in ("bad", "expected") else anchor("claim-", leading.claim))
    says = "\n".join(describe(cell) for cell in cells)
    return Square(verdict.family, verdict.mark, says, href, any(cell.elsewhere for cell in cells))


def matrix(state: State) -> Matrix:
    own, (found, groups) = by_claim(state.cells), columns(state)
    files = []
    for file, claims in claims_by_file(state):
        lines = []
        for claim in claims:
            squares = defaultdict(list)
            for cell in own[claim["claim"]]:
                # A leg without implementation has one square, whatever the dtypes.
                key = (cell.leg, cell.implementation, cell.dtype if cell.leg == "implementation" else None)
                squares[key].append(cell)
            lines.append((claim, tuple(_square(squares[c.leg, c.implementation, c.dtype]) for c in found)))
        files.append((file, tuple(lines)))
    return Matrix(found, groups, tuple(files))
