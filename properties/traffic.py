"""Memory traffic: the bytes that the kernels of one call loaded and stored, as the implementation counted them.

A kernel file that can count says so with `TRAFFIC`, a function without arguments that returns a context manager. Its
value is a list that grows by one dict per launch of a kernel inside the block:

    {"kernel": name, "loaded": {argument: bytes}, "stored": {argument: bytes}, "tensors": {argument: tensor},
     "tiles": {name: size}, "multiply_adds": number}

The tensors tell which memory is an argument or a result of the operation and which is an intermediate. What PyTorch
itself copies on the way to a launch is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .trial import Unsupported


@dataclass(frozen=True)
class Traffic:
    """What one call moved.

    `loaded_by` and `stored_by`: bytes by tensor, under the operation's own names of arguments and results, and for an
    intermediate under the name of the kernel's argument; `intermediates`: elements of every intermediate that a kernel
    stored to; `multiply_adds` of matrix products, whole tiles; `itemsize`: bytes of an element of the dtype under test;
    `state_itemsize`: of lse and other states, kept at least in float32.
    """

    loaded_by: Mapping[str, int]
    stored_by: Mapping[str, int]
    intermediates: Mapping[str, int]
    tiles: Mapping[str, int]
    multiply_adds: int
    itemsize: int
    state_itemsize: int

    @property
    def loaded(self) -> int:
        """Bytes loaded."""
        return sum(self.loaded_by.values())

    @property
    def stored(self) -> int:
        """Bytes stored."""
        return sum(self.stored_by.values())

    @property
    def moved(self) -> int:
        """Bytes loaded and stored."""
        return self.loaded + self.stored

    def tile(self, name: str) -> int:
        """The size that all kernels of the call gave a tile; unsupported where they name none, or several."""
        if name not in self.tiles:
            raise Unsupported(f"its kernels name no single tile size {name}")
        return self.tiles[name]


def summed(launches: list[Mapping], known: Mapping[str, object], dtype: str) -> Traffic:
    """The traffic of all launches of a call; `known` are the arguments and results of the operation by name."""
    itemsize = getattr(torch, dtype).itemsize
    names = {_memory(t): name for name, t in known.items() if isinstance(t, torch.Tensor) and t.numel()}
    known_names = set(names.values())
    loaded, stored, elements, tiles = Counter(), Counter(), {}, {}
    for launch in launches:
        called = {}
        for argument, tensor in launch["tensors"].items():
            plain = argument.removesuffix("_ptr")
            taken = plain in names.values() and names.get(_memory(tensor)) != plain
            name = names.setdefault(_memory(tensor), f"{launch['kernel']}.{plain}" if taken else plain)
            called[argument] = name
            if name not in known_names and launch["stored"].get(argument):
                elements[name] = max(tensor.numel(), elements.get(name, 0))
        for total, by in ((loaded, launch["loaded"]), (stored, launch["stored"])):
            for argument, count in by.items():
                total[called.get(argument, argument)] += count
        for tile, size in launch.get("tiles", {}).items():
            tiles.setdefault(tile, set()).add(size)
    return Traffic(dict(+loaded), dict(+stored), elements,
                   {tile: sizes.pop() for tile, sizes in tiles.items() if len(sizes) == 1},
                   sum(launch.get("multiply_adds", 0) for launch in launches), itemsize, max(itemsize, 4))


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
