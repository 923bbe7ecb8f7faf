"""Memory traffic is counted to the byte, per argument, and the claims on it fail on kernels that move more."""

from pathlib import Path

import pytest
import torch

try:    # before triton: decides that the kernels below are interpreted
    from impls import triton_kernels
except ImportError as error:
    pytest.skip(f"triton_kernels does not import here: {error}", allow_module_level=True)

import triton
import triton.language as tl

if not triton_kernels.INTERPRETED:
    pytest.skip("the kernels are compiled on this machine: nothing is counted", allow_module_level=True)

from impls.triton_kernels.standard import attention as standard_attention
from properties import claim, costs, filled, given, plain_inputs, st
from properties.calls import Implementation
from properties.cells import Column, run
from properties.evidence import cell_of, check_event
from properties.search import Budget, judge
from properties.subjects import describe
from properties.traffic import summed
from properties.trial import LawFails, Trial, Unsupported, activate
from spec import memory_traffic, memory_traffic_growth


@triton.jit
def add_rows(x_ptr, row_ptr, keep_ptr, y_ptr, n_rows, n_columns, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    rows, columns = tl.arange(0, BLOCK_ROWS)[:, None], tl.arange(0, BLOCK_COLUMNS)[None, :]
    inside = (rows < n_rows) & (columns < n_columns)
    keep = tl.load(keep_ptr + rows, mask=rows < n_rows, other=0) != 0
    x = tl.load(x_ptr + rows * n_columns + columns, mask=inside & keep, other=0.0)
    row = tl.load(row_ptr + columns + 0 * rows, mask=inside, other=0.0)
    tl.store(y_ptr + rows * n_columns + columns, x + row, mask=inside)


@triton.jit
def count_up(counter_ptr, x_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.atomic_add(counter_ptr + i, tl.load(x_ptr))


@triton.jit
def square(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i, j = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (i < n) & (j < n)
    x = tl.load(x_ptr + i * n + j, mask=inside, other=0.0)
    tl.store(y_ptr + i * n + j, tl.dot(x, x), mask=inside)


@triton.jit
def copy_pairs(a_ptr, b_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(a_ptr + 2 * i) + tl.load(b_ptr + 2 * i))


def launch(kernel, *args, **constants):
    with triton_kernels.TRAFFIC() as launches:
        kernel[(1,)](*args, **constants)
    (only,) = launches
    return only


# ------------------------------------------------------------------------------------------------------- the counter

@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_active_lanes_are_counted_per_argument_and_masked_ones_are_not(dtype):
    x, row, y = torch.ones(3, 5, dtype=dtype), torch.ones(5, dtype=dtype), torch.empty(3, 5, dtype=dtype)
    keep = torch.tensor([True, False, True])
    found = launch(add_rows, x, row, keep, y, 3, 5, BLOCK_ROWS=4, BLOCK_COLUMNS=8)
    size = dtype.itemsize
    assert found["kernel"] == "add_rows"
    assert found["loaded"] == {"x_ptr": 10 * size, "row_ptr": 15 * size, "keep_ptr": 3, "y_ptr": 0}
    assert found["stored"] == {"x_ptr": 0, "row_ptr": 0, "keep_ptr": 0, "y_ptr": 15 * size}
    assert found["tiles"] == {"BLOCK_ROWS": 4, "BLOCK_COLUMNS": 8}
    assert found["tensors"]["y_ptr"].data_ptr() == y.data_ptr()


def test_atomics_load_and_store_and_a_scalar_is_one_lane():
    found = launch(count_up, torch.zeros(8), torch.ones(1), N=8)
    assert found["loaded"] == {"counter_ptr": 32, "x_ptr": 4}
    assert found["stored"] == {"counter_ptr": 32, "x_ptr": 0}


def test_products_are_counted_with_the_padding_of_their_tiles():
    found = launch(square, torch.ones(5, 5), torch.empty(5, 5), 5, BLOCK=16)
    assert found["multiply_adds"] == 16**3
    assert found["loaded"]["x_ptr"] == found["stored"]["y_ptr"] == 100


def test_interleaved_views_of_one_buffer_are_told_apart():
    pairs = torch.arange(16.0).reshape(8, 2)
    found = launch(copy_pairs, pairs[:, 0], pairs[:, 1], torch.empty(8), N=8)
    assert found["loaded"] == {"a_ptr": 32, "b_ptr": 32, "y_ptr": 0}


def test_one_tensor_given_twice_counts_for_the_first():
    x = torch.ones(16)
    assert launch(copy_pairs, x, x, torch.empty(8), N=8)["loaded"] == {"a_ptr": 64, "b_ptr": 0, "y_ptr": 0}


def test_only_launches_inside_the_block_are_counted_and_blocks_nest():
    x, y = torch.ones(5, 5), torch.empty(5, 5)
    with triton_kernels.TRAFFIC() as outer:
        square[(1,)](x, y, 5, BLOCK=16)
        with triton_kernels.TRAFFIC() as inner:
            square[(1,)](x, y, 5, BLOCK=16)
        square[(1,)](x, y, 5, BLOCK=16)
    square[(1,)](x, y, 5, BLOCK=16)
    assert (len(outer), len(inner)) == (2, 1)


def test_programs_add_up():
    x = filled(1, 2, 130, 16).float()
    with triton_kernels.TRAFFIC() as launches:
        triton_kernels.attention(x, x[:, :, :40].clone(), x[:, :, :40].clone())
    assert launches[0]["loaded"]["q_ptr"] == 2 * 130 * 16 * 4
    assert launches[0]["loaded"]["k_ptr"] == 2 * 3 * 40 * 16 * 4        # three blocks of 64 queries


# --------------------------------------------------------------------------------------- arguments and intermediates

def recorded(kernel="first", tiles=None, **tensors):
    """A launch that loads and stores 8 bytes of every tensor."""
    eight = dict.fromkeys(tensors, 8)
    return {"kernel": kernel, "loaded": eight, "stored": eight, "tensors": tensors, "tiles": tiles or {}}


def test_arguments_and_results_have_the_names_of_the_operation_and_the_rest_is_intermediate():
    q, s, out = torch.ones(4), torch.ones(9), torch.ones(2)
    launches = [recorded(x_ptr=q[1:], s_ptr=s), recorded("second", s_ptr=s, s=out)]
    moved = summed(launches, {"q": q, "out": out}, "float16")
    assert moved.loaded_by == {"q": 8, "s": 16, "out": 8} and moved.stored == 32
    assert moved.intermediates == {"s": 9}
    assert (moved.itemsize, moved.state_itemsize, moved.moved) == (2, 4, 64)


def test_two_intermediates_of_one_name_stay_two():
    moved = summed([recorded(s_ptr=torch.ones(3)), recorded("second", s_ptr=torch.ones(5))], {}, "float32")
    assert moved.intermediates == {"s": 3, "second.s": 5}


def test_a_tile_size_that_kernels_disagree_on_is_unsupported():
    moved = summed([recorded(tiles={"M": 16, "N": 8}), recorded(tiles={"M": 32, "N": 8})], {}, "float32")
    assert moved.tile("N") == 8
    with pytest.raises(Unsupported, match="no single tile size M"):
        moved.tile("M")


# -------------------------------------------------------------------------------------------------------- the claims

def kernel(**attributes):
    given_ = {"DTYPES": ("float32",), "TRAFFIC": triton_kernels.TRAFFIC, "ALGORITHM": "flash", "ROUNDING": "naive",
              **attributes}
    (subject,), problems = describe(given_, path=Path(__file__), name="kernel")
    assert not problems, problems
    return subject


def verdict(made, **attributes):
    return run(made, Column("implementation", kernel(**attributes), "float32"), Budget(examples=4, seed=1))


def twice(*args, **kwargs):
    triton_kernels.attention(*args, **kwargs)
    return triton_kernels.attention(*args, **kwargs)


def ignoring_causal(q, k, v, causal=False, window=None):
    """Visits all blocks, and hides the keys by a mask."""
    ones = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    last = k.shape[2] - q.shape[2]
    keep = ones.tril(last) & ones.triu(last - (window or k.shape[2] + q.shape[2]) + 1)
    return triton_kernels.attention(q, k, v, mask=keep)


def judged(made, drawn, **attributes):
    """Judge a claim on one example; LawFails where it fails."""
    trial = Trial(made.name, "float32")
    with activate(trial):
        return judge(made, trial, Implementation(kernel(**attributes), "float32", trial), drawn)


SHAPE = plain_inputs(batch=2, heads=(2, 1), lq=100, lk=70, d=16, dv=20)
FLASH = {
    memory_traffic.flash_reads_the_keys_once_per_block_of_queries: {"x": SHAPE},
    memory_traffic.flash_stores_no_matrix: {"x": SHAPE, "causal": True},
    memory_traffic_growth.flash_traffic_grows_with_the_number_of_blocks: {"n": 96},
    memory_traffic_growth.flash_traffic_is_quadratic_over_on_chip_memory: {"blocks": 2, "d": 32},
}


@pytest.mark.parametrize("made", FLASH, ids=lambda made: made.name)
def test_claims_on_flash_attention_hold_and_fail_on_a_kernel_that_moves_everything_twice(made):
    assert judged(made, FLASH[made], attention=triton_kernels.attention)
    with pytest.raises(LawFails, match="counted"):
        judged(made, FLASH[made], attention=twice)


@pytest.mark.parametrize("made", list(FLASH)[:3], ids=lambda made: made.name)
def test_standard_attention_is_no_flash_attention(made):
    with pytest.raises(LawFails, match="counted"):
        judged(made, FLASH[made], attention=standard_attention)


@pytest.mark.parametrize("window", [None, 17])
def test_a_causal_kernel_that_visits_every_block_is_found(window):
    made, drawn = memory_traffic.causal_flash_skips_the_blocks_that_nobody_sees, {"x": SHAPE, "window": window}
    assert judged(made, drawn, attention=triton_kernels.attention)
    with pytest.raises(LawFails, match="bytes loaded"):
        judged(made, drawn, attention=ignoring_causal)


def test_what_does_not_count_or_is_another_algorithm_is_unsupported_and_says_why():
    made = memory_traffic.flash_stores_no_matrix
    silent = verdict(made, attention=triton_kernels.attention, TRAFFIC=None)
    other = verdict(made, attention=standard_attention, ALGORITHM="standard")
    nothing = verdict(made, attention=triton_kernels.attention, ALGORITHM="")
    assert {silent.verdict, other.verdict, nothing.verdict} == {"unsupported"}
    assert "no TRAFFIC" in silent.message and "'standard'" in other.message and "no ALGORITHM" in nothing.message


def test_attributes_that_mean_nothing_are_problems():
    wrong = {"attention": triton_kernels.attention, "ALGORITHM": "flesh", "TRAFFIC": 3}
    _, problems = describe(wrong, path=Path(__file__), name="kernel")
    assert {"ALGORITHM", "TRAFFIC"} == {str(p).split(": ")[1].split()[0] for p in problems}


@claim(rows="003-019")
@given(n=st.sampled_from([16, 32]))
def points(impl, n):
    """Counted points are kept once each."""
    moved = impl.traffic(impl.attention, *plain_inputs(lq=n, lk=n, d=16, dv=16))
    costs(moved.loaded_by["q"], n * 16 * 4, what="q", at={"N": n}, unit="bytes")


def test_points_of_the_plot_stand_in_the_event_once():
    outcome = verdict(points, attention=triton_kernels.attention)
    column = Column("implementation", kernel(attention=triton_kernels.attention), "float32")
    event = check_event(cell_of("points[kernel-float32]", points, column), outcome)
    assert sorted(event["costs"], key=lambda point: point["at"]["N"]) == [
        {"what": "q", "at": {"N": n}, "unit": "bytes", "counted": 64.0 * n, "expected": 64.0 * n} for n in (16, 32)]
