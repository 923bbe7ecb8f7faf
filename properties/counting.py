"""Counted costs: multiply-adds and memory of an implementation written in torch, from its own operator calls.

Nothing is timed.  A `TorchDispatchMode` sees every operator: matrix products are counted by PyTorch's own formulas,
memory by the tensors that operators return.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Count:
    """What a call cost: `multiply_adds` of its matrix products, and `largest`, the number of elements of the largest
    tensor that an operator returned (views of the inputs included)."""

    multiply_adds: int
    largest: int


class _Largest(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        returned = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(returned):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return returned


def count(call: Callable[[], object]) -> Count:
    """Run the call and count it.  Only torch operators are seen: a kernel of another kind counts 0."""
    largest, flops = _Largest(), FlopCounterMode(display=False)
    with flops, largest:
        call()
    return Count(flops.get_total_flops() // 2, largest.elements)
