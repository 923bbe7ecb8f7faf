"""Numbers and lists in words, the same in every page."""

import math
import re

from .schema import number

NARROW = "\u202f"  # no-break space between groups of digits, and before a unit


def count(value: int) -> str:
    """1040 as "1 040"."""
    return f"{value:,}".replace(",", NARROW)


def share(part: int, whole: int) -> str:
    """A share that keeps its denominator: "31 of 40 (78 %)"; 100 % and 0 % are never the result of rounding."""
    if not whole:
        return f"{count(part)} of {count(whole)}"
    rounded = round(100 * part / whole)
    rounded = min(rounded, 99) if part < whole else rounded
    rounded = max(rounded, 1) if part else rounded
    return f"{count(part)} of {count(whole)} ({rounded}{NARROW}%)"


def missed(part: int, whole: int) -> str:
    """A share as a percentage only, in a table whose denominators stand beside it."""
    return share(part, whole).partition("(")[2].removesuffix(")") or "–"


def percent(value) -> str:
    """A share of the error budget: "31 %", "< 1 %", or how many times the budget it is."""
    value = number(value)
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞"
    if 0 < value < 0.01:
        return f"<{NARROW}1{NARROW}%"
    if value < 100:
        return f"{count(round(100 * value)) if value <= 1 else count(math.ceil(100 * value))}{NARROW}%"
    return f"{value:.1e}".replace("e+0", "e").replace("e+", "e") + NARROW + "×"


def duration(seconds) -> str:
    seconds = number(seconds)
    if seconds is None:
        return "–"
    if seconds >= 60:
        return f"{int(seconds) // 60}{NARROW}min {int(seconds) % 60}{NARROW}s"
    return f"{seconds:.2g}{NARROW}s" if seconds < 10 else f"{seconds:.0f}{NARROW}s"


def plural(number_of: int, singular: str, many: str = "") -> str:
    """ "1 cell", "3 cells"."""
    return f"{count(number_of)} {singular if number_of == 1 else many or singular + 's'}"


def ordinal(value: int) -> str:
    ending = "th" if value % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
    return f"{value}{ending}"


def listing(items) -> str:
    """ "a", "a and b", "a, b and c"."""
    items = [str(item) for item in items]
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def full_stop(text: str) -> str:
    """The text with a full stop unless it ends in a mark already."""
    text = text.strip()
    return text + "." if text and text[-1] not in ".!?:" else text


def title(claim: dict) -> str:
    """A claim's title without its full stop, or its name in words where it has none."""
    name = claim["claim"].rpartition("::")[2].replace("_", " ")
    return (claim.get("title") or name).strip().removesuffix(".")


def anchor(prefix: str, name: str) -> str:
    """A name as the id of a place on the page; other characters are written by their number, so no two collide."""
    return prefix + re.sub(r"[^A-Za-z0-9_.:/-]", lambda match: f"~{ord(match[0]):x}", name)
