"""Ablation: take a failing call, repair one thing at a time, and see after which repairs the kernel is right.

"Still wrong with one head; right without the mask" is what the author of a kernel would try first, and it tells sorts
of mistakes apart that fail the same claims. A repair changes the arguments of the call as it was received, or what
surrounds it: its memory, what was called before it. Each repaired call is judged anew by its own exact values.
"""

from __future__ import annotations

import importlib.util
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from hypothesis.errors import HypothesisDeprecationWarning

from ..calls import Implementation
from ..claims import Claim
from ..memory import CONTIGUOUS, Laid
from ..numerics import contract_for, evaluate
from ..operations import Operation, bind
from ..results import ClaimError, Result
from ..search import judge
from ..subjects import Subject
from ..trial import Call, LawFails, Raised, Trial, Unfaithful, Unsupported, activate
from . import cures
from .cures import AGAIN, ALONE, ANEW, BY_ITSELF, MEMORY, OTHER_BITS, SECOND, SEEN, STAY, VIEW, WRITTEN
from .observations import observed, off
from .repairs import REPAIRS, Asked, changed_values

DTYPES = ("float64", "float32")


class Recording(Implementation):
    """An implementation that also notes what it was asked, with the layouts, so that a call can be made again."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.asked: list[Asked] = []

    def _launch(self, operation: Operation, args: tuple, kwargs: dict):
        _, given = bind(operation, args, kwargs)
        layouts = {name: x.layout for name, x in given.items() if isinstance(x, Laid)}
        self.asked.append(Asked(operation, {name: _plain(x) for name, x in given.items()}, layouts))
        return super()._launch(operation, args, kwargs)


def _plain(value):
    value = value.values if isinstance(value, Laid) else value
    value = value.tensor() if isinstance(value, Result) else value
    return value.clone() if isinstance(value, torch.Tensor) else value


# ------------------------------------------------------------------------------------- repairs of what surrounds a call

class _memory_of:
    """While active, fresh memory is full of one number, whatever poisons it otherwise."""

    NAMES = ((torch, ("empty", "empty_like", "empty_strided")), (torch.Tensor, ("new_empty",)),
             (np, ("empty", "empty_like")))
    ORIGINALS = tuple((owner, name, getattr(owner, name)) for owner, names in NAMES for name in names)

    def __init__(self, number: float):
        self.number = number

    def __enter__(self) -> None:
        self.before = [(owner, name, getattr(owner, name)) for owner, name, _ in self.ORIGINALS]
        for owner, name, original in self.ORIGINALS:
            setattr(owner, name, self._filled(original))

    def __exit__(self, *_) -> None:
        for owner, name, function in self.before:
            setattr(owner, name, function)

    def _filled(self, allocate: Callable) -> Callable:
        def filled(*args, **kwargs):
            fresh = allocate(*args, **kwargs)
            (fresh.fill if isinstance(fresh, np.ndarray) else fresh.detach().fill_)(self.number)
            return fresh
        return filled


def _in_memory_of(number: float) -> Callable:
    def wrap(function: Callable) -> Callable:
        def called(*args, **kwargs):
            with _memory_of(number):
                return function(*args, **kwargs)
        return called
    return wrap


def _second(function: Callable) -> Callable:
    """The second of two equal calls counts."""
    def called(*args, **kwargs):
        copies = [x.clone() if isinstance(x, torch.Tensor) else x for x in args]
        function(*copies, **kwargs)
        return function(*args, **kwargs)
    return called


def _imported_anew(function: Callable) -> Callable | None:
    """The same function of a new instance of its module, which remembers nothing."""
    code = getattr(function, "__code__", None)
    if code is None or function.__closure__ or "<locals>" in function.__qualname__:
        return None
    spec = importlib.util.spec_from_file_location(function.__module__, code.co_filename)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function.__name__, None)


SURROUNDINGS: dict[str, Callable[[Callable], Callable | None]] = {
    SECOND: _second, ANEW: _imported_anew}


# ------------------------------------------------------------------------------------------------------------ one call

def _right(subject: Subject, dtype: str, *calls: Asked) -> bool | None:
    """Whether the last of these calls is right; None where it can not be made or judged."""
    call = _called(subject, dtype, *calls)
    return None if call is None else not call.wrong()


def _called(subject: Subject, dtype: str, *calls: Asked) -> Call | None:
    """The last of these calls as it was judged; None where it can not be made or judged."""
    trial = Trial(claim="", dtype=dtype)
    impl = Implementation(subject, dtype, trial)
    for number, asked in enumerate(calls, 1):
        try:
            with activate(trial):
                impl._launch(asked.operation, (), asked.laid())
        except Raised:
            pass
        except (Unsupported, ClaimError, ArithmeticError, ValueError, IndexError, KeyError, RuntimeError, TypeError):
            if number == len(calls):
                return None
    return trial.calls[-1]


def _consistent(asked: Asked, conventions: dict) -> Asked:
    """A backward pass gets the output and log-sum-exp that belong to its inputs."""
    if asked.operation.name != "attention_backward":
        return asked
    forward = {name: x.numpy() if isinstance(x, torch.Tensor) else x for name, x in asked.given.items()
               if name not in ("out", "lse", "dout")}
    defaults = {"causal": False, "mask": None, "scale": None, "window": None, "bias": None}
    exact = {e.name: torch.from_numpy(e.value.copy()) for e in evaluate(
        "attention", defaults | forward, contract_for("fused", "float64"), conventions)}
    return asked.but(out=exact["out"], lse=exact["lse"])


def _around(subject: Subject, dtype: str, before: list[Asked], asked: Asked, first: Call) -> Iterator:
    """(what surrounds the call, whether the call is right then), and what is observed of it."""
    def wrapped(how: Callable) -> Subject | None:
        function = how(subject.operations[asked.operation.name])
        return function and replace(subject, operations={**subject.operations, asked.operation.name: function})

    yield WRITTEN, "wrote into its input" in first.fault
    yield VIEW, "as a view" in first.fault
    if first.fault:
        return
    for name, how in SURROUNDINGS.items():
        other = wrapped(how)
        if other is not None:
            yield name, _right(other, dtype, *before, asked)
    contiguous = _contiguous(asked)
    if contiguous is not None:
        yield cures.CONTIGUOUS, _right(subject, dtype, *before, contiguous)
    zeros, ones = (_called(wrapped(_in_memory_of(number)), dtype, asked) for number in (0, 1))
    yield MEMORY, _differ(zeros, ones)
    yield OTHER_BITS, _differ(*(_called(subject, dtype, asked) for _ in range(2)))
    halved = changed_values(lambda x: x / 2)(asked)
    if halved is not None:
        yield STAY, _stays(first, _called(subject, dtype, *before, halved))


def _contiguous(asked: Asked) -> Asked | None:
    return replace(asked, layouts={}) if any(x is not CONTIGUOUS for x in asked.layouts.values()) else None


def _differ(a: Call | None, b: Call | None) -> bool | None:
    if a is None or b is None or len(a.quantities) != len(b.quantities):
        return None
    return not all(np.array_equal(x.got, y.got, equal_nan=x.got.dtype.kind == "f")
                   for x, y in zip(a.quantities, b.quantities, strict=True))


def _stays(first: Call, other: Call | None) -> bool | None:
    """Whether what is wrong in a call, and is a number other than 0, is the same in another one."""
    for x, y in zip(first.quantities, other.quantities if other else (), strict=False):
        wrong = off(x)
        if x.used > 1 and wrong.any():
            return bool(np.isfinite(x.got[wrong]).all() and x.got[wrong].any() and (x.got[wrong] == y.got[wrong]).all())
    return None


def _repaired(subject: Subject, dtype: str, before: list[Asked], asked: Asked) -> Iterator:
    """(repair of the arguments, whether the call is right then)."""
    for name, repair in REPAIRS.items():
        try:
            changed = repair(asked)
            changed = changed and _consistent(changed, subject.conventions)
        except (IndexError, ValueError, RuntimeError, KeyError):          # it does not apply to these arguments
            continue
        if changed is not None:
            yield name, _right(subject, dtype, *before, changed)


def _all(subject: Subject, dtype: str, before: list[Asked], asked: Asked, first: Call, dtypes) -> Iterator:
    alone = _right(subject, dtype, asked)
    yield ALONE, alone
    before = before if alone else []
    decided = alone
    for name, answer in _around(subject, dtype, before, asked, first):
        decided = decided or answer
        yield name, answer
    for wide in dtypes:
        if wide != dtype:
            yield f"in {wide}", _right(subject, wide, *before, asked)
    if not decided:
        yield from _repaired(subject, dtype, before, asked)


@dataclass(frozen=True)
class Ablation:
    """A claim's failing example on a suspect: after which repairs its first wrong call is right, or still wrong.

    What is `cures.OBSERVED`, or is seen of its result, stands among them: in `cured` where it is so, in `not_cured`
    where not.
    """

    claim: str
    suspect: str
    dtype: str
    cured: tuple[str, ...]
    not_cured: tuple[str, ...]


def ablate(claim: Claim, subject: Subject, dtype: str, drawn: dict, *, dtypes: tuple[str, ...] = DTYPES,
           seconds: float = math.inf) -> Ablation:
    """The repairs of the first wrong call of an example, as far as `seconds` reach."""
    trial, end = Trial(claim=claim.name, dtype=dtype), time.monotonic() + seconds
    impl, found = Recording(subject, dtype, trial), {}
    try:
        with activate(trial), warnings.catch_warnings():
            warnings.simplefilter("ignore", HypothesisDeprecationWarning)       # of `assume` outside of a search
            judge(claim, trial, impl, drawn)
        found[AGAIN] = True
    except (LawFails, Unfaithful, Raised):
        wrong = next((i for i, call in enumerate(trial.calls) if call.wrong()), len(impl.asked))
        if wrong >= len(impl.asked):
            found[BY_ITSELF] = True
        else:
            found |= {SEEN + name: answer for name, answer in observed(trial.calls[wrong]).items()}
            for name, answer in _all(subject, dtype, impl.asked[:wrong], impl.asked[wrong], trial.calls[wrong], dtypes):
                found[name] = answer
                if time.monotonic() > end:
                    break
    return Ablation(f"{claim.file}::{claim.name}", subject.name, dtype,
                    tuple(name for name, right in found.items() if right),
                    tuple(name for name, right in found.items() if right is False))
