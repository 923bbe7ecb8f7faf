"""Diagnosis: which known bugs fail the same claims in the same way.

The kill matrix says of every known bug which claims notice it, how, and how soon. Read backwards it is a likelihood: a
kernel that fails the claims a bug fails, and holds where that bug holds, is likely to have a mistake of its sort.
Where failing calls were taken apart (`ablation`), what cures them counts more, and bugs of other operations count too.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .cures import Cures, log_likelihood, usual
from .known import Known, known_bugs
from .reading import HOLDS, HOW, worst

SLIP = 0.06                 # that a claim comes out otherwise than it did for a bug of the same sort
OTHER_WAY = 0.25            # that it is noticed in another way (law or value) where it is noticed
OF_CURES, OF_CLAIMS = 0.3, 0.02     # weights of the two likelihoods where both are known; claims fail in crowds
OTHER_OPERATIONS = 2.0      # that much less likely (log) is the sort of a bug that shares no failing claim


@dataclass(frozen=True)
class Likeness:
    """How well a known bug explains what was seen (log-likelihood), and which claims fail in both, here or there."""

    known: Known
    score: float
    both: tuple[str, ...]
    only_here: tuple[str, ...]
    only_there: tuple[str, ...]

    @property
    def explained(self) -> float:
        """The share of the claims that fail here which fail there too."""
        return len(self.both) / max(len(self.both) + len(self.only_here), 1)


def likeness(seen: Mapping[str, str], known: Known, examples: int) -> Likeness:
    """How well a known bug explains the verdicts `seen` (claim -> "holds", "law fails", "unfaithful", "crashed").

    A claim that needed many examples to notice the bug may miss it in the next run.
    """
    score, both, only_here, only_there = 0.0, [], [], []
    for claim, verdict in seen.items():
        how, example = known.kills.get(claim, (HOLDS, 0))
        noticed = SLIP if how == HOLDS else (1 - SLIP) * (1 - (1 - 1 / (example + 1)) ** examples)
        if verdict == HOLDS:
            score += math.log(max(1 - noticed, SLIP))
            only_there += [claim] * (how != HOLDS)
        else:
            score += math.log(noticed) + math.log(1 - OTHER_WAY if how in (verdict, HOLDS) else OTHER_WAY)
            (only_here if how == HOLDS else both).append(claim)
    return Likeness(known, score, tuple(both), tuple(only_here), tuple(only_there))


def diagnose(seen: Mapping[str, str], bugs: Iterable[Known], *, examples: int, cures: Cures | None = None
             ) -> list[Likeness]:
    """The known bugs that share a failing claim with what was seen, the likeliest first.

    With `cures`, what cures the failing calls, the others follow among them, by their cures.
    """
    bugs = list(bugs)
    ranked = [likeness(seen, bug, examples) for bug in bugs]
    related = [r for r in ranked if r.both]
    if cures and related:
        usually, middle = usual(bug.cures for bug in bugs), statistics.median(r.score for r in related)
        related = [replace(r, score=OF_CURES * log_likelihood(cures, r.known.cures, usually)
                           + (OF_CLAIMS * r.score if r.both else OF_CLAIMS * middle - OTHER_OPERATIONS))
                   for r in ranked]
    return sorted(related, key=lambda r: (-r.score, r.known.name))


def families(ranked: Iterable[Likeness]) -> list[tuple[str, float]]:
    """Families of mistakes and their probabilities, the likeliest first; a family counts its three likeliest bugs."""
    by_family = defaultdict(list)
    for like in ranked:
        by_family[like.known.family].append(like.score)
    if not by_family:
        return []
    best = max(max(scores) for scores in by_family.values())
    weight = {family: sum(math.exp(s - best) for s in sorted(scores)[-3:]) for family, scores in by_family.items()}
    total = sum(weight.values())
    return sorted(((family, w / total) for family, w in weight.items()), key=lambda item: -item[1])


def verdicts_seen(checks: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Per claim the worst of its verdicts, from pairs (claim, verdict) of one implementation in all dtypes; verdicts
    that judge nothing ("unsupported", "error", "expected failure" ...) are left out."""
    ways = defaultdict(set)
    for claim, verdict in checks:
        if verdict == HOLDS or verdict in HOW:
            ways[claim].add(verdict)
    return {claim: worst(found) for claim, found in ways.items()}


def most_telling(like: Likeness, seen: Mapping[str, str], bugs: Iterable[Known]) -> list[str]:
    """The claims that fail both here and for a known bug, the most telling first.

    Where the law itself fails in both, its explanation applies (an unfaithful value leaves the law standing); a claim
    that notices the bug at once is about it; and one that few other bugs fail says more.
    """
    counts, kills = Counter(claim for bug in bugs for claim in bug.kills), like.known.kills
    return sorted(like.both, key=lambda claim: (not seen[claim] == kills[claim][0] == "law fails", kills[claim][1],
                                                counts[claim], claim))


def telling_absence(like: Likeness, seen: Mapping[str, str], ranked: Sequence[Likeness]) -> str | None:
    """The claim that holds here and for the likely bug, and that most of the other candidates fail, if there is one."""
    others = Counter(claim for other in ranked if other is not like for claim in other.known.kills
                     if seen.get(claim) == HOLDS and claim not in like.known.kills)
    return min(others, key=lambda claim: (-others[claim], claim), default=None)


def leave_one_out(found: dict) -> dict[str, list[tuple[str, float]]]:
    """For every known bug, held back and diagnosed like a new kernel, the families that the others suggest."""
    bugs = known_bugs(found)
    judged = {claim["claim"]: set(claim["operations"]) for claim in found["claims"]}
    answers = {}
    for bug in bugs:
        seen = {claim: bug.kills.get(claim, (HOLDS, 0))[0] for claim, operations in judged.items()
                if operations & bug.operations}
        others = [other for other in bugs if other.name != bug.name]
        answers[bug.name] = families(diagnose(seen, others, examples=found["examples"], cures=bug.cures))
    return answers


def share_right(found: dict) -> tuple[float, list[tuple[str, str, str]]]:
    """How often the right family is named first in `leave_one_out`; and the others: (bug, its family, family named)."""
    answers, family = leave_one_out(found), {bug.name: bug.family for bug in known_bugs(found)}
    wrong = [(name, family[name], named[0][0] if named else "none") for name, named in answers.items()
             if not named or named[0][0] != family[name]]
    return 1 - len(wrong) / max(len(answers), 1), wrong
