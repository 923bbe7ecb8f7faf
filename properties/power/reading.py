"""What a recorded kill matrix says (see `verdict.record`): plain data in, no torch, so that the report can read it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

PLACEBO = "placebo"
HOLDS = "holds"
HOW = ("crashed", "timed out", "law fails", "unfaithful")       # the ways in which a claim fails, worst first


def worst(ways: Iterable[str]) -> str:
    """The worst of several ways to fail; "holds" where none of them is one."""
    ways = set(ways)
    return next((how for how in HOW if how in ways), HOLDS)


def first_kills(found: dict) -> dict[str, int]:
    """Per suspect that was killed, the number of examples after which some claim noticed, all claims going in step."""
    first: dict[str, int] = {}
    for kill in found["kills"]:
        first[kill["suspect"]] = min(kill["example"], first.get(kill["suspect"], kill["example"]))
    return first


def killers(found: dict) -> dict[str, dict[str, tuple[str, int]]]:
    """Per suspect, the claims that kill it: how (the worst over dtypes) and with which example (the earliest)."""
    by_suspect: dict[str, dict[str, tuple[str, int]]] = {s["name"]: {} for s in found["suspects"]}
    for kill in found["kills"]:
        own, this = by_suspect[kill["suspect"]], (kill["how"], kill["example"])
        how, example = own.get(kill["claim"], this)
        own[kill["claim"]] = worst((how, kill["how"])), min(example, kill["example"])
    return by_suspect


def median_and_95th(numbers: list[int]) -> tuple[float, float]:
    """The median and the 95th percentile of at least one number."""
    if len(numbers) == 1:
        return float(numbers[0]), float(numbers[0])
    cuts = statistics.quantiles(numbers, n=20, method="inclusive")
    return cuts[9], cuts[18]
