"""False alarms: right implementations, seed after seed, until enough of their examples have been judged.

    python -m properties.soundness [SPEC ...] --impl FILE ... [--slow FILE ...] [--checks N] [-- PYTEST OPTIONS]

Everything is summed from events, so a run that was killed goes on when it is started again: a seed whose checks all
arrived, none of them red, is not repeated, and each start judges at least one more. The events lie in a folder of the
judge's own: a change of what decides a verdict starts from zero, a change of a claim or of an implementation forgets
its checks. A check is an example that was really judged: unsupported and excused ones are none, and where the
seed decides nothing (draws that are derandomized, or all that there are) one seed counts.
"""

import argparse
import ast
import hashlib
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path

from .report.schema import VERDICTS, Record, dtype_order, number, read_events
from .subjects import INTERPRETED_SHARE, digest_of

SLOW_SHARE = 4                    # an implementation that is slow to call gets a fourth of the examples ...
SLOW_EVERY = 10                   # ... and takes part in one of ten seeds, the first
NOT_JUDGING = {"power", "report", "soundness.py", "session.py", "plugin.py", "items.py", "evidence.py",
               "script.py"}
ANY_SEED = ("refuted", "statistical")                    # kinds of claims whose draws are derandomized
ACCUSATION = ("id", "implementation", "dtype", "verdict", "message")
CANNOT_RUN = "cannot be imported: NotImplementedError: "


@dataclass
class Row:
    """An implementation in one dtype: cells judged, checks, false alarms, the largest budget used and the claim that
    used it, and the seconds that its cells took."""

    implementation: str
    dtype: str | None
    cells: int = 0
    checks: int = 0
    failures: int = 0
    budget_used: float | None = None
    budget_claim: str | None = None
    seconds: float = 0.0


@dataclass
class Tally:
    """What the events say: rows, accusations, files that could not be run and why, and the seeds that took part."""

    rows: list[Row] = field(default_factory=list)
    accusations: list[dict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    complete: set[tuple] = field(default_factory=set)    # arguments of runs that need not be repeated

    @property
    def checks(self) -> int:
        return sum(row.checks for row in self.rows)


def judge_digest(folder: Path = Path(__file__).parent) -> str:
    """SHA-256, shortened, of what decides a verdict: the code of properties/, without comments and wiring."""
    files = [path for path in sorted(folder.rglob("*.py"))
             if path.relative_to(folder).parts[0] not in NOT_JUDGING and path.name != "__main__.py"]
    code = "".join(ast.dump(ast.parse(path.read_text(encoding="utf-8"))) for path in files)
    return hashlib.sha256(code.encode()).hexdigest()[:12]


def tally(records: list[Record]) -> Tally:
    """Sum the events up, as far as they are about claims and implementations as they are on the disk now."""
    by_kind = defaultdict(list)
    for record in records:
        by_kind[record.kind].append(record.data)
    runs = {data["run"]: data for data in by_kind["run"]}
    claims = {data["claim"]: data for data in by_kind["claim"]}
    subjects = {data["implementation"]: data for data in by_kind["implementation"]}
    now = cache(lambda file: digest_of(Path(file)))
    rows, red, arrived, red_runs = {}, {}, Counter(), set()
    judged = defaultdict(dict)                           # by id, then by seed: checks; the seed None counts for all
    for check in by_kind["check"]:
        arrived[check["run"]] += 1
        claim, subject, run = claims[check["claim"]], subjects.get(check["implementation"]), runs[check["run"]]
        is_red = VERDICTS[check["verdict"]].family == "bad"
        red_runs |= {check["run"]} if is_red else set()
        if check["digest"] != {"claim": now(claim["file"]), "implementation": subject and now(subject["file"])}:
            continue
        if is_red:
            red[check["id"], run["seed"]] = {key: check[key] for key in ACCUSATION} | {"seed": run["seed"]}
        else:
            red.pop((check["id"], run["seed"]), None)                # the same seed again
        if subject is None:                                          # a proof, or exact values
            continue
        column = check["implementation"], check["dtype"]
        row = rows.setdefault(column, Row(*column))
        row.seconds += check["seconds"] or 0.0
        used = number(check["budget_used"])
        if used is not None and used > (row.budget_used or 0.0):
            row.budget_used, row.budget_claim = used, check["claim"]
        once = claim["kind"] in ANY_SEED or check["examples"] < _asked(run, subject)
        seed, checks = None if once else run["seed"], check["examples"] - check["unsupported"] - check["excused"]
        counted = judged[column, check["id"]]
        counted[seed] = max(counted.get(seed, 0), checks)
    for (column, _), counted in judged.items():
        rows[column].checks += sum(counted.values())
        rows[column].cells += any(counted.values())
    for accusation in red.values():
        column = accusation["implementation"], accusation["dtype"]
        if column in rows:
            rows[column].failures += 1
    newest = max(runs, default=None)
    messages = [data for data in by_kind["problem"] if data["run"] == newest]
    plans = {data["run"]: len(data["cells"]) for data in by_kind["plan"]}
    return Tally(
        rows=sorted(rows.values(), key=lambda row: (row.implementation, dtype_order(row.dtype))),
        accusations=list(red.values()),
        not_run={data["file"]: data["message"].removeprefix(CANNOT_RUN) for data in by_kind["problem"]
                 if data["message"].startswith(CANNOT_RUN)},
        problems=[f"{data['file']}: {data['message']}" for data in messages
                  if not data["message"].startswith(CANNOT_RUN)],
        seeds=sorted({run["seed"] for run in runs.values()}),
        complete={tuple(runs[run]["arguments"]) for run, cells in plans.items()
                  if arrived[run] >= cells and run not in red_runs})


def _asked(run: dict, subject: dict) -> int:
    """How many examples the run asked of a cell; a cell that drew fewer has drawn all that there are."""
    return max(run["examples"] // (INTERPRETED_SHARE if subject["note"] == "interpreter" else 1), 1)


def summary(found: Tally, *, judge: str, target: int) -> dict:
    """What is written for the report."""
    return {"judge": judge, "target": target, "checks": found.checks, "seeds": found.seeds,
            "rows": [vars(row) | {"seconds": round(row.seconds, 1)} for row in found.rows],
            "accusations": found.accusations, "not_run": found.not_run, "problems": found.problems}


def table(found: Tally) -> str:
    """Checks and false alarms by implementation and dtype, in words."""
    lines = ["implementation                       dtype      cells    checks failures  budget checks/s"]
    for row in found.rows:
        used = "-" if row.budget_used is None else f"{100 * row.budget_used:.0f} %"
        rate = f"{row.checks / row.seconds:.0f}" if row.seconds else "-"
        lines.append(f"{row.implementation:36} {row.dtype or '-':9} {row.cells:6} {row.checks:9} {row.failures:8} "
                     f"{used:>7} {rate:>8}")
    lines += [f"not run: {file}: {reason}" for file, reason in found.not_run.items()]
    lines += [f"problem: {problem}" for problem in found.problems]
    lines += [f"accused: {a['id']} (seed {a['seed']}): {a['verdict']}: {a['message']}" for a in found.accusations]
    failures = len(found.accusations)
    seeds = f"seed{'s 1 to' if len(found.seeds) > 1 else ''} {max(found.seeds, default='none')}"
    lines.append(f"{found.checks} checks, {failures or 'no'} false alarm{'' if failures == 1 else 's'}, {seeds}")
    return "\n".join(lines)


def launch(command: list[str]) -> int:
    """Run pytest in a process of its own."""
    return subprocess.run([sys.executable, "-m", "pytest", *command], check=False).returncode


def main(arguments: list[str] | None = None, *, launch: Callable[[list[str]], int] = launch) -> int:
    """Run seeds until the checks are enough; 1 after a seed with a false alarm, 2 where nothing more can be judged."""
    parser = argparse.ArgumentParser(prog="python -m properties.soundness", description=__doc__.split("\n")[0])
    parser.add_argument("spec", nargs="*", help="what pytest collects")
    parser.add_argument("--impl", action="append", default=[], metavar="NAME|FILE", help="a right implementation")
    parser.add_argument("--slow", action="append", default=[], metavar="NAME|FILE",
                        help=f"one that is slow to call: 1/{SLOW_SHARE} of the examples, in one of {SLOW_EVERY} seeds")
    parser.add_argument("--checks", type=int, default=1_000_000, help="when to stop (%(default)s)")
    parser.add_argument("--examples", type=int, default=20, help="examples per cell and seed (%(default)s)")
    parser.add_argument("--reports", type=Path, default=Path("reports/soundness"), help="events (%(default)s)")
    arguments = sys.argv[1:] if arguments is None else arguments
    at = arguments.index("--") if "--" in arguments else len(arguments)
    options, passed_on = parser.parse_args(arguments[:at]), arguments[at + 1:]
    if not (options.impl or options.slow):
        parser.error("name at least one implementation with --impl or --slow")
    judge = judge_digest()
    folder = options.reports / judge

    def summed() -> Tally:
        found = tally(read_events(folder / "events")[0])
        options.reports.mkdir(parents=True, exist_ok=True)
        text = json.dumps(summary(found, judge=judge, target=options.checks), indent=1, allow_nan=False)
        (options.reports / "summary.json").write_text(text + "\n", encoding="utf-8")
        return found

    def finished(found: Tally, status: int, *words: str) -> int:
        print(table(found), *words, sep="\n")
        return status

    groups = ((options.impl, options.examples, 1), (options.slow, max(options.examples // SLOW_SHARE, 1), SLOW_EVERY))
    found, went_on = summed(), False
    for seed in count(1):
        if found.accusations or (went_on and found.checks >= options.checks):
            return finished(found, 1 if found.accusations else 0)
        commands = [[*options.spec, *(f"--impl={name}" for name in names), f"--examples={examples}",
                     f"--run-seed={seed}", f"--reports={folder}", "-q", "-rN", "--no-header", "--tb=no", *passed_on]
                    for names, examples, every in groups if names and (seed - 1) % every == 0]
        missing = [command for command in commands if tuple(command) not in found.complete]
        before = found.checks
        for command in missing:
            try:
                went_on, status = True, launch(command)
            except KeyboardInterrupt:
                return finished(summed(), 130, "stopped; started again, this goes on")
            found = summed()
            if found.problems:
                return finished(found, 1)
            if tuple(command) not in found.complete and not found.accusations:
                return finished(found, 2, f"pytest ended early, with status {status}; started again, this goes on")
        if missing and found.checks == before:
            return finished(found, 2, f"seed {seed} added no check: there is nothing more to judge")
        if missing:
            print(f"seed {seed}: {found.checks} of {options.checks} checks", flush=True)


if __name__ == "__main__":
    sys.exit(main())
