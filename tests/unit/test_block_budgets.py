"""Right projections, positions, linear attention and GELU stay within their budgets."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from properties.numerics import contract_for, evaluate
from tests.unit.references import CONVENTIONS, DTYPES, INF, largest, numbers, textbook, to_torch, wide


def judged(operation, dtype, arguments, *results, conventions=CONVENTIONS, preset="fused"):
    """The largest share of a budget over several right results of one operation."""
    received = {
        name: numbers(x) if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for name, x in arguments.items()
    }
    exact = evaluate(operation, received, contract_for(preset, dtype), conventions)
    return max(largest(result, exact, (operation, dtype)) for result in results)


def multi_head(x_q, x_kv, wq, wk, wv, wo, heads, kv_heads, causal, store):
    q, k, v = (store(wide(x) @ wide(w)).unflatten(-1, (n, -1)).transpose(1, 2)
               for x, w, n in ((x_q, wq, heads), (x_kv, wk, kv_heads), (x_kv, wv, kv_heads)))
    k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
    lq, lk = q.shape[2], k.shape[2]
    bias = torch.where(torch.ones(lq, lk).tril(lk - lq) > 0, 0.0, -INF) if causal else None
    out = textbook(q, k, v, q.shape[-1] ** -0.5, bias)[0].transpose(1, 2).flatten(2)
    return (wide(store(out)) @ wide(wo)).to(x_q.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_multi_head_attention(dtype):
    rng, worst = np.random.default_rng(0), 0.0
    for i in range(60):
        heads, kv_heads = ((1, 1), (2, 2), (6, 2), (3, 1))[i % 4]
        width, size = int(rng.choice([1, 8, 33])), float(rng.choice([0.1, 1, 3]))
        shapes = (
            (2, 3, width),
            (2, 5, 7),
            (width, 4 * heads),
            (7, 4 * kv_heads),
            (7, 4 * kv_heads),
            (4 * heads, width),
        )
        tensors = [to_torch(size * rng.standard_normal(shape), dtype) for shape in shapes]
        results = [
            [multi_head(*tensors, heads, kv_heads, i % 3 == 0, store)]
            for store in (lambda x: x, lambda x: x.to(tensors[0].dtype))
        ]
        arguments = dict(zip(("x_q", "x_kv", "wq", "wk", "wv", "wo"), tensors))
        worst = max(worst, judged("multi_head_attention", dtype, arguments | dict(n_heads=heads, n_kv_heads=kv_heads,
                                                                               causal=i % 3 == 0, mask=None), *results))
    assert 0 < worst < 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_attention(dtype):
    rng, worst = np.random.default_rng(0), 0.0
    for i in range(100):
        lq, lk = ((3, 5), (4, 4), (1, 33), (2, 1))[i % 4]
        q, k, v = (to_torch(rng.choice([0.1, 1, 6]) * rng.standard_normal((1, 2, n, 4)), dtype) for n in (lq, lk, lk))
        keep = torch.ones(lq, lk).tril(lk - lq) if i % 2 else torch.ones(lq, lk)
        stable = [torch.where(wide(x) > 0, wide(x) + 1, torch.exp(wide(x).clamp(max=0))) for x in (q, k)]
        shifted = [F.elu(wide(x)) + 1 for x in (q, k)]
        results = []
        for a, b in (stable, shifted):
            weights = (a @ b.transpose(-1, -2)) * keep
            total = weights.sum(-1, keepdim=True)
            results.append([((weights @ wide(v)) / torch.where(total == 0, 1.0, total)).to(q.dtype)])
        state = torch.einsum("bhnd,bhne->bhde", stable[1], wide(v))
        if not i % 2:
            results.append([((stable[0] @ state) / (stable[0] @ stable[1].sum(2)[..., None])).to(q.dtype)])
        worst = max(worst, judged("linear_attention", dtype, dict(q=q, k=k, v=v, causal=bool(i % 2)), *results))
    assert 0 < worst < 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_backward(dtype):
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(100):
        n = int(rng.choice([2, 7, 33, 257]))
        x, w, dy = (
            to_torch(y, dtype)
            for y in (
                rng.choice([1e-3, 1, 100]) * rng.standard_normal((2, 5, n)) + rng.choice([0, 10]),
                rng.standard_normal(n),
                rng.standard_normal((2, 5, n)),
            )
        )
        leaves = [wide(y).clone().requires_grad_() for y in (x, w, torch.zeros_like(w))]
        F.layer_norm(leaves[0], (n,), leaves[1], leaves[2], 1e-5).backward(wide(dy))
        centred = wide(x) - wide(x).mean(-1, keepdim=True)
        rstd = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + 1e-5)
        x_hat, g = centred * rstd, wide(dy) * wide(w)
        dx = rstd * (g - g.mean(-1, keepdim=True) - x_hat * (g * x_hat).mean(-1, keepdim=True))
        by_hand = [dx.to(x.dtype), (wide(dy) * x_hat).sum((0, 1)).to(x.dtype), wide(dy).sum((0, 1)).to(x.dtype)]
        own = [leaf.grad.to(x.dtype) for leaf in leaves]
        worst = max(worst, judged("layer_norm_backward", dtype, dict(x=x, weight=w, dy=dy, eps=1e-5), by_hand, own))
    assert 0 < worst < 1


@pytest.mark.parametrize("style", ["half", "interleaved"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rope(dtype, style):
    rng, worst = np.random.default_rng(0), 0.0
    for d in (2, 8, 64):
        x, positions = to_torch(rng.standard_normal((2, 3, 5, d)), dtype), torch.tensor([0, 1, 17, 4095, 100_000])
        results = []
        for kind, store in (
            (torch.float64, wide),
            (wide(x).dtype, wide),
            (wide(x).dtype, lambda y: wide(y.to(x.dtype))),
        ):
            angle = positions.to(kind)[:, None] * 10000.0 ** (-torch.arange(0, d, 2, dtype=kind) / d)
            cos, sin = store(angle.cos().to(wide(x).dtype)), store(angle.sin().to(wide(x).dtype))
            a, b = wide(x).chunk(2, -1) if style == "half" else (wide(x)[..., 0::2], wide(x)[..., 1::2])
            pair = a * cos - b * sin, b * cos + a * sin
            y = torch.cat(pair, -1) if style == "half" else torch.stack(pair, -1).flatten(-2)
            results.append([y.to(x.dtype)])
        arguments = dict(x=x, positions=positions.numpy(), base=10000.0)
        worst = max(worst, judged("rope", dtype, arguments, *results, conventions=CONVENTIONS | {"rope": style}))
    assert 0 < worst < 1


def test_sinusoidal_positions():
    position, worst = torch.arange(300)[:, None], 0.0
    for dtype in DTYPES[:2]:
        for d in (1, 5, 64):
            kind = getattr(torch, dtype)
            angle = position.to(kind) * torch.exp(
                -torch.log(torch.tensor(10000.0, dtype=kind)) * (torch.arange(d) // 2 * 2) / d
            )
            table = torch.where(torch.arange(d) % 2 == 0, angle.sin(), angle.cos())
            worst = max(worst, judged("sinusoidal_positions", dtype, dict(length=300, d=d), [table]))
    assert 0 < worst < 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu(dtype):
    x = to_torch(np.concatenate([np.linspace(-12, 12, 4001), [1e-30, -1e-30, 1e4, -1e4, 0]]), dtype)
    half = 0.5 * wide(x) * (1 + torch.erf(wide(x) / 2**0.5))
    tail = 0.5 * wide(x) * torch.erfc(-wide(x) * 0.5**0.5)
    assert 0 < judged("gelu", dtype, {"x": x}, [F.gelu(x)], [half.to(x.dtype)], [tail.to(x.dtype)]) < 1
