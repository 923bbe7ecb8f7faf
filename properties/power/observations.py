"""What is seen of a wrong result before anything is repaired: where it is wrong, and what stands there instead."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..trial import Call, Quantity

SLIGHTLY = 1e-2             # of the largest number of a result: what is off by less is slightly off
ALIKE = 1e-3                # relative: factors, or amounts, that differ by less are one
BLOCK = 16                  # what the sizes of tiles are multiples of
FURTHEST = 64               # how many indices away another vector is looked for

_HEADS = ("attention", "attention_weights", "attention_backward", "decode", "split_kv", "rope", "repeat_kv",
          "split_heads", "merge_heads")


def off(q: Quantity) -> np.ndarray:
    """Where a quantity is outside its budget."""
    with np.errstate(invalid="ignore"):
        return ~((np.abs(q.got - q.expected) <= q.budget) | (q.got == q.expected)
                 | (np.isnan(q.got) & np.isnan(q.expected)))


def observed(call: Call) -> dict[str, bool]:
    """What holds of some wrong quantity of a call and what of none; what can not be asked of it is left out."""
    wrong = [(q, off(q)) for q in call.quantities if q.used > 1 and q.got.dtype.kind == "f"]
    found: dict[str, bool] = {}
    for q, where in wrong:
        for name, answer in _seen(call.operation, q, where) if where.any() else ():
            found[name] = found.get(name, False) or bool(answer)
    names = {q.name for q, _ in wrong}
    if wrong and len(call.quantities) > 1 and "lse" in {q.name for q in call.quantities}:
        found |= {"the log-sum-exp alone is wrong": names == {"lse"}, "the log-sum-exp is right": "lse" not in names}
    return found


def _seen(operation: str, q: Quantity, where: np.ndarray) -> Iterator[tuple[str, bool]]:
    got, expected, budget = (np.broadcast_to(x, where.shape)[where].astype(float)
                             for x in (q.got, q.expected, q.budget))
    numbers, belong = np.isfinite(got), np.isfinite(expected)
    yield "NaN where a number belongs", (np.isnan(got) & belong).any()
    yield "an infinity where a number belongs", (np.isinf(got) & belong).any()
    yield "a number where none belongs", (numbers & ~belong).any()
    yield "zeros where other numbers belong", (got == 0).all()
    if (numbers & belong).sum() > 1:
        yield from _by_how_much(q, *(x[numbers & belong] for x in (got, expected, budget)))
    axes = _axes(operation, q)
    for axis, name in enumerate(axes):
        size, along = where.shape[axis], where.any(axis=tuple(i for i in range(where.ndim) if i != axis))
        if size < 2:
            continue
        yield f"the first {name} is right", not along[0]
        yield f"the last {name} is right", not along[-1]
        yield f"the numbers of another {name}", _elsewhere(q, where, axis)
        if name in ("row", "column") and size > BLOCK and size % BLOCK:
            yield f"only {name}s beyond whole blocks are wrong", not along[:size // BLOCK * BLOCK].any()
    if "row" in axes:
        vector = tuple(range(axes.index("row") + 1, where.ndim))
        empty = (q.expected == -np.inf).all(axis=vector) | (q.expected == 0).all(axis=vector)
        if empty.any():
            yield "only rows that see nothing are wrong", not (where.any(axis=vector) & ~empty).any()


def _axes(operation: str, q: Quantity) -> list[str]:
    """The names of a quantity's axes; per-row quantities lack the last one."""
    names = ["sequence", "head", "row", "column"] if operation in _HEADS else ["matrix", "matrix", "row", "column"]
    names = names[:-1] if q.name in ("lse", "m", "l") else names
    return (["matrix"] * q.got.ndim + names)[-q.got.ndim:] if q.got.ndim else []


def _by_how_much(q: Quantity, got, expected, budget) -> Iterator[tuple[str, bool]]:
    largest = np.abs(q.expected[np.isfinite(q.expected)]).max(initial=0.0)
    yield "slightly off", np.abs(got - expected).max() <= SLIGHTLY * largest
    if np.ptp(expected) > 0:
        factor, amount = (got @ expected) / (expected @ expected), np.median(got - expected)
        yield "off by one factor", (np.abs(got - factor * expected) <= np.maximum(budget, ALIKE * np.abs(got))).all()
        yield "off by one amount", (np.abs(got - expected - amount) <= np.maximum(budget, ALIKE * abs(amount))).all()


def _elsewhere(q: Quantity, where: np.ndarray, axis: int) -> bool:
    """Whether every wrong vector (number, along the last axis) is what belongs at another index of an axis."""
    got, expected, budget, wrong = (np.moveaxis(np.broadcast_to(x, where.shape), axis, 0)
                                    for x in (q.got, q.expected, q.budget, where))
    vectors = axis < where.ndim - 1
    wrong = wrong.any(axis=-1) if vectors else wrong
    found = np.zeros_like(wrong)
    for shift in range(1, min(len(got), FURTHEST + 1)):
        other = np.roll(expected, shift, 0)
        with np.errstate(invalid="ignore"):
            same = (np.abs(got - other) <= np.maximum(budget, np.roll(budget, shift, 0))) | (got == other)
        found |= same.all(axis=-1) if vectors else same
    return bool(found[wrong].all())
