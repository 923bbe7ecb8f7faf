"""Padding and chosen keys: what is drawn beside the inputs of attention where a claim is about hidden keys."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from .attention import Inputs, attention_inputs
from .rows import keeps
from .values import choice, reach


@st.composite
def padded_inputs(draw, **options) -> tuple[Inputs, torch.Tensor]:
    """(inputs, real): inputs of attention without a mask, and which keys are real, bool `(B, Lk)`, some in each entry.

    The padding is on the right, on the left, or anywhere in between.
    """
    x = draw(attention_inputs(**options))
    real = draw(keeps((x.k.shape[0], x.k.shape[2]), empty_rows=False))
    place = draw(choice("padding right", "padding left", "padding anywhere"))
    if place != "padding anywhere":
        real = real.sort(-1, descending=place == "padding right").values
    reach(place)
    return x, real


@st.composite
def inputs_and_key(draw, **options) -> tuple[Inputs, int]:
    """(inputs, j): inputs of attention and one of their keys."""
    x = draw(attention_inputs(**options))
    return x, draw(st.integers(0, x.k.shape[2] - 1))


@st.composite
def inputs_and_query(draw, **options) -> tuple[Inputs, int]:
    """(inputs, i): inputs of attention and one of their queries."""
    x = draw(attention_inputs(**options))
    return x, draw(st.integers(0, x.q.shape[2] - 1))
