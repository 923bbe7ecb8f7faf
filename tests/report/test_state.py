"""Reading event files and folding them to the current state."""

import pytest

from properties.report.schema import VERDICTS, parse_id, read_events
from properties.report.state import fold
from properties.report.summary import counts, in_words
from tests.report.synthetic import ROWS, SCALE, SHIFT, WHOLE, Events

CELL = f"{SHIFT}[naive-float32]"


def run(name="first", **about):
    return Events(name, **about).claim(SHIFT).implementation("naive")


def verdicts(state):
    return {cell.id: cell.verdict for cell in state.cells}


def test_every_verdict_occurs_in_the_realistic_run(realistic_state):
    assert {cell.verdict for cell in realistic_state.cells} == VERDICTS.keys() - {"stale"}


def test_a_planned_cell_without_a_check_is_not_run(folded):
    state = folded(run().plan(CELL, f"{SHIFT}[naive-float16]").check(CELL))
    assert verdicts(state) == {CELL: "holds", f"{SHIFT}[naive-float16]": "not run"}
    (missing,) = [cell for cell in state.cells if cell.verdict == "not run"]
    assert (missing.leg, missing.implementation, missing.dtype) == ("implementation", "naive", "float16")


def test_the_newest_check_wins_whatever_the_file_is_called(folded):
    state = folded(run("a", after=60).check(CELL, "holds"), run("z").check(CELL, "crashed"))
    assert verdicts(state) == {CELL: "holds"}
    assert not state.cells[0].elsewhere


@pytest.mark.parametrize("changed", ["claim", "implementation"])
def test_a_check_from_before_a_change_is_stale_and_says_what_it_was(folded, changed):
    later = Events("later", after=60)
    later.claim(SHIFT, digest="claim-2" if changed == "claim" else "claim-1")
    later.implementation("naive", digest="impl-2" if changed == "implementation" else "impl-1")
    (cell,) = folded(run().check(CELL), later.plan(CELL)).cells
    assert (cell.verdict, cell.was, cell.family) == ("stale", "holds", "grey")


def test_a_matching_older_check_is_preferred_to_a_newer_one_of_another_version(folded):
    tried = Events("tried", after=60).claim(SHIFT, digest="claim-2").implementation("naive")
    tried.check(CELL, "law fails", digest={"claim": "claim-2", "implementation": "impl-1"})
    back = Events("back", after=120).claim(SHIFT).implementation("naive")
    assert verdicts(folded(run().check(CELL), tried, back)) == {CELL: "holds"}


def test_runs_are_merged(folded):
    state = folded(run("a").check(CELL), run("b", after=5).claim(SCALE).check(f"{SCALE}[naive-float64]", "unfaithful"))
    assert verdicts(state) == {CELL: "holds", f"{SCALE}[naive-float64]": "unfaithful"}
    assert [(run["run"], run["checks"]) for run in state.runs] == [("a", 1), ("b", 1)]


def test_another_environment_that_disagrees_is_kept_in_sight(folded):
    gpu = run("gpu", device="cuda").check(CELL, "law fails", message="off by 1")
    (cell,) = folded(gpu, run("cpu", after=60).check(CELL)).cells
    assert cell.verdict == "holds"
    (other,) = cell.elsewhere
    assert other["verdict"] == "law fails" and other["environment"].startswith("cuda")


def test_a_cut_off_last_line_is_a_problem_and_the_rest_is_read(tmp_path):
    path = run().check(CELL).write(tmp_path)
    text = path.read_text()
    path.write_text(text + text.splitlines()[-1][:50])
    records, (problem,) = read_events(tmp_path)
    assert verdicts(fold(records)) == {CELL: "holds"}
    assert problem["file"] == "first.jsonl" and problem["line"] == len(text.splitlines()) + 1
    assert "cut off" in problem["message"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"event": "check", "run": "r", "time": "2025-03-01T09:00:00Z", "seconds": NaN}', "NaN is not strict JSON"),
        ('{"event": "check", "run": "r", "time": "2025-03-01T09:00:00Z", "id": "a"}', "lacks claim, leg, verdict"),
        ('{"event": "run", "run": "r", "time": "yesterday"}', "yesterday"),
        ('{"event": "check", "run"', "line 1 column"),
        ("[1, 2]", "not an event"),
    ],
)
def test_a_line_that_cannot_be_used_is_a_problem_with_its_number(tmp_path, line, said):
    path = run().check(CELL).write(tmp_path)
    path.write_text(line + "\n" + path.read_text())
    records, (problem,) = read_events(tmp_path)
    assert problem["line"] == 1 and said in problem["message"]
    assert verdicts(fold(records)) == {CELL: "holds"}


def test_events_of_a_newer_writer_are_ignored(folded):
    state = folded(run().add("kill", claim=SHIFT, wrong="wrong/softmax.py::hot").check(CELL, surprise=1))
    assert verdicts(state) == {CELL: "holds"} and not state.problems


def test_a_verdict_that_nobody_knows_is_an_error_never_green(folded):
    (cell,) = folded(run().check(CELL, "splendid")).cells
    assert cell.verdict == "error" and "splendid" in cell.check["message"]


def test_what_no_event_describes_is_a_problem(folded):
    state = folded(Events().check(CELL))
    assert len(state.problems) == 2 and {"naive"} == state.implementations.keys()
    assert "'naive'" in state.problems[1]["message"] and state.problems[0]["claim"] == SHIFT


def test_a_row_that_the_ledger_lacks_is_a_problem_at_the_claim(folded):
    events = Events().add("ledger", rows=[{"row": "001-001"}]).claim(SHIFT, rows=["001-001", "009-999"], line=12)
    (problem,) = folded(events).problems
    assert (problem["file"], problem["line"]) == ("spec/softmax.py", 12) and "009-999" in problem["message"]


def test_a_problem_ends_when_a_later_run_of_the_same_environment_reads_the_file(folded):
    broken = Events("broken").add("problem", file="impls/naive.py", line=3, message="does not import")
    broken.add("problem", file="other.py", line=1, message="defines no operation")
    other = run("other", after=30, torch="2.11.0")
    assert len(folded(broken, other).problems) == 2
    assert [problem["file"] for problem in folded(broken, other, run("fixed", after=60)).problems] == ["other.py"]


@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        (f"{SHIFT}[sdpa.flash-bfloat16]", (SHIFT, "implementation", "sdpa.flash", "bfloat16")),
        (f"{SHIFT}[my-kernel-float16]", (SHIFT, "implementation", "my-kernel", "float16")),
        (f"{SHIFT}[proof]", (SHIFT, "proof", None, None)),
        (f"{SHIFT}[exact-float16]", (SHIFT, "exact", None, "float16")),
        (f"{SHIFT}[torch]", (SHIFT, "torch", None, None)),
        (SHIFT, (SHIFT, "torch", None, None)),
    ],
)
def test_ids_are_taken_apart(cell, parts):
    assert parse_id(cell) == parts


def test_the_summary_names_every_denominator(realistic_state):
    tally = counts(realistic_state.cells)
    words = in_words(tally)
    assert f"of {tally.total} cells hold (1 by refuting a false statement)" in words
    assert "1 expected failure;" in words and "1 not run" in words and "1 unsupported" in words
    assert sum(tally.verdicts.values()) == tally.total == len(realistic_state.cells)
    assert {ROWS, WHOLE} <= {cell.claim for cell in realistic_state.cells}


def test_a_planned_cell_of_a_folder_elsewhere_finds_its_claim(folded):
    state = folded(Events().claim("/home/me/my.py::law").implementation("naive").plan("my.py::law[naive-float32]"))
    assert [cell.claim for cell in state.cells] == ["/home/me/my.py::law"] and not state.problems


def test_an_expected_failure_that_is_gone_is_a_problem(folded):
    (problem,) = folded(run().check(CELL, "expected failure", still_there=False)).problems
    assert "no longer fails" in problem["message"] and problem["file"] == "impls/naive.py"
    assert not folded(run().check(CELL, "expected failure", still_there=True)).problems
