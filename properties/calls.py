"""One call of an implementation: round the inputs, launch, check what came back, set the exact value beside it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from .memory import CONTIGUOUS, Laid, Placed, place, poisoned_memory, shares_memory
from .numerics import NAN, SUPPORTED, Contract, contract_for, evaluate, violations
from .operations import OPERATIONS, Operation, bind
from .outputs import State, returned_by
from .results import ClaimError, Result, difference, to_numpy
from .subjects import Subject
from .traffic import Traffic, summed
from .trial import Call, Quantity, Raised, Trial, Unsupported

EXACT = "exact"
_AT_LEAST_FLOAT32 = {"float16": "float32", "bfloat16": "float32"}
_STANDARD = {"causal": "bottom-right", "empty_row": "zero", "rope": "half"}


class Implementation:
    """What a claim receives as `impl`: `impl.softmax(x)` takes float64 tensors and returns Results."""

    def __init__(self, subject: Subject | None, dtype: str, trial: Trial, *, record: Callable[..., None] | None = None,
                 exact: Callable = evaluate):
        self.subject, self.dtype, self.trial, self._record, self._evaluate = subject, dtype, trial, record, exact
        rounding = subject.rounding if subject else "fused"
        device = subject.device if subject else "cpu"
        self.contract: Contract = contract_for(rounding, dtype, device=device)
        self.conventions = dict(subject.conventions) if subject else _STANDARD
        self._watched: dict[str, object] | None = None             # while traffic is counted: arguments and results

    def traffic(self, call: Callable, *args, algorithm: str = "", **kwargs) -> Traffic:
        """The bytes that `call(*args, **kwargs)` moves, `call` being an operation of this implementation.

        Unsupported where the implementation does not count, or does not declare this `algorithm`.
        """
        subject = self.subject
        if subject is None:
            raise ClaimError("memory traffic is counted in implementations; over the reals nothing is moved")
        if subject.traffic is None:
            raise Unsupported("does not count its memory traffic (no TRAFFIC)")
        if algorithm and algorithm != subject.algorithm:
            raise Unsupported(f"is no {algorithm} attention: it declares ALGORITHM = {subject.algorithm!r}"
                              if subject.algorithm else f"does not say that it is {algorithm} attention (no ALGORITHM)")
        self._watched = {}
        try:
            with subject.traffic() as launches:
                call(*args, **kwargs)
            return summed(launches, self._watched, self.dtype)
        finally:
            self._watched = None

    def __getattr__(self, name: str) -> Callable:
        operation = OPERATIONS.get(name)
        if operation is None:
            raise ClaimError(f"there is no operation '{name}'; known are {', '.join(OPERATIONS)}")
        if name not in SUPPORTED:
            raise ClaimError(f"'{name}' has no exact value yet, so no claim can be judged on it")
        call = self._exact if self.subject is None else self._launch
        method = lambda *args, **kwargs: call(operation, args, kwargs)                         # noqa: E731
        self.__dict__[name] = method
        return method

    # -- over the reals --------------------------------------------------------------------------------------------
    def _exact(self, operation: Operation, args: tuple, kwargs: dict):
        arguments, _ = bind(operation, args, kwargs)
        received = {name: _numbers(value) for name, value in arguments.items()}
        judged = self._evaluate(operation.name, received, self.contract, self.conventions)
        self.trial.calls.append(Call(operation.name, EXACT, received))
        balls = _Balls(operation.name, arguments, received, self.conventions)
        results = {}
        for i, exact in enumerate(judged):
            results[exact.name] = Result(
                exact.value, exact.value, np.zeros_like(exact.budget), _budget(exact),
                ball=(lambda i=i: balls()[i]) if exact.kind is None else None,
                origin=("call", len(self.trial.calls), exact.name))
        if operation.name == "merge":
            out, lse = results["out"], results["lse"]
            return State(lse, torch.from_numpy(np.isfinite(lse.exact).astype(np.float64)), out, out, lse)
        return returned_by(operation, results)

    # -- in floating point -----------------------------------------------------------------------------------------
    def _launch(self, operation: Operation, args: tuple, kwargs: dict):
        subject, trial = self.subject, self.trial
        function = subject.operations.get(operation.name)
        if function is None:
            raise Unsupported(f"does not provide {operation.name}")
        arguments, given = bind(operation, args, kwargs)
        accepted = subject.keywords.get(operation.name)
        if accepted is not None:
            for name in given:
                if name not in operation.required and name not in accepted and _matters(operation, name, given[name]):
                    raise Unsupported(f"{operation.name} has no {name}=")
        self._domain(operation, arguments)
        try:
            placed = {name: self._place(operation, name, value) for name, value in given.items()}
        except MemoryError as error:
            raise Unsupported(str(error)) from None
        native = {name: p.view if isinstance(p, Placed) else p for name, p in placed.items()}
        if subject.array == "numpy":
            native = {name: v.numpy() if isinstance(v, torch.Tensor) else v for name, v in native.items()}
        received = arguments | {name: _numbers(p.view if isinstance(p, Placed) else p) for name, p in placed.items()}
        written = operation.writes and {name: received[name].copy() for name in operation.writes}
        received.update(written or {})
        excuse = self._excuse(operation, native)
        if excuse is not None:
            trial.excuse = excuse
        if self._record is not None:
            self._record(operation.name, self.dtype, received)
        positional = [native[name] for name in operation.required]
        keywords = {name: native[name] for name in given if name not in operation.required
                    and (accepted is None or name in accepted)}
        start = time.perf_counter()
        try:
            with poisoned_memory():
                returned = function(*positional, **keywords)
        except NotImplementedError as error:
            raise Unsupported(str(error) or f"{operation.name} is not implemented for this input") from None
        except Exception as error:
            trial.inside += time.perf_counter() - start
            first_line = (str(error).strip().splitlines() or [""])[0]
            message = f"{operation.name} raised {type(error).__name__}: {first_line}"
            trial.calls.append(Call(operation.name, self.dtype, received, fault=message, excused=excuse))
            raise Raised(message) from error
        trial.inside += time.perf_counter() - start
        if trial.refusing:                                         # accepted, and there is nothing to compare with
            trial.calls.append(Call(operation.name, self.dtype, received, excused=excuse))
            return None
        if self._watched is not None:
            tensors = returned if isinstance(returned, tuple) else (returned,)
            self._watched |= native | dict(zip((name.strip("+?") for name in operation.returns), tensors))
        fault, values = self._check(operation, arguments, returned, placed)
        if fault:
            trial.calls.append(Call(operation.name, self.dtype, received, fault=fault, excused=excuse))
            raise _Broken(f"{operation.name} {fault}")
        return self._judge(operation, received, values, placed, excuse)

    def _judge(self, operation: Operation, received: dict, values: dict, placed: dict, excuse):
        got = values
        if operation.name == "merge":
            got = _finished(**values)
        for name in operation.writes:
            got = got | {name: _numbers(placed[name].view)}
        given = received | {name: values[name] for name in operation.drawn}
        exacts = self._evaluate(operation.name, given, self.contract, self.conventions)
        quantities, results = [], {}
        number = len(self.trial.calls) + 1
        if tuple(exact.name for exact in exacts) != operation.judged:
            raise ClaimError(f"exact values of {operation.name} are {[e.name for e in exacts]}, not {operation.judged}")
        for exact in exacts:
            if exact.name not in got:                              # a plain `out` where (out, lse) was asked for
                results[exact.name] = None
                continue
            value = got[exact.name]
            used = violations(value, exact)
            flat = int(np.argmax(used)) if used.size else 0
            at = tuple(int(i) for i in np.unravel_index(flat, used.shape)) if used.size else ()
            quantities.append(Quantity(exact.name, value, _expected(exact), exact.budget,
                                       float(used.flat[flat]) if used.size else 0.0, at, exact.kind))
            value = to_numpy(value).astype(np.float64, copy=False)              # a drawn mask is a number from here on
            results[exact.name] = Result(value, exact.value, difference(value, exact.value), _budget(exact), ball=None,
                                         origin=("call", number, exact.name))
        self.trial.calls.append(Call(operation.name, self.dtype, received, tuple(quantities), excused=excuse))
        if operation.name == "merge":
            return State(*(torch.from_numpy(np.array(values[n])) for n in ("m", "l", "acc")), **results)
        return returned_by(operation, results)

    def _place(self, operation: Operation, name: str, value):
        value, layout = (value.values, value.layout) if isinstance(value, Laid) else (value, CONTIGUOUS)
        value = value.tensor() if isinstance(value, Result) else value
        if not isinstance(value, torch.Tensor):
            return value
        device = self.subject.device
        if name in operation.tensors:
            return place(value, getattr(torch, self.dtype), layout=layout, device=device)
        if name in operation.states:
            wide = _AT_LEAST_FLOAT32.get(self.dtype, self.dtype)
            return place(value, getattr(torch, wide), layout=layout, device=device)
        if value.dtype == torch.bool:
            return place(value, torch.bool, layout=layout, device=device)
        return value.to(device)

    def _domain(self, operation: Operation, arguments: dict) -> None:
        if not self.subject.domain:
            return
        shaped = {name: value.values if isinstance(value, Laid) else value for name, value in arguments.items()}
        for name, size in operation.dims(**shaped).items():
            if name in self.subject.domain and size not in self.subject.domain[name]:
                raise Unsupported(f"{name} = {size} is outside its DOMAIN")

    def _excuse(self, operation: Operation, native: dict):
        for known in self.subject.expected_failures:
            if known.excuses(operation.name, self.dtype, self.trial.claim, native):
                return known
        return None

    def _check(self, operation: Operation, arguments: dict, returned, placed: dict) -> tuple[str, dict]:
        """(a broken contract or "", the returned tensors by name as float64 arrays)."""
        tensors = returned if isinstance(returned, tuple) else (returned,)
        names = operation.returns
        if len(tensors) != len(names) and not (names == ("out", "lse+") and len(tensors) == 1):
            expected = ", ".join(name.strip("+?") for name in names)
            return f"returned {len(tensors)} values, expected {len(names)}: {expected}", {}
        kind = np.ndarray if self.subject.array == "numpy" else torch.Tensor
        values: dict = {}
        shapes = operation.shapes(**{n: v.values if isinstance(v, Laid) else v for n, v in arguments.items()})
        for name, tensor, shape in zip(names, tensors, shapes, strict=False):
            plain = name.strip("+?")
            if type(tensor) is not kind:
                return f"returned {plain} as {type(tensor).__name__}, expected a plain {kind.__name__}", {}
            if tuple(tensor.shape) != tuple(shape):
                return f"returned {plain} of shape {tuple(tensor.shape)}, expected {tuple(shape)}", {}
            fault = self._wrong_dtype(name, str(tensor.dtype).removeprefix("torch."))
            if fault:
                return f"returned {plain} {fault}", {}
            torch_tensor = tensor if kind is torch.Tensor else torch.from_numpy(np.ascontiguousarray(tensor))
            if not operation.views:
                for argument, p in placed.items():
                    if isinstance(p, Placed) and (shares_memory(tensor, p) if kind is torch.Tensor else
                                                  np.may_share_memory(tensor, p.buffer.numpy())):
                        return f"returned {plain} as a view of its input {argument}", {}
            values[plain] = np.array(_numbers(torch_tensor)) if operation.writes else _numbers(torch_tensor)
        for argument, p in placed.items():
            if isinstance(p, Placed) and argument not in operation.writes and not p.untouched():
                return f"wrote into its input {argument} (or its surroundings)", {}
        return "", values

    def _wrong_dtype(self, name: str, dtype: str) -> str:
        if name.endswith("?"):
            return "" if dtype == "bool" else f"with dtype {dtype}, expected bool"
        expected = _AT_LEAST_FLOAT32.get(self.dtype, self.dtype) if name.endswith("+") else self.dtype
        if dtype == expected or (name.endswith("+") and dtype == "float64"):
            return ""
        return f"with dtype {dtype}, expected {expected}"


class _Broken(Raised):
    """The returned object breaks the calling contract (type, shape, dtype, memory)."""


class _Balls:
    """The exact values of one call in ball arithmetic, computed when first asked for."""

    def __init__(self, operation: str, arguments: dict, received: dict, conventions: dict):
        self._call = operation, arguments, received, conventions
        self._value = None

    def __call__(self):
        if self._value is None:
            from .numerics.balls import enclose
            operation, arguments, received, conventions = self._call
            through = {name: value.ball() for name, value in arguments.items()
                       if isinstance(value, Result) and value.ball}
            self._value = enclose(operation, received | through, conventions)
        return self._value


def _budget(exact) -> np.ndarray:
    """The budget of a result; infinite where the element is judged by class, not by distance."""
    return exact.budget if exact.kind is None else np.where(exact.kind == 0, exact.budget, np.inf)


def _expected(exact) -> np.ndarray:
    """The exact value, NaN where the element must be NaN."""
    return exact.value if exact.kind is None else np.where(exact.kind == NAN, np.nan, exact.value)


def _finished(m: np.ndarray, l: np.ndarray, acc: np.ndarray) -> dict:                          # noqa: E741
    """acc / l and m + log l of a state; 0 and -inf where it is empty."""
    with np.errstate(divide="ignore", invalid="ignore"):
        out = np.where(l[..., None] == 0, 0.0, acc / l[..., None])
        return {"out": out, "lse": np.where(l == 0, -np.inf, m + np.log(l))}


def _matters(operation: Operation, name: str, value) -> bool:
    """Whether a keyword differs from its default, so that leaving it out would change the meaning."""
    default = operation.signature.parameters[name].default
    return not (value is default or (isinstance(value, (bool, int, float)) and value == default))


def _numbers(value):
    """A tensor (any device, dtype) as a float64, int64 or bool array; Results by their value; the rest unchanged."""
    if isinstance(value, Laid):
        value = value.values
    if isinstance(value, Result):
        return value.value
    if isinstance(value, torch.Tensor):
        value = value.detach()
        value = value.cpu() if value.is_cuda else value
        if value.dtype.is_floating_point or value.dtype == torch.bool:
            return to_numpy(value)
        return value.numpy().copy()              # whole numbers are handed over as they are: a kernel may write there
    if isinstance(value, np.ndarray):
        return value.astype(np.float64) if value.dtype.kind == "f" else value
    return value
