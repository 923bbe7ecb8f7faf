"""Inputs as a kernel meets them: rounded to the dtype under test, in a chosen memory layout, inside guard bands.

Around and between the elements of a floating-point input lie NaNs, so that a kernel that reads where it should not
poisons its own result; after the call the whole buffer must be unchanged, bit for bit. Memory that a kernel allocates
without filling it is full of NaN too, so that an element that nobody writes shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

GUARD = 16          # elements before and after: keeps the 16-byte alignment of the allocation for every dtype
FAR = 2**31         # elements: one more than an offset of 32 bits reaches
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in memory.

    `swap` names two dims whose storage order is exchanged; `step` is the stride of the last stored dim; `row_gap` and
    `offset` are unused elements after every last-dim row and before the first element; `expand` names a dim along
    which all entries are equal and share memory (stride 0); `far` names a dim whose entries lie 2**31 elements apart,
    in memory that is reserved but, apart from them, neither touched nor guarded.
    """

    name: str
    swap: tuple[int, int] | None = None
    step: int = 1
    row_gap: int = 0
    offset: int = 0
    expand: int | None = None
    far: int | None = None

    def __repr__(self) -> str:
        return self.name


CONTIGUOUS = Layout("contiguous")
LAYOUTS = (
    CONTIGUOUS,
    Layout("offset by 3 elements", offset=3),
    Layout("last two dims swapped in memory", swap=(-1, -2)),
    Layout("heads inside (B, L, H, D)", swap=(-3, -2)),
    Layout("gaps after every row", row_gap=5),
    Layout("every second element", step=2),
    Layout("first dim innermost", swap=(0, -1)),
)


@dataclass(frozen=True)
class Laid:
    """Values together with the layout in which they shall be handed over; see `laid`."""

    values: torch.Tensor
    layout: Layout


def laid(x: torch.Tensor, layout: Layout) -> Laid:
    """x, to be handed to the implementation in that layout."""
    return Laid(x, layout)


@dataclass(frozen=True)
class Placed:
    """A tensor inside its guarded buffer, with a copy of the buffer's bits."""

    view: torch.Tensor
    buffer: torch.Tensor
    bits: torch.Tensor

    def untouched(self) -> bool:
        """Whether the buffer still holds the same bits."""
        return torch.equal(_bits(self.buffer), self.bits)


def _bits(t: torch.Tensor) -> torch.Tensor:
    return t.view(_BITS[t.element_size()])


def _strides(shape: tuple[int, ...], layout: Layout) -> tuple[list[int], int]:
    """Strides in elements, and the number of elements spanned."""
    order = list(range(len(shape)))
    if layout.swap is not None and len(shape) >= max(2, -min(layout.swap)):
        a, b = layout.swap
        order[a], order[b] = order[b], order[a]
    strides, size = [0] * len(shape), layout.step
    for position, dim in enumerate(reversed(order)):
        if layout.expand is not None and dim == layout.expand % len(shape):
            continue
        strides[dim] = size
        size *= max(shape[dim], 1)
        if position == 0:
            size += layout.row_gap
    return strides, size


def place(values: torch.Tensor, dtype: torch.dtype, *, layout: Layout = CONTIGUOUS, device: str = "cpu") -> Placed:
    """Round `values` to `dtype` and lay them into a fresh guarded buffer; a boolean buffer is guarded with True."""
    if layout.far is not None:
        return _place_far(values, dtype, layout.far, device)
    floating = dtype.is_floating_point
    filler = float("nan") if floating else 1
    shape = values.shape
    if layout is CONTIGUOUS:
        count = values.numel()
        buffer = torch.full((count + 2 * GUARD,), filler, dtype=dtype)
        view = buffer[GUARD: GUARD + count].view(shape)
    else:
        strides, count = _strides(tuple(shape), layout)
        buffer = torch.full((count + layout.offset + 2 * GUARD,), filler, dtype=dtype)
        view = torch.as_strided(buffer, shape, strides, GUARD + layout.offset)
    if layout.expand is not None:
        torch.as_strided(view, values.narrow(layout.expand, 0, 1).shape, view.stride(), view.storage_offset()).copy_(
            values.narrow(layout.expand, 0, 1))
    else:
        view.copy_(values)
    if device != "cpu":
        buffer = buffer.to(device)
        view = torch.as_strided(buffer, shape, view.stride(), view.storage_offset())
    return Placed(view, buffer, _bits(buffer).clone())


def _place_far(values: torch.Tensor, dtype: torch.dtype, dim: int, device: str) -> Placed:
    strides = list(torch.empty(values.shape, device="meta").stride())
    strides[dim] = FAR
    span = sum((n - 1) * stride for n, stride in zip(values.shape, strides, strict=True)) + 1
    try:
        view = torch.empty(max(span, 1), dtype=dtype, device=device).as_strided(values.shape, strides)
    except RuntimeError as error:
        raise MemoryError(f"{span} elements of {dtype} can not be reserved") from error
    view.copy_(values)
    return Placed(view, view, _bits(view).clone())


def shares_memory(a: torch.Tensor, placed: Placed) -> bool:
    """Whether `a` lies inside the buffer of an input."""
    return a.numel() > 0 and a.untyped_storage().data_ptr() == placed.buffer.untyped_storage().data_ptr()


class poisoned_memory:
    """While active, `torch.empty` and its like give memory full of NaN (True, the largest integer), NumPy's as well."""

    def __enter__(self) -> None:
        for owner, name, _, poisoned in _ALLOCATORS:
            setattr(owner, name, poisoned)

    def __exit__(self, *_) -> None:
        for owner, name, original, _ in _ALLOCATORS:
            setattr(owner, name, original)


def _poisoned(allocate):
    def poisoned(*args, **kwargs):
        fresh = allocate(*args, **kwargs)
        if isinstance(fresh, np.ndarray):
            if fresh.dtype.kind in "fc":
                fresh.fill(np.nan)
            elif fresh.dtype.kind in "iub":
                fresh.fill(True if fresh.dtype.kind == "b" else np.iinfo(fresh.dtype).max)
        elif fresh.device.type in ("cpu", "cuda") and type(fresh) is torch.Tensor:
            floating = fresh.dtype.is_floating_point or fresh.dtype.is_complex
            fresh.detach().fill_(float("nan") if floating else True if fresh.dtype == torch.bool else
                                 torch.iinfo(fresh.dtype).max)
        return fresh
    return poisoned


_ALLOCATORS = tuple(
    (owner, name, getattr(owner, name), _poisoned(getattr(owner, name)))
    for owner, names in ((torch, ("empty", "empty_like", "empty_strided")), (torch.Tensor, ("new_empty",)),
                         (np, ("empty", "empty_like")))
    for name in names)
