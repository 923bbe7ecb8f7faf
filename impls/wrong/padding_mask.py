"""Wrong padding masks."""
import torch

from impls.naive import padding_mask as _right


def length_of_the_first_sequence(lens, lk):
    """Every sequence gets the mask of the first.

    Shipped: candle#3582, nanochat#485.
    Family: masks.
    """
    return _right(lens[:1].expand(len(lens)), lk)


def page_after_a_full_one_visible(lens, lk):
    """After a multiple of 16 keys the next page of 16 is allocated already, and taken to be filled.

    Shipped: pegainfer#291.
    Family: boundaries.
    """
    return _right(torch.where(lens % 16 == 0, lens + 16, lens), lk)


def padding_on_the_left(lens, lk):
    """The last lens[b] keys are taken to be the real ones.

    Notes: none; batches that are to be continued are padded on the left.
    Family: masks.
    """
    return _right(lens, lk).flip(-1)


def length_0_means_all(lens, lk):
    """A length of 0 is taken for a length that was not given.

    Notes: none; `lens or lk` is true of both.
    Family: masks.
    """
    return _right(torch.where(lens == 0, lk, lens), lk)
