"""A trial: one claim on one implementation and dtype, example after example.

It keeps what happened in the current example (its calls and relations), what happened over all of them (budget used,
failures, what was unsupported or excused), and the last failing example of each sort, which, after Hypothesis has
shrunk and replayed it, is the smallest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np


class LawFails(AssertionError):
    """The relation that the claim states does not hold between what came back."""


class Unfaithful(AssertionError):
    """A call's result is outside its error budget, or of the wrong type, shape or memory."""


class Raised(AssertionError):
    """The implementation raised an exception on a legal input."""


class Unsupported(Exception):
    """The implementation does not offer what the example asks for."""


@dataclass(frozen=True)
class Quantity:
    """One judged quantity of a call: used = |got - expected| / budget, elementwise (inf where the class is wrong)."""

    name: str
    got: np.ndarray
    expected: np.ndarray
    budget: np.ndarray
    used: float
    at: tuple[int, ...]
    kind: np.ndarray | None = None


@dataclass(frozen=True)
class Call:
    """One launch of the implementation: what went in, what came out, and how it is judged."""

    operation: str
    dtype: str
    given: dict                      # arguments as the implementation received them (placed tensors, numbers)
    quantities: tuple[Quantity, ...] = ()
    fault: str = ""                  # a broken contract: wrong shape, dtype, a view of an input, inputs overwritten
    excused: object = None           # the ExpectedFailure that excuses this example

    @property
    def used(self) -> float:
        return float("inf") if self.fault else max((q.used for q in self.quantities), default=0.0)

    def wrong(self) -> str:
        """Why this call is unfaithful, or an empty string."""
        if self.fault:
            return f"{self.operation} {self.fault}"
        for q in self.quantities:
            if q.used > 1:
                return f"{self.operation}: " + off_by(q.name, q.got, q.expected, q.budget, q.at)
        return ""


def off_by(name: str, got, expected, budget, at: tuple[int, ...]) -> str:
    """`p is off by 3.1e-3 at (0, 16), budget 4.9e-4: 633 %`, for people."""
    g, e, b = float(got[at]), float(expected[at]), float(budget[at])
    where = f" at {tuple(int(i) for i in at)}" if at else ""
    if not (np.isfinite(g) and np.isfinite(e)):
        return f"{name} is {g:.6g}{where}, expected {e:.6g}"
    return f"{name} is {g:.6g}{where}, expected {e:.6g}: off by {abs(g - e):.2g}, {of_budget(abs(g - e), b)}"


def of_budget(gap: float, budget: float) -> str:
    """`budget 4.9e-4: 633 %`; in multiples where a percentage would be absurd."""
    if budget == 0:
        return "where it must be exact"
    share = gap / budget
    return f"budget {budget:.2g}: " + (f"{100 * share:.0f} %" if share < 100 else f"{share:.2g} times that")


@dataclass(frozen=True)
class Relation:
    """What `agree`, `exactly` or `at_most` compared: for the counterexample and for tying proofs."""

    text: str
    left: object
    right: object
    at: tuple[int, ...] = ()
    gap: float = 0.0
    allowed: float = 0.0
    sign: str = "="


@dataclass
class Failure:
    """A failing example, the last of its sort."""

    message: str
    number: int                      # which example it was
    drawn: dict
    calls: list[Call]
    relation: Relation | None


@dataclass
class Trial:
    """The state of one cell while its examples run.  `judge` tells how relations are judged: "exact" or "floats"."""

    claim: str
    dtype: str
    judge: str = "floats"
    drawn: dict = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)
    examples: int = 0
    unsupported: int = 0
    excused: int = 0
    discarded: int = 0
    excuse: object = None
    refusing: bool = False           # the next call is to be refused: what it returns is not judged
    inside: float = 0.0
    used: float = 0.0
    used_at: dict = field(default_factory=dict)
    profile: dict = field(default_factory=dict)
    reach: Counter = field(default_factory=Counter)
    failures: dict[type, Failure] = field(default_factory=dict)
    first_failure: dict[type, int] = field(default_factory=dict)
    missing: Counter = field(default_factory=Counter)
    costs: list[dict] = field(default_factory=list)

    def begin(self, drawn: dict) -> None:
        self.drawn, self.calls, self.relations = drawn, [], []
        self.labels.clear()

    def cost(self, point: dict) -> None:
        """Remember a counted cost for the plot, once."""
        if point not in self.costs:
            self.costs.append(point)

    def failed(self, error: BaseException) -> None:
        """Remember the current example as the last failing one of its sort."""
        kind = type(error)
        self.first_failure.setdefault(kind, self.examples + 1)
        self.failures[kind] = Failure(str(error), self.examples + 1, dict(self.drawn), list(self.calls),
                                      self.relations[-1] if self.relations else None)

    def passed(self) -> float:
        """Count the current example; returns the largest share of a budget that it used."""
        self.examples += 1
        self.reach.update(self.labels)
        worst = 0.0
        for call in self.calls:
            used = call.used
            if not np.isfinite(used):
                continue
            worst = max(worst, used)
            sizes = sizes_of(call.given)
            for axis, size in sizes.items():
                column = self.profile.setdefault(axis, {})
                column[size] = max(column.get(size, 0.0), used)
            if used > self.used:
                self.used, self.used_at = used, sizes
        return worst


def sizes_of(given: dict) -> dict[str, float]:
    """The length, head dim and magnitude (largest |input|, rounded up to a power of two) of a call."""
    sizes: dict[str, float] = {}
    arrays = [a for a in given.values() if getattr(a, "ndim", 0) and a.dtype.kind == "f"]
    if "k" in given:
        sizes["length"], sizes["head_dim"] = given["k"].shape[-2], given["k"].shape[-1]
    elif arrays:
        sizes["length"] = arrays[0].shape[-1]
    peak = max((float(np.abs(a).max()) for a in arrays if a.size), default=0.0)
    if np.isfinite(peak) and peak > 0:
        sizes["magnitude"] = 2.0 ** np.ceil(np.log2(peak))
    return sizes


_current: list[Trial] = []


def current() -> Trial:
    """The trial that is running; a claim's relations and strategies report to it."""
    if not _current:
        raise RuntimeError("agree, exactly and the like are called while a claim runs, not outside of one")
    return _current[-1]


def running() -> Trial | None:
    """The trial that is running, or None."""
    return _current[-1] if _current else None


class activate:
    """with activate(trial): relations and strategies report to it."""

    def __init__(self, trial: Trial):
        self.trial = trial

    def __enter__(self) -> Trial:
        _current.append(self.trial)
        return self.trial

    def __exit__(self, *_):
        _current.pop()
