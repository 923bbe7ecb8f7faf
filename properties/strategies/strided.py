"""Tensors whose entries say where they lie in memory, with strides of every sort."""

from __future__ import annotations

from math import prod

import torch
from hypothesis import strategies as st

from .values import choice


def counted(*shape: int) -> torch.Tensor:
    """The numbers 0, 1, 2 ... in their order in memory (int64): an entry says where it lies."""
    return torch.arange(prod(shape)).view(shape)


@st.composite
def strided_and_shape(draw) -> tuple[torch.Tensor, tuple[int, ...]]:
    """(x, shape): a tensor of its own places in memory, sliced, permuted and perhaps expanded, and a shape of as many
    entries, to view or reshape it to."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    steps = draw(st.lists(choice(1, 1, 2), min_size=len(sizes), max_size=len(sizes)))
    x = counted(*(n * step for n, step in zip(sizes, steps, strict=True)))
    for dim, step in enumerate(steps):
        x = x[(slice(None),) * dim + (slice(None, None, step),)]
    x = x.permute(draw(st.permutations(range(x.ndim))))
    if draw(choice(False, False, True)):
        x = x[:1].expand(3, *x.shape[1:])
    shape, left = [], x.numel()
    for _ in range(draw(st.integers(0, 3))):
        shape.append(draw(st.sampled_from([n for n in range(1, left + 1) if left % n == 0])))
        left //= shape[-1]
    return x, (*shape, left)


__all__ = ["counted", "strided_and_shape"]
