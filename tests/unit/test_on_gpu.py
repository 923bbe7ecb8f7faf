"""The command for a GPU machine, tried without one: parts that fail, hang or are missing, and what it says of them."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from benchmarks import on_gpu
from benchmarks.on_gpu import Finished, Outcome

from tests.report.synthetic import realistic

PASSED, FAILED, LATE = Outcome("passed"), Outcome("failed", "2 red"), Outcome("ran out of time", "3 of 9")


@pytest.fixture
def options(tmp_path):
    return SimpleNamespace(minutes=1.0, small=True, logs=tmp_path / "gpu", reports=tmp_path, examples=1, pytest=[],
                           measured=tmp_path / "measured", file=tmp_path / "gpu" / "x.json")


def test_a_child_gives_its_status_and_output(tmp_path):
    for status in (0, 3):
        done = on_gpu.run([sys.executable, "-c", f"print('said'); raise SystemExit({status})"], seconds=30,
                          log=tmp_path / "log")
        assert (done.status, done.output) == (status, "said\n")


def test_a_child_that_hangs_is_ended_with_its_own_children(tmp_path):
    done = on_gpu.run(["sh", "-c", "sleep 600 & echo $!; wait"], seconds=1, log=tmp_path / "log")
    assert done.status is None and done.seconds < 10
    grandchild = int(done.output)
    for _ in range(50):
        if not os.path.exists(f"/proc/{grandchild}") or "Z" in _state(grandchild):
            return
        time.sleep(0.1)
    pytest.fail(f"process {grandchild} still runs")


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def test_a_part_that_raises_or_runs_late_leaves_the_others_running(options, capsys):
    given = {}

    def part(name, outcome):
        def run(_, seconds):
            given[name] = seconds
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        return run

    parts = {"environment": part("environment", PASSED), "correctness": part("correctness", ValueError("broken")),
             "sanitizer": part("sanitizer", LATE), "benchmarks": part("benchmarks", FAILED),
             "report": part("report", PASSED)}
    outcomes = on_gpu.carry_out(options, parts)
    assert [outcome.verdict for outcome, _ in outcomes.values()] == [
        "passed", "failed", "ran out of time", "failed", "passed"]
    assert outcomes["correctness"][0].says == "ValueError: broken"
    assert on_gpu.exit_status(outcomes) == 1
    text = on_gpu.summary(outcomes)
    assert all(words in text for words in ("ValueError: broken", "3 of 9", "2 red")) and text.count("\n") == 6
    assert given["report"] == pytest.approx(60, abs=1), "the last part has all the time that is left"
    assert given["environment"] == on_gpu.LEAST["environment"]
    assert given["correctness"] == pytest.approx(60 * on_gpu.SHARES["correctness"] / 97, abs=0.1)
    assert "correctness (up to" in capsys.readouterr().out


@pytest.mark.parametrize(("verdicts", "status"), [
    (dict(environment=PASSED, correctness=PASSED, sanitizer=Outcome("not run"), benchmarks=LATE), 0),
    (dict(environment=PASSED, correctness=LATE), 1), (dict(environment=PASSED, correctness=Outcome("not run")), 1),
    (dict(environment=PASSED, correctness=FAILED, benchmarks=PASSED), 1),
    (dict(environment=PASSED, benchmarks=FAILED), 1), (dict(sanitizer=FAILED), 1),
    (dict(environment=FAILED), 2), (dict(benchmarks=PASSED), 0)])
def test_exit_status(verdicts, status):
    assert on_gpu.exit_status({name: (outcome, 0.0) for name, outcome in verdicts.items()}) == status


def test_without_a_device_nothing_else_is_begun(options):
    outcomes = on_gpu.carry_out(options, {"environment": lambda *_: FAILED, "correctness": lambda *_: PASSED})
    assert list(outcomes) == ["environment"]


@pytest.mark.parametrize(("verdicts", "planned", "status", "verdict", "says"), [
    (["holds", "refuted", "unsupported"], 3, 0, "passed", "3 of 3 planned cells: 2 hold, 0 red"),
    (["holds", "law fails"], 2, 1, "failed", "2 of 2 planned cells: 1 hold, 1 red"),
    (["holds", "crashed"], 2, 0, "failed", "1 red"), (["holds", "unheard of"], 2, 0, "failed", "1 red"),
    (["holds"], 2, None, "ran out of time", "1 of 2"), (["unfaithful"], 9, None, "failed", "1 red"),
    (["holds"], 2, 0, "ran out of time", "1 of 2"), ([], 0, 0, "failed", "0 of 0"), ([], 0, 4, "failed", "no module")])
def test_correctness_is_judged_by_its_events(tmp_path, verdicts, planned, status, verdict, says):
    lines = [{"event": "plan", "cells": ["x"] * planned}] + [{"event": "check", "verdict": v} for v in verdicts]
    (tmp_path / "run.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"cut off')
    outcome = on_gpu.judged_correctness(Finished(status, 1.0, "trace\nno module\n"), [tmp_path / "run.jsonl"])
    assert outcome.verdict == verdict and says in outcome.says


CLEAN = "called 15 operations\n========= ERROR SUMMARY: 0 errors\n"


@pytest.mark.parametrize(("status", "output", "planted", "verdict"), [
    (0, CLEAN, False, "passed"), (86, CLEAN.replace("0 errors", "3 errors"), False, "failed"),
    (0, CLEAN, True, "failed"), (86, CLEAN.replace("0 errors", "960 errors"), True, "passed"),
    (1, CLEAN, False, "failed"), (0, "killed", False, "failed"), (None, CLEAN, False, "ran out of time"),
    (0, "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", False, "passed"),
    (86, "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)", False, "failed"),
    (1, "========= Error: Device not supported.", False, "not run")])
def test_the_sanitizer_is_judged_by_its_summary(status, output, planted, verdict):
    assert on_gpu.judged_sanitizer(Finished(status, 1.0, output), "memcheck", planted=planted).verdict == verdict


def _tool(tmp_path, script):
    """A compute-sanitizer that is first in PATH; its arguments are $@."""
    program = tmp_path / "bin" / "compute-sanitizer"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program.parent)


GOOD_TOOL = """case "$*" in
*--plant*) echo "ERROR SUMMARY: 9 errors"; exit 86;;
*racecheck*) echo "RACECHECK SUMMARY: 0 x";;
*) echo "ERROR SUMMARY: 0 errors";; esac"""


@pytest.mark.parametrize(("script", "verdict", "says"), [
    (GOOD_TOOL, "passed", "memcheck of a planted error: reported; memcheck: 0 errors; racecheck: 0 errors"),
    ('echo "ERROR SUMMARY: 0 errors"', "failed", "memcheck of a planted error: NOT reported"),
    ('case "$*" in *racecheck*) sleep 60;; *) ' + GOOD_TOOL + ";; esac", "ran out of time", "racecheck not finished"),
    (None, "not run", "no compute-sanitizer in PATH")])
def test_the_sanitizer_must_find_what_was_planted(options, tmp_path, monkeypatch, script, verdict, says):
    monkeypatch.setattr(on_gpu, "PLACES", ())
    if script:
        monkeypatch.setenv("PATH", _tool(tmp_path, script), prepend=os.pathsep)
    else:
        monkeypatch.setattr(on_gpu.shutil, "which", lambda *_, **__: None)
    real = on_gpu.run

    def run(command, **more):       # the calls themselves take seconds and are tried elsewhere
        if command[0] == sys.executable:
            return Finished(0, 1.0, "called 15 operations\n")
        return real(command, **more)

    monkeypatch.setattr(on_gpu, "run", run)
    outcome = on_gpu.sanitizer(options, 3.0)
    assert outcome.verdict == verdict and says in outcome.says


@pytest.mark.timeout(240)
def test_the_command_runs_from_end_to_end(tmp_path):
    """A claim file, two benchmarks and the report, on tiny shapes."""
    (tmp_path / "events").mkdir()
    realistic(tmp_path / "events")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.on_gpu", "--small", "--minutes", "3", "--examples", "2",
         "--reports", tmp_path, "--measured", tmp_path / "measured",
         "--only", "environment,correctness,benchmarks,report",
         "--pytest", "spec/log_sum_exp.py"],
        cwd=on_gpu.ROOT, capture_output=True, text=True, timeout=230, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + "".join(
        log.read_text()[-3000:] for log in sorted((tmp_path / "gpu").glob("*.log")))
    summary = done.stdout[done.stdout.index("\npart "):]
    assert summary.count("passed") >= 4 and "planned cells" in summary and "cases measured" in summary
    (file,) = (tmp_path / "gpu").glob("*.json")
    content = json.loads(file.read_text())
    assert content["format"] == 1 and content["small"] and set(content["machine"]) >= {"gpu", "torch", "triton"}
    groups = {row["group"]: row for row in content["rows"]}
    assert set(groups) == {"gelu", "matrix product"}
    (ours,) = [c for c in groups["gelu"]["contenders"] if c["name"] == groups["gelu"]["ours"]]
    assert 0 < ours["budget_used"] <= 1 and ours["rate"] > 0 and ours["rounds"] >= 3
    seconds = ours["seconds"]
    assert 0 < seconds["lower"] <= seconds["median"] <= seconds["upper"]
    assert not (tmp_path / "measured").exists(), "a trial is no measurement"
    assert "Not run." in (tmp_path / "index.html").read_text()


BREAKER = """
import torch
from impls import triton_kernels

right = triton_kernels.gelu
triton_kernels.gelu = lambda x: right(x).index_fill_(0, torch.zeros(1, dtype=torch.long), {value})
"""


@pytest.mark.parametrize(("value", "stored"), [("float('nan')", "inf"), ("100.0", None)])
def test_a_wrong_result_fails_and_is_stored_as_wrong(tmp_path, value, stored):
    (tmp_path / "breaker.py").write_text(BREAKER.format(value=value))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks/test_rows.py", "-k", "gelu", "--small", "-p", "breaker",
         "-p", "no:xdist", "-p", "no:cacheprovider", "--impl", "notes", "--reports", tmp_path, "-q",
         "--measured", tmp_path / "measured.json"], cwd=on_gpu.ROOT, capture_output=True, text=True, timeout=110,
        check=False, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout + done.stderr
    (row,) = json.loads((tmp_path / "measured.json").read_text())["rows"]
    (ours,) = [c for c in row["contenders"] if c["name"] == "triton_kernels"]
    assert ours["budget_used"] == stored if stored else ours["budget_used"] > 1
    assert "rate" in next(c for c in row["contenders"] if c["name"] == "PyTorch")


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        on_gpu.arguments(["--only", "correctness,speed"])
    assert "there are environment, correctness, sanitizer, benchmarks, report" in capsys.readouterr().err
