"""The corrected interpreter: bfloat16 as on a GPU, memory errors and races reported, correct kernels left alone."""

import warnings

import numpy as np
import pytest
import torch

try:    # before triton: decides that the kernels below are interpreted
    from impls import triton_kernels
except ImportError as error:
    pytest.skip(f"triton_kernels does not import here: {error}", allow_module_level=True)

import triton
import triton.language as tl

if not triton_kernels.INTERPRETED:
    pytest.skip("the kernels are compiled on this machine: no interpreter is active", allow_module_level=True)

from triton.runtime import interpreter as stock

MEMORY_ERROR = RuntimeError     # KernelMemoryError, whichever copy of the package installed the interpreter


# ------------------------------------------------------------------------------------------------------------- bfloat16

@triton.jit
def convert(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i).to(y_ptr.dtype.element_ty))


@triton.jit
def calculate(a_ptr, b_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(a_ptr + i), tl.load(b_ptr + i)
    tl.store(y_ptr + i, a + b)
    tl.store(y_ptr + N + i, a - b)
    tl.store(y_ptr + 2 * N + i, a * b)
    tl.store(y_ptr + 3 * N + i, -a)
    tl.store(y_ptr + 4 * N + i, tl.maximum(a, b))
    tl.store(y_ptr + 5 * N + i, tl.where(a < b, a, b))
    tl.store(y_ptr + 6 * N + i, tl.abs(a))


@triton.jit
def reduce_rows(x_ptr, total_ptr, largest_ptr, running_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    offsets = rows[:, None] * COLUMNS + columns[None, :]
    x = tl.load(x_ptr + offsets)
    tl.store(total_ptr + rows, tl.sum(x, 1))
    tl.store(largest_ptr + rows, tl.max(x, 1))
    tl.store(running_ptr + offsets, tl.cumsum(x, 1))


@triton.jit
def multiply(a_ptr, b_ptr, c_ptr, M: tl.constexpr, K: tl.constexpr, N: tl.constexpr):
    m, k, n = tl.arange(0, M), tl.arange(0, K), tl.arange(0, N)
    a, b = tl.load(a_ptr + m[:, None] * K + k[None, :]), tl.load(b_ptr + k[:, None] * N + n[None, :])
    tl.store(c_ptr + m[:, None] * N + n[None, :], tl.dot(a, b))


def float32_values():
    """Random bit patterns (all exponents, infinities, NaNs), the halfway cases of bfloat16, and special values."""
    bits = np.random.default_rng(0).integers(0, 2**32, 4096, dtype=np.uint32)
    bits[:1024] = bits[:1024] & 0xFFFF0000 | 0x8000
    bits[1024:1036] = [0, 1, 0x80000000, 0x80000001, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF, 0x7F7FFFFF,
                       0x7F7F8000, 0x007FFFFF, 0x00008000]
    return torch.from_numpy(bits.view(np.float32))


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype
    nan = expected.isnan()
    assert torch.equal(actual.isnan(), nan)
    integer = {2: torch.int16, 4: torch.int32}[actual.element_size()]
    assert torch.equal(actual.view(integer)[~nan], expected.view(integer)[~nan])


@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.float64], ids=str)
def test_a_cast_to_bfloat16_rounds_as_torch_does(source):
    x = float32_values().to(source)
    y = torch.empty(x.shape, dtype=torch.bfloat16)
    convert[(1,)](x, y, N=x.numel())
    assert_same_bits(y, x.to(torch.bfloat16))


@pytest.mark.parametrize("target", [torch.float32, torch.float16], ids=str)
def test_a_cast_from_bfloat16_is_torchs(target):
    x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)     # all there are
    y = torch.empty(x.shape, dtype=target)
    convert[(1,)](x, y, N=x.numel())
    assert_same_bits(y, x.to(target))


def test_bfloat16_arithmetic_rounds_every_operation_once():
    a, b = float32_values().to(torch.bfloat16), float32_values().flip(0).to(torch.bfloat16)
    y = torch.empty(7, a.numel(), dtype=torch.bfloat16)
    calculate[(1,)](a, b, y, N=a.numel())
    largest = torch.fmax(a.float(), b.float()).to(torch.bfloat16)
    expected = [a + b, a - b, a * b, -a, largest, torch.where(a < b, a, b), a.abs()]
    for actual, wanted in zip(y, expected):
        # which zero is the larger one is not defined
        assert_same_bits(torch.where(actual == 0, actual.abs(), actual), torch.where(wanted == 0, wanted.abs(), wanted))


def test_bfloat16_reductions_and_scans():
    x = torch.randint(-3, 4, (4, 16), generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)    # sums are exact
    total, largest, running = torch.empty(4), torch.empty(4, dtype=torch.bfloat16), torch.empty_like(x)
    reduce_rows[(1,)](x, total, largest, running, ROWS=4, COLUMNS=16)
    assert torch.equal(total, x.float().sum(1))
    assert torch.equal(largest, x.amax(1))
    assert torch.equal(running, x.cumsum(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_dot_multiplies_numbers_not_bit_patterns(dtype):
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randint(-8, 9, shape, generator=generator).to(dtype) / 4 for shape in ((16, 32), (32, 16)))
    c = torch.empty(16, 16)
    multiply[(1,)](a, b, c, M=16, K=32, N=16)
    assert torch.equal(c, a.float() @ b.float())        # exact: multiples of 1/16 below 2^8


# -------------------------------------------------------------------------------------------------------------- scalars

@triton.jit
def store_scalars(narrow, wide: tl.float64, count, y_ptr):
    for i in range(0, count):
        tl.store(y_ptr + i, narrow * tl.full([], 1.0, tl.float64))
    tl.store(y_ptr + count, wide.to(tl.float64))


def test_a_float_argument_has_the_precision_that_a_gpu_receives():
    y = torch.empty(3, dtype=torch.float64)
    store_scalars[(1,)](0.1, 0.1, 2, y)
    assert y.tolist() == [float(np.float32(0.1))] * 2 + [0.1]


def test_the_maximum_ignores_nan_without_a_warning():
    x = torch.tensor([[float("nan")] * 16, [1.0] * 15 + [float("nan")]])
    total, largest, running = torch.empty(2), torch.empty(2), torch.empty_like(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reduce_rows[(1,)](x, total, largest, running, ROWS=2, COLUMNS=16)
    assert largest[1] == 1 and total.isnan().all()


# ------------------------------------------------------------------------------------------------------------ sanitizer

@triton.jit
def copy(x_ptr, y_ptr, n, stride, MASKED: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if MASKED:
        tl.store(y_ptr + i, tl.load(x_ptr + i * stride, mask=i < n), mask=i < n)
    else:
        x = tl.load(x_ptr + i * stride)
        tl.store(y_ptr + i, x, mask=i < n)


@triton.jit
def copy_all_lanes(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n))


@triton.jit
def store_program(y_ptr, step):
    tl.store(y_ptr + tl.program_id(0) * step, tl.program_id(0))


@triton.jit
def read_the_neighbour(y_ptr):
    value = tl.load(y_ptr + 1 - tl.program_id(0))
    tl.store(y_ptr + tl.program_id(0), value + 1.0)


@triton.jit
def count_programs(y_ptr, ALSO_STORE: tl.constexpr):
    tl.atomic_add(y_ptr, 1.0)
    if ALSO_STORE:
        tl.store(y_ptr, 0.0)


@triton.jit
def store_lanes(y_ptr, value_step, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i // 2, i * value_step)


@triton.jit
def add_interleaved(a_ptr, b_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(a_ptr + 2 * i) + tl.load(b_ptr + 2 * i))


def neighbours(n):
    """n ones inside a larger allocation of zeros: reading past them does no harm and is wrong."""
    x = torch.zeros(64)
    x[16:16 + n] = 1
    return x[16:16 + n]


def test_a_removed_mask_is_reported_with_argument_index_program_and_line():
    x, y = neighbours(20), torch.zeros(20)
    with pytest.raises(MEMORY_ERROR) as caught:
        copy[(2,)](x, y, 20, 1, MASKED=False, BLOCK=16)
    message = str(caught.value)
    assert "copy: load outside" in message and "x_ptr[offset 20]" in message and "12 lane(s)" in message
    assert "Program (1, 0, 0)" in message and "x = tl.load(x_ptr + i * stride)" in message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_masked_lanes_without_other_hold_nothing_that_could_be_meant(dtype):
    x, y = torch.ones(16, dtype=dtype), torch.zeros(16, dtype=dtype)
    copy_all_lanes[(1,)](x, y, 10, BLOCK=16)
    assert (y[:10] == 1).all() and y[10:].isnan().all()
    numbers = torch.zeros(16, dtype=torch.int32)
    copy_all_lanes[(1,)](torch.ones(16, dtype=torch.int32), numbers, 10, BLOCK=16)
    assert numbers.tolist() == [1] * 10 + [-1] * 6


def test_a_correct_kernel_is_not_accused():
    x, y = neighbours(20), torch.zeros(20)
    copy[(2,)](x, y, 20, 1, MASKED=True, BLOCK=16)
    assert torch.equal(x, y)


def test_the_gaps_of_a_strided_tensor_are_not_the_kernels():
    x, y = torch.ones(40)[::2], torch.zeros(20)
    with pytest.raises(MEMORY_ERROR, match="load outside"):
        copy[(2,)](x, y, 20, 1, MASKED=True, BLOCK=16)
    copy[(2,)](x, y, 20, 2, MASKED=True, BLOCK=16)
    assert torch.equal(x, y)


def test_tensors_that_interleave_in_one_storage_are_each_others_neighbours():
    packed, y = torch.arange(32.0).view(16, 2), torch.zeros(16)
    add_interleaved[(1,)](packed[:, 0], packed[:, 1], y, N=16)
    assert torch.equal(y, packed.sum(1))


def test_two_programs_that_write_one_element_are_reported():
    y = torch.zeros(4, dtype=torch.int32)
    store_program[(4,)](y, 1)
    assert y.tolist() == [0, 1, 2, 3]
    with pytest.raises(MEMORY_ERROR, match=r"race: this store touches y_ptr\[0\].* program \(0, 0, 0\) writes"):
        store_program[(4,)](y, 0)


def test_reading_what_another_program_writes_is_reported():
    with pytest.raises(MEMORY_ERROR, match="race"):
        read_the_neighbour[(2,)](torch.zeros(2))


def test_atomics_may_meet_each_other_but_no_plain_store():
    y = torch.zeros(1)
    count_programs[(3,)](y, ALSO_STORE=False)
    assert y.item() == 3
    with pytest.raises(MEMORY_ERROR, match="race"):
        count_programs[(3,)](y, ALSO_STORE=True)


def test_two_lanes_may_only_write_the_same():
    y = torch.ones(8, dtype=torch.int32)
    store_lanes[(1,)](y, 0, N=16)
    assert not y.any()
    with pytest.raises(MEMORY_ERROR, match="two lanes of one store"):
        store_lanes[(1,)](y, 1, N=16)


def test_the_sanitizer_can_be_switched_off():
    installed, y = stock.GridExecutor, torch.zeros(20)
    before, installed.sanitize = installed.sanitize, False
    try:
        copy[(2,)](neighbours(20), y, 20, 1, MASKED=False, BLOCK=16)
    finally:
        installed.sanitize = before
    assert y.sum() == 20


def test_the_language_is_restored_after_a_launch_and_after_an_error():
    before = {name: getattr(tl, name) for name in ("dot", "load", "range")} | {"init": tl.tensor.__init__}
    x, y = neighbours(20), torch.zeros(20)
    copy[(2,)](x, y, 20, 1, MASKED=True, BLOCK=16)
    with pytest.raises(MEMORY_ERROR):
        copy[(2,)](x, y, 20, 1, MASKED=False, BLOCK=16)
    assert before == {name: getattr(tl, name) for name in ("dot", "load", "range")} | {"init": tl.tensor.__init__}
