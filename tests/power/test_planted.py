"""Power: nine planted bugs are found by the claims at the default profile, and shrunk to at most three non-zeros."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from properties import cells
from properties.claims import Claim
from properties.collecting import claims_in
from properties.memory import Laid
from properties.plugin import PROFILES
from properties.strategies import Inputs
from properties.subjects import load

ROOT = Path(__file__).parents[2]
SUBJECTS = {s.name.partition(".")[2]: s for s in load(Path(__file__).with_name("planted.py"), name="planted")[0]}
BUGS = sorted(set(SUBJECTS) - {"right"})


CLAIMS = claims_in(ROOT / "spec")


def run(claim: Claim, name: str, dtype: str, seed: int) -> cells.Outcome:
    column = cells.Column("implementation", SUBJECTS[name], dtype)
    return cells.run(claim, column, cells.Budget(PROFILES["quick"], seed))


def judging(name: str, dtype: str) -> list[Claim]:
    """The claims that are judged on a kernel that provides these operations."""
    return [c for c in CLAIMS if set(c.operations) & set(SUBJECTS[name].operations)
            and any(column.subject for column in cells.columns(c, [SUBJECTS[name]], (dtype,)))]


def non_zeros(drawn) -> int:
    """The number of non-zeros in everything that was drawn."""
    if isinstance(drawn, torch.Tensor):
        return int((drawn != 0).sum()) if drawn.dtype.is_floating_point else 0
    if isinstance(drawn, Inputs):
        return sum(map(non_zeros, drawn))
    if isinstance(drawn, Laid):
        return non_zeros(drawn.values)
    if isinstance(drawn, dict):
        return sum(map(non_zeros, drawn.values()))
    return sum(map(non_zeros, drawn)) if isinstance(drawn, (tuple, list)) else 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("bug", BUGS)
def test_found_and_shrunk(bug, dtype):
    smallest = None
    for claim in judging(bug, dtype):
        outcome = run(claim, bug, dtype, seed=1)
        if outcome.verdict in ("law fails", "unfaithful"):
            count = non_zeros(outcome.failure.drawn)
            smallest = count if smallest is None else min(smallest, count)
            if smallest <= 3:
                return
    assert smallest is not None, f"{bug} survives every claim"
    assert smallest <= 3, f"{bug}: the smallest counterexample has {smallest} non-zeros"


@pytest.mark.timeout(600)
def test_the_kernel_without_a_bug_is_not_accused():
    for claim in judging("right", "float32"):
        outcome = run(claim, "right", "float32", seed=1)
        assert outcome.verdict in ("holds", "unsupported"), f"{claim.name}: {outcome.message}"
