"""Inputs in guarded memory: every layout holds the same values, and what touches the surroundings is noticed."""

import numpy as np
import pytest
import torch

from properties.calls import Implementation
from properties.memory import LAYOUTS, Layout, place, poisoned_memory, shares_memory
from properties.subjects import Subject
from properties.trial import Trial

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


def test_fresh_memory_is_full_of_nan_while_a_kernel_runs():
    x = torch.zeros(2, dtype=torch.float16)
    with poisoned_memory():
        fresh = torch.empty(3), torch.empty_like(x), x.new_empty(2, 2), torch.empty_strided((2,), (3,))
        assert all(f.isnan().all() for f in fresh)
        assert np.isnan(np.empty(3)).all() and np.isnan(np.empty_like(np.zeros(2))).all()
        assert torch.empty(2, dtype=torch.bool).all() and torch.empty(2, dtype=torch.int8).tolist() == [127, 127]
        assert torch.empty(2, device="meta").shape == (2,)
    assert "poisoned" not in f"{torch.empty} {torch.Tensor.new_empty} {np.empty}"


def test_an_element_that_a_kernel_does_not_write_is_found():
    def all_but_the_last(x):
        y = torch.empty_like(x)
        y[..., :-1] = torch.softmax(x, -1)[..., :-1]
        return y

    subject = Subject("unwritten", "unwritten.py", {"softmax": all_but_the_last}, "", keywords={"softmax": frozenset()})
    trial = Trial("", "float32")
    Implementation(subject, "float32", trial).softmax(torch.zeros(4, dtype=torch.float64))
    assert "p is nan at (3,), expected 0.25" in trial.calls[0].wrong()
