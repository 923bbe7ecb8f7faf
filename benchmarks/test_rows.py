"""What is bound by memory, in TB/s: every operation on rows beside PyTorch's own and a copy of as many bytes.

Bytes: every argument read once and every result written once, which is what must be moved; an implementation that moves
more shows a lower rate. A copy is counted with what it reads and what it writes. bfloat16, normal random inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from impls import triton_kernels as kernels

from properties.operations import OPERATIONS

from . import judge
from .clock import floats
from .test_attention import OURS, right

SHAPES = ((131072, 1024), (32768, 4096), (16384, 8192), (2048, 65536))
P = 0.25


def copy_of(size: int, device: str) -> Callable:
    """A copy that moves `size` bytes: half of them read, half written."""
    x, y = (torch.randint(0, 127, (size // 2,), dtype=torch.int8, device=device) for _ in range(2))
    return lambda: y.copy_(x)


@dataclass(frozen=True)
class Rows:
    """An operation on rows: its arguments by name for (rows, columns), PyTorch's own, and which arguments have rows.

    `judged`: the results whose rows stand for themselves; the others sum over all rows, and are judged by the claims.
    rope's rows are positions, and it gets one head for every 256 of them.
    """

    arguments: Callable[..., dict]
    peer: Callable[..., object]
    by_row: tuple[str, ...] = ("x",)
    judged: tuple[str, ...] | None = None
    shapes: tuple[tuple[int, int], ...] = SHAPES


def _layer_norm_backward(x, weight, dy):
    leaves = [t.detach().requires_grad_() for t in (x, weight, torch.zeros_like(weight))]
    y = F.layer_norm(leaves[0], x.shape[-1:], *leaves[1:])
    return lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True)


def _angles(positions, dim):
    inverse = 10000.0 ** (-torch.arange(0, dim, 2, device=positions.device).float() / dim)
    angles = positions[:, None].float() * inverse
    return angles.cos().to(torch.bfloat16), angles.sin().to(torch.bfloat16)


def _rope(x, positions):
    cos, sin = _angles(positions, x.shape[-1])

    def call():
        first, second = x.chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    return call


ROWS = {
    "softmax": Rows(lambda new, n, m: {"x": new(n, m)}, lambda x: lambda: F.softmax(x, -1)),
    "softmax_backward": Rows(
        lambda new, n, m: {"y": F.softmax(new(n, m), -1), "dy": new(n, m)},
        lambda y, dy: lambda: torch.ops.aten._softmax_backward_data(dy, y, -1, y.dtype), ("y", "dy")),
    "log_sum_exp": Rows(lambda new, n, m: {"x": new(n, m)}, lambda x: lambda: torch.logsumexp(x, -1),
                        shapes=SHAPES[1:3]),
    "layer_norm": Rows(lambda new, n, m: {"x": new(n, m), "weight": new(m), "bias": new(m)},
                       lambda x, weight, bias: lambda: F.layer_norm(x, x.shape[-1:], weight, bias)),
    "layer_norm_backward": Rows(
        lambda new, n, m: {"x": new(n, m), "weight": new(m), "dy": new(n, m)}, _layer_norm_backward, ("x", "dy"),
        ("dx",), SHAPES[:3]),
    "gelu": Rows(lambda new, n, m: {"x": new(n, m)}, lambda x: lambda: F.gelu(x), shapes=SHAPES[2:3]),
    "dropout": Rows(lambda new, n, m: {"x": new(n, m), "p": P, "seed": 1},
                    lambda x, p, seed: lambda: torch.ops.aten.native_dropout(x, p, True), shapes=SHAPES[2:3]),
    "rope": Rows(lambda new, n, m: {"x": new(1, max(n // 256, 1), n, m), "positions": None}, _rope,
                 shapes=((16384, 128),)),
}


def arguments_of(operation, rows, columns, device):
    """The arguments of one case, on the device."""
    generator = torch.Generator(device).manual_seed(columns)

    def new(*shape):
        return torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
    given = ROWS[operation].arguments(new, rows, columns)
    if operation == "rope":
        given["positions"] = torch.arange(given["x"].shape[2], device=device)
    return given


def check_of(operation, given):
    """Budget used by every contender's sampled rows."""
    about, names = ROWS[operation], [name.rstrip("+?") for name in OPERATIONS[operation].returns]

    def check(done):
        used = {}
        for name, result in done.results.items():
            if name == "copy":
                continue
            results = dict(zip(names, result if isinstance(result, tuple) else (result,)))
            results = {key: results[key] for key in about.judged or results}
            if operation == "rope":
                rows = judge.sampled(given["x"].shape[2]).to(given["x"].device)
                one = {"x": given["x"][:, :1, rows], "positions": given["positions"][rows]}
                results = {"y": results["y"][:, :1, rows]}
            else:
                rows = judge.sampled(given[about.by_row[0]].shape[0]).to(given[about.by_row[0]].device)
                one = {key: x[rows] if key in about.by_row else x for key, x in given.items()}
                results = {key: x[rows] for key, x in results.items()}
            dtype = next(x for x in given.values() if isinstance(x, torch.Tensor)).dtype
            used[name] = {"budget_used": judge.used(operation, one, results, dtype=dtype)}
        return used
    return check


@pytest.mark.parametrize(("operation", "rows", "columns"), [
    pytest.param(operation, *shape, id=f"{operation}-{shape[0]}x{shape[1]}")
    for operation, about in ROWS.items() for shape in about.shapes])
def test_rows(operation, rows, columns, device, small, race):
    rows, columns = (max(rows // 2048, 8), columns // 64) if small else (rows, columns)
    given = arguments_of(operation, rows, columns, device)
    ours = lambda: getattr(kernels, operation)(**given)  # noqa: E731
    produced = ours()
    size = sum(x.nbytes for x in (*given.values(), *(produced if isinstance(produced, tuple) else (produced,)))
               if isinstance(x, torch.Tensor))
    calls = {"PyTorch": ROWS[operation].peer(**given), "copy": copy_of(size, device), OURS: ours}
    shape = next(x for x in given.values() if isinstance(x, torch.Tensor)).shape
    kept = race(group=operation, case={"shape": list(shape), "dtype": "bfloat16"}, unit="TB/s", work=size,
                contenders=calls, check=check_of(operation, given), seconds=0.3)
    assert floats(produced) and right(kept) <= 1
