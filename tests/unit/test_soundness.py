"""The hunt for false alarms: it stops when enough is judged, goes on after a kill, and fails when one is found."""

import json
import re

import pytest

from properties.evidence import line
from properties.report.schema import read_events
from properties.soundness import judge_digest, launch, main, tally
from properties.subjects import digest_of

CLAIMS = '''
from properties import claim, exactly, given, rows

@claim(rows="001-119")
@given(x=rows(most=5, n_rows=1))
def doubled(impl, x):
    """A row has one log-sum-exp."""
    exactly(impl.log_sum_exp(x){factor}, impl.log_sum_exp(x))
'''
KERNEL = '''
import torch
DTYPES = ("float32",)
def log_sum_exp(x):
    return torch.logsumexp(x, -1)
'''


@pytest.fixture
def hunt(tmp_path):
    """hunt(*options) runs the driver on a tiny folder of claims; hunt.launched: the seeds that pytest was run with."""
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "one.py").write_text(CLAIMS.format(factor=""))
    (tmp_path / "kernel.py").write_text(KERNEL)

    def run(*options):
        def counted(command):
            run.launched.append(int(re.search(r"--run-seed=(\d+)", " ".join(command))[1]))
            return launch(command)

        return main([f"--impl={tmp_path / 'kernel.py'}", f"--reports={tmp_path / 'reports'}", *options, "--",
                     f"--spec-dir={tmp_path / 'claims'}", "-p", "no:cacheprovider"], launch=counted)

    run.launched, run.folder = [], tmp_path
    run.summary = lambda: json.loads((tmp_path / "reports" / "summary.json").read_text())
    return run


@pytest.mark.timeout(300)                               # pytest starts three times
def test_it_stops_at_the_target_goes_on_after_a_kill_and_fails_on_a_false_alarm(hunt, capsys):
    assert hunt("--checks=15", "--examples=20") == 0
    assert hunt.launched == [1] and hunt.summary()["checks"] >= 15
    (row,) = hunt.summary()["rows"]
    assert (row["implementation"], row["dtype"], row["failures"]) == ("kernel", "float32", 0)
    assert f"{row['checks']} checks, no false alarms, seed 1" in capsys.readouterr().out

    (events,) = (hunt.folder / "reports" / judge_digest() / "events").glob("*.jsonl")
    events.write_text(events.read_text()[:-40])                    # killed while it wrote the last check
    assert hunt("--checks=15", "--examples=20") == 0
    assert hunt.launched == [1, 1] and hunt.summary()["checks"] == row["checks"]

    (hunt.folder / "claims" / "one.py").write_text(CLAIMS.format(factor=" * 2"))
    assert hunt("--checks=15", "--examples=20") == 1                # what was judged of the old claim is forgotten
    assert hunt.launched == [1, 1, 2]
    (accusation,) = hunt.summary()["accusations"]
    assert accusation["verdict"] == "law fails" and hunt.summary()["checks"] < 15
    assert hunt("--checks=15", "--examples=20") == 1 and hunt.launched == [1, 1, 2]     # until something is changed
    assert "1 false alarm," in capsys.readouterr().out


def events(folder, *checks, seed=1, arguments=("a",), kind="law", examples=10, problems=()):
    """Write a run with one claim, on an implementation of a file that is there."""
    path = folder / "kernel.py"
    path.write_text(KERNEL)
    digest = digest_of(path)
    head = {"run": f"run-{seed}", "time": f"2026-01-01T00:00:{seed:02}Z"}
    records = [{"event": "run", "seed": seed, "examples": examples, "arguments": list(arguments)},
               {"event": "implementation", "implementation": "kernel", "file": str(path), "digest": digest, "note": ""},
               {"event": "claim", "claim": "c", "file": str(path), "digest": digest, "kind": kind},
               {"event": "plan", "cells": ["c[kernel-float32]"]},
               *({"event": "problem", "file": "slow.py", "message": message} for message in problems),
               *({"event": "check", "id": "c[kernel-float32]", "claim": "c", "leg": "implementation",
                  "verdict": "holds", "implementation": "kernel", "dtype": "float32", "examples": 10,
                  "unsupported": 0, "excused": 0, "message": "", "budget_used": None, "seconds": 0.1,
                  "digest": {"claim": digest, "implementation": digest}} | check for check in checks)]
    (folder / "events").mkdir(exist_ok=True)
    (folder / "events" / f"{seed}.jsonl").write_text("".join(line(head | record) for record in records))
    return tally(read_events(folder / "events")[0])


def test_only_examples_that_were_judged_count(tmp_path):
    assert events(tmp_path, {"unsupported": 3, "excused": 2}).checks == 5
    assert events(tmp_path, {"unsupported": 3, "excused": 2}, seed=2).checks == 10


def test_what_no_seed_changes_counts_once(tmp_path):
    for seed in (1, 2, 3):
        assert events(tmp_path, {"examples": 4}, seed=seed).checks == 4              # of ten: that is all there are
    assert events(tmp_path, {}, seed=4).checks == 14


def test_derandomized_draws_count_once(tmp_path):
    for seed in (1, 2):
        assert events(tmp_path, {}, seed=seed, kind="statistical").checks == 10


def test_checks_of_code_that_has_changed_do_not_count(tmp_path):
    assert events(tmp_path, {"digest": {"claim": "old", "implementation": "old"}}).checks == 0


def test_the_same_seed_again_replaces_what_it_said(tmp_path):
    red = events(tmp_path, {"verdict": "unfaithful", "message": "off", "budget_used": 3.0})
    assert [a["verdict"] for a in red.accusations] == ["unfaithful"] and red.rows[0].failures == 1
    assert not red.complete
    again = events(tmp_path, {"verdict": "unfaithful"}, {"budget_used": 0.5})
    assert not again.accusations and again.checks == 10
    assert events(tmp_path).complete == set() and events(tmp_path, {}).complete == {("a",)}


def test_a_file_that_cannot_be_run_here_is_reported_and_no_failure(tmp_path):
    found = events(tmp_path, {}, problems=["cannot be imported: NotImplementedError: there is no compiler"])
    assert found.not_run == {"slow.py": "there is no compiler"} and not found.problems
    assert events(tmp_path, {}, problems=["cannot be imported: OSError: no"]).problems == [
        "slow.py: cannot be imported: OSError: no"]


def test_the_judge_is_its_code_without_comments(tmp_path):
    (tmp_path / "budgets.py").write_text("x = 1\n")
    first = judge_digest(tmp_path)
    (tmp_path / "budgets.py").write_text("x = 1  # one\n")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "pages.py").write_text("y = 1\n")
    assert judge_digest(tmp_path) == first
    (tmp_path / "budgets.py").write_text("x = 2\n")
    assert judge_digest(tmp_path) != first


def test_what_is_slow_gets_fewer_examples_and_the_first_of_ten_seeds(tmp_path):
    launched = []

    def fake(command):
        launched.append([option for option in command if option.startswith(("--impl", "--examples", "--run-seed"))])
        folder = tmp_path / judge_digest()
        folder.mkdir(exist_ok=True)
        events(folder, {}, seed=len(launched), arguments=command)                   # ten checks
        return 0

    options = ["--impl=usual", "--slow=slow", "--checks=25", "--examples=8", f"--reports={tmp_path}"]
    assert main(options, launch=fake) == 0
    assert [" ".join(names) for names in launched] == [
        "--impl=usual --examples=8 --run-seed=1", "--impl=slow --examples=2 --run-seed=1",
        "--impl=usual --examples=8 --run-seed=2"]
    assert json.loads((tmp_path / "summary.json").read_text())["checks"] == 30
