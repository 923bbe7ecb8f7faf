"""Results: what an implementation returned, beside the exact value and the error it is allowed.

A claim speaks about real numbers; a `Result` is a float64 array `value` (what came back), `exact` (the exact value at
the inputs really received), `error = value - exact` and `budget`, the elementwise bound of |error| for a correct
implementation.  Indexing and reshaping keep them, sums and products propagate them; anything else is a mistake in the
claim and is reported as one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

U64 = 2.0**-53


class ClaimError(Exception):
    """The claim itself is wrong: it asks for something that has no meaning."""


def to_numpy(x) -> np.ndarray:
    """A tensor, number or sequence as a float64 NumPy array (bool stays bool)."""
    if isinstance(x, torch.Tensor):
        x = x.detach()
        return x.numpy() if x.dtype in (torch.float64, torch.bool, torch.int64) else x.double().numpy()
    x = np.asarray(x)
    return x if x.dtype == bool else x.astype(np.float64, copy=False)


def difference(value: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """value - exact, and 0 where they are equal (equal infinities included)."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(value == exact, 0.0, value - exact)


def _index(key):
    """A torch-style index as a NumPy one."""
    if isinstance(key, tuple):
        return tuple(_index(k) for k in key)
    return key.numpy() if isinstance(key, torch.Tensor) else key


class Result:
    """An array of numbers with exact values and budgets.  See the module's docstring.

    `ball()` encloses the exact value in ball arithmetic (an object array of `flint.arb`), or is None;
    `origin` says how it was made, for messages and reproduction scripts.
    """

    __slots__ = ("value", "exact", "error", "budget", "ball", "origin")
    __array_ufunc__ = None                     # numpy_array * result must come to us

    def __init__(self, value, exact, error, budget, *, ball: Callable | None, origin: tuple):
        self.value, self.exact, self.error = value, exact, error
        self.budget = np.where(np.isnan(budget), np.inf, budget)     # what was free (judged by class) stays free
        self.ball, self.origin = ball, origin

    @classmethod
    def constant(cls, x) -> Result:
        """A number that is known exactly."""
        value = to_numpy(x).astype(np.float64)
        zero = np.zeros_like(value)
        return cls(value, value, zero, zero, ball=lambda: _balls(value), origin=("constant", x))

    # -- what keeps a budget ---------------------------------------------------------------------------------------
    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim

    def _each(self, how: Callable, *origin) -> Result:
        ball = self.ball
        return Result(how(self.value), how(self.exact), how(self.error), how(self.budget),
                      ball=ball and (lambda: how(ball())), origin=(*origin[:1], self, *origin[1:]))

    def __getitem__(self, key) -> Result:
        key = _index(key)
        return self._each(lambda a: np.asarray(a[key]), "[]", key)

    def reshape(self, *shape) -> Result:
        """As torch.Tensor.reshape."""
        shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return self._each(lambda a: a.reshape(shape), "reshape", shape)

    def transpose(self, a: int, b: int) -> Result:
        """As torch.Tensor.transpose: two dims change places."""
        return self._each(lambda x: np.swapaxes(x, a, b), "transpose", a, b)

    @property
    def mT(self) -> Result:
        """The last two dims change places."""
        return self.transpose(-1, -2)

    def flip(self, dim: int) -> Result:
        """As torch.Tensor.flip over one dim."""
        return self._each(lambda a: np.flip(a, dim), "flip", dim)

    def tensor(self) -> torch.Tensor:
        """What came back, as a float64 tensor: to be fed into another call."""
        return torch.from_numpy(np.ascontiguousarray(self.value))

    # -- what propagates one ---------------------------------------------------------------------------------------
    def __neg__(self) -> Result:
        return self * -1.0

    def __add__(self, other) -> Result:
        other = lift(other)
        exact = self.exact + other.exact
        with np.errstate(invalid="ignore"):
            budget = self.budget + other.budget + U64 * np.where(np.isfinite(exact), np.abs(exact), 0.0)
        return Result(self.value + other.value, exact, self.error + other.error, budget,
                      ball=_both(self, other, lambda a, b: a + b), origin=("+", self, other))

    __radd__ = __add__

    def __sub__(self, other) -> Result:
        return self + -lift(other)

    def __rsub__(self, other) -> Result:
        return lift(other) + -self

    @np.errstate(invalid="ignore", over="ignore")
    def __mul__(self, other) -> Result:
        other = lift(other)
        exact = self.exact * other.exact
        budget = (np.abs(self.exact) * other.budget + np.abs(other.exact) * self.budget + self.budget * other.budget
                  + U64 * np.abs(exact))
        if not other.error.any():
            error, budget = self.error * other.exact, np.where(_power_of_two(other.exact), budget - U64 * np.abs(exact),
                                                               budget)
        else:
            error = difference(self.value * other.value, exact)
        return Result(self.value * other.value, exact, error, budget,
                      ball=_both(self, other, lambda a, b: a * b), origin=("*", self, other))

    __rmul__ = __mul__

    def __truediv__(self, other) -> Result:
        if isinstance(other, Result):
            raise ClaimError("a Result is divided by a Result: multiply out instead, quotients do not keep a budget")
        return self * (1.0 / to_numpy(other))

    @np.errstate(invalid="ignore")
    def sum(self, dim: int | tuple[int, ...] | None = None) -> Result:
        """Sum over a dim, with the float64 rounding of the sum added to the budget."""
        count = self.value.size if dim is None else self.value.shape[dim] if isinstance(dim, int) else self.value.size
        budget = self.budget.sum(dim) + count * U64 * np.abs(self.exact).sum(dim)
        ball = self.ball
        return Result(np.asarray(self.value.sum(dim)), np.asarray(self.exact.sum(dim)),
                      np.asarray(self.error.sum(dim)), np.asarray(budget),
                      ball=ball and (lambda: np.asarray(ball().sum(dim))), origin=("sum", self, dim))

    def mean(self, dim: int) -> Result:
        """Mean over a dim."""
        return self.sum(dim) / self.value.shape[dim]

    @np.errstate(invalid="ignore")
    def __matmul__(self, other) -> Result:
        """Matrix product with a constant (a tensor known exactly), of shape (..., n, m)."""
        if isinstance(other, Result):
            raise ClaimError("a Result is multiplied by a Result with @: only constant matrices keep a budget")
        matrix = to_numpy(other)
        budget = self.budget @ np.abs(matrix) + matrix.shape[-2] * U64 * (np.abs(self.exact) @ np.abs(matrix))
        ball = self.ball
        return Result(self.value @ matrix, self.exact @ matrix, self.error @ matrix, budget,
                      ball=ball and (lambda: (ball()[..., :, :, None] * _balls(matrix)[..., None, :, :]).sum(-2)),
                      origin=("@", self, other))

    def exp(self) -> Result:
        """e to the power of it; monotone, so the budget follows: e^A (e^E - 1); what is free stays free."""
        exact = np.exp(self.exact)
        with np.errstate(invalid="ignore"):
            budget = np.where(exact > 0, exact * np.expm1(self.budget) + 2 * U64 * exact, 0.0)
            budget = np.where(np.isinf(self.budget), np.inf, budget)
        ball = self.ball
        return Result(np.exp(self.value), exact, difference(np.exp(self.value), exact), budget,
                      ball=ball and (lambda: _vectorised(ball(), lambda b: b.exp())), origin=("exp", self))

    def __getattr__(self, name: str):
        raise ClaimError(f"'{name}' of a Result keeps no budget; allowed are indexing, reshape, transpose, mT, flip, "
                         "+, -, *, / and @ by constants, sum, mean and exp")

    def __bool__(self):
        raise ClaimError("a Result has no truth value: compare with agree, exactly or at_most")

    def __str__(self) -> str:
        """How it was made, `r2.p[...].sum(-1)`: r2 is the second call of the example."""
        how, *operands = self.origin
        if how == "call":
            return f"r{operands[0]}.{operands[1]}"
        if how == "constant":
            value = np.asarray(self.value)
            return f"{value.item():g}" if value.size == 1 else f"constant{tuple(value.shape)}"
        x, *rest = operands
        if how == "[]":
            return f"{x}[{_shown(rest[0])}]"
        if how in ("+", "*", "@"):
            other = rest[0] if isinstance(rest[0], Result) else "constant"
            return f"-{x}" if how == "*" and str(other) == "-1" else f"({x} {how} {other})".replace("+ -", "- ")
        return str(x) if how == "expand" else f"{x}.{how}({', '.join(map(str, rest))})"

    __lt__ = __le__ = __gt__ = __ge__ = lambda self, other: self.__bool__()
    __iter__ = None
    __hash__ = object.__hash__


def lift(x) -> Result:
    """A Result, or a constant as one."""
    if not isinstance(x, (Result, torch.Tensor, np.ndarray, int, float, list)):
        raise ClaimError(f"{type(x).__name__} is neither a Result nor a number; of several, pick one: .out, .lse")
    return x if isinstance(x, Result) else Result.constant(x)


def _shown(key) -> str:
    """An index as it is written; arrays of positions as dots."""
    if isinstance(key, tuple):
        return ", ".join(map(_shown, key))
    if isinstance(key, slice):
        return ":".join("" if part is None else str(part) for part in (key.start, key.stop))
    return str(key) if isinstance(key, int) else "..."


def _power_of_two(x: np.ndarray) -> np.ndarray:
    return np.abs(np.frexp(x)[0]) == 0.5


def _vectorised(array: np.ndarray, how: Callable) -> np.ndarray:
    out = np.empty(array.shape, object)
    out.flat = [how(x) for x in array.flat]
    return out


def _balls(array: np.ndarray) -> np.ndarray:
    from flint import arb
    return _vectorised(np.asarray(array), lambda x: arb(float(x)))


def _both(a: Result, b: Result, how: Callable) -> Callable | None:
    return (lambda: how(a.ball(), b.ball())) if a.ball and b.ball else None
