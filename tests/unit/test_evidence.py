"""Evidence: any value as strict JSON, and the case file that is read after its writer has died."""

import json

import numpy as np
import pytest
import torch

from properties.evidence import CaseFile, Cell, died_event, encode, line, read_case
from properties.memory import LAYOUTS, laid
from properties.strategies import Inputs

CELL = Cell(id="spec/x.py::claim[kernel-float32]", claim="spec/x.py::claim", title="A claim", leg="implementation",
            implementation="kernel", dtype="float32", file="kernel.py", array="torch", device="cpu",
            operations=("softmax",), digest={"claim": "a", "implementation": "b"})


@pytest.mark.parametrize("value", [
    torch.tensor([[1.0, float("nan")], [float("inf"), -float("inf")]]), torch.zeros(0, 3), torch.tensor([True, False]),
    np.float64("inf"), 3, True, None, "text", [1.0, float("nan")], {"a": torch.ones(2)}, torch.zeros(70, 70), object,
    laid(torch.ones(2, 2), LAYOUTS[1]), Inputs(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))],
    ids=repr)
def test_anything_is_strict_json(value):
    text = line({"event": "check", "value": encode(value)})
    assert text.endswith("\n") and text.count("\n") == 1
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not strict JSON"))


def test_tensors_keep_what_is_special():
    coded = encode(torch.tensor([[1.0, float("nan"), -float("inf")]], dtype=torch.float64))
    assert coded == {"shape": [1, 3], "dtype": "float64", "values": [[1.0, "nan", "-inf"]]}
    assert "values" not in encode(torch.zeros(70, 70))


def test_a_case_is_read_back_with_its_arguments(tmp_path):
    case = CaseFile(tmp_path / "cases" / "gw0.case")
    case.enter(CELL, limit=1000.0)
    case.launch("softmax", "float32", {"x": np.array([[1.0, 2.0]])})
    cell, launch = read_case(tmp_path / "cases" / "gw0.case")
    assert cell == CELL and launch[1] == "softmax"
    event = died_event(cell, launch)
    assert event["verdict"] == "crashed"
    assert event["counterexample"]["calls"][0]["arguments"]["x"]["values"] == [[1.0, 2.0]]
    case.leave()
    assert read_case(tmp_path / "cases" / "gw0.case") is None


def test_a_deadline_that_has_come_means_timed_out(tmp_path):
    case = CaseFile(tmp_path / "gw0.case")
    case.enter(CELL, limit=0.0)
    case.launch("softmax", "float32", {"x": np.array([[1.0]])})
    assert died_event(*read_case(tmp_path / "gw0.case"))["verdict"] == "timed out"
    assert read_case(tmp_path / "nothing.case") is None
