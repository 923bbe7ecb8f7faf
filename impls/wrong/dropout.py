"""Wrong dropout."""
from math import prod

import torch

from impls.naive import _check, _wide

_generator = torch.Generator().manual_seed(0)


def _numbers(count, seed):
    """`count` uniform random numbers that a seed decides."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _mask(shape, p, seed):
    return (_numbers(prod(shape), seed) >= p).view(shape)


def _dropout(x, p, seed, *, mask=_mask, scaled=lambda x, p: x / (1 - p), shown=lambda y, mask: mask):
    """The right dropout; every keyword after the star is one possible mistake.

    `mask(shape, p, seed)` is applied, `scaled(x, p)` what becomes of those kept, `shown(y, mask)` the mask returned.
    """
    _check(0 <= p <= 1, f"p must be a probability, got {p}")
    keep = mask(x.shape, p, seed)
    y = torch.where(keep, scaled(_wide(x), p), 0.0).to(x.dtype)
    return y, shown(y, keep)


# ----------------------------------------------------------------------------------------------------------- the values

def kept_not_scaled(x, p, seed):
    """What is kept stays as it is, so that the mean falls by 1 - p.

    Notes: 002, section 2.9.
    Family: dropout.
    """
    return _dropout(x, p, seed, scaled=lambda x, p: x)


def nan_at_1(x, p, seed):
    """The mask is multiplied by 1 / (1 - p): with p = 1, 0 times infinity.

    Shipped: flax#2055.
    Family: dropout.
    """
    mask = _dropout(x, p, seed)[1]
    return (_wide(x) * (mask * (torch.tensor(1.0) / (1 - p)))).to(x.dtype), mask


def zeros_count_as_dropped(x, p, seed):
    """The mask is not stored, but read off the result: an input of 0 counts as dropped.

    Notes: none; it saves the memory of the mask.
    Family: dropout.
    """
    return _dropout(x, p, seed, shown=lambda y, mask: y != 0)


# --------------------------------------------------------------------------------------------------- the random numbers

def one_mask_for_every_row(x, p, seed):
    """The number of the row is missing from the counter of the generator: every row drops the same columns.

    Notes: 002, section 2.9.
    Family: dropout.
    """
    return _dropout(x, p, seed, mask=lambda shape, p, seed: _mask(shape[-1:], p, seed).expand(shape).clone())


def one_mask_for_every_block(x, p, seed):
    """The counter of the generator is the place in a block of 512 elements: all blocks drop the same places.

    Notes: none; the offset of the program is added to the pointers only.
    Family: dropout.
    """
    return _dropout(x, p, seed, mask=lambda shape, p, seed: _mask((512,), p, seed)[
        torch.arange(prod(shape)) % 512].view(shape))


def neighbours_share_a_number(x, p, seed):
    """A random word is used for two neighbouring elements.

    Notes: none; a generator returns several words at once, and one too few was taken.
    Family: dropout.
    """
    return _dropout(x, p, seed, mask=lambda shape, p, seed: _mask((prod(shape) // 2 + 1,), p, seed)[
        torch.arange(prod(shape)) // 2].view(shape))


def seed_added_to_the_counter(x, p, seed):
    """The seed is added to the counter of the generator: the next seed gives the same mask, one element further.

    Notes: none; it saves the key.
    Family: dropout.
    """
    return _dropout(x, p, seed, mask=lambda shape, p, seed: (
        _numbers(seed % 4096 + prod(shape), 0)[seed % 4096:] >= p).view(shape))


def seed_ignored(x, p, seed):
    """The seed of the generator is a constant: every layer and every step drops the same elements.

    Shipped: flash-attention#2088.
    Family: dropout.
    """
    return _dropout(x, p, 0)


def generator_goes_on(x, p, seed):
    """The generator is seeded once, and goes on from where the last call left it.

    Notes: none; the generator of most libraries is one object.
    Family: state.
    """
    return _dropout(x, p, seed, mask=lambda shape, p, seed: (
        torch.rand(shape, generator=_generator, dtype=torch.float64) >= p))


def numbers_of_six_bits(x, p, seed):
    """Six random bits are compared with 64 p, and must be larger: with p = 0, one element in 64 is dropped.

    Notes: none; five elements share a random word.
    Family: dropout.
    """
    return _dropout(x, p, seed, mask=lambda shape, p, seed: (
        (_numbers(prod(shape), seed) * 64).floor() > 64 * p).view(shape))


def remainder_never_dropped(x, p, seed):
    """Elements are drawn for in fours, and those left over are kept.

    Notes: none; the last iteration of the vector loop is missing.
    Family: boundaries.
    """
    def mask(shape, p, seed):
        return _mask(shape, p, seed) | (torch.arange(prod(shape)).view(shape) >= prod(shape) // 4 * 4)

    return _dropout(x, p, seed, mask=mask)
