"""Crashes and hangs are verdicts: every cell of a run is there, whatever a kernel does to its process."""

import pytest

from properties.report.schema import read_events
from properties.report.state import fold

pytestmark = pytest.mark.timeout(600)              # each test starts several processes

CLAIM = '''
@claim(rows="001-119")
@given(x=rows(most=3, n_rows=1))
def {name}(impl, x):
    """A row's {operation} is itself."""
    agree(impl.{operation}(x), impl.{operation}(x))
'''
HEAD = "from properties import agree, claim, given, rows\n"
KERNEL = '''
import ctypes, os, time, torch
DTYPES = ("float64", "float32")
def softmax(x):
    return torch.softmax(x, -1)
def log_sum_exp(x):
    {deed}
'''
DEEDS = {"exits": "os._exit(3)", "segfaults": "ctypes.string_at(0)", "aborts": "os.abort()"}


def claims(n: int) -> str:
    return HEAD + "".join(CLAIM.format(name=f"claim_{i}", operation=operation)
                          for i, operation in enumerate(["softmax", "log_sum_exp"] * (n // 2)))


@pytest.mark.parametrize("deed", DEEDS)
def test_a_process_that_dies_is_a_crashed_cell_with_its_case(attest, deed):
    run = attest(spec={"two.py": claims(2)}, kernels={"kernel.py": KERNEL.format(deed=DEEDS[deed])}, workers=2)
    checks = run.checks()
    assert {c: checks[c]["verdict"] for c in checks} == {
        "claim_0[kernel-float64]": "holds", "claim_0[kernel-float32]": "holds",
        "claim_1[kernel-float64]": "crashed", "claim_1[kernel-float32]": "crashed"}, run.output
    crashed = checks["claim_1[kernel-float32]"]
    assert "died in log_sum_exp" in crashed["message"]
    assert crashed["counterexample"]["calls"][0]["arguments"]["x"]["shape"][0] == 1
    assert "kernel.log_sum_exp(x_1)" in crashed["counterexample"]["script"]


def test_a_loop_is_a_timed_out_cell_with_its_case(attest):
    run = attest("--timeout=8", "--dtype=float64", spec={"two.py": claims(2)}, workers=2,
                 kernels={"kernel.py": KERNEL.format(deed="time.sleep(3600)")})
    checks = run.checks()
    assert checks["claim_0[kernel-float64]"]["verdict"] == "holds", run.output
    assert checks["claim_1[kernel-float64]"]["verdict"] == "timed out", run.output
    assert "log_sum_exp" in checks["claim_1[kernel-float64]"]["message"]


def test_sixty_cells_of_which_thirty_crash_are_sixty_verdicts(attest):
    run = attest(spec={"many.py": claims(30)}, kernels={"kernel.py": KERNEL.format(deed="os._exit(3)")}, workers=2)
    checks = run.checks()
    verdicts = [check["verdict"] for check in checks.values()]
    assert len(checks) == 60, run.output
    assert verdicts.count("holds") == 30
    assert verdicts.count("crashed") + verdicts.count("not run") == 30
    assert verdicts.count("crashed") >= 3
    assert all("has crashed" in c["message"] for c in checks.values() if c["verdict"] == "not run")


def test_what_was_known_before_a_crash_of_the_whole_run_is_kept(attest, tmp_path):
    run = attest(spec={"two.py": claims(2)}, kernels={"kernel.py": KERNEL.format(deed="os._exit(3)")})
    assert run.status == 3
    assert {c: check["verdict"] for c, check in run.checks().items()} == {
        "claim_0[kernel-float64]": "holds", "claim_0[kernel-float32]": "holds"}
    state = fold(*read_events(tmp_path / "reports" / "events"))
    assert sorted(cell.verdict for cell in state.cells) == ["holds", "holds", "not run", "not run"]
