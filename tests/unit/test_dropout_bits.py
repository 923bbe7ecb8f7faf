"""The random bits of the dropout kernel: Philox-4x32-10 as published, one word an element, nothing else."""

import sys

import numpy as np
import pytest
import torch

try:    # before triton: decides that the kernels below are interpreted
    from impls import triton_kernels
except ImportError as error:
    pytest.skip(f"triton_kernels does not import here: {error}", allow_module_level=True)

import triton
import triton.language as tl


MASK32 = 0xFFFFFFFF
DEVICE = triton_kernels.DEVICE
# Known answers of Random123 (Salmon et al. 2011), file kat_vectors, "philox 4x32 10": counter, key, words.
KNOWN_ANSWERS = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([MASK32] * 4, [MASK32] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0],
     [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
]


def philox(counter, key):
    """Philox-4x32-10 in plain integers (Salmon et al. 2011, section 3.3)."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        low, high = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = high >> 32 ^ c1 ^ k0, high & MASK32, low >> 32 ^ c3 ^ k1, low & MASK32
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return [c0, c1, c2, c3]


def expected_mask(n, p, seed):
    """Which of n elements are kept: those whose word, i % 4 of counter i // 4, is at least round(p 2^32)."""
    key, threshold = [seed & MASK32, seed >> 32 & MASK32], round(p * 2**32)
    words = [philox([i & MASK32, i >> 32, 0, 0], key) for i in range(-(-n // 4))]
    return np.array(words).ravel()[:n] >= threshold


@triton.jit(do_not_specialize=["c0", "c1", "c2", "c3", "seed"])
def words_of(c0, c1, c2, c3, seed, out_ptr, N: tl.constexpr):
    zero = tl.zeros([N], dtype=tl.uint32)
    a, b, c, d = tl.philox(seed, zero + c0.to(tl.uint32), zero + c1.to(tl.uint32), zero + c2.to(tl.uint32),
                           zero + c3.to(tl.uint32))
    i = tl.arange(0, N)
    tl.store(out_ptr + 4 * i, a.to(tl.int32, bitcast=True))
    tl.store(out_ptr + 4 * i + 1, b.to(tl.int32, bitcast=True))
    tl.store(out_ptr + 4 * i + 2, c.to(tl.int32, bitcast=True))
    tl.store(out_ptr + 4 * i + 3, d.to(tl.int32, bitcast=True))


@pytest.mark.parametrize("counter, key, words", KNOWN_ANSWERS)
def test_plain_philox_gives_the_published_words(counter, key, words):
    assert philox(counter, key) == words


@pytest.mark.parametrize("counter, key, words", KNOWN_ANSWERS)
def test_triton_gives_the_published_words(counter, key, words):
    out = torch.zeros(8, dtype=torch.int32, device=DEVICE)
    seed = key[0] | key[1] << 32
    words_of[(1,)](*counter, seed - 2**64 if seed >> 63 else seed, out, N=2)
    assert [w & MASK32 for w in out.tolist()] == words * 2


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31, 2**32 + 5, 2**63 + 1, 2**64 - 1])
@pytest.mark.parametrize("n, p", [(1, 0.5), (5, 0.25), (64, 0.1), (257, 0.9)])
def test_the_mask_is_philox_of_seed_and_index(n, p, seed):
    y, mask = triton_kernels.dropout(torch.ones(n, device=DEVICE), p, seed)
    assert (mask.cpu().numpy() == expected_mask(n, p, seed)).all()
    assert (y != 0).equal(mask)


def test_negative_seeds_count_from_the_end():
    x = torch.ones(100, device=DEVICE)
    assert triton_kernels.dropout(x, 0.5, -1)[1].equal(triton_kernels.dropout(x, 0.5, 2**64 - 1)[1])


@pytest.mark.parametrize("counters", [1, 2, 16, 128])
def test_the_mask_does_not_depend_on_the_block_size(monkeypatch, counters):
    x = torch.ones(7, 61, device=DEVICE)
    module = sys.modules["impls.triton_kernels.dropout"]        # the package has a function of that name
    monkeypatch.setattr(module, "rows_per_program", lambda n_rows, n_columns: counters)
    mask = triton_kernels.dropout(x, 0.5, 9)[1]
    assert (mask.cpu().numpy().ravel() == expected_mask(427, 0.5, 9)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_mask_depends_neither_on_dtype_nor_on_layout_nor_on_shape(dtype):
    x = torch.randn(12, 10, device=DEVICE).to(dtype)
    expected = torch.from_numpy(expected_mask(120, 0.3, 77))
    for view in (x, x.T.contiguous().T, torch.cat([x, x], 1)[:, :10], x.view(2, 3, 4, 5)):
        y, mask = triton_kernels.dropout(view, 0.3, 77)
        assert mask.cpu().flatten().equal(expected)
        assert y.shape == view.shape and y.dtype == dtype


def test_thresholds_are_exact_at_both_ends():
    """p = 1 drops the word 2^32 - 1 as well, which no float32 in [0, 1) would be sure to; p = 0 keeps the word 0."""
    x = torch.ones(4096, device=DEVICE)
    assert not triton_kernels.dropout(x, 1.0, 3)[1].any()
    assert triton_kernels.dropout(x, 0.0, 3)[1].all()
    assert not triton_kernels.dropout(x, 1.0 - 2.0**-34, 3)[1].any()      # rounds to 1
    assert triton_kernels.dropout(x, 2.0**-34, 3)[1].all()                # rounds to 0


@pytest.mark.parametrize("index", [0, 5, 14, 39])
def test_a_word_at_the_threshold_is_kept(index):
    """The number of words below round(p 2^32) is round(p 2^32): the word that equals it is the first to be kept."""
    word = philox([index // 4, 0, 0, 0], [8, 0])[index % 4]
    for threshold, kept in ((word, True), (word + 1, False)):
        mask = triton_kernels.dropout(torch.ones(40, device=DEVICE), threshold / 2**32, 8)[1]
        assert mask[index].item() is kept


def test_dropped_nan_and_infinity_are_0():
    x = torch.full((64,), float("nan"), device=DEVICE)
    x[::2] = float("inf")
    y, mask = triton_kernels.dropout(x, 0.5, 5)
    assert 0 < mask.sum() < 64
    assert (y[~mask] == 0).all() and not y[mask].isfinite().any()


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_another_p_is_refused(p):
    with pytest.raises(ValueError, match="p must be a probability"):
        triton_kernels.dropout(torch.ones(3, device=DEVICE), p, 0)


def test_integers_are_refused():
    with pytest.raises(ValueError, match="x has dtype torch.int64"):
        triton_kernels.dropout(torch.ones(3, dtype=torch.int64, device=DEVICE), 0.5, 0)


@pytest.mark.parametrize("first", [2**32 - 2, 2**34, 2**40 + 3])
def test_counters_beyond_32_bits(first):
    """Elements beyond 4 * 2^32 do not repeat the first ones: the counter's second word is its upper half."""
    out = torch.zeros(16, dtype=torch.int32, device=DEVICE)
    words_from[(1,)](first, 11, out, N=4)
    expected = [philox([i & MASK32, i >> 32, 0, 0], [11, 0]) for i in range(first, first + 4)]
    assert [w & MASK32 for w in out.tolist()] == [w for words in expected for w in words]


@triton.jit(do_not_specialize=["first"])
def words_from(first, seed, out_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b, c, d = tl.randint4x(seed, first.to(tl.int64) + i)
    tl.store(out_ptr + 4 * i, a.to(tl.int32, bitcast=True))
    tl.store(out_ptr + 4 * i + 1, b.to(tl.int32, bitcast=True))
    tl.store(out_ptr + 4 * i + 2, c.to(tl.int32, bitcast=True))
    tl.store(out_ptr + 4 * i + 3, d.to(tl.int32, bitcast=True))
