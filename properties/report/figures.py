"""Plots of the budget used, as SVG that stands inside the page and takes its colours."""

import io
import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from .schema import dtype_order, number
from .state import Cell

AXES = {
    "length": "sequence length (elements, rounded up to 2ᵏ)",
    "head_dim": "head dimension (elements, rounded up to 2ᵏ)",
    "magnitude": "largest |input| (no unit, rounded up to 2ᵏ, 2⁻¹⁴ or more)",
}
# Okabe and Ito's colours, told apart by marker and line style too.
STYLES = {
    "float64": ("#0072b2", "o", "-"),
    "float32": ("#d55e00", "s", "--"),
    "float16": ("#009e73", "^", "-."),
    "bfloat16": ("#cc79a7", "D", ":"),
}
LEAST = 2.0**-14  # smaller magnitudes are few and share a bucket
INK = "#010203"  # replaced by the page's own text colour


@dataclass(frozen=True)
class Figure:
    svg: str
    caption: str


def budget_profile(cells: Iterable[Cell], axis: str) -> dict[str, dict[float, float]]:
    """Largest budget used per dtype over the given cells, at each value of the axis rounded up to a power of two."""
    profile = defaultdict(dict)
    for cell in cells:
        for key, value in (cell.check.get("profile") or {}).get(axis, {}).items():
            place, used = number(key), number(value)
            if cell.dtype and place and used is not None:  # 0 has no place on a logarithmic axis
                bucket = max(LEAST, 2.0 ** math.ceil(math.log2(place)))
                profile[cell.dtype][bucket] = max(used, profile[cell.dtype].get(bucket, 0.0))
    return {dtype: dict(sorted(profile[dtype].items())) for dtype in sorted(profile, key=dtype_order)}


def _svg(figure, prefix: str) -> str:
    """The figure as an SVG element: no prologue or metadata, ids that are unique on the page, the page's ink."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    opening, rest = text.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", opening) + ">" + rest  # the page sets its size


def _power_of_two(value: float) -> str:
    """A tick: 0.125 or 1024 as they are, what is further out as a power of two."""
    if 0.01 < value < 5000:
        return f"{value:g}"
    return "2" + str(round(math.log2(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def style(salt: str) -> dict:
    """matplotlib's settings for a plot on the page; the same salt gives the same ids at every build."""
    return {
        "svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif", "font.size": 9,
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    }  # fmt: skip


def _plot(profile: dict, axis: str) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import LogLocator

    with rc_context(style(axis)):
        canvas = Canvas(figsize=(3.9, 2.9), layout="constrained")
        axes = canvas.subplots()
        for dtype, points in profile.items():
            colour, marker, line = STYLES.get(dtype, (INK, "x", "-"))
            used = [100 * value for value in points.values()]
            axes.plot(list(points), used, color=colour, marker=marker, linestyle=line, markersize=4, linewidth=1.3,
                      label=dtype)  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=8))
        axes.xaxis.set_major_formatter(lambda value, _: _power_of_two(value))
        axes.minorticks_off()
        axes.axhline(100, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.set(xlabel=AXES[axis], ylabel="budget used (%)", ylim=(0, 105))
        axes.spines[["top", "right"]].set_visible(False)
        canvas.legend(loc="outside upper center", frameon=False, fontsize=8, ncols=len(profile), columnspacing=1.2)
        return _svg(canvas, f"plot-{axis}")


def figures(cells: Iterable[Cell]) -> tuple[list[Figure], str]:
    """The plots, over the cells that hold and say how much budget they used, and a sentence where there are none."""
    cells = [cell for cell in cells if cell.check.get("profile") and cell.leg == "implementation"]
    holding = [cell for cell in cells if cell.family == "good"]
    if not holding:
        return [], "No cell that holds has recorded how its use of the budget varies, so there is nothing to plot."
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return [], "The plots of the budget used are left out: they need matplotlib, which is not installed."
    drawn = []
    for axis, label in AXES.items():
        counted = [cell for cell in holding if cell.check["profile"].get(axis)]
        profile = budget_profile(counted, axis)
        if not profile:
            continue
        caption = (
            f"Largest share of the error budget used, against {label.partition(' (')[0]}: for each dtype the maximum "
            f"over the {len(counted)} cells (of {len(cells)} with a profile) that hold and vary it. "
            "At 100 % the budget is used up."
        )
        drawn.append(Figure(_plot(profile, axis), caption))
    return drawn, ""
