"""Tensors of events as small pictures: grids of numbers where they fit, their non-zeros or a window where not."""

import math
from dataclasses import dataclass
from itertools import product

from .schema import number

MAX_MATRICES, MAX_ROWS, MAX_COLUMNS = 6, 8, 12
MAX_LISTED = 16
WINDOW = 6  # rows and columns shown of what does not fit


@dataclass(frozen=True)
class Entry:
    """One element: its short text, its full text, whether it is zero and whether it is the one that is pointed at."""

    text: str
    full: str
    zero: bool = False
    marked: bool = False


@dataclass(frozen=True)
class Picture:
    """A tensor to be shown: its kind in words, matrices (label, rows of entries) or a list (place, entry), a remark."""

    about: str
    matrices: tuple[tuple[str, tuple[tuple[Entry, ...], ...]], ...] = ()
    listed: tuple[tuple[str, Entry], ...] = ()
    remark: str = ""
    text: str = ""  # instead of all that, for what is no tensor


def is_tensor(value) -> bool:
    return isinstance(value, dict) and "shape" in value


def parts(name: str, value) -> list[tuple[str, object]]:
    """A drawn value by its parts: a dict or a list that holds tensors is taken apart, everything else is one part."""
    if isinstance(value, dict) and not is_tensor(value):
        return [part for key, item in value.items() for part in parts(str(key), item)]
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        return [part for place, item in enumerate(value) for part in parts(f"{name}[{place}]", item)]
    return [(name, value)]


def short_number(value, *, digits: int = 6) -> str:
    """A number, truth value or encoded special value as short text: 0.5, 3.1e-3, inf, T and · (true and false)."""
    if isinstance(value, bool):
        return "T" if value else "·"
    if not isinstance(value, (int, float)):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    mantissa, e, exponent = f"{value:.{digits}g}".partition("e")
    return mantissa.replace("-", "−") + (f"e{int(exponent)}" if e else "")


def telling_digits(a, b) -> int:
    """The fewest significant digits, at least 4, that tell ``a`` from ``b``; 5 where they are equal."""
    a, b = number(a), number(b)
    if a is None or b is None or a == b or not (math.isfinite(a) and math.isfinite(b)):
        return 5
    return next((digits for digits in range(4, 17) if f"{a:.{digits}g}" != f"{b:.{digits}g}"), 17)


def element(tensor: dict, place) -> object:
    """The element at ``place`` (a list of indices); None where the tensor has no values or no such place."""
    value = tensor.get("values")
    try:
        for index in place or ():
            value = value[index]
    except (TypeError, IndexError):
        return None
    return None if isinstance(value, list) else value


def _about(tensor: dict) -> str:
    shape = "×".join(map(str, tensor["shape"])) or "scalar"
    strides = f", strides {tuple(tensor['strides'])}" if tensor.get("strides") is not None else ""
    layout = f", {tensor['layout']}" if tensor.get("layout") not in (None, "contiguous") else ""
    return f"{shape} {tensor.get('dtype', '')}".strip() + strides + layout


def _matrices(tensor: dict, entry) -> tuple:
    """All matrices of a tensor that fits, labelled by their leading indices; leading dims of 1 are left out."""
    shape = tensor["shape"]
    lead, (n_rows, n_columns) = shape[:-2], ([1, 1] + shape)[-2:]
    own = min(len(shape), 2)  # how many indices of a place lie within one matrix
    matrices = []
    for index in product(*map(range, lead)):
        label = f"[{', '.join(map(str, index))}]" if math.prod(lead) > 1 else ""
        rows = tuple(
            tuple(entry((*index, *((i, j)[2 - own :]))) for j in range(n_columns)) for i in range(n_rows)
        )
        matrices.append((label, rows))
    return tuple(matrices)


def _window(tensor: dict, at, entry) -> tuple:
    """The part of the last two dims around ``at`` (or their beginning), labelled as a slice."""
    shape = tensor["shape"]
    place = list(at) if at is not None and len(at) == len(shape) else [0] * len(shape)
    height, width = ([1] + shape)[-2:]
    row, column = ([0] + place)[-2:]
    top, left = (max(0, min(i - WINDOW // 2, size - WINDOW)) for i, size in ((row, height), (column, width)))
    rows, columns = range(top, min(height, top + WINDOW)), range(left, min(width, left + WINDOW))
    slices = [f"{span.start}:{span.stop}" for span in (rows, columns)][-len(shape) :]
    label = f"[{', '.join([*map(str, place[:-2]), *slices])}]"
    lead = tuple(place[:-2])
    return (label, tuple(tuple(entry((*lead, *((i, j)[-len(shape) :]))) for j in columns) for i in rows))


def picture(value, *, at=None, mark: bool = True, digits: int = 6) -> Picture:
    """What to show for a tensor of an event: the element at ``at`` in sight, and marked; other values become text."""
    if not is_tensor(value):
        if isinstance(value, (int, float)):
            return Picture("", text=str(value) if isinstance(value, bool) else short_number(value, digits=digits))
        return Picture("", text="None" if value is None else str(value))
    shape, about = list(value["shape"]), _about(value)
    at = None if at is None else tuple(at)
    if "values" not in value:
        return Picture(about, remark="too large to be recorded")
    if math.prod(shape) == 0:
        return Picture(about, remark="no elements")

    def entry(place) -> Entry:
        item = element(value, place)
        return Entry(short_number(item, digits=digits), str(item), item == 0, mark and place == at)

    n_rows, n_columns = ([1, 1] + shape)[-2:]
    if math.prod(shape[:-2]) <= MAX_MATRICES and n_rows <= MAX_ROWS and n_columns <= MAX_COLUMNS:
        return Picture(about, matrices=_matrices(value, entry))
    places = [place for place in product(*map(range, shape)) if element(value, place) != 0]
    if len(places) <= MAX_LISTED:
        if at is not None and at not in places and len(at) == len(shape):
            places.append(at)
        listed = tuple((f"[{', '.join(map(str, place))}]", entry(place)) for place in places)
        return Picture(about, listed=listed, remark="every other element is 0" if listed else "all elements are 0")
    return Picture(about, matrices=(_window(value, at, entry),), remark=f"a part of {math.prod(shape)} elements")


def as_text(value, *, digits: int = 6) -> str:
    """A tensor in one line of plain text, for markdown: nested brackets, or its non-zeros."""
    shown = picture(value, digits=digits)
    if shown.text:
        return shown.text
    parts = [
        label + "[" + ", ".join("[" + ", ".join(entry.text for entry in row) + "]" for row in rows) + "]"
        for label, rows in shown.matrices
    ]
    parts += [f"{place} = {entry.text}" for place, entry in shown.listed]
    if is_tensor(value) and len(value["shape"]) < 2 and len(shown.matrices) == 1 and not shown.remark:
        parts = [part[1:-1] if value["shape"] else part[2:-2] for part in parts]
    return "; ".join(parts) + (f" ({shown.remark})" if shown.remark else "")
