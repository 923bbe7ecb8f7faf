"""Counted costs: the points that claims have counted, against their formulas, as a plot and as a table."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from .figures import STYLES, Figure, _power_of_two, _svg, style
from .schema import dtype_order, number, short_dtype
from .state import Cell

LOOKS = tuple(STYLES.values())
FIRST_CHOICE = "float32"  # one dtype is plotted: the others differ by the size of an element


@dataclass(frozen=True)
class Series:
    """What was counted in one implementation: (counted, formula) at each place, in order."""

    name: str
    points: dict[float, tuple[float, float]]

    @property
    def exact(self) -> bool:
        return all(counted == formula for counted, formula in self.points.values())


@dataclass(frozen=True)
class Costs:
    """All series over one variable in one unit, in the dtype that was chosen."""

    variable: str
    unit: str
    dtype: str
    series: tuple[Series, ...]
    figure: Figure | None

    @property
    def rows(self) -> list[tuple[str, list[str]]]:
        """A line of the table per place: what each series counted there, and the formula's value where it differs."""
        places = sorted({place for series in self.series for place in series.points})
        return [(f"{place:g}", [_cell(series.points.get(place)) for series in self.series]) for place in places]


def _cell(point: tuple[float, float] | None) -> str:
    if point is None:
        return "–"
    counted, formula = (f"{value:,.0f}".replace(",", "\u202f") for value in point)
    return counted if counted == formula else f"{counted} (formula: {formula})"


def _collected(cells: Iterable[Cell]) -> dict:
    """(variable, unit) -> dtype -> series name -> place -> (counted, formula)."""
    found = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for cell in cells:
        for point in cell.check.get("costs") or ():
            if len(point["at"]) != 1 or cell.family == "grey":
                continue
            ((variable, place),) = point["at"].items()
            values = number(point["counted"]), number(point["expected"])
            name = point["what"] + (f" ({cell.implementation})" if cell.implementation else "")
            if None not in values:
                found[variable, point.get("unit") or ""][cell.dtype or ""][name][number(place)] = values
    return found


def _plot(variable: str, unit: str, series: tuple[Series, ...]) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import LogLocator

    with rc_context(style(f"costs-{variable}-{unit}")):
        canvas = Canvas(figsize=(4.6, 3.4), layout="constrained")
        axes = canvas.subplots()
        for number_, one in enumerate(series):
            colour, marker, line = LOOKS[number_ % len(LOOKS)]
            places = sorted(one.points)
            axes.plot(places, [one.points[p][1] for p in places], color=colour, linestyle=line, linewidth=1.2)
            axes.plot(places, [one.points[p][0] for p in places], color=colour, marker=marker, linestyle="none",
                      markersize=4.5)  # fmt: skip
            axes.plot([], [], color=colour, marker=marker, linestyle=line, markersize=4.5, label=one.name)
        for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
            scale("log", base=2)
            axis.set_major_locator(LogLocator(base=2, numticks=9))
            axis.set_major_formatter(lambda value, _: _power_of_two(value))
        axes.minorticks_off()
        axes.set(xlabel=variable, ylabel=unit or "counted")
        axes.spines[["top", "right"]].set_visible(False)
        canvas.legend(loc="outside upper center", frameon=False, fontsize=8, ncols=1)
        return _svg(canvas, f"costs-{variable}-{unit}".replace(" ", "-"))


def costs(cells: Iterable[Cell]) -> list[Costs]:
    """The counted costs by variable and unit; without matplotlib they have no figure."""
    try:
        import matplotlib  # noqa: F401

        drawable = True
    except ImportError:
        drawable = False
    shown = []
    for (variable, unit), by_dtype in sorted(_collected(cells).items()):
        dtype = FIRST_CHOICE if FIRST_CHOICE in by_dtype else min(by_dtype, key=dtype_order)
        series = tuple(Series(name, dict(sorted(points.items()))) for name, points in sorted(by_dtype[dtype].items()))
        figure = None
        if drawable:
            agreement = "every marker lies on its line" if all(one.exact for one in series) else "not every marker " \
                        "lies on its line: see the table"  # fmt: skip
            caption = f"{(unit or 'Cost').capitalize()} against {variable}, both logarithmic" + (
                f", {short_dtype(dtype)}" if dtype else "") + ": counted (markers) and by the claim's formula " \
                f"(lines); {agreement}."  # fmt: skip
            figure = Figure(_plot(variable, unit, series), caption)
        shown.append(Costs(variable, unit, dtype, series, figure))
    return shown
