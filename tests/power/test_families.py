"""The sort of a mistake is told from known bugs; how often rightly, is measured by holding each of them back."""

from pathlib import Path

import pytest

from properties.power.cures import SEEN
from properties.power.families import features, fit, held_back
from properties.power.known import Known, about, read

ROOT = Path(__file__).parents[2]
FIRST = 0.8                 # of the known bugs: how often the right family must be named first when they are held back


@pytest.fixture(scope="module")
def bugs():
    return read(ROOT / "impls" / "wrong" / "known.json")


def described(bug: Known) -> dict[str, float]:
    return features(bug.kills, bug.about, bug.cures)


def test_the_right_family_is_named_first(bugs):
    found = held_back(bugs)
    assert sum(bug.first for bug in found) >= FIRST * len(bugs), [bug.known.name for bug in found if not bug.first]
    assert sum(bug.among_two for bug in found) > sum(bug.first for bug in found)


def test_leaving_out_in_closed_form_is_a_fit_without_the_bug(bugs):
    some = bugs[::7]
    for place, (bug, ranked) in enumerate(zip(some, fit(some).leaving_one_out(), strict=True)):
        again = dict(fit(some[:place] + some[place + 1:]).of(described(bug)))
        assert {family: share for family, share in ranked if share} == pytest.approx(
            {family: share for family, share in again.items() if share})


def test_shares_add_up_to_one_and_a_known_bug_is_its_own_likeliest(bugs):
    fitted = fit(bugs)
    for bug in bugs[::20]:
        ranked = fitted.of(described(bug))
        assert sum(share for _, share in ranked) == pytest.approx(1) and ranked[0][0] == bug.family


def test_what_is_described():
    cures = {"with one head": (1, 2), "in float64": (2, 2), SEEN + "slightly off": (1, 4), "with 16 keys": (0, 0)}
    found = features(["spec/a.py::x", "spec/a.py::y", "spec/b.py::z"], {"softmax": 1.0}, cures)
    assert found["spec/a.py"] == 2 * found["spec/b.py"] > 0 and found["about softmax"] == 1
    assert found["with one head"] == 0 < found["in float64"] and found[SEEN + "slightly off"] == 0.25
    assert found["most of heads"] == 0 and "with 16 keys" not in found and "most of a few" not in found


def test_the_share_of_claims_about_an_operation():
    assert about(["x", "y"], {"x": ["softmax", "merge"], "y": ["softmax"]}) == {"merge": 0.5, "softmax": 1.0}
    assert about([], {}) == {}
