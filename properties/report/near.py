"""Diagnosis on the pages: for an implementation with red cells, the nearest known bugs in words."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..power import cures, diagnosis
from ..power.families import HeldBack, held_back
from ..power.known import Known, read
from .schema import completed
from .state import State
from .wording import NARROW, full_stop

N_CURES = 4  # repairs that a sentence names, each way
N_NEAREST, N_NAMED = 3, 3  # bugs that are shown, and claims that a sentence names
DEFAULT_EXAMPLES = 30  # per claim, where no check says how many it had


@dataclass(frozen=True)
class Near:
    """A known bug beside what was seen: the claims that fail in both (the most telling first), one that holds in both
    and tells it from other bugs, and how many claims come out otherwise."""

    known: Known
    both: tuple[dict, ...]
    n_failing: int
    absent: dict | None
    n_only_there: int
    explained: float

    @property
    def named(self) -> tuple[dict, ...]:
        return self.both[:N_NAMED]


@dataclass(frozen=True)
class Diagnosis:
    """The families of mistakes with their probabilities, the nearest bugs, and the claim to look at first;
    and what cures the failing calls, in a sentence."""

    families: tuple[tuple[str, float], ...]
    nearest: tuple[Near, ...]
    look_at: dict | None
    cured: str = ""


def clause(title: str) -> str:
    """A sentence as the end of another one: without its full stop, and with a small first letter where it is a word."""
    title = title.strip().removesuffix(".")
    word = title.split(" ")[0]
    return title[:1].lower() + title[1:] if word[:1].isupper() and word[1:] == word[1:].lower() else title


def probability(value: float) -> str:
    """A probability in percent that never reads as certainty."""
    return (
        f"over 99{NARROW}%" if value > 0.99 else f"under 1{NARROW}%" if value < 0.01 else f"{100 * value:.0f}{NARROW}%"
    )


def thread(source: str) -> str:
    """Where a bug comes from: a thread as it is, "001, section 5.3" as a place in the notes."""
    if source[:3].isdigit() and source[3:4] in (",", ""):
        return f"note {source}"
    return f"from no thread{source[4:]}" if source.startswith("none") else source or "from no thread"


def cured_in_words(seen: cures.Cures) -> str:
    """"Right without the mask; still wrong with one head.": what cures most calls, and what cures none; or nothing."""
    counts = {name: n for name, n in seen.items() if n[1] and name != cures.BY_ITSELF}
    facts = [name for name in cures.OBSERVED if counts.get(name, (0, 1))[0]]
    results = sorted((-by / of, -of, name.removeprefix(cures.SEEN)) for name, (by, of) in counts.items()
                     if name.startswith(cures.SEEN) and 2 * by > of)
    facts += [name for _, _, name in results[:N_CURES]]
    repairs = sorted((-by / of, -of, name) for name, (by, of) in counts.items()
                     if name not in cures.OBSERVED and not name.startswith(cures.SEEN))
    right = [name for share, _, name in repairs if share <= -0.5][:N_CURES]
    wrong = [name for share, _, name in repairs if share == 0 and name not in cures.DECISIVE][:N_CURES]
    parts = [*facts, *["right " + ", ".join(right)] * bool(right), *["still wrong " + ", ".join(wrong)] * bool(wrong)]
    text = "; ".join(parts)
    return full_stop(text[:1].upper() + text[1:]) if facts or right else ""


def _diagnosis(checks: list[dict], state: State, bugs: Sequence[Known]) -> Diagnosis | None:
    seen = diagnosis.verdicts_seen((check["claim"], check["verdict"]) for check in checks)
    examples = max((check["examples"] or 0 for check in checks), default=0) or DEFAULT_EXAMPLES
    taken_apart = [(c["cured_by"], c["not_cured_by"]) for c in checks if c["cured_by"] or c["not_cured_by"]]
    seen_cures = cures.counted(taken_apart)
    operations = {name: claim["operations"] for name, claim in state.claims.items()}
    families, ranked = diagnosis.families_and_bugs(seen, bugs, examples=examples, cures=seen_cures,
                                                   operations=operations)
    if not ranked:
        return None

    def claim(name: str) -> dict:
        return state.claims.get(name, completed("claim", {"claim": name}))

    nearest = []
    for like in ranked[:N_NEAREST]:
        both = tuple(map(claim, diagnosis.most_telling(like, seen, bugs)))
        absent = diagnosis.telling_absence(like, seen, ranked)
        nearest.append(Near(like.known, both, len(like.both) + len(like.only_here), absent and claim(absent),
                            len(like.only_there), like.explained))  # fmt: skip
    look_at = next((claim for claim in nearest[0].both if claim["if_fails"]), None)
    likely = [item for place, item in enumerate(families[:2]) if place == 0 or item[1] >= 0.01]
    return Diagnosis(tuple(likely), tuple(nearest), look_at, cured_in_words(seen_cures))


@dataclass(frozen=True)
class Reliability:
    """How far diagnosis can be trusted: the known bugs, each diagnosed by the others; all, and by family, the largest
    first."""

    bugs: tuple[HeldBack, ...]

    @property
    def n_first(self) -> int:
        return sum(bug.first for bug in self.bugs)

    @property
    def n_among_two(self) -> int:
        return sum(bug.among_two for bug in self.bugs)

    @property
    def families(self) -> list[tuple[str, "Reliability"]]:
        by_family = defaultdict(list)
        for bug in self.bugs:
            by_family[bug.known.family].append(bug)
        largest_first = sorted(by_family.items(), key=lambda item: (-len(item[1]), item[0]))
        return [(name, Reliability(tuple(own))) for name, own in largest_first]

    @property
    def mistaken(self) -> list[HeldBack]:
        """Those for which another family is named first."""
        return [bug for bug in self.bugs if not bug.first]


def reliability(known: Path | None) -> Reliability | None:
    """Of the diagnosis by the known bugs in a file; None where there are none."""
    try:
        bugs = read(known) if known is not None and known.is_file() else []
    except ValueError:                                      # `diagnoses` says so
        bugs = []
    return Reliability(tuple(held_back(bugs))) if bugs else None


def diagnoses(state: State, known: Path | None) -> tuple[dict[str, Diagnosis], str]:
    """By implementation with red cells, what its failures look like; and why the known bugs could not be read."""
    if known is None or not known.is_file():
        return {}, ""
    try:
        bugs = read(known)
    except ValueError as error:
        return {}, full_stop(str(error))
    checks = defaultdict(list)
    for cell in state.cells:
        if cell.implementation:
            checks[cell.implementation].append({"claim": cell.claim, "verdict": cell.verdict,
                                                "examples": cell.check.get("examples"),
                                                "cured_by": cell.check.get("cured_by") or [],
                                                "not_cured_by": cell.check.get("not_cured_by") or []})  # fmt: skip
    found = {name: _diagnosis(own, state, bugs) for name, own in checks.items()}
    return {name: one for name, one in found.items() if one}, ""
