"""The section on speed: from a measured file to the pages; without one, *not run*."""

import json
import re

import pytest
from properties.report import speed_plots
from properties.report.pages import html, markdown
from properties.report.speed import describe, in_words, speed


def contender(name, rate, *, used=None, spread=0.1):
    """A contender of a case of 1e12 FLOP or bytes whose rate is in 1e12 a second."""
    median = 1 / rate
    seconds = {"lower": median * (1 - spread), "median": median, "upper": median * (1 + spread)}
    return {"name": name, "rate": rate, "rounds": 10, "seconds": seconds} | ({"budget_used": used} if used else {})


def row(group, case, *contenders, unit="TFLOP/s", **more):
    about = {"group": group, "case": case, "unit": unit, "work": 1e12, "ours": "mine"}
    return about | {"contenders": list(contenders)} | more


def attention(tokens, *contenders, causal=False):
    return row("attention forward", {"tokens": tokens, "head_dim": 128, "causal": causal, "batch": 1, "n_heads": 64,
                                     "n_kv_heads": 8, "dtype": "bfloat16"}, *contenders)


ROWS = [
    attention(2048, contender("mine", 300.0, used=0.31), contender("cuDNN", 600.0),
              {"name": "Flex<b>", "not_available": "no <compiler>"}) | {"state": {"sm_clock_mhz": 1755.0}},
    attention(4096, contender("mine", 480.0, used=0.4), contender("cuDNN", 640.0)) | {
        "state": {"sm_clock_mhz": 1980.0}},
    {"group": "attention forward", "case": {"tokens": 8192, "head_dim": 128, "causal": False}, "unit": "TFLOP/s",
     "work": 1e12, "ours": "mine", "not_run": "the time was used up"},
    row("softmax", {"shape": [16384, 8192], "dtype": "bfloat16"}, contender("mine", 3.0, used=0.9),
        contender("copy", 4.0), unit="TB/s"),
]


@pytest.fixture
def store(tmp_path):
    """store(name, rows, **changes of the content) writes a measured file; returns the folder."""

    def write(name="h100.json", rows=ROWS, *, gpu="NVIDIA H100", time="2026-01-02T03:04:05+00:00", **more):
        machine = {"gpu": gpu, "torch": "2.11.0", "power_limit_w": 700.0, "driver": "580.1"}
        content = {"format": 1, "time": time, "small": False, "machine": machine, "rows": rows} | more
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path

    return write


def table(found, group):
    return next(t for m in found.measurements for t in m.tables if t.group == group)


def test_rates_ratios_and_errors_are_those_of_the_file(store):
    found = table(speed(store()), "attention forward")
    assert found.names == ("mine", "cuDNN", "Flex<b>") and found.unit == "TFLOP/s"
    first, second, third = found.lines
    mine, peer, missing = first.entries
    assert (mine.rate, mine.used, mine.ratio) == (300.0, 0.31, None) and peer.ratio == pytest.approx(0.5)
    assert mine.low == pytest.approx(300 / 1.1) and mine.high == pytest.approx(300 / 0.9)
    assert missing.reason == "no <compiler>" and found.reasons == (("Flex<b>", "no <compiler>"),)
    assert second.entries[1].ratio == pytest.approx(0.75) and second.entries[2] is None
    assert third.not_run == "the time was used up" and third.entries == ()


def test_the_machine_is_described_with_its_state(store):
    facts = dict(speed(store()).measurements[0].facts)
    assert facts["device"] == "NVIDIA H100" and facts["power limit"] == "700 W"
    assert facts["SM clock right after the cases"] == "1755 to 1980 MHz"


def test_the_newest_file_of_a_device_is_shown_and_trials_are_not(store):
    store("old.json", time="2025-01-01T00:00:00+00:00")
    store("other.json", gpu="NVIDIA H200", time="2024-01-01T00:00:00+00:00")
    store("trial.json", small=True, time="2027-01-01T00:00:00+00:00")
    store("cpu.json", gpu=None)
    (store() / "broken.json").write_text('{"format": 1, "rows"')
    (store() / "strange.json").write_text('{"format": 2, "rows": []}')
    found = speed(store())
    assert [(m.machine["gpu"], m.file) for m in found.measurements] == [
        ("NVIDIA H100", "h100.json"), ("NVIDIA H200", "other.json")]
    reasons = dict(found.left_out)
    assert set(reasons) == {"old.json", "trial.json", "cpu.json", "broken.json", "strange.json"}
    assert "newer" in reasons["old.json"] and "cannot be read" in reasons["broken.json"]


def test_a_file_with_a_strange_row_does_not_stop_the_report(store):
    found = speed(store(rows=[{"group": "softmax"}]))
    assert found.measurements == () and "cannot be shown" in found.left_out[0][1]


def test_both_pages_show_the_table(realistic_state, store):
    page, text = html(realistic_state, store()), markdown(realistic_state, store())
    assert page.count('<a href="#speed">') == page.count('id="speed"') == 1
    for expected in ("NVIDIA H100", "0.50×", "the time was used up", "Flex&lt;b&gt;", "full, D 128, 2048 tokens"):
        assert expected in page, expected
    assert "<compiler>" not in page and ", wrong" not in page[page.index('id="speed"'):page.index('id="ledger"')]
    line = next(line for line in text.splitlines() if line.startswith("| full, D 128, 2048 tokens"))
    assert [part.strip() for part in line.split("|")[2:-1]] == ["300", "600 (0.50×)", "*not available*", "31\u202f%"]
    late = next(line for line in text.splitlines() if "the time was used up" in line)
    assert late.count("|") == line.count("|")


@pytest.mark.parametrize(("used", "shown"), [("inf", "∞"), ("nan", "not a number"), (1.5, "150\u202f%")])
def test_a_wrong_result_is_called_wrong(realistic_state, store, used, shown):
    folder = store(rows=[attention(2048, contender("mine", 300.0) | {"budget_used": used})])
    assert f"{shown}, wrong" in html(realistic_state, folder)
    assert f"{shown} **wrong**" in markdown(realistic_state, folder)


@pytest.mark.parametrize("folder", [None, "empty"])
def test_without_a_file_it_says_not_run(realistic_state, tmp_path, folder):
    folder = folder and tmp_path / folder
    page, text = html(realistic_state, folder), markdown(realistic_state, folder)
    for shown in (page[page.index('id="speed"'):], text[text.index("## Speed"):]):
        assert "Not run." in shown and "python -m benchmarks.on_gpu" in shown


def test_the_plots_show_the_points(store):
    pytest.importorskip("matplotlib")
    measurement = speed(store()).measurements[0]
    curves, bars = measurement.figures
    assert "2k" in curves.svg and "4k" in curves.svg and "cuDNN" in curves.svg and "D 128" in curves.caption
    assert "copy" in bars.svg and "softmax" in bars.svg and "currentColor" in bars.svg
    ids = re.findall(r'\bid="([^"]+)"', curves.svg + bars.svg)
    assert len(ids) == len(set(ids)), "the plots stand on one page"


def test_without_matplotlib_there_are_tables(store, monkeypatch):
    monkeypatch.setattr(speed_plots, "_can_draw", lambda: False)
    measurement = speed(store()).measurements[0]
    assert measurement.figures == () and len(measurement.tables) == 2


def test_cases_and_rates_in_words():
    assert describe({"batch": 16, "tokens": 4097, "head_dim": 128, "n_heads": 64, "n_kv_heads": 8, "n_splits": 8,
                     "dtype": "bfloat16"}) == "D 128, 4097 tokens, batch 16, 8 splits, heads 64/8, bfloat16"
    assert describe({"n": 8192}) == "8192 × 8192"
    assert [in_words(x) for x in (612.4, 45.12, 2.984, None)] == ["612", "45.1", "2.98", "–"]
