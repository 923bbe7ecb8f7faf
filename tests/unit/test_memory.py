"""Inputs in guarded memory: every layout holds the same values, and what touches the surroundings is noticed."""

import pytest
import torch

from properties.memory import LAYOUTS, Layout, place, shares_memory

SHAPES = [(3,), (2, 3), (2, 3, 4, 5), (0, 3), (2, 0), (1, 1, 1, 1)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.bool])
def test_a_layout_changes_memory_and_not_values(layout, shape, dtype):
    values = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
    placed = place(values, dtype, layout=layout)
    assert placed.view.shape == values.shape and placed.view.dtype == dtype
    assert torch.equal(placed.view, values.to(dtype))
    assert placed.untouched()
    if dtype.is_floating_point and values.numel():
        assert placed.buffer[:16].isnan().all() and placed.buffer[-16:].isnan().all()


def test_layouts_really_differ():
    values = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    strides = {(p.stride(), p.storage_offset()) for p in (place(values, torch.float32, layout=x).view for x in LAYOUTS)}
    assert len(strides) == len(LAYOUTS)


def test_an_expanded_dim_shares_memory():
    placed = place(torch.ones(3, 4, dtype=torch.float64), torch.float32, layout=Layout("expanded", expand=0))
    assert placed.view.stride(0) == 0 and torch.equal(placed.view, torch.ones(3, 4))


def test_the_alignment_of_16_bytes_is_kept():
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        assert place(torch.zeros(5, dtype=torch.float64), dtype).view.data_ptr() % 16 == 0


def test_writes_inside_and_outside_of_an_input_are_noticed():
    inside, outside = place(torch.zeros(4, dtype=torch.float64), torch.float32), place(torch.zeros(4), torch.float32)
    inside.view[0] = 1
    outside.buffer[3] = 1
    assert not inside.untouched() and not outside.untouched()


def test_views_of_an_input_are_noticed():
    placed = place(torch.zeros(4, dtype=torch.float64), torch.float32)
    assert shares_memory(placed.view[1:], placed) and not shares_memory(placed.view.clone(), placed)
