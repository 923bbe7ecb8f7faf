"""The claims' budgets with inputs as a user of Hypothesis first writes them: `arrays(shape, floats(-10, 10))`.

What is left when the strategies are taken away: every result must lie within the budget of its exact value, but shapes
are small and numbers are any.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as plain

from ..claims import Claim
from ..numerics import SUPPORTED
from ..subjects import load
from .matrix import ByClaim, Places
from .usual import Sizes, Source, options_of, usual_arguments


@st.composite
def plain_arguments(draw, operation: str, forward: Callable) -> dict:
    """Arguments of an operation: sides from 1 to 8, numbers from -10 to 10, any options."""
    side = st.integers(1, 8)
    heads, kv_heads = draw(st.sampled_from([(1, 1), (2, 2), (2, 1), (4, 2)]))
    sizes = Sizes(draw(st.integers(1, 2)), heads, kv_heads, draw(side), draw(side), draw(side), draw(side))
    numbers = st.floats(-10, 10, width=32)
    source = Source(
        real=lambda *shape: torch.from_numpy(draw(plain.arrays("float64", shape, elements=numbers))),
        keep=lambda *shape: torch.from_numpy(draw(plain.arrays("bool", shape))),
        whole=lambda least, most: draw(st.integers(least, most)))
    possible = options_of(operation)
    options = draw(st.lists(st.sampled_from(possible), unique=True)) if possible else ()
    return usual_arguments(operation, sizes, source, forward=forward, options=options)


def plain_claim(operation: str, forward: Callable) -> Claim:
    """That an operation lies within its budget, on plain arguments."""
    def within_budget(impl, arguments):
        """Every result lies within the budget of its exact value."""
        own = {name: x.clone() if isinstance(x, torch.Tensor) else x for name, x in arguments.items()}
        getattr(impl, operation)(**own)               # whole numbers are handed over as they are, and may be written

    test = given(arguments=plain_arguments(operation, forward))(within_budget)
    return Claim(name=operation, file="plain", line=0, test=test, statement=within_budget.__doc__, formula="", rows=(),
                 if_fails="", kind="law", over="reals", operations=(operation,), source="")


def by_plain_arrays(places: Places) -> list[ByClaim]:
    """One judge per operation that has an exact value."""
    (base, *_), _ = load(places.base, name=places.base.stem)
    return [ByClaim(plain_claim(operation, base.operations["attention"]), once=True)
            for operation in base.operations if operation in SUPPORTED]
