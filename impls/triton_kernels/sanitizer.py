"""The sanitizer of the interpreter: which element every lane of every memory access touches.

Costs some 10 % of a launch and is on unless ATTEST_SANITIZE=0 is set.
"""

import linecache
import os
import sys
from dataclasses import dataclass, field

import numpy as np
import torch
import triton
from triton.runtime import interpreter as stock

class KernelMemoryError(RuntimeError):
    """A kernel touched memory that is not its own, or two programs would race for an element."""


@dataclass
class Memory:
    """What happened, in one launch, to the elements of the arguments that share one storage.

    `reader`, `writer` and `updater` (atomics) hold for every element the number of the first program that touched it, 0
    for none. Programs run in ascending order, so the first one is enough to see whether another one was there.
    """

    arguments: dict
    start: int = field(init=False)
    stop: int = field(init=False)

    def __post_init__(self):
        tensors = self.arguments.values()
        ends = [t.data_ptr() + (sum((n - 1) * s for n, s in zip(t.shape, t.stride())) + 1) * t.element_size() for t in tensors]
        self.start, self.stop = min(t.data_ptr() for t in tensors), max(ends)
        self.unit = min(t.element_size() for t in tensors)
        count = (self.stop - self.start) // self.unit
        self.owned = None
        if sum(t.numel() * t.element_size() for t in tensors) != self.stop - self.start or len(tensors) > 1:
            self.owned = np.zeros(count, dtype=bool)
            for t in tensors:
                strides = [s * t.element_size() // self.unit for s in t.stride()]
                first = self.owned[(t.data_ptr() - self.start) // self.unit:]
                np.lib.stride_tricks.as_strided(first, t.shape, strides)[...] = True
        self.reader, self.writer, self.updater = (np.zeros(count, dtype=np.int32) for _ in range(3))
        self.lane = np.zeros(count, dtype=np.int32)

    def name(self, address):
        """The element at an address, in terms of the closest argument."""
        def distance(t):
            offset = address - t.data_ptr()
            last = sum((n - 1) * s for n, s in zip(t.shape, t.stride())) * t.element_size()
            return max(-offset, offset - last, 0)
        name, t = min(self.arguments.items(), key=lambda item: distance(item[1]))
        offset = (address - t.data_ptr()) // t.element_size()
        position = torch.zeros((), dtype=torch.int64)
        for n, s in zip(t.shape, t.stride()):
            position = position[..., None] + torch.arange(n) * s
        found = (position == offset).nonzero().tolist()
        where = ", ".join(map(str, found[0])) if found else f"offset {offset}"
        return f"{name}[{where}], of shape {tuple(t.shape)} and strides {tuple(t.stride())}"


class Sanitizer:
    """Checks every active lane of every memory access of one launch.

    - It must fall on an element of a tensor argument: the gaps of a strided tensor and what lies before and after it
      are not the kernel's.
    - No two programs may touch one element when one of them writes it, atomics among themselves excepted: the order of
      programs is not defined.
    - No two lanes of one store may write different values to one element.
    """

    def __init__(self, kernel, arguments):
        self.kernel = kernel
        storages = {}
        for name, tensor in _tensors(arguments.items()):
            if tensor.numel():
                storages.setdefault(tensor.untyped_storage().data_ptr(), {})[name] = tensor
        self.memories = [Memory(named) for named in storages.values()]

    def check(self, kind, pointers, mask, value=None):
        """Raise KernelMemoryError if an active lane of this load, store or atomic is out of place."""
        addresses = pointers.data.astype(np.int64)
        active = None if mask is None else np.broadcast_to(mask.data, addresses.shape).astype(bool, copy=False)
        addresses = addresses.ravel() if active is None else addresses[active]
        if not addresses.size:
            return
        values = None
        if value is not None:
            values = np.broadcast_to(value.data, pointers.data.shape)
            values = values.ravel() if active is None else values[active]
        low, high = addresses.min(), addresses.max()
        for memory in self.memories:
            if memory.start <= low and high < memory.stop:
                return self._touch(kind, memory, addresses, values)
        for memory in self.memories:        # one access that spans several tensors
            inside = (memory.start <= addresses) & (addresses < memory.stop)
            if inside.any():
                self._touch(kind, memory, addresses[inside], values if values is None else values[inside])
                addresses, values = addresses[~inside], values if values is None else values[~inside]
        if addresses.size:
            self._outside(kind, addresses)

    def _touch(self, kind, memory, addresses, values):
        cells = (addresses - memory.start) // memory.unit
        if memory.owned is not None and not memory.owned[cells].all():
            self._outside(kind, addresses[~memory.owned[cells]])
        builder = stock.interpreter_builder
        (x, y, z), (_, ny, nz) = builder.grid_idx, builder.grid_dim
        me = (x * ny + y) * nz + z + 1
        mine, others = {
            "load": (memory.reader, (memory.writer, memory.updater)),
            "store": (memory.writer, (memory.reader, memory.writer, memory.updater)),
            "atomic": (memory.updater, (memory.reader, memory.writer)),
        }[kind]
        for first in others:
            seen = first[cells]
            foreign = (seen != 0) & (seen != me)
            if foreign.any():
                self._race(kind, memory, addresses[foreign][0], int(seen[foreign][0]) - 1, first is memory.reader)
        seen = mine[cells]
        mine[cells] = np.where(seen == 0, me, seen)
        if values is not None:
            lane = np.arange(cells.size, dtype=np.int32)
            memory.lane[cells] = lane
            last = memory.lane[cells]
            bits = np.ascontiguousarray(values).view(f"u{values.itemsize}")
            clash = bits != bits[last]
            if clash.any():
                self._fail(f"two lanes of one store write different values to {memory.name(addresses[clash][0])}: strides "
                           "or offsets make different elements coincide")

    def _outside(self, kind, addresses):
        memory = min(self.memories, default=None,
                     key=lambda m: max(m.start - addresses[0], addresses[0] - m.stop, 0))
        place = "a kernel without tensors" if memory is None else memory.name(int(addresses[0]))
        self._fail(f"{kind} outside of every tensor argument: {addresses.size} lane(s), the first at {place}. "
                   "A mask is missing or too wide, or a stride is wrong")

    def _race(self, kind, memory, address, other, other_reads):
        _, ny, nz = stock.interpreter_builder.grid_dim
        other = (other // (ny * nz), other // nz % ny, other % nz)
        self._fail(f"race: this {kind} touches {memory.name(int(address))}, which program {other} "
                   f"{'reads' if other_reads else 'writes'}; the order of programs is not defined")

    def _fail(self, message):
        raise KernelMemoryError(f"{self.kernel}: {message}. Program {stock.interpreter_builder.grid_idx}, {_kernel_line()}")


def _tensors(named):
    for name, value in named:
        if isinstance(value, tuple):
            yield from _tensors((f"{name}[{i}]", v) for i, v in enumerate(value))
        elif isinstance(getattr(value, "base", None), torch.Tensor):        # a tensor descriptor
            yield name, value.base
        elif isinstance(value, torch.Tensor):
            yield name, value


def _kernel_line():
    """The innermost line of a kernel on the stack: the first frame that is neither Triton's nor ours."""
    frame, triton_folder = sys._getframe(), os.path.dirname(triton.__file__)
    while frame and (frame.f_code.co_filename == __file__ or frame.f_code.co_filename.startswith(triton_folder)):
        frame = frame.f_back
    file, line = frame.f_code.co_filename, frame.f_lineno
    return f"{os.path.basename(file)}:{line}: {linecache.getline(file, line).strip()}"
