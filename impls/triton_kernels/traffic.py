"""Memory traffic, counted: how many bytes every load and store of a kernel moves, for each of its arguments.

In the interpreter every access passes through one place, so what a kernel asks memory for can be counted instead of
measured:

    with counted() as launches:
        attention(q, k, v)
    launches[0]["loaded"]["k_ptr"]      # bytes

An active lane of a load counts the size of one element as loaded, of a store as stored, of an atomic as both; masked
lanes move nothing. What a cache in between spares, and that memory moves in sectors of 32 bytes, is the machine's
doing and not the kernel's, and is not counted.
"""

from contextlib import contextmanager
from math import prod

import numpy as np
from triton.runtime import interpreter as stock

from .sanitizer import active_lanes, span, tensor_arguments

OUTSIDE = "outside of every argument"


class Meter:
    """Counts what one launch moves. An element that several arguments hold counts for the first of them."""

    def __init__(self, kernel, arguments, constants):
        self.kernel = kernel
        self.tiles = {name: int(value) for name, value in constants.items() if name.startswith("BLOCK")}
        self.tensors = {name: tensor for name, tensor in tensor_arguments(arguments.items()) if tensor.numel()}
        self.spans = {name: span(tensor) for name, tensor in self.tensors.items()}
        self.loaded, self.stored = ({**dict.fromkeys(self.tensors, 0)} for _ in range(2))
        self.multiply_adds = 0
        self._elements = {}

    def access(self, kind, pointers, mask):
        """Count one load, store or atomic."""
        addresses = active_lanes(pointers.data.view(np.int64), mask)
        size = stock._get_np_dtype(pointers.get_element_ty()).itemsize
        for name, lanes in self._shares(addresses):
            for moved in {"load": [self.loaded], "store": [self.stored]}.get(kind, [self.loaded, self.stored]):
                moved[name] = moved.get(name, 0) + size * lanes

    def product(self, a, b):
        """Count a product of matrices: the multiply-adds of the whole tiles, their padding included."""
        self.multiply_adds += prod(a.data.shape) * b.data.shape[-1]

    def launch(self):
        """What was counted, as plain data."""
        return {"kernel": self.kernel, "loaded": self.loaded, "stored": self.stored, "tensors": self.tensors,
                "tiles": self.tiles, "multiply_adds": self.multiply_adds}

    def _shares(self, addresses):
        """(argument, number of lanes) for every argument that the addresses fall on."""
        if not addresses.size:
            return
        low, high = addresses.min(), addresses.max()
        near = [name for name, (start, stop) in self.spans.items() if start <= high and low < stop]
        if len(near) == 1 and self.spans[near[0]][0] <= low and high < self.spans[near[0]][1]:
            yield near[0], addresses.size
            return
        for name in near:       # views of one buffer, or one access to several tensors: element by element
            held = self._holds(name, addresses)
            yield name, int(held.sum())
            addresses = addresses[~held]
        if addresses.size:
            yield OUTSIDE, addresses.size

    def _holds(self, name, addresses):
        tensor, (start, stop) = self.tensors[name], self.spans[name]
        size = tensor.element_size()
        if name not in self._elements:
            elements = np.zeros((stop - start) // size, dtype=bool)
            np.lib.stride_tricks.as_strided(elements, tensor.shape, tensor.stride())[...] = True
            self._elements[name] = elements
        held = (start <= addresses) & (addresses < stop)
        held[held] = self._elements[name][(addresses[held] - start) // size]
        return held


@contextmanager
def counted():
    """Count the launches inside the block: a list that grows by one dict per launch, in order.

    Its keys: "kernel", its name; "loaded" and "stored", bytes by argument; "tensors", the tensors by argument;
    "tiles", the tile sizes by name; "multiply_adds" of its matrix products.
    """
    builder = stock.interpreter_builder     # the installed one, whichever copy of this package installed it
    outer, builder.launches = builder.launches, []
    try:
        yield builder.launches
    finally:
        builder.launches = outer
