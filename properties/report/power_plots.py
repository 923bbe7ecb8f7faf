"""The kill matrix drawn: how many survive after how many examples, and who kills whom."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from ..power.reading import PLACEBO, killers, worst
from .figures import STYLES, Figure, _svg, style

# Okabe and Ito's colours, as in the other plots; "alone" is drawn over them.
COLOURS = {"law fails": "#0072b2", "unfaithful": "#e69f00", "crashed": "#444444", "timed out": "#cc79a7"}
CLAIM, PLAIN = STYLES["float64"], STYLES["float32"]
NO_FAMILY = "no family"
GAP = 2  # between families and between files, in squares
MIN_HEADING = 3  # squares: a smaller group has no room for its name


@dataclass(frozen=True)
class Group:
    """A family of columns or a file of rows: its name, the first square, how many."""

    name: str
    start: int
    n: int


@dataclass(frozen=True)
class Picture:
    """Claims x suspects in squares of one unit. Each way to fail is one path of horizontal runs, which keeps 50 000
    squares small; `rows` and `columns` name what stands at each unit."""

    width: int
    height: int
    rows: tuple[tuple[int, str], ...]
    columns: tuple[tuple[int, str], ...]
    files: tuple[Group, ...]
    families: tuple[Group, ...]
    judged: str
    paths: tuple[tuple[str, str, str], ...]  # how, colour, path
    alone: tuple[tuple[int, int], ...]
    survivors: tuple[int, ...]


def _places(groups: Iterable[tuple[str, list[str]]]) -> tuple[dict[str, int], tuple[Group, ...], int]:
    """Where each name stands, with a gap between groups; the groups; the extent."""
    places, shown, at = {}, [], 0
    for name, members in groups:
        shown.append(Group(name, at, len(members)))
        for member in members:
            places[member] = at
            at += 1
        at += GAP
    return places, tuple(shown), max(at - GAP, 1)


def _runs(squares: Iterable[tuple[int, int]]) -> str:
    """A path through squares (row, column): "M0 7m3 0h2m1 0h1" is row 7: two squares from column 3, another at 6."""
    rows = defaultdict(list)
    for row, column in sorted(set(squares)):
        runs = rows[row]
        if runs and sum(runs[-1]) == column:
            runs[-1][1] += 1
        else:
            runs.append([column, 1])
    parts = []
    for row, runs in rows.items():
        parts.append(f"M0 {row}")
        ends = [0, *map(sum, runs)]
        parts += [f"m{column - end} 0h{n}" for (column, n), end in zip(runs, ends, strict=False)]
    return "".join(parts)


def _columns(found: dict) -> list[tuple[str, str, set[str], dict[str, str], bool]]:
    """Name, family, operations, kills (claim -> how) and whether killed by one claim only; those with most kills first.
    The operations of a placebo share a column: each of them alone is hard to miss."""
    kills, merged, columns = killers(found), defaultdict(list), []
    for suspect in found["suspects"]:
        placebo = suspect["family"] == PLACEBO
        merged[suspect["name"].rpartition(".")[0] if placebo else suspect["name"]].append(suspect)
    for name, parts in merged.items():
        ways = defaultdict(list)
        for suspect in parts:
            for claim, (how, _) in kills[suspect["name"]].items():
                ways[claim].append(how)
        own = {claim: worst(hows) for claim, hows in ways.items()}
        family = parts[0]["family"] or NO_FAMILY
        operations = {operation for suspect in parts for operation in suspect["operations"]}
        columns.append((name, family, operations, own, len(own) == 1 and family != PLACEBO))
    return sorted(columns, key=lambda column: (-len(column[3]), column[0]))


def picture(found: dict, families: list[str]) -> Picture:
    """The squares of a recorded kill matrix, columns grouped by family in this order, rows by file."""
    columns, by_family, by_file = _columns(found), defaultdict(list), defaultdict(list)
    for name, family, *_ in columns:
        by_family[family].append(name)
    for claim in found["claims"]:
        by_file[claim["claim"].partition("::")[0]].append(claim["claim"])
    column, family_groups, width = _places((name, by_family[name]) for name in families if by_family[name])
    row, file_groups, height = _places(by_file.items())
    squares, alone, judged = defaultdict(list), [], []
    for name, _, operations, own, single in columns:
        judged += [(row[c["claim"]], column[name]) for c in found["claims"] if operations & set(c["operations"])]
        for claim, how in own.items():
            squares[how].append((row[claim], column[name]))
            alone += [(row[claim], column[name])] * single
    return Picture(
        width, height, tuple((at, name) for name, at in row.items()), tuple((at, name) for name, at in column.items()),
        file_groups, family_groups, _runs(judged),
        tuple((how, colour, _runs(squares[how])) for how, colour in COLOURS.items() if squares[how]),
        tuple(sorted(alone)), tuple(sorted(column[name] for name, _, _, own, _ in columns if not own)),
    )  # fmt: skip


def survivors_plot(alive: tuple[tuple[int, int | None, int | None], ...], total: int) -> Figure | None:
    """Survivors against examples per claim; None without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure as Canvas
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return None
    ends = f"{alive[0][1]} wrong implementations at the start"
    with rc_context(style("survivors")):
        canvas = Canvas(figsize=(5.6, 3.2), layout="constrained")
        axes = canvas.subplots()
        for place, name, (colour, _, line) in ((1, "the claims", CLAIM), (2, "plain inputs", PLAIN)):
            points = [(entry[0], entry[place]) for entry in alive if entry[place] is not None]
            if len(points) > 1:
                axes.step(
                    *zip(*points, strict=True), where="post", color=colour, linestyle=line, linewidth=1.6, label=name
                )
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        ticks = [n for n in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if n <= alive[-1][0]]
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="examples per claim", ylabel="wrong implementations alive", ylim=(0, 1.03 * total or 1),
                 xlim=(0, alive[-1][0]))  # fmt: skip
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
        both = any(entry[2] is not None for entry in alive)
        caption = f"How many are alive after so many examples of each claim ({ends}, all claims going in step)" + (
            "; and after so many inputs drawn plainly, judged by the same error budgets." if both else ".")  # fmt: skip
        return Figure(_svg(canvas, "survivors"), caption)
