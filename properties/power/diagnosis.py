"""Diagnosis: which known bugs fail the same claims in the same way.

The kill matrix says of every known bug which claims notice it, how, and how soon. Read backwards it is a likelihood: a
kernel that fails the claims a bug fails, and holds where that bug holds, is likely to have a mistake of its sort.
Where failing calls were taken apart (`ablation`), what cures them counts more.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .cures import LEAST, Cures, log_likelihood, usual
from .families import features, fit
from .known import Known, about
from .reading import HOLDS, HOW, worst

SLIP = 0.06                 # that a claim comes out otherwise than it did for a bug of the same sort
OTHER_WAY = 0.25            # that it is noticed in another way (law or value) where it is noticed
OF_CURES, OF_CLAIMS = 0.3, 0.02     # weights of the two likelihoods where both are known; claims fail in crowds


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
        """The share of the claims that fail here, of which there must be one, which fail there too."""
        return len(self.both) / (len(self.both) + len(self.only_here))


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


def diagnose(seen: Mapping[str, str], bugs: Iterable[Known], *, examples: int, cures: Cures | None = None,
             families: Iterable[tuple[str, float]] = ()) -> list[Likeness]:
    """The known bugs that share a failing claim with what was seen, the likeliest first.

    `cures` of the failing calls count more than the claims; `families`, with their shares (see `families.Fit`), are
    what was to be expected before.
    """
    bugs = list(bugs)
    related = [r for r in (likeness(seen, bug, examples) for bug in bugs) if r.both]
    if cures:
        usually = usual(bug.cures for bug in bugs)
        related = [replace(r, score=OF_CURES * log_likelihood(cures, r.known.cures, usually) + OF_CLAIMS * r.score)
                   for r in related]
    before = dict(families)
    if before:
        related = [replace(r, score=r.score + math.log(max(before.get(r.known.family, 0.0), LEAST))) for r in related]
    return sorted(related, key=lambda r: (-r.score, r.known.name))


def families_and_bugs(seen: Mapping[str, str], bugs: Sequence[Known], *, examples: int, cures: Cures,
                      operations: Mapping[str, Iterable[str]]) -> tuple[list[tuple[str, float]], list[Likeness]]:
    """The families of mistakes with their shares, and the known bugs in the light of them, both the likeliest first;
    none where no claim fails or no bug is known. `operations` are those of every claim."""
    failing = [claim for claim, verdict in seen.items() if verdict != HOLDS]
    if not failing or not bugs:
        return [], []
    families = fit(bugs).of(features(failing, about(failing, operations), cures))
    return families, diagnose(seen, bugs, examples=examples, cures=cures, families=families)


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
