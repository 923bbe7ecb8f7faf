"""Plots of measured speed: TFLOP/s against the length of the sequence, TB/s beside a copy."""

import importlib.util
from collections.abc import Sequence

from .figures import Figure, _svg, style

COPY = "copy"        # the contender that moves as many bytes and computes nothing
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")    # Okabe and Ito's
MARKERS, LINES = "osD^vX", ("-", "--", "-.", ":", (0, (3, 1, 1, 1)), (0, (1, 1)))


def with_quartiles(contender: dict) -> tuple[float, float | None, float | None]:
    """The rate at the median of the seconds, at their upper quartile, at their lower one."""
    rate, seconds = contender["rate"], contender["seconds"]
    low, high = (rate * seconds["median"] / seconds[key] if seconds[key] else None for key in ("upper", "lower"))
    return rate, low, high


def _can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def _rates(rows: Sequence[dict]) -> dict[str, dict[int, tuple[float, float, float]]]:
    """{contender: {tokens: (rate, rate at the upper quartile of the time, at the lower one)}}."""
    found, ours = {}, rows[0]["ours"]
    for row in rows:
        for contender in row.get("contenders", ()):
            if contender.get("rate"):
                found.setdefault(contender["name"], {})[row["case"]["tokens"]] = with_quartiles(contender)
    ordered = sorted(found, key=lambda name: (name != ours, name))
    return {name: dict(sorted(found[name].items())) for name in ordered}


def curves(groups: dict[str, list[dict]], place: str) -> list[Figure]:
    """TFLOP/s against the length, one plot for each pass, head dim and mask."""
    drawn = []
    kinds: dict[tuple, list[dict]] = {}
    for group, rows in groups.items():
        for row in rows:
            if {"tokens", "head_dim", "causal"} <= set(row["case"]) and row["unit"] == "TFLOP/s":
                kinds.setdefault((group, row["case"]["head_dim"], row["case"]["causal"]), []).append(row)
    for (group, head_dim, causal), rows in kinds.items() if _can_draw() else ():
        rates = _rates(rows)
        if not rates:
            continue
        what = f"{group}, {'causal' if causal else 'full'}, D {head_dim}"
        drawn.append(Figure(_plot_curves(rates, f"{place}-{group.replace(' ', '-')}-{head_dim}-{causal}"), (
            f"{what[0].upper()}{what[1:]}: median TFLOP/s; bars: quartiles.")))
    return drawn


def _plot_curves(rates: dict, place: str) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    with rc_context(style(place)):
        canvas = Canvas(figsize=(3.9, 2.9), layout="constrained")
        axes = canvas.subplots()
        for i, (name, points) in enumerate(rates.items()):
            medians = [rate for rate, _, _ in points.values()]
            errors = [[rate - (low or rate) for rate, low, _ in points.values()],
                      [(high or rate) - rate for rate, _, high in points.values()]]
            axes.errorbar(list(points), medians, yerr=errors, color=COLOURS[i % 6], marker=MARKERS[i % 6],
                          linestyle=LINES[i % 6], markersize=4, linewidth=1.3, capsize=2, label=name)  # fmt: skip
        tokens = sorted({n for points in rates.values() for n in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(tokens, [f"{n // 1024}k" if n % 1024 == 0 else str(n) for n in tokens])
        axes.minorticks_off()
        axes.set(xlabel="sequence length (tokens)", ylabel="TFLOP/s")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        canvas.legend(loc="outside upper center", frameon=False, fontsize=8, ncols=2, columnspacing=1.2)
        return _svg(canvas, place)


def bars(groups: dict[str, list[dict]], place: str) -> list[Figure]:
    """TB/s of ours against the copy of the same case, the fastest case of every operation that has both."""
    rows = []
    for group, cases in groups.items():
        both = []
        for row in cases:
            rates = {c["name"]: c.get("rate") for c in row.get("contenders", ())}
            if row["unit"] == "TB/s" and rates.get(row["ours"]) and rates.get(COPY):
                both.append((rates[row["ours"]], rates[COPY], f"{group.replace('_', ' ')}\n{_short(row['case'])}"))
        rows += [max(both)] if both else []
    if not rows or not _can_draw():
        return []
    return [Figure(_plot_bars(rows, f"{place}-rows"), (
        "Memory-bound operations, the fastest case of each: median TB/s of the bytes that must be moved, beside a copy "
        "of as many bytes, timed in turns with it."))]


def _short(case: dict) -> str:
    return " × ".join(map(str, case["shape"])) if "shape" in case else f"{case['batch']} × {case['tokens']} tokens"


def _plot_bars(rows: list[tuple[float, float, str]], place: str) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    with rc_context(style(place)):
        canvas = Canvas(figsize=(3.9, 0.6 + 0.42 * len(rows)), layout="constrained")
        axes = canvas.subplots()
        places = range(len(rows))
        axes.barh([y - 0.2 for y in places], [row[0] for row in rows], 0.38, color=COLOURS[0], label="ours")
        axes.barh([y + 0.2 for y in places], [row[1] for row in rows], 0.38, color=COLOURS[1], alpha=0.6, label="copy")
        axes.set_yticks(list(places), [row[2] for row in rows], fontsize=7)
        axes.invert_yaxis()
        axes.set(xlabel="TB/s")
        axes.spines[["top", "right"]].set_visible(False)
        canvas.legend(loc="outside upper center", frameon=False, fontsize=8, ncols=2)
        return _svg(canvas, place)
