"""Known bugs: the part of a kill matrix that diagnosis needs, in a file small enough to be committed."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .cures import Cures, counted
from .reading import PLACEBO, killers


@dataclass(frozen=True)
class Known:
    """A known bug: what it is, where it shipped, and the claims that notice it: how, and after how many examples; and
    which repairs cure its failing calls; and the shares of those claims that are about each operation."""

    name: str
    family: str
    title: str
    source: str
    operations: frozenset[str]
    kills: Mapping[str, tuple[str, int]]
    cures: Cures = field(default_factory=dict)
    about: Mapping[str, float] = field(default_factory=dict)


def about(failing: Iterable[str], operations: Mapping[str, Iterable[str]]) -> dict[str, float]:
    """The share of failing claims that are about each operation."""
    failing = list(failing)
    counts = Counter(operation for claim in failing for operation in operations.get(claim, ()))
    return {operation: count / len(failing) for operation, count in sorted(counts.items())}


def known_bugs(found: dict) -> list[Known]:
    """The known bugs of a recorded kill matrix; placebos are none."""
    kills, ablated = killers(found), defaultdict(list)
    operations = {claim["claim"]: claim["operations"] for claim in found["claims"]}
    for one in found.get("ablations", ()):
        ablated[one["suspect"]].append((one["cured"], one["not_cured"]))
    return [Known(s["name"], s["family"], s["title"], s.get("source", ""), frozenset(s["operations"]),
                  kills[s["name"]], counted(ablated[s["name"]]), about(kills[s["name"]], operations))
            for s in found["suspects"] if s["family"] != PLACEBO and kills[s["name"]]]


def as_text(bugs: list[Known]) -> str:
    """The bugs as JSON, sorted, one a line: a change of one bug is a change of one line."""
    lines = [json.dumps({
        "name": bug.name, "family": bug.family, "title": bug.title, "source": bug.source,
        "operations": sorted(bug.operations), "kills": {claim: list(bug.kills[claim]) for claim in sorted(bug.kills)},
        "cures": {name: list(bug.cures[name]) for name in sorted(bug.cures)},
        "about": {operation: round(share, 4) for operation, share in bug.about.items()},
    }, ensure_ascii=False) for bug in sorted(bugs, key=lambda bug: bug.name)]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def read(path: Path) -> list[Known]:
    """The bugs in a file written with `as_text`; ValueError, naming the file, where it is none."""
    try:
        return [Known(bug["name"], bug["family"], bug["title"], bug["source"], frozenset(bug["operations"]),
                      {claim: (str(how), int(example)) for claim, (how, example) in bug["kills"].items()},
                      {name: (int(cured), int(tried)) for name, (cured, tried) in bug.get("cures", {}).items()},
                      {operation: float(share) for operation, share in bug.get("about", {}).items()})
                for bug in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no known bugs ({type(error).__name__}: {error}); "
                         "python -m properties.power with --save-known writes it") from error
