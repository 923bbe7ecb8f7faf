"""Signs: what a failing example looks like, in words that can be counted over many of them.

A bug in the mapping of heads shows only where heads are grouped, and leaves head 0 right; one in a mask only where
there is a mask. One example says little; over all claims that a kernel fails, what is always there is telling.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .memory import CONTIGUOUS, Laid
from .trial import Call

SIZES = (16, 32, 64, 128, 1024)
OVERFLOW = 88.0             # exp of it still fits float32


def signs(drawn: object, calls: list[Call]) -> tuple[str, ...]:
    """The signs of a failing example: what was asked for, and in which way the results are wrong."""
    wrong = [call for call in calls if call.wrong()]
    found: set[str] = set()
    for call in wrong or calls:
        found.update(_asked(call.given))
    for call in wrong:
        found.update(_answered(call))
    if not wrong:
        found.add("every result is right")
    elif wrong[0] is not calls[0]:
        found.add("the first call is right")
    if any(layout is not CONTIGUOUS for layout in _layouts(drawn)):
        found.add("strided inputs")
    return tuple(sorted(found))


def _layouts(drawn) -> Iterable:
    if isinstance(drawn, Laid):
        yield drawn.layout
    elif type(drawn).__name__ == "Layout":
        yield drawn
    elif isinstance(drawn, (dict, tuple, list)):
        for part in drawn.values() if isinstance(drawn, dict) else drawn:
            yield from _layouts(part)


def _asked(given: dict) -> Iterable[str]:
    arrays = {name: a for name, a in given.items() if isinstance(a, np.ndarray) and a.dtype.kind == "f"}
    for name in ("mask", "window", "bias", "scale"):
        if given.get(name) is not None:
            yield f"a {name}"
    if given.get("causal"):
        yield "causal"
    if any(not np.isfinite(a).all() for a in arrays.values()):
        yield "inputs that are not finite"
    if "q" in given:
        yield from _asked_of_attention(given)
    elif arrays:
        first = next(iter(arrays.values()))
        if first.ndim and first.shape[-1:]:
            yield from (f"more than {n} columns" for n in SIZES if first.shape[-1] > n)
            yield from ["columns no multiple of 16"] * bool(first.shape[-1] % 16)
        yield from ["several rows"] * (first.ndim > 1 and first[..., 0].size > 1)
        yield from ["large inputs"] * bool(max(_largest(a) for a in arrays.values()) > OVERFLOW)


def _asked_of_attention(given: dict) -> Iterable[str]:
    q, k = given["q"], given.get("k", given.get("k_cache"))
    v = given.get("v", given.get("v_cache", k))
    scale = given.get("scale")
    facts = {
        "several sequences": q.shape[0] > 1, "several heads": q.shape[1] > 1, "several KV heads": k.shape[1] > 1,
        "grouped heads": k.shape[1] not in (0, q.shape[1]), "one query": q.shape[2] == 1, "one key": k.shape[2] == 1,
        "no key": k.shape[2] == 0, "fewer queries than keys": q.shape[2] < k.shape[2],
        "more queries than keys": q.shape[2] > k.shape[2], "keys no multiple of 16": k.shape[2] % 16 != 0,
        "more than 64 channels": q.shape[3] > 64, "channels no multiple of 16": q.shape[3] % 16 != 0,
        "values of another width": v.shape[3] != q.shape[3], "a scale of 0 or below": scale is not None and scale <= 0,
        "large scores": _largest(q) * _largest(k) * q.shape[3] * (q.shape[3] ** -0.5 if scale is None else abs(scale))
        > OVERFLOW, "large values": _largest(v) > OVERFLOW,
    } | {f"more than {n} keys": k.shape[2] > n for n in SIZES} | {
        f"more than {n} queries": q.shape[2] > n for n in (16, 64)}
    mask = given.get("mask")
    if mask is not None and mask.ndim:
        facts |= {"a row that sees nothing": not mask.any(-1).all(),
                  "a mask by head": mask.ndim > 2 and mask.shape[-3] > 1,
                  "a mask by sequence": mask.ndim > 3 and mask.shape[-4] > 1}
    return (name for name, true in facts.items() if true)


def _largest(a: np.ndarray) -> float:
    a = np.abs(a[np.isfinite(a)])
    return float(a.max()) if a.size else 0.0


def _answered(call: Call) -> Iterable[str]:
    if call.fault:
        yield " ".join(w for w in call.fault.split(":")[0].split() if w.isalpha())
        return
    for quantity in call.quantities:
        if quantity.used <= 1:
            yield f"{quantity.name} is right"
            continue
        yield f"{quantity.name} is wrong"
        got, expected = quantity.got, quantity.expected
        with np.errstate(invalid="ignore"):
            off = ~((np.abs(got - expected) <= quantity.budget) | (got == expected))
        if np.isnan(got[off]).any():
            yield "NaN"
        elif np.isinf(got[off]).any():
            yield "an infinity"
        elif off.any() and not got[off].any():
            yield "zeros"
        else:
            yield "off by more than 100 budgets" if quantity.used > 100 else "off by less than 100 budgets"
        if off.all():
            yield "every element is wrong"
        for name, dim in (("sequence", 4), ("head", 3), ("row", 2)):
            if off.ndim >= dim and off.shape[-dim] > 1:
                first, last = (not np.take(off, place, axis=-dim).any() for place in (0, -1))
                yield from [f"the first {name} is right"] * first + [f"the last {name} is right"] * last
        if off.ndim and off.shape[-1] > 1:
            first, last = not off[..., 0].any(), not off[..., -1].any()
            yield from ["the first column is right"] * first + ["the last column is right"] * last
