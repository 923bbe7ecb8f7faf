"""What the kill matrix says: as a record for the report, and as the list of what is wrong with it."""

from __future__ import annotations

from dataclasses import asdict

from ..claims import Claim
from .kills import STUMBLES, judged_by
from .matrix import Matrix
from .reading import PLACEBO, first_kills, killers, median_and_95th
from .suspects import Suspect

LEAST_CLAIMS = 3            # that must reject a placebo


def record(matrix: Matrix, claims: list[Claim], suspects: list[Suspect]) -> dict:
    """The matrix as plain data: suspects, claims, kills, and when suspects were first killed."""
    judged = {f"{c.file}::{c.name}": c for c in claims if any(judged_by(c, s) for s in suspects)}
    return {
        "examples": matrix.examples, "seed": matrix.seed, "until_killed": matrix.until_killed,
        "suspects": [{"name": s.name, "title": s.title, "family": s.family, "source": s.source, "file": s.subject.file,
                      "line": s.line, "operations": sorted(s.replaced), "dtypes": list(s.subject.dtypes),
                      "claims": sum(judged_by(c, s) for c in judged.values())} for s in suspects],
        "claims": [{"claim": name, "title": c.title, "kind": c.kind, "operations": list(c.operations),
                    "kills_nothing": c.kills_nothing, "if_fails": c.if_fails,
                    "seconds": round(matrix.seconds.get(name, 0.0), 3)} for name, c in judged.items()],
        "kills": [asdict(kill) for kill in sorted(matrix.kills, key=lambda k: (k.claim, k.suspect, k.dtype))],
        "problems": matrix.problems,
    }


def faults(found: dict) -> list[str]:
    """Why the suite is not strong enough: survivors, accepted placebos, claims that kill nothing and do not say why."""
    wrong = list(found["problems"])
    wrong += [f"{kill['claim']} stumbles over {kill['suspect']}, example {kill['example']}: {kill['message']}"
              for kill in found["kills"] if kill["how"] == STUMBLES]
    by_suspect = killers(found)
    for suspect in found["suspects"]:
        name, count = suspect["name"], len(by_suspect[suspect["name"]])
        where = f"{suspect['file']}:{suspect['line']}" if suspect["line"] else suspect["file"]
        if not suspect["family"]:
            wrong.append(f"{name} ({where}) names no family: its docstring needs a line `Family: ...`")
        if not suspect["claims"]:
            wrong.append(f"{name} ({where}): no claim is judged on {', '.join(suspect['operations'])}")
        elif suspect["family"] == PLACEBO and not found["until_killed"]:
            if count < min(LEAST_CLAIMS, suspect["claims"]):
                wrong.append(f"the placebo {name} is rejected by {count} claims, fewer than {LEAST_CLAIMS}")
        elif not count:
            wrong.append(f"{name} ({where}) survives all of its {suspect['claims']} claims: {suspect['title']}")
    if not found["until_killed"]:
        killing = {kill["claim"] for kill in found["kills"]}
        wrong += [f"{claim['claim']} kills nothing and does not say why (kills_nothing=...)"
                  for claim in found["claims"] if claim["claim"] not in killing and not claim["kills_nothing"]]
    return wrong


def summary(found: dict) -> str:
    """How many were killed, and after how many examples, in a few lines."""
    first, wrong = first_kills(found), [s for s in found["suspects"] if s["family"] != PLACEBO]
    killed = sorted(first[s["name"]] for s in wrong if s["name"] in first)
    placebos = [s for s in found["suspects"] if s["family"] == PLACEBO]
    lines = [f"{len(killed)} of {len(wrong)} wrong implementations killed, "
             f"{sum(s['name'] in first for s in placebos)} of {len(placebos)} placebos"]
    if len(killed) > 1:
        median, most = median_and_95th(killed)
        lines.append(f"examples until the kill: median {median:g}, 95th percentile {most:g}, most {killed[-1]}")
        counts = sorted({n for n in (1, 2, 3, 5, 10, 20) if n < found["examples"]} | {found["examples"]})
        lines.append("survivors after " + ", ".join(f"{n}: {len(wrong) - sum(k <= n for k in killed)}" for n in counts))
    return "\n".join(lines)
