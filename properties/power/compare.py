"""The claims beside what is usual: what four gates miss, and how soon plain inputs notice what the claims notice."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict

from .gates import GATES, by_gates
from .matrix import Places, run
from .plain import by_plain_arrays
from .reading import PLACEBO, first_kills

MOST = 100                  # plain examples per operation


def compared(places: Places, *, seed: int, jobs: int, examples: int = MOST,
             progress: Callable[[int, int], None] = lambda done, of: None) -> dict:
    """{"gates": {gate: names of the suspects that it passes}, "plain": {suspect: first plain example that tells, or
    None}}."""
    names = [suspect.name for suspect in places.suspects()[0]]
    kills = run(places, examples=examples, seed=seed, jobs=jobs, progress=progress, judges=by_what_is_usual).kills
    caught = {(kill.claim.partition("::")[0], kill.suspect) for kill in kills}
    first = first_kills({"kills": [asdict(kill) for kill in kills if kill.claim.startswith("plain::")]})
    return {"gates": {gate: [name for name in names if (gate, name) not in caught] for gate in GATES},
            "plain": {name: first.get(name) for name in names}, "plain_examples": examples}


def by_what_is_usual(places: Places) -> list:
    """The four gates and the plain arrays as judges."""
    return [*by_gates(places), *by_plain_arrays(places)]


def comparison(found: dict) -> str:
    """The comparison in a few lines; placebos are left out."""
    wrong = [s["name"] for s in found["suspects"] if s["family"] != PLACEBO]
    passed = {gate: set(wrong) & set(names) for gate, names in found["gates"].items()}
    passed["all four together"] = set.intersection(*passed.values())
    lines = [f"{gate}: misses {len(names)} of {len(wrong)} ({100 * len(names) / max(len(wrong), 1):.0f} %)"
             for gate, names in passed.items()]
    for label, first in (("claims", first_kills(found)), ("plain arrays", found["plain"])):
        until = [first.get(name) for name in wrong]
        lines.append(f"examples until the kill, {label}: median {_shown(percentile(until, 50))}, 95th percentile "
                     f"{_shown(percentile(until, 95))}; {until.count(None)} of {len(wrong)} never")
    return "\n".join(lines)


def percentile(examples: list[int | None], percent: int) -> int | None:
    """The smallest number of examples that suffices for that share of all; None: it never does.  (Nearest rank: what is
    never killed counts as later than everything.)"""
    ranked = sorted(examples, key=lambda n: math.inf if n is None else n)
    return ranked[math.ceil(len(ranked) * percent / 100) - 1] if ranked else None


def _shown(number: int | None) -> str:
    return "never" if number is None else str(number)
