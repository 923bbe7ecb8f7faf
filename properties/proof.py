"""The proof leg: SymPy proves a claim for all sizes where possible, and the proof is tied to the claim.

A proof returns `(left, right)`, or a list of such pairs (one per size, "for n <= 4").  It holds when SymPy shows
left - right = 0 for each; an exception, or anything less, is *not proved*.  Two things keep it honest:

- *perturbed*: with 1 added to the left side it must not be provable (a prover that always says yes says nothing);
- *tied*: on drawn examples of the claim both sides, evaluated in numbers, equal the exact values that the claim's own
  `agree` compared.  By default symbols are bound by name: a drawn tensor `x` to `IndexedBase("x")` (1-based, its first
  row) and `n` to its length, numbers to symbols of their name, the free index `i` to 1, the compared element being the
  first.  A `tie=` function of the drawn arguments returns other bindings `{symbol name: number or list}` and may give
  the compared element as "at".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from .cells import EXACT, Outcome
from .calls import Implementation
from .claims import Claim, Proof
from .results import ClaimError
from .search import Budget, search
from .strategies import Inputs
from .trial import Trial

TIED_EXAMPLES = 12
TIE_DIGITS = 1e-9                 # exact values are float64 with their own rounding; a wrong formula is off by far more


def prove(claim: Claim, budget: Budget) -> Outcome:
    """Run a claim's proof: *holds* (proved, perturbation refused, tied), or *not proved* with the reason."""
    import time
    start = time.perf_counter()
    proof = claim.proved_by
    trial = Trial(claim=f"{claim.file}::{claim.name}", dtype="float64", judge=EXACT)
    wrong, note = _proved(proof), " ".join((proof.build.__doc__ or "").split())
    if not wrong and not proof.untied:
        wrong, tied = _tied(claim, proof, trial, budget)
        note = f"{note} Tied to the exact values on {tied} examples.".strip()
    elif not wrong:
        note = f"{note} Not tied to drawn examples: {proof.untied}".strip()
    trial.profile.clear()
    return Outcome("not proved" if wrong else "holds", trial, message=wrong, note=note, law=not wrong,
                   seconds=time.perf_counter() - start)


def _proved(proof: Proof) -> str:
    """Why it is not proved, or an empty string."""
    try:
        pairs = _pairs(proof)
    except Exception as error:                                    # SymPy raises on some false statements
        return f"the proof raises {type(error).__name__}: {error}"
    for number, (left, right) in enumerate(pairs, 1):
        which = f" (pair {number} of {len(pairs)})" if len(pairs) > 1 else ""
        why = vanishes(left, right)
        if why:
            return f"SymPy does not show left = right{which}: {why}"
    left, right = pairs[-1]
    if not vanishes(left + 1, right):
        return "the prover also accepts left + 1 = right: it proves nothing"
    return ""


def _pairs(proof: Proof) -> list[tuple]:
    import sympy
    built = proof.build()
    built = built if isinstance(built, list) else [built]
    return [(sympy.sympify(left), sympy.sympify(right)) for left, right in built]


def vanishes(left, right) -> str:
    """"" when SymPy shows left - right = 0 by one of its simplifications; otherwise what is left, or the exception."""
    import sympy
    remainder = "no simplification ends in 0"
    for how in _WAYS:
        try:
            gap = how(left - right)
            if gap.is_Matrix:
                if gap.is_zero_matrix:
                    return ""
                continue
            if gap == 0 or sympy.simplify(gap) == 0:
                return ""
            remainder = f"{str(gap)[:120]} remains"
        except Exception as error:                                # not proved, whatever it is
            remainder = f"{type(error).__name__}: {error}"
    return remainder


def _expand(gap):
    import sympy
    return sympy.simplify(sympy.expand(gap.doit(), power_exp=True, deep=True))


def _pull_out(gap):
    """Factors that do not depend on the summation index leave their Sum: Sum(e^c e^x_j) = e^c Sum(e^x_j)."""
    import sympy

    def factor(total):
        inner = sympy.powsimp(sympy.expand(total.function, power_exp=True), force=False)
        inner = sympy.expand(inner, power_exp=True)
        variables = set(total.variables)
        terms = []
        for term in sympy.Add.make_args(inner):
            outer, kept = term.as_independent(*variables, as_Add=False)
            terms.append(outer * sympy.Sum(kept, *total.limits))
        return sympy.Add(*terms)

    gap = gap.replace(lambda e: isinstance(e, sympy.Sum), factor)
    return sympy.simplify(sympy.expand(sympy.together(gap), power_exp=True).factor())


_WAYS: tuple[Callable, ...] = (lambda gap: gap, _pull_out, _expand)


def _tied(claim: Claim, proof: Proof, trial: Trial, budget: Budget) -> tuple[str, int]:
    """(why the proof is not about this claim, on how many examples it was compared)."""
    pairs = _pairs(proof)
    impl = Implementation(None, "float64", trial) if claim.takes_implementation else None
    compared = [0]
    wrong: list[str] = []

    def check(drawn: dict) -> None:
        if wrong or compared[0] >= TIED_EXAMPLES or not trial.relations:
            return
        bindings = proof.tie(**drawn) if proof.tie else _by_name(drawn)
        if bindings is None:
            return
        relation = trial.relations[bindings.pop("relation", 0)]
        at = bindings.pop("at", None)
        at = (0,) * relation.left.exact.ndim if at is None else at
        for left, right in pairs:
            values = [_evaluate(side, bindings) for side in (left, right)]
            if None in values:
                continue
            compared[0] += 1
            for name, value, exact in zip(("left", "right"), values, (relation.left, relation.right), strict=True):
                expected = float(exact.exact[at])
                if not abs(value - expected) <= TIE_DIGITS * max(1.0, abs(expected)):
                    wrong.append(f"the proof's {name} side is {value:.9g} where the claim's is {expected:.9g}: "
                                 "it proves something else")

    search(replace(claim, kind="law"), trial, impl, replace(budget, examples=4 * TIED_EXAMPLES), derandomize=True,
           only_law=True, after=check)
    if not wrong and not compared[0]:
        wrong.append("its symbols are bound by no drawn example; name them as the claim's arguments, give tie=, or say "
                     "untied='why'")
    return (wrong[0] if wrong else ""), compared[0]


def _by_name(drawn: dict) -> dict:
    bindings: dict = {"i": 1}
    for name, value in drawn.items():
        if isinstance(value, torch.Tensor) and value.ndim:
            row = value.double().reshape(-1, value.shape[-1])[0] if value.numel() else value.reshape(-1)
            bindings[name] = row.tolist()
            bindings.setdefault("n", len(bindings[name]))
        elif isinstance(value, (int, float)):
            bindings[name] = value
        elif isinstance(value, Inputs):
            raise ClaimError("a claim over attention inputs needs a tie= for its proof")
    return bindings


def _evaluate(side, bindings: dict) -> float | None:
    """A side in numbers, or None where it has a symbol that is not bound (another size)."""
    import sympy
    side = sympy.sympify(side)
    sizes = {s: bindings[s.name] for s in side.free_symbols if isinstance(s, sympy.Symbol) and s.is_integer
             and s.name in bindings and not isinstance(bindings[s.name], (list, tuple))}
    if sizes and max(abs(v) for v in sizes.values()) > 9:
        return None                                               # keep the expanded sums short
    side = side.subs(sizes).doit()
    numbers: dict = {}
    for atom in side.atoms(sympy.Indexed):
        value = bindings.get(str(atom.base))
        try:
            for k in atom.indices:
                value = value[int(k) - 1]
        except (TypeError, IndexError):
            return None
        numbers[atom] = sympy.Float(float(value), 40)
    side = side.xreplace(numbers)
    for symbol in list(side.free_symbols):
        name = re.fullmatch(r"([A-Za-z]+)_?(\d+)", symbol.name)
        value = bindings.get(symbol.name)
        if value is None and name and isinstance(bindings.get(name[1]), (list, tuple)):
            entries = bindings[name[1]]
            value = entries[int(name[2]) - 1] if 0 < int(name[2]) <= len(entries) else None
        if value is None or isinstance(value, (list, tuple)):
            return None
        side = side.subs(symbol, sympy.Float(float(value), 40))
    value = complex(sympy.N(side, 30))
    return float(value.real) if np.isfinite(value.real) else None
