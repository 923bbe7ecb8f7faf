"""Wrong attention: how the inputs lie in memory, how far apart their entries are, and how the output is written."""

from math import prod

import torch

from impls.naive import attention as _right


def _packed(shape):
    """The strides of a contiguous tensor."""
    return [prod(shape[dim + 1:]) for dim in range(len(shape))]


def _places(shape, strides, offset):
    """Where the entries of a tensor lie in its memory, as a tensor of integers of that shape."""
    place = torch.full(tuple(shape), offset)
    for dim, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        place += (torch.arange(size) * stride).view([-1 if d == dim else 1 for d in range(len(shape))])
    return place


def _read(x, strides=None, *, offset=None, at=lambda places: places):
    """What a kernel finds that walks over the memory of x with other strides or from another offset.

    `at` maps where it means to read to where it reads; it never leaves the memory of x.
    """
    size = x.untyped_storage().nbytes() // x.element_size()
    first = x.storage_offset() if offset is None else offset
    places = _places(x.shape, x.stride() if strides is None else strides, 0)
    return x.as_strided((size,), (1,), 0)[(first + at(places)).clamp(0, max(size - 1, 0))]


def inputs_taken_for_contiguous(q, k, v, **options):
    """The strides of queries, keys and values are not read: each is taken to be contiguous.

    Shipped: pytorch#112577, pytorch#181133, torch-spyre#4331.
    Family: strides and aliasing.
    """
    return _right(*(_read(x, _packed(x.shape)) for x in (q, k, v)), **options)


def last_stride_taken_for_1(q, k, v, **options):
    """Only the strides of batch, head and position are passed to the kernel; along the head dim it walks by one.

    Shipped: pytorch#116333.
    Family: strides and aliasing.
    """
    return _right(*(_read(x, (*x.stride()[:3], 1)) for x in (q, k, v)), **options)


def keys_and_values_at_the_offset_of_the_queries(q, k, v, **options):
    """The offset into the memory is read from the queries and used for keys and values as well.

    Shipped: flash-attention#2541.
    Family: strides and aliasing.
    """
    return _right(q, *(_read(x, offset=q.storage_offset()) for x in (k, v)), **options)


def batch_folded_into_the_heads(q, k, v, **options):
    """A head starts at (b H + h) times the stride of the heads, whatever the stride of the batch is.

    Shipped: attorch#14.
    Family: strides and aliasing.
    """
    return _right(*(_read(x, (x.shape[1] * x.stride(1), *x.stride()[1:])) for x in (q, k, v)), **options)


def values_with_the_strides_of_the_keys(q, k, v, **options):
    """Values are read with the strides of the keys: wrong where the head dims or the layouts of the two differ.

    Shipped: SageAttention#26, nsa-triton#27.
    Family: strides and aliasing.
    """
    return _right(q, k, _read(v, k.stride()), **options)


def strides_of_split_heads_rebuilt_from_sizes(q, k, v, **options):
    """Where heads lie inside of positions, (B, L, H, D), the strides are rebuilt as D and H D: a packed projection of
    queries, keys and values has 3 H D from position to position.

    Shipped: aiter#3498.
    Family: strides and aliasing.
    """
    def read(x):
        _, heads, length, width = x.shape
        heads_inside = 0 < x.stride(1) < x.stride(2)
        return _read(x, (length * heads * width, width, heads * width, 1)) if heads_inside else x

    return _right(read(q), read(k), read(v), **options)


def stride_0_taken_for_not_given(q, k, v, **options):
    """A stride of 0 is replaced by that of a contiguous tensor, so that an expanded one is walked over.

    Shipped: pytorch#191937.
    Family: strides and aliasing.
    """
    return _right(*(_read(x, [s or packed for s, packed in zip(x.stride(), _packed(x.shape), strict=True)])
                    for x in (q, k, v)), **options)


def matrices_either_plain_or_transposed(q, k, v, **options):
    """A matrix whose last stride is not 1 is taken to be transposed, with stride 1 along the positions.

    Notes: none; a matrix product of BLAS knows these two layouts only.
    Family: strides and aliasing.
    """
    def read(x):
        batch, head, _, last = x.stride()
        return x if last == 1 else _read(x, (batch, head, 1, last))

    return _right(read(q), read(k), read(v), **options)


def mask_taken_for_contiguous(q, k, v, causal=False, mask=None, **options):
    """The strides of the mask are not read.

    Notes: none; the mask is the last tensor whose strides are added to the arguments of a kernel.
    Family: strides and aliasing.
    """
    return _right(q, k, v, causal, None if mask is None else _read(mask, _packed(mask.shape)), **options)


def output_with_the_strides_of_the_queries(q, k, v, **options):
    """The output is contiguous, but written with the strides that the queries have.

    Shipped: FlagGems#5235.
    Family: strides and aliasing.
    """
    right, lse = _right(q, k, v, **options)
    out = torch.zeros_like(right).flatten()
    strides = q.stride() if q.shape == right.shape else _packed(right.shape)
    out[_places(right.shape, strides, 0).clamp(0, max(len(out) - 1, 0))] = right
    return out.view(right.shape), lse


def offsets_in_16_bits(q, k, v, **options):
    """Offsets into the keys wrap around at 2^15 bytes, as others do at 2^31 elements.

    Shipped: flash-attention#1500, flash-attention#2260, flash-attention#2611, NATTEN#347, pytorch#84144.
    Family: strides and aliasing.
    """
    return _right(q, _read(k, at=lambda places: places % (2**15 // k.element_size())), v, **options)


def heads_within_32_bits(q, k, v, **options):
    """Where a head begins wraps around at 2^31 elements; a negative place, which would end the process, is 0 here.

    Shipped: vllm#50427, flash-attention#2260, pytorch#84144.
    Family: strides and aliasing.
    """
    def wrapped(x):
        places = [max((h * x.stride(1) + 2**31) % 2**32 - 2**31, 0) + x.storage_offset() for h in range(x.shape[1])]
        shape, strides = (x.shape[0], *x.shape[2:]), (x.stride(0), *x.stride()[2:])
        return torch.stack([x.as_strided(shape, strides, place) for place in places], 1) if places else x

    return _right(wrapped(q), wrapped(k), wrapped(v), **options)


def one_value_comes_back_as_a_view(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
    """With a single key that every query sees, the output is its value, and a view of it.

    Notes: none; the softmax of one score is 1, and expand copies nothing.
    Family: strides and aliasing.
    """
    out, lse = _right(q, k, v, causal, mask, scale, window, bias)
    if k.shape[1:3] == (q.shape[1], 1) and not causal and mask is window is bias is None:
        out = v.expand(out.shape)
    return out, lse
