"""One claim on many suspects: every example is drawn once, and judged on each suspect that the claim has not killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace

import hypothesis
from hypothesis import Phase
from hypothesis.errors import Unsatisfiable, UnsatisfiedAssumption

from ..calls import Implementation, _Broken
from ..claims import Claim
from ..numerics import evaluate
from ..search import draw, holds, judge
from ..subjects import Subject, share_of
from ..trial import LawFails, Raised, Trial, Unfaithful, activate
from .suspects import Suspect

HOW = {LawFails: "law fails", _Broken: "unfaithful", Unfaithful: "unfaithful", Raised: "crashed"}
STUMBLES = "error"          # the claim itself raises something else


@dataclass(frozen=True)
class Kill:
    """A claim noticed that a suspect is wrong: in which dtype, how, and with which example."""

    claim: str
    suspect: str
    dtype: str
    how: str
    example: int
    message: str


class _AllDead(Exception):
    """Nobody is left to be judged: no more examples are needed."""


def judged_by(claim: Claim, suspect: Suspect) -> bool:
    """Whether the claim has something to say of what is replaced in the suspect."""
    return (claim.takes_implementation and claim.kind != "refuted" and bool(suspect.replaced & set(claim.operations)))


def kills_of(claim: Claim, suspects: Iterable[Suspect], *, examples: int, seed: int, once: bool = False,
             excluded: Container[tuple[str, str]] = (),
             watch: Callable[[str, str, int], None] = lambda suspect, dtype, example: None,
             on_kill: Callable[[str, str, dict], None] = lambda suspect, dtype, drawn: None) -> list[Kill]:
    """Who is killed by a claim, with the first example that does it, per suspect and dtype.

    `once`: a suspect that is killed in one dtype is not judged in the others; pairs of suspect and dtype that are
    `excluded` are not judged at all. `watch(suspect, dtype, example)`
    is called before each judgement, and `on_kill(suspect, dtype, drawn)` with every example that kills.
    """
    name, kills, number = f"{claim.file}::{claim.name}", [], 0
    remembered: dict = {}

    def exact(operation, arguments, contract, conventions):
        key = operation, contract, tuple(sorted(conventions.items())), tuple(map(_key, sorted(arguments.items())))
        if key not in remembered:
            remembered[key] = evaluate(operation, arguments, contract, conventions)
        return remembered[key]

    living = {}
    for suspect in suspects:
        for dtype in suspect.subject.dtypes:
            if (claim.dtypes is None or dtype in claim.dtypes) and (suspect.name, dtype) not in excluded:
                trial = Trial(claim=name, dtype=dtype)
                living[suspect.name, dtype] = trial, Implementation(suspect.subject, dtype, trial, exact=exact)

    def example(**drawn):
        nonlocal number
        if claim.needs and not holds(claim.needs, drawn):
            hypothesis.reject()
        number += 1
        remembered.clear()
        for (suspect, dtype), (trial, impl) in list(living.items()):
            if (suspect, dtype) not in living:
                continue
            if number > share_of(impl.subject, examples):
                del living[suspect, dtype]
                continue
            watch(suspect, dtype, number)
            try:
                with activate(trial):
                    judge(claim, trial, impl, drawn)
            except UnsatisfiedAssumption:
                continue
            except Exception as error:
                how = HOW.get(type(error), STUMBLES)
                kills.append(Kill(name, suspect, dtype, how, number, str(error)[:300]))
                on_kill(suspect, dtype, drawn)
                for other in [key for key in living if key == (suspect, dtype) or (once and key[0] == suspect)]:
                    del living[other]
        if not living:
            raise _AllDead

    if living:
        with activate(Trial(claim=name, dtype="float64")):
            try:
                draw(claim, example, examples=examples, seed=str(seed), phases=(Phase.explicit, Phase.generate))
            except (_AllDead, Unsatisfiable):
                pass
    return kills


def first_failing(claim: Claim, subject: Subject, dtype: str, *, examples: int, seed: int, seconds: float
                  ) -> dict | None:
    """The first example, as it was drawn, with which a claim fails on an implementation; None if none is found in
    time."""
    found, end = [], time.monotonic() + seconds
    suspect = Suspect(replace(subject, dtypes=(dtype,)), frozenset(subject.operations), "", "", "", None)

    def watch(*_) -> None:
        if time.monotonic() > end:
            raise TimeoutError

    try:
        kills_of(claim, [suspect], examples=examples, seed=seed, watch=watch,
                 on_kill=lambda suspect, dtype, drawn: found.append(drawn))
    except TimeoutError:
        pass
    return found[0] if found else None


def _key(argument):
    name, value = argument
    return (name, value.shape, value.dtype.str, value.tobytes()) if hasattr(value, "tobytes") else (name, repr(value))
