"""Exact values and rounding budgets: what an operation gives at the inputs really received, and how far from it a
correct implementation may be, element by element.

    exact = evaluate("attention", arguments, contract_for("fused", "bfloat16"), conventions)
    used = violations(got, exact[0])            # a correct implementation has used <= 1 everywhere

Everything is float64 NumPy. There is no tolerance: a budget follows from the inputs and a `Contract`.
"""

from dataclasses import dataclass

import numpy as np

from .contracts import PRESETS, Contract, contract_for
from .special import ANY, FIN, KIND_NAMES, NAN, NONFINITE, ZERO, ZERO_OR_NAN
from . import judged

__all__ = ["ANY", "Contract", "Exact", "FIN", "KIND_NAMES", "NAN", "NONFINITE", "PRESETS", "SUPPORTED", "ZERO",
           "ZERO_OR_NAN", "contract_for", "evaluate", "violations"]

SUPPORTED = frozenset(judged.OPERATIONS)


@dataclass(frozen=True)
class Exact:
    """The exact value of one judged quantity and the bound of |got - value|, both float64 of one shape.

    `kind` is None where every element is judged by distance (an exact -inf or +inf must be met exactly), else an int8
    array of classes: FIN by distance, NAN must be NaN, ZERO exactly 0, NONFINITE inf or NaN, ZERO_OR_NAN, ANY is free.
    """

    name: str
    value: np.ndarray
    budget: np.ndarray
    kind: np.ndarray | None = None


def evaluate(operation: str, arguments: dict, contract: Contract, conventions: dict) -> tuple[Exact, ...]:
    """The exact judged quantities of `operation` at `arguments` and their budgets under `contract`.

    `arguments` holds float64 arrays (values as really received), bool arrays, ints, floats and None by parameter name,
    with defaults filled in. `conventions`: {"causal": "bottom-right" | "top-left", "empty_row": "zero" | "nan"}.
    A float64 budget is doubled, which covers the error of the exact value itself; for coarser formats that error is
    below 2^-20 of the budget. Raises KeyError for an operation that is not SUPPORTED.
    """
    slack = 2.0 if contract.acc == "float64" else 1.0 + 2.0**-20
    with np.errstate(all="ignore"):
        quantities = judged.OPERATIONS[operation](arguments, contract, conventions)
        return tuple(_exact(*quantity, slack) for quantity in quantities)


def _exact(name, value, budget, kind, slack):
    budget = budget * slack
    uncertain = ~(budget < np.inf)
    if uncertain.any():  # a budget that is not finite says nothing
        kind = np.zeros(value.shape, np.int8) if kind is None else kind.copy()
        kind[uncertain & (kind == FIN)] = ANY
        budget = np.where(uncertain, 0.0, budget)
    return Exact(name, value, budget, kind if kind is None or kind.any() else None)


def violations(got, exact: Exact) -> np.ndarray:
    """|got - value| / budget elementwise: right up to 1; inf for a wrong class, or an error where the budget is 0."""
    got = np.asarray(got, dtype=np.float64)
    with np.errstate(all="ignore"):
        used = np.abs(got - exact.value) / exact.budget
        if exact.kind is None and used.max(initial=0.0) < np.inf:
            return used
        used = np.where(got == exact.value, 0.0, used)
        used[np.isnan(used)] = np.inf
        if exact.kind is not None:
            for kind, right in ((NAN, np.isnan(got)), (ZERO, got == 0.0), (NONFINITE, ~np.isfinite(got)),
                                (ZERO_OR_NAN, np.isnan(got) | (got == 0.0)), (ANY, True)):
                chosen = exact.kind == kind
                if chosen.any():
                    used = np.where(chosen, np.where(right, 0.0, np.inf), used)
    return used
