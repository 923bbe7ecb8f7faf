"""The kill matrix: who is killed, who survives, who takes the process along, and what the gate says of it."""

import os
import textwrap
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from properties.power import matrix
from properties.power.diagnosis import diagnose
from properties.power.families import held_back
from properties.power.kills import Kill
from properties.power.known import known_bugs
from properties.power.matrix import Places
from properties.power.reading import first_kills, killers
from properties.power.verdict import faults, record, summary

ROOT = Path(__file__).parents[2]
SPEC = '''
    """Two claims."""

    from properties import agree, claim, given, rows


    @claim(rows="001-119", formula="")
    @given(x=rows())
    def scores_may_be_shifted(impl, x):
        """A shift by 1000 changes nothing."""
        agree(impl.softmax(x + 1000), impl.softmax(x))


    @claim(rows="001-119", formula="")
    @given(x=rows())
    def scores_may_be_reversed(impl, x):
        """Reversed scores give reversed weights."""
        agree(impl.softmax(x.flip(-1)), impl.softmax(x).flip(-1))


    @claim(rows="001-119", formula="")
    @given(x=rows())
    def nothing(impl, x):
        """This can not fail."""
        impl.log_sum_exp(x)
'''
WRONG = '''
    """Wrong softmax."""

    import os
    import time

    import torch


    def right(x):
        """Nothing is wrong here.

        Notes: none.
        Family: numerics.
        """
        e = torch.exp(x - x.amax(-1, keepdim=True).clamp(min=-1e30)) if x.shape[-1] else x.clone()
        return e / e.sum(-1, keepdim=True).clamp(min=1e-30)


    def no_maximum(x):
        """The maximum is not subtracted.

        Shipped: pytorch#62897.
        Family: numerics.
        """
        return torch.exp(x) / torch.exp(x).sum(-1, keepdim=True)


    def ends_the_process(x):
        """Closes the files of its process, then ends it, when a row has more than one score.

        Notes: none.
        Family: boundaries.
        """
        if x.shape[-1] > 1:
            os.closerange(3, 256)
            time.sleep(0.5)
            os._exit(3)
        return right(x)


    def hangs(x):
        """Never returns when a row has more than one score.

        Notes: none.
        """
        while x.shape[-1] > 1:
            time.sleep(0.1)
        return right(x)
'''
PLACEBO = '''
    """Zeros."""

    import torch


    def softmax(x):
        return torch.zeros_like(x)
'''


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("power")
    for name, text in (("spec/small.py", SPEC), ("wrong/softmax.py", WRONG), ("placebo/zeros.py", PLACEBO)):
        path = folder / name
        path.parent.mkdir()
        path.write_text(textwrap.dedent(text).lstrip())
    places = Places(folder / "spec", ROOT / "impls" / "naive.py", (folder / "wrong",), (folder / "placebo",))
    silence, matrix.SILENCE = matrix.SILENCE, 15.0
    try:
        found = matrix.run(places, examples=10, seed=1)
    finally:
        matrix.SILENCE = silence
    return record(found, places.claims(), places.suspects()[0])


def how(found, suspect):
    return {kill["claim"].rpartition("::")[2]: kill["how"] for kill in found["kills"] if kill["suspect"] == suspect}


def test_a_wrong_implementation_is_killed_by_the_claim_that_it_breaks(judged):
    assert how(judged, "softmax.no_maximum")["scores_may_be_shifted"] == "law fails"
    assert all(1 <= kill["example"] <= 10 for kill in judged["kills"])


def test_one_that_ends_or_stops_its_process_is_killed_and_takes_nobody_along(judged):
    assert set(how(judged, "softmax.ends_the_process").values()) == {"crashed"}
    assert set(how(judged, "softmax.hangs").values()) == {"timed out"}
    assert len(killers(judged)["softmax.ends_the_process"]) == 2


def test_a_right_one_survives_and_a_placebo_does_not(judged):
    assert not how(judged, "softmax.right")
    assert how(judged, "placebo.zeros.softmax")


def test_the_gate_names_survivors_idle_claims_and_missing_families(judged):
    wrong = "\n".join(faults(judged))
    assert "softmax.right" in wrong and "survives all of its 2 claims: Nothing is wrong here." in wrong
    assert "softmax.hangs" in wrong and "names no family" in wrong
    assert "softmax.no_maximum" not in wrong
    assert "the placebo" not in wrong                     # both claims reject it: there are no three
    assert "3 of 4 wrong implementations killed, 1 of 1 placebos" in summary(judged)
    idle = judged | {"kills": [k for k in judged["kills"] if "reversed" not in k["claim"]]}
    assert "scores_may_be_reversed kills nothing and does not say why" in "\n".join(faults(idle))


def test_the_first_kill_is_that_of_the_quickest_claim(judged):
    for suspect, example in first_kills(judged).items():
        assert example == min(kill["example"] for kill in judged["kills"] if kill["suspect"] == suspect)


def test_until_killed_judges_no_further(tmp_path):
    (tmp_path / "spec").mkdir()
    (tmp_path / "spec" / "small.py").write_text(textwrap.dedent(SPEC).lstrip())
    places = Places(tmp_path / "spec", ROOT / "impls" / "naive.py", (), (ROOT / "impls" / "placebo",))
    found = matrix.run(places, examples=3, seed=1, until_killed=True, jobs=1)
    assert len(found.kills) == len({kill.suspect for kill in found.kills}) > 3


@dataclass(frozen=True)
class LeavesATimer:
    """A judge whose first task ends its process a moment after it is through; the next one takes longer than that."""

    name: str
    places: Places
    judges = staticmethod(lambda suspect: True)

    def kills_of(self, suspects, **options):
        first_time = self.places.spec / "first time"
        if self.name == "first":
            first_time.touch()
            threading.Timer(0.5, os._exit, [3]).start()
        elif first_time.exists():
            first_time.unlink()
            time.sleep(5)
        return [Kill(self.name, s.name, "float32", "law fails", 1, "") for s in suspects]


def leaving_a_timer(places):
    return [LeavesATimer("first", places), LeavesATimer("second", places)]


def test_what_a_suspect_left_behind_is_blamed_on_nobody_and_judged_again(tmp_path):
    places = Places(tmp_path, ROOT / "impls" / "naive.py", (ROOT / "impls" / "wrong",))
    found = matrix.run(places, examples=1, seed=1, jobs=1, judges=leaving_a_timer)
    assert {kill.how for kill in found.kills} == {"law fails"}
    assert {kill.claim for kill in found.kills} == {"first", "second"}
    assert len(found.kills) == len({(kill.claim, kill.suspect) for kill in found.kills}) > 2
    assert list(tmp_path.iterdir()) == []


def suspect(name, family, **kills):
    return ({"name": name, "family": family, "title": name, "operations": ["softmax"], "claims": 6},
            [{"suspect": name, "claim": c, "dtype": "float32", "how": h, "example": 1} for c, h in kills.items()])


def test_diagnosis_names_the_family_whose_bugs_fail_the_same_claims():
    parts = [suspect("a1", "scale", c1="law fails", c2="law fails"),
             suspect("a2", "scale", c1="law fails", c2="unfaithful"),
             suspect("b1", "masks", c3="law fails", c4="unfaithful"),
             suspect("b2", "masks", c3="law fails", c4="unfaithful"),
             suspect("lonely", "cache", c5="crashed")]
    found = {"examples": 30, "suspects": [s for s, _ in parts], "kills": [k for _, kills in parts for k in kills],
             "claims": [{"claim": f"c{i}", "operations": ["softmax"]} for i in range(1, 7)]}
    seen = {"c1": "law fails", "c2": "law fails", "c3": "holds", "c4": "holds", "c5": "holds", "c6": "holds"}
    ranked = diagnose(seen, known_bugs(found), examples=30)
    assert [like.known.name for like in ranked] == ["a1", "a2"]
    assert ranked[0].both == ("c1", "c2") and ranked[0].only_here == ()
    (*_, lonely), others = held_back(known_bugs(found)), held_back(known_bugs(found))[:-1]
    assert all(bug.first for bug in others) and not lonely.first and lonely.known.family == "cache"
