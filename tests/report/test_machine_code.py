"""The section on machine code: from the compile gate's files to the pages; without one, *not run*."""

import json

import pytest
from properties.report.machine_code import machine_code
from properties.report.pages import html, markdown


def row(target, kernel="dq_kernel", calls=("attention_backward bf16 D128",), failures=(), **facts):
    configuration = {"CAUSAL": True, "BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 8, "num_stages": 2}
    good = {"registers": 183, "spills": 0, "shared": 98304, "matrix": {"HGMMA": 24}, "notes": []}
    return {"target": target, "kernel": kernel, "configuration": configuration, "calls": list(calls),
            "failures": list(failures)} | (facts or good)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    rows = [row("sm_90"), row("gfx942"), row("sm_90", kernel="gelu_kernel", calls=["a", "b", "c"]),
            row("sm_90", kernel="bad_kernel", failures=["does not compile: <abort>"], error="<abort>")]  # fmt: skip
    content = {"triton": "3.9.0", "torch": "2.13.0", "seconds": 100, "limits": {"sm_90": 232448}, "rows": rows}
    (tmp_path / "triton-3.9.0.json").write_text(json.dumps(content))
    return tmp_path


def test_a_line_holds_every_target_and_failures_come_first(folder):
    (table,) = machine_code(folder)["tables"]
    assert (table.n_compiled, table.n_failed, table.targets) == (4, 1, ("sm_90", "gfx942"))
    assert [line.kernel for line in table.lines] == ["bad_kernel", "dq_kernel", "gelu_kernel"]
    assert table.lines[0].cells[1] is None and table.lines[2].calls == "a; b; …"
    assert table.lines[1].cells[0].text == "64×32, 8 warps, 2 stages: 183 registers, 96 KiB, 24 HGMMA"


def test_both_pages_show_the_table(realistic_state, folder):
    page, text = html(realistic_state, None, folder), markdown(realistic_state, None, folder)
    assert "does not compile: &lt;abort&gt;" in page and "does not compile: &lt;abort&gt;" in text
    assert "183 registers, 96 KiB, 24 HGMMA" in page and "4 compiled, 1 fail." in text
    assert '<a href="#machine-code">' in page and 'id="machine-code"' in page


def test_without_a_file_it_says_not_run_and_a_broken_one_is_named(realistic_state, tmp_path):
    assert "tox -e compile</code> compiles every kernel" in html(realistic_state, None, tmp_path)
    assert "*Not run.* Without a GPU: `tox -e compile`" in markdown(realistic_state)
    (tmp_path / "old.json").write_text('{"triton": "1"}')
    assert machine_code(tmp_path)["left_out"] == [("old.json", "KeyError: 'rows'")]
    assert "old.json" in html(realistic_state, None, tmp_path)
