"""Every kind of claim passes when it should and fails when it should, judged in process on small kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sympy
import torch

from properties import (agree, assume, at_most, attention_inputs, claim, costs, exactly, example, given, plausible,
                        refuted, rejects, rows, st, statistical)
from properties.cells import Budget, Column, columns, run
from properties.claims import Claim
from properties.proof import prove, vanishes
from properties.rejudge import confirmed, opinion
from properties.results import ClaimError, Result
from properties.subjects import describe

BUDGET = Budget(examples=60, seed=7)


def subject(**operations):
    """A kernel with these operations, in float32 and float64."""
    found, problems = describe({"DTYPES": ("float64", "float32"), **operations}, path=Path(__file__), name="kernel")
    assert not problems
    return found[0]


def softmax(x):
    return torch.softmax(x, -1)


def at_temperature_2(x):
    return torch.softmax(x / 2, -1)


def unstable(x):
    return x.exp() / x.exp().sum(-1, keepdim=True)


RIGHT, WARM, UNSTABLE = subject(softmax=softmax), subject(softmax=at_temperature_2), subject(softmax=unstable)


def judged(made: Claim, kernel=RIGHT, leg: str = "implementation", dtype: str | None = "float32"):
    return run(made, Column(leg, kernel if leg == "implementation" else None, dtype), BUDGET)


@claim(rows="001-119")
@given(x=rows(most=9))
def shift(impl, x):
    """Adding 64 to a row leaves its softmax unchanged."""
    agree(impl.softmax(x + 64), impl.softmax(x))


@claim(rows="001-119")
@given(x=rows(most=9))
def bits(impl, x):
    """Two calls give the same bits."""
    exactly(impl.softmax(x), impl.softmax(x))


@claim(rows="001-119")
@given(x=rows(most=9))
def bounded(impl, x):
    """No weight exceeds 1."""
    at_most(impl.softmax(x), 1.0)


@refuted(rows="001-050")
@given(x=rows(most=9, n_rows=1))
def doubling(impl, x):
    """Doubling the scores leaves the weights unchanged (it does not)."""
    agree(impl.softmax(2 * x), impl.softmax(x))


@refuted(rows="001-050")
@given(x=rows(most=9, n_rows=1))
def true_after_all(impl, x):
    """A statement that is true can not be refuted."""
    agree(impl.softmax(x), impl.softmax(x))


@refuted(rows="001-050")
@example(n=1_000_003)
@given(n=st.integers(0, 10))
def needle(n):
    """Only the pinned example refutes this."""
    assert n != 1_000_003


def two_equal(x):
    """the row has two equal scores"""
    return x.shape[-1] == 2 and bool((x[..., 0] == x[..., 1]).all())


@claim(rows="001-119", needs=two_equal)
@given(x=rows(least=2, most=2, n_rows=1))
def halves(impl, x):
    """Both weights are a half."""
    agree(impl.softmax(x), 0.5)


def always(x):
    """nothing at all"""
    return True


@claim(rows="001-119", needs=always)
@given(x=rows(most=4))
def needless(impl, x):
    """A condition that is always true is not needed."""
    agree(impl.softmax(x), impl.softmax(x))


def test_a_law_holds_on_a_right_kernel_and_over_the_reals():
    assert judged(shift).verdict == "holds"
    assert judged(shift, leg="exact", dtype=None).verdict == "holds"


def test_law_and_faithfulness_are_two_verdicts():
    warm, unstable_ = judged(shift, WARM), judged(shift, UNSTABLE)
    assert (warm.verdict, warm.law, warm.faithful) == ("unfaithful", True, False)
    assert (unstable_.verdict, unstable_.law, unstable_.faithful) == ("law fails", False, False)


def test_a_failure_is_judged_again_in_ball_arithmetic():
    pytest.importorskip("flint")
    assert "confirmed in ball arithmetic" in judged(shift, WARM).note
    call = judged(shift, WARM).failure.calls[0]
    assert confirmed(call, {}) is True
    worst = call.quantities[0]
    doubtful = replace(call, quantities=(replace(worst, got=worst.expected, used=2.0),))   # as if float64 had erred
    assert confirmed(doubtful, {}) is False and opinion([doubtful], {})[0] is False
    assert confirmed(replace(call, fault="returned a view"), {}) is None


def test_a_kernel_that_keeps_another_contract_is_told_so():
    @claim(rows="001-001")
    @given(x=attention_inputs(regimes=("large scores", "plain"), integers=False, scales=(None,)))
    def eager(impl, x):
        """One call of attention."""
        impl.attention(*x)

    def scores_in_half(q, k, v, scale=None):
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
        return torch.softmax((q @ k.mT) * q.shape[-1] ** -0.5, -1) @ v

    outcome = judged(eager, subject(attention=scores_in_half, DTYPES=("bfloat16",)), dtype="bfloat16")
    assert outcome.verdict == "unfaithful" and "ROUNDING = 'naive'" in outcome.note, (outcome.message, outcome.note)
    declared = subject(attention=scores_in_half, DTYPES=("bfloat16",), ROUNDING="naive")
    assert judged(eager, declared, dtype="bfloat16").verdict == "holds"


def test_exact_laws_compare_bits_and_orders_are_judged():
    assert judged(bits).verdict == judged(bounded).verdict == "holds"
    state = {"n": 0}

    def restless(x):
        state["n"] += 1
        return torch.softmax(x, -1) * (1 + (state["n"] % 2) * 2.0**-23)

    assert judged(bits, subject(softmax=restless)).verdict == "law fails"
    assert judged(bounded, subject(softmax=lambda x: torch.softmax(x, -1) * 1.5)).verdict == "law fails"


def test_a_refuted_claim_needs_a_counterexample():
    found = judged(doubling, leg="exact", dtype=None)
    assert found.verdict == "refuted" and "example" in found.note
    assert torch.count_nonzero(found.failure.drawn["x"]) <= 1
    assert judged(true_after_all, leg="exact", dtype=None).verdict == "not refuted"
    pinned = judged(needle, leg="torch", dtype=None)
    assert pinned.verdict == "refuted" and "pinned" in pinned.note


def test_a_condition_is_needed_or_it_is_said():
    holds = judged(halves, leg="exact", dtype=None)
    assert holds.verdict == "holds" and "without it" in holds.note and holds.failure is not None
    assert judged(needless, leg="exact", dtype=None).verdict == "not refuted"


def test_statistics_costs_and_rejections():
    @statistical(rows="001-144")
    @given(n=st.sampled_from((10, 20)))
    def fair(n):
        """The p-value is 1."""
        plausible(1.0)

    @statistical(rows="001-144")
    @given(n=st.sampled_from((10, 20)))
    def unfair(n):
        """The p-value is tiny."""
        plausible(1e-14)

    @claim(rows="001-127")
    @given(n=st.integers(1, 5))
    def cost(n):
        """n times n is n squared."""
        costs(n * n, n**2)

    @claim(rows="001-127")
    @given(n=st.integers(2, 5))
    def wrong_cost(n):
        """n times n is n."""
        costs(n * n, n)

    @claim(rows="001-119")
    @given(x=rows(most=3))
    def refuses(impl, x):
        """The kernel refuses, and says why."""
        rejects(lambda: impl.softmax(x), match="never")

    def refusing(x):
        raise ValueError("never on a Sunday")

    assert (fair.kind, cost.kind, refuses.kind) == ("statistical", "cost", "must reject")
    assert judged(fair, leg="torch", dtype=None).verdict == judged(cost, leg="torch", dtype=None).verdict == "holds"
    assert judged(unfair, leg="torch", dtype=None).verdict == "law fails"
    assert judged(wrong_cost, leg="torch", dtype=None).verdict == "law fails"
    assert judged(refuses, subject(softmax=refusing)).verdict == "holds"
    assert judged(refuses).verdict == "law fails"


def test_float_laws_run_per_dtype():
    @claim(rows="001-116", over="floats", dtypes=("float16", "float32"))
    @given(n=st.integers(0, 3))
    def overflow(dtype, n):
        """e^12 overflows in float16 alone."""
        assert torch.isinf(torch.tensor(12.0, dtype=getattr(torch, dtype)).exp()) == (dtype == "float16")

    found = columns(overflow, [RIGHT], None)
    assert [c.label for c in found] == ["torch-float32", "torch-float16"]
    assert {run(overflow, c, BUDGET).verdict for c in found} == {"holds"}


def test_what_a_kernel_does_not_offer_is_unsupported_and_counted():
    assert judged(shift, subject(log_sum_exp=lambda x: x.logsumexp(-1))).verdict == "unsupported"

    def short_rows_only(x):
        if x.shape[-1] > 2:
            raise NotImplementedError("rows of more than 2")
        return torch.softmax(x, -1)

    partly = judged(shift, subject(softmax=short_rows_only))
    assert partly.verdict == "holds" and 0 < partly.trial.unsupported < partly.trial.examples


def test_an_expected_failure_excuses_what_it_matches_and_nothing_else():
    def wrong_on_ones(x):
        return torch.softmax(x, -1) + (x == 1).any()

    def wrong_on_pairs_too(x):
        return wrong_on_ones(x) + (x.shape[-1] == 2)

    known = {"operation": "softmax", "when": lambda arguments: bool((arguments["x"] == 1).any()), "reason": "ones",
             "reproducer": lambda: True, "link": "https://example.org/1"}
    excused = judged(shift, subject(softmax=wrong_on_ones, EXPECTED_FAILURES=[known]))
    assert excused.verdict == "expected failure" and 0 < excused.trial.excused < excused.trial.examples
    assert judged(shift, subject(softmax=wrong_on_pairs_too, EXPECTED_FAILURES=[known])).verdict == "unfaithful"


def test_a_second_dtype_replays_the_first_ones_counterexample():
    memory: dict = {}
    budget = Budget(60, 7, remembered=lambda: memory.get("drawn"), remember=lambda drawn: memory.update(drawn=drawn))
    first = run(shift, Column("implementation", UNSTABLE, "float64"), budget)
    second = run(shift, Column("implementation", UNSTABLE, "float32"), budget)
    assert first.verdict == second.verdict == "law fails"
    assert torch.equal(first.failure.drawn["x"], second.failure.drawn["x"])


def test_mistakes_in_a_claim_are_errors_not_verdicts():
    @claim(rows="001-119")
    @given(x=rows(most=3))
    def nonsense(impl, x):
        """A Result is not a tensor."""
        impl.softmax(x).argmax()

    @claim(rows="001-119")
    @given(x=rows(most=3))
    def impossible(impl, x):
        """No example is left."""
        assume(False)

    assert judged(nonsense).verdict == "error" and "keeps no budget" in judged(nonsense).message
    assert judged(impossible).verdict == "error"
    with pytest.raises(ClaimError):
        Result.constant(1.0) < Result.constant(2.0)                                            # noqa: B015


def test_a_proof_must_prove_its_own_claim():
    i, j, n = sympy.symbols("i j n", integer=True, positive=True)
    x = sympy.IndexedBase("x", real=True)

    def proof_of(left, right):
        made = claim(rows="001-119")(given(x=rows(least=2, most=5))(_same))
        made.proof(lambda: (left, right))
        return prove(made, BUDGET)

    weight = sympy.exp(x[i]) / sympy.Sum(sympy.exp(x[j]), (j, 1, n))
    assert proof_of(weight, weight).verdict == "holds"
    assert proof_of(weight, 2 * weight).verdict == "not proved"
    another = proof_of(2 * weight, 2 * weight)
    assert another.verdict == "not proved" and "something else" in another.message
    raising = claim(rows="001-119")(given(x=rows(most=5))(_same))
    raising.proof(lambda: 1 / 0)
    assert prove(raising, BUDGET).verdict == "not proved"


def _same(impl, x):
    """A row's softmax is itself."""
    agree(impl.softmax(x), impl.softmax(x))


@pytest.mark.parametrize("left, right", [("a + b", "b + a"), ("exp(a + b)", "exp(a) * exp(b)"),
                                         ("(a + b)**2", "a**2 + 2*a*b + b**2")])
def test_the_prover_proves_what_is_true_and_no_more(left, right):
    left, right = sympy.sympify(left), sympy.sympify(right)
    assert not vanishes(left, right)
    assert vanishes(left + 1, right) and vanishes(2 * left, right)
