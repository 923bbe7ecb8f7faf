"""Bad files: one clear message each, naming file and claim, and everything else still runs."""

import pytest

pytestmark = pytest.mark.timeout(600)              # each test starts a process or several

SPEC = '''
from properties import agree, claim, given, rows

@claim(rows="001-119", if_fails="something")
@given(x=rows(most=3, n_rows=1))
def {name}(impl, x):
    """A row's softmax is itself."""
    agree(impl.softmax(x), impl.softmax(x))
'''
GOOD = SPEC.format(name="good")
KERNEL = '''
import torch
DTYPES = ("float64",)
def softmax(x):
    return torch.softmax(x, -1)
'''


def one_problem(run, *words):
    messages = [f"{p['file']}: {p['claim']}: {p['message']}" for p in run.problems()]
    assert len(messages) == 1, run.output
    for word in words:
        assert word in messages[0], messages[0]
    assert run.status == 1, run.output
    return run.problems()[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_syntax_error_in_a_spec_file(attest, workers):
    run = attest(spec={"good.py": GOOD, "broken.py": "def f(:\n"}, kernels={"kernel.py": KERNEL}, workers=workers)
    assert one_problem(run, "broken.py", "SyntaxError")["line"] == 1
    assert run.checks()["good[kernel-float64]"]["verdict"] == "holds"


def test_duplicate_claim_id(attest):
    run = attest(spec={"twice.py": GOOD + SPEC.format(name="good"), "other.py": SPEC.format(name="other")},
                 kernels={"kernel.py": KERNEL})
    one_problem(run, "twice.py", "twice.py::good", "defined twice, at lines 4 and 12")
    assert list(run.checks()) == ["other[kernel-float64]"]


@pytest.mark.parametrize("workers", [0, 2])
def test_row_that_does_not_exist(attest, workers):
    run = attest(spec={"rows.py": GOOD.replace("001-119", "001-999"), "other.py": SPEC.format(name="other")},
                 kernels={"kernel.py": KERNEL}, workers=workers)
    one_problem(run, "rows.py", "rows.py::good", "001-999", "ledger")
    assert run.checks()["other[kernel-float64]"]["verdict"] == "holds"


def test_kernel_file_without_operations(attest):
    run = attest(spec={"good.py": GOOD}, kernels={"kernel.py": KERNEL, "empty.py": "def soft_max(x): return x\n"})
    one_problem(run, "empty.py", "defines no operation")
    assert run.checks()["good[kernel-float64]"]["verdict"] == "holds"


def test_kernel_file_that_does_not_import(attest):
    run = attest(spec={"good.py": GOOD}, kernels={"kernel.py": KERNEL, "broken.py": "import torch\nimport not_there\n"})
    assert one_problem(run, "broken.py", "not_there")["line"] == 2
    assert run.checks()["good[kernel-float64]"]["verdict"] == "holds"


def test_kernel_file_that_kills_its_importer(attest):
    deadly = "import os\nos._exit(3)\n"
    run = attest(spec={"good.py": GOOD}, kernels={"kernel.py": KERNEL, "deadly.py": deadly}, workers=2)
    one_problem(run, "deadly.py", "ends the process while it is imported")
    assert run.checks()["good[kernel-float64]"]["verdict"] == "holds"


def test_wrong_signature(attest):
    wrong = KERNEL + "def log_sum_exp(x, dim, keepdim): return torch.logsumexp(x, -1)\n"
    run = attest(spec={"good.py": GOOD}, kernels={"wrong.py": wrong})
    one_problem(run, "wrong.py", "log_sum_exp", "(x, dim, keepdim)", "expected (x)")
    assert run.checks()["good[wrong-float64]"]["verdict"] == "holds"


def test_attributes_that_mean_nothing(attest):
    run = attest(spec={"good.py": GOOD}, kernels={"odd.py": KERNEL + "ROUNDING = 'loose'\n"})
    one_problem(run, "odd.py", "ROUNDING = 'loose'", "fp32-inside")
    assert run.checks()["good[odd-float64]"]["verdict"] == "holds"


@pytest.mark.parametrize("line, message", [
    ("return torch.softmax(x, -1)[:, :0]", "returned p of shape (1, 0), expected (1, 1)"),
    ("return torch.softmax(x, -1).float()", "returned p with dtype float32, expected float64"),
    ("x = x.view(x.shape); return x", "returned p as a view of its input x"),
    ("return x.mul_(0)", "returned p as a view of its input x"),
    ("y = torch.softmax(x, -1); x.zero_(); return y", "wrote into its input x"),
    ("return torch.nn.Parameter(torch.softmax(x, -1))", "returned p as Parameter, expected a plain Tensor"),
    ("return torch.softmax(x, -1), x", "returned 2 values, expected 1: p"),
    ("raise ValueError('no')", "raised ValueError: no"),
])
def test_broken_contract_of_a_call(attest, line, message):
    kernel = KERNEL.replace("return torch.softmax(x, -1)", line)
    run = attest(spec={"good.py": GOOD}, kernels={"kernel.py": KERNEL, "broken.py": kernel})
    check = run.checks()["good[broken-float64]"]
    assert check["verdict"] in ("unfaithful", "crashed")
    assert f"softmax {message}" in check["message"]
    assert "broken.py" in check["counterexample"]["script"] and "good" in check["claim"]
    assert run.checks()["good[kernel-float64]"]["verdict"] == "holds"


def test_unknown_implementation_and_unknown_spec_folder(attest):
    run = attest("--impl=nowhere.py", spec={"good.py": GOOD}, kernels={"kernel.py": KERNEL})
    one_problem(run, "nowhere.py", "no such file", "naive")
    assert attest("--spec-dir=/nowhere").status == 4


def test_a_claim_that_asks_for_an_unknown_operation_is_an_error(attest):
    run = attest(spec={"bad.py": GOOD.replace("impl.softmax(x))", "impl.soft_max(x))")}, kernels={"kernel.py": KERNEL})
    check = run.checks()["good[kernel-float64]"]
    assert check["verdict"] == "error" and "there is no operation 'soft_max'" in check["message"]
