"""Ablation tells what cures a failing call, and diagnosis makes use of it."""

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from properties.collecting import claims_in
from properties.power.ablation import ablate
from properties.power.cures import ANEW, CONTIGUOUS, STAY, WRITTEN, counted, log_likelihood, usual
from properties.power.diagnosis import diagnose
from properties.power.kills import first_failing
from properties.power.known import Known, as_text, read
from properties.report.near import cured_in_words
from properties.subjects import load

ROOT = Path(__file__).parents[2]
KERNEL = '''
import torch

kept = {{}}


def softmax(x):
    """Wrong on purpose."""
    y = torch.softmax(x.double(), -1).to(x.dtype)
    {wrong}
    return y
'''


@pytest.fixture
def cures_of(tmp_path):
    """What cures softmax of two rows of 20, with a line that makes it wrong."""
    numbers = count()

    def cures(wrong: str):
        path = tmp_path / f"kernel_{next(numbers)}.py"
        path.write_text(KERNEL.format(wrong=wrong))
        (subject, *_), problems = load(path, name="kernel")
        assert not problems

        class Softmax:
            name, file, arguments = "softmax", "spec/softmax.py", ("impl", "x")

            @staticmethod
            def body(impl, x):
                impl.softmax(x.flip(-1))
                impl.softmax(x)

        return ablate(Softmax, subject, "float32", {"x": torch.arange(40.0, dtype=torch.float64).reshape(2, 20) / 9})
    return cures


def test_a_block_that_is_too_short_is_cured_by_fewer_columns_and_not_by_fewer_rows(cures_of):
    found = cures_of("y[..., 16:] = 0")
    assert "with 16 columns" in found.cured and {"with one row", "with small values"} <= set(found.not_cured)
    assert STAY in found.not_cured


def test_numbers_that_nobody_wrote_do_not_follow_the_inputs(cures_of):
    assert STAY in cures_of("y[..., 16:] = 0.5").cured


def test_what_is_remembered_is_forgotten_when_imported_anew(cures_of):
    found = cures_of("y = kept.setdefault(x.shape, y).clone()")
    assert ANEW in found.cured and "with one row" not in found.cured + found.not_cured


def test_an_input_that_is_written_needs_no_repairs(cures_of):
    assert cures_of("x += 1").cured == (WRITTEN,)


def test_decisive_repairs_count_as_tried_on_every_call():
    seen = counted([((CONTIGUOUS,), ()), ((), ("with one row",))])
    assert seen[CONTIGUOUS] == (1, 2) and seen["with one row"] == (0, 1)


def test_the_first_failing_example_is_found_anew_and_not_shrunk():
    claim = next(c for c in claims_in(ROOT / "spec") if (c.file, c.name) == ("spec/softmax.py", "shift_invariance"))
    (right, *_), _ = load(ROOT / "impls" / "naive.py", name="naive")
    wrong = replace(right, operations=right.operations | {"softmax": lambda x: torch.softmax(x * x, -1)})

    def drawn(subject, seconds=60.0):
        return first_failing(claim, subject, "float32", examples=30, seed=1, seconds=seconds)

    found = drawn(wrong)
    assert (found["x"] != found["x"].round()).any()                 # shrinking ends in whole numbers
    assert torch.equal(found["x"], drawn(wrong)["x"])
    assert drawn(right) is None and drawn(wrong, seconds=-1.0) is None


def bug(name, family, operation, cures, kills=("any",)):
    return Known(name, family, f"{name}.", "", frozenset({operation}), {c: ("unfaithful", 1) for c in kills}, cures)


def test_cures_outweigh_claims_and_what_was_expected_tips_the_scales(tmp_path):
    masked, strided = {"without the mask": (5, 5), "with one head": (0, 5)}, {"with one head": (5, 5)}
    bugs = [bug("a", "masks", "softmax", masked, ("any", "other")), bug("b", "head mapping", "attention", strided)]
    usually = usual(b.cures for b in bugs)
    assert log_likelihood(masked, masked, usually) > log_likelihood(masked, strided, usually)
    seen = {"any": "unfaithful", "other": "holds"}

    def nearest(**options):
        return diagnose(seen, bugs, examples=30, **options)[0].known.name

    assert nearest() == "b" and nearest(cures=masked) == "a"
    assert nearest(families=[("masks", 0.99), ("head mapping", 0.01)]) == "a"
    (tmp_path / "known.json").write_text(as_text(bugs))
    assert read(tmp_path / "known.json") == bugs


def test_cures_are_told_in_a_sentence():
    seen = {"without the mask": (2, 2), "with one head": (0, 2), CONTIGUOUS: (0, 2)}
    assert cured_in_words(seen) == "Right without the mask; still wrong with one head."
    assert cured_in_words({"with one head": (0, 2)}) == ""
