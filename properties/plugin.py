"""The pytest plug-in: claims as items, options, events as they come, crashes as verdicts.

`conftest.py` hands over where claims, implementations and the ledger are (`Places`); nothing here knows their names.
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

import pytest

from . import cells, evidence
from .claims import Claim
from .cells import Column
from .subjects import DTYPES, Problem, Subject, load

PROFILES = {"quick": 60, "thorough": 1000}
INTERPRETED_SHARE = 4             # an interpreted kernel is slow: it gets a quarter of the examples
NOTES = "notes"                   # --impl notes: the columns that need no implementation
MOST_DEATHS = 3                   # of one implementation in one operation; its other cells there are then not run


@dataclass(frozen=True)
class Places:
    """Where things are: the implementations by name, the ledger of the notes, and the folder for reports."""

    implementations: dict[str, Path]
    ledger: Path
    reports: Path


def add_options(parser) -> None:
    """Attest's command-line options."""
    group = parser.getgroup("attest", "claims about attention")
    group.addoption("--impl", action="append", default=[], metavar="NAME|FILE",
                    help="only this implementation, by name (naive, sdpa, sdpa.flash ...) or a kernel file; 'notes' for "
                         "the columns without one (proof, exact, torch); repeatable; default: all")
    group.addoption("--dtype", action="append", default=[], choices=DTYPES, help="only this dtype; repeatable")
    group.addoption("--examples", type=int, default=None, help="examples per cell (default: the profile's)")
    group.addoption("--profile", choices=sorted(PROFILES), default="quick", help="how much to search")
    group.addoption("--spec-dir", action="append", default=[], metavar="DIR",
                    help="a folder of your own claims; instead of spec/ and tests/ unless those are named too")
    group.addoption("--run-seed", type=int, default=None, help="repeat a run: its seed is printed and in the report")
    group.addoption("--reports", default=None, metavar="DIR", help="where events and reports go (default: reports/)")


class Session:
    """What one pytest process knows: subjects, problems, options, and (in the controlling process) the events file."""

    def __init__(self, config, places: Places):
        self.config, self.places = config, places
        self.worker = getattr(config, "workerinput", None)
        self.problems: list[Problem] = []
        self.fatal: list[str] = []                               # kernel files that must not be imported here
        self.claims: dict[str, Claim] = {}
        self.begun = False
        self.reported: set[str] = set()
        self.counts: dict[str, int] = {}
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

    # -- items -----------------------------------------------------------------------------------------------------
    def items(self, collector, claim: Claim) -> list:
        """The items of a claim, or one that explains what is wrong with it."""
        wrong = claim.problem or self._unknown_rows(claim)
        if wrong:
            self.problems.append(Problem(claim.file, wrong, claim.line, f"{claim.file}::{claim.name}"))
            return [BrokenItem.from_parent(collector, name=f"{claim.name}[problem]", problem=self.problems[-1])]
        self.claims[f"{claim.file}::{claim.name}"] = claim
        chosen = self.config.getoption("impl")
        return [ClaimItem.from_parent(collector, name=f"{claim.name}[{column.label}]", claim=claim, column=column,
                                      session_=self) for column in cells.columns(claim, self.subjects, self.dtypes)
                if column.subject or not chosen or NOTES in chosen]

    def _unknown_rows(self, claim: Claim) -> str:
        missing = [row for row in claim.rows if self.ledger and row not in self.ledger]
        return f"the claim '{claim.name}' cites {', '.join(missing)}, which the ledger does not have" if missing else ""

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
        examples = self.examples
        if column.subject is not None and column.subject.note == "interpreter":
            examples = max(examples // INTERPRETED_SHARE, 1)
        if column.subject is None:
            return cells.Budget(examples, self.seed)
        path = self.folder / "shrunk" / f"{claim.name}.{column.subject.name}.pickle"

        def remembered() -> dict | None:
            return pickle.loads(path.read_bytes()) if path.is_file() else None

        def remember(drawn: dict) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_bytes(pickle.dumps(drawn))
            partial.replace(path)

        return cells.Budget(examples, self.seed, remembered, remember)

    # -- the controlling process -----------------------------------------------------------------------------------
    def emit(self, record: dict) -> None:
        """Append one event to the events file of this run (the first worker: to the file of what it collected)."""
        if self.worker and self.worker["workerid"] != "gw0":
            return
        if self._events is None:
            path = self.collected if self.worker else self.reports / "events" / f"{self.name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._events = path.open("a", encoding="utf-8")
        self._events.write(evidence.line({"run": self.name, "time": evidence.now(), **record}))
        self._events.flush()

    def begin(self, items: list) -> None:
        """The first events: the run, the ledger, the claims, the implementations and the plan."""
        planned = [item for item in items if isinstance(item, ClaimItem)]
        self.begun = True
        if not planned and not self.problems:
            return
        self.emit({"event": "run", "seed": self.seed, "examples": self.examples, "arguments": list(self.config.invocation_params.args),
                   **_machine()})
        self.emit({"event": "ledger", "rows": list(self.ledger.values())})
        for subject in self.subjects:
            self.emit({"event": "implementation", "implementation": subject.name, "file": subject.file,
                       "operations": sorted(subject.operations), "dtypes": list(subject.dtypes), "device": subject.device,
                       "note": subject.note, "rounding": str(subject.rounding), "conventions": dict(subject.conventions),
                       "title": subject.title, "digest": subject.digest})
        for name, claim in {f"{i.claim.file}::{i.claim.name}": i.claim for i in planned}.items():
            proof = claim.proved_by
            self.emit({"event": "claim", "claim": name, "file": claim.file, "line": claim.line, "title": claim.title,
                       "statement": claim.statement, "formula": claim.formula, "rows": list(claim.rows),
                       "kind": claim.kind, "if_fails": claim.if_fails, "corrects": [_full(claim, c) for c in claim.corrects],
                       "needs": claim.needs and claim.needs.__name__, "needs_text": claim.needs and (claim.needs.__doc__ or ""),
                       "operations": list(claim.operations), "has_proof": proof is not None,
                       "proof_source": proof and proof.source, "untied": proof and proof.untied,
                       "source": claim.source, "digest": claim.digest})
        self.emit({"event": "plan", "cells": [item.nodeid for item in planned]})
        for problem in self.problems:
            self.problem(problem)

    def problem(self, problem: Problem) -> None:
        """Say once that a file is wrong."""
        if str(problem) not in self.reported:
            self.reported.add(str(problem))
            self.emit({"event": "problem", "file": problem.file, "line": problem.line, "claim": problem.claim,
                       "message": problem.message})

    def finished(self, record: dict) -> None:
        self.counts[record["verdict"]] = self.counts.get(record["verdict"], 0) + 1
        self.emit(record)

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


class ClaimItem(pytest.Item):
    """One cell: a claim in a column."""

    def __init__(self, *, claim: Claim, column: Column, session_: Session, **kwargs):
        super().__init__(**kwargs)
        self.claim, self.column, self.session_ = claim, column, session_
        self.record: dict | None = None

    def runtest(self) -> None:
        session, claim, column = self.session_, self.claim, self.column
        cell = evidence.cell_of(self.nodeid, claim, column)
        why = session.deaths(claim, column)
        if why:
            outcome = cells.Outcome("not run", cells.Trial(claim.name, column.dtype or ""), message=why)
        elif column.leg == "proof":
            from .proof import prove
            outcome = prove(claim, session.budget(claim, column))
        else:
            session.case.enter(cell, limit=session.limit or 1e9)
            outcome = cells.run(claim, column, session.budget(claim, column), record=session.case.launch)
            session.case.leave()
        self.record = evidence.check_event(cell, outcome)
        if outcome.verdict in cells.RED:
            raise Red(outcome)
        if outcome.verdict in ("unsupported", "not run"):
            pytest.skip(f"{outcome.verdict}: {outcome.message}")

    def repr_failure(self, excinfo) -> str:
        if not isinstance(excinfo.value, Red):
            return super().repr_failure(excinfo)
        outcome, claim = excinfo.value.outcome, self.claim
        lines = [f"{self.nodeid}", f"  claim:    {claim.title}  ({claim.file}:{claim.line})",
                 f"  verdict:  {outcome.verdict}: {outcome.message}"]
        if outcome.note:
            lines.append(f"            {outcome.note}")
        if claim.if_fails:
            lines.append(f"  likely:   {claim.if_fails}")
        if outcome.failure is not None:
            lines += [f"  {name:9} {_short(value)}" for name, value in outcome.failure.drawn.items()]
            lines.append("  script:   in the report")
        return "\n".join(lines)

    def reportinfo(self):
        return self.claim.file, self.claim.line - 1, self.nodeid


class BrokenItem(pytest.Item):
    """A claim that cannot be run: it fails with the reason."""

    def __init__(self, *, problem: Problem, **kwargs):
        super().__init__(**kwargs)
        self.problem = problem

    def runtest(self) -> None:
        raise BrokenClaim(str(self.problem))

    def repr_failure(self, excinfo) -> str:
        return str(self.problem)


class Red(Exception):
    """A cell's verdict is red."""

    def __init__(self, outcome):
        self.outcome = outcome
        super().__init__(f"{outcome.verdict}: {outcome.message}")


class BrokenClaim(Exception):
    """A claim is wrong in itself."""


class Plugin:
    """The hooks.  Registered by `register` from conftest.py."""

    def __init__(self, session: Session):
        self.session = session

    def pytest_collect_file(self, file_path, parent):
        folders = [Path(d).resolve() for d in self.session.config.getoption("spec_dir")]
        if file_path.suffix == ".py" and any(file_path.resolve().is_relative_to(d) for d in folders) \
                and not parent.session.isinitpath(file_path):
            return pytest.Module.from_parent(parent, path=file_path)
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(self, collector, name, obj):
        if not isinstance(obj, Claim):
            return None
        path = Path(collector.path)
        if Path(obj.file).resolve() != path.resolve() or path.name.startswith("test_"):
            return []                                            # collected where it stands; a test judges its own
        return self.session.items(collector, obj)

    def pytest_collectreport(self, report):
        if report.failed and report.nodeid.endswith(".py"):
            self.session.problems.append(_collection_problem(report))

    def pytest_collection_finish(self, session):
        if not session.config.option.collectonly:
            self.session.begin(session.items)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = (yield).get_result()
        if isinstance(item, ClaimItem) and call.when == "call":
            if item.record is None and call.excinfo is not None:
                trial = cells.Trial(item.claim.name, item.column.dtype or "")
                message = f"{call.excinfo.typename}: {call.excinfo.value}".splitlines()[0]
                item.record = evidence.check_event(evidence.cell_of(item.nodeid, item.claim, item.column),
                                                   cells.Outcome("error", trial, message=message))
            if item.record is not None:
                report.attest = evidence.line(item.record)

    def pytest_runtest_logreport(self, report):
        record = getattr(report, "attest", None)
        if record is not None and not self.session.worker:
            self.session.finished(json.loads(record))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node):
        node.workerinput.update(attest_seed=self.session.seed, attest_run=self.session.name,
                                attest_fatal=self.session.fatal)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node, ids):
        self.session.take_over()

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem, report, sched):
        record = self.session.died(crashitem, report.node.gateway.id)
        if record is not None:
            report.attest = evidence.line(record)

    def pytest_sessionfinish(self, session, exitstatus):
        for problem in self.session.problems:
            self.session.problem(problem)
        if not self.session.worker and self.session.problems and exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        session = self.session
        if session.problems:
            terminalreporter.section("problems")
            for problem in dict.fromkeys(map(str, session.problems)):
                terminalreporter.write_line(problem)
        if session.counts:
            total = sum(session.counts.values())
            terminalreporter.section("claims")
            terminalreporter.write_line(f"{total} cells: " + ", ".join(f"{n} {v}" for v, n in sorted(session.counts.items())))
            terminalreporter.write_line(f"seed {session.seed} (repeat with --run-seed {session.seed}); "
                                        f"events in {session.reports / 'events' / (session.name + '.jsonl')}")


def register(config, places: Places) -> None:
    """Register the plug-in for this run; called from pytest_configure."""
    if config.option.help or config.option.version:
        return
    for folder in config.getoption("spec_dir"):
        if not Path(folder).is_dir():
            raise pytest.UsageError(f"--spec-dir {folder}: there is no such folder")
    if config.getoption("spec_dir"):
        named = config.args if config.args_source is pytest.Config.ArgsSource.ARGS else []
        config.args[:] = [*named, *config.getoption("spec_dir")]
    config.pluginmanager.register(Plugin(Session(config, places)), "attest")


def _probe(path: Path) -> Problem | None:
    """Import a kernel file in a child process first: one that kills or hangs its process must not take the run along."""
    code = ("import sys; from pathlib import Path; from properties.subjects import load; "
            "load(Path(sys.argv[1]), name='probe')")
    try:
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return Problem(str(path), "does not finish importing within 120 seconds")
    if done.returncode:
        return Problem(str(path), f"ends the process while it is imported (exit status {done.returncode})")
    return None


def _collection_problem(report) -> Problem:
    text = str(getattr(report, "longreprtext", "") or report.longrepr)
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("E ")]
    message = (lines[-1][2:].strip() if lines else text.strip().splitlines()[-1])
    number = next((int(part.rsplit(":", 1)[-1].split(",")[0].split()[-1]) for part in _with_lines(text)), None)
    return Problem(report.nodeid, f"cannot be read: {message}", number)


def _with_lines(text: str) -> list[str]:
    return [line.strip().replace('", line ', ":").split(",")[0] for line in text.splitlines()
            if '", line ' in line and line.strip().startswith(("E", "File"))][-1:]


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


def _full(claim: Claim, name: str) -> str:
    return name if "::" in name else f"{claim.file}::{name}"


def _short(value) -> str:
    text = " ".join(repr(value).replace("tensor(", "").replace(", dtype=torch.float64)", "").split())
    return text if len(text) <= 300 else text[:297] + "..."
