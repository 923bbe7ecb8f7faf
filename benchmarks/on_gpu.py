"""Everything that needs a GPU, in one command: correctness, sanitizer, benchmarks, and the report rebuilt.

    python -m benchmarks.on_gpu [--minutes 10] [--only correctness,benchmarks]
    python -m benchmarks.on_gpu --configs           which tiles are fastest (see configs.py)

Needs no network, and of the optional packages only triton. Each part is a process of its own with a share of the time;
one that fails or runs out of time leaves the others running. What a part printed is in reports/gpu/<part>.log, what was
measured in benchmarks/measured/<gpu>-<time>.json. Exit status 1 if a check, a sanitizer or a timed result was wrong, or
if correctness was not finished; 2 if there is no GPU.

How the time is divided is an estimate: all attention cases together are 9.2e13 FLOP for each contender and round, 0.23
seconds at 400 TFLOP/s, so that four contenders and 10 to 50 rounds take 10 to 50 seconds; the rest is compiling. So is
most of correctness: every combination of head dims, strides and sizes that are 1 or divisible by 16 is a kernel of its
own. Counted in the interpreter, 3 examples a cell need some 600 compilations, 6 some 1900; hence `--examples 3`, and
`--only correctness --minutes 60 --examples 30` for a search as wide as elsewhere.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from properties.report.schema import VERDICTS

ROOT = Path(__file__).parents[1]
SHARES = {"environment": 3, "correctness": 42, "sanitizer": 14, "benchmarks": 37, "report": 4}     # per cent
LEAST = {"environment": 60, "report": 60}        # seconds: a cold start of PyTorch alone takes long
PLACES = ("/usr/local/cuda/bin", "/opt/cuda/bin")
MOST_WORKERS = 12       # each has a CUDA context of its own on the one device


@dataclass(frozen=True)
class Finished:
    """A child process: its exit status (None: ended because its time was up), its seconds, what it printed."""

    status: int | None
    seconds: float
    output: str


@dataclass(frozen=True)
class Outcome:
    """A part in the summary. `verdict`: passed, failed, not run, or ran out of time."""

    verdict: str
    says: str = ""


def run(command: Sequence[str], *, seconds: float, log: Path, environment: dict | None = None) -> Finished:
    """Run a command in the repository's root, in a process group that is ended as a whole when the time is up."""
    log.parent.mkdir(parents=True, exist_ok=True)
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}     # nobody's worker
    start = time.monotonic()
    with log.open("a") as stream:
        print(f"$ {' '.join(map(str, command))}", file=stream, flush=True)
        began = stream.tell()
        child = subprocess.Popen([str(word) for word in command], cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT,
                                 stdin=subprocess.DEVNULL, start_new_session=True,
                                 env=own | {"PYTHONUNBUFFERED": "1"} | (environment or {}))
        try:
            status = child.wait(timeout=max(seconds, 1.0))
        except subprocess.TimeoutExpired:
            status = None
            for kind in (signal.SIGTERM, signal.SIGKILL):
                _end(child, kind)
        except BaseException:       # an interrupt must not leave it on the device
            _end(child, signal.SIGKILL)
            raise
    with log.open(errors="replace") as stream:
        stream.seek(began)
        return Finished(status, time.monotonic() - start, stream.read())


def _end(child: subprocess.Popen, kind: signal.Signals) -> None:
    try:
        os.killpg(child.pid, kind)
        child.wait(timeout=5)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass


def last_line(text: str) -> str:
    return next((line.strip("= ") for line in reversed(text.splitlines()) if line.strip("= ")), "")


# ---------------------------------------------------------------------------------------------------------------- parts


def environment(options, seconds: float) -> Outcome:
    """Versions, device, clocks, limits."""
    done = run([sys.executable, "-m", "benchmarks.machine"], seconds=seconds, log=options.logs / "environment.log")
    print(done.output, end="")
    if done.status == 0 or (done.status == 1 and options.small):
        return Outcome("passed")
    if done.status is None:
        return Outcome("ran out of time")
    return Outcome("failed", "no GPU that PyTorch can use" if done.status == 1 else last_line(done.output))


def correctness(options, seconds: float) -> Outcome:
    """The claims on triton_kernels, compiled."""
    events, began = options.reports / "events", time.time()
    workers = 0 if options.small else max(2, min(MOST_WORKERS, (os.cpu_count() or 4) - 2))
    chosen = ["spec/log_sum_exp.py", "--dtype", "float32"] if options.small else ["spec"]
    done = run(
        [sys.executable, "-m", "pytest", *chosen, "--impl", "triton_kernels", "--examples", options.examples,
         "-n", workers, "--dist", "worksteal", "--max-worker-restart", "1000", "--timeout", "300", "-q", "-rN",
         "--no-header", "-p", "no:cacheprovider", "--reports", options.reports, *options.pytest],
        seconds=seconds, log=options.logs / "correctness.log")
    files = [file for file in events.glob("*.jsonl") if file.stat().st_mtime >= began] if events.is_dir() else []
    return judged_correctness(done, files)


def judged_correctness(done: Finished, files: Sequence[Path]) -> Outcome:
    """From the exit status and the events that this run wrote. No check, no success."""
    checks, planned = [], 0
    for line in (line for file in files for line in file.read_text().splitlines()):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        checks += [event["verdict"]] if event.get("event") == "check" else []
        planned += len(event["cells"]) if event.get("event") == "plan" else 0
    red = sum(verdict not in VERDICTS or VERDICTS[verdict].family == "bad" for verdict in checks)
    held = sum(verdict in VERDICTS and VERDICTS[verdict].family == "good" for verdict in checks)
    says = f"{len(checks)} of {planned} planned cells: {held} hold, {red} red"
    if red or done.status not in (0, None):
        return Outcome("failed", says if checks else last_line(done.output))
    if done.status is None or len(checks) < planned:
        return Outcome("ran out of time", says)
    return Outcome("passed" if checks else "failed", says)


def sanitizer_binary() -> str | None:
    path = os.pathsep.join([os.environ.get("PATH", ""), *PLACES])
    return shutil.which("compute-sanitizer", path=path)


def sanitizer(options, seconds: float) -> Outcome:
    """memcheck (which must first report a planted error) and racecheck over a small call of every operation."""
    calls = [sys.executable, "-m", "benchmarks.small_calls"]
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    stop, log, words = time.monotonic() + seconds, options.logs / "sanitizer.log", []

    def left():
        return stop - time.monotonic()

    plain = run(calls, seconds=left(), log=log, environment=uncached)     # compiles; its errors are no sanitizer's
    if plain.status != 0:
        return Outcome("failed" if plain.status is not None else "ran out of time",
                       f"without a sanitizer: {last_line(plain.output)}")
    binary = sanitizer_binary()
    if binary is None:
        return Outcome("not run", f"{last_line(plain.output)}; no compute-sanitizer in PATH or {', '.join(PLACES)}")
    for tool, arguments, wanted in (("memcheck", ["--plant"], True), ("memcheck", [], False), ("racecheck", [], False)):
        what = f"{tool} of a planted error" if wanted else tool
        if left() < 1:
            return Outcome("ran out of time", "; ".join([*words, f"{what} not run"]))
        told = ["--tool", tool, "--error-exitcode", "86", "--report-api-errors", "no", "--print-limit", "20"]
        done = run([binary, *told, *calls, *arguments], seconds=left(), log=log, environment=uncached)
        outcome = judged_sanitizer(done, what, planted=wanted)
        words.append(outcome.says)
        if outcome.verdict != "passed":
            return Outcome(outcome.verdict, "; ".join(words))
    return Outcome("passed", "; ".join(words))


def judged_sanitizer(done: Finished, what: str, *, planted: bool) -> Outcome:
    """From its summary line; a planted error must be reported, nothing else may be."""
    if done.status is None:
        return Outcome("ran out of time", f"{what} not finished")
    if "not supported" in done.output and "SUMMARY" not in done.output:
        return Outcome("not run", f"{what}: the device is not supported by compute-sanitizer")
    found = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", done.output)
    if not found:
        return Outcome("failed", f"{what}: no summary, {last_line(done.output)}")
    n = int(found[-1])
    if planted:
        return Outcome("passed" if n else "failed", f"{what}: {'reported' if n else 'NOT reported'}")
    return Outcome("passed" if n == 0 and done.status == 0 else "failed", f"{what}: {n} errors")


def benchmarks(options, seconds: float) -> Outcome:
    """What is bound by memory first, which is quick; then attention with its peers."""
    files = [ROOT / "benchmarks" / f"test_{name}.py" for name in ("rows", "decode", "attention")]
    chosen = ["--small", "-k", "matrix_product or gelu"] if options.small else []
    done = run(
        [sys.executable, "-m", "pytest", *files, *chosen, "--impl", "notes", "--benchmark-only", "-p", "no:xdist",
         "-p", "no:cacheprovider", "--timeout", "200", "--within", f"{max(seconds - 40, seconds / 2):.0f}",
         "--measured", options.file, "--benchmark-columns", "median,rounds", "-q", "-rfs", "--no-header",
         "--reports", options.logs / "pytest"], seconds=seconds, log=options.logs / "benchmarks.log")
    rows = json.loads(options.file.read_text())["rows"] if options.file.exists() else []
    late = sum("not_run" in row for row in rows)
    says = f"{len(rows) - late} of {len(rows)} cases measured, {options.file}" if rows else last_line(done.output)
    if done.status is None:
        return Outcome("ran out of time", says)
    verdict = "failed" if done.status != 0 or not rows else "ran out of time" if late else "passed"
    return Outcome(verdict, f"{says}; {last_line(done.output)}")


def report(options, seconds: float) -> Outcome:
    """Rebuild the pages from all events and all measured files."""
    done = run([sys.executable, "-m", "properties.report", "--events", options.reports / "events", "--out",
                options.reports, "--measured", options.measured], seconds=seconds, log=options.logs / "report.log")
    return Outcome("passed" if done.status == 0 else "failed", last_line(done.output))


PARTS = {"environment": environment, "correctness": correctness, "sanitizer": sanitizer, "benchmarks": benchmarks,
         "report": report}


# -------------------------------------------------------------------------------------------------------------- command


def carry_out(options, parts=None) -> dict[str, tuple[Outcome, float]]:
    """Run the parts one after the other; what one does not use of its share, the next ones have."""
    parts = PARTS if parts is None else parts
    stop, outcomes = time.monotonic() + 60 * options.minutes, {}
    for place, (name, part) in enumerate(parts.items()):
        start = time.monotonic()
        ahead = sum(SHARES[later] for later in list(parts)[place:])
        seconds = max(max(stop - start, 0.0) * SHARES[name] / ahead, LEAST.get(name, 1))
        print(f"\n{name} (up to {seconds:.0f} s)", flush=True)
        try:
            outcome = part(options, seconds)
        except Exception as error:      # a part must not keep the others from running
            outcome = Outcome("failed", f"{type(error).__name__}: {error}")
        outcomes[name] = outcome, time.monotonic() - start
        print(f"{name}: {outcome.verdict}{', ' if outcome.says else ''}{outcome.says}", flush=True)
        if name == "environment" and outcome.verdict != "passed":
            break
    return outcomes


def summary(outcomes: dict[str, tuple[Outcome, float]]) -> str:
    lines = ["", f"{'part':<13}{'seconds':>8}  verdict"]
    lines += [f"{name:<13}{seconds:>8.0f}  {outcome.verdict}{': ' if outcome.says else ''}{outcome.says}"
              for name, (outcome, seconds) in outcomes.items()]
    return "\n".join(lines)


def exit_status(outcomes: dict[str, tuple[Outcome, float]]) -> int:
    if "environment" in outcomes and outcomes["environment"][0].verdict != "passed":
        return 2
    wrong = any(outcome.verdict == "failed" for outcome, _ in outcomes.values())
    unfinished = "correctness" in outcomes and outcomes["correctness"][0].verdict != "passed"
    return int(wrong or unfinished)


def arguments(given: Sequence[str] | None = None):
    """The options, and the folders and file that follow from them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.on_gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything together (%(default)s)")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...", help="some of: %(default)s")
    parser.add_argument("--examples", type=int, default=3, help="per cell of correctness (%(default)s)")
    parser.add_argument("--reports", type=Path, default=ROOT / "reports", metavar="DIR")
    parser.add_argument("--measured", type=Path, default=ROOT / "benchmarks" / "measured", metavar="DIR",
                        help="where the measurements are kept (%(default)s)")
    parser.add_argument("--configs", action="store_true", help="instead: time other tiles of attention")
    parser.add_argument("--small", action="store_true", help="tiny shapes on any machine: tries this command")
    parser.add_argument("--pytest", nargs="*", default=[], help="more arguments for the claims' pytest")
    options = parser.parse_args(given)
    unknown = [name for name in options.only.split(",") if name not in PARTS]
    if unknown:
        parser.error(f"--only {','.join(unknown)}: no such part; there are {', '.join(PARTS)}")
    options.reports, options.measured = options.reports.resolve(), options.measured.resolve()
    options.logs = options.reports / "gpu"
    import torch
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no gpu"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    folder = options.logs if options.small else options.measured
    options.file = folder / f"{slug}-{datetime.now(UTC):%Y-%m-%dT%H%M%S}.json"
    return options


def main(given: Sequence[str] | None = None) -> int:
    """Run the parts and print the summary."""
    options = arguments(given)
    for log in options.logs.glob("*.log"):
        log.unlink()
    if options.configs:
        command = [sys.executable, "-m", "benchmarks.configs", "--seconds", f"{60 * options.minutes:.0f}",
                   *(["--small"] if options.small else [])]
        return subprocess.run(command, cwd=ROOT, check=False).returncode
    outcomes = carry_out(options, {name: part for name, part in PARTS.items() if name in options.only.split(",")})
    print(summary(outcomes))
    return exit_status(outcomes)


if __name__ == "__main__":
    sys.exit(main())
