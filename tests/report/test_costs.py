"""Counted costs on the pages: one plot and one table per variable, and a word where a count misses its formula."""

from properties.report.costs import costs
from properties.report.pages import html, markdown
from tests.report.synthetic import Events

TRAFFIC = "spec/memory_traffic.py::growth"


def point(n, counted, *, expected=None, what="flash attention", unit="bytes"):
    return {"what": what, "at": {"N": n}, "unit": unit, "counted": counted,
            "expected": counted if expected is None else expected}


def events(*checks):
    found = Events().claim(TRAFFIC, kind="cost")
    for name in sorted({cell.partition("-")[0] for cell, *_ in checks}):
        found.implementation(name)
    for cell, points, *verdict in checks:
        found.check(f"{TRAFFIC}[{cell}]", *verdict, costs=points)
    return found


def test_series_of_several_implementations_share_a_plot_over_one_variable(folded):
    state = folded(events(
        ("ours-float32", [point(32, 2000.0), point(16, 1000.0)]),
        ("ours-bfloat16", [point(16, 500.0)]),
        ("theirs-float32", [point(16, 4000.0, what="standard attention")])))
    (found,) = costs(state.cells)
    assert (found.variable, found.unit, found.dtype) == ("N", "bytes", "float32")
    assert [s.name for s in found.series] == ["flash attention (ours)", "standard attention (theirs)"]
    assert found.rows == [("16", ["1\u202f000", "4\u202f000"]), ("32", ["2\u202f000", "–"])]
    assert found.figure.svg.startswith("<svg") and "every marker lies on its line" in found.figure.caption


def test_a_count_that_misses_its_formula_is_said(folded):
    state = folded(events(("ours-float32", [point(16, 1000.0, expected=900.0)], "law fails")))
    (found,) = costs(state.cells)
    assert found.rows == [("16", ["1\u202f000 (formula: 900)"])]
    assert "not every marker" in found.figure.caption
    assert "(formula: 900)" in markdown(state) and "(formula: 900)" in html(state)


def test_other_variables_and_units_have_plots_of_their_own(folded):
    state = folded(events(("ours-float32", [
        point(16, 1.0), point(16, 2.0, unit="numbers"),
        {"what": "w", "at": {"splits": 2}, "unit": "bytes", "counted": 3.0, "expected": 3.0}])))
    assert [(c.variable, c.unit) for c in costs(state.cells)] == [("N", "bytes"), ("N", "numbers"), ("splits", "bytes")]
    assert html(state).count("<summary>The numbers</summary>") == 3


def test_pages_without_counted_costs(folded):
    state = folded(events(("ours-float32", None)))
    assert costs(state.cells) == []
    assert "No claim has recorded a counted cost" in html(state)
    assert "Counted costs" not in markdown(state)


def test_without_matplotlib_the_table_remains(folded, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    state = folded(events(("ours-float32", [point(16, 1000.0)])))
    assert costs(state.cells)[0].figure is None
    page = html(state)
    assert "needs matplotlib" in page and "1\u202f000" in page
