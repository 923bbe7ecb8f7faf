"""The kill matrix on its own page, and the diagnosis of what is red; without a record, *not run*."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from properties.power.known import Known, as_text, known_bugs, read
from properties.report.near import clause, diagnoses, probability, thread
from properties.report.pages import html, markdown, power_html
from properties.report.power import power, read_record
from tests.report.synthetic import Events

ROOT = Path(__file__).parents[2]
LAW, VALUE = "law fails", "unfaithful"


def suspect(name, family, title="The <maximum> is not subtracted.", **about):
    return {"name": name, "title": title, "family": family, "source": "pytorch#62897", "file": "impls/wrong/softmax.py",
            "line": 7, "operations": ["softmax"], "dtypes": ["float32"], "claims": 3} | about  # fmt: skip


def claim(name, **about):
    return {"claim": f"spec/softmax.py::{name}", "title": f"Title of {name}.", "kind": "law", "operations": ["softmax"],
            "kills_nothing": "", "if_fails": f"what {name} says", "seconds": 0.1} | about  # fmt: skip


def kill(name, suspect_name, how=LAW, example=1, dtype="float32"):
    return {"claim": f"spec/softmax.py::{name}", "suspect": suspect_name, "dtype": dtype, "how": how,
            "example": example, "message": ""}  # fmt: skip


def matrix(**about):
    """Two families, a survivor, a bug with one killer only, a placebo, a claim that kills nothing."""
    return {
        "examples": 30, "seed": 1, "until_killed": False, "seconds": 12.0, "problems": [],
        "suspects": [suspect("softmax.no_maximum", "numerics"),
                     suspect("softmax.cut_tail", "boundaries", "A tail is cut."),
                     suspect("softmax.alive", "numerics", "Nobody <sees> it."),
                     suspect("merge.half", "merge", operations=["merge"], claims=0),
                     suspect("placebo.zeros.softmax", "placebo"), suspect("placebo.zeros.merge", "placebo",
                                                                          operations=["merge"], claims=0)],
        "claims": [claim("shifts"), claim("sums"), claim("idle", kills_nothing="it is about <views>")],
        "kills": [kill("shifts", "softmax.no_maximum", VALUE, 4, "float64"),
                  kill("shifts", "softmax.no_maximum", LAW, 9),
                  kill("sums", "softmax.no_maximum", VALUE, 2), kill("sums", "softmax.cut_tail", LAW, 6),
                  kill("sums", "placebo.zeros.softmax")],
    } | about  # fmt: skip


@pytest.fixture
def stored(tmp_path):
    def store(found):
        path = tmp_path / "power.json"
        path.write_text(json.dumps(found))
        return path

    return store


def test_the_record_is_read_as_killers_families_and_survivors():
    found = read_record(matrix())
    assert [(s.name, len(s.kills)) for s in found.suspects] == [
        ("softmax.alive", 0), ("merge.half", 0), ("softmax.no_maximum", 2), ("softmax.cut_tail", 1)]  # fmt: skip
    first = found.suspects[2].first
    assert (first.claim, first.how, first.example) == ("spec/softmax.py::sums", VALUE, 2)
    assert found.suspects[2].kills[1].how == LAW and found.suspects[2].kills[1].example == 4  # worst how, earliest
    assert (found.total.n_killed, found.total.n, found.until_kill[0]) == (2, 4, 4.0)
    assert [(f.name, f.n_killed, f.n) for f in found.families] == [
        ("numerics", 1, 2), ("boundaries", 1, 1), ("merge", 0, 1)]  # fmt: skip
    sums, shifts, idle = found.claims
    assert (sums.n_kills, sums.n_alone, sums.quickest, sums.n_suspects) == (2, 1, 2, 3)
    assert (shifts.n_alone, idle.n_kills, idle.reason) == (0, 0, "it is about <views>")
    assert [entry[:2] for entry in found.alive_table] == [(n, m) for n, m in (
        (0, 4), (1, 4), (2, 3), (3, 3), (5, 3), (10, 2), (20, 2), (30, 2))]  # fmt: skip
    assert found.words == (
        "The claims kill 2 of 4 (50\u202f%) wrong implementations of 3 families of mistakes, after 4 examples of each "
        "claim in the median (95th percentile: 5.8).",
        "1 of 2 placebos rejected, 2 wrong implementations left alive, 1 noticed by one claim only and 1 of 3 claims "
        "kill no wrong implementation.")  # fmt: skip


def test_the_page_shows_survivors_first_and_the_index_summarises(realistic_state, stored):
    path = stored(matrix())
    page, index, text = (power_html(realistic_state, path), html(realistic_state, None, None, path),
                         markdown(realistic_state, None, None, path))  # fmt: skip
    assert page.index("Nobody &lt;sees&gt; it.") < page.index("A tail is cut.")
    assert "survived 3 claims" in page and "no claim is judged on it" in page and "the only one" in page
    assert "it is about &lt;views&gt;" in page and "<views>" not in page
    for shown in (index, text):
        assert "The claims kill 2 of 4 (50\u202f%) wrong implementations" in shown and "softmax.alive" in shown
    assert 'href="power.html"' in index and "Nobody &lt;sees&gt; it." in text


def test_placebos_have_a_column_each_and_a_table_by_operation(stored):
    found = read_record(matrix())
    names, lines = found.placebo_table
    assert names == ("zeros",) and [operation for operation, _ in lines] == ["merge", "softmax"]
    assert [name for _, name in found.picture.columns].count("placebo.zeros") == 1
    assert [group.name for group in found.picture.families] == ["numerics", "boundaries", "merge", "placebo"]


def test_squares_are_runs_of_one_path_a_way_to_fail():
    picture = read_record(matrix()).picture
    column, row = ({name: at for at, name in places} for places in (picture.columns, picture.rows))
    paths = {how: d for how, _, d in picture.paths}
    sums, shifts = row["spec/softmax.py::sums"], row["spec/softmax.py::shifts"]
    tail, zeros = column["softmax.cut_tail"], column["placebo.zeros"]
    assert paths[LAW] == f"M0 {shifts}m0 0h1M0 {sums}m{tail} 0h1m{zeros - tail - 1} 0h1"
    assert picture.alone == ((sums, column["softmax.cut_tail"]),)
    assert picture.survivors == (column["softmax.alive"], column["merge.half"])
    assert f"M0 {shifts}m0 0h2m" in picture.judged


def test_gates_and_plain_inputs_stand_beside_ours_where_they_were_run(realistic_state, stored):
    usual = matrix(gates={"allclose": ["softmax.alive", "softmax.cut_tail"], "grid": []}, plain_examples=100,
                   plain={"softmax.no_maximum": 40, "softmax.alive": None, "placebo.zeros.softmax": 1})  # fmt: skip
    found = read_record(usual)
    assert found.total.missed == {"allclose": 2, "grid": 0} and found.families[1].missed["allclose"] == 1
    assert found.plain == {"n": 2, "n_killed": 1, "median": 40.0, "most": 40.0}
    assert found.alive[-1] == (100, None, 1)
    page, text = power_html(realistic_state, stored(usual)), markdown(realistic_state, None, None, stored(usual))
    assert "What the usual gates miss" in page and "1 of 2 (50\u202f%) are noticed" in page
    assert "| boundaries | 1 | 0\u202f% | 100\u202f% | 0\u202f% |" in text
    assert "usual gates" not in power_html(realistic_state, stored(matrix()))


def test_until_killed_says_that_it_is_a_lower_bound(realistic_state, stored):
    page = power_html(realistic_state, stored(matrix(until_killed=True)))
    assert "lower bounds" in page and "the only one" not in page


def test_without_a_record_it_says_not_run_and_a_broken_one_is_named(realistic_state, tmp_path):
    for page in (power_html(realistic_state, tmp_path / "power.json"), html(realistic_state)):
        assert "<em>Not run.</em> <code>tox -e power</code>" in page
    assert "*Not run.* All claims on wrong implementations: `tox -e power`" in markdown(realistic_state)
    (tmp_path / "power.json").write_text('{"suspects": 3}')
    assert power(tmp_path / "power.json")["reason"].startswith("power.json cannot be read: ")
    assert "power.json cannot be read" in power_html(realistic_state, tmp_path / "power.json")


def test_a_full_matrix_is_a_small_page_that_needs_nothing_else(realistic_state, stored):
    rng = random.Random(1)
    names = [f"attention.a_wrong_implementation_with_a_long_name_{i}" for i in range(250)]
    claims = [claim(f"a_claim_with_a_rather_long_name_{i}") for i in range(230)]
    kills = [kill(c["claim"].partition("::")[2], name, rng.choice([LAW, VALUE]), rng.randint(1, 30))
             for name in names for c in claims if rng.random() < 0.25]  # fmt: skip
    suspects = [suspect(name, f"family {i % 12}") for i, name in enumerate(names)]
    found = matrix(suspects=suspects, claims=claims, kills=kills)
    page = power_html(realistic_state, stored(found))
    assert len(page) < 400_000
    assert "@import" not in page and "<link" not in page and "src=" not in page


# -- diagnosis ---------------------------------------------------------------------------------------------------------
def bugs():
    """Two of one family that fail a and b, one of another that fails b, c and d."""
    kills = {"numerics.1": "ab", "numerics.2": "ab", "masks.1": "bcd"}
    return {
        "examples": 30, "seed": 1, "until_killed": False, "problems": [], "claims": [claim(name) for name in "abcd"],
        "suspects": [suspect(name, name[:-2], f"The fault is {name}.") for name in kills]
        + [suspect("placebo.zeros.softmax", "placebo")],
        "kills": [kill(c, name) for name, own in kills.items() for c in own] + [kill("a", "placebo.zeros.softmax")],
    }  # fmt: skip


@pytest.fixture
def known(tmp_path):
    path = tmp_path / "known.json"
    path.write_text(as_text(known_bugs(bugs())))
    return path


def failing(folded, **verdicts):
    events = Events()
    events.implementation("mine")
    for name, verdict in verdicts.items():
        events.claim(f"spec/softmax.py::{name}", if_fails=f"what {name} says")
        events.check(f"spec/softmax.py::{name}[mine-float32]", verdict)
        events.check(f"spec/softmax.py::{name}[mine-float64]", "holds")
    return folded(events)


def test_known_bugs_are_one_a_line_and_read_back(known):
    lines = known.read_text().splitlines()
    assert len(lines) == 3 + 2 and lines[1].startswith('{"name": "masks.1"') and "placebo" not in known.read_text()
    assert sorted(read(known), key=lambda b: b.name) == sorted(known_bugs(bugs()), key=lambda b: b.name)
    known.write_text("[{}]")
    with pytest.raises(ValueError, match="known.json holds no known bugs .* --save-known writes it"):
        read(known)


def test_a_red_implementation_looks_like_the_bug_that_fails_the_same_claims(folded, known):
    state = failing(folded, a="law fails", b="unfaithful", c="holds", d="unsupported")
    found, reason = diagnoses(state, known)
    near = found["mine"].nearest
    assert reason == "" and found["mine"].families[0][0] == "numerics"
    assert [n.known.name for n in near] == ["numerics.1", "numerics.2", "masks.1"]
    assert [c["claim"][-1] for c in near[0].both] == ["a", "b"]  # only numerics fails a
    assert near[0].absent["claim"].endswith("::c") and near[0].explained == 1.0 and near[2].explained == 0.5
    assert found["mine"].look_at["if_fails"] == "what a says"
    page, text = html(state, None, None, None, known), markdown(state, None, None, None, known)
    words = "as when the fault is numerics.1."
    assert words in page and words in text and "<strong>Look first at</strong> what a says." in page
    assert "explains 2 of 2 (100\u202f%) of the failing claims" in text
    assert "Fails *a*, *b*, and not *c*: as when the fault is numerics.1" in text


def test_nothing_is_diagnosed_where_nothing_is_red_or_known(folded, known, tmp_path):
    assert diagnoses(failing(folded, a="holds", b="holds"), known) == ({}, "")
    assert diagnoses(failing(folded, a="law fails"), tmp_path / "none.json") == ({}, "")
    known.write_text("{")
    state = failing(folded, a="law fails")
    assert "holds no known bugs" in diagnoses(state, known)[1]
    assert "holds no known bugs" in html(state, None, None, None, known)


def test_a_weak_likeness_is_said_to_be_one(folded, known):
    state = failing(folded, a="law fails", x="law fails", y="law fails")
    assert "No known bug explains half of the failures." in html(state, None, None, None, known)


def test_the_page_says_how_often_a_diagnosis_is_right(realistic_state, stored, known):
    noticed = {"numerics.1": "spec/softmax.py", "numerics.2": "spec/softmax.py", "masks.1": "spec/masks.py"}
    known.write_text(as_text([
        Known(name, name[:-2], f"The fault is {name}.", "", frozenset({"softmax"}), {f"{file}::a": ("law fails", 1)})
        for name, file in noticed.items()]))  # fmt: skip
    page = power_html(realistic_state, stored(matrix()), known)
    assert "The right family came first for 2 of 3 (67\u202f%)" in page
    assert "<code>masks.1</code> (masks), taken for numerics" in page
    assert "diagnosed by the others" not in power_html(realistic_state, stored(matrix()))


def test_titles_become_the_end_of_a_sentence():
    assert clause("The maximum is 0.") == "the maximum is 0" and clause("NaN stays.") == "NaN stays"
    assert clause("A tail is cut.") == "a tail is cut" and clause("GQA heads") == "GQA heads"
    assert thread("001, section 5.3") == "note 001, section 5.3" and thread("vllm#1") == "vllm#1"
    assert thread("none; one instruction") == "from no thread; one instruction" and thread("") == "from no thread"
    assert (probability(0.9999), probability(0.5)) == ("over 99\u202f%", "50\u202f%")


def test_the_report_needs_no_torch():
    code = "import sys, properties.report.__main__, properties.power.diagnosis; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0, done.stderr
