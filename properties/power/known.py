"""Known bugs: the part of a kill matrix that diagnosis needs, in a file small enough to be committed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .cures import Cures, counted
from .reading import PLACEBO, killers


@dataclass(frozen=True)
class Known:
    """A known bug: what it is, where it shipped, and the claims that notice it: how, and after how many examples; and
    which repairs cure its failing calls."""

    name: str
    family: str
    title: str
    source: str
    operations: frozenset[str]
    kills: Mapping[str, tuple[str, int]]
    cures: Cures = field(default_factory=dict)


def known_bugs(found: dict) -> list[Known]:
    """The known bugs of a recorded kill matrix; placebos are none."""
    kills, ablated = killers(found), defaultdict(list)
    for one in found.get("ablations", ()):
        ablated[one["suspect"]].append((one["cured"], one["not_cured"]))
    return [Known(s["name"], s["family"], s["title"], s.get("source", ""), frozenset(s["operations"]),
                  kills[s["name"]], counted(ablated[s["name"]])) for s in found["suspects"] if s["family"] != PLACEBO and kills[s["name"]]]


def as_text(bugs: list[Known]) -> str:
    """The bugs as JSON, sorted, one a line: a change of one bug is a change of one line."""
    lines = [json.dumps({
        "name": bug.name, "family": bug.family, "title": bug.title, "source": bug.source,
        "operations": sorted(bug.operations), "kills": {claim: list(bug.kills[claim]) for claim in sorted(bug.kills)},
        "cures": {name: list(bug.cures[name]) for name in sorted(bug.cures)},
    }, ensure_ascii=False) for bug in sorted(bugs, key=lambda bug: bug.name)]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def read(path: Path) -> list[Known]:
    """The bugs in a file written with `as_text`; ValueError, naming the file, where it is none."""
    try:
        return [Known(bug["name"], bug["family"], bug["title"], bug["source"], frozenset(bug["operations"]),
                      {claim: (str(how), int(example)) for claim, (how, example) in bug["kills"].items()},
                      {name: (int(cured), int(tried)) for name, (cured, tried) in bug.get("cures", {}).items()})
                for bug in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no known bugs ({type(error).__name__}: {error}); "
                         "python -m properties.power with --save-known writes it") from error
