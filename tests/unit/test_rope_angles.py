"""The angles of the rope kernel: exact enough at any position, whatever the dtype; and what it refuses."""

import math
import sys

import pytest
import torch

try:    # before triton: decides that the kernels below are interpreted
    from impls import triton_kernels
except ImportError as error:
    pytest.skip(f"triton_kernels does not import here: {error}", allow_module_level=True)

from properties.numerics.rounding import UNIT_ROUNDOFF, gamma

DEVICE = triton_kernels.DEVICE
POSITIONS = [0, 1, 255, 257, 2047, 2049, 100_003, 1_000_003, 16_777_217, -2_000_001]


def expected(x, positions, base=10000.0):
    """Pairs as complex numbers, times exp(i angle), in float64."""
    half = x.shape[-1] // 2
    angles = [[p * base ** (-i / half) for i in range(half)] for p in positions]
    turn = torch.tensor([[complex(math.cos(t), math.sin(t)) for t in row] for row in angles], dtype=torch.complex128)
    z = torch.complex(x[..., :half].double(), x[..., half:].double()) * turn
    return torch.cat([z.real, z.imag], -1)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_positions_cost_no_accuracy(dtype):
    """A cosine stored in float32, two products and a sum, and the result stored: no term grows with the position.

    float32 angles would be off by 2^-24 of the position, one radian at 1.7e7, float16 ones at 2049.
    """
    kind = getattr(torch, dtype)
    x = torch.randn(2, 3, len(POSITIONS), 16, generator=torch.Generator().manual_seed(0)).to(kind)
    y = triton_kernels.rope(x.to(DEVICE), torch.tensor(POSITIONS)).cpu().double()
    exact = expected(x, POSITIONS)
    first, second = x.double().abs().chunk(2, -1)
    size = (first + second).repeat(1, 1, 1, 2)
    budget = size * gamma(4, UNIT_ROUNDOFF["float32"])      # the table, a product, the sum, and the angle's rounding
    budget = budget + UNIT_ROUNDOFF[dtype] * (exact.abs() + budget) + 2.0**-24 * (dtype == "float16")
    assert ((y - exact).abs() <= budget).all()


def test_float64_is_float64_throughout():
    x = torch.randn(1, 2, len(POSITIONS), 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = triton_kernels.rope(x.to(DEVICE), torch.tensor(POSITIONS)).cpu()
    largest = max(abs(p) for p in POSITIONS)
    assert (y - expected(x, POSITIONS)).abs().max() <= 64 * largest * UNIT_ROUNDOFF["float64"] * x.abs().max()


@pytest.mark.parametrize("positions", [[3, 1, 7], torch.tensor([3, 1, 7], dtype=torch.int32),
                                       torch.tensor([3.0, 1.0, 7.0]), torch.tensor([3, 0, 1, 0, 7])[::2]])
def test_positions_of_any_type(positions):
    x = torch.randn(1, 1, 3, 4, device=DEVICE)
    positions = positions.to(DEVICE) if isinstance(positions, torch.Tensor) else positions
    y = triton_kernels.rope(x, positions)
    assert y.equal(triton_kernels.rope(x, torch.tensor([3, 1, 7], device=DEVICE)))


def test_fractions_of_positions():
    """Positions may be scaled, as context extension by interpolation does (Chen et al. 2023)."""
    x = torch.ones(1, 1, 1, 2, device=DEVICE, dtype=torch.float64)
    y = triton_kernels.rope(x, torch.tensor([0.5], dtype=torch.float64, device=DEVICE))
    assert y[0, 0, 0].tolist() == pytest.approx([math.cos(0.5) - math.sin(0.5), math.cos(0.5) + math.sin(0.5)])


@pytest.mark.parametrize("shape, positions, base, message", [
    ((1, 1, 3, 5), torch.arange(3), 1e4, "odd head dim"),
    ((1, 3, 4), torch.arange(3), 1e4, "x must be"),
    ((1, 1, 3, 4), torch.arange(4), 1e4, "positions must be"),
    ((2, 1, 3, 4), torch.zeros(3, 2), 1e4, "positions must be"),
    ((1, 1, 3, 4), torch.tensor([True] * 3), 1e4, "positions has dtype"),
    ((1, 1, 3, 4), torch.arange(3), 0.0, "base must be"),
    ((1, 1, 3, 4), torch.arange(3), float("nan"), "base must be"),
])
def test_what_does_not_fit_is_named(shape, positions, base, message):
    with pytest.raises(ValueError, match=message):
        triton_kernels.rope(torch.ones(shape, device=DEVICE), positions.to(DEVICE), base)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)])
def test_nothing_to_rotate(shape):
    assert triton_kernels.rope(torch.ones(shape, device=DEVICE), torch.arange(shape[2])).shape == shape


def test_several_programs(monkeypatch):
    x = torch.randn(2, 3, 5, 12, device=DEVICE)
    whole = triton_kernels.rope(x, torch.arange(10).view(2, 5))
    module = sys.modules["impls.triton_kernels.rope"]           # the package has a function of that name
    monkeypatch.setattr(module, "rows_per_program", lambda n_rows, n_columns: 4)
    assert triton_kernels.rope(x, torch.arange(10).view(2, 5)).equal(whole)
