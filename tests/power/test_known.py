"""Known bugs as they are committed and used: refused where they are incomplete, named in a run's last words."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from properties.power.__main__ import main
from properties.power.diagnosis import diagnose, most_telling, telling_absence, verdicts_seen
from properties.power.known import Known, as_text, read
from properties.power.matrix import Places
from properties.session import Session

ROOT = Path(__file__).parents[2]
LAW, VALUE = "law fails", "unfaithful"
TILED = Known("attention.tiled", "head mapping", "Heads are tiled.", "jax-js#180", frozenset({"attention"}),
              {"any": (VALUE, 1), "heads": (LAW, 1), "sums": (LAW, 3), "rare": (LAW, 9)})
SCALED = Known("attention.scaled", "scale", "The scale is 1 / d.", "", frozenset({"attention"}),
               {"any": (VALUE, 1), "sums": (LAW, 1), "scales": (LAW, 1)})
BUGS = [TILED, SCALED]


@pytest.fixture
def session(tmp_path):
    """What `looks_like` asks a session for."""
    known = tmp_path / "known.json"
    known.write_text(as_text(BUGS))
    checks = [("any", VALUE), ("any", "holds"), ("heads", LAW), ("sums", LAW), ("scales", "holds"),
              ("rare", "unsupported")]
    return SimpleNamespace(places=SimpleNamespace(known=known), examples=30, judged={"mine": checks}, ablated={},
                           operations={})


def test_per_claim_the_worst_verdict_over_dtypes_counts_and_what_was_not_judged_does_not():
    checks = [("a", "holds"), ("a", VALUE), ("a", LAW), ("b", "holds"), ("c", "unsupported"), ("c", "error"),
              ("d", "crashed")]
    assert verdicts_seen(checks) == {"a": LAW, "b": "holds", "d": "crashed"}


def test_a_failed_law_tells_more_than_a_wrong_value_and_a_quick_kill_more_than_a_late_one():
    seen = {"any": VALUE, "heads": LAW, "sums": LAW, "rare": LAW, "scales": "holds"}
    ranked = diagnose(seen, BUGS, examples=30)
    assert ranked[0].known is TILED and most_telling(ranked[0], seen, BUGS) == ["heads", "sums", "rare", "any"]
    assert telling_absence(ranked[0], seen, ranked) == "scales"
    assert ranked[1].explained == 0.5 and ranked[1].only_there == ("scales",)


def test_the_last_words_name_the_nearest_bug(session):
    assert Session.looks_like(session, "mine") == "head mapping; nearest known bug: Heads are tiled. (head mapping)"
    assert Session.looks_like(session, "another") == ""
    session.judged["mine"] += [("x", LAW), ("y", LAW), ("z", LAW), ("w", LAW)]          # most is explained by nothing
    assert Session.looks_like(session, "mine") == ""


def test_the_last_words_do_without_known_bugs_and_say_so_if_the_file_is_broken(session):
    session.places.known.write_text("[1]")
    assert "holds no known bugs" in Session.looks_like(session, "mine")
    session.places.known.unlink()
    assert Session.looks_like(session, "mine") == ""


def test_an_incomplete_matrix_is_not_saved(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["spec", "--base", "impls/naive.py", "--until-killed", "--save-known", str(tmp_path / "known.json")])
    assert "--save-known needs the whole matrix" in capsys.readouterr().err


def test_the_committed_bugs_are_those_of_the_tree():
    """A bug or a claim that was renamed would silently take no more part in diagnosis."""
    places = Places(ROOT / "spec", ROOT / "impls" / "naive.py", (ROOT / "impls" / "wrong",))
    suspects, problems = places.suspects()
    bugs = read(ROOT / "impls" / "wrong" / "known.json")
    again = "run python -m properties.power with --save-known impls/wrong/known.json"
    assert not problems
    assert {b.name: b.family for b in bugs} == {s.name: s.family for s in suspects}, again
    assert {claim for b in bugs for claim in b.kills} <= {f"{c.file}::{c.name}" for c in places.claims()}, again
