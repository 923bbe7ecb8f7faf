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
        tensors = list(self.arguments.values())
        sizes = [t.element_size() for t in tensors]
        self.start, self.stop = (pick(ends) for pick, ends in zip((min, max), zip(*map(span, tensors))))
        self.unit, self.shift = min(sizes), min(sizes).bit_length() - 1
        self.count = (self.stop - self.start) >> self.shift
        self.owned = None       # all of them
        if len(tensors) > 1 or tensors[0].numel() != self.count:
            self.owned = np.zeros(self.count, dtype=bool)
            for t, size in zip(tensors, sizes):
                from_first = self.owned[(t.data_ptr() - self.start) >> self.shift:]
                strides = [s * size >> self.shift for s in t.stride()]
                shape = [n if s else 1 for n, s in zip(t.shape, strides)]       # an expanded dim is one element
                np.lib.stride_tricks.as_strided(from_first, shape, strides)[...] = True
        self.writer = self.updater = self.lane = None
        self._reader, self._reads, self._read_lanes = None, [], 0

    def read(self, program, cells):
        """Note a read. Most arguments are never written, so whose read was the first is worked out when it matters."""
        self._reads.append((program, cells))
        self._read_lanes += cells.size
        if self._read_lanes > 2**20:
            self.reader

    @property
    def reader(self):
        self._reader = self._new() if self._reader is None else self._reader
        for program, cells in self._reads:
            _first(self._reader, cells, program)
        self._reads, self._read_lanes = [], 0
        return self._reader

    def write(self, program, cells):
        self.writer = self._new() if self.writer is None else self.writer
        _first(self.writer, cells, program)

    def update(self, program, cells):
        self.updater = self._new() if self.updater is None else self.updater
        _first(self.updater, cells, program)

    def _new(self):
        return np.zeros(self.count, dtype=np.int32)

    def clashes(self, cells, values):
        """Where lanes of one store write different values to one element."""
        self.lane = self._new() if self.lane is None else self.lane
        self.lane[cells] = np.arange(cells.size, dtype=np.int32)
        bits = np.ascontiguousarray(values).view(f"u{values.itemsize}")
        return bits != bits[self.lane[cells]]

    def name(self, address):
        """The element at an address, in terms of the closest argument."""
        def distance(t):
            offset = address - t.data_ptr()
            return max(-offset, offset - _last_offset(t) * t.element_size(), 0)
        name, t = min(self.arguments.items(), key=lambda item: distance(item[1]))
        offset = (address - t.data_ptr()) // t.element_size()
        position = torch.zeros((), dtype=torch.int64)
        for n, s in zip(t.shape, t.stride()):
            position = position[..., None] + torch.arange(n) * s
        found = (position == offset).nonzero().tolist()
        where = ", ".join(map(str, found[0])) if found else f"offset {offset}"
        return f"{name}[{where}], of shape {tuple(t.shape)} and strides {tuple(t.stride())}"


def _last_offset(tensor):
    return sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride()))


def _first(programs, cells, program):
    seen = programs[cells]
    programs[cells] = np.where(seen == 0, program, seen)


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
        for name, tensor in tensor_arguments(arguments.items()):
            if tensor.numel():
                storages.setdefault(tensor.untyped_storage().data_ptr(), {})[name] = tensor
        self.memories = [Memory(named) for named in storages.values()]

    def check(self, kind, pointers, mask, value=None):
        """Raise KernelMemoryError if an active lane of this load, store or atomic is out of place."""
        lanes = pointers.data.view(np.int64)
        addresses = active_lanes(lanes, mask)
        values = None if value is None else active_lanes(np.broadcast_to(value.data, lanes.shape), mask)
        if not addresses.size:
            return
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
        cells = (addresses - memory.start) >> memory.shift
        if memory.owned is not None and not memory.owned[cells].all():
            self._outside(kind, addresses[~memory.owned[cells]])
        (x, y, z), (_, ny, nz) = stock.interpreter_builder.grid_idx, stock.interpreter_builder.grid_dim
        me = (x * ny + y) * nz + z + 1

        def alone(first, what):
            if first is not None:
                foreign = (first[cells] != 0) & (first[cells] != me)
                if foreign.any():
                    self._race(kind, memory, addresses[foreign][0], first[cells][foreign][0] - 1, what)

        alone(memory.writer, "writes")
        if kind != "atomic":
            alone(memory.updater, "updates atomically")
        if kind == "load":
            return memory.read(me, cells)
        alone(memory.reader, "reads")
        if kind == "atomic":
            return memory.update(me, cells)
        memory.write(me, cells)
        clash = memory.clashes(cells, values)
        if clash.any():
            self._fail(f"two lanes of one store write different values to {memory.name(int(addresses[clash][0]))}: a "
                       "stride or an offset is wrong, or a mask is missing")

    def _outside(self, kind, addresses):
        memory = min(self.memories, default=None,
                     key=lambda m: max(m.start - addresses[0], addresses[0] - m.stop, 0))
        place = "a kernel without tensors" if memory is None else memory.name(int(addresses[0]))
        self._fail(f"{kind} outside of every tensor argument: {addresses.size} lane(s), the first at {place}. "
                   "A mask is missing or too wide, or a stride is wrong")

    def _race(self, kind, memory, address, other, what):
        other = tuple(int(i) for i in np.unravel_index(other, stock.interpreter_builder.grid_dim))
        self._fail(f"race: this {kind} touches {memory.name(int(address))}, which program {other} {what}; programs run "
                   "in no defined order")

    def _fail(self, message):
        program = stock.interpreter_builder.grid_idx
        raise KernelMemoryError(f"{self.kernel}: {message}. Program {program}, {_kernel_line()}")


def active_lanes(lanes, mask):
    """The elements of the array `lanes` where the mask (None: everywhere) is true, flat."""
    if mask is None or mask.data.all():
        return lanes.ravel()
    return lanes[mask.data if mask.data.shape == lanes.shape else np.broadcast_to(mask.data, lanes.shape)]


def span(tensor):
    """The first address of a tensor that is not empty, and the one after its last element."""
    return tensor.data_ptr(), tensor.data_ptr() + (_last_offset(tensor) + 1) * tensor.element_size()


def tensor_arguments(named):
    """(name, tensor) for every tensor among the arguments, those in tuples and under descriptors included."""
    for name, value in named:
        if isinstance(value, tuple):
            yield from tensor_arguments((f"{name}[{i}]", v) for i, v in enumerate(value))
        elif isinstance(getattr(value, "base", None), torch.Tensor):        # a tensor descriptor
            yield name, value.base
        elif isinstance(value, torch.Tensor):
            yield name, value


def _kernel_line():
    """The innermost line of a kernel on the stack: the first frame that is neither Triton's nor ours."""
    machinery = os.path.dirname(triton.__file__), __file__, os.path.join(os.path.dirname(__file__), "interpreter.py")
    frame = sys._getframe()
    while frame.f_back and frame.f_code.co_filename.startswith(machinery):
        frame = frame.f_back
    file, line = frame.f_code.co_filename, frame.f_lineno
    return f"{os.path.basename(file)}:{line}: {linecache.getline(file, line).strip()}"
