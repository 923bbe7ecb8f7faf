"""What is too long or too wide for a tile is walked over in several, and comes out as right as in one."""

import sys

import numpy as np
import pytest
import torch

try:    # before triton: decides that the kernels are interpreted
    from impls import triton_kernels
except ImportError as error:
    pytest.skip(f"triton_kernels does not import here: {error}", allow_module_level=True)

if not triton_kernels.INTERPRETED:
    pytest.skip("the kernels are compiled on this machine, where a tile has another size", allow_module_level=True)

from properties.numerics import contract_for, evaluate
from tests.unit.kernel_cases import SMALL, judge
from tests.unit.references import CONVENTIONS, DTYPES, INF, largest, numbers, rows, to_torch

COLUMNS = 8
NAN = float("nan")
ROUNDS = 12


@pytest.fixture(params=["whole", "in tiles"])
def walked(request, monkeypatch):
    """Returns a function: rows of this dtype are held whole, or in tiles of COLUMNS; and checks that they were."""
    softmax, layer_norm = (sys.modules[f"impls.triton_kernels.{name}"] for name in ("softmax", "layer_norm"))
    seen = []

    def noting(module, name):
        tile = getattr(module, name)

        def noted(*args, **kwargs):
            held = tile(*args, **kwargs)
            columns = args[0].shape[1] if torch.is_tensor(args[0]) else args[1]
            seen.append(columns > held["BLOCK_COLUMNS"])
            return held
        monkeypatch.setattr(module, name, noted)

    noting(softmax, "tile")
    noting(layer_norm, "_tile")

    def walk(dtype):
        if request.param == "in tiles":
            n_bytes = COLUMNS * (8 if dtype == "float64" else 4)
            for module, constant in ((softmax, "TILE"), (layer_norm, "TILE"), (layer_norm, "BACKWARD_TILE")):
                monkeypatch.setattr(module, constant, n_bytes)

    yield walk
    assert any(seen) == (request.param == "in tiles")


def special(rng, dtype):
    """Rows of scores, among them rows of -inf, a NaN, an infinity and blocks of -inf."""
    x = rows(rng, dtype)
    n = x.shape[1]
    x = torch.cat([x, torch.full((1, n), -INF, dtype=x.dtype), x[:3].clone()])
    x[-1, rng.integers(n)], x[-2, rng.integers(n)] = NAN, INF
    x[-3, :COLUMNS] = -INF
    return x


def judged(operation, contract, results, **arguments):
    """Asserts that the results stay within their budgets."""
    given = {name: numbers(x) if x.dtype != torch.bool else x.numpy() for name, x in arguments.items()
             if torch.is_tensor(x)}
    given |= {name: x for name, x in arguments.items() if not torch.is_tensor(x)}
    exact = evaluate(operation, given, contract, CONVENTIONS)
    largest(results, exact, (operation, arguments))


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_and_its_parts(walked, dtype):
    walked(dtype)
    rng, contract = np.random.default_rng(5), contract_for("fused", dtype)
    for _ in range(ROUNDS):
        x = special(rng, dtype)
        judged("softmax", contract, [triton_kernels.softmax(x)], x=x)
        judged("log_sum_exp", contract, [triton_kernels.log_sum_exp(x)], x=x)
        keep = torch.from_numpy(rng.random(x.shape) < 0.6)
        keep[0], keep[1, :COLUMNS], keep[2, COLUMNS:] = False, False, False
        y = triton_kernels.masked_softmax(x, keep)
        assert not y[~keep].any()
        judged("masked_softmax", contract, [y], scores=x, keep=keep)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_backward(walked, dtype):
    walked(dtype)
    rng, contract = np.random.default_rng(6), contract_for("fused", dtype)
    for _ in range(ROUNDS):
        y = triton_kernels.softmax(rows(rng, dtype))
        dy = to_torch(rng.standard_normal(y.shape) * rng.choice([1e-6, 1, 100]) + rng.choice([0, 50]), dtype)
        y[-1], dy[-2, -1] = 0, NAN
        judged("softmax_backward", contract, [triton_kernels.softmax_backward(y, dy)], y=y, dy=dy)


def norm_inputs(rng, dtype):
    """x with constant rows, rows of small variance and a NaN; weight, bias, dy; eps."""
    n = int(rng.choice([1, 7, 8, 9, 33, 129]))
    x = rng.standard_normal((5, n)) * rng.choice([1e-20, 1e-3, 1, 100]) + rng.choice([0, 0, 10, 1000])
    x[1] = x[1, 0]
    x, weight, bias, dy = (to_torch(a, dtype) for a in (
        x, rng.standard_normal(n), rng.choice([0, 1, 10]) * rng.standard_normal(n), rng.standard_normal((5, n))))
    return x, weight, bias, dy, float(rng.choice([1e-5, 1e-3]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm(walked, dtype):
    walked(dtype)
    rng, contract = np.random.default_rng(7), contract_for("fused", dtype)
    for _ in range(ROUNDS):
        x, weight, bias, _, eps = norm_inputs(rng, dtype)
        x[3, -1] = NAN
        y = triton_kernels.layer_norm(x, weight, bias, eps)
        judged("layer_norm", contract, [y], x=x, weight=weight, bias=bias, eps=eps)


@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_backward(walked, dtype, nan):
    walked(dtype)
    rng, contract = np.random.default_rng(8), contract_for("fused", dtype)
    for _ in range(ROUNDS):
        x, weight, _, dy, eps = norm_inputs(rng, dtype)
        if nan:
            x[3, -1] = NAN
        gradients = triton_kernels.layer_norm_backward(x, weight, dy, eps)
        judged("layer_norm_backward", contract, gradients, x=x, weight=weight, dy=dy, eps=eps)


@pytest.mark.parametrize("n", [65_537, 100_000])
def test_rows_of_any_length_have_a_layer_norm(n):
    x, weight, dy = torch.randn(3, 2, n, generator=torch.Generator().manual_seed(0)).unbind()
    weight, contract = weight[0], contract_for("fused", "float32")
    y = triton_kernels.layer_norm(x, weight, weight)
    judged("layer_norm", contract, [y], x=x, weight=weight, bias=weight, eps=1e-5)
    gradients = triton_kernels.layer_norm_backward(x, weight, dy)
    judged("layer_norm_backward", contract, gradients, x=x, weight=weight, dy=dy, eps=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SMALL)
def test_cases_of_small_tiles(name, dtype):
    assert judge(triton_kernels, name, dtype) == ""
