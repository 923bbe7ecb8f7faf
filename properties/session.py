"""A run of pytest: which implementations, which options, and the events as they come.

The controlling process owns the events file.  A worker (pytest-xdist) writes only into the folder of the run: its case
file, and the first worker what it collected, which the controlling process takes over.
"""

from __future__ import annotations

import json
import os
import pickle
import platform
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import cells, evidence
from .cells import Column
from .claims import Claim
from .power import known
from .power.cures import counted
from .power.diagnosis import families_and_bugs, verdicts_seen
from .subjects import Problem, Subject, load, share_of

PROFILES = {"quick": 30, "thorough": 1000}
NOTES = "notes"                   # --impl notes: the columns that need no implementation
MOST_DEATHS = 3                   # of one implementation in one operation; its other cells there are then not run


@dataclass(frozen=True)
class Places:
    """Where things are: the implementations by name, the ledger of the notes, the folder for reports, and the file of
    known bugs (if there is one) for the last words on what is red."""

    implementations: dict[str, Path]
    ledger: Path
    reports: Path
    known: Path | None = None


class Session:
    """What one pytest process knows: subjects, problems, options, and (in the controlling process) the events file."""

    def __init__(self, config, places: Places):
        self.config, self.places = config, places
        self.worker = getattr(config, "workerinput", None)
        self.problems: list[Problem] = []
        self.fatal: list[str] = []                               # kernel files that must not be imported here
        self.begun = False
        self.reported: set[str] = set()
        self.counts: dict[str, int] = {}
        self.red: dict[str, list[dict]] = {}                     # red checks by implementation, for the last words
        self.judged: dict[str, list[tuple[str, str]]] = {}       # (claim, verdict) by implementation
        self.ablated: dict[str, list[tuple[list, list]]] = {}    # what cures its failing calls, and what does not
        self.likely: dict[str, str] = {}                         # what a claim's failure means
        self.operations: dict[str, list[str]] = {}               # by claim
        given = config.getoption("run_seed")
        self.seed = self.worker["attest_seed"] if self.worker else random.SystemRandom().randrange(2**32) \
            if given is None else given
        self.name = self.worker["attest_run"] if self.worker else evidence.now()[:23].replace(":", "")
        self.reports = Path(config.getoption("reports") or places.reports)
        self.folder = self.reports / "runs" / self.name
        self.collected = self.folder / "collected.jsonl"
        self.limit = float(config.getini("timeout") or 0) if "timeout" in config._parser._inidict else 0.0
        override = getattr(config.option, "timeout", None)
        self.limit = float(override) if override is not None else self.limit
        self.ledger = {row["row"]: row for row in map(json.loads, places.ledger.read_text().splitlines())} \
            if places.ledger.is_file() else {}
        self.subjects = self._subjects()
        self.dtypes = tuple(config.getoption("dtype")) or None
        self.examples = config.getoption("examples") or PROFILES[config.getoption("profile")]
        self._case: evidence.CaseFile | None = None
        self._events = None

    # -- implementations -------------------------------------------------------------------------------------------
    def _subjects(self) -> list[Subject]:
        found: list[Subject] = []
        for wanted in self.config.getoption("impl") or list(self.places.implementations):
            if wanted == NOTES:
                continue
            name, _, variant = wanted.partition(".")
            path = self.places.implementations.get(name)
            if path is None:
                path, variant = Path(wanted), ""
                name = path.stem
                if not path.exists():
                    self.problems.append(Problem(wanted, "there is no such file, and no implementation of that name; "
                                                 f"known are {', '.join(self.places.implementations)}"))
                    continue
                if self.worker and wanted in self.worker["attest_fatal"]:
                    continue
                fatal = None if self.worker else _probe(path)
                if fatal:
                    self.problems.append(fatal)
                    self.fatal.append(wanted)
                    continue
            subjects, problems = load(path, name=name)
            self.problems += problems
            chosen = [s for s in subjects if not variant or s.name == wanted]
            if variant and not chosen:
                self.problems.append(Problem(str(path), f"has no variant '{variant}'; it has "
                                             + ", ".join(s.name for s in subjects)))
            found += chosen
        return found

    def wrong_with(self, claim: Claim) -> Problem | None:
        """Why a claim can not be run; the problem is remembered."""
        missing = [row for row in claim.rows if self.ledger and row not in self.ledger]
        wrong = claim.problem or missing and f"the claim '{claim.name}' cites {', '.join(missing)}, which the ledger " \
                                             "does not have"
        if not wrong:
            return None
        self.problems.append(Problem(claim.file, wrong, claim.line, f"{claim.file}::{claim.name}"))
        return self.problems[-1]

    def columns(self, claim: Claim) -> list[Column]:
        """The columns of a claim that this run is asked for."""
        chosen = self.config.getoption("impl")
        return [column for column in cells.columns(claim, self.subjects, self.dtypes)
                if column.subject or not chosen or NOTES in chosen]

    # -- a worker's side -------------------------------------------------------------------------------------------
    @property
    def case(self) -> evidence.CaseFile:
        if self._case is None:
            worker = self.worker["workerid"] if self.worker else "main"
            self._case = evidence.CaseFile(self.folder / "cases" / f"{worker}.case")
        return self._case

    def deaths(self, claim: Claim, column: Column) -> str:
        """Why a cell should not be run: its implementation has killed its process too often in an operation."""
        if column.subject is None:
            return ""
        for operation in claim.operations:
            died = len(list((self.folder / "deaths").glob(f"{column.subject.name}.{operation}.*")))
            if died >= MOST_DEATHS:
                return f"not run: {column.subject.name} has crashed {died} times in {operation}"
        return ""

    def budget(self, claim: Claim, column: Column) -> cells.Budget:
        """Examples, seed and the sibling cells' smallest failing example."""
        examples = share_of(column.subject, self.examples)
        if column.subject is None:
            return cells.Budget(examples, self.seed)
        path = self.folder / "shrunk" / f"{Path(claim.file).stem}.{claim.name}.{column.subject.name}.pickle"

        def remembered() -> dict | None:
            return pickle.loads(path.read_bytes()) if path.is_file() else None

        def remember(drawn: dict) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}")
            try:
                partial.write_bytes(pickle.dumps(drawn))
            except (pickle.PicklingError, AttributeError, TypeError):
                return                                           # a claim's own objects: the sibling searches anew
            partial.replace(path)

        return cells.Budget(examples, self.seed, remembered, remember)

    # -- the controlling process -----------------------------------------------------------------------------------
    def emit(self, record: dict) -> None:
        """Append one event to the events file of this run (the first worker: to the file of what it collected)."""
        if self.worker and self.worker["workerid"] != "gw0":
            return
        if record["event"] == "claim":
            self.likely[record["claim"]] = record["if_fails"]
            self.operations[record["claim"]] = record["operations"]
        if self._events is None:
            path = self.collected if self.worker else self.reports / "events" / f"{self.name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._events = path.open("a", encoding="utf-8")
        self._events.write(evidence.line({"run": self.name, "time": evidence.now(), **record}))
        self._events.flush()

    def begin(self, planned: dict[str, Claim]) -> None:
        """The first events: the run, the ledger, the claims, the implementations and the plan (claims by cell id)."""
        self.begun = True
        if not planned and not self.problems:
            return
        self.emit({"event": "run", "seed": self.seed, "examples": self.examples, **_machine(),
                   "arguments": list(map(str, self.config.invocation_params.args))})
        self.emit({"event": "ledger", "rows": list(self.ledger.values())})
        for subject in self.subjects:
            self.emit(evidence.implementation_event(subject))
        for claim in dict.fromkeys(planned.values()):
            self.emit(evidence.claim_event(claim))
        self.emit({"event": "plan", "cells": list(planned)})
        for problem in self.problems:
            self.problem(problem)

    def problem(self, problem: Problem) -> None:
        """Say once that a file is wrong."""
        if str(problem) not in self.reported:
            self.reported.add(str(problem))
            self.emit({"event": "problem", "file": problem.file, "line": problem.line, "claim": problem.claim,
                       "message": problem.message})

    def finished(self, record: dict) -> None:
        """Take in a check."""
        if record["verdict"] in cells.RED:
            self.red.setdefault(record["implementation"] or record["leg"], []).append(record)
        if record["implementation"]:
            self.judged.setdefault(record["implementation"], []).append((record["claim"], record["verdict"]))
            if record["cured_by"] or record["not_cured_by"]:
                self.ablated.setdefault(record["implementation"], []).append(
                    (record["cured_by"], record["not_cured_by"]))
        self.counts[record["verdict"]] = self.counts.get(record["verdict"], 0) + 1
        self.emit(record)

    def looks_like(self, name: str) -> str:
        """What the failures of an implementation look like: the sort of mistake and the nearest known bug, if that
        explains half of them."""
        if self.places.known is None or not self.places.known.is_file():
            return ""
        try:
            bugs = known.read(self.places.known)
        except ValueError as error:
            return f"nothing that is known: {error}"
        families, ranked = families_and_bugs(
            verdicts_seen(self.judged.get(name, ())), bugs, examples=self.examples,
            cures=counted(self.ablated.get(name, ())), operations=self.operations)
        return next((f"{families[0][0]}; nearest known bug: {like.known.title} ({like.known.family})"
                     for like in ranked[:1] if like.explained >= 0.5), "")

    def take_over(self) -> None:
        """Copy what the first worker collected into the events file, and its problems into the summary."""
        if self.begun or not self.collected.is_file():
            return
        self.begun = True
        for record in map(json.loads, self.collected.read_text(encoding="utf-8").splitlines()):
            if record["event"] == "problem":
                problem = Problem(record["file"], record["message"], record["line"], record["claim"])
                if str(problem) not in map(str, self.problems):
                    self.problems.append(problem)
                self.problem(problem)
            else:
                self.emit(record)

    def died(self, id: str, worker: str) -> dict | None:
        """A worker's process ended while it ran a cell: the record of it."""
        found = evidence.read_case(self.folder / "cases" / f"{worker}.case")
        if found is None or found[0].id != id:
            return None
        cell, case = found
        record = evidence.died_event(cell, case)
        if cell.implementation is not None:
            deaths = self.folder / "deaths"
            deaths.mkdir(parents=True, exist_ok=True)
            for operation in [record["operation"]] if record["operation"] else cell.operations:
                (deaths / f"{cell.implementation}.{operation}.{worker}").touch()
        return record


def _probe(path: Path) -> Problem | None:
    """Import a kernel file in a child process first: one that kills or hangs it must not take the run along."""
    code = ("import sys; from pathlib import Path; from properties.subjects import load; "
            "load(Path(sys.argv[1]), name='probe')")
    try:
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return Problem(str(path), "does not finish importing within 120 seconds")
    if done.returncode:
        return Problem(str(path), f"ends the process while it is imported (exit status {done.returncode})")
    return None


def _machine() -> dict:
    import torch
    try:
        from importlib.metadata import version
        triton = version("triton")
    except Exception:                                            # not installed
        triton = None
    cuda = torch.cuda.is_available()
    return {"python": platform.python_version(), "torch": torch.__version__, "triton": triton,
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
