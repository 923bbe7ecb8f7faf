"""The pytest plug-in: options, and the hooks that turn claims into items, items into events, crashes into verdicts.

`conftest.py` hands over where claims, implementations and the ledger are (`Places`); nothing here knows their names.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from . import cells, evidence
from .claims import Claim
from .items import ClaimItem, items_of
from .session import PROFILES, Places, Session
from .subjects import DTYPES, Problem

__all__ = ["Places", "add_options", "register"]


def add_options(parser) -> None:
    """Attest's command-line options."""
    group = parser.getgroup("attest", "claims about attention")
    group.addoption("--impl", action="append", default=[], metavar="NAME|FILE",
                    help="only this implementation, by name (naive, sdpa, sdpa.flash ...) or a kernel file; 'notes' "
                         "for the columns without one (proof, exact, torch); repeatable; default: all")
    group.addoption("--dtype", action="append", default=[], choices=DTYPES, help="only this dtype; repeatable")
    group.addoption("--examples", type=int, default=None, help="examples per cell (default: the profile's)")
    group.addoption("--profile", choices=sorted(PROFILES), default="quick", help="how much to search")
    group.addoption("--spec-dir", action="append", default=[], metavar="DIR",
                    help="a folder of your own claims; instead of spec/ and tests/ unless those are named too")
    group.addoption("--run-seed", type=int, default=None, help="repeat a run: its seed is printed and in the report")
    group.addoption("--reports", default=None, metavar="DIR", help="where events and reports go (default: reports/)")


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
        return items_of(self.session, collector, obj)

    def pytest_collectreport(self, report):
        if report.failed and report.nodeid.endswith(".py"):
            self.session.problems.append(_collection_problem(report))

    @pytest.hookimpl(tryfirst=True)                      # before xdist tells the controlling process that it is done
    def pytest_collection_finish(self, session):
        if not session.config.option.collectonly:
            self.session.begin({i.nodeid: i.claim for i in session.items if isinstance(i, ClaimItem)})

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
        if node.gateway.id == "gw0":                     # the one that writes down what it collected
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
        for name, checks in session.red.items():
            terminalreporter.section(f"look at first: {name}, {len(checks)} red")
            for check in _telling(checks):
                terminalreporter.write_line(f"{check['claim']} ({check['dtype'] or check['leg']})")
                terminalreporter.write_line(f"    {check['verdict']}: {check['message']}")
                if session.likely.get(check["claim"]):
                    terminalreporter.write_line(f"    likely: {session.likely[check['claim']]}")
            if looks_like := session.looks_like(name):
                terminalreporter.write_line(f"looks like: {looks_like}")
        if session.counts:
            total = sum(session.counts.values())
            terminalreporter.section("claims")
            verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(session.counts.items()))
            terminalreporter.write_line(f"{total} cells: {verdicts}")
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


def _telling(checks: list[dict]) -> list[dict]:
    """Up to three red checks, each of another claim, the failed laws with the fewest calls first."""
    def order(check: dict) -> tuple:
        found = check["counterexample"] or {"calls": []}
        return check["verdict"] != "law fails", len(found["calls"]), len(str(found.get("drawn")))

    first: dict[str, dict] = {}
    for check in sorted(checks, key=order):
        first.setdefault(check["claim"], check)
    return list(first.values())[:3]


def _collection_problem(report) -> Problem:
    text = str(getattr(report, "longreprtext", "") or report.longrepr)
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("E ")]
    message = (lines[-1][2:].strip() if lines else text.strip().splitlines()[-1])
    number = next((int(part.rsplit(":", 1)[-1].split(",")[0].split()[-1]) for part in _with_lines(text)), None)
    return Problem(report.nodeid, f"cannot be read: {message}", number)


def _with_lines(text: str) -> list[str]:
    return [line.strip().replace('", line ', ":").split(",")[0] for line in text.splitlines()
            if '", line ' in line and line.strip().startswith(("E", "File"))][-1:]
