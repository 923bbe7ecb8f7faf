"""The known bugs under ablation: a few failing calls of each are taken apart (see `ablation`), in several processes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial

from ..claims import Claim
from .ablation import Ablation, ablate
from .kills import kills_of
from .matrix import Places, run
from .reading import PLACEBO
from .suspects import Suspect

CLAIMS = 10                 # that kill a suspect and whose first failing example is taken apart
_DTYPES = ("float32", "float16", "bfloat16", "float64")         # the first of these in which it is killed


@dataclass(frozen=True)
class ByAblation:
    """A claim as a judge that takes apart what it kills; `dtypes`: of the suspects chosen for it. See `matrix.run`."""

    claim: Claim
    dtypes: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"{self.claim.file}::{self.claim.name}"

    def judges(self, suspect: Suspect) -> bool:
        return suspect.name in self.dtypes

    def kills_of(self, suspects: list[Suspect], *, excluded, **options) -> list[Ablation]:
        found, by_name = [], {s.name: s for s in suspects}
        here = [replace(s, subject=replace(s.subject, dtypes=(self.dtypes[s.name],))) for s in suspects]

        def take_apart(suspect: str, dtype: str, drawn: dict) -> None:
            found.append(ablate(self.claim, by_name[suspect].subject, dtype, drawn))

        kills_of(self.claim, here, excluded=excluded, on_kill=take_apart, **options)
        return found


def _judges(places: Places, chosen: Mapping[str, Mapping[str, str]]) -> list[ByAblation]:
    return [ByAblation(claim, chosen.get(f"{claim.file}::{claim.name}", {})) for claim in places.claims()]


def chosen_claims(found: dict) -> dict[str, dict[str, str]]:
    """Per claim, the suspects that are taken apart by it and in which dtype: `CLAIMS` of those that kill a suspect, in
    an order that depends on their names alone."""
    wrong, kills = {s["name"] for s in found["suspects"] if s["family"] != PLACEBO}, defaultdict(set)
    for kill in found["kills"]:
        if kill["suspect"] in wrong:
            kills[kill["suspect"], kill["dtype"]].add(kill["claim"])
    chosen = defaultdict(dict)
    for suspect in sorted(wrong):
        dtype = next((d for d in _DTYPES if (suspect, d) in kills), None)
        names = sorted(kills.get((suspect, dtype), ()), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        for claim in names[:CLAIMS]:
            chosen[claim][suspect] = dtype
    return dict(chosen)


def ablations(places: Places, found: dict, *, jobs: int, progress: Callable[[int, int], None]) -> list[dict]:
    """Of a recorded kill matrix, what cures the failing calls of every suspect."""
    judged = run(places, examples=found["examples"], seed=found["seed"], jobs=jobs, progress=progress,
                 judges=partial(_judges, chosen=chosen_claims(found)))
    return [asdict(one) for one in judged.kills if isinstance(one, Ablation)]
