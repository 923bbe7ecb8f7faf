"""Reach: what a claim discards never outweighs what it keeps, and its examples really differ in shape."""

from pathlib import Path

import pytest

from properties import cells
from properties.collecting import claims_in
from properties.plugin import PROFILES
from properties.subjects import load

ROOT = Path(__file__).parents[2]
NAIVE = load(ROOT / "impls" / "naive.py", name="naive")[0][0]
CLAIMS = [c for c in claims_in(ROOT / "spec") if c.takes_implementation and c.kind not in ("refuted", "cost")]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: f"{Path(c.file).stem}-{c.name}")
def test_examples_are_kept_and_differ(claim):
    dtype = (claim.dtypes or ("float32",))[0]
    outcome = cells.run(claim, cells.Column("implementation", NAIVE, dtype), cells.Budget(PROFILES["quick"], seed=5))
    trial = outcome.trial
    assert outcome.verdict == "holds", outcome.message
    assert trial.discarded <= trial.examples, f"{trial.discarded} discarded, {trial.examples} kept"
    assert trial.unsupported <= trial.examples / 2
    lengths = [label for label in trial.reach if label.startswith("length ")]
    assert not lengths or len(lengths) >= 2, f"only {lengths}"
