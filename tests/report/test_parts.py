"""Pieces of the pages: formulas, tensors, numbers in words."""

import pytest

from properties.report import mathml
from properties.report.sections import counterexample
from properties.report.tensors import as_text, parts, picture, short_number, telling_digits
from properties.report.wording import anchor, percent, share
from tests.report.synthetic import tensor


def test_formulas_hold_mathematics_only():
    pytest.importorskip("latex2mathml")
    assert "<script" not in mathml.formula(r"\text{<script>alert(1)</script>}")
    assert mathml.formula(r"a \unheard b") is None
    assert '<mo rspace="0" lspace="0">softmax</mo>' in mathml.formula(r"\operatorname{softmax}(x)")
    assert "𝐱" in mathml.formula(r"\mathbf{x}") and ">lse<" in mathml.formula(r"\mathrm{lse}(x)")


def test_tensors_fit_the_page():
    small = picture(tensor([[[0.0, 1.5]], [[-2.0, "inf"]]]), at=[1, 0, 0])
    assert [label for label, _ in small.matrices] == ["[0]", "[1]"] and small.about == "2×1×2 float32"
    ((minus, infinite),) = small.matrices[1][1]
    assert (minus.text, minus.marked, infinite.text) == ("−2", True, "inf") and small.matrices[0][1][0][0].zero
    sparse = [[0.0] * 40 for _ in range(30)]
    sparse[3][17] = 8.0
    assert picture(tensor(sparse)).listed[0][0] == "[3, 17]"
    assert as_text(tensor(sparse)) == "[3, 17] = 8 (every other element is 0)"
    window = picture(tensor([[1.0 + j for j in range(40)] for _ in range(30)]), at=(29, 0))
    ((label, rows),) = window.matrices
    assert label == "[24:30, 0:6]" and rows[-1][0].marked and len(rows) == 6
    line = picture(tensor([float(i + 1) for i in range(100)]), at=(50,))
    assert line.matrices[0][0] == "[47:53]" and line.matrices[0][1][0][3].marked
    assert picture({"shape": [5000], "dtype": "float32"}).remark == "too large to be recorded"
    assert picture(tensor([], shape=[0, 4])).remark == "no elements"
    assert picture(tensor(2.0), at=[]).matrices[0][1][0][0].text == "2" and as_text(tensor(2.0)) == "2"
    assert as_text(tensor([True, False], "bool")) == "[T, ·]" and "strides (0,)" in picture(
        tensor([1.0], strides=[0])
    ).about


def test_numbers_are_short_but_tell_a_difference():
    assert short_number(1e-7) == "1e-7" and short_number(-0.5) == "−0.5"
    assert f"{1.0:.{telling_digits(1.0, 1.0000001)}g}" != f"{1.0000001:.{telling_digits(1.0, 1.0000001)}g}"
    assert percent(0.31) == "31\u202f%" and percent(1.0001) == "101\u202f%" and percent("inf") == "∞"
    assert share(999, 1000) == "999 of 1\u202f000 (99\u202f%)"
    assert share(1, 1000).endswith("(1\u202f%)") and share(0, 0) == "0 of 0"
    assert anchor("x-", "a b") != anchor("x-", "a_b") and " " not in anchor("x-", "a [b]")


def test_a_drawn_bundle_of_tensors_is_taken_apart():
    q, x = tensor([1.0]), tensor([2.0])
    assert parts("inputs", {"q": q, "causal": True}) == [("q", q), ("causal", True)]
    assert parts("pair", [x, "text"]) == [("pair[0]", x), ("pair[1]", "text")]
    assert parts("sizes", [1, 2]) == [("sizes", [1, 2])] and parts("x", x) == [("x", x)]


def outcome(got, expected, **content):
    result = {"name": "p", "got": tensor([got]), "expected": tensor([expected]), "at": [0]} | content
    call = {"name": "r1", "call": "softmax(x)", "arguments": {"x": tensor([got])}, "fault": "x", "results": [result]}
    (call,) = counterexample({"drawn": {}, "calls": [call]}).calls
    return call.results[0]


def test_an_outcome_says_by_how_much_or_what_came_instead():
    far = outcome(0.5, 0.25, budget=tensor([0.125]), used=2.0)
    assert far.verdict == "off by 0.25 at (0), budget 0.12: 200\u202f%" and far.left.matrices[0][1][0][0].marked
    assert outcome("nan", 0.0, used="inf", budget=tensor([0.0])).verdict == "nan instead of 0 at (0)"
    right = outcome(0.5, 0.5, used=0.0)
    assert right.verdict == "within its budget: 0\u202f% of it used at (0)"
    assert not right.left.matrices[0][1][0][0].marked
