"""Search: draw the examples of a claim with Hypothesis, and judge one of them."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings, target
from hypothesis.errors import HypothesisException, Unsatisfiable, UnsatisfiedAssumption

from .claims import Claim
from .results import ClaimError
from .trial import LawFails, Raised, Trial, Unfaithful, Unsupported, activate

WITHOUT_EXPLAIN = tuple(phase for phase in Phase if phase is not Phase.explain)    # its comments are shown nowhere


@dataclass(frozen=True)
class Budget:
    """How much to search: examples per cell, the seed of the run, and what sibling cells have found."""

    examples: int = 30
    seed: int = 0
    remembered: Callable[[], dict | None] = lambda: None      # the smallest failing example of a sibling cell
    remember: Callable[[dict], None] = lambda drawn: None


def judge(claim: Claim, trial: Trial, impl, drawn: dict, *, only_law: bool = False) -> bool:
    """Judge a claim on one example: whether it holds, or False where it could not be judged (unsupported, excused).

    Raises LawFails, Unfaithful or Raised where it fails; `only_law` leaves the faithfulness of the calls aside.
    """
    trial.begin(drawn)
    arguments = dict(drawn)
    if impl is not None:
        arguments["impl"] = impl
    if "dtype" in claim.arguments:
        arguments["dtype"] = trial.dtype
    try:
        _state(claim, arguments, trial)
        if not only_law:
            _faithful(trial)
    except Unsupported as reason:
        trial.unsupported += 1
        trial.missing[str(reason)] += 1
        trial.passed()
        return False
    except UnsatisfiedAssumption:
        trial.discarded += 1
        raise
    except AssertionError as error:
        excuse = next((c.excused for c in trial.calls if c.excused), None)
        if excuse is not None and not only_law:
            trial.excused, trial.excuse = trial.excused + 1, excuse
            trial.examples += 1
            return False
        error = error if isinstance(error, (LawFails, Unfaithful, Raised)) else LawFails(str(error) or "false")
        trial.failed(error)
        raise error from None
    return True


def search(claim: Claim, trial: Trial, impl, budget: Budget, *, condition: Callable | None = None,
           derandomize: bool = False, phases=WITHOUT_EXPLAIN, first: dict | None = None, only_law: bool = False,
           after: Callable[[dict], None] | None = None) -> None:
    """Run the claim's examples into the trial.

    `condition` restricts the draws, `first` is tried before them, `after(drawn)` sees every example that holds.
    """
    def example(**drawn):
        if condition is not None and not holds(condition, drawn):
            trial.discarded += 1
            hypothesis.reject()
        if not judge(claim, trial, impl, drawn, only_law=only_law):
            return
        if after is not None:
            after(drawn)
        worst = trial.passed()
        if worst > 0:
            target(worst, label="budget used")

    name = impl.subject.name if impl is not None and impl.subject else ""
    seed = None if derandomize else f"{budget.seed} {trial.claim} {trial.dtype} {name}"
    with activate(trial):
        try:
            draw(claim, example, examples=budget.examples, seed=seed, phases=phases, first=first,
                 report_multiple_bugs=not only_law)
        except (LawFails, Unfaithful, Raised, BaseExceptionGroup) as error:
            if not trial.failures:
                raise ClaimError(str(error)) from error
        except Unsatisfiable:
            return                                               # no example: the caller says what that means
        except HypothesisException:
            if not trial.failures:
                raise


def draw(claim: Claim, example: Callable, *, examples: int, seed: str | None, phases=WITHOUT_EXPLAIN,
         first: dict | None = None, report_multiple_bugs: bool = True) -> None:
    """Call `example(**drawn)` with draws of the claim's own strategies and its pinned examples; what it raises ends it.

    Without a seed, and for statistical claims, the draws are those that Hypothesis derives from the claim.
    """
    if not hasattr(claim.test, "hypothesis"):
        return example()
    test = given(**claim.test.hypothesis._given_kwargs)(example)
    derandomize = {"derandomize": True} if seed is None or claim.kind == "statistical" else {}
    if not derandomize:
        test = hypothesis.seed(seed)(test)
    test = settings(max_examples=examples, deadline=None, database=None, phases=phases, print_blob=False,
                    suppress_health_check=list(HealthCheck), report_multiple_bugs=report_multiple_bugs,
                    **derandomize)(test)
    for known in (*pinned(claim), *([hypothesis.example(**first)] if first is not None else [])):
        test = known(test)
    with contextlib.redirect_stdout(io.StringIO()):
        test()


def pinned(claim: Claim) -> tuple:
    """The claim's own `@example`s, as decorators."""
    return tuple(hypothesis.example(**known.kwargs)
                 for known in getattr(claim.test, "hypothesis_explicit_examples", ()))


def _state(claim: Claim, arguments: dict, trial: Trial) -> None:
    """Run the claim; where its own arithmetic stumbles over a result that is wrong, that result is what is reported."""
    try:
        claim.body(**arguments)
    except (ArithmeticError, ValueError, IndexError):
        _faithful(trial)
        raise


def _faithful(trial: Trial) -> None:
    for call in trial.calls:
        wrong = call.wrong()
        if wrong:
            raise Unfaithful(wrong)


def holds(condition: Callable, drawn: dict) -> bool:
    """Whether a condition on some of the drawn arguments is satisfied."""
    parameters = inspect.signature(condition).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return condition(**drawn)
    return condition(**{name: drawn[name] for name in parameters})
