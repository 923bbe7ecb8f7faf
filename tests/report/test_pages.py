"""The pages: complete, self-contained, escaped, and honest about what was not run."""

import json
import re
import sys
from html.parser import HTMLParser

import pytest

from properties.report import figures, pages
from properties.report.__main__ import main
from properties.report.schema import read_events
from properties.report.sections import sections
from properties.report.state import fold
from properties.report.summary import answers, as_json, counts, coverage, implementation_facts, look_first
from tests.report.synthetic import BLOCKS, ROWS, SCALE, SCRIPT, SHIFT, VIEWS, WHOLE, Events, realistic

VOID = {"meta", "input", "br", "wbr", "link", "img", "hr"}


class Page(HTMLParser):
    """Tags with attributes, text, and whether every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.mistakes = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.mistakes.append((tag, self.getpos()))

    def handle_data(self, data):
        self.text.append(data)

    def attributes(self, *names):
        return [found[name] for _, found in self.tags for name in names if found.get(name)]


@pytest.fixture(scope="module")
def text(realistic_state):
    return pages.html(realistic_state)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.fixture(scope="module")
def markdown(realistic_state):
    return pages.markdown(realistic_state)


def test_the_page_is_well_formed_and_ids_are_unique(page):
    assert not page.mistakes and not page.open
    ids = page.attributes("id")
    assert len(ids) == len(set(ids)) > 40


def test_every_link_inside_the_page_leads_somewhere(page):
    ids = set(page.attributes("id"))
    inner = [href[1:] for tag, found in page.tags if tag == "a" and (href := found["href"]).startswith("#")]
    assert len(inner) > 60 and not set(inner) - ids


def test_nothing_is_loaded_from_elsewhere(page, text):
    outer = [value for value in page.attributes("src", "href", "xlink:href") if not value.startswith("#")]
    assert outer == ["https://github.com/pytorch/pytorch/issues/1"]
    assert not {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "embed"}
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_squares_carry_the_class_of_their_verdict_only(page, realistic_state):
    squares = [found for _, found in page.tags if ": " in found.get("title", "") and "class" in found]
    greys = [found for found in squares if re.search(": (not run|unsupported|stale)", found["title"])]
    goods = [found for found in squares if re.search(": (holds|refuted)", found["title"].split("\n")[0])]
    reds = [found for found in squares if re.search(": (law fails|crashed|timed out)", found["title"])]
    assert len(greys) == 2 and all(found["class"].split() == ["grey"] for found in greys)
    assert len(reds) == 3 and all(found["class"].split() == ["bad"] for found in reds)
    assert len(goods) == counts(realistic_state.cells).family("good")


def test_stale_and_not_run_never_look_good(folded):
    cell = f"{SHIFT}[naive-float32]"
    old = Events("old").claim(SHIFT).implementation("naive").check(cell)
    new = Events("new", after=60).claim(SHIFT, digest="claim-2").implementation("naive")
    state = folded(old, new.plan(cell, f"{SHIFT}[naive-float16]"))
    page = Page(pages.html(state))
    marks = [found["class"] for tag, found in page.tags if tag == "a" and "class" in found and found["class"] != "back"]
    assert marks == ["grey", "grey"]
    assert not [found for tag, found in page.tags if tag == "span" and found.get("class") in ("badge good", "good")]
    assert "was: holds" in pages.html(state)


def test_what_comes_from_outside_is_escaped(page, text):
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "<script>alert(1)" not in text and "&lt;script&gt;alert(1)" in text
    assert "<b>not bold</b>" not in text
    words = "".join(page.text)
    assert SCRIPT in words and "Softmax is <exactly> this & nothing else" in words and "<EPYC>" in words


def test_a_link_that_is_no_web_address_is_text(folded):
    events = Events().claim(SHIFT).implementation("naive")
    state = folded(events.check(f"{SHIFT}[naive-float32]", "expected failure", link="javascript:alert(1)"))
    page = Page(pages.html(state))
    assert not [href for href in page.attributes("href") if not href.startswith("#")]
    assert "javascript:alert(1)" in "".join(page.text) and "javascript" not in pages.markdown(state)


def test_sections_show_formula_refutation_condition_and_proof(page, text):
    pytest.importorskip("latex2mathml")
    assert sum(tag == "math" for tag, _ in page.tags) == 5  # one claim of the six has no formula
    words = " ".join("".join(page.text).split())
    for expected in (
        "What is printed there is false. What is true instead: Merging the states of two blocks gives the whole.",
        "off by 0.15 at (0, 0), budget 1e-7: 1.5e6",
        "no_empty_row: every row sees a key.",
        "Without the condition it fails",
        "Eq(softmax(x + c), softmax(x)) # x < y",
        "row 001-115 (judged false)",
        "off by 1 at (0, 0), budget 1e-15",
        "false, and shown to be",
        "Likely cause: the maximum is not subtracted.",
        "my_kernel.py:3 no operation <here>",
    ):
        assert expected in words
    assert "top-left" in text and "instead of bottom-right" in words


def test_numbers_of_the_page_have_denominators(page, realistic_state):
    words, total = re.sub("[ \n]+", " ", "".join(page.text)), len(realistic_state.cells)
    assert re.search(rf"\d+ of {total} cells hold", words)
    assert "Proofs: 1 of 2 (50\u202f%) hold" in words
    assert "4 of 16 (25\u202f%) cells red" in words
    assert "holds: held on every example, within the error budget (" in words


def test_without_latex2mathml_and_matplotlib_the_page_still_comes(realistic_state, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(pages._environment().filters, "formula", lambda latex: None)
    page = Page(pages.html(realistic_state))
    assert not [tag for tag, _ in page.tags if tag in ("math", "svg")]
    words = "".join(page.text)
    assert r"\operatorname{softmax}(x + c\mathbf 1)" in words and "need matplotlib" in words


def test_plots_take_the_largest_use_of_cells_that_hold(realistic_state):
    pytest.importorskip("matplotlib")
    drawn, note = figures.figures(realistic_state.cells)
    assert len(drawn) == 3 and not note
    holding = [c for c in realistic_state.cells if c.leg == "implementation" and c.family == "good"]
    assert f"over the {len(holding)} cells" in drawn[0].caption
    assert "currentColor" in drawn[0].svg and "sequence length (elements, rounded up to 2ᵏ)" in drawn[0].svg
    profile = figures.budget_profile(holding, "length")
    assert profile["float32"] == {1.0: 0.01, 32.0: 0.2, 512.0: 0.31} and list(profile)[0] == "float64"


def test_markdown_has_denominators_findings_and_scripts(markdown, realistic_state):
    total = len(realistic_state.cells)
    assert re.search(rf"\d+ of {total} cells hold", markdown)
    assert "| spec/softmax.py | 1/2 **1 red** | 3/3 |" in markdown
    assert "### hot: 4 of 16 (25\u202f%) cells red" in markdown
    assert "Problem: `my_kernel.py:3` no operation &lt;here&gt;" in markdown
    assert "off \\| by \\`much\\`" in markdown
    assert SCRIPT.rstrip() in markdown and "- x = `[[0, 2]]`" in markdown
    assert "[link](<https://github.com/pytorch/pytorch/issues/1>)" in markdown
    outside_code = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    assert "<script>" not in outside_code
    assert outside_code.count("<details>") == outside_code.count("</details>") > 3


def test_a_fence_is_longer_than_what_it_holds():
    assert pages.fenced("a ```` b").startswith("`````python\n")


def test_json_is_strict_and_holds_the_state(realistic_state):
    def refuse(name):
        raise AssertionError(name)

    read = json.loads(pages.as_json(realistic_state), parse_constant=refuse)
    assert len(read["cells"]) == read["summary"]["cells"] == len(realistic_state.cells)
    assert read["summary"]["verdicts"]["unfaithful"] == 1
    assert {row["row"]: row["answer"] for row in read["ledger"]}["002-001"] == "no claim yet"


def test_a_number_too_large_for_json_is_written_as_a_string(tmp_path):
    events = Events().claim(SHIFT).implementation("naive").check(f"{SHIFT}[naive-float32]")
    path = events.write(tmp_path)
    path.write_text(path.read_text().replace('"budget_used": 0.31', '"budget_used": 1e999'))
    read = json.loads(pages.as_json(fold(*read_events(tmp_path))))
    assert read["cells"][0]["check"]["budget_used"] == "inf"


def test_what_to_look_at_first_starts_where_the_claims_are_in_doubt(realistic_state):
    groups = look_first(realistic_state)
    assert [group.name for group in groups] == ["proofs", "exact values", "hot", "naive"]
    (item,) = groups[2].items
    assert item.cell.verdict == "crashed" and item.dtypes == "f64, f32, f16 and bf16"


def test_the_section_of_a_claim_gathers_its_evidence(realistic_state):
    found = {section.claim["claim"]: section for _, part in sections(realistic_state) for section in part}
    assert found[BLOCKS].family == "good" and found[BLOCKS].evidence.relation.verdict.startswith("off by 1 at (0, 0)")
    assert [claim["claim"] for claim in found[BLOCKS].corrected_by] == [WHOLE]
    assert found[SHIFT].status == "proved, and holds" and found[VIEWS].status == "holds"
    assert found[ROWS].family == "bad" and found[ROWS].evidence.number == "3rd"
    (hot,) = found[SCALE].failures
    assert hot.cell.dtype == "float32" and len(hot.cells) == 4 and hot.counterexample.script == SCRIPT
    (result,) = hot.counterexample.calls[0].results
    assert result.left.matrices[0][1][0][0].marked and not result.left.matrices[0][1][0][1].marked


def test_a_claim_with_cells_left_to_run_is_not_called_good(folded):
    events = Events().claim(SHIFT).implementation("naive").plan(f"{SHIFT}[naive-float16]")
    ((_, (section,)),) = sections(folded(events.check(f"{SHIFT}[naive-float32]")))
    assert (section.status, section.family) == ("holds where it was run: 1 of 2 cells", "grey")


def test_coverage_counts_rows_with_a_claim(realistic_state):
    priorities, table = coverage(answers(realistic_state))
    lines = {line["verdict"]: line["parts"] for line in table}
    assert priorities == [1, 2, 3] and list(lines) == ["true", "conditional", "false", "not checkable", "all"]
    assert lines["true"] == {1: (1, 1), 2: (0, 1), 3: (0, 0), None: (1, 2)}
    assert lines["all"][None] == (3, 5)


def test_facts_of_an_implementation(realistic_state):
    fused, hot, naive = implementation_facts(realistic_state)
    assert hot.differences == {"causal": "top-left"} and not naive.differences
    assert hot.budgets == dict.fromkeys(["float64", "float32", "float16", "bfloat16"], 0.31)
    assert (fused.tally.total, fused.tally.family("good")) == (8, 6)
    assert naive.inside == pytest.approx(0.25)


def test_the_command_writes_four_files_and_succeeds_with_red_cells(tmp_path, capsys):
    realistic(tmp_path / "events")
    assert main(["--events", str(tmp_path / "events"), "--out", str(tmp_path / "out")]) == 0
    written = [tmp_path / "out" / name for name in ("index.html", "power.html", "report.md", "report.json")]
    assert capsys.readouterr().out.split() == [str(path) for path in written]
    first = [path.read_bytes() for path in written]
    assert main(["--events", str(tmp_path / "events"), "--out", str(tmp_path / "out")]) == 0
    assert [path.read_bytes() for path in written] == first  # the same events give the same pages
    assert as_json(fold([])) and all(first)


def test_without_events_the_command_says_what_to_do(tmp_path, capsys):
    assert main(["--events", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "There are no events in" in (said := capsys.readouterr().err) and "--events" in said
    assert not (tmp_path / "out").exists()
