"""Are the timed results right? Judged as the claims judge them, on some rows: as a multiple of the error budget.

A matrix of 16 384 x 16 384 scores in float64 for every head is out of reach, and not needed: a row of attention depends
on its own query and on the keys and values of one head. So a few queries of one head are evaluated exactly, against all
the keys that they see. At most 1 is right.
"""

from collections.abc import Mapping

import torch

from properties.numerics import contract_for, evaluate, violations
from properties.operations import OPERATIONS

CONVENTIONS = {"causal": "bottom-right", "empty_row": "zero"}
N_ROWS = 8


def sampled(n: int, count: int = N_ROWS) -> torch.Tensor:
    """Up to `count` indices below n: the first, the last, and some beside the middles and edges of blocks."""
    wanted = {0, n - 1, n // 2, n // 2 - 1, n // 3, 2 * n // 3 + 1, 63, 64, 127, 128}
    usable = sorted(i for i in wanted if 0 <= i < n)
    step = max(1, -(-len(usable) // count))
    return torch.tensor(sorted({0, n - 1, *usable[::step][:max(count - 2, 0)]}))


def _as_float64(value):
    """A tensor as the NumPy array that the exact value is computed from; anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    array = value.detach().cpu()
    return (array.double() if array.is_floating_point() else array).numpy()


def used(operation: str, arguments: Mapping, results: Mapping, *, rounding="fused", dtype: torch.dtype) -> float:
    """The largest share of its error budget that any of `results` (by name) uses; arguments by name, torch or plain."""
    bound = OPERATIONS[operation].signature.bind(**arguments)
    bound.apply_defaults()
    contract = contract_for(rounding, str(dtype).removeprefix("torch."))
    given = {name: _as_float64(value) for name, value in bound.arguments.items()}
    given |= {name: _as_float64(results[name]) for name in OPERATIONS[operation].drawn}
    exact = {quantity.name: quantity for quantity in evaluate(operation, given, contract, CONVENTIONS)}
    missing = set(results) - set(exact)
    if missing:
        raise KeyError(f"{operation} is not judged by {', '.join(sorted(missing))}, but by {', '.join(exact)}")
    return max(float(violations(_as_float64(value), exact[name]).max(initial=0.0)) for name, value in results.items())


def _one_head(q, k, v, head: int, causal: bool):
    """The sampled rows, and as arguments of attention: these queries of one head, its keys and values, what is seen."""
    rows, kv_head = sampled(q.shape[2]), head // (q.shape[1] // k.shape[1])
    seen = None
    if causal:
        seen = (torch.arange(k.shape[2]) <= rows[:, None] + k.shape[2] - q.shape[2])[None, None]
    chosen = rows.to(q.device)
    return chosen, {"q": q[:1, head:head + 1, chosen], "k": k[:1, kv_head:kv_head + 1], "v": v[:1, kv_head:kv_head + 1],
                    "mask": seen}


def forward_used(q, k, v, out, lse=None, *, causal: bool, head: int | None = None, rounding="fused") -> float:
    """Budget used by sampled rows of out and lse (B, H, L, ...) of one head, the last one unless told."""
    head = q.shape[1] - 1 if head is None else head
    rows, arguments = _one_head(q, k, v, head, causal)
    results = {"out": out[:1, head:head + 1, rows]}
    if lse is not None:
        results["lse"] = lse[:1, head:head + 1, rows]
    return used("attention", arguments, results, rounding=rounding, dtype=q.dtype)


def only_sampled(dout: torch.Tensor, head: int) -> torch.Tensor:
    """dout, but 0 outside the sampled rows of one query head: dK and dV are then a sum over these alone."""
    rows = sampled(dout.shape[2]).to(dout.device)
    kept = torch.zeros_like(dout)
    kept[:1, head, rows] = dout[:1, head, rows]
    return kept


def backward_used(q, k, v, out, lse, dout, *, causal: bool, head: int | None = None, rounding="fused", **gradients):
    """Budget used by dq in sampled rows, and by dk and dv (where given) of that head, everywhere.

    dk and dv must have been computed from `only_sampled(dout, head)`: any other query would add to them.
    """
    head = q.shape[1] - 1 if head is None else head
    rows, arguments = _one_head(q, k, v, head, causal)
    kv_head = head // (q.shape[1] // k.shape[1])
    arguments |= {name: x[:1, head:head + 1, rows] for name, x in (("out", out), ("lse", lse), ("dout", dout))}
    results = {name: x[:1, kv_head:kv_head + 1] for name, x in gradients.items() if name != "dq"}
    if "dq" in gradients:
        results["dq"] = gradients["dq"][:1, head:head + 1, rows]
    return used("attention_backward", arguments, results, rounding=rounding, dtype=q.dtype)
