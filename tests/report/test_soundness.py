"""The section on false alarms: from the driver's summary to the pages; without one, *not run*."""

import json

import pytest

from properties.report.pages import html, markdown
from properties.report.soundness import soundness


def row(name, dtype, checks, failures=0, used=0.5):
    return {"implementation": name, "dtype": dtype, "cells": 3, "checks": checks, "failures": failures,
            "budget_used": used, "budget_claim": "spec/a.py::b", "seconds": 1.0}  # fmt: skip


def write(folder, rows, accusations=(), not_run=None):
    path = folder / "summary.json"
    path.write_text(json.dumps({"judge": "abc", "target": 1000, "seeds": [1, 2], "checks": 0, "rows": rows,
                                "accusations": list(accusations), "not_run": not_run or {}}))  # fmt: skip
    return path


@pytest.fixture
def accused(tmp_path):
    rows = [row("naive", "bfloat16", 30, used=0.25), row("naive", "float64", 20),
            row("<odd>", "float64", 7, failures=1)]  # fmt: skip
    accusation = {"id": "spec/a.py::b[<odd>-float64]", "seed": 2, "implementation": "<odd>", "dtype": "float64",
                  "verdict": "unfaithful", "message": "off by <much>"}  # fmt: skip
    return write(tmp_path, rows, [accusation], {"slow.py": "there is no compiler"})


def test_a_line_sums_its_dtypes_and_keeps_the_largest_budget(accused):
    found = soundness(accused)
    naive, odd = found["lines"]
    assert (naive.total, naive.failures, naive.budget_used) == (50, 0, 0.5)
    assert found["dtypes"] == ["float64", "bfloat16"] and odd.checks == {"float64": 7}
    assert (found["checks"], found["failures"], found["n_seeds"]) == (57, 1, 2)


def test_both_pages_show_checks_and_accusations(realistic_state, accused):
    sources = realistic_state, None, None, None, None, accused
    page, text = html(*sources), markdown(*sources)
    assert '<a href="#false-alarms">' in page and 'id="false-alarms"' in page
    for shown in (page, text):
        assert "57 checks" in shown and "1 false alarm" in shown and "off by &lt;much&gt;" in shown
        assert "there is no compiler" in shown and "<odd>-" not in shown.replace("`spec/a.py::b[<odd>-float64]`", "")
    assert "| naive | 20 | 30 | 50 | 0 | 50\u202f% |" in text


def test_without_a_false_alarm_it_says_so(realistic_state, tmp_path):
    page = html(realistic_state, None, None, None, None, write(tmp_path, [row("naive", "float64", 20)]))
    assert "20 checks of 1\u202f000 wanted, no false alarms" in page


def test_without_a_file_it_says_not_run_and_a_broken_one_is_named(realistic_state, tmp_path):
    assert "tox -e soundness</code> judges right" in html(realistic_state)
    assert "*Not run*: `tox -e soundness`" in markdown(realistic_state)
    (tmp_path / "summary.json").write_text('{"judge": "1"}')
    assert soundness(tmp_path / "summary.json")["left_out"] == "summary.json is left out: KeyError: 'rows'"
    assert "summary.json is left out" in html(realistic_state, None, None, None, None, tmp_path / "summary.json")
