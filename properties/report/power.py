"""The kill matrix: the record of ``tox -e power`` in, what the pages say of it out; without one, *not run*."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from ..power.reading import PLACEBO, first_kills, killers, median_and_95th
from .figures import Figure
from .power_plots import NO_FAMILY, Picture, picture, survivors_plot
from .wording import count, listing, plural, share

COMMAND = "tox -e power"
ROUND = (0, 1, 2, 3, 5, 10, 20, 50, 100)  # numbers of examples in the table of survivors


@dataclass(frozen=True)
class Kill:
    """The kill of a suspect by a claim: how, and with which of the examples."""

    claim: str
    how: str
    example: int


@dataclass(frozen=True)
class Suspect:
    """A wrong implementation or a placebo: what it is, and who kills it."""

    name: str
    family: str
    title: str
    source: str
    where: str
    n_claims: int
    kills: tuple[Kill, ...]  # the quickest first

    @property
    def first(self) -> Kill | None:
        return self.kills[0] if self.kills else None


@dataclass(frozen=True)
class ClaimLine:
    """A claim: how many it kills, how many of them no other claim kills, how soon, and why if it kills none."""

    claim: str
    title: str
    n_kills: int
    n_alone: int
    quickest: int | None
    n_suspects: int
    reason: str


@dataclass(frozen=True)
class Family:
    """A family of mistakes (or all): how many are killed, the median of examples, how many each usual gate misses."""

    name: str
    n: int
    n_killed: int
    median: float | None
    missed: dict[str, int]


@dataclass(frozen=True)
class Power:
    """Everything that the pages say of a kill matrix."""

    examples: int
    seed: int
    seconds: float | None
    until_killed: bool
    total: Family
    families: tuple[Family, ...]
    until_kill: tuple[float, float] | None  # median, 95th percentile of examples per claim
    plain: dict | None  # the same with plain inputs: n, n_killed, median, most
    alive: tuple[tuple[int, int | None, int | None], ...]  # examples per claim, alive under claims, with plain inputs
    suspects: tuple[Suspect, ...]  # without placebos; survivors first
    placebos: tuple[Suspect, ...]
    claims: tuple[ClaimLine, ...]
    gates: tuple[str, ...]
    problems: tuple[str, ...]
    figure: Figure | None
    picture: Picture

    @property
    def survivors(self) -> tuple[Suspect, ...]:
        return tuple(suspect for suspect in self.suspects if not suspect.kills)

    @property
    def alive_table(self) -> list[tuple[int, int | None, int | None]]:
        """`alive` at round numbers and at the end."""
        return [entry for entry in self.alive if entry[0] in (*ROUND, self.examples, self.alive[-1][0])]

    @property
    def idle(self) -> tuple[ClaimLine, ...]:
        """The claims that kill nothing, those without a reason first."""
        return tuple(sorted((c for c in self.claims if not c.n_kills), key=lambda c: (bool(c.reason), c.claim)))

    @property
    def n_sole(self) -> int:
        """How many wrong implementations have one killer only."""
        return sum(len(suspect.kills) == 1 for suspect in self.suspects)

    @property
    def placebo_table(self) -> tuple[tuple[str, ...], list[tuple[str, list[Suspect | None]]]]:
        """The placebos' names, and per operation the suspect of each."""
        own = {tuple(suspect.name.removeprefix(PLACEBO + ".").rsplit(".", 1)): suspect for suspect in self.placebos}
        names, operations = ({key[place]: None for key in sorted(own)} for place in (0, -1))
        return tuple(names), [(o, [own.get((name, o)) for name in names]) for o in sorted(operations)]

    @property
    def words(self) -> tuple[str, ...]:
        """Two sentences with the numbers."""
        after = ""
        if self.until_kill:
            median, most = self.until_kill
            after = f", after {median:g} examples of each claim in the median (95th percentile: {most:g})"
        first = f"The claims kill {share(self.total.n_killed, self.total.n)} wrong implementations" + (
            f" of {plural(len(self.families), 'family', 'families')} of mistakes{after}"
        )
        rejected = sum(bool(suspect.kills) for suspect in self.placebos)
        second = [f"{count(rejected)} of {plural(len(self.placebos), 'placebo')} rejected"] if self.placebos else []
        second += [f"{plural(len(self.survivors), 'wrong implementation')} left alive"]
        if not self.until_killed:
            second += [
                f"{count(self.n_sole)} noticed by one claim only",
                f"{count(len(self.idle))} of {plural(len(self.claims), 'claim')} kill no wrong implementation",
            ]
        return first + ".", _capital(listing(second)) + "."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _suspects(found: dict) -> list[Suspect]:
    kills = killers(found)
    return [
        Suspect(
            name=s["name"], family=s["family"] or NO_FAMILY, title=s["title"], source=s.get("source") or "",
            where=s["file"] + (f":{s['line']}" if s.get("line") else ""), n_claims=s["claims"],
            kills=tuple(sorted((Kill(claim, how, example) for claim, (how, example) in kills[s["name"]].items()),
                               key=lambda kill: (kill.example, kill.claim))),
        )
        for s in found["suspects"]
    ]  # fmt: skip


def _claims(found: dict, suspects: list[Suspect]) -> tuple[ClaimLine, ...]:
    """The claims, the most useful first: alone against a bug, then by kills of wrong implementations."""
    own, alone = defaultdict(list), Counter()
    for suspect in suspects:
        for kill in suspect.kills:
            own[kill.claim].append((kill.example, suspect))
        if len(suspect.kills) == 1 and suspect.family != PLACEBO:
            alone[suspect.kills[0].claim] += 1
    operations = Counter(tuple(s["operations"]) for s in found["suspects"] if s["family"] != PLACEBO)
    lines = []
    for claim in found["claims"]:
        name, asked = claim["claim"], set(claim["operations"])
        wrong = [example for example, suspect in own[name] if suspect.family != PLACEBO]
        reason = "" if wrong else "it rejects placebos only" if own[name] else claim.get("kills_nothing") or ""
        n_suspects = sum(n for replaced, n in operations.items() if asked & set(replaced))
        lines.append(
            ClaimLine(name, claim["title"], len(wrong), alone[name], min(wrong, default=None), n_suspects, reason)
        )
    return tuple(sorted(lines, key=lambda line: (-line.n_alone, -line.n_kills, line.claim)))


def _families(suspects: list[Suspect], gates: dict[str, list[str]]) -> tuple[Family, tuple[Family, ...]]:
    """All wrong implementations together, and the families, the largest first."""
    passed = {gate: set(names) for gate, names in gates.items()}

    def family(name: str, members: list[Suspect]) -> Family:
        first = [suspect.first.example for suspect in members if suspect.first]
        missed = {gate: sum(suspect.name in names for suspect in members) for gate, names in passed.items()}
        return Family(name, len(members), len(first), median_and_95th(first)[0] if first else None, missed)

    grouped = defaultdict(list)
    for suspect in suspects:
        grouped[suspect.family].append(suspect)
    order = sorted(grouped, key=lambda name: (-len(grouped[name]), name))
    return family("all", suspects), tuple(family(name, grouped[name]) for name in order)


def _plain(found: dict, wrong: list[Suspect]) -> tuple[dict[str, int | None] | None, dict | None]:
    """Examples until plain inputs show a wrong implementation, and those numbers in short."""
    given = found.get("plain")
    if not given:
        return None, None
    plain = {suspect.name: given[suspect.name] for suspect in wrong if suspect.name in given}
    seen = [example for example in plain.values() if example is not None]
    median, most = median_and_95th(seen) if seen else (None, None)
    return plain, {"n": len(plain), "n_killed": len(seen), "median": median, "most": most}


def _alive(found: dict, wrong: list[Suspect], plain: dict | None) -> tuple:
    """How many are alive after so many examples per claim, at each number where that changes and at round ones."""
    first = [suspect.first.example for suspect in wrong if suspect.first]
    by_plain = [example for example in (plain or {}).values() if example is not None]
    last = max([found["examples"], *by_plain, *([found.get("plain_examples") or 0] if plain else [])])
    return tuple(
        (n, len(wrong) - sum(k <= n for k in first) if n <= found["examples"] else None,
         len(plain) - sum(k <= n for k in by_plain) if plain else None)
        for n in sorted({*(n for n in ROUND if n < last), *first, *by_plain, found["examples"], last})
    )  # fmt: skip


def read_record(found: dict) -> Power:
    """The record of a kill matrix, arranged for the pages."""
    suspects = _suspects(found)
    wrong = [suspect for suspect in suspects if suspect.family != PLACEBO]
    first, gates = first_kills(found), found.get("gates") or {}
    total, families = _families(wrong, gates)
    plain, plain_facts = _plain(found, wrong)
    alive = _alive(found, wrong, plain)
    order = [family.name for family in families]
    wrong.sort(key=lambda s: (bool(s.kills), order.index(s.family), -len(s.kills), s.name))
    placebos = sorted((s for s in suspects if s.family == PLACEBO), key=lambda s: (len(s.kills), s.name))
    examples = [first[suspect.name] for suspect in wrong if suspect.name in first]
    return Power(
        examples=found["examples"], seed=found["seed"], seconds=found.get("seconds"),
        until_killed=found["until_killed"], total=total, families=families,
        until_kill=median_and_95th(examples) if examples else None, plain=plain_facts, alive=alive,
        suspects=tuple(wrong), placebos=tuple(placebos), claims=_claims(found, suspects), gates=tuple(gates),
        problems=tuple(found.get("problems") or ()), figure=survivors_plot(alive, total.n),
        picture=picture(found, order + [PLACEBO]),
    )  # fmt: skip


def power(path: Path | None) -> dict:
    """``found`` (None where the file is not there), the ``command`` that makes it, and why it could not be read."""
    found, reason = None, ""
    if path is not None and path.is_file():
        try:
            found = read_record(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{path.name} cannot be read: {type(error).__name__}: {error}"
    by_claim = {line.claim: line for line in found.claims} if found else {}
    return {"found": found, "command": COMMAND, "reason": reason, "by_claim": by_claim}
